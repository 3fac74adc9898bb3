//! Whether two models compute the same.

mod tokens;

use std::fmt;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::adapter::config::Task;
use crate::anatomy::{self, Feeding, Padding, Role};
use crate::data::{Batch, Batches, Collation, Dataset, Example, Labels, Numbers, Order, Pixels};
use crate::decompose;
use crate::error::{Context, Error, Result};
use crate::ir::{DType, Graph};
use crate::model::{Base, Model};
use crate::onnx::{self, Runnable};
use crate::ort::{Axis, ElementType, Port, Presence, Purpose, Runtime, Session, Settings};
use crate::train::losses::{COMPLETION, DESIRABLE, LABELS, REFERENCE};

/// What the models are fed with: random tokens, the same in every run, in rows of different lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// What the labels are for, where the graph takes labels.
    pub task: Task,
    /// Tokens that there are; none: 100 are supposed.
    pub vocabulary: Option<usize>,
    /// Tokens that the model looks for in each row, each of which stands there once.
    pub once: Vec<i32>,
    /// Classes that there are; none: 2 are supposed.
    pub classes: Option<usize>,
    /// `[channels, height, width]` of images, where the graph leaves that open; none: 3 x 224 x 224 are supposed.
    pub image: Option<[usize; 3]>,
    /// Lengths of the rows of each batch; a model of one length, or of one number of rows, gets as many as it takes.
    pub batches: Vec<Vec<usize>>,
    /// What the model's inputs are for, and the lengths that it insists on.
    pub feeding: Feeding,
    /// Inputs that are fed by others.
    pub beside: Vec<String>,
}

/// A batch without padding and one with it.
impl Default for Samples {
    fn default() -> Self {
        Self {
            task: Task::CausalLm,
            vocabulary: None,
            once: vec![],
            classes: None,
            image: None,
            batches: vec![vec![7, 7], vec![12, 5, 9]],
            feeding: Feeding::default(),
            beside: vec![],
        }
    }
}

impl Samples {
    /// Samples with the tokens that a model knows, from its token embedding, and images of the size that it takes. The usual ones for what
    /// the model does not tell.
    #[must_use]
    pub fn of_model(model: &Model) -> Self {
        let (graph, anatomy) = (model.graph(), model.anatomy());
        // Where it is not told which table is the tokens', every table has the rows of the smallest.
        let tables = || anatomy.embeddings.iter().map(|table| table.rows);
        let rows = anatomy.token_embedding.map_or_else(|| tables().min(), |at| tables().nth(at));
        // A table may be computed, or a part of another.
        let read = anatomy.inputs.main.and_then(|tokens| tokens::rows_read(graph, tokens));
        let rows = rows.into_iter().chain(read).min();
        let pixels = anatomy.inputs.roles.iter().find(|(_, role)| *role == Role::PixelValues);
        let size = pixels.and_then(|(id, _)| anatomy::image_size(graph, *id));
        Self {
            vocabulary: rows.and_then(|rows| usize::try_from(rows).ok()),
            once: anatomy.inputs.main.map(|tokens| tokens::looked_for(graph, tokens)).unwrap_or_default(),
            image: size.map(|size| size.map(|length| usize::try_from(length).unwrap_or_default())),
            feeding: anatomy::feeding(graph, anatomy),
            ..Self::default()
        }
    }
}

/// Differences larger than this share of the largest value are not rounding any more, in models that compute in a type: a branch beside
/// weights of half precision is rounded once, folded into them again.
#[must_use]
pub fn tolerance(precision: DType) -> f64 {
    match precision {
        // 8 and 11 bits of mantissa; a few dozen roundings one behind the other.
        DType::BF16 => 5e-2,
        DType::F16 => 1e-2,
        _ => 1e-3,
    }
}

/// A model that rounding changes by more than this share of its largest value tells nothing of another one.
const MOST_ROUNDING: f64 = 0.05;

