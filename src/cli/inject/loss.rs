//! Options of the loss.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use crate::adapter::config::Pooling;
use crate::error::{Error, Result};
use crate::export::objective::{LossRequest, LossSource};
use crate::train::distillation::Distillation;

const HEADING: &str = "What is minimised";

/// Options of the loss.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LossArgs {
    /// The loss, one of the task's (an unknown name lists them) [default: the task's first]
    #[arg(long, value_name = "NAME", conflicts_with = "loss_graph", help_heading = HEADING)]
    pub loss: Option<String>,
    /// An ONNX file that computes the loss: its output is `loss`; its inputs are outputs of the model, inputs of the model and columns of the data, by name
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub loss_graph: Option<PathBuf>,
    /// An option of the loss, such as scale=20, margin=0.5 or beta=0.1; may be given several times
    #[arg(long, value_name = "NAME=NUMBER", help_heading = HEADING)]
    pub loss_option: Vec<Named<f64>>,
    /// Whether to normalise embeddings to length 1 [default: as modules.json beside the model says]
    #[arg(long, value_name = "true|false", help_heading = HEADING)]
    pub normalize: Option<bool>,
    /// Train embeddings that may be truncated to these lengths: 768,256,64
    #[arg(long, value_name = "LENGTHS", value_delimiter = ',', help_heading = HEADING)]
    pub matryoshka_dims: Vec<i64>,
    /// The weight of each class, in the order of their numbers: 1,2.5,0.5; or `balanced`: rows / (classes * rows of the class), of the training data
    #[arg(long, value_name = "WEIGHTS|balanced", help_heading = HEADING)]
    pub class_weights: Option<ClassWeights>,
    /// Label smoothing of the cross-entropy, from 0 to below 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, help_heading = HEADING)]
    pub label_smoothing: f64,
    /// Learn from a teacher's logits, in the column teacher_logits, with this weight; the labels have the rest, and 1 needs none
    #[arg(long, value_name = "SHARE", help_heading = HEADING)]
    pub distill_weight: Option<f64>,
    /// A model whose logits to learn from, instead of the column teacher_logits; of embeddings (mse, margin-mse) one whose vectors or scores to learn from, instead of labels
    #[arg(long, value_name = "MODEL", help_heading = HEADING)]
    pub teacher: Option<PathBuf>,
    /// Distillation temperature: divides the logits of teacher and student [default: 1; numbers (regression) have none]
    #[arg(long, value_name = "NUMBER", requires = "distill_weight", help_heading = HEADING)]
    pub temperature: Option<f64>,
    /// Put a text in front of a column's texts, as anchor="query: "; may be given several times
    #[arg(long = "prompt", value_name = "COLUMN=TEXT", help_heading = HEADING)]
    pub prompts: Vec<Named<String>>,
}

/// Weights of classes.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassWeights {
    /// Those that make all classes of the training data count alike.
    Balanced,
    /// One for each class.
    Each(Vec<f64>),
}

impl FromStr for ClassWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == "balanced" {
            return Ok(Self::Balanced);
        }
        let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
        numbers.map(Self::Each).map_err(|_| Error::invalid(format!("expected numbers, such as 1,2.5,0.5, or balanced, found {text}")))
    }
}

/// A value with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    name: String,
    value: T,
}

impl<T: FromStr> FromStr for Named<T> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::invalid(format!("expected NAME=VALUE, found {text}"));
        let (name, value) = text.split_once('=').ok_or_else(wrong)?;
        Ok(Self { name: name.trim().to_owned(), value: value.parse().map_err(|_| wrong())? })
    }
}

impl LossArgs {
    /// What is asked of the loss.
    ///
    /// # Errors
    /// An option that is given twice.
    pub(super) fn request(&self, pooling: Option<Pooling>) -> Result<LossRequest> {
        let mut options = BTreeMap::new();
        for Named { name, value } in &self.loss_option {
            if options.insert(name.clone(), *value).is_some() {
                return Err(Error::invalid(format!("--loss-option {name} is given twice")));
            }
        }
        Ok(LossRequest {
            name: self.loss.clone(),
            graph: self.loss_graph.clone().map(LossSource::File),
            options,
            pooling,
            normalize: self.normalize,
            matryoshka: self.matryoshka_dims.clone(),
            class_weights: if let Some(ClassWeights::Each(weights)) = &self.class_weights { weights.clone() } else { vec![] },
            balances_classes: self.class_weights == Some(ClassWeights::Balanced),
            label_smoothing: self.label_smoothing,
            distillation: self.distill_weight.map(|weight| Distillation { weight, temperature: self.temperature.unwrap_or(1.0) }),
            teacher: self.teacher.clone(),
            prompts: self.prompts.iter().map(|named| (named.name.clone(), named.value.clone())).collect(),
        })
    }
}
