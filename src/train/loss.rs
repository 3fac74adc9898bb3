//! Losses, as graph, each fused with its own gradient at the logits.

use std::sync::Arc;

use super::class_terms::{ClassTerms, Weights};
use super::distillation::{Distillation, kullback_leibler};
use super::head::Head;
use crate::Result;
use crate::contract::IGNORED;
use crate::grad;
use crate::ir::{Attr, Body, Builder, DType, Dim, Expr, NodeSpec, ValueId};

/// Positions whose logits are alive at a time: enough rows to keep a matrix product efficient, few enough that the logits of a large
/// vocabulary stay small (128 rows of 50,000 float32s are 26 MB).
pub const CHUNK: i64 = 128;

/// What a loss gives.
pub struct Loss<'g> {
    /// The sum over the labels that count, float32, rank 0.
    pub sum: Expr<'g>,
    /// Values of the graph, each with the gradient of `sum / denominator` with respect to it: where backpropagation starts.
    pub seeds: Vec<(Expr<'g>, Expr<'g>)>,
    /// How many predictions were right, float32, rank 0; only for evaluation.
    pub correct: Option<Expr<'g>>,
    /// How far predictions are from a teacher's, added up over the labels that count, float32, rank 0; where there is a teacher.
    pub divergence: Option<Expr<'g>>,
}

/// A teacher of tokens.
#[derive(Clone, Copy)]
pub struct Teacher<'g> {
    /// Its logits for each row of the student's, float32 `[rows, classes]`.
    pub logits: Expr<'g>,
    /// How it is learnt from.
    pub distillation: Distillation,
    /// What the divergence is divided by, float32, rank 0.
    pub denominator: Option<Expr<'g>>,
}

/// The labels of a batch, made ready.
#[derive(Clone, Copy)]
pub struct Labels<'g> {
    /// One label a row, `[rows]`, int64.
    rows: Expr<'g>,
    /// Whether each row's label counts.
    counts: Expr<'g>,
    /// What each weighs, float32 `[rows]`; all 1 if nothing tells.
    weights: Option<Expr<'g>>,
}

impl<'g> Labels<'g> {
    /// A label for each row of the logits, `[rows]` or `[batch, seq]`.
    #[must_use]
    pub fn in_place(labels: Expr<'g>) -> Self {
        let rows = labels.reshape(&[-1]);
        Self { rows, counts: rows.equal(rows.same_type(IGNORED.into())).logical_not(), weights: None }
    }

    /// The same with what each label weighs, float32 of the labels' own shape.
    #[must_use]
    pub fn weighing(self, weights: Expr<'g>) -> Self {
        Self { weights: Some(weights.reshape(&[-1])), ..self }
    }

    /// What counts of each label: its weight, 0 where it does not count, float32 `[rows]`.
    fn counted(self) -> Expr<'g> {
        let counts = self.counts.cast(DType::F32);
        self.weights.map_or(counts, |weights| counts * weights)
    }

    /// Labels `[batch, seq]` of a causal language model: each position predicts the next one's label, the last none.
    #[must_use]
    pub fn next_token(labels: Expr<'g>) -> Self {
        Self::in_place(later(labels, IGNORED.into()))
    }

    /// How many labels count, each by its weight, float32, rank 0.
    #[must_use]
    pub fn exact_count(self) -> Expr<'g> {
        self.counted().sum_all()
    }

    /// The sum of the weights of the labels that count, float32, rank 0; none where all weigh the same.
    #[must_use]
    pub fn weighed(self, weights: &Weights) -> Option<Expr<'g>> {
        let b = self.rows.b();
        let weights = weights.write(b)?;
        Some((weights.gather(self.rows.max(b.ints(&[0])), 0) * self.counted()).sum_all())
    }

    /// The same, above 0: what a mean is divided by.
    #[must_use]
    pub fn count(self) -> Expr<'g> {
        let count = self.exact_count();
        count.max(count.same_type(LEAST))
    }
}

/// What a mean over nothing is divided by.
const LEAST: f64 = 1e-12;