/// How far apart two models are.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The output with the largest difference.
    pub output: String,
    /// The largest difference.
    pub absolute: f64,
    /// The same, as a share of the largest value in that output.
    pub relative: f64,
    /// Numbers that were compared.
    pub compared: usize,
    /// The largest share with what is computed rounded to small integers, where the models were compared without that.
    pub rounded: Option<f64>,
    /// The share that half precision alone makes of the first model, where the other one was compared with it in float32.
    pub half: Option<f64>,
    /// Numbers that are NaN in both models, of which nothing can be said.
    pub not_numbers: usize,
}

impl Comparison {
    /// Whether the models compute the same but for rounding to a type. A model whose half precision is measured may be as far off for each of what is
    /// rounded: its activations, its weights, and those of the other one.
    #[must_use]
    pub fn is_close(&self, precision: DType) -> bool {
        let measured = self.half.filter(|half| *half <= MOST_ROUNDING).map_or(0.0, |half| 3.0 * half);
        self.relative <= tolerance(precision).max(measured) && (self.not_numbers < self.compared || self.compared == 0)
    }

    /// The same, beside how far apart the models are as they are.
    #[must_use]
    pub fn after_rounding(self, rounded: &Self) -> Self {
        Self { rounded: Some(rounded.relative), ..self }
    }

    /// The comparison for programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "output": self.output, "absolute": self.absolute, "relative": self.relative, "compared": self.compared, "rounded": self.rounded,
            "half": self.half, "not_numbers": self.not_numbers,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, absolute, relative, compared, rounded, half, not_numbers } = self;
        write!(f, "largest difference {absolute:.2e}, {relative:.1e} of the largest value, in {output} ({compared} numbers compared)")?;
        if let Some(rounded) = rounded {
            write!(f, " before activations are rounded, which makes {rounded:.1e} of it")?;
        }
        if let Some(half) = half {
            write!(f, " from the unmerged model in float32, of which half precision makes {half:.1e}")?;
        }
        match not_numbers {
            0 => Ok(()),
            count => write!(f, "; {count} of them are NaN in both models, which verifies nothing"),
        }
    }
}

/// Runs two models on the same inputs and compares all outputs that both have. Positions of padding are compared, too: both treat them alike.
///
/// # Errors
/// If a model cannot be opened, has an input that is not known here, or they have no output in common.
pub fn compare(runtime: &Runtime, left: impl Into<Runnable>, right: impl Into<Runnable>, samples: &Samples) -> Result<Comparison> {
    let open = |model: Runnable| Session::open(runtime, model, &Settings { purpose: Purpose::Inference, ..Settings::default() });
    let (mut left, mut right) = (open(left.into())?, open(right.into())?);
    let common: Vec<String> = left.outputs().iter().map(|port| port.name.clone()).filter(|name| right.output(name).is_some()).collect();
    let common: Vec<&str> = common.iter().map(String::as_str).collect();
    if common.is_empty() {
        return Err(Error::invalid(format!("{} and {} have no output in common", left.path().display(), right.path().display())));
    }
    let mut worst =
        Comparison { output: common[0].to_owned(), absolute: 0.0, relative: 0.0, compared: 0, rounded: None, half: None, not_numbers: 0 };
    // One of them may have inputs that the other lacks, such as the choice between a decoder's branches: each gets its own.
    let batches = [sample_batches(&left, samples)?, sample_batches(&right, samples)?];
    for (for_left, for_right) in batches[0].iter().zip(&batches[1]) {
        let (ours, theirs) = (left.run(&for_left.feeds(), &common)?, right.run(&for_right.feeds(), &common)?);
        for ((name, ours), theirs) in common.iter().zip(&ours).zip(&theirs) {
            let Ok((ours, theirs)) = ours.to_f32().and_then(|ours| Ok((ours, theirs.to_f32()?))) else { continue };
            if ours.len() != theirs.len() {
                return Err(Error::mismatch(format!("numbers in {name}"), ours.len(), theirs.len()).in_file(right.path()));
            }
            worst.compared += ours.len();
            worst.not_numbers += ours.iter().zip(&theirs).filter(|(ours, theirs)| ours.is_nan() && theirs.is_nan()).count();
            let (absolute, relative) = difference(&ours, &theirs);
            // What is no number is the worst of all.
            if relative.is_nan() || relative > worst.relative {
                worst = Comparison { output: (*name).to_owned(), absolute, relative, ..worst };
            }
        }
    }
    Ok(worst)
}

