//! Outputs that no task of this program is trained on: what they are, how they are told, and what to do about them.
//!
//! A task that is added takes its row out of this table.

use super::super::walk::ValueRef;
use super::super::{Ending, Squash, ending};
use super::Task;
use super::evidence::{Feeds, View};
use crate::ir::{Dim, ValueId};

/// Something that an output can be instead of scores of classes.
pub(super) struct Other {
    /// What the model was made for, for people.
    pub(super) what: &'static str,
    /// Why it is taken for that; `None` where it is not.
    pub(super) evidence: fn(&View<'_>) -> Option<String>,
    /// Whether nobody can mean anything else: `--task` does not change what the numbers are.
    pub(super) is_certain: bool,
    /// What to do, where `--num-labels` is not all there is.
    pub(super) hint: &'static str,
    /// The tasks that such a model is trained for, where somebody names one.
    pub(super) tasks: &'static [Task],
}

/// What to do where there are no logits, and yet numbers that can be learnt.
const NUMBERS: &str = "export the model so that it gives its logits; with `task regression` the numbers themselves are learnt";

/// The decoder of a model that was exported in several files.
pub(super) const DECODER_ALONE: Other = Other {
    what: "the decoder of an encoder-decoder, alone",
    evidence: |view| super::super::split::evidence(view.graph, view.anatomy),
    is_certain: true,
    hint: "`peft-onnx inject` and `peft-onnx generate` take the folder of encoder and decoder, or the encoder's file with `part encoder_model.onnx`; \
           or export both as one graph: `optimum-cli export onnx --monolith`",
    tasks: &[],
};

/// The names of axes and numbers of classes are compared before any name is.
pub(super) const OTHERS: &[Other] = &[
    DECODER_ALONE,
    Other {
        what: "question answering",
        evidence: |view| {
            let by_name =
                view.starts_and_ends().map(|(a, b)| format!("{a} and {b} are scores of positions, where an answer starts and ends"));
            by_name
                .or_else(|| declared(view, &["ForQuestionAnswering"]))
                .or_else(|| (view.module() == Some("qa_outputs")).then(|| "its head is called qa_outputs".to_owned()))
        },
        is_certain: false,
        hint: "",
        tasks: &[Task::Qa],
    },
    Other {
        what: "the detection of objects",
        evidence: |view| {
            let by_name = view.output_with(&["box"]).map(|name| format!("{name} are places of objects, beside scores of their classes"));
            by_name.or_else(|| declared(view, &["ForObjectDetection", "ForZeroShotObjectDetection"]))
        },
        is_certain: false,
        hint: "",
        tasks: &[],
    },
    Other {
        what: "places or other numbers (a regression)",
        evidence: |view| {
            let is_row = rank(view) == Some(2) && !view.is_named_logits();
            let by_name =
                ["landmark", "keypoint", "coord", "regress"].into_iter().find(|word| view.output().contains(word)).map(|_| view.output());
            let by_module = || view.module().filter(|module| module.contains("regress"));
            let name = by_name.map(|name| format!("{name} are numbers, not scores of classes"));
            name.or_else(|| by_module().map(|module| format!("its head is called {module}"))).filter(|_| is_row)
        },
        is_certain: false,
        hint: "",
        tasks: &[Task::Regression],
    },
    Other {
        what: "segmentation or another map",
        evidence: |view| {
            let by_name =
                view.output_with(&["mask", "segment", "depth", "heatmap", "keypoint"]).map(|name| format!("{name} is a map over places"));
            let rank = |view: &View<'_>| {
                let first = view.graph.outputs().first().filter(|_| view.head().is_none())?;
                let fact = view.graph.fact(*first);
                (fact.rank()? >= 4).then(|| format!("{} is {fact}: a map over places", view.graph.value_name(*first)))
            };
            let of_class = || {
                declared(
                    view,
                    &["Segmentation", "ForDepthEstimation", "ForMaskedImageModeling", "ForKeypointDetection", "ForPoseEstimation"],
                )
            };
            by_name.or_else(|| rank(view)).or_else(of_class)
        },
        is_certain: false,
        hint: "",
        tasks: &[],
    },
    Other {
        what: "maps of attention",
        evidence: |view| {
            let name = view.output();
            ["attention", "attn"].iter().any(|word| name.contains(word)).then(|| format!("the output is called {name}"))
        },
        is_certain: false,
        hint: "",
        tasks: &[],
    },
    Other {
        what: "similarity of pairs",
        evidence: |view| view.output_with(&["logits_per_", "similarit"]).map(|name| format!("{name} compares every row with every other")),
        is_certain: false,
        hint: "",
        tasks: &[],
    },
    Other {
        what: "speech recognition (CTC)",
        evidence: |view| {
            let of_class = declared(view, &["ForCTC", "ForAudioFrameClassification"]);
            let frames = || {
                (matches!(view.feeds, Feeds::Sound | Feeds::Signal) && rank(view) == Some(3))
                    .then(|| format!("{} has scores for frames of a signal", view.output()))
            };
            let has_decoder = view.anatomy.inputs.decoder_input_ids.is_some();
            of_class.or_else(frames).filter(|_| !has_decoder && !view.declared.is("ForCTC"))
        },
        is_certain: false,
        hint: "",
        tasks: &[Task::Ctc],
    },
    Other {
        what: "scores of patches",
        evidence: |view| {
            (view.feeds == Feeds::Image && rank(view) == Some(3) && view.anatomy.inputs.decoder_input_ids.is_none())
                .then(|| format!("{} has scores at many places of an image, not for the image", view.output()))
        },
        is_certain: false,
        hint: "",
        tasks: &[],
    },
    Other {
        what: "vectors",
        evidence: |view| {
            const WORDS: &[&str] = &["embed", "pooler", "pooled", "hidden", "feature", "vector", "represent", "encod"];
            const SHORT: &[&str] = &["emb", "embs", "vec", "vecs", "repr", "latent", "latents"];
            let name = view.output();
            let by_class = view.class_of_vectors().map(|class| format!("config.json beside the model says {class}, which gives vectors"));
            if view.is_named_logits() {
                return by_class;
            }
            let is_called =
                WORDS.iter().any(|word| name.contains(word)) || name.split(|c: char| !c.is_alphabetic()).any(|word| SHORT.contains(&word));
            let by_name = is_called.then(|| format!("{name} is a representation, not scores of classes"));
            let by_folder = || {
                view.declared
                    .pools_sentences
                    .then(|| "modules.json beside the model says that sentence-transformers reads vectors of it".to_owned())
            };
            by_name.or_else(by_folder).or(by_class).or_else(|| match &view.head()?.ending {
                Ending::Vector(node) => {
                    Some(format!("{name} ends in {node}, an activation or normalisation as inside a network, not in scores of classes"))
                }
                Ending::Scores | Ending::Probabilities(_) => None,
            })
        },
        is_certain: false,
        hint: "",
        tasks: &[Task::Embedding],
    },
    Other {
        what: "one number for each row (a regression, or a reranker)",
        evidence: |view| {
            let head = view.head()?;
            let name = view.graph.value_name(head.output);
            let is_one = head.classes == Some(1)
                || view.axes().is_some_and(|axes| axes.last().is_some_and(|last| last.as_known() == Some(1)) && axes_end_in_classes(view));
            let by_graph = is_one.then(|| format!("{name} has one score, and a cross-entropy over one class is always 0"));
            by_graph.or_else(|| (rank(view) == Some(1)).then(|| format!("{name} has one number for each row")))
        },
        is_certain: true,
        hint: "",
        tasks: &[Task::Regression, Task::Rerank, Task::Reward],
    },
    Other {
        what: "probabilities over something else than classes",
        evidence: |view| {
            let (name, node) = made_by(view, Squash::SoftmaxElsewhere)?;
            Some(format!("{name} ({node}) is a softmax over an axis that is not the last one of its scores"))
        },
        is_certain: true,
        hint: "export the model so that it gives its logits",
        tasks: &[],
    },
    Other {
        what: "probabilities over something else than classes",
        evidence: |view| {
            let (name, node) = made_by(view, Squash::Mixed)?;
            Some(format!(
                "{name} are probabilities of several predictions together, or changed after they were made ({node}): there are no logits behind them"
            ))
        },
        is_certain: true,
        hint: NUMBERS,
        tasks: &[Task::Regression, Task::Rerank],
    },
    Other {
        what: "numbers from 0 to 1",
        evidence: |view| {
            let (name, node) = made_by(view, Squash::Bounded)?;
            Some(format!(
                "all numbers of {name} lie from 0 to 1 ({node}), which a cross-entropy would take for logits, and there are no logits behind them"
            ))
        },
        is_certain: true,
        hint: NUMBERS,
        tasks: &[Task::Regression, Task::Rerank],
    },
    Other {
        what: "labels of which any number may be true",
        evidence: |view| {
            let by_graph = match &view.head()?.ending {
                Ending::Probabilities(made) if made.squash == Squash::Sigmoid => Some(format!(
                    "{} are probabilities of a sigmoid ({}), each for itself",
                    view.graph.value_name(view.head()?.output),
                    made.node
                )),
                _ => None,
            };
            by_graph.or_else(|| problem_type(view, "multi_label_classification"))
        },
        is_certain: false,
        hint: "",
        tasks: &[Task::MultiLabel],
    },
    Other {
        what: "a regression",
        evidence: |view| {
            let one = || {
                (view.declared.num_labels == Some(1) && !predicts_tokens(view)).then(|| "config.json says that it has 1 label".to_owned())
            };
            problem_type(view, "regression").or_else(one)
        },
        is_certain: false,
        hint: "",
        tasks: &[Task::Regression, Task::Rerank, Task::Reward],
    },
    Other {
        what: "a choice among several texts",
        evidence: |view| declared(view, &["ForMultipleChoice"]),
        is_certain: false,
        hint: "",
        tasks: &[],
    },
    Other {
        what: "several classifiers",
        evidence: |view| {
            let head = view.head()?;
            let names: Vec<&str> = other_heads(view).map(|id| view.graph.value_name(id)).collect();
            let own = view.graph.value_name(head.output);
            (!names.is_empty()).then(|| format!("{own} and {} come from heads of their own, and a loss is of one", names.join(", ")))
        },
        is_certain: true,
        hint: "export the model with the output alone that is to be trained, or write what is meant into a graph: `loss_graph FILE`",
        tasks: &[],
    },
    Other {
        what: "scores of all tokens in one list",
        evidence: |view| {
            let (head, axes) = (view.head()?, view.axes()?);
            let [batch, tokens] = view.graph.fact(view.anatomy.inputs.main?).shape.as_deref()? else { return None };
            let [rows, _] = &axes[..] else { return None };
            let has = |axis: &Dim| axis.names().iter().any(|name| rows.names().contains(name));
            let is_of_tokens = has(tokens) && (has(batch) || batch.as_known().is_some());
            is_of_tokens.then(|| format!("{} has {rows} rows: one for each token of all texts", view.graph.value_name(head.output)))
        },
        is_certain: true,
        hint: "export the model so that it gives [batch, seq, classes]",
        tasks: &[],
    },
    Other {
        what: "scores of positions",
        evidence: |view| {
            let (head, axes) = (view.head()?, view.axes()?);
            let (classes, last) = (head.classes?, axes.last()?);
            // One number for each row has no axis of classes.
            let is_of_rows = classes == 1 && axes.len() == 1;
            let differs = !is_of_rows && last.as_known().map_or(!last.names().is_empty() && axes.len() < 4, |length| length != classes);
            differs.then(|| {
                format!(
                    "the last axis of {} ({last}) is not that of the {classes} scores of its last projection",
                    view.graph.value_name(head.output)
                )
            })
        },
        is_certain: true,
        hint: "",
        tasks: &[Task::Qa],
    },
];

