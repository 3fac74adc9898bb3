//! A row: an operator, what it is given, and the numbers it is smooth on.

use peft_onnx::ir::Attr;

/// The numbers that an input is filled with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Domain {
    /// Between two numbers.
    Within(f32, f32),
    /// Of either sign, and not near zero, where the operator has a kink or a pole.
    AwayFromZero,
}

/// An input of a row.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// Numbers; whether their gradient is checked. Negative lengths are symbolic.
    Numbers { shape: Vec<i64>, domain: Domain, asked: bool },
    /// Whole numbers that the graph holds.
    Whole { shape: Vec<usize>, values: Vec<i64> },
    /// Truth values that the graph holds.
    Truth { shape: Vec<usize>, values: Vec<i64> },
    /// A number that the graph holds.
    Constant(f64),
    /// A vector of float32 numbers that the graph holds.
    Held(Vec<f32>),
    /// The shape of another input, which the graph computes.
    Computed(usize),
    /// Nothing.
    LeftOut,
}

impl Input {
    /// Whether the gradient with respect to this input is checked.
    pub(crate) fn is_asked_for(&self) -> bool {
        matches!(self, Self::Numbers { asked: true, .. })
    }
}

/// The type that a row is computed in, its step and its tolerance.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Precision {
    /// float64: a step of 1e-6 leaves 1e-10 of rounding and 1e-12 of curvature.
    Double,
    /// float32, where ONNX Runtime's processor has no float64 kernel: a step of 1e-2 leaves 1e-4 of curvature and 1e-5 of rounding,
    /// which sums of many elements multiply.
    Single,
}

impl Precision {
    /// The length that inputs are moved by.
    pub(crate) fn step(self) -> f64 {
        match self {
            Self::Double => 1e-6,
            Self::Single => 1e-2,
        }
    }

    /// The relative error that is accepted.
    pub(crate) fn tolerance(self) -> f32 {
        match self {
            Self::Double => 1e-7,
            Self::Single => 2e-3,
        }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) op: &'static str,
    pub(crate) inputs: Vec<Input>,
    pub(crate) attrs: Vec<(&'static str, Attr)>,
    /// The number of outputs that the node has.
    pub(crate) outputs: usize,
    /// The outputs that the loss depends on.
    pub(crate) seeds: Vec<usize>,
    pub(crate) opset: i64,
    pub(crate) precision: Precision,
}

pub(crate) fn row(op: &'static str, inputs: impl Into<Vec<Input>>) -> Row {
    Row { op, inputs: inputs.into(), attrs: vec![], outputs: 1, seeds: vec![0], opset: 18, precision: Precision::Double }
}

impl Row {
    pub(crate) fn attr(mut self, name: &'static str, value: impl Into<Attr>) -> Self {
        self.attrs.push((name, value.into()));
        self
    }

    pub(crate) fn int(self, name: &'static str, value: i64) -> Self {
        self.attr(name, value)
    }

    pub(crate) fn ints(self, name: &'static str, value: &[i64]) -> Self {
        self.attr(name, value)
    }

    pub(crate) fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }

    pub(crate) fn outputs(mut self, outputs: usize, seeds: &[usize]) -> Self {
        (self.outputs, self.seeds) = (outputs, seeds.to_vec());
        self
    }

    /// Computed in float32: ONNX Runtime's processor has no float64 kernel for the operator, or for one that its rule writes.
    pub(crate) fn single(mut self) -> Self {
        self.precision = Precision::Single;
        self
    }

    /// Whether a length is known only when the graph runs.
    pub(crate) fn is_symbolic(&self) -> bool {
        self.inputs.iter().any(|input| matches!(input, Input::Numbers { shape, .. } if shape.iter().any(|&n| n < 0)))
    }
}

pub(crate) fn numbers(shape: &[i64], domain: Domain) -> Input {
    Input::Numbers { shape: shape.to_vec(), domain, asked: true }
}

/// Numbers from -1.5 to 1.5.
pub(crate) fn any(shape: &[i64]) -> Input {
    numbers(shape, Domain::Within(-1.5, 1.5))
}

/// Numbers whose gradient is not asked for.
pub(crate) fn fixed(shape: &[i64]) -> Input {
    Input::Numbers { shape: shape.to_vec(), domain: Domain::Within(0.3, 2.0), asked: false }
}

/// Numbers from 0.3 to 2.
pub(crate) fn positive(shape: &[i64]) -> Input {
    numbers(shape, Domain::Within(0.3, 2.0))
}

pub(crate) fn within(from: f32, to: f32) -> Input {
    numbers(&[2, 3, 4], Domain::Within(from, to))
}

pub(crate) fn kinked() -> Input {
    numbers(&[2, 3, 4], Domain::AwayFromZero)
}

pub(crate) fn list(values: &[i64]) -> Input {
    Input::Whole { shape: vec![values.len()], values: values.to_vec() }
}

pub(crate) fn table(shape: &[usize], values: &[i64]) -> Input {
    Input::Whole { shape: shape.to_vec(), values: values.to_vec() }
}

pub(crate) fn truth(shape: &[usize], values: &[i64]) -> Input {
    Input::Truth { shape: shape.to_vec(), values: values.to_vec() }
}

pub(crate) fn whole(value: i64) -> Input {
    Input::Whole { shape: vec![], values: vec![value] }
}