/// The same for models that round what they compute to small integers: compares them without that rounding, where a difference in the last
/// bit does not become a step. Nothing if one of them rounds nothing. `path` is what errors name.
///
/// # Errors
/// As [`compare`]; nodes that do not go together.
pub fn compare_unrounded(runtime: &Runtime, left: &Graph, right: &Graph, path: &Path, samples: &Samples) -> Result<Option<Comparison>> {
    let unrounded = |model: &Graph| -> Result<Option<Runnable>> {
        let Base { raw, graph, .. } = onnx::inline_functions(model).and_then(|graph| Base::of(&graph))?;
        let graph = match decompose::without_rounding(&graph)? {
            Some(graph) => graph,
            None if decompose::rounds_inside(&raw) => graph,
            None => return Ok(None),
        };
        Runnable::of(&graph, path).map(Some)
    };
    match (unrounded(left).in_file(path)?, unrounded(right).in_file(path)?) {
        (Some(left), Some(right)) => compare(runtime, left, right, samples).map(Some),
        _ => Ok(None),
    }
}

/// The largest difference, as it is and as a share of the largest value.
fn difference(ours: &[f32], theirs: &[f32]) -> (f64, f64) {
    let pairs = || ours.iter().zip(theirs).map(|(ours, theirs)| (f64::from(*ours), f64::from(*theirs)));
    // Equal infinities are no difference; masks have them.
    let largest = pairs()
        .filter(|(ours, theirs)| ours.to_bits() != theirs.to_bits() && !(ours.is_nan() && theirs.is_nan()))
        .map(|(ours, theirs)| (ours - theirs).abs());
    let absolute = largest.fold(0.0, |most: f64, next| if next.is_nan() { f64::NAN } else { most.max(next) });
    let scale = pairs().map(|(ours, _)| ours.abs()).filter(|size| size.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    (absolute, absolute / scale)
}

/// Batches of random rows for a graph's inputs, each in one piece.
///
/// # Errors
/// If the graph must be given an input that is not known here.
pub fn sample_batches(session: &Session, samples: &Samples) -> Result<Vec<Batch>> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    // What fills rows up is the same for whoever reads it.
    let feeding = Feeding { padding: Padding::Hidden, ..samples.feeding.clone() };
    let collation = Collation { feeding, pad: tokens::free(&samples.once), ..Collation::default() };
    let batches = samples.batches.iter().map(|lengths| {
        let lengths = taken(&samples.feeding, lengths);
        let examples = lengths.iter().map(|length| example(session, samples, *length, &mut random)).collect();
        let dataset = Dataset::of(session.path(), samples.task, examples);
        let batch = Batches::new(&dataset, session.inputs(), lengths.len(), Order::File, collation.clone())?.next_batch()?;
        let missing = session.inputs().iter().find(|port| is_missing(port, &batch) && !samples.beside.contains(&port.name));
        missing.map_or(Ok(batch), |port| {
            let what = format!("an input named {}", port.name);
            Err(Error::unsupported(what, "it is not known what to feed it with").in_file(session.path()))
        })
    });
    batches.collect()
}

fn is_missing(port: &Port, batch: &Batch) -> bool {
    port.presence == Presence::Required && batch.tensors.iter().all(|(name, _)| *name != port.name)
}

/// The rows that a graph of fixed lengths can take, of those that were asked for.
fn taken(feeding: &Feeding, lengths: &[usize]) -> Vec<usize> {
    let rows = feeding.rows.unwrap_or(lengths.len());
    (0..rows).map(|row| lengths[row % lengths.len()].min(feeding.length.unwrap_or(usize::MAX))).collect()
}