/// The output whose numbers were made of scores in a way, and the node that made them.
fn made_by<'v>(view: &'v View<'_>, squash: Squash) -> Option<(&'v str, &'v str)> {
    let head = view.head()?;
    match &head.ending {
        Ending::Probabilities(made) if made.squash == squash => Some((view.graph.value_name(head.output), made.node.as_str())),
        _ => None,
    }
}

fn rank(view: &View<'_>) -> Option<usize> {
    view.axes().map(|axes| axes.len())
}

/// Whether the last axis is that of classes as far as the projection tells.
fn axes_end_in_classes(view: &View<'_>) -> bool {
    view.head().is_some_and(|head| head.classes.is_none_or(|classes| classes == 1))
}

fn predicts_tokens(view: &View<'_>) -> bool {
    view.head().is_some_and(|head| super::predicts_vocabulary(view.anatomy, head))
}

fn declared(view: &View<'_>, endings: &[&str]) -> Option<String> {
    let found = endings.iter().any(|ending| view.declared.is(ending));
    found.then(|| format!("config.json beside the model says {}", view.declared.architecture.as_deref().unwrap_or_default()))
}

fn problem_type(view: &View<'_>, wanted: &str) -> Option<String> {
    let is_it = view.declared.problem_type.as_deref() == Some(wanted) && !predicts_tokens(view);
    is_it.then(|| format!("config.json beside the model says problem_type {wanted}"))
}

