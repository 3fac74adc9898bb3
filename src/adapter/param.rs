//! Trainable tensors.

use crate::ir::{Builder, DType, Expr, Tensor, ValueId};
use crate::{Error, Place};

/// One trainable tensor of an adapter, float32.
#[derive(Clone, Debug)]
pub struct Param {
    /// The tensor's name in a PEFT file: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub key: String,
    /// The name of the graph's optional input: the key without PEFT's prefix.
    pub name: String,
    /// The input's value.
    pub value: ValueId,
    /// The value to start from.
    pub initial: Tensor,
}

/// PEFT's prefix of the base model's module paths.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// The adapter's trainable tensors while it is being inserted: each is asked for by name, with the value a fresh adapter has.
pub struct Params<'g> {
    b: &'g Builder,
    given: &'g dyn Fn(&str) -> Option<Tensor>,
    made: std::cell::RefCell<Vec<Param>>,
}

impl<'g> Params<'g> {
    /// Starts with no tensors; `given` has values by PEFT key for those that are not fresh.
    pub fn new(b: &'g Builder, given: &'g dyn Fn(&str) -> Option<Tensor>) -> Self {
        Self { b, given, made: std::cell::RefCell::default() }
    }

    /// The tensor called `name` (a module path and PEFT's suffix): as given, else fresh. Asked for twice, it is the same.
    pub fn get(&self, name: &str, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        self.keyed(&format!("{PEFT_PREFIX}{name}"), name, fresh)
    }

    /// The same for a tensor whose PEFT key does not follow from its name.
    pub fn keyed(&self, key: &str, name: &str, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        if let Some(made) = self.made.borrow().iter().find(|p| p.key == key) {
            return self.b.expr(made.value);
        }
        let fresh = fresh();
        let initial = (self.given)(key).unwrap_or_else(|| fresh.clone());
        if initial.shape() != fresh.shape() {
            let error = Error::mismatch("shape", format!("{:?}", fresh.shape()), format!("{:?}", initial.shape()));
            self.b.fail(error.at(Place::Tensor(key.to_owned())).with_hint("is the adapter one of another base?"));
        }
        let input = self.b.optional_input(name, initial.clone());
        debug_assert_eq!(initial.dtype(), DType::F32, "adapters are float32");
        self.made.borrow_mut().push(Param { key: key.into(), name: input.name().to_string(), value: input.id(), initial });
        input
    }

    /// All tensors, sorted by key.
    #[must_use]
    pub fn finish(self) -> Vec<Param> {
        let mut made = self.made.into_inner();
        made.sort_by(|a, b| a.key.cmp(&b.key));
        made
    }
}