/// Each position's number as the next one has it, and `last` behind the last: `[batch, seq]`.
#[must_use]
pub fn later(numbers: Expr<'_>, last: f64) -> Expr<'_> {
    let none = numbers.slice(&[0], &[1], &[1]).zeros_like() + last;
    numbers.slice(&[1], &[i64::MAX], &[1]).concat(&[none], 1)
}

/// Labels `[batch, seq]` with `count` that are ignored in front of each row.
#[must_use]
pub fn with_ignored(labels: Expr<'_>, count: i64) -> Expr<'_> {
    behind(labels, count, IGNORED.into())
}

/// Numbers `[batch, seq]` behind `count` others that are alike.
#[must_use]
pub fn behind(numbers: Expr<'_>, count: i64, others: f64) -> Expr<'_> {
    let lengths = numbers.length(0).concat(&[numbers.b().ints(&[count])], 0);
    lengths.filled(others, numbers.dtype()).concat(&[numbers], 1)
}

/// What is asked of a loss beside its value.
#[derive(Clone, Copy)]
pub enum Want<'g> {
    /// The gradient of `sum / denominator`; the trainable vector tells which operands of the head need one too.
    Gradient {
        /// float32, rank 0.
        denominator: Expr<'g>,
        /// What is trained.
        trainable: Expr<'g>,
    },
    /// The number of right predictions.
    Accuracy,
}

/// Cross-entropy over rows of classes, of the rows whose label counts, a chunk of rows at a time.
///
/// A `Scan` whose body writes the head for [`CHUNK`] rows, their loss, and, if asked, the gradient with respect to the head's input and
/// to those of its operands that are trained; so logits and their gradient never exist for more rows than that. With a teacher, the sum is that of the
/// labels alone, and the gradient that of `(1 − w)·loss + w·t²·KL`.
///
/// # Errors
/// Operators of the head that have no gradient.
pub fn cross_entropy<'g>(
    b: &'g Builder,
    head: &Head,
    labels: Labels<'g>,
    terms: &ClassTerms,
    teacher: Option<Teacher<'g>>,
    want: Want<'g>,
) -> Result<Loss<'g>> {
    over_chunks(b, head, &Rows::of(labels, labels.weights), terms, teacher, want)
}

/// The same with a weight for each row of the logits, float32 `[rows]`.
///
/// # Errors
/// As [`cross_entropy`].
pub fn weighted_cross_entropy<'g>(b: &'g Builder, head: &Head, labels: Labels<'g>, weights: Expr<'g>, want: Want<'g>) -> Result<Loss<'g>> {
    over_chunks(b, head, &Rows::of(labels, Some(weights)), &ClassTerms::default(), None, want)
}

/// `ln p` of each row's label, float32 `[rows]`, 0 where none counts; a chunk of rows at a time, as [`cross_entropy`].
///
/// # Errors
/// None for a head that was found.
pub fn log_probs<'g>(b: &'g Builder, head: &Head, labels: Labels<'g>) -> Result<Expr<'g>> {
    let (hidden, rows) = (b.expr(head.x()), Rows::of(labels, None));
    let body = b.body("chunk");
    let chunk = Chunk::write(b, &body, head, hidden.rows());
    body.output("chunk/log_probs", (chunk.log_p.gather_elements(chunk.classes, -1) * chunk.weights).reshape(&[CHUNK]));
    let of_chunks = rows.scan(b, &[], body.finish_body()?, 1)[0];
    let none = labels.rows.zeros_like().cast(DType::F32);
    Ok(none.scatter_nd_add(rows.positions.reshape(&[-1, 1]), of_chunks.reshape(&[-1])))
}

