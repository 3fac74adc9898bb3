//! Prompts: learned embeddings in front of the tokens' (Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning; PEFT
//! `PeftModel.forward` and `tuners/prompt_tuning/model.py`), or computed by a network (P-tuning).

use rand::RngExt;

use crate::adapter::config::{Method, PromptConfig, PromptEncoderConfig, PromptInit, PromptShape};
use crate::adapter::params::init;
use crate::adapter::part::{Folding, Insertion, Part, Placed, Places};
use crate::adapter::targets::tables;
use crate::adapter::virtual_tokens::{check_room, prepend, rows::Rows};
use crate::adapter::weights::dequantised_rows;
use crate::anatomy::Anatomy;
use crate::ir::{Graph, Tensor};
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

/// Finds the place of a prompt.
pub(crate) fn place(config: &PromptConfig, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.shape = shape(at.anatomy)?;
    at.saved.clone_into(&mut config.modules_to_save);
    let (tokens, init) = (config.num_virtual_tokens, config.init.clone());
    placed(Method::Prompt(config), tokens, init, at)
}

/// Finds the place of a prompt that a network computes.
pub(crate) fn place_encoded(config: &PromptEncoderConfig, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.shape = shape(at.anatomy)?;
    config.encoder_hidden_size = config.encoder_hidden_size.or(config.shape.token_dim);
    at.saved.clone_into(&mut config.modules_to_save);
    let tokens = config.num_virtual_tokens;
    placed(Method::PromptEncoder(config), tokens, PromptInit::Random, at)
}

fn placed(settled: Method, tokens: usize, init: PromptInit, at: &Places<'_>) -> Result<Placed> {
    check_room(at.anatomy, tokens)?;
    let table = tables::of_tokens(at.anatomy)?;
    let has_decoder = at.anatomy.inputs.decoder_input_ids.is_some();
    let prompt = Prompt {
        rows: Rows::of(&settled, at)?,
        init,
        seed: at.seed,
        tokens,
        kept: if has_decoder { 2 * tokens } else { tokens },
        hidden: usize::try_from(table.hidden).unwrap_or(0),
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
        let used = if self.kept == self.tokens { rows } else { rows.slice(&[0], &[i64::try_from(self.tokens).unwrap_or(i64::MAX)], &[0]) };
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
                let count = usize::try_from(table.rows).unwrap_or(1).max(1);
                (0..self.kept).map(|_| rng.random_range(0..count)).collect()
            }
            PromptInit::Text(text) => {
                let hint = "its tokenizer was not found; `--prompt-init vocab` needs none";
                return Err(Error::unsupported(format!("starting the prompt from {text:?}"), "its tokens are not known").with_hint(hint));
            }
            PromptInit::Tokens(tokens) if tokens.is_empty() => return Err(Error::invalid("the text that the prompt starts from is empty")),
            PromptInit::Tokens(tokens) => tokens.iter().copied().cycle().take(self.kept).collect::<Vec<usize>>(),
        };
        dequantised_rows::rows_of(graph, table, &rows)
    }
}
