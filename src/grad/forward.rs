//! What a rule sees of a node.

use std::cell::RefCell;

use crate::ir::{Attr, Builder, Expr, Node};

/// A forward node and the gradients of its outputs, as a gradient rule sees them.
pub struct Forward<'g> {
    /// Inputs. One that was left out is a value of which nothing is known: see [`given`](Self::given).
    pub x: Vec<Expr<'g>>,
    /// Outputs.
    pub ys: Vec<Expr<'g>>,
    /// The first output.
    pub y: Expr<'g>,
    /// Gradients of the outputs; `None` where nothing that counts depends on one.
    pub dys: Vec<Option<Expr<'g>>>,
    /// The gradient of the first output.
    pub dy: Expr<'g>,
    b: &'g Builder,
    node: Node,
    refused: RefCell<Option<String>>,
}

impl<'g> Forward<'g> {
    /// Inputs that any operator with a rule may have left out.
    const OPTIONAL: usize = 8;

    pub(super) fn new(b: &'g Builder, node: &Node, dys: Vec<Option<Expr<'g>>>) -> Self {
        let left_out = std::cell::OnceCell::new();
        let value = |id: Option<_>| id.map_or_else(|| *left_out.get_or_init(|| b.unknown()), |id| b.expr(id));
        let padding = Self::OPTIONAL.saturating_sub(node.inputs.len());
        let x = node.inputs.iter().copied().chain(std::iter::repeat_n(None, padding)).map(value).collect();
        let ys: Vec<Expr> = node.outputs.iter().copied().map(value).collect();
        let y = ys.first().copied().unwrap_or_else(|| b.unknown());
        let dy = dys.first().copied().flatten().unwrap_or_else(|| y.zeros_like());
        Self { x, y, ys, dy, dys, b, node: node.clone(), refused: RefCell::default() }
    }

    /// The builder.
    pub fn b(&self) -> &'g Builder {
        self.b
    }

    /// The number of inputs, counting those left out before the last one that is there.
    pub fn inputs(&self) -> usize {
        self.node.inputs.len()
    }

    /// An input, unless it was left out.
    pub fn given(&self, input: usize) -> Option<Expr<'g>> {
        self.node.input(input).map(|id| self.b.expr(id))
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
        self.b.constant_of(self.given(input)?.id())?.scalar()
    }

    /// The whole numbers that input `input` certainly holds.
    pub fn whole_numbers(&self, input: usize) -> Option<Vec<i64>> {
        self.given(input)?.fact().known_contents()
    }

    /// The rank of the first input.
    pub fn rank(&self) -> i64 {
        i64::try_from(self.x[0].rank()).unwrap_or(i64::MAX)
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
    pub fn refuse(&self, why: impl Into<String>) -> Expr<'g> {
        self.refused.borrow_mut().get_or_insert(why.into());
        self.dy
    }

    pub(super) fn refused(&self) -> Option<String> {
        self.refused.borrow().clone()
    }
}