fn over_chunks<'g>(
    b: &'g Builder,
    head: &Head,
    rows: &Rows<'g>,
    terms: &ClassTerms,
    teacher: Option<Teacher<'g>>,
    want: Want<'g>,
) -> Result<Loss<'g>> {
    let hidden = b.expr(head.x());
    let trained = match want {
        Want::Gradient { trainable, .. } => {
            let reached = super::head::reachable(&b.nodes(), [trainable.id()]);
            head.operands().into_iter().filter(|id| reached.contains(id)).collect()
        }
        Want::Accuracy => vec![],
    };
    let each = Each { of_class: terms.weights.write(b), smoothing: terms.smoothing, teacher };
    let body = chunk_body(b, head, hidden.rows(), &trained, each, want)?;
    let zero = b.number(0.0, DType::F32);
    // The loss, and with a teacher the divergence.
    let sums = 1 + usize::from(teacher.is_some());
    let mut carried = vec![zero; sums];
    match want {
        Want::Gradient { .. } => carried.extend(trained.iter().map(|&id| b.expr(id).zeros_like())),
        Want::Accuracy => carried.push(zero),
    }
    let collected = usize::from(matches!(want, Want::Gradient { .. }));
    let outputs = rows.scan(b, &carried, body, collected);
    let (sum, divergence) = (outputs[0], teacher.map(|_| outputs[1]));
    match want {
        Want::Accuracy => Ok(Loss { sum, seeds: vec![], correct: Some(outputs[sums]), divergence }),
        Want::Gradient { .. } => {
            let flat = hidden.rows();
            let of_rows = outputs[carried.len()].reshape_dims(&vec![Dim::symbol("?label_rows"), hidden.dim(-1)]);
            let scattered = flat.zeros_like().scatter_nd_add(rows.positions.reshape(&[-1, 1]), of_rows);
            let mut seeds = vec![(hidden, scattered.reshape_like(hidden))];
            seeds.extend(trained.iter().zip(&outputs[sums..]).map(|(&id, &gradient)| (b.expr(id), gradient)));
            Ok(Loss { sum, seeds, correct: None, divergence })
        }
    }
}

/// The rows whose label counts, in whole chunks: the last is filled up with row 0 at weight 0. All `[chunks, CHUNK]`.
struct Rows<'g> {
    /// Which rows, int64.
    positions: Expr<'g>,
    /// The class of each, int64; 0 for fillers.
    classes: Expr<'g>,
    /// What each row's loss counts, 0 for fillers; float32.
    weights: Expr<'g>,
}

impl<'g> Rows<'g> {
    fn of(labels: Labels<'g>, weights: Option<Expr<'g>>) -> Self {
        let b = labels.rows.b();
        let found = labels.counts.nonzero().reshape(&[-1]);
        let count = found.shape();
        let chunk = b.ints(&[CHUNK]);
        let chunks = ((count + b.ints(&[CHUNK - 1])) / chunk).max(b.ints(&[1]));
        let fillers = chunks * chunk - count;
        let positions = found.concat(&[fillers.filled(0.0, DType::I64)], 0);
        let counted = count.filled(1.0, DType::F32).concat(&[fillers.filled(0.0, DType::F32)], 0);
        let weights = weights.map_or(counted, |weights| weights.gather(positions, 0) * counted);
        // A filler's row may have an ignored label, which is no class.
        let classes = labels.rows.gather(positions, 0).max(b.ints(&[0]));
        let [positions, classes, weights] = [positions, classes, weights].map(|of_rows| of_rows.reshape(&[-1, CHUNK]));
        Self { positions, classes, weights }
    }

    /// Runs a body for each chunk: values that it carries, then those that it gives chunk by chunk.
    fn scan(&self, b: &'g Builder, carried: &[Expr<'g>], body: Body, collected: usize) -> Vec<Expr<'g>> {
        let read = [self.positions, self.classes, self.weights];
        let attrs = [("num_scan_inputs", Attr::Int(3)), ("body", Attr::Graph(Arc::new(body.graph)))];
        let spec = NodeSpec {
            op: "Scan".into(),
            inputs: carried.iter().chain(&read).map(|value| Some(value.id())).collect(),
            outputs: vec![Some("".into()); carried.len() + collected],
            attrs: attrs.into_iter().map(|(name, attr)| (name.into(), attr)).collect(),
            captures: body.captures,
            ..NodeSpec::default()
        };
        b.node(spec).into_iter().flatten().collect()
    }
}

/// One chunk of rows in the body of a `Scan`.
struct Chunk<'b> {
    positions: Expr<'b>,
    x: Expr<'b>,
    logits: Expr<'b>,
    log_p: Expr<'b>,
    classes: Expr<'b>,
    weights: Expr<'b>,
}

