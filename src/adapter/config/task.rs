//! Tasks, under the command line's and PEFT's names.

/// What the model is trained to do; PEFT's `TaskType`, and the tasks for which PEFT leaves it empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// The next token.
    CausalLm,
    /// Masked tokens.
    MaskedLm,
    /// A class of the whole sequence.
    SeqCls,
    /// A class of every token.
    TokenCls,
    /// A class of an image.
    ImageCls,
    /// Text from text, with an encoder and a decoder.
    Seq2SeqLm,
}

/// Every task: command line name, PEFT's `task_type`.
const TASKS: &[(Task, &str, Option<&str>)] = &[
    (Task::CausalLm, "causal-lm", Some("CAUSAL_LM")),
    (Task::MaskedLm, "masked-lm", None),
    (Task::SeqCls, "seq-cls", Some("SEQ_CLS")),
    (Task::TokenCls, "token-cls", Some("TOKEN_CLS")),
    (Task::ImageCls, "image-cls", None),
    (Task::Seq2SeqLm, "seq2seq-lm", Some("SEQ_2_SEQ_LM")),
];

impl Task {
    /// The name on the command line: `causal-lm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// PEFT's name: `CAUSAL_LM`; none for tasks that PEFT does not tell apart.
    #[must_use]
    pub fn task_type(self) -> Option<&'static str> {
        self.row().2
    }

    /// The task of a command line name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TASKS.iter().find(|(_, known, _)| *known == name).map(|(task, ..)| *task)
    }

    /// The task of PEFT's name.
    #[must_use]
    pub fn from_task_type(name: &str) -> Option<Self> {
        TASKS.iter().find(|(.., known)| *known == Some(name)).map(|(task, ..)| *task)
    }

    /// Modules that PEFT trains and saves for the task even if nobody names them (`PeftModelForSequenceClassification` in `peft/peft_model.py`).
    #[must_use]
    pub fn heads(self) -> &'static [&'static str] {
        match self {
            Self::SeqCls | Self::TokenCls | Self::ImageCls => &["classifier", "score"],
            Self::CausalLm | Self::MaskedLm | Self::Seq2SeqLm => &[],
        }
    }

    fn row(self) -> &'static (Self, &'static str, Option<&'static str>) {
        TASKS.iter().find(|(task, ..)| *task == self).expect("every task has a row")
    }
}
