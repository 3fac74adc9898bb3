//! The networks that compute virtual tokens. The graph has them while they are trained; PEFT's file has their results alone, which are computed here.
//!
//! Prefix tuning: `Linear(tanh(Linear(embedding)))` (Li & Liang, Prefix-Tuning, section 4.3; PEFT `tuners/prefix_tuning/model.py`).
//! P-tuning: `Linear(relu(Linear(relu(Linear(embedding)))))`, or `Linear(relu(Linear(LSTM(embedding))))` with an LSTM of both directions
//! (Liu et al., GPT Understands, Too; PEFT `tuners/p_tuning/model.py`).

mod lstm;

use ndarray::{Array1, Array2};

use self::lstm::Lstm;
use crate::adapter::config::{PrefixConfig, PromptEncoderConfig, PromptShape, Reparameterization};
use crate::adapter::params::{Given, Params, budget::wide, init, key::Key, matrices};
use crate::adapter::weights::linalg;
use crate::ir::{Builder, Expr, Tensor};
use crate::{Error, Place, Result};

/// A network that computes one row for each virtual token.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Number of rows.
    rows: usize,
    /// Length of the rows that the network starts from.
    width: usize,
    layers: Vec<EncoderLayer>,
    /// What a fresh network gives, if it is to start from something.
    start: Option<Tensor>,
}

/// A layer of the network.
#[derive(Clone, Debug)]
enum EncoderLayer {
    Linear(Linear),
    Lstm(Lstm),
}

#[derive(Clone, Debug)]
struct Linear {
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

/// A parameter of a network, with PyTorch's name, and the bound of its uniform start.
struct Weight {
    key: String,
    shape: Vec<usize>,
    bound: f32,
}

/// The values of parameters by key.
type Values<'a> = dyn Fn(&str) -> Option<Tensor> + 'a;

impl Encoder {
    /// That of prefix tuning; sizes must be settled.
    ///
    /// # Errors
    /// Sizes that are missing.
    pub fn of_prefix(config: &PrefixConfig) -> Result<Self> {
        let (width, layers) = (token_dim(&config.shape)?, size("num_layers", config.shape.num_layers)?);
        let hidden = config.encoder_hidden_size.unwrap_or(width);
        Ok(Self {
            rows: config.num_virtual_tokens,
            width,
            layers: vec![
                linear("transform.0", width, hidden, Activation::Tanh),
                linear("transform.2", hidden, layers * 2 * width, Activation::None),
            ],
            start: config.init.rows().cloned(),
        })
    }

    /// That of P-tuning; sizes must be settled.
    ///
    /// # Errors
    /// Sizes that are missing; dropout between the layers of an LSTM.
    pub fn of_prompt(config: &PromptEncoderConfig) -> Result<Self> {
        let width = token_dim(&config.shape)?;
        let hidden = config.encoder_hidden_size.unwrap_or(width);
        let layers = match config.reparameterization {
            Reparameterization::Mlp => vec![
                linear("mlp_head.0", width, hidden, Activation::Relu),
                linear("mlp_head.2", hidden, hidden, Activation::Relu),
                linear("mlp_head.4", hidden, width, Activation::None),
            ],
            Reparameterization::Lstm if config.encoder_dropout > 0.0 && config.encoder_num_layers > 1 => {
                return Err(Error::unsupported("dropout between the layers of an LSTM", "the network is trained without")
                    .with_hint("set encoder_dropout to 0"));
            }
            Reparameterization::Lstm => {
                let stack = (0..config.encoder_num_layers).map(|layer| {
                    let inputs = if layer == 0 { width } else { 2 * hidden };
                    EncoderLayer::Lstm(Lstm { layer, inputs, hidden })
                });
                let head = [
                    linear("mlp_head.0", 2 * hidden, 2 * hidden, Activation::Relu),
                    linear("mlp_head.2", 2 * hidden, width, Activation::None),
                ];
                stack.chain(head).collect()
            }
        };
        let rows = config.num_virtual_tokens * config.shape.num_transformer_submodules.unwrap_or(1);
        Ok(Self { rows, width, layers, start: None })
    }

    /// How many numbers the network has.
    pub(crate) fn numbers(&self) -> u128 {
        let table = wide(self.rows) * wide(self.width);
        let of_weight = |weight: Weight| weight.shape.iter().map(|&length| wide(length)).fold(1, u128::saturating_mul);
        self.layers.iter().flat_map(EncoderLayer::weights).map(of_weight).fold(table, u128::saturating_add)
    }

    /// Writes the network, its parameters trained: the rows `[tokens, numbers]`.
    pub(crate) fn write<'g>(&self, b: &'g Builder, params: &Params<'g>, seed: u64) -> Expr<'g> {
        let param = |key: &str| {
            params.encoder(key, || {
                self.fresh(key, seed).and_then(|value| value.ok_or_else(|| Error::not_found("tensor", key))).unwrap_or_else(|error| {
                    b.fail(error);
                    init::zeros(&[0])
                })
            })
        };
        let mut x = param(&embedding_key());
        b.scoped("prompt_encoder", || {
            for layer in &self.layers {
                x = match layer {
                    EncoderLayer::Linear(layer) => layer.write(b, x, &param),
                    EncoderLayer::Lstm(layer) => layer.write(b, x, self.rows, &param),
                };
            }
        });
        x
    }

    /// The value that a parameter starts from: as PyTorch's `Embedding`, `Linear` and `LSTM`; but the last layer of a network that starts from
    /// given rows is the one that gives them.
    ///
    /// # Errors
    /// Rows that do not fit.
    pub(crate) fn fresh(&self, key: &str, seed: u64) -> Result<Option<Tensor>> {
        match (&self.start, self.layers.last()) {
            (Some(rows), Some(EncoderLayer::Linear(last))) if key == last.keys()[0] => self.fitted(rows, seed).map(Some),
            _ => Ok(self.random(key, seed)),
        }
    }