impl<'b> Chunk<'b> {
    /// Reads the slices of a round, behind what it carries, and writes the head for them.
    fn write<'g>(b: &'g Builder, body: &'b Builder, head: &Head, hidden: Expr<'g>) -> Self {
        let part = |name: &str, dtype| body.input(&format!("chunk/{name}"), dtype, &[Dim::known(CHUNK)]);
        let (positions, classes) = (part("positions", DType::I64), part("classes", DType::I64).unsqueeze(&[-1]));
        let weights = part("weights", DType::F32).unsqueeze(&[-1]);
        let x = body.capture(hidden).gather(positions, 0);
        let logits = head.write(body, x, |id| body.capture(b.expr(id)));
        Self { positions, x, logits, log_p: logits.cast(DType::F32).log_softmax(-1), classes, weights }
    }
}

/// What each row's loss is made of.
#[derive(Clone, Copy)]
struct Each<'g> {
    /// The weights of the classes, `[classes]`; none: all 1.
    of_class: Option<Expr<'g>>,
    smoothing: f64,
    teacher: Option<Teacher<'g>>,
}

impl Each<'_> {
    /// `(1 − ε)·w_y·ln p_y + ε/C·Σ_c w_c·ln p_c` of each row of a chunk, `[CHUNK, 1]`.
    fn log_p<'b>(self, body: &'b Builder, chunk: &Chunk<'b>) -> Expr<'b> {
        let own = chunk.log_p.gather_elements(chunk.classes, -1) * self.of_rows(body, chunk);
        if self.smoothing <= 0.0 {
            return own;
        }
        let weighted = self.of_class.map_or(chunk.log_p, |weights| chunk.log_p * body.capture(weights));
        own * (1.0 - self.smoothing) + weighted.mean(&[-1]) * chunk.weights * self.smoothing
    }

    /// Its negative's slope at the logits, over a denominator.
    fn slope<'b>(self, body: &'b Builder, chunk: &Chunk<'b>, denominator: Expr<'b>) -> Expr<'b> {
        // d(-log p)/d logits = p - onehot(class).
        let p = chunk.log_p.exp();
        let minus_one = chunk.classes.filled_like(0.0).cast(DType::F32) + -1.0;
        let own = p.scatter_elements_add(chunk.classes, minus_one, -1) * (self.of_rows(body, chunk) / denominator);
        if self.smoothing <= 0.0 {
            return own;
        }
        // Of all classes alike: Σ_c w_c·(p - onehot(c)) / C.
        let spread = match self.of_class.map(|weights| body.capture(weights)) {
            Some(weights) => (p * weights.sum_all() - weights) / p.length(-1).reshape(&[]).cast(DType::F32),
            None => p - 1.0 / p.length(-1).reshape(&[]).cast(DType::F32),
        };
        own * (1.0 - self.smoothing) + spread * (chunk.weights / denominator) * self.smoothing
    }

    /// The logarithms of the student's and of the teacher's probabilities at the temperature, if there is a teacher, each `[CHUNK, classes]`.
    fn softened<'b>(self, body: &'b Builder, chunk: &Chunk<'b>) -> Option<[Expr<'b>; 2]> {
        let Teacher { logits, distillation: Distillation { temperature, .. }, .. } = self.teacher?;
        let of_teacher = body.capture(logits).gather(chunk.positions, 0);
        Some([chunk.logits.cast(DType::F32), of_teacher].map(|logits| (logits / temperature).log_softmax(-1)))
    }

    /// The slope at the logits of all that is learnt of a chunk.
    fn whole_slope<'b>(self, body: &'b Builder, chunk: &Chunk<'b>, denominator: Expr<'b>) -> Expr<'b> {
        let own = self.slope(body, chunk, denominator);
        let Some((teacher, [p, q])) = self.teacher.zip(self.softened(body, chunk)) else { return own };
        let Distillation { weight, temperature } = teacher.distillation;
        // d KL(q ‖ p)/d logits = (p - q) / t.
        let of_all = teacher.denominator.map_or(denominator, |denominator| body.capture(denominator));
        let taught = (p.exp() - q.exp()) * (chunk.weights / of_all) * (weight * temperature);
        if weight >= 1.0 { taught } else { own * (1.0 - weight) + taught }
    }

    /// What each row counts, `[CHUNK, 1]`.
    fn of_rows<'b>(self, body: &'b Builder, chunk: &Chunk<'b>) -> Expr<'b> {
        self.of_class.map_or(chunk.weights, |weights| body.capture(weights).gather(chunk.classes, 0) * chunk.weights)
    }
}

