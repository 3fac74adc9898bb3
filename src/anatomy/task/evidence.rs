//! What is known of a model when its task is decided.

use crate::ir::{DType, Dim, Graph, ValueId};

use super::super::head::plain;
use super::super::{Anatomy, Ending, Head};
use super::Task;

/// What the folder of a model says of it: `config.json` of transformers, `modules.json` of sentence-transformers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// The class that the model was exported from: `BertForSequenceClassification`.
    pub architecture: Option<String>,
    /// `single_label_classification`, `multi_label_classification` or `regression`.
    pub problem_type: Option<String>,
    /// The number of labels, where it is written down.
    pub num_labels: Option<usize>,
    /// Whether it has an encoder and a decoder.
    pub is_encoder_decoder: bool,
    /// Whether sentence-transformers pools its hidden states into vectors of sentences.
    pub pools_sentences: bool,
    /// Whether sentence-transformers scores pairs of texts with it.
    pub scores_pairs: bool,
}

/// Endings of the names of classes, and the tasks that they are for.
const ARCHITECTURES: &[(&str, Task)] = &[
    ("ForCausalLM", Task::CausalLm),
    ("LMHeadModel", Task::CausalLm),
    ("ForMaskedLM", Task::MaskedLm),
    ("ForSequenceClassification", Task::SeqCls),
    ("ForTokenClassification", Task::TokenCls),
    ("ForImageClassification", Task::ImageCls),
    ("WhisperForConditionalGeneration", Task::SpeechSeq2Seq),
    ("Speech2TextForConditionalGeneration", Task::SpeechSeq2Seq),
    ("MoonshineForConditionalGeneration", Task::SpeechSeq2Seq),
    ("ForSpeechToText", Task::SpeechSeq2Seq),
    ("ForConditionalGeneration", Task::Seq2SeqLm),
    ("ForSpeechSeq2Seq", Task::SpeechSeq2Seq),
    ("SpeechEncoderDecoderModel", Task::SpeechSeq2Seq),
    ("VisionEncoderDecoderModel", Task::Seq2SeqLm),
    ("EncoderDecoderModel", Task::Seq2SeqLm),
    ("MTModel", Task::Seq2SeqLm),
    ("ForCTC", Task::Ctc),
];

/// Parts of the names of classes that give vectors: of texts, of tokens that are matched late, of pictures and texts in one space.
const VECTOR_CLASSES: &[&str] = &[
    "ColBERT",
    "ColBert",
    "ColPali",
    "ColQwen",
    "ColIdefics",
    "WithProjection",
    "ContextEncoder",
    "QuestionEncoder",
    "SentenceTransformer",
];

impl Declared {
    /// The task that the class is for.
    #[must_use]
    pub fn task(&self) -> Option<Task> {
        let name = self.architecture.as_deref()?;
        let found = ARCHITECTURES.iter().find(|(ending, _)| name.contains(ending)).map(|(_, task)| *task);
        // Models of images and text generate with a decoder alone.
        found.map(|task| if task == Task::Seq2SeqLm && !self.is_encoder_decoder { Task::CausalLm } else { task })
    }

    /// The task of a classifier whose labels are of this kind.
    pub(super) fn kind_of_labels(&self) -> Option<Task> {
        let kind = self.problem_type.as_deref()?;
        super::TASKS.iter().find(|row| row.problem_type == Some(kind)).map(|row| row.task)
    }

    /// Whether the class is one whose name has this ending.
    pub(super) fn is(&self, ending: &str) -> bool {
        self.architecture.as_deref().is_some_and(|name| name.contains(ending))
    }
}

/// What a graph is fed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feeds {
    /// Token ids, or their embeddings.
    Text,
    /// Pixels.
    Image,
    /// A waveform or a spectrogram, by its name.
    Sound,
    /// Numbers along one or two axes that have no name of a known kind.
    Signal,
    /// Something else.
    Other,
}