    fn random(&self, key: &str, seed: u64) -> Option<Tensor> {
        let mut rng = init::generator(seed, key);
        if key == embedding_key() {
            return Some(init::normal(&mut rng, &[self.rows, self.width], 1.0));
        }
        let weight = self.layers.iter().flat_map(EncoderLayer::weights).find(|weight| weight.key == key)?;
        Some(init::uniform(&mut rng, &weight.shape, weight.bound))
    }

    /// The last layer's weight with which the fresh network gives these rows, or what is nearest to them.
    fn fitted(&self, rows: &Tensor, seed: u64) -> Result<Tensor> {
        let fresh = |key: &str| self.random(key, seed);
        let (Some(EncoderLayer::Linear(last)), before) = (self.layers.last(), self.layers.len() - 1) else {
            return Err(Error::invalid("a network without layers"));
        };
        let features = self.values(&fresh, before)?;
        let bias = vector(&fresh, &last.keys()[1], last.outputs)?;
        let wanted = matrices::matrix(rows)?;
        if wanted.dim() != (self.rows, last.outputs) {
            let expected = (self.rows, last.outputs);
            return Err(Error::mismatch("shape of the rows to start from", format!("{expected:?}"), format!("{:?}", wanted.dim())));
        }
        let weight = linalg::solution(&features, &(wanted - bias))?;
        Ok(matrices::tensor(&weight.t()))
    }

    /// Computes the rows `[tokens, numbers]` from the parameters.
    ///
    /// # Errors
    /// A parameter that is missing or of another shape.
    pub fn compute(&self, parameter: &Values<'_>) -> Result<Tensor> {
        Ok(matrices::tensor(&self.values(parameter, self.layers.len())?.view()))
    }

    /// What the first `layers` layers give.
    fn values(&self, parameter: &Values<'_>, layers: usize) -> Result<Array2<f32>> {
        let mut x = matrix(parameter, &embedding_key(), [self.rows, self.width])?;
        for layer in &self.layers[..layers] {
            x = match layer {
                EncoderLayer::Linear(layer) => layer.compute(&x, parameter)?,
                EncoderLayer::Lstm(layer) => layer.compute(&x, parameter)?,
            };
        }
        Ok(x)
    }
}

fn linear(name: &'static str, inputs: usize, outputs: usize, then: Activation) -> EncoderLayer {
    EncoderLayer::Linear(Linear { name, inputs, outputs, then })
}

impl EncoderLayer {
    fn weights(&self) -> Vec<Weight> {
        match self {
            Self::Linear(layer) => layer.weights().into(),
            Self::Lstm(layer) => layer.weights(),
        }
    }
}

impl Linear {
    /// The keys of weight and bias.
    fn keys(&self) -> [String; 2] {
        ["weight", "bias"].map(|leaf| key(&format!("{}.{leaf}", self.name)))
    }

    fn weights(&self) -> [Weight; 2] {
        let bound = init::to_f32(self.inputs).sqrt().recip();
        let [weight, bias] = self.keys();
        [Weight { key: weight, shape: vec![self.outputs, self.inputs], bound }, Weight { key: bias, shape: vec![self.outputs], bound }]
    }

    fn write<'g>(&self, b: &'g Builder, x: Expr<'g>, param: &dyn Fn(&str) -> Expr<'g>) -> Expr<'g> {
        let [weight, bias] = self.keys();
        let x = x.matmul(param(&weight).t()) + param(&bias);
        match self.then {
            Activation::None => x,
            Activation::Tanh => x.tanh(),
            Activation::Relu => b.op("Relu", &[x], &[]),
        }
    }

    fn compute(&self, x: &Array2<f32>, parameter: &Values<'_>) -> Result<Array2<f32>> {
        let [weight, bias] = self.keys();
        let weight = matrix(parameter, &weight, [self.outputs, self.inputs])?;
        let mut x = x.dot(&weight.t()) + vector(parameter, &bias, self.outputs)?;
        match self.then {
            Activation::None => {}
            Activation::Tanh => x.mapv_inplace(f32::tanh),
            Activation::Relu => x.mapv_inplace(|number| number.max(0.0)),
        }
        Ok(x)
    }
}

fn matrix(parameter: &Values<'_>, key: &str, shape: [usize; 2]) -> Result<Array2<f32>> {
    matrices::matrix(&get(parameter, key, &shape)?)
}

fn vector(parameter: &Values<'_>, key: &str, length: usize) -> Result<Array1<f32>> {
    Ok(Array1::from(get(parameter, key, &[length])?.to_f32().unwrap_or_default()))
}

fn get(parameter: &Values<'_>, key: &str, shape: &[usize]) -> Result<Tensor> {
    let tensor = parameter(key).ok_or_else(|| Error::not_found("tensor", key))?;
    if tensor.shape() != shape {
        let error = Error::mismatch("shape", format!("{shape:?}"), format!("{:?}", tensor.shape()));
        return Err(error.at(Place::Tensor(key.to_owned())));
    }
    Ok(tensor)
}

fn embedding_key() -> String {
    key("embedding.weight")
}

fn key(name: &str) -> String {
    Key::Encoder { name: name.to_owned() }.to_string()
}

/// Whether the parameters of a network are given.
pub(crate) fn is_given(given: &Given<'_>) -> bool {
    given(&embedding_key()).is_some()
}

fn token_dim(shape: &PromptShape) -> Result<usize> {
    size("token_dim", shape.token_dim)
}

fn size(name: &'static str, size: Option<usize>) -> Result<usize> {
    size.ok_or_else(|| Error::not_found("setting", name))
}