fn chunk_body<'g>(b: &'g Builder, head: &Head, hidden: Expr<'g>, trained: &[ValueId], each: Each<'g>, want: Want<'g>) -> Result<Body> {
    let body = b.body("chunk");
    let loss = body.input("chunk/loss", DType::F32, &[]);
    let divergence = each.teacher.map(|_| body.input("chunk/divergence", DType::F32, &[]));
    let carried: Vec<Expr<'_>> = trained
        .iter()
        .zip(0..)
        .map(|(&id, i)| body.input_value(&format!("chunk/gradient_{i}"), crate::ir::Fact { contents: None, ..b.fact(id) }, None))
        .collect();

    let right_so_far = matches!(want, Want::Accuracy).then(|| body.input("chunk/correct", DType::F32, &[]));
    let chunk = Chunk::write(b, &body, head, hidden);
    let Chunk { x, logits, classes, weights, .. } = chunk;
    let sum = loss - each.log_p(&body, &chunk).sum_all();
    body.output("chunk/loss_next", sum);
    if let Some((divergence, [p, q])) = divergence.zip(each.softened(&body, &chunk)) {
        body.output("chunk/divergence_next", divergence + (kullback_leibler(p, q).unsqueeze(&[-1]) * weights).sum_all());
    }
    match want {
        Want::Accuracy => {
            let correct = right_so_far.unwrap_or_else(|| body.number(0.0, DType::F32));
            let right = logits.argmax(-1).unsqueeze(&[-1]).equal(classes).cast(DType::F32) * weights;
            body.output("chunk/correct_next", correct + right.sum_all());
        }
        Want::Gradient { denominator, .. } => {
            let d_logits = each.whole_slope(&body, &chunk, body.capture(denominator)).cast(logits.dtype());
            let operands: Vec<Expr<'_>> = trained.iter().map(|&id| body.capture(b.expr(id))).collect();
            let wrt: Vec<Expr<'_>> = std::iter::once(x).chain(operands.iter().copied()).collect();
            let gradients = grad::vjp(&body, &[(logits, d_logits)], &wrt)?;
            for ((carried, operand), gradient) in carried.iter().zip(&operands).zip(&gradients[1..]) {
                let gradient = gradient.unwrap_or_else(|| operand.zeros_like());
                let name = format!("{}_next", carried.name());
                body.output(&name, *carried + gradient);
            }
            let dx = gradients[0].unwrap_or_else(|| x.zeros_like());
            body.output("chunk/hidden_gradient", dx);
        }
    }
    body.finish_body()
}

/// Cross-entropy of whole logits `[batch, classes]` with labels `[batch]`: for classification, where there is nothing to save.
#[must_use]
pub fn classification<'g>(logits: Expr<'g>, labels: Labels<'g>, want: Want<'g>) -> Loss<'g> {
    let b = logits.b();
    b.scoped("loss", || {
        let weights = labels.counted().unsqueeze(&[-1]);
        let classes = labels.rows.max(b.ints(&[0])).unsqueeze(&[-1]);
        let log_p = logits.cast(DType::F32).log_softmax(-1);
        let sum = -(log_p.gather_elements(classes, -1) * weights).sum_all();
        match want {
            Want::Accuracy => {
                let right = logits.argmax(-1).unsqueeze(&[-1]).equal(classes).cast(DType::F32) * weights;
                Loss { sum, seeds: vec![], correct: Some(right.sum_all()), divergence: None }
            }
            Want::Gradient { denominator, .. } => {
                let minus_one = classes.filled_like(0.0).cast(DType::F32) + -1.0;
                let gradient = log_p.exp().scatter_elements_add(classes, minus_one, -1) * (weights / denominator);
                Loss { sum, seeds: vec![(logits, gradient.cast(logits.dtype()))], correct: None, divergence: None }
            }
        }
    })
}
