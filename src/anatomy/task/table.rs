//! All tasks, one row each.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a model is trained to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// The next token at each position.
    CausalLm,
    /// The hidden tokens.
    MaskedLm,
    /// The next token of a text that answers another.
    Seq2SeqLm,
    /// A class for each text.
    SeqCls,
    /// Any number of labels for each text.
    MultiLabel,
    /// One or more numbers for each text.
    Regression,
    /// How relevant a passage is for a query.
    Rerank,
    /// A class for each token.
    TokenCls,
    /// Where in a text the answer to a question stands.
    Qa,
    /// A vector for each text.
    Embedding,
    /// Which of two answers is better, by the model's own probabilities.
    Preference,
    /// Which of two answers is better, by a score.
    Reward,
    /// A class for each image.
    ImageCls,
    /// A class for each sound.
    AudioCls,
    /// What is said in a sound, a character or a piece of a word for each stretch of it.
    Ctc,
    /// What is said in a sound, by a decoder that writes it.
    SpeechSeq2Seq,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::from_name(name).ok_or_else(|| {
            let all: Vec<&str> = TASKS.iter().map(|row| row.name).collect();
            Error::not_found("task", name).with_hint(format!("tasks are {}", all.join(", ")))
        })
    }
}

/// What of a model a task's losses read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reads {
    /// Scores of each token of the vocabulary, `[batch, seq, vocabulary]`: computed where labels are, never as a whole.
    Vocabulary,
    /// Scores of a whole row, `[batch, classes]`.
    Logits,
    /// Scores of each position, `[batch, seq, classes]`.
    TokenLogits,
    /// Scores of each frame of a sound, `[batch, frames, symbols]`, one symbol of which is blank.
    Frames,
    /// Scores of each position for an answer's start and for its end, two values `[batch, seq]`.
    Spans,
    /// A vector of each text, `[texts, hidden]`: the first texts of all rows, then the second ones, and so on.
    Embeddings,
    /// The log-probability of each labelled token, `[texts, seq]`, 0 where none is: texts as with `Embeddings`.
    TokenLogProbs,
}

/// What a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Modality {
    /// Tokens of texts.
    Tokens,
    /// Pixels.
    Image,
    /// Samples or spectrograms.
    Sound,
}

/// A task: how it is called, what its rows have, and what is minimised.
pub struct Row {
    /// The task.
    pub task: Task,
    /// Its name on the command line and in manifests.
    pub name: &'static str,
    /// What Hugging Face's programs call it, without capitals and marks between words: transformers' pipelines, optimum's `--task`, and what stands
    /// behind `For` in the names of classes.
    pub aliases: &'static [&'static str],
    /// PEFT's `task_type`; none for tasks that PEFT does not tell apart.
    pub task_type: Option<&'static str>,
    /// Modules that PEFT trains and saves for the task even if nobody names them (`PeftModelForSequenceClassification` in `peft/peft_model.py`); for
    /// tasks that PEFT has no such class for, the same.
    pub heads: &'static [&'static str],
    /// What its losses read.
    pub reads: Reads,
    /// Its losses by their names; the first is the default.
    pub losses: &'static [&'static str],
    /// What the model reads.
    pub modality: Modality,
    /// What the Hub calls it (`pipeline_tag` of a model card).
    pub pipeline_tag: &'static str,
    /// What transformers calls the class of a model for it, behind the name of its architecture; none for tasks that keep the base's.
    pub class: Option<&'static str>,
    /// What transformers calls the kind of a classifier's labels (`problem_type` in `config.json`).
    pub problem_type: Option<&'static str>,
    /// The columns of its rows, in words.
    pub columns: &'static str,
}

const CLASSIFIER: &[&str] = &["classifier", "score"];

/// What heads for classes and spans are called that have a bias.
const HEADS_WITH_BIAS: &[&str] = &["classifier", "head", "logits_proj", "out_proj", "qa_outputs"];

