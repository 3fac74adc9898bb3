//! What others ask of an operator, in one table: whether an operator only moves elements, or is random, is asked here.
//!
//! Operators of ONNX's own domain go by their name, others by domain and name. Lists that say which steps a search takes stay with the search.

use Trait::{
    Choice, Comparison, Convolution, Dequantises, Elementwise, InPlace, Lengths, Probability, Product, Random, Rounds, ShapeOnly, View,
    Weighs,
};

/// A property of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// Its output has the elements of its first input in the same order.
    View,
    /// Treats every element alone, and broadcasts its operands.
    Elementwise,
    /// Gives something else each time it runs.
    Random,
    /// A product of matrices.
    Product,
    /// A product over a window that moves.
    Convolution,
    /// Says which of two numbers is larger.
    Comparison,
    /// Turns small integers into the numbers that they stand for.
    Dequantises,
    /// Rounds numbers to small integers.
    Rounds,
    /// Gives probabilities, or logarithms of them.
    Probability,
    /// Chooses among classes.
    Choice,
    /// Looks at the shape of its input only.
    ShapeOnly,
    /// Gives lengths of its input.
    Lengths,
    /// ONNX Runtime may write its output where an input is that nobody reads afterwards (`MayInplace` in its kernels).
    InPlace,
    /// Computes an element from many others, so that what comes out is no mask any more.
    Weighs,
}

/// Every operator that somebody asks about, in the order of the names.
static OPERATORS: &[(&str, &[Trait])] = &[
    ("Abs", &[InPlace]),
    ("Add", &[Elementwise, InPlace]),
    ("ArgMax", &[Choice]),
    ("Attention", &[Weighs]),
    ("Bernoulli", &[Random]),
    ("Cast", &[Elementwise, InPlace]),
    ("Clip", &[Elementwise, InPlace]),
    ("ConstantOfShape", &[ShapeOnly]),
    ("Conv", &[Convolution]),
    ("ConvTranspose", &[Convolution]),
    ("DequantizeLinear", &[Dequantises]),
    ("Div", &[Elementwise, InPlace]),
    ("Dropout", &[Random]),
    ("DynamicQuantizeLinear", &[Rounds]),
    ("Elu", &[Elementwise]),
    ("Erf", &[Elementwise, InPlace]),
    ("Exp", &[Probability, InPlace]),
    ("EyeLike", &[ShapeOnly]),
    ("Flatten", &[View]),
    ("Gelu", &[Elementwise]),
    ("Gemm", &[Product, Weighs]),
    ("Greater", &[Comparison]),
    ("GreaterOrEqual", &[Comparison]),
    ("HardSigmoid", &[Probability]),
    ("Hardmax", &[Choice]),
    ("Identity", &[Elementwise]),
    ("LayerNormalization", &[Weighs]),
    ("Less", &[Comparison]),
    ("LessOrEqual", &[Comparison]),
    ("Log", &[Probability, InPlace]),
    ("LogSoftmax", &[Probability]),
    ("MatMul", &[Product, Weighs]),
    ("Max", &[Elementwise]),
    ("Min", &[Elementwise]),
    ("Mul", &[Elementwise, InPlace]),
    ("Multinomial", &[Random]),
    ("Neg", &[Elementwise, InPlace]),
    ("Pow", &[Elementwise]),
    ("QuantizeLinear", &[Rounds]),
    ("RMSNormalization", &[Weighs]),
    ("RandomNormal", &[Random]),
    ("RandomNormalLike", &[Random]),
    ("RandomUniform", &[Random]),
    ("RandomUniformLike", &[Random]),
    ("Range", &[ShapeOnly]),
    ("Reciprocal", &[InPlace]),
    ("ReduceMax", &[Choice]),
    ("Relu", &[Elementwise, InPlace]),
    ("Reshape", &[View]),
    ("Shape", &[ShapeOnly, Lengths]),
    ("Sigmoid", &[Elementwise, Probability, InPlace]),
    ("Size", &[ShapeOnly, Lengths]),
    ("Softmax", &[Probability, Weighs]),
    ("Softplus", &[Elementwise, Probability]),
    ("Sqrt", &[Elementwise, InPlace]),
    ("Squeeze", &[View]),
    ("Sub", &[Elementwise, InPlace]),
    ("Sum", &[Elementwise, InPlace]),
    ("Tanh", &[Elementwise, InPlace]),
    ("TopK", &[Choice]),
    ("Unsqueeze", &[View]),
    ("ai.onnx.ml:LabelEncoder", &[Choice]),
    ("ai.onnx.ml:ZipMap", &[Choice]),
    ("com.microsoft:BiasGelu", &[Elementwise]),
    ("com.microsoft:FastGelu", &[Elementwise]),
    ("com.microsoft:FusedMatMul", &[Product]),
    ("com.microsoft:Gelu", &[Elementwise]),
    ("com.microsoft:QuickGelu", &[Elementwise]),
];

impl Trait {
    /// Whether an operator has it.
    #[must_use]
    pub fn is_of(self, op: &str) -> bool {
        OPERATORS.binary_search_by_key(&op, |(name, _)| name).is_ok_and(|row| OPERATORS[row].1.contains(&self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_names() {
        let names: Vec<&str> = OPERATORS.iter().map(|(name, _)| *name).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(names, sorted);
    }

    #[test]
    fn operators_of_another_domain_are_others() {
        assert!(Product.is_of("MatMul") && Product.is_of("com.microsoft:FusedMatMul"));
        assert!(!Product.is_of("com.microsoft:MatMul") && !View.is_of("Nonsense"));
    }
}