/// A random row, with what each input of the graph asks for.
fn example(session: &Session, samples: &Samples, length: usize, random: &mut ChaCha8Rng) -> Example {
    let mut below = |bound: Option<usize>, usual: u32| {
        let bound = bound.and_then(|bound| u32::try_from(bound).ok()).unwrap_or(usual).max(1);
        i32::try_from(random.next_u32() % bound).unwrap_or_default()
    };
    let ports = |wanted: Role| session.inputs().iter().filter(move |port| samples.feeding.role(&port.name) == Some(wanted));
    let tokens: Vec<i32> = (0..length).map(|_| below(samples.vocabulary, 100)).collect();
    let tokens = tokens::with_picture(tokens::each_once(tokens, &samples.once), &samples.feeding);
    // A wave is longer than its positions, those of a spectrogram the graph knows.
    let is_of_wave = |port: &&Port| port.shape.len() == 2 && port.element_type == Some(ElementType::Float32);
    let reads_wave =
        ports(Role::InputIds).chain(ports(Role::PixelValues)).next().is_none() && ports(Role::Column).any(|port| is_of_wave(&port));
    // As rows of sound: their masks are as long as the wave.
    let input_ids = if reads_wave { vec![] } else { tokens.clone() };
    let mut example = Example { line: 1, input_ids, ..Example::default() };
    let one_a_row = session.input("labels").into_iter().chain(ports(Role::Labels)).next().map(|port| port.shape.len() == 1);
    example.labels = match samples.task {
        task if one_a_row.unwrap_or(task.is_one_class()) => Labels::Class(below(samples.classes, 2)),
        Task::TokenCls => Labels::Tokens((0..length).map(|_| below(samples.classes, 2)).collect()),
        _ => Labels::Tokens(tokens),
    };
    if ports(Role::DecoderInputIds).next().is_some() {
        example.decoder_input_ids = (0..length.div_ceil(2)).map(|_| below(samples.vocabulary, 100)).collect();
        example.labels = Labels::Tokens(example.decoder_input_ids.clone());
    }
    example.pixel_values = ports(Role::PixelValues).next().map(|port| pixels(port, samples, random));
    let length = |port: &Port| if reads_wave && port.shape.len() == 2 { length * SAMPLES_A_POSITION } else { length };
    example.columns = ports(Role::Column).map(|port| (port.name.clone(), column(port, length(port), random))).collect();
    labelled(example, session, samples, random)
}

/// The row with the labels and the other texts that its task's loss asks for; a graph without a loss asks for none.
fn labelled(mut example: Example, session: &Session, samples: &Samples, random: &mut ChaCha8Rng) -> Example {
    let length = example.input_ids.len();
    let of_floats = |name: &str| session.input(name).is_some_and(|port| port.element_type == Some(ElementType::Float32));
    // The base's own word on a text is filled in by who has it.
    example.columns.remove(REFERENCE);
    let bare = |example: &Example| Example { line: 1, input_ids: example.input_ids.clone(), ..Example::default() };
    match samples.task {
        task if task.labels_numbers() && of_floats(LABELS) => {
            let count = samples.classes.unwrap_or(1);
            let values = (0..count).map(|_| f64::from(unit(random).abs())).collect();
            example.columns.insert(LABELS.to_owned(), Numbers { shape: vec![count], values });
            example.labels = Labels::Column;
        }
        Task::Qa => example.labels = Labels::Column,
        // Few symbols, so that the frames of a short sound are enough for them; none is the usual blank.
        Task::Ctc => {
            let symbols = samples.classes.and_then(|classes| u32::try_from(classes).ok()).unwrap_or(2).max(2) - 1;
            let mut symbol = || i32::try_from(1 + random.next_u32() % symbols).unwrap_or(1);
            example.labels = Labels::Tokens(vec![symbol(), symbol()]);
        }
        Task::Embedding | Task::Reward => {
            // As many texts as any loss of vectors reads; others do not look at what is too many.
            let count = if samples.task == Task::Reward { 1 } else { 2 };
            example.others = (0..count).map(|_| other(&example, samples, random)).collect();
            example.labels = Labels::Row;
            if of_floats(LABELS) {
                let axes = session.input(LABELS).map(|port| port.shape.get(1..).unwrap_or_default()).unwrap_or_default();
                let shape: Vec<usize> = axes.iter().map(|axis| if let Axis::Known(length) = axis { *length } else { 1 }).collect();
                let values = (0..shape.iter().product()).map(|_| f64::from(unit(random).abs())).collect();
                example.columns.insert(LABELS.to_owned(), Numbers { shape, values });
                example.labels = Labels::Column;
            }
        }
        Task::Preference if session.input(COMPLETION).is_some() => {
            let answered = |mut text: Example| {
                let begins = (length / 2).max(1);
                let mask = (0..text.input_ids.len()).map(|at| f64::from(u8::from(at >= begins))).collect();
                text.columns.insert(COMPLETION.to_owned(), Numbers { shape: vec![text.input_ids.len()], values: mask });
                text.labels = Labels::Tokens(text.input_ids.clone());
                text
            };
            let rejected = answered(other(&bare(&example), samples, random));
            let is_judged = example.columns.contains_key(DESIRABLE);
            example.columns.entry(DESIRABLE.to_owned()).and_modify(|verdict| verdict.values.fill(1.0));
            example = answered(example);
            example.others = if is_judged { vec![] } else { vec![rejected] };
        }
        _ => {}
    }
    example
}

