//! Whether virtual tokens come before or behind the number that embeddings are multiplied with.
//!
//! Some models multiply what they are given instead of tokens' embeddings (Gemma 2 in transformers: `inputs_embeds * normalizer`), others have it
//! in the embedding's module, which virtual tokens do not pass (`Gemma3TextScaledWordEmbedding`). Names of modules tell which it is, where an
//! exporter leaves them; ONNX Runtime GenAI's builder writes both under the embedding's name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::anatomy::Anatomy;
use crate::model::{Beside, declared};
use crate::{Error, Result};

/// The place of virtual tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum PromptScale {
    /// Virtual tokens are multiplied, too.
    Before,
    /// They are not.
    After,
}

/// Families of models (`model_type`) by what their code in transformers does.
const FAMILIES: &[(&str, PromptScale)] = &[
    ("gemma", PromptScale::Before),
    ("gemma2", PromptScale::Before),
    ("recurrent_gemma", PromptScale::Before),
    ("gemma3", PromptScale::After),
    ("gemma3_text", PromptScale::After),
    ("gemma3n", PromptScale::After),
    ("gemma3n_text", PromptScale::After),
];

/// Decides where virtual tokens go: as asked for; else as the graph's names tell; else as the configuration beside the model does; else what is likely
/// is taken, and said. None where embeddings are not multiplied.
///
/// # Errors
/// A place that was asked for where there is no choice; a configuration that is not JSON.
pub(super) fn settle(anatomy: &mut Anatomy, asked: Option<PromptScale>, beside: &Beside) -> Result<Option<PromptScale>> {
    let table = anatomy.token_embedding.and_then(|at| anatomy.embeddings.get(at));
    let Some((table, scaling)) = table.and_then(|table| Some((table, table.scaling?))) else {
        let error = || Error::unsupported("`prompt_scale` for this model", "the embeddings of its tokens are not multiplied with a number");
        return asked.map_or(Ok(None), |_| Err(error()));
    };
    let likely = if table.scaled == scaling.product { PromptScale::After } else { PromptScale::Before };
    let side = match (asked, scaling.is_told) {
        (Some(side), _) => side,
        (None, true) => likely,
        (None, false) => of_model(beside)?.unwrap_or_else(|| {
            let (taken, other) = match likely {
                PromptScale::Before => ("before", "after"),
                PromptScale::After => ("after", "before"),
            };
            tracing::warn!(
                "virtual tokens go {taken} the number that this model multiplies embeddings with: neither the graph nor a config.json beside it tells; \
                 `prompt_scale {other}` has them on its other side"
            );
            likely
        }),
    };
    apply(anatomy, side);
    Ok(Some(side))
}

/// Puts virtual tokens on a side.
pub(super) fn apply(anatomy: &mut Anatomy, side: PromptScale) {
    let Some(table) = anatomy.token_embedding.and_then(|at| anatomy.embeddings.get_mut(at)) else { return };
    let Some(scaling) = table.scaling else { return };
    table.scaled = match side {
        PromptScale::Before => table.output,
        PromptScale::After => scaling.product,
    };
}

/// What the files beside a model tell: `config.json`, or `genai_config.json`.
fn of_model(beside: &Beside) -> Result<Option<PromptScale>> {
    let config = beside.json(declared::CONFIG)?.unwrap_or_default();
    let genai = beside.json("genai_config.json")?.unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_lowercase);
    // `Gemma2ForCausalLM`
    let architecture = text(&config["architectures"][0]).and_then(|name| Some(name.split_once("for")?.0.to_owned()));
    let names = [text(&config["text_config"]["model_type"]), text(&config["model_type"]), text(&genai["model"]["type"]), architecture];
    Ok(names.iter().flatten().find_map(|name| FAMILIES.iter().find(|(family, _)| family == name)).map(|(_, side)| *side))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy;
    use crate::ir::{Builder, DType, Dim, Graph, ModelInfo, Tensor};

    /// A table of tokens whose rows are multiplied under this scope; with names as ONNX Runtime GenAI's builder gives them, or not.
    fn graph(scope: &str, is_genai: bool) -> Graph {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let table = b.initializer("model.embed_tokens.weight", Tensor::from_f32(&[50, 4], &[0.5; 200]));
        let rows = b.scoped("/model/embed_tokens", || table.gather(ids, 0));
        let scaled = b.scoped(scope, || rows * 2.0);
        let weight = if is_genai { "model.layers.0.attn.q_proj.MatMul.weight" } else { "onnx::MatMul_1" };
        let weight = b.initializer(weight, Tensor::from_f32(&[4, 4], &[0.5; 16]));
        b.output("y", b.scoped("/model/layers.0/attn/q_proj", || scaled.matmul(weight)));
        b.finish().expect("a valid graph")
    }

    #[test]
    fn names_tell_then_the_configuration_then_what_is_likely() -> Result<()> {
        use PromptScale::{After, Before};
        let own = "/model/embed_tokens";
        let rows = [
            ("names of the module", own, false, "{}", None, After),
            ("names of its caller", "/model", false, r#"{"model_type": "gemma3_text"}"#, None, Before),
            ("the builder, and nothing else", own, true, "{}", None, After),
            ("the builder, and a family", own, true, r#"{"model_type": "gemma2"}"#, None, Before),
            ("the builder, and another", own, true, r#"{"text_config": {"model_type": "gemma3_text"}, "model_type": "x"}"#, None, After),
            ("the builder, and an architecture", own, true, r#"{"architectures": ["GemmaForCausalLM"]}"#, None, Before),
            ("what was asked for", own, false, "{}", Some(Before), Before),
        ];
        for (what, scope, is_genai, config, asked, expected) in rows {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("config.json"), config).expect("it is written");
            let graph = graph(scope, is_genai);
            let mut anatomy = anatomy::read(&graph);
            assert_eq!(settle(&mut anatomy, asked, &Beside::near(&folder.path().join("model.onnx")))?, Some(expected), "{what}");
            let table = &anatomy.embeddings[anatomy.token_embedding.expect("a table")];
            assert_eq!(table.scaled != table.output, expected == After, "{what}");
        }
        Ok(())
    }
}
