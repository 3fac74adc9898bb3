//! The names on which the writer of a bundle's graphs and their runner agree: graphs, inputs, outputs, and what ports are for.
//!
//! Both sides use these; nobody types a name again. They are also what a manifest has (`docs/` tells users of other languages about them).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The label of what does not count: a token, or a row (PyTorch's `ignore_index`).
pub const IGNORED: i32 = -100;

/// Words of a file format: an enum, the word of each variant, and reading and writing by that word.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        impl $name {
            /// All of them, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What a word means.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.name() == name)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.name()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = String::deserialize(deserializer)?;
                let known = || Self::ALL.iter().map(|word| word.name()).collect::<Vec<_>>().join(", ");
                Self::from_name(&word).ok_or_else(|| serde::de::Error::custom(format!("{word:?} is none of {}", known())))
            }
        }
    };
}

words! {
    /// The graphs of a bundle.
    GraphName {
        /// The model with the adapter's tensors as optional inputs.
        Inference = "inference",
        /// A whole step.
        Training = "training",
        /// The gradient alone, added to the one so far.
        Gradient = "gradient",
        /// The update alone.
        Update = "update",
        /// The loss alone.
        Evaluation = "evaluation",
        /// The vectors of a few rows (GradCache).
        Encode = "encode",
        /// The loss of all vectors, and its gradient with respect to them.
        Loss = "loss",
        /// The gradient of a few rows, of the gradient of their vectors.
        Vjp = "vjp",
    }
}

words! {
    /// Inputs of the graphs that train, beside the model's own.
    Input {
        /// All trainable parameters, float32 `[N]`.
        Trainable = "trainable",
        /// AdamW's first moment, float32 `[N]`.
        AdamM = "adam_m",
        /// AdamW's second moment, float32 `[N]`.
        AdamV = "adam_v",
        /// The gradient so far, float32 `[N]`.
        Gradient = "gradient",
        /// The optimizer step from 1, int64, rank 0.
        Step = "step",
        /// float32, rank 0.
        LearningRate = "learning_rate",
        /// How much the loss depends on each trainable parameter, a mean over steps, float32 `[N]`; where ranks are allocated.
        Sensitivity = "sensitivity",
        /// How much that changes, a mean over steps, float32 `[N]`; where ranks are allocated.
        Uncertainty = "uncertainty",
        /// 1 for each singular value that the last allocation masked, float32 `[ranks]`; where ranks are allocated.
        MaskedRanks = "masked_ranks",
        /// What the loss is divided by, float32, rank 0.
        LabelCount = "label_count",
        /// What the second term of a loss is divided by, of losses that have one, float32, rank 0.
        SecondCount = "second_count",
        /// Of a part of a batch, its share of what the adapter adds to the loss, of adapters that add something, float32, rank 0.
        PenaltyShare = "penalty_share",
        /// What is to be predicted.
        Labels = "labels",
        /// Seeds the masks of dropout, int64, rank 0; optional.
        DropoutSeed = "dropout_seed",
        /// Decoupled decay of every trainable parameter; optional.
        WeightDecay = "weight_decay",
        /// Decay of the first moment; optional.
        AdamBeta1 = "adam_beta1",
        /// Decay of the second moment; optional.
        AdamBeta2 = "adam_beta2",
        /// Added to the root of the second moment; optional.
        AdamEpsilon = "adam_epsilon",
        /// Gradients of a larger norm are scaled down to it, 0 turns that off; optional.
        MaxGradNorm = "max_grad_norm",
    }
}

/// Behind the name of a piece of state: its value after the step.
pub const NEXT: &str = "_next";

words! {
    /// Outputs of the graphs that train.
    Output {
        /// The loss, mean over the labels that count, float32, rank 0.
        Loss = "loss",
        /// The sum of the losses, float32, rank 0.
        LossSum = "loss_sum",
        /// Labels that count, rank 0.
        LabelCount = "label_count",
        /// The norm of the whole gradient before clipping, float32, rank 0.
        GradNorm = "grad_norm",
        /// 1 if the step was made; 0 if the gradient or the state after it are not finite, and the state stayed what it was. float32, rank 0.
        Updated = "updated",
        /// [`Input::Trainable`] after the step.
        TrainableNext = "trainable_next",
        /// [`Input::AdamM`] after the step.
        AdamMNext = "adam_m_next",
        /// [`Input::AdamV`] after the step.
        AdamVNext = "adam_v_next",
        /// [`Input::Sensitivity`] after the step.
        SensitivityNext = "sensitivity_next",
        /// [`Input::Uncertainty`] after the step.
        UncertaintyNext = "uncertainty_next",
        /// [`Input::MaskedRanks`] after the step.
        MaskedRanksNext = "masked_ranks_next",
        /// [`Input::Gradient`] with this batch's.
        GradientNext = "gradient_next",
    }
}

words! {
    /// What an input or output of a bundle's graph is for.
    PortRole {
        /// Filled with rows.
        Data = "data",
        /// What is to be predicted, and what it is divided by.
        Labels = "labels",
        /// Goes around from step to step.
        State = "state",
        /// An optional input with a default.
        Parameter = "parameter",
        /// What comes out.
        Result = "result",
    }
}

impl Input {
    /// What the input is for; none for those that have a default.
    #[must_use]
    pub const fn role(self) -> Option<PortRole> {
        match self {
            Self::Labels | Self::LabelCount | Self::SecondCount => Some(PortRole::Labels),
            Self::DropoutSeed | Self::WeightDecay | Self::AdamBeta1 | Self::AdamBeta2 | Self::AdamEpsilon | Self::MaxGradNorm => None,
            _ => Some(PortRole::State),
        }
    }
}

impl Output {
    /// What the output is for.
    #[must_use]
    pub const fn role(self) -> PortRole {
        match self {
            Self::Loss | Self::LossSum | Self::LabelCount | Self::GradNorm | Self::Updated => PortRole::Result,
            _ => PortRole::State,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for role in PortRole::ALL {
            let text = serde_json::to_string(role).expect("JSON");
            assert_eq!(text, format!("\"{role}\""));
            assert_eq!(serde_json::from_str::<PortRole>(&text).expect("a word"), *role);
        }
        let error = serde_json::from_str::<GraphName>("\"trainig\"").expect_err("no such graph");
        assert!(error.to_string().contains("\"trainig\" is none of inference, training"), "{error}");
    }

    #[test]
    fn state_goes_in_and_comes_out_under_one_name() {
        let after = Output::ALL.iter().filter(|output| output.role() == PortRole::State);
        for output in after {
            let before = output.name().strip_suffix("_next").and_then(Input::from_name);
            assert_eq!(before.and_then(Input::role), Some(PortRole::State), "{output}");
        }
    }
}
