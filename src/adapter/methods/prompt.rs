//! Prompts: learned embeddings in front of the tokens' (Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning; PEFT
//! `PeftModel.forward` and `tuners/prompt_tuning/model.py`), or computed by a network (P-tuning).

use rand::RngExt;
use serde_json::{Value, json};

use crate::adapter::config::fields::Fields;
use crate::adapter::config::options::{Options, PromptStart};
use crate::adapter::config::settings::Settings;
use crate::adapter::config::{
    PromptConfig, PromptEncoderConfig, PromptInit, PromptShape, Reparameterization, Task, at_least_one, probability,
};
use crate::adapter::method::{Configuration, Method, Placed, Places, Row};
use crate::adapter::params::init;
use crate::adapter::params::key::{Family, Tensors};
use crate::adapter::part::{Folding, Insertion, Part};
use crate::adapter::targets::tables;
use crate::adapter::virtual_tokens::encoder::Encoder;
use crate::adapter::virtual_tokens::rows::Rows;
use crate::adapter::virtual_tokens::{check_room, prepend};
use crate::adapter::weights::dequantised_rows;
use crate::anatomy::{Anatomy, Embedding};
use crate::ir::{Graph, Tensor};
use crate::num;
use crate::{Error, Result};

/// Virtual tokens in front of the tokens; in front of the encoder's alone where there is a decoder.
#[derive(Debug)]
struct Prompt {
    rows: Rows,
    init: PromptInit,
    seed: u64,
    /// Virtual tokens.
    tokens: usize,
    /// Rows in the file: PEFT keeps as many again for a decoder, which does not read them.
    kept: usize,
    hidden: usize,
    has_decoder: bool,
}

/// The embeddings of the virtual tokens, `prompt_embeddings` `[tokens, hidden]`, are the only tensor of a prompt.
const TENSORS: Tensors = Tensors { parts: &[], shared: &[] };

/// The row of prompt tuning.
pub static ROW: Row = Row {
    name: "prompt_tuning",
    aliases: &["prompt-tuning"],
    variants: &[],
    about: "Learned embeddings in front of the tokens",
    peft_type: "PROMPT_TUNING",
    learning_rate: 3e-2,
    family: Family::Prompt,
    tensors: TENSORS,
    adapter_file: "prompt",
    takes: &[&["modules_to_save", "num_virtual_tokens", "prompt_init", "prompt_init_text"]],
    page: "prompt-tuning.md",
    read: |fields| read(fields).map(Into::into),
    configure: |options: &Options| {
        Ok(PromptConfig {
            num_virtual_tokens: options.virtual_tokens(),
            init: options.prompt_init()?,
            modules_to_save: options.scope.modules_to_save.clone(),
            ..PromptConfig::default()
        }
        .into())
    },
};

/// The row of P-tuning.
pub static P_TUNING: Row = Row {
    name: "p_tuning",
    aliases: &["p-tuning", "ptuning"],
    variants: &[],
    about: "Learned embeddings in front of the tokens, computed by a small network",
    peft_type: "P_TUNING",
    learning_rate: 1e-3,
    family: Family::Prompt,
    tensors: TENSORS,
    adapter_file: "prompt",
    takes: &[&["modules_to_save", "num_virtual_tokens", "encoder_hidden_size", "encoder_reparameterization_type", "encoder_num_layers"]],
    page: "p-tuning.md",
    read: |fields| read_encoded(fields).map(Into::into),
    configure: |options: &Options| {
        let default = PromptEncoderConfig::default();
        if let (Some(layers), None | Some(Reparameterization::Mlp)) = (options.encoder_num_layers, options.reparameterization) {
            return Err(Error::setting("encoder_num_layers", "to be left out with an MLP, which always has three layers", layers)
                .with_hint("an LSTM has layers to choose: `encoder_reparameterization_type lstm`"));
        }
        Ok(PromptEncoderConfig {
            num_virtual_tokens: options.virtual_tokens(),
            reparameterization: options.reparameterization.unwrap_or_default(),
            encoder_num_layers: options.encoder_num_layers.unwrap_or(default.encoder_num_layers),
            encoder_hidden_size: options.encoder_hidden_size,
            modules_to_save: options.scope.modules_to_save.clone(),
            ..default
        }
        .into())
    },
};

const STARTS: &[(&str, PromptStart)] =
    &[("RANDOM", PromptStart::Random), ("SAMPLE_VOCAB", PromptStart::Vocabulary), ("TEXT", PromptStart::Text)];

const REPARAMETERIZATIONS: &[(&str, Reparameterization)] = &[("MLP", Reparameterization::Mlp), ("LSTM", Reparameterization::Lstm)];

