//! The head of a classifier of Hugging Face's, told from the tensors of an adapter that has it: what a bare body needs for the adapter to have its place.

use super::folder::AdapterFiles;
use crate::adapter::config::{HeadModules, NewHead, Pooling, Task};
use crate::adapter::params::key::Key;

/// A head that some models have, and what of a text it sees.
struct Kind {
    /// Its linear layers, with rectifiers between them.
    layers: &'static [&'static str],
    pooling: Pooling,
}

/// Heads by the names of their layers. Models with heads of other kinds (a hyperbolic tangent between `classifier.dense` and `classifier.out_proj`) have other
/// names.
const KINDS: &[Kind] = &[
    // Decoders: `GenericForSequenceClassification` in transformers/modeling_layers.py.
    Kind { layers: &["score"], pooling: Pooling::Last },
    // `DistilBertForSequenceClassification`
    Kind { layers: &["pre_classifier", "classifier"], pooling: Pooling::First },
    // `BertForSequenceClassification`, on what the body pools.
    Kind { layers: &["classifier"], pooling: Pooling::Nothing },
];

/// The modules that heads consist of.
pub fn modules() -> impl Iterator<Item = &'static str> {
    KINDS.iter().flat_map(|kind| kind.layers).copied()
}

/// The head whose layers an adapter for a classifier has among its tensors, all of them and no others; none where there is no such head.
#[must_use]
pub fn of(files: &AdapterFiles) -> Option<NewHead> {
    let task = files.config.task.filter(|task| matches!(task, Task::SeqCls | Task::TokenCls))?;
    KINDS.iter().find_map(|kind| {
        let layers: Vec<SavedLayer> = kind.layers.iter().map(|module| SavedLayer::of(files, module)).collect::<Option<_>>()?;
        let goes_on = |pair: &[SavedLayer]| pair[0].outputs == pair[1].inputs && pair[0].bias == pair[1].bias;
        if !layers.windows(2).all(goes_on) {
            return None;
        }
        let (last, hidden) = layers.split_last()?;
        let head = NewHead {
            layers: hidden.iter().map(|layer| layer.outputs).collect(),
            labels: last.outputs,
            pooling: Some(if task == Task::TokenCls { Pooling::Nothing } else { kind.pooling }),
            modules: Some(HeadModules { names: kind.layers.iter().map(|&name| name.to_owned()).collect(), bias: last.bias }),
        };
        head.check().is_ok().then_some(head)
    })
}

struct SavedLayer {
    inputs: usize,
    outputs: usize,
    bias: bool,
}

impl SavedLayer {
    /// The layer of a module that is saved as a whole.
    fn of(files: &AdapterFiles, module: &str) -> Option<Self> {
        let shape = |leaf: &str| {
            let wanted = format!("{module}.{leaf}");
            let is_it = |key: &Key| matches!(key, Key::Parameter { name } | Key::PromptParameter { name } if *name == wanted);
            let name = files.keys().into_iter().find(is_it)?.to_string();
            files.tensors.get(&name).map(|tensor| tensor.shape().to_vec())
        };
        match *shape("weight")? {
            [outputs, inputs] => Some(Self { inputs, outputs, bias: shape("bias").is_some() }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Method;
    use crate::adapter::methods::lora::LoraConfig;
    use crate::ir::Tensor;
    use crate::peft::AdapterConfig;

    #[test]
    fn the_shapes_of_a_head_say_what_it_is() {
        type Tensors = &'static [(&'static str, &'static [usize])];
        type Found = Option<(Vec<usize>, usize, Pooling, bool)>;
        let text = br#"{"peft_type":"PROMPT_TUNING","num_virtual_tokens":3}"#;
        let prompt = || AdapterConfig::from_json(text).expect("a configuration").method;
        let lora = || Method::from(LoraConfig::default());
        let rows: &[(Method, Task, Tensors, Found)] = &[
            (
                lora(),
                Task::TokenCls,
                &[("classifier.weight", &[5, 8]), ("classifier.bias", &[5])],
                Some((vec![], 5, Pooling::Nothing, true)),
            ),
            (lora(), Task::SeqCls, &[("classifier.weight", &[3, 8]), ("classifier.bias", &[3])], Some((vec![], 3, Pooling::Nothing, true))),
            (prompt(), Task::SeqCls, &[("score.weight", &[2, 8])], Some((vec![], 2, Pooling::Last, false))),
            (
                lora(),
                Task::SeqCls,
                &[
                    ("pre_classifier.weight", &[8, 8]),
                    ("pre_classifier.bias", &[8]),
                    ("classifier.weight", &[2, 8]),
                    ("classifier.bias", &[2]),
                ],
                Some((vec![8], 2, Pooling::First, true)),
            ),
            (lora(), Task::SeqCls, &[("classifier.dense.weight", &[8, 8]), ("classifier.out_proj.weight", &[2, 8])], None),
            (lora(), Task::CausalLm, &[("score.weight", &[2, 8])], None),
            (lora(), Task::SeqCls, &[("classifier.weight", &[1, 8])], Some((vec![], 1, Pooling::Nothing, false))),
        ];
        for (method, task, tensors, expected) in rows {
            let config = AdapterConfig::new(method.clone(), Some(*task), None);
            let front = if method.is_prompt() { "base_model." } else { "base_model.model." };
            let tensors =
                tensors.iter().map(|(name, shape)| (format!("{front}{name}"), Tensor::from_f32(shape, &vec![0.0; shape.iter().product()])));
            let files = AdapterFiles { config, tensors: tensors.collect(), beside: None, stored: indexmap::IndexMap::new() };
            let found = of(&files).map(|head| (head.layers, head.labels, head.pooling.expect("known"), head.modules.expect("named").bias));
            assert_eq!(found, *expected, "{:?}", files.tensors.keys().collect::<Vec<_>>());
        }
    }
}