/// Another text as long as this one.
fn other(like: &Example, samples: &Samples, random: &mut ChaCha8Rng) -> Example {
    let bound = samples.vocabulary.and_then(|bound| u32::try_from(bound).ok()).unwrap_or(100).max(1);
    let input_ids = like.input_ids.iter().map(|_| i32::try_from(random.next_u32() % bound).unwrap_or_default()).collect();
    Example { line: 1, input_ids, ..Example::default() }
}

/// Samples of sound for each token that a text would have: what convolutions before the first layer make one position of.
const SAMPLES_A_POSITION: usize = 400;

/// Numbers for an input that the data's own column fills: whole ones are 0 or 1, which every table has rows for.
fn column(port: &Port, length: usize, random: &mut ChaCha8Rng) -> Numbers {
    let known = |axis: &Axis| if let Axis::Known(known) = axis { *known } else { length };
    let shape: Vec<usize> = port.shape.iter().skip(1).map(known).collect();
    let is_float = !matches!(port.element_type, Some(ElementType::Int64 | ElementType::Int32 | ElementType::Bool));
    let number = |random: &mut ChaCha8Rng| if is_float { f64::from(unit(random)) } else { f64::from(random.next_u32() >> 31) };
    let count = shape.iter().product();
    Numbers { values: (0..count).map(|_| number(random)).collect(), shape }
}

/// A number from -1 to 1.
fn unit(random: &mut ChaCha8Rng) -> f32 {
    f32::from(i16::try_from(random.next_u32() >> 17).unwrap_or_default()) / 16384.0 - 1.0
}