fn read(fields: &Fields<'_>) -> Result<PromptConfig> {
    fields.inert(&["tokenizer_kwargs", "tokenizer_name_or_path"]);
    let text = fields.text("prompt_tuning_init_text")?.map(str::to_owned);
    Ok(PromptConfig {
        num_virtual_tokens: PromptShape::virtual_tokens(fields)?,
        init: match (fields.one_of("prompt_tuning_init", STARTS, PromptStart::Random)?, text) {
            (PromptStart::Vocabulary, _) => PromptInit::Vocabulary,
            (PromptStart::Text, Some(text)) => PromptInit::Text(text),
            (PromptStart::Random, _) | (PromptStart::Text, None) => PromptInit::Random,
        },
        modules_to_save: fields.names("modules_to_save")?,
        shape: PromptShape::read(fields)?,
    })
}

fn read_encoded(fields: &Fields<'_>) -> Result<PromptEncoderConfig> {
    let default = PromptEncoderConfig::default();
    Ok(PromptEncoderConfig {
        num_virtual_tokens: PromptShape::virtual_tokens(fields)?,
        reparameterization: fields.one_of("encoder_reparameterization_type", REPARAMETERIZATIONS, Reparameterization::Mlp)?,
        encoder_hidden_size: fields.size("encoder_hidden_size")?,
        encoder_num_layers: fields.size("encoder_num_layers")?.unwrap_or(default.encoder_num_layers),
        encoder_dropout: fields.number("encoder_dropout", default.encoder_dropout)?,
        modules_to_save: fields.names("modules_to_save")?,
        shape: PromptShape::read(fields)?,
    })
}

impl Configuration for PromptConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)
    }

    fn write(&self, settings: &mut Settings) {
        self.shape.write(self.num_virtual_tokens, &self.modules_to_save, settings);
        // PEFT refuses TEXT without the name of a tokenizer, and does not look at it once there are weights.
        let has_tokenizer = settings.0.get("tokenizer_name_or_path").is_some_and(|name| !name.is_null());
        let (start, text) = match &self.init {
            PromptInit::Text(text) if has_tokenizer => ("TEXT", json!(text)),
            PromptInit::Random | PromptInit::Text(_) | PromptInit::Tokens(_) => ("RANDOM", Value::Null),
            PromptInit::Vocabulary => ("SAMPLE_VOCAB", Value::Null),
        };
        settings.put("prompt_tuning_init", start);
        settings.put("prompt_tuning_init_text", text);
    }

    fn modules_to_save(&self) -> &[String] {
        &self.modules_to_save
    }

    fn task_type(&self, task: Task) -> Option<&'static str> {
        of_virtual_tokens(task)
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let config = Self { shape: shape(at.anatomy)?, modules_to_save: at.saved.to_vec(), ..self.clone() };
        let (tokens, init) = (config.num_virtual_tokens, config.init.clone());
        placed(config.into(), tokens, init, at)
    }
}

impl Configuration for PromptEncoderConfig {
    fn row(&self) -> &'static Row {
        &P_TUNING
    }

    fn check(&self) -> Result<()> {
        at_least_one("num_virtual_tokens", self.num_virtual_tokens)?;
        at_least_one("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))?;
        at_least_one("encoder_num_layers", self.encoder_num_layers)?;
        probability("encoder_dropout", self.encoder_dropout)
    }

    fn write(&self, settings: &mut Settings) {
        self.shape.write(self.num_virtual_tokens, &self.modules_to_save, settings);
        let (name, _) = REPARAMETERIZATIONS.iter().find(|(_, kind)| *kind == self.reparameterization).expect("every kind has a row");
        settings.put("encoder_reparameterization_type", *name);
        settings.put("encoder_hidden_size", json!(self.encoder_hidden_size));
        settings.put("encoder_num_layers", self.encoder_num_layers);
        settings.put("encoder_dropout", self.encoder_dropout);
    }

    fn modules_to_save(&self) -> &[String] {
        &self.modules_to_save
    }

    fn task_type(&self, task: Task) -> Option<&'static str> {
        of_virtual_tokens(task)
    }

    fn encoder(&self) -> Result<Option<Encoder>> {
        Encoder::of_prompt(self).map(Some)
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let mut config = Self { shape: shape(at.anatomy)?, modules_to_save: at.saved.to_vec(), ..self.clone() };
        config.encoder_hidden_size = config.encoder_hidden_size.or(config.shape.token_dim);
        let tokens = config.num_virtual_tokens;
        placed(config.into(), tokens, PromptInit::Random, at)
    }
}

/// PEFT has no task type for masked language models, but virtual tokens need one; its class for features leaves the outputs as they are
/// (`PeftModelForFeatureExtraction` in `peft/peft_model.py`).
pub(super) fn of_virtual_tokens(task: Task) -> Option<&'static str> {
    if task == Task::MaskedLm { Some("FEATURE_EXTRACTION") } else { task.task_type() }
}

fn placed(settled: Method, tokens: usize, init: PromptInit, at: &Places<'_>) -> Result<Placed> {
    check_room(at.anatomy, tokens)?;
    let table = tables::of_tokens(at.anatomy)?;
    let has_decoder = at.anatomy.inputs.decoder_input_ids.is_some();
    let prompt = Prompt {
        rows: Rows::of(|| settled.encoder(), at.given, at.seed)?,
        init,
        seed: at.seed,
        tokens,
        kept: if has_decoder { 2 * tokens } else { tokens },
        hidden: num::size("hidden size", table.hidden)?,
        has_decoder,
    };
    Ok(Placed { parts: vec![Box::new(prompt)], settled })
}