/// All tasks.
#[rustfmt::skip]
pub static TASKS: &[Row] = &[
    Row {
        task: Task::CausalLm, name: "causal-lm", task_type: Some("CAUSAL_LM"), heads: &[], reads: Reads::Vocabulary, losses: &["cross-entropy"],
        aliases: &["causallm", "textgeneration", "languagemodeling", "clm", "lm", "lmheadmodel"],
        modality: Modality::Tokens, pipeline_tag: "text-generation", class: None, problem_type: None,
        columns: "input_ids, text, prompt + completion, messages, conversations, or instruction (+ input) + output",
    },
    Row {
        task: Task::MaskedLm, name: "masked-lm", task_type: None, heads: &[], reads: Reads::Vocabulary, losses: &["cross-entropy"],
        aliases: &["maskedlm", "fillmask", "mlm", "maskedlanguagemodeling"],
        modality: Modality::Tokens, pipeline_tag: "fill-mask", class: None, problem_type: None,
        columns: "input_ids (+ labels), or text",
    },
    Row {
        task: Task::Seq2SeqLm, name: "seq2seq-lm", task_type: Some("SEQ_2_SEQ_LM"), heads: &[], reads: Reads::Vocabulary, losses: &["cross-entropy"],
        aliases: &["seq2seqlm", "seq2seq", "text2textgeneration", "conditionalgeneration", "translation", "summarization"],
        modality: Modality::Tokens, pipeline_tag: "text2text-generation", class: None, problem_type: None,
        columns: "input_ids + labels, prompt + completion, or image + text",
    },
    Row {
        task: Task::SeqCls, name: "seq-cls", task_type: Some("SEQ_CLS"), heads: CLASSIFIER, reads: Reads::Logits, losses: &["cross-entropy", "focal"],
        aliases: &["seqcls", "textclassification", "sequenceclassification", "sentimentanalysis"],
        modality: Modality::Tokens, pipeline_tag: "text-classification", class: Some("ForSequenceClassification"), problem_type: Some("single_label_classification"),
        columns: "text (+ text_pair) + label, or input_ids + label",
    },
    Row {
        task: Task::MultiLabel, name: "multi-label", task_type: Some("SEQ_CLS"), heads: CLASSIFIER, reads: Reads::Logits, losses: &["bce"],
        aliases: &["multilabel", "multilabelclassification"],
        modality: Modality::Tokens, pipeline_tag: "text-classification", class: Some("ForSequenceClassification"), problem_type: Some("multi_label_classification"),
        columns: "text (+ text_pair) + labels (a list of names or numbers, or 0 and 1 for each label)",
    },
    Row {
        task: Task::Regression, name: "regression", task_type: Some("SEQ_CLS"), heads: CLASSIFIER, reads: Reads::Logits, losses: &["mse", "mae", "huber"],
        aliases: &["regression"],
        modality: Modality::Tokens, pipeline_tag: "text-classification", class: Some("ForSequenceClassification"), problem_type: Some("regression"),
        columns: "text (+ text_pair) + label (a number, or a list of them)",
    },
    Row {
        task: Task::Rerank, name: "rerank", task_type: Some("SEQ_CLS"), heads: CLASSIFIER, reads: Reads::Logits, losses: &["bce", "mse"],
        aliases: &["rerank", "reranker", "textranking", "crossencoder"],
        modality: Modality::Tokens, pipeline_tag: "text-ranking", class: Some("ForSequenceClassification"), problem_type: None,
        columns: "query + passage + label (from 0 to 1)",
    },
    Row {
        task: Task::TokenCls, name: "token-cls", task_type: Some("TOKEN_CLS"), heads: CLASSIFIER, reads: Reads::TokenLogits, losses: &["cross-entropy"],
        aliases: &["tokencls", "tokenclassification", "ner", "namedentityrecognition"],
        modality: Modality::Tokens, pipeline_tag: "token-classification", class: Some("ForTokenClassification"), problem_type: None,
        columns: "tokens + tags, text + entities, or input_ids + labels",
    },
    Row {
        task: Task::Qa, name: "qa", task_type: Some("QUESTION_ANS"), heads: &["qa_outputs"], reads: Reads::Spans, losses: &["cross-entropy"],
        aliases: &["qa", "questionans", "questionanswering"],
        modality: Modality::Tokens, pipeline_tag: "question-answering", class: None, problem_type: None,
        columns: "question + context + answers",
    },
    Row {
        task: Task::Embedding, name: "embedding", task_type: Some("FEATURE_EXTRACTION"), heads: &[], reads: Reads::Embeddings,
        losses: &["mnrl", "mnrl-symmetric", "triplet", "margin-mse", "mse", "cosent", "angle", "cosine", "contrastive"],
        aliases: &["embedding", "embeddings", "featureextraction", "sentencesimilarity"],
        modality: Modality::Tokens, pipeline_tag: "sentence-similarity", class: None, problem_type: None,
        columns: "anchor + positive (+ negative, or negative_1, negative_2, ..), or sentence1 + sentence2 + score; for mse texts + a teacher's vector as label",
    },
    Row {
        task: Task::Preference, name: "preference", task_type: Some("CAUSAL_LM"), heads: &[], reads: Reads::TokenLogProbs,
        losses: &["dpo", "ipo", "simpo", "orpo", "kto"],
        aliases: &["preference", "dpo"],
        modality: Modality::Tokens, pipeline_tag: "text-generation", class: None, problem_type: None,
        columns: "prompt + chosen + rejected; for kto prompt + completion + label",
    },
    Row {
        task: Task::Reward, name: "reward", task_type: Some("SEQ_CLS"), heads: CLASSIFIER, reads: Reads::Logits, losses: &["bradley-terry"],
        aliases: &["reward", "rewardmodel"],
        modality: Modality::Tokens, pipeline_tag: "text-classification", class: Some("ForSequenceClassification"), problem_type: None,
        columns: "prompt + chosen + rejected",
    },
    Row {
        task: Task::ImageCls, name: "image-cls", task_type: None, heads: CLASSIFIER, reads: Reads::Logits, losses: &["cross-entropy", "focal"],
        aliases: &["imagecls", "imageclassification"],
        modality: Modality::Image, pipeline_tag: "image-classification", class: Some("ForImageClassification"), problem_type: None,
        columns: "image (a file's path) + label, or pixel_values + label",
    },
    Row {
        task: Task::AudioCls, name: "audio-cls", task_type: None, heads: CLASSIFIER, reads: Reads::Logits, losses: &["cross-entropy", "focal"],
        aliases: &["audiocls", "audioclassification"],
        modality: Modality::Sound, pipeline_tag: "audio-classification", class: Some("ForAudioClassification"), problem_type: None,
        columns: "audio (a file's path) + label",
    },
    Row {
        task: Task::Ctc, name: "ctc", task_type: None, heads: &[], reads: Reads::Frames, losses: &["ctc"],
        aliases: &["ctc"],
        modality: Modality::Sound, pipeline_tag: "automatic-speech-recognition", class: None, problem_type: None,
        columns: "audio (a file's path) + text",
    },
    Row {
        task: Task::SpeechSeq2Seq, name: "speech-seq2seq", task_type: None, heads: &[], reads: Reads::Vocabulary, losses: &["cross-entropy"],
        aliases: &["speechseq2seq", "speechseq2seqlm"],
        modality: Modality::Sound, pipeline_tag: "automatic-speech-recognition", class: None, problem_type: None,
        columns: "audio (a file's path) + text",
    },
];

