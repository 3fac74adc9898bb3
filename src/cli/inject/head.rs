//! The options of a new head.

use crate::adapter::config::{NewHead, Pooling};
use crate::error::Result;

const HEAD: &str = "A new head, trained with any method (classification)";

/// A head to put on the model.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct HeadArgs {
    /// Put a new head with this many classes on the model, in place of its own head or outputs; --method head trains nothing else
    #[arg(long, value_name = "CLASSES", help_heading = HEAD, conflicts_with = "adapter")]
    pub num_labels: Option<usize>,
    /// Widths of the head's hidden layers, with ReLU between them [default: one linear layer]
    #[arg(long, value_name = "WIDTHS", value_delimiter = ',', requires = "num_labels", help_heading = HEAD)]
    pub head_layers: Vec<usize>,
    /// Pooling: cls (the first token), mean (of the tokens), last (the last token), none (the model's own) [default: none if the model pools, else
    /// last for decoders and mean for encoders; for embedding as 1_Pooling beside the model says]
    #[arg(long, value_name = "HOW", help_heading = HEAD)]
    pub pooling: Option<Pooling>,
}

impl HeadArgs {
    /// The head as it is configured, if there is to be one.
    ///
    /// # Errors
    /// Numbers that make no sense.
    pub fn new_head(&self) -> Result<Option<NewHead>> {
        let head = self.num_labels.map(|labels| NewHead { layers: self.head_layers.clone(), labels, pooling: self.pooling, modules: None });
        head.as_ref().map_or(Ok(()), NewHead::check)?;
        Ok(head)
    }
}

/// The head in a line: `64 -> 2 (classifier.0, classifier.2), pooling mean`.
pub(super) fn describe(head: &NewHead) -> String {
    let widths: Vec<String> = head.layers.iter().chain([&head.labels]).map(ToString::to_string).collect();
    let pooling = head.pooling.map(|pooling| format!(", pooling {pooling}")).unwrap_or_default();
    let modules = head.modules.as_ref().map(|modules| format!(" ({})", modules.names.join(", "))).unwrap_or_default();
    format!("{}{modules}{pooling}", widths.join(" -> "))
}
