//! A layer of an LSTM that reads the virtual tokens from both ends (Hochreiter & Schmidhuber, Long Short-Term Memory; PyTorch `nn.LSTM`).
//!
//! With `σ` the logistic function, for each row `x` and the state `h`, `c` behind the row before:
//!
//! ```text
//! [i f g o] = x · W_ihᵀ + b_ih + h · W_hhᵀ + b_hh
//! c = σ(f) ⊙ c + σ(i) ⊙ tanh(g)
//! h = σ(o) ⊙ tanh(c)
//! ```
//!
//! In the graph each row has nodes of its own: there are few, and their gradient needs no rule of its own.

use ndarray::{Array1, Array2, s};

use super::{Values, Weight, init, key, matrix, vector};
use crate::Result;
use crate::ir::{Builder, Expr};
use crate::num;

/// One layer.
#[derive(Clone, Debug)]
pub(super) struct Lstm {
    /// Its number, from 0.
    pub(super) layer: usize,
    /// Length of the rows that it reads.
    pub(super) inputs: usize,
    /// Length of the state of each direction; it gives rows of twice that.
    pub(super) hidden: usize,
}

/// From which end the rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Backward];

/// The keys of one direction.
struct Keys {
    input: String,
    state: String,
    biases: [String; 2],
}

impl Lstm {
    fn keys(&self, direction: Direction) -> Keys {
        let end = if direction == Direction::Backward { "_reverse" } else { "" };
        let name = |what: &str| key(&format!("lstm_head.{what}_l{}{end}", self.layer));
        Keys { input: name("weight_ih"), state: name("weight_hh"), biases: [name("bias_ih"), name("bias_hh")] }
    }

    /// Every parameter.
    pub(super) fn weights(&self) -> Vec<Weight> {
        let (gates, bound) = (4 * self.hidden, init::to_f32(self.hidden).sqrt().recip());
        let of = |direction| {
            let Keys { input, state, biases } = self.keys(direction);
            let matrices = [(input, vec![gates, self.inputs]), (state, vec![gates, self.hidden])];
            matrices.into_iter().chain(biases.map(|bias| (bias, vec![gates])))
        };
        DIRECTIONS.into_iter().flat_map(of).map(|(key, shape)| Weight { key, shape, bound }).collect()
    }

    /// Writes the layer on `x` `[rows, inputs]`: `[rows, 2 · hidden]`.
    pub(super) fn write<'g>(&self, b: &'g Builder, x: Expr<'g>, rows: usize, param: &dyn Fn(&str) -> Expr<'g>) -> Expr<'g> {
        let hidden = num::int(self.hidden);
        let sigmoid = |x: Expr<'g>| b.op("Sigmoid", &[x], &[]);
        let of = |direction| {
            let Keys { input, state, biases: [of_input, of_state] } = self.keys(direction);
            let given = x.matmul(param(&input).t()) + param(&of_input) + param(&of_state);
            let given = given.split(&vec![1; rows], 0);
            let turned = param(&state).t();
            let mut before: Option<(Expr<'g>, Expr<'g>)> = None;
            let mut found = vec![None; rows];
            for row in order(direction, rows) {
                let gates = before.map_or(given[row], |(h, _)| given[row] + h.matmul(turned));
                let gates = gates.split(&[hidden; 4], 1);
                let new = sigmoid(gates[0]) * gates[2].tanh();
                let c = before.map_or(new, |(_, c)| sigmoid(gates[1]) * c + new);
                let h = sigmoid(gates[3]) * c.tanh();
                (before, found[row]) = (Some((h, c)), Some(h));
            }
            let found: Vec<Expr<'g>> = found.into_iter().flatten().collect();
            found[0].concat(&found[1..], 0)
        };
        of(Direction::Forward).concat(&[of(Direction::Backward)], 1)
    }

    /// Computes the layer on `x` `[rows, inputs]`: `[rows, 2 · hidden]`.
    pub(super) fn compute(&self, x: &Array2<f32>, parameter: &Values<'_>) -> Result<Array2<f32>> {
        let (rows, hidden) = (x.nrows(), self.hidden);
        let sigmoid = |x: f32| (1.0 + (-x).exp()).recip();
        let mut y = Array2::zeros((rows, 2 * hidden));
        for (direction, start) in DIRECTIONS.into_iter().zip([0, hidden]) {
            let Keys { input, state, biases: [of_input, of_state] } = self.keys(direction);
            let biases = vector(parameter, &of_input, 4 * hidden)? + vector(parameter, &of_state, 4 * hidden)?;
            let given = x.dot(&matrix(parameter, &input, [4 * hidden, self.inputs])?.t()) + biases;
            let state = matrix(parameter, &state, [4 * hidden, hidden])?;
            let (mut h, mut c) = (Array1::<f32>::zeros(hidden), Array1::<f32>::zeros(hidden));
            for row in order(direction, rows) {
                let gates = &given.row(row) + &state.dot(&h);
                let gate = |number: usize| gates.slice(s![number * hidden..(number + 1) * hidden]).to_owned();
                c = gate(1).mapv(sigmoid) * c + gate(0).mapv(sigmoid) * gate(2).mapv(f32::tanh);
                h = gate(3).mapv(sigmoid) * c.mapv(f32::tanh);
                y.slice_mut(s![row, start..start + hidden]).assign(&h);
            }
        }
        Ok(y)
    }
}

fn order(direction: Direction, rows: usize) -> Vec<usize> {
    match direction {
        Direction::Forward => (0..rows).collect(),
        Direction::Backward => (0..rows).rev().collect(),
    }
}
