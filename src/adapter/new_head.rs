//! A new head on a body: pooling, linear layers, logits.
//!
//! ```text
//! hidden states [batch, seq, width] → pooled [batch, width] → classifier.0 → Relu → classifier.2 → .. → logits [batch, labels]
//! ```
//!
//! The head is written into the base before anything else happens, with the values it starts from as constants. So it is a module like others:
//! methods train and save it as a whole (`modules_to_save`), merging puts the trained parameters in place.

mod channels;
mod features;

use crate::Result;
use crate::adapter::config::{HeadModules, NewHead, Pooling};
use crate::adapter::params::{
    budget::{self, wide},
    init,
};
use crate::anatomy::{Anatomy, MaskForm};
use crate::ir::{Builder, DType, Expr, Graph, Tensor, ValueId};

pub use features::{Features, token_states};

/// The output that the head gives.
pub const LOGITS: &str = "logits";

/// Puts a settled head on a graph, in place of its outputs but those of a cache. `graph` has the features' value.
///
/// # Errors
/// A graph that cannot be written on; a head beyond all proportion to it.
pub fn put(graph: &Graph, anatomy: &Anatomy, features: &Features, head: &NewHead, seed: u64) -> Result<Graph> {
    let b = Builder::on(graph);
    b.assume(features.value(), features.fact().clone());
    let hidden = features.rows(&b).cast(DType::F32);
    let mask = anatomy.inputs.attention_mask.filter(|&mask| b.fact(mask).rank() == Some(2)).map(|mask| b.expr(mask));
    let is_usual = anatomy.inputs.mask_form == MaskForm::Seen;
    let mask = mask.map(|mask| if is_usual { mask } else { b.scoped("pooling", || seen(mask)) });
    let pooled = b.scoped("pooling", || pooled(hidden, mask, features.pooling()));
    let presents: Vec<ValueId> = anatomy.cache.iter().filter_map(|slot| slot.present).collect();
    b.clear_outputs();
    let widths = features.widths(head);
    budget::check(widths.windows(2).map(|pair| wide(pair[0]) * wide(pair[1])).sum(), anatomy)?;
    let modules = head.modules.clone().unwrap_or_else(|| HeadModules::usual(head.layers.len()));
    let layers = widths.windows(2).zip(modules.names).map(|(pair, module)| HeadLayer {
        path: anatomy.wrapper.clone() + &module,
        module,
        inner: pair[0],
        outer: pair[1],
        bias: modules.bias,
    });
    let logits = layers.enumerate().fold(pooled, |x, (at, layer)| {
        let x = if at == 0 { x } else { b.scoped(&layer.path, || b.op("Relu", &[x], &[])) };
        layer.write(&b, x, seed)
    });
    b.output(LOGITS, logits);
    for present in presents {
        b.output(&b.name(present), b.expr(present));
    }
    b.finish()
}

struct HeadLayer {
    module: String,
    /// The module's path in the graph, with what wraps all others.
    path: String,
    inner: usize,
    outer: usize,
    bias: bool,
}

impl HeadLayer {
    /// `x · W + b`, starting as PyTorch's `Linear` does (uniform in `±1/√in`), but with a bias of zero.
    fn write<'g>(&self, b: &'g Builder, x: Expr<'g>, seed: u64) -> Expr<'g> {
        let mut random = init::generator(seed, &format!("{}.weight", self.module));
        let weight = init::uniform(&mut random, &[self.inner, self.outer], 1.0 / init::to_f32(self.inner).sqrt());
        // A name that ends in `.weight` alone would say that PyTorch stores it in this order.
        let weight = b.initializer(&format!("{}.MatMul.weight", self.path), weight);
        let zeros = || Tensor::from_f32(&[self.outer], &vec![0.0; self.outer]);
        let bias = self.bias.then(|| b.initializer(&format!("{}.MatMul.bias", self.path), zeros()));
        b.scoped(&self.path, || bias.map_or(x.matmul(weight), |bias| x.matmul(weight) + bias))
    }
}