/// Parts of the names of inputs that are fed with sound: those of transformers' feature extractors, and what people call it.
const SOUNDS: &[&str] = &["input_values", "input_features", "audio", "wave", "speech", "spectrogram", "mel"];

impl Feeds {
    /// Tells it from types and ranks, and from names where they do not tell.
    #[must_use]
    pub fn of(graph: &Graph, anatomy: &Anatomy) -> Self {
        if anatomy.token_embedding.is_some() {
            return Self::Text;
        }
        let is_cache = |id: ValueId| anatomy.cache.iter().any(|slot| slot.past == id);
        let inputs = || graph.data_inputs().filter(|&id| !is_cache(id));
        let has = |is: &dyn Fn(bool, usize, &str) -> bool| {
            inputs().any(|id| {
                let (fact, name) = (graph.fact(id), plain(graph.value_name(id)));
                let beside = ["mask", "position", "type", "past", "cache"].iter().any(|word| name.contains(word));
                !beside && is(fact.dtype.is_some_and(DType::is_float), fact.rank().unwrap_or(0), &name)
            })
        };
        match () {
            () if has(&|is_float, rank, name| is_float && rank == 3 && name.contains("embed")) => Self::Text,
            () if has(&|is_float, rank, name| rank >= 4 && (is_float || name.contains("pixel") || name.contains("image"))) => Self::Image,
            () if has(&|is_float, rank, _| !is_float && rank == 2) => Self::Text,
            () if has(&|is_float, rank, name| is_float && rank == 3 && name.contains("pixel")) => Self::Image,
            () if has(&|is_float, rank, name| is_float && (rank == 2 || rank == 3) && SOUNDS.iter().any(|word| name.contains(word))) => {
                Self::Sound
            }
            () if has(&|is_float, rank, _| is_float && (rank == 2 || rank == 3)) => Self::Signal,
            () => Self::Other,
        }
    }

    /// The task of a classifier that is fed so.
    #[must_use]
    pub fn classified(self) -> Task {
        match self {
            Self::Image => Task::ImageCls,
            Self::Sound => Task::AudioCls,
            Self::Text | Self::Signal | Self::Other => Task::SeqCls,
        }
    }
}

/// Everything that a task is told from.
pub(super) struct View<'a> {
    pub(super) graph: &'a Graph,
    pub(super) anatomy: &'a Anatomy,
    pub(super) declared: &'a Declared,
    pub(super) feeds: Feeds,
    /// Names of the outputs that are no cache, in small letters.
    pub(super) outputs: Vec<String>,
}

impl<'a> View<'a> {
    pub(super) fn new(graph: &'a Graph, anatomy: &'a Anatomy, declared: &'a Declared) -> Self {
        let is_cache = |id: &ValueId| anatomy.cache.iter().any(|slot| slot.present == Some(*id));
        let outputs = graph.outputs().iter().filter(|id| !is_cache(id)).map(|&id| plain(graph.value_name(id))).collect();
        Self { graph, anatomy, declared, feeds: Feeds::of(graph, anatomy), outputs }
    }

    /// The task that the model's folder tells beside the graph, of those whose outputs look alike: by the kind of labels, by the class of models that
    /// answer where the outputs are starts and ends, by what sentence-transformers makes of hidden states.
    pub(super) fn told(&self) -> Option<Task> {
        let declared = self.declared;
        let answers = || self.starts_and_ends().map(|_| Task::Qa);
        let of_pairs = declared.scores_pairs.then_some(Task::Rerank);
        of_pairs.or_else(|| declared.kind_of_labels()).or_else(answers).or_else(|| declared.pools_sentences.then_some(Task::Embedding))
    }

    /// The names of the outputs with scores of positions where an answer starts and where it ends.
    pub(super) fn starts_and_ends(&self) -> Option<(&str, &str)> {
        self.output_with(&["start"]).zip(self.output_with(&["end_", "_end", "end"])).filter(|(start, end)| start != end)
    }