/// An image of the size that the graph wants.
fn pixels(port: &Port, samples: &Samples, random: &mut ChaCha8Rng) -> Pixels {
    let usual = samples.image.unwrap_or([3, 224, 224]);
    let known = |(axis, usual): (&Axis, usize)| if let Axis::Known(length) = axis { *length } else { usual };
    let own = port.shape.len().saturating_sub(usual.len());
    let shape: Vec<usize> = port.shape.iter().skip(own).zip(usual).map(known).collect();
    let count = shape.iter().product();
    Pixels { shape, values: (0..count).map(|_| unit(random)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Dim, ModelInfo, Tensor};
    use crate::ort::Options;

    /// The number of tokens that a model's file tells.
    fn vocabulary(b: Builder) -> Result<Option<usize>> {
        let folder = tempfile::tempdir()?;
        let model = folder.path().join("model.onnx");
        onnx::write(&b.finish()?, &model, &onnx::WriteOptions::default())?;
        Ok(Samples::of_model(&Model::open(&model)?).vocabulary)
    }

    #[test]
    fn tokens_are_those_of_a_table_inside_a_fused_operator_too() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect().with_opset("com.microsoft", 1));
        let ids = b.input("input_ids", DType::I32, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let constant = |name: &str, shape: &[usize]| b.initializer(name, Tensor::from_f32(shape, &vec![0.5; shape.iter().product()]));
        let (words, places) = (constant("words", &[50, 4]), constant("places", &[30, 4]));
        let (scale, bias) = (constant("scale", &[4]), constant("bias", &[4]));
        let inputs = [Some(ids), None, Some(words), Some(places), None, Some(scale), Some(bias)];
        let rows = b.op_n("com.microsoft:EmbedLayerNormalization", &inputs, &[], 2)[0];
        b.output("rows", rows);
        assert_eq!(vocabulary(b)?, Some(50));
        Ok(())
    }

    #[test]
    fn tokens_that_are_turned_before_they_are_looked_up_are_in_the_smallest_table() -> Result<()> {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let table = b.initializer("words.weight", Tensor::from_f32(&[50, 4], &[0.5; 200]));
        b.output("rows", b.op("Gather", &[table, ids.transpose(&[1, 0])], &[]));
        assert_eq!(vocabulary(b)?, Some(50));
        // A table that is computed.
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let whole = b.initializer("all", Tensor::from_f32(&[60, 2], &[0.5; 120]));
        b.output("rows", (whole.slice(&[10], &[50], &[0]) * 4.0).gather(ids.cast(DType::I32), 0));
        assert_eq!(vocabulary(b)?, Some(40));
        Ok(())
    }

    /// A product with rounded operands and an adapter beside it, and the same with the adapter's factors multiplied with a number, as
    /// a merge that goes wrong would have them. The rows are so many that some stand close to a step.
    fn rounded(times: f32) -> Result<crate::ir::Graph> {
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let rows: Vec<f32> = (0..6400_u16).map(|i| f32::from(i % 97 * 13 % 97) / 97.0 - 0.5).collect();
        let mut y = b.op("Gather", &[b.initializer("words.weight", Tensor::from_f32(&[100, 64], &rows)), ids], &[]);
        for layer in 0..3_u16 {
            let number = |i: u16| f32::from((i * 37 + layer * 11) % 101) / 101.0 - 0.5;
            let bytes: Vec<u8> = (0..64 * 64_u16).map(|i| u8::try_from((i % 251 * 29 + layer) % 251).unwrap_or(0)).collect();
            let q = b.initializer(&format!("q{layer}"), Tensor::new(DType::I8, vec![64, 64], bytes.into())?);
            let down = b.initializer(&format!("a{layer}"), Tensor::from_f32(&[64, 2], &(0..128).map(number).collect::<Vec<_>>()));
            let up = (128..256).map(|i| times * number(i)).collect::<Vec<_>>();
            let up = b.initializer(&format!("b{layer}"), Tensor::from_f32(&[2, 64], &up));
            let rounded = b.op_n("DynamicQuantizeLinear", &[Some(y)], &[], 3);
            let sum = b.op("MatMulInteger", &[rounded[0], q, rounded[2]], &[]).cast(DType::F32);
            let scale = rounded[1] * b.initializer(&format!("s{layer}"), Tensor::from_f32(&[], &[0.002]));
            y = (sum * scale + y.matmul(down).matmul(up) * 0.3).tanh();
        }
        b.output("y", y);
        b.finish()
    }

    #[test]
    fn models_that_round_are_compared_without_it_and_a_wrong_merge_is_seen() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("model.onnx");
        onnx::write(&rounded(1.0)?, &path, &onnx::WriteOptions::default())?;
        let (runtime, samples) = (Runtime::start(&Options::default())?, Samples::of_model(&Model::open(&path)?));
        for (times, is_same) in [(1.0 + 2e-7, true), (1.01, false), (0.0, false)] {
            let found = compare_unrounded(runtime, &rounded(1.0)?, &rounded(times)?, &path, &samples)?.expect("they round");
            assert_eq!(found.is_close(DType::F32), is_same, "{times}: {found}");
        }
        Ok(())
    }

    #[test]
    fn differences_are_the_largest_and_nan_is_the_worst() {
        assert_eq!(difference(&[1.0, -4.0], &[1.0, -3.0]), (1.0, 0.25));
        assert_eq!(difference(&[f32::INFINITY, 2.0], &[f32::INFINITY, 2.0]), (0.0, 0.0));
        assert!(difference(&[f32::NAN, 1.0], &[0.0, 1.0]).1.is_nan());
        let bad = Comparison {
            output: "y".into(),
            absolute: f64::NAN,
            relative: f64::NAN,
            compared: 1,
            rounded: None,
            half: None,
            not_numbers: 0,
        };
        assert!(!bad.is_close(DType::F32));
    }
}
