//! The networks that compute virtual tokens: in the graph while they are trained, and here for the file that PEFT reads, which has only what
//! they give.
//!
//! Prefix tuning: `Linear(tanh(Linear(embedding)))` (Li & Liang, Prefix-Tuning, section 4.3; PEFT `tuners/prefix_tuning/model.py`).
//! P-tuning: `Linear(relu(Linear(relu(Linear(embedding)))))` (Liu et al., GPT Understands, Too; PEFT `tuners/p_tuning/model.py`).

use ndarray::{Array1, Array2};

use super::config::{Method, PrefixConfig, PromptEncoderConfig, PromptShape, Reparameterization};
use super::init;
use super::key::Key;
use super::param::Params;
use crate::ir::{Expr, Tensor};
use crate::{Error, Place, Result};

/// A network that computes one row for each virtual token.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Number of rows.
    rows: usize,
    /// Length of the rows that the network starts from.
    width: usize,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    name: &'static str,
    inputs: usize,
    outputs: usize,
    then: Activation,
}

#[derive(Clone, Copy, Debug)]
enum Activation {
    None,
    Tanh,
    Relu,
}

impl Encoder {
    /// The network of a method, if it has one; the method's sizes must be settled.
    ///
    /// # Errors
    /// Sizes that are missing; a kind of network that is not known.
    pub fn of(method: &Method) -> Result<Option<Self>> {
        match method {
            Method::Prefix(config) if config.prefix_projection => Self::of_prefix(config).map(Some),
            Method::PromptEncoder(config) => Self::of_prompt(config).map(Some),
            _ => Ok(None),
        }
    }

    fn of_prefix(config: &PrefixConfig) -> Result<Self> {
        let (width, layers) = (token_dim(&config.shape)?, size("num_layers", config.shape.num_layers)?);
        let hidden = config.encoder_hidden_size.unwrap_or(width);
        let submodules = config.shape.num_transformer_submodules.unwrap_or(1);
        let layers = layers * submodules;
        Ok(Self {
            rows: config.num_virtual_tokens,
            width,
            layers: vec![
                Layer { name: "transform.0", inputs: width, outputs: hidden, then: Activation::Tanh },
                Layer { name: "transform.2", inputs: hidden, outputs: layers * 2 * width, then: Activation::None },
            ],
        })
    }

    fn of_prompt(config: &PromptEncoderConfig) -> Result<Self> {
        if config.reparameterization == Reparameterization::Lstm {
            return Err(Error::unsupported("P-tuning with an LSTM", "only the MLP is trained here"));
        }
        let width = token_dim(&config.shape)?;
        let hidden = config.encoder_hidden_size.unwrap_or(width);
        Ok(Self {
            rows: config.num_virtual_tokens * config.shape.num_transformer_submodules.unwrap_or(1),
            width,
            layers: vec![
                Layer { name: "mlp_head.0", inputs: width, outputs: hidden, then: Activation::Relu },
                Layer { name: "mlp_head.2", inputs: hidden, outputs: hidden, then: Activation::Relu },
                Layer { name: "mlp_head.4", inputs: hidden, outputs: width, then: Activation::None },
            ],
        })
    }

    /// Writes the network, its parameters trained: the rows `[tokens, numbers]`.
    pub(super) fn write<'g>(&self, b: &'g crate::ir::Builder, params: &Params<'g>, seed: u64) -> Expr<'g> {
        let param = |key: String| params.encoder(&key, || self.fresh(&key, seed).unwrap_or_else(|| init::zeros(&[0])));
        let mut x = param(embedding_key());
        b.scoped("prompt_encoder", || {
            for layer in &self.layers {
                let [weight, bias] = layer.keys().map(param);
                x = x.matmul(weight.t()) + bias;
                x = match layer.then {
                    Activation::None => x,
                    Activation::Tanh => x.tanh(),
                    Activation::Relu => b.op("Relu", &[x], &[]),
                };
            }
        });
        x
    }

    /// The value that a parameter starts from: as PyTorch's `Embedding` and `Linear`.
    pub(super) fn fresh(&self, key: &str, seed: u64) -> Option<Tensor> {
        let mut rng = init::generator(seed, key);
        if key == embedding_key() {
            return Some(init::normal(&mut rng, &[self.rows, self.width], 1.0));
        }
        self.layers.iter().find_map(|layer| {
            let bound = init::to_f32(layer.inputs).sqrt().recip();
            let [weight, bias] = layer.keys();
            match key {
                _ if key == weight => Some(init::uniform(&mut rng, &[layer.outputs, layer.inputs], bound)),
                _ if key == bias => Some(init::uniform(&mut rng, &[layer.outputs], bound)),
                _ => None,
            }
        })
    }

    /// Computes the rows `[tokens, numbers]` from the parameters.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn compute(&self, parameter: &dyn Fn(&str) -> Option<Tensor>) -> Result<Tensor> {
        let get = |key: &str, shape: &[usize]| {
            let tensor = parameter(key).ok_or_else(|| Error::not_found("tensor", key))?;
            if tensor.shape() != shape {
                let error = Error::mismatch("shape", format!("{shape:?}"), format!("{:?}", tensor.shape()));
                return Err(error.at(Place::Tensor(key.to_owned())));
            }
            Ok(tensor)
        };
        let mut x: Array2<f32> = super::matrix(&get(&embedding_key(), &[self.rows, self.width])?)?;
        for layer in &self.layers {
            let [weight, bias] = layer.keys();
            let weight = super::matrix(&get(&weight, &[layer.outputs, layer.inputs])?)?;
            let bias = get(&bias, &[layer.outputs])?.to_f32().unwrap_or_default();
            x = x.dot(&weight.t()) + Array1::from(bias);
            match layer.then {
                Activation::None => {}
                Activation::Tanh => x.mapv_inplace(f32::tanh),
                Activation::Relu => x.mapv_inplace(|number| number.max(0.0)),
            }
        }
        Ok(super::tensor(&x.view()))
    }
}

impl Layer {
    /// The keys of weight and bias.
    fn keys(&self) -> [String; 2] {
        ["weight", "bias"].map(|leaf| key(&format!("{}.{leaf}", self.name)))
    }
}

fn embedding_key() -> String {
    key("embedding.weight")
}

fn key(name: &str) -> String {
    Key::Encoder { name: name.to_owned() }.to_string()
}

/// Whether the parameters of a network are given.
pub(super) fn is_given(given: &super::Given<'_>) -> bool {
    given(&embedding_key()).is_some()
}

fn token_dim(shape: &PromptShape) -> Result<usize> {
    size("token_dim", shape.token_dim)
}

fn size(name: &'static str, size: Option<usize>) -> Result<usize> {
    size.ok_or_else(|| Error::not_found("setting", name))
}