/// Outputs beside the head's that are scores of classes too, or probabilities of such: of the same axes where some output is called logits.
fn other_heads<'v>(view: &'v View<'_>) -> impl Iterator<Item = ValueId> + 'v {
    let (graph, anatomy) = (view.graph, view.anatomy);
    let outputs = graph.outputs();
    let is_called = |id: &ValueId, is: fn(&str) -> bool| is(&super::super::head::plain(graph.value_name(*id)));
    let is_told = outputs.iter().any(|id| is_called(id, |name| name == "logits"));
    let is_called_so = outputs.iter().any(|id| is_called(id, |name| name.ends_with("logits")));
    let own = view.head().map(|head| (head.output, head.logits, head.projection));
    let rank = |id: ValueId| graph.fact(id).rank();
    let scores = move |id: ValueId| {
        let scores = ValueRef::new(graph, ending::behind(graph, id).scores);
        scores.behind(&["Identity", "Cast", "Reshape", "Squeeze"]).id()
    };
    let is_head = move |id: ValueId| {
        let (output, logits, projection) = own?;
        let other = anatomy.projections.iter().position(|other| other.output == scores(id))?;
        let is_another = id != output && id != logits && scores(id) != logits && Some(other) != projection;
        let classes = anatomy.projections[other].out_features;
        (is_another && classes > 1 && (!is_called_so || rank(id) == rank(output))).then_some(id)
    };
    outputs.iter().copied().filter(move |_| !is_told).filter_map(is_head)
}