impl Task {
    /// The task's row.
    #[must_use]
    pub fn row(self) -> &'static Row {
        // Every task has a row; a test below sees to it.
        TASKS.iter().find(|row| row.task == self).unwrap_or(&TASKS[0])
    }

    /// The task's name: `causal-lm`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The task of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TASKS.iter().find(|row| row.name == name).map(|row| row.task)
    }

    /// Whether labels are tokens, one for each position.
    #[must_use]
    pub fn predicts_tokens(self) -> bool {
        matches!(self.row().reads, Reads::Vocabulary | Reads::TokenLogProbs)
    }

    /// Whether labels are a text of its own, as long as it is, whatever the model reads.
    #[must_use]
    pub fn labels_texts(self) -> bool {
        matches!(self, Self::Seq2SeqLm | Self::SpeechSeq2Seq | Self::Ctc)
    }

    /// Whether what the model reads are tokens, not pictures or sounds.
    #[must_use]
    pub fn reads_tokens(self) -> bool {
        self.row().modality == Modality::Tokens
    }

    /// Whether a row has one class.
    #[must_use]
    pub fn is_one_class(self) -> bool {
        matches!(self, Self::SeqCls | Self::ImageCls | Self::AudioCls)
    }

    /// Whether a row's labels are numbers, one for each output.
    #[must_use]
    pub fn labels_numbers(self) -> bool {
        matches!(self, Self::MultiLabel | Self::Regression | Self::Rerank)
    }

    /// Whether the logits are those of whole rows.
    #[must_use]
    pub fn scores_rows(self) -> bool {
        self.row().reads == Reads::Logits
    }

    /// PEFT's name: `CAUSAL_LM`; none for tasks that PEFT does not tell apart.
    #[must_use]
    pub fn task_type(self) -> Option<&'static str> {
        self.row().task_type
    }

    /// The task of PEFT's name: the first that has it; none for `FEATURE_EXTRACTION`, which serves masked language models as well.
    #[must_use]
    pub fn from_task_type(name: &str) -> Option<Self> {
        TASKS.iter().find(|row| row.task_type == Some(name) && row.reads != Reads::Embeddings).map(|row| row.task)
    }

    /// Modules that are trained and saved for the task even if nobody names them.
    #[must_use]
    pub fn heads(self) -> &'static [&'static str] {
        self.row().heads
    }

    /// Whether the head of this name has a bias in the classes of transformers for the task. `score` has none where decoders judge whole texts
    /// (`GenericForSequenceClassification` in `transformers/modeling_layers.py`); of heads for a vocabulary it cannot be said.
    #[must_use]
    pub fn head_has_bias(self, module: &str) -> bool {
        let name = module.rsplit('.').next().unwrap_or_default();
        match self.row().reads {
            Reads::Logits | Reads::Spans => HEADS_WITH_BIAS.contains(&name),
            Reads::TokenLogits => HEADS_WITH_BIAS.contains(&name) || name == "score",
            Reads::Frames => name == "lm_head",
            Reads::Vocabulary | Reads::Embeddings | Reads::TokenLogProbs => false,
        }
    }
}

impl Reads {
    /// The names that evaluation gives what is read.
    #[must_use]
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Vocabulary => &[],
            Self::Logits | Self::TokenLogits | Self::Frames => &["logits"],
            Self::Spans => &["start_logits", "end_logits"],
            Self::Embeddings => &["embeddings"],
            Self::TokenLogProbs => &["token_logps"],
        }
    }

    /// Whether a row has several texts, which lie one behind the other on the first axis.
    #[must_use]
    pub fn stacks_texts(self) -> bool {
        matches!(self, Self::Embeddings | Self::TokenLogProbs)
    }
}
