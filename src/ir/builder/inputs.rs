//! Inputs and constants.

use super::{Builder, SHARED_CONSTANT_BYTES, State};
use crate::ir::{DType, Dim, Expr, Fact, Tensor, Value, ValueId};

impl Builder {
    /// Adds an input that callers must feed.
    pub fn input(&self, name: &str, dtype: DType, shape: &[Dim]) -> Expr<'_> {
        self.input_value(name, Fact::new(dtype, shape.to_vec()), None)
    }

    /// Adds an input of which only `fact` is known, with the file's own words about it.
    pub fn input_value(&self, name: &str, fact: Fact, declared: Option<bytes::Bytes>) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim(name);
        let id = state.push(Value { name, fact, declared });
        state.graph.inputs.push(id);
        drop(state);
        Expr::new(self, id)
    }

    /// Adds an input with a default value: an initializer that callers may override (an *optional input*).
    pub fn optional_input(&self, name: &str, default: Tensor) -> Expr<'_> {
        let input = self.input_value(name, Fact { contents: None, ..Fact::of(&default) }, None);
        self.state.borrow_mut().graph.initializers_mut().insert(input.id(), default);
        input
    }

    /// Takes an input's default value away: callers must feed it.
    pub fn require_input(&self, input: Expr<'_>) {
        self.state.borrow_mut().graph.initializers_mut().remove(&input.id());
    }

    /// Takes an input away: from now on its value is `replacement`.
    pub fn remove_input<'g>(&'g self, input: Expr<'g>, replacement: Expr<'g>) {
        self.rewire(input, |_| replacement);
        let mut state = self.state.borrow_mut();
        state.forget_input(input.id());
        state.graph.initializers_mut().remove(&input.id());
    }

    /// Adds a named constant.
    pub fn initializer(&self, name: &str, tensor: Tensor) -> Expr<'_> {
        self.initializer_value(name, tensor, None)
    }

    /// Adds a named constant with the file's own words about it.
    pub fn initializer_value(&self, name: &str, tensor: Tensor, declared: Option<bytes::Bytes>) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim(name);
        let id = state.push(Value { name, fact: Fact::of(&tensor), declared });
        state.graph.initializers_mut().insert(id, tensor);
        drop(state);
        Expr::new(self, id)
    }

    /// The named constants so far.
    pub fn constants(&self) -> Vec<(Expr<'_>, Tensor)> {
        let state = self.state.borrow();
        state.graph.initializers.iter().map(|(&id, tensor)| (Expr::new(self, id), tensor.clone())).collect()
    }

    /// Adds a value that neither a node nor a constant held here makes: a sparse initializer, which only the file knows.
    pub fn foreign_value(&self, name: &str, fact: Fact, declared: Option<bytes::Bytes>) -> Expr<'_> {
        let mut state = self.state.borrow_mut();
        let name = state.claim(name);
        let id = state.push(Value { name, fact, declared });
        drop(state);
        Expr::new(self, id)
    }

    /// Replaces the data of an initializer.
    pub fn set_initializer(&self, id: ValueId, tensor: Tensor) {
        let mut state = self.state.borrow_mut();
        let overridable = state.graph.is_input(id);
        let fact = Fact::of(&tensor);
        state.graph.values_mut()[id.index()].fact = if overridable { Fact { contents: None, ..fact } } else { fact };
        state.graph.initializers_mut().insert(id, tensor);
    }

    /// A constant; small ones are written once.
    pub fn constant(&self, tensor: Tensor) -> Expr<'_> {
        let small = tensor.bytes().filter(|bytes| bytes.len() <= SHARED_CONSTANT_BYTES);
        let Some(key) = small.map(|bytes| (tensor.dtype(), tensor.shape().to_vec(), bytes.to_vec())) else {
            return self.initializer("constant", tensor);
        };
        if let Some(&id) = self.state.borrow().constants.get(&key) {
            return Expr::new(self, id);
        }
        let scope = self.state.borrow().scope.clone();
        let constant = self.initializer(&format!("{scope}constant"), tensor);
        self.state.borrow_mut().constants.insert(key, constant.id());
        constant
    }

    /// A vector of whole numbers, int64.
    pub fn ints(&self, values: &[i64]) -> Expr<'_> {
        self.constant(Tensor::from_i64(&[values.len()], values))
    }

    /// A whole number, int64, rank 0.
    pub fn int(&self, value: i64) -> Expr<'_> {
        self.constant(Tensor::from_i64(&[], &[value]))
    }

    /// A number of a type, rank 0, rounded once.
    pub fn number(&self, value: f64, dtype: DType) -> Expr<'_> {
        match Tensor::from_f64(dtype, &[], &[value]) {
            Ok(tensor) => self.constant(tensor),
            Err(error) => {
                self.fail(error);
                self.unknown()
            }
        }
    }

    /// The constant behind a value, if no caller can override it.
    #[must_use]
    pub fn constant_of(&self, id: ValueId) -> Option<Tensor> {
        self.state.borrow().constant(id).cloned()
    }

    /// The data of an initializer, whether callers can override it or not.
    #[must_use]
    pub fn initial(&self, id: ValueId) -> Option<Tensor> {
        self.state.borrow().graph.initializers.get(&id).cloned()
    }

    /// Makes a constant of an input with a default value.
    pub fn fix_input(&self, input: Expr<'_>) {
        let mut state = self.state.borrow_mut();
        let Some(fact) = state.graph.initializers.get(&input.id()).map(Fact::of) else { return };
        state.graph.values_mut()[input.id().index()].fact = fact;
        state.forget_input(input.id());
    }

    /// Whether a value is a constant that no caller can override.
    #[must_use]
    pub fn is_constant(&self, id: ValueId) -> bool {
        self.state.borrow().constant(id).is_some()
    }
}

impl State {
    /// Takes a value from the inputs, which stand in the order of their ids.
    fn forget_input(&mut self, input: ValueId) {
        if let Ok(at) = self.graph.inputs.binary_search(&input) {
            self.graph.inputs.remove(at);
        }
    }
}
