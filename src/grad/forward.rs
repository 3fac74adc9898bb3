//! What a rule sees of a node.

use std::cell::{OnceCell, RefCell};
use std::ops::Index;

use crate::error::{Error, Refusal};
use crate::ir::{Attr, Builder, Expr, Node, ValueId};
use crate::num;

/// A forward node and the gradients of its outputs, as a gradient rule sees them.
pub struct Forward<'g> {
    /// Inputs.
    pub x: Values<'g>,
    /// The first output.
    pub y: Expr<'g>,
    /// All outputs.
    pub ys: Values<'g>,
    /// The gradient of the first output.
    pub dy: Expr<'g>,
    /// The gradients of all outputs; `None` where nothing that counts depends on one.
    pub dys: Vec<Option<Expr<'g>>>,
    b: &'g Builder,
    node: Node,
    refused: RefCell<Option<Refusal>>,
}

/// The inputs or outputs of a node. `values[i]` is one that the operator always has, [`get`](Self::get) one that may be left out.
pub struct Values<'g> {
    b: &'g Builder,
    slots: Vec<Option<Expr<'g>>>,
    missing: OnceCell<Expr<'g>>,
}

impl<'g> Values<'g> {
    fn new(b: &'g Builder, ids: &[Option<ValueId>]) -> Self {
        Self { b, slots: ids.iter().map(|id| id.map(|id| b.expr(id))).collect(), missing: OnceCell::new() }
    }

    /// The value at a position, unless it was left out.
    pub fn get(&self, position: usize) -> Option<Expr<'g>> {
        self.slots.get(position).copied().flatten()
    }

    /// All values, of an operator that takes any number of them and none may be left out.
    pub fn all(&self) -> Vec<Expr<'g>> {
        (0..self.slots.len()).map(|position| self[position]).collect()
    }
}

impl<'g> Index<usize> for Values<'g> {
    type Output = Expr<'g>;

    /// A value that the operator always has; where a broken graph has not, the graph being written cannot be finished.
    fn index(&self, position: usize) -> &Expr<'g> {
        self.slots.get(position).and_then(Option::as_ref).unwrap_or_else(|| {
            self.missing.get_or_init(|| {
                self.b.fail(Error::graph("a node has fewer inputs or outputs than its operator"));
                self.b.unknown()
            })
        })
    }
}

impl<'g> Forward<'g> {
    pub(super) fn new(b: &'g Builder, node: &Node, dys: Vec<Option<Expr<'g>>>) -> Self {
        let (x, ys) = (Values::new(b, &node.inputs), Values::new(b, &node.outputs));
        let y = ys[0];
        let dy = dys.first().copied().flatten().unwrap_or_else(|| y.zeros_like());
        Self { x, y, ys, dy, dys, b, node: node.clone(), refused: RefCell::default() }
    }

    /// The builder.
    pub fn b(&self) -> &'g Builder {
        self.b
    }

    /// An integer attribute, or the default that the operator's page gives.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.node.int(name, default)
    }

    /// A float attribute, or the default that the operator's page gives: the number that was meant, not its nearest float32.
    pub fn float(&self, name: &str, default: f64) -> f64 {
        match self.node.attrs.get(name) {
            Some(Attr::Float(value)) => f64::from(*value),
            _ => default,
        }
    }

    /// A list of integers, or nothing if the attribute is not there.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.node.ints(name)
    }

    /// A string attribute, or the default that the operator's page gives.
    pub fn str<'s>(&'s self, name: &str, default: &'s str) -> &'s str {
        self.node.str(name).unwrap_or(default)
    }

    /// The number that input `input` certainly is.
    pub fn number(&self, input: usize) -> Option<f64> {
        self.b.constant_of(self.x.get(input)?.id())?.scalar()
    }

    /// The whole numbers that input `input` certainly holds.
    pub fn whole_numbers(&self, input: usize) -> Option<Vec<i64>> {
        self.x.get(input)?.fact().known_contents()
    }

    /// The rank of the first input.
    pub fn rank(&self) -> i64 {
        num::int(self.x[0].rank())
    }

    /// The attribute `axis`, counted from the first axis of the first input.
    pub fn axis(&self, default: i64) -> i64 {
        self.from_first(self.int("axis", default))
    }

    /// An axis of the first input, counted from the first.
    pub fn from_first(&self, axis: i64) -> i64 {
        if axis < 0 { axis + self.rank() } else { axis }
    }

    /// The operator, with its domain in front unless that is ONNX's own.
    pub fn op(&self) -> &str {
        &self.node.op
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Says that this use of the operator has no gradient. What it returns only lets the rule end.
    pub fn refuse(&self, why: impl Into<Refusal>) -> Expr<'g> {
        self.refused.borrow_mut().get_or_insert(why.into());
        self.dy
    }

    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused.borrow().clone()
    }
}