/// The sizes that PEFT writes down for a prompt.
fn shape(anatomy: &Anatomy) -> Result<PromptShape> {
    let size = |n: i64| usize::try_from(n).ok();
    let has_decoder = anatomy.inputs.decoder_input_ids.is_some();
    let layers = anatomy.attentions.iter().filter(|attention| !attention.cross).count();
    Ok(PromptShape {
        token_dim: size(tables::of_tokens(anatomy)?.hidden),
        num_layers: Some(if has_decoder { layers / 2 } else { layers }),
        num_attention_heads: anatomy.attentions.first().and_then(|attention| size(attention.heads?)),
        num_transformer_submodules: Some(if has_decoder { 2 } else { 1 }),
    })
}

impl Part for Prompt {
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let rows = self.rows.write(at, || self.fresh(at.graph, at.anatomy));
        let used = if self.kept == self.tokens { rows } else { rows.slice(&[0], &[num::int(self.tokens)], &[0]) };
        prepend::insert(at, used, self.tokens)
    }

    fn fold(&self, _: &Folding<'_>) -> Result<()> {
        Err(Error::unsupported("folding a prompt", "it has no weight to be folded into"))
    }

    fn is_baked(&self) -> bool {
        true
    }

    fn virtual_tokens(&self) -> usize {
        self.tokens
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        self.rows.numbers(self.kept, self.hidden)
    }

    fn positions_without_label(&self) -> usize {
        if self.has_decoder { 0 } else { self.tokens }
    }
}

impl Prompt {
    /// `[tokens, hidden]`
    fn fresh(&self, graph: &Graph, anatomy: &Anatomy) -> Result<Tensor> {
        let mut rng = init::generator(self.seed, "prompt_embeddings");
        let table = tables::of_tokens(anatomy)?;
        let rows = match &self.init {
            PromptInit::Random => return Ok(init::normal(&mut rng, &[self.kept, self.hidden], 1.0)),
            PromptInit::Vocabulary => {
                let count = num::size("rows of the table", table.rows)?.max(1);
                (0..self.kept).map(|_| rng.random_range(0..count)).collect()
            }
            PromptInit::Text(text) => {
                let hint = "its tokenizer was not found; `prompt_init vocab` needs none";
                return Err(Error::unsupported(format!("starting the prompt from {text:?}"), "its tokens are not known").with_hint(hint));
            }
            PromptInit::Tokens(tokens) if tokens.is_empty() => return Err(Error::invalid("the text that the prompt starts from is empty")),
            PromptInit::Tokens(tokens) => tokens.iter().copied().cycle().take(self.kept).collect::<Vec<usize>>(),
        };
        of_module(graph, table, &rows)
    }
}

/// Rows as the table's module gives them: some modules multiply them, and virtual tokens come behind that. PEFT asks the module, too.
fn of_module(graph: &Graph, table: &Embedding, rows: &[usize]) -> Result<Tensor> {
    let rows = dequantised_rows::rows_of(graph, table, rows)?;
    let own = table.scaling.filter(|scaling| scaling.product == table.scaled).and_then(|scaling| scaling.factor);
    match (own, rows.to_f32()) {
        (Some(factor), Some(numbers)) => {
            let factor = init::narrow(factor);
            Ok(Tensor::from_f32(rows.shape(), &numbers.into_iter().map(|number| number * factor).collect::<Vec<f32>>()))
        }
        _ => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anatomy;
    use crate::ir::{Builder, DType, Dim, ModelInfo};

    #[test]
    fn prompts_start_from_rows_as_the_tables_module_gives_them() {
        // Gemma 3 multiplies in the embedding's module, Gemma behind it.
        for (scope, expected) in [("/model/embed_tokens", 1.0), ("/model", 0.5)] {
            let b = Builder::new(ModelInfo::dialect());
            let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            let table = b.initializer("model.embed_tokens.weight", Tensor::from_f32(&[50, 4], &[0.5; 200]));
            let rows = b.scoped("/model/embed_tokens", || table.gather(ids, 0));
            let scaled = b.scoped(scope, || rows * 2.0);
            let weight = b.initializer("onnx::MatMul_1", Tensor::from_f32(&[4, 4], &[0.5; 16]));
            b.output("y", b.scoped("/model/layers.0/attn/q_proj", || scaled.matmul(weight)));
            let graph = b.finish().expect("a valid graph");
            let anatomy = anatomy::read(&graph);
            let rows = of_module(&graph, tables::of_tokens(&anatomy).expect("a table"), &[3, 7]).expect("rows");
            assert_eq!((rows.shape(), rows.to_f32()), (&[2, 4][..], Some(vec![expected; 8])), "{scope}");
        }
    }
}
