//! Tasks under PEFT's names.

pub use crate::anatomy::Task;

/// The tasks that PEFT tells apart, with its `task_type`; it leaves that empty for the others.
const TASK_TYPES: &[(Task, &str)] =
    &[(Task::CausalLm, "CAUSAL_LM"), (Task::SeqCls, "SEQ_CLS"), (Task::TokenCls, "TOKEN_CLS"), (Task::Seq2SeqLm, "SEQ_2_SEQ_LM")];

impl Task {
    /// PEFT's name: `CAUSAL_LM`; none for tasks that PEFT does not tell apart.
    #[must_use]
    pub fn task_type(self) -> Option<&'static str> {
        TASK_TYPES.iter().find(|(task, _)| *task == self).map(|(_, name)| *name)
    }

    /// The task of PEFT's name.
    #[must_use]
    pub fn from_task_type(name: &str) -> Option<Self> {
        TASK_TYPES.iter().find(|(_, known)| *known == name).map(|(task, _)| *task)
    }

    /// Modules that PEFT trains and saves for the task even if nobody names them (`PeftModelForSequenceClassification` in `peft/peft_model.py`);
    /// for images, which PEFT has no such class for, the same.
    #[must_use]
    pub fn heads(self) -> &'static [&'static str] {
        match self {
            Self::SeqCls | Self::TokenCls | Self::ImageCls => &["classifier", "score"],
            Self::CausalLm | Self::MaskedLm | Self::Seq2SeqLm => &[],
        }
    }
}
