//! The tensors of an adapter in a graph.

use std::ops::Range;

use indexmap::IndexMap;

use super::init;
use super::key::{Key, KeyPart, PEFT_PREFIX};
use crate::ir::{Builder, DType, Expr, Tensor, ValueId};
use crate::{Error, Place};

/// One tensor of an adapter, float32.
#[derive(Clone, Debug)]
pub struct Param {
    /// The tensor's name in its file: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub key: String,
    /// The name in the graph: the key without PEFT's prefix.
    pub name: String,
    /// The graph's value.
    pub value: ValueId,
    /// The value to start from.
    pub initial: Tensor,
    /// What becomes of it.
    pub role: Role,
}

/// What becomes of an adapter's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is trained, and kept in the adapter's file.
    Trained,
    /// It is trained, and kept beside the adapter's file, which has what is computed from it.
    Encoder,
    /// It is kept in the adapter's file and never changes.
    Fixed,
}

impl Param {
    /// Whether training changes it.
    #[must_use]
    pub fn is_trained(&self) -> bool {
        self.role != Role::Fixed
    }
}

/// Where tensors lie in the trainable vector that has them in this order, by key.
#[must_use]
pub fn places(params: &[Param]) -> IndexMap<&str, Range<usize>> {
    let mut start = 0;
    let place = |param: &Param| {
        let from = start;
        start += param.initial.len();
        from..start
    };
    params.iter().map(|param| param.key.as_str()).zip(params.iter().map(place)).collect()
}

/// How the trained tensors stand in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamForm {
    /// As inputs with default values, which a caller may feed.
    Inputs,
    /// As constants.
    Constants,
}

/// Values by PEFT key, for the tensors of an adapter that are not fresh.
pub type Given<'a> = dyn Fn(&str) -> Option<Tensor> + 'a;

/// The adapter's tensors while it is being inserted: each is asked for by name, with the value a fresh adapter has.
pub struct Params<'g> {
    b: &'g Builder,
    given: &'g Given<'g>,
    form: ParamForm,
    made: std::cell::RefCell<IndexMap<String, Param>>,
}

impl<'g> Params<'g> {
    /// Starts with no tensors; `given` has values by PEFT key for those that are not fresh.
    pub fn new(b: &'g Builder, given: &'g Given<'g>, form: ParamForm) -> Self {
        Self { b, given, form, made: std::cell::RefCell::default() }
    }

    /// The tensor called `name` (a module path and PEFT's suffix): as given, else fresh. Asked for twice, it is the same.
    pub fn get(&self, name: &str, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        self.keyed(&format!("{PEFT_PREFIX}{name}"), name, fresh)
    }

    /// The same for a tensor whose PEFT key does not follow from its name.
    pub fn keyed(&self, key: &str, name: &str, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        self.put(key, name, Role::Trained, fresh)
    }

    /// A tensor that a method adds to a module, under PEFT's name.
    pub fn of(&self, module: &str, part: KeyPart, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        let key = Key::module(module, part);
        self.keyed(&key.to_string(), &input_name(&key), fresh)
    }

    /// A parameter of the network that computes the prompt; its key is its name.
    pub fn encoder(&self, key: &str, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        self.put(key, key, Role::Encoder, fresh)
    }

    /// A tensor that belongs to the adapter but is not trained.
    pub fn fixed(&self, key: &str, name: &str, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        self.put(key, name, Role::Fixed, fresh)
    }

    /// The value of a tensor that is not fresh.
    #[must_use]
    pub fn given(&self, key: &str) -> Option<Tensor> {
        (self.given)(key)
    }

    /// A tensor of any role, by its PEFT key and its name in the graph.
    pub(crate) fn put(&self, key: &str, name: &str, role: Role, fresh: impl FnOnce() -> Tensor) -> Expr<'g> {
        if let Some(made) = self.made.borrow().get(key) {
            return self.b.expr(made.value);
        }
        let fresh = fresh();
        let initial = (self.given)(key).unwrap_or_else(|| fresh.clone());
        if initial.shape() != fresh.shape() {
            let error = Error::mismatch("shape", format!("{:?}", fresh.shape()), format!("{:?}", initial.shape()));
            self.b.fail(error.at(Place::Tensor(key.to_owned())).with_hint("is the adapter one of another base?"));
        }
        debug_assert_eq!(initial.dtype(), DType::F32, "adapters are float32");
        let value = match (self.form, role) {
            (ParamForm::Constants, _) | (_, Role::Fixed) => self.b.initializer(name, initial.clone()),
            (ParamForm::Inputs, Role::Trained | Role::Encoder) => self.b.optional_input(name, initial.clone()),
        };
        let param = Param { key: key.into(), name: value.name().to_string(), value: value.id(), initial, role };
        self.made.borrow_mut().insert(key.to_owned(), param);
        value
    }

    /// All tensors, sorted by key.
    #[must_use]
    pub fn finish(self) -> Vec<Param> {
        let mut made: Vec<Param> = self.made.into_inner().into_values().collect();
        made.sort_by(|a, b| a.key.cmp(&b.key));
        made
    }
}

/// The input of a graph that has a tensor of an adapter by its module and part, without PEFT's prefix.
pub(crate) fn input_name(key: &Key) -> String {
    let key = key.to_string();
    key.strip_prefix(PEFT_PREFIX).map_or_else(|| key.clone(), str::to_owned)
}

/// Uniform numbers as PyTorch's `kaiming_uniform_(a=√5)`: a bound of `1/√columns`.
#[must_use]
pub fn narrow_uniform(seed: u64, key: &Key, shape: [usize; 2]) -> Tensor {
    init::uniform(&mut init::generator(seed, &key.to_string()), &shape, init::to_f32(shape[1]).sqrt().recip())
}