    /// Whether an encoder is fed with sound.
    pub(super) fn hears(&self) -> bool {
        let is_sound = |&id: &ValueId| {
            let (fact, name) = (self.graph.fact(id), plain(self.graph.value_name(id)));
            fact.dtype.is_some_and(DType::is_float) && matches!(fact.rank(), Some(2 | 3)) && SOUNDS.iter().any(|word| name.contains(word))
        };
        self.graph.data_inputs().any(|id| is_sound(&id))
    }

    pub(super) fn head(&self) -> Option<&'a Head> {
        self.anatomy.head.as_ref()
    }

    /// The name of the output that the head gives, else of the first one.
    pub(super) fn output(&self) -> String {
        self.head().map_or_else(|| self.outputs.first().cloned().unwrap_or_default(), |head| plain(self.graph.value_name(head.output)))
    }

    /// Whether the name of the output that the head gives says that it has scores.
    pub(super) fn is_named_logits(&self) -> bool {
        self.output().ends_with("logits")
    }

    /// The first output whose name has one of these words.
    pub(super) fn output_with(&self, words: &[&str]) -> Option<&str> {
        self.outputs.iter().map(String::as_str).find(|name| words.iter().any(|word| name.contains(word)))
    }

    /// The axes of the logits, if their number is known.
    pub(super) fn axes(&self) -> Option<Vec<Dim>> {
        self.head()?.axes(self.graph)
    }

    /// Whether the output is called a prediction, which numbers are as well, and nothing says that it is one of classes: neither its module nor the model's folder, nor
    /// probabilities behind it.
    pub(super) fn is_any_prediction(&self, head: &Head) -> bool {
        let name = self.output();
        let is_called_so = ["prediction", "predictions", "pred", "preds", "y_pred"].contains(&name.as_str());
        is_called_so
            && matches!(head.ending, Ending::Scores)
            && !self.is_module_of_classes()
            && self.declared.task().is_none()
            && self.told().is_none()
    }

    fn is_module_of_classes(&self) -> bool {
        const MODULES: &[&str] = &["classifier", "score", "cls", "head", "class", "ner", "tagger", "lm_head"];
        self.module().is_some_and(|module| MODULES.iter().any(|word| module.contains(word)))
    }

    /// The class of the model, if it is one that gives vectors; a body's (`BertModel`), where neither the output nor its module is called one of classes that somebody put on it.
    pub(super) fn class_of_vectors(&self) -> Option<&'a str> {
        let class = self.declared.architecture.as_deref()?;
        let gives_vectors = VECTOR_CLASSES.iter().any(|word| class.contains(word));
        let is_body = class.ends_with("Model") && self.declared.task().is_none();
        (gives_vectors || is_body && !self.is_called_classes() && !self.is_module_of_classes()).then_some(class)
    }

    /// Whether the output is called scores of classes.
    fn is_called_classes(&self) -> bool {
        const OUTPUTS: &[&str] = &["logit", "score", "prob", "pred", "class", "label", "tag", "emission", "cls"];
        let name = self.output();
        OUTPUTS.iter().any(|word| name.contains(word))
    }

    /// Whether something says that the head gives scores of classes: the output's name, the module's, its bias, probabilities behind them.
    pub(super) fn shows_classes(&self, head: &Head) -> bool {
        let has_bias = head.projection.is_some_and(|at| self.anatomy.projections[at].bias.is_some());
        let is_probability = matches!(head.ending, Ending::Probabilities(_)) || head.output != head.logits;
        has_bias || is_probability || self.is_called_classes() || self.is_module_of_classes() || head.projection.is_none()
    }

    /// The last name in the path of the head's module.
    pub(super) fn module(&self) -> Option<&'a str> {
        let module = &self.anatomy.projections.get(self.head()?.projection?)?.module;
        module.rsplit('.').next()
    }
}
