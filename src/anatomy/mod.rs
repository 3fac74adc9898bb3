//! Finds the parts of a transformer in a graph: what a method can attach to, under the names that Hugging Face gives them.
//!
//! Everything is found from structure and from the names that an exporter left; nothing from a list of known models. What is not
//! found is not an error but a [`Miss`], which says where the search stopped and what it wanted.

mod alike;
mod apart;
mod attention;
mod cache;
mod causal;
mod copies;
mod cosines;
mod embedding;
mod ending;
mod feeding;
mod fixed;
mod flow;
mod found;
mod fused;
mod head;
mod heads;
mod images;
mod input_role;
mod inputs;
mod last_position;
mod linear;
mod lists;
mod names;
mod parameters;
mod parts;
mod pictures;
mod positions;
mod projections;
mod range;
mod roles;
mod scores;
mod shaped;
mod split;
mod stored;
mod task;
mod walk;
mod whole;

pub use apart::apart;
pub use ending::{Probabilities, Squash, scores_of};
pub use feeding::{Feeding, Padding, SEGMENTS, feeding};
pub use found::{
    Anatomy, Attention, Axis, CachePart, CacheSlot, Embedding, Ending, Head, Heads, Inputs, Layout, Mask, Masking, Parameter, PositionUse,
    Projection, Scaling, Sight, Weight,
};
pub use images::image_size;
pub use input_role::{MaskForm, Role};
pub use pictures::{PictureTokens, without as without_pictures};
pub use range::{Bounds, bounds};
pub use split::evidence as missing_encoder;
pub use task::{Decision, Declared, Feeds, Guess, Instead, Modality, Reads, Row, TASKS, Task, check_writes, decide, guess, meant};
pub use walk::Miss;
pub use whole::Front;

use std::collections::BTreeMap;

use crate::ir::{Graph, ValueId};

use attention::AttentionSite;
use causal::Causal;
use embedding::Table;
use flow::{Flow, Source};
use linear::Linear;

/// Finds the parts of a transformer. Never fails: what is not found is missing from the answer, and said in [`Anatomy::misses`].
///
/// Takes time linear in the number of nodes; looks at weights only to compare a few elements of the head with the token embedding.
#[must_use]
pub fn read(graph: &Graph) -> Anatomy {
    let (linears, mut misses) = linear::find(graph);
    let linears = parts::split(graph, linears);
    let tables = embedding::find(graph);
    let hints = projections::Hints::gather(graph, &linears, &tables);
    let (sites, not_attentions) = attention::find(graph);
    misses.extend(not_attentions);
    let flow = Flow::follow(graph, &sources(&linears, &tables, &sites));
    let causal = Causal::find(graph);

    let mut attentions: Vec<Attention> = sites.iter().map(|site| site.read(graph, &flow, &causal)).collect();
    attention::connect(graph, &mut attentions, &linears, &flow);
    let embeddings = hints.embeddings(graph, &tables);
    let mut modules = hints.modules(graph, &linears);
    roles::name_of_one_call(&mut modules, &attentions);
    let known = hints.known(graph, &modules, &embeddings);
    let head = match head::find(graph, &flow, &linears) {
        Ok(head) => Some(head),
        Err(miss) => {
            misses.push(miss);
            None
        }
    };
    let context = roles::Evidence {
        graph,
        linears: &linears,
        attentions: &attentions,
        flow: &flow,
        known: &known,
        head: head.as_ref().and_then(|h| h.projection),
        named: modules.clone(),
        namer: &hints.namer,
    };
    roles::fill(&mut modules, &context, &mut misses);
    let projections = hints.projections(graph, linears, modules);
    attention::name(&mut attentions, &projections);

    let cache = cache::find(graph, &attentions);
    let classes = head.as_ref().and_then(|head| head.projection).map(|at| projections[at].out_features);
    let inputs::FoundInputs { inputs, token_embedding, max_positions } =
        inputs::find(graph, &embeddings, &attentions, &cache, &causal, classes);
    let head = head.map(|head| head.complete(graph, &projections, token_embedding.map(|at| &embeddings[at])));
    let parameters = parameters::find(graph, &projections, &embeddings, &hints.namer);
    let positions = positions::find(graph, &causal, token_embedding.map(|at| &embeddings[at]));
    let anatomy = Anatomy {
        projections,
        embeddings,
        attentions,
        token_embedding,
        head,
        parameters,
        cache,
        inputs,
        max_positions,
        positions,
        task: Guess::default(),
        wrapper: hints.namer.wrapper().to_owned(),
        skipped: hints.namer.missing().clone(),
        misses,
    };
    let task = task::guess(graph, &anatomy, &Declared::default());
    let misses = anatomy.misses.iter().cloned().chain(gaps(graph, &anatomy)).collect();
    Anatomy { task, misses, ..anatomy }
}

/// What is not in the answer and most models have.
fn gaps(graph: &Graph, anatomy: &Anatomy) -> Vec<Miss> {
    let at_outputs = || graph.outputs().first().map_or("the outputs", |&id| graph.value_name(id)).to_owned();
    let at_inputs = || graph.data_inputs().next().map_or("the inputs", |id| graph.value_name(id)).to_owned();
    let ends = [
        anatomy.inputs.main.is_none().then(|| Miss { at: at_inputs(), wanted: "an input of tokens or pixels".into() }),
        anatomy
            .head
            .as_ref()
            .and_then(|head| head.projection)
            .is_none()
            .then(|| Miss { at: at_outputs(), wanted: "a head: an output that comes from one last projection".into() }),
        anatomy.attentions.is_empty().then(|| Miss { at: at_outputs(), wanted: "attentions on the way".into() }),
    ];
    let projections = anatomy.attentions.iter().flat_map(|attention| {
        let parts = [(attention.q, "queries"), (attention.k, "keys"), (attention.v, "values"), (attention.o, "the joined heads")];
        let missing = parts.into_iter().filter(|(found, _)| found.is_none());
        missing.map(|(_, part)| Miss { at: graph.value_name(attention.output).to_owned(), wanted: format!("one projection of {part}") })
    });
    ends.into_iter().flatten().chain(projections).collect()
}

/// The outputs that are followed through the graph.
fn sources(linears: &[Linear], tables: &[Table], sites: &[AttentionSite<'_>]) -> BTreeMap<ValueId, Source> {
    let linears = linears.iter().enumerate().map(|(at, linear)| (linear.y, Source::Projection(at)));
    let tables = tables.iter().enumerate().map(|(at, table)| (table.output, Source::Table(at)));
    let sites = sites.iter().enumerate().map(|(at, site)| (site.output, Source::Attention(at)));
    linears.chain(tables).chain(sites).collect()
}
