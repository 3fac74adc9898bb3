//! The numbers of virtual tokens: trained as they are, or computed by a network that is trained.

use super::encoder::{self, Encoder};
use crate::Result;
use crate::adapter::params::{Given, budget::wide, key::Key};
use crate::adapter::part::{Insertion, Purpose};
use crate::ir::{Expr, Tensor};

/// One row for each virtual token.
#[derive(Debug)]
pub(crate) struct Rows {
    encoder: Option<Encoder>,
    seed: u64,
}

impl Rows {
    /// Where a method's rows come from. An adapter whose network was not kept (PEFT does not keep it) has its rows trained as they are.
    pub(crate) fn of(encoder: impl FnOnce() -> Result<Option<Encoder>>, given: &Given<'_>, seed: u64) -> Result<Self> {
        let lost = given(&Key::Prompt.to_string()).is_some() && !encoder::is_given(given);
        Ok(Self { encoder: if lost { None } else { encoder()? }, seed })
    }

    /// How many numbers the rows have, with those of the network that computes them.
    pub(crate) fn numbers(&self, tokens: usize, of_each: usize) -> u128 {
        let network = self.encoder.as_ref().map_or(0, Encoder::numbers);
        (wide(tokens) * wide(of_each)).saturating_add(network)
    }

    /// Rows that are trained as they are.
    #[cfg(test)]
    pub(crate) fn without_network() -> Self {
        Self { encoder: None, seed: 0 }
    }

    fn computed(&self, encoder: &Encoder, at: &Insertion<'_, '_>) -> Result<Tensor> {
        // Initialisation errors are reported when the training graph is built; here the tensor is missing.
        encoder.compute(&|key| at.params.given(key).or_else(|| encoder.fresh(key, self.seed).unwrap_or_default()))
    }

    /// Writes the rows `[tokens, numbers]`; `fresh` makes those of a new adapter without a network.
    pub(crate) fn write<'g>(&self, at: &Insertion<'g, '_>, fresh: impl FnOnce() -> Result<Tensor>) -> Expr<'g> {
        let key = Key::Prompt.to_string();
        match (&self.encoder, at.purpose) {
            (Some(encoder), Purpose::Training(_)) => encoder.write(at.b, at.params, self.seed),
            (encoder, _) => at.params.keyed(&key, &key, || {
                let value = match encoder {
                    Some(encoder) => self.computed(encoder, at),
                    None => fresh(),
                };
                value.unwrap_or_else(|error| {
                    at.b.fail(error);
                    Tensor::from_f32(&[0], &[])
                })
            }),
        }
    }
}