/// 1 where a mask that hides by other numbers than 0 hides nothing.
fn seen(mask: Expr<'_>) -> Expr<'_> {
    mask.equal(mask.zeros_like()).cast(DType::I64)
}

/// `[batch, width]` of `[batch, seq, width]`, over the tokens that a mask `[batch, seq]` shows.
#[must_use]
pub fn pooled<'g>(hidden: Expr<'g>, mask: Option<Expr<'g>>, pooling: Pooling) -> Expr<'g> {
    let b = hidden.b();
    let shares = |of_positions: Expr<'g>| of_positions.unsqueeze(&[1]).matmul(hidden).squeeze(&[1]);
    match (pooling, mask.map(|mask| own_positions(mask, hidden))) {
        (Pooling::Nothing, _) => hidden,
        (Pooling::First, _) => hidden.gather(b.int(0), 1),
        (Pooling::Mean, None) => hidden.mean(&[1]).squeeze(&[1]),
        (Pooling::Mean, Some(mask)) => {
            let tokens = mask.cast(DType::F32);
            let count = tokens.sum(&[1]);
            shares(tokens / count.max(count.same_type(1.0)))
        }
        (Pooling::Last, None) => hidden.gather(b.int(-1), 1),
        (Pooling::Last, Some(mask)) => {
            // 1, 2, 3, .. at tokens, 0 at padding, whichever side it is on.
            let positions = hidden.length(1).reshape(&[]).range_from(b.int(0)) + b.int(1);
            let numbers = positions.unsqueeze(&[0]) * mask.cast(DType::I64);
            let last = numbers.equal(numbers.reduce_max(1)).cast(DType::F32);
            // A text without any token has every position equal: what it gives does not matter, but it must be finite.
            shares(last / last.sum(&[1]))
        }
    }
}

/// The part of a mask that is of these positions: with a cache it covers the past too.
fn own_positions<'g>(mask: Expr<'g>, hidden: Expr<'g>) -> Expr<'g> {
    if mask.dim(1) == hidden.dim(1) {
        return mask;
    }
    let b = hidden.b();
    mask.slice_at(b.ints(&[0]) - hidden.length(1), b.ints(&[i64::MAX]), &[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::config::Task;
    use crate::anatomy;
    use crate::ir::{Dim, ModelInfo};

    /// What a body gives: hidden states, one vector for each text, logits of a head on it, or token numbers.
    #[derive(Clone, Copy, PartialEq)]
    enum Gives {
        States,
        Pooled,
        Logits,
        Tokens,
    }

    fn body(outputs: &[Gives]) -> (Graph, Anatomy) {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        b.input("attention_mask", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let matrix =
            |name: &str, rows: usize, columns: usize| b.initializer(name, Tensor::from_f32(&[rows, columns], &vec![0.5; rows * columns]));
        let states = matrix("embed.weight", 40, 4).gather(ids, 0).tanh();
        let pooled = b.scoped("pool", || states.mean(&[1]).squeeze(&[1]).matmul(matrix("pool.dense", 4, 6)).tanh());
        for gives in outputs {
            match gives {
                Gives::States => b.output("last_hidden_state", states),
                Gives::Pooled => b.output("pooler_output", pooled),
                Gives::Logits => b.output("logits", b.scoped("score", || pooled.matmul(matrix("score.dense", 6, 5)))),
                Gives::Tokens => b.output("tokens", ids + b.int(1)),
            }
        }
        let graph = b.finish().expect("a valid graph");
        let anatomy = anatomy::read(&graph);
        (graph, anatomy)
    }

    fn head(pooling: Option<Pooling>) -> NewHead {
        NewHead { layers: vec![3], labels: 2, pooling, modules: None }
    }

    #[test]
    fn a_head_stands_on_what_fits() {
        use Gives::{Logits, Pooled, States, Tokens};
        type Found = Option<(Pooling, usize)>;
        let rows: &[(&[Gives], Task, Option<Pooling>, Found)] = &[
            (&[States], Task::SeqCls, None, Some((Pooling::Mean, 4))),
            (&[Pooled, States], Task::SeqCls, None, Some((Pooling::Mean, 4))),
            (&[Pooled, States], Task::SeqCls, Some(Pooling::Nothing), Some((Pooling::Nothing, 6))),
            (&[Pooled], Task::SeqCls, None, Some((Pooling::Nothing, 6))),
            (&[Pooled], Task::SeqCls, Some(Pooling::First), Some((Pooling::First, 4))),
            (&[Logits], Task::SeqCls, None, Some((Pooling::Nothing, 6))),
            (&[Logits], Task::TokenCls, None, Some((Pooling::Nothing, 4))),
            (&[States], Task::SeqCls, Some(Pooling::Nothing), None),
            (&[States], Task::TokenCls, Some(Pooling::Mean), None),
            (&[States], Task::MaskedLm, None, None),
            (&[Tokens], Task::SeqCls, None, None),
        ];
        for (outputs, task, pooling, expected) in rows {
            let (graph, anatomy) = body(outputs);
            let found = Features::find(&graph, &anatomy, &head(*pooling), *task);
            let row = || format!("{} outputs, {task}, {pooling:?}", outputs.len());
            assert_eq!(found.as_ref().ok().map(|found| (found.pooling(), found.widths(&head(None))[0])), *expected, "{}", row());
            if let Err(error) = found {
                assert!(error.hint().is_some(), "{}: {error}", row());
            }
        }
    }

    #[test]
    fn a_head_is_a_module_like_others() -> Result<()> {
        let (graph, anatomy) = body(&[Gives::Logits]);
        let features = Features::find(&graph, &anatomy, &head(None), Task::SeqCls)?;
        let with_head = put(&graph, &anatomy, &features, &head(None), 1)?;
        let anatomy = anatomy::read(&with_head);
        let head_parameters: Vec<&str> =
            anatomy.parameters.iter().map(|p| p.name.as_str()).filter(|name| name.starts_with("classifier")).collect();
        assert_eq!(head_parameters, ["classifier.0.bias", "classifier.0.weight", "classifier.2.bias", "classifier.2.weight"]);
        assert!(anatomy.projections.iter().all(|p| !p.conv1d && p.module != "score"), "PyTorch's order of axes; the old head is gone");
        assert_eq!((anatomy.task.task, anatomy.head.and_then(|head| head.classes)), (Some(Task::SeqCls), Some(2)));
        Ok(())
    }
}
