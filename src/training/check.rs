//! Gradients against finite differences: does `gradient.onnx` compute the gradient of its own loss?

use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::contract::{Input, Output};
use crate::data::Batch;
use crate::error::{Context, Error, Result};
use crate::export::{Manifest, adapter_file};
use crate::ort::{Feed, HostTensor, Session};
use crate::train::held::HELD;

/// One direction in which the loss was followed.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The tensors that moved: all, or one.
    pub tensors: String,
    /// How they moved: along the gradient, or at random.
    pub direction: &'static str,
    /// What the gradient says of the loss along this direction.
    pub gradient: f64,
    /// What differences of the loss say.
    pub difference: f64,
    /// How far apart the two may be: rounding of the loss, and [`RELATIVE`] of their size, or of what it usually is in such a direction.
    pub tolerance: f64,
    /// What that says.
    pub verdict: Verdict,
}

/// What was found along a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The gradient says what the loss does.
    Right,
    /// It does not.
    Wrong,
    /// However near one looks, the loss has steps here, as rounding makes them: there is nothing to compare with.
    Steps,
}

/// Share of a derivative by which differences in float32 may be off: what is left of the curvature after extrapolation.
pub const RELATIVE: f64 = 0.02;

/// How far an element moves, at the root of the mean square: small against what curves the loss, large against rounding.
const STEP: f64 = 5e-3;

/// At most this share of itself the loss changes in a step.
const CHANGE: f64 = 0.01;

/// Where the loss has steps or kinks it is looked at from nearer, each time from a quarter of the distance, so many times.
const LOOKS: i32 = 7;

/// From nearer, rounding counts for more: what it may make up, of a derivative that is to tell something.
const RESOLVED: f64 = 0.25;

/// At most so many tensors are followed one by one.
const TENSORS: usize = 24;

/// Where a direction does not agree another one is followed from another place, at so many places in all: a kink may lie wherever one looks, and what is wrong is
/// wrong everywhere.
const PLACES: usize = 3;

/// Moves a fresh adapter away from where it starts: where LoRA's B is zero, the gradient of A is zero as well.
const START: f64 = 0.05;

impl Row {
    /// Whether gradient and differences agree where there are differences.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.verdict == Verdict::Right
    }
}

/// The inputs of the gradient graph that are fed here, beside the data.
pub const FED: [&str; 6] =
    [Input::LabelCount.name(), Input::SecondCount.name(), Input::Trainable.name(), HELD, Input::Gradient.name(), Input::Step.name()];

/// The loss of one batch as a function of the trainable vector.
struct Loss<'a> {
    session: Session,
    batches: &'a [Batch],
    label_count: HostTensor,
    second_count: HostTensor,
    /// The trainable vector where it starts, for what gradients do not pass.
    held: HostTensor,
    nothing: HostTensor,
    /// The loss where it starts.
    value: f64,
}

/// What moves, and how: a vector of length 1.
struct Direction {
    tensors: String,
    how: &'static str,
    vector: Vec<f64>,
}

/// Follows the loss of a batch from near an adapter, which lies in this folder: along the gradient, in random directions, and tensor by tensor.
///
/// # Errors
/// If a run fails, or the loss is no number.
pub fn check(session: Session, adapter: &Path, manifest: &Manifest, batches: &[Batch]) -> Result<Vec<Row>> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let adapted: Vec<f64> = adapter_file::read(adapter, manifest)?.into_iter().map(f64::from).collect();
    let mut loss = Loss::new(session, batches, adapted.len());
    let mut rows: Vec<Row> = vec![];
    for _ in 0..PLACES {
        let start: Vec<f64> = adapted.iter().map(|value| value + START * sign(&mut random)).collect();
        let gradient = loss.begin(&start).in_file(adapter)?;
        let directions = directions(manifest, &gradient, &mut random);
        if rows.is_empty() {
            rows = directions.into_iter().map(|direction| loss.follow(&start, &gradient, direction)).collect::<Result<_>>()?;
        } else {
            for (row, direction) in rows.iter_mut().zip(directions).filter(|(row, _)| row.verdict == Verdict::Wrong) {
                *row = loss.follow(&start, &gradient, direction)?;
            }
        }
        if rows.iter().all(|row| row.verdict != Verdict::Wrong) {
            break;
        }
    }
    Ok(rows)
}

/// What is followed.
fn directions(manifest: &Manifest, gradient: &[f64], random: &mut ChaCha8Rng) -> Vec<Direction> {
    let mut all = vec![Direction { tensors: "all".into(), how: "along the gradient", vector: gradient.to_vec() }];
    for _ in 0..3 {
        all.push(Direction { tensors: "all".into(), how: "at random", vector: gradient.iter().map(|_| sign(random)).collect() });
    }
    let every = manifest.trainable.len().div_ceil(TENSORS).max(1);
    for slot in manifest.trainable.iter().step_by(every) {
        let range = slot.offset..slot.offset + slot.shape.iter().product::<usize>();
        let size = norm(&gradient[range.clone()]).max(f64::MIN_POSITIVE);
        let count = float(range.len()).sqrt();
        let mut vector = vec![0.0; gradient.len()];
        // Half of it along the gradient, so that there is something to be measured; half of it at random, so that no error hides.
        for at in range.clone() {
            vector[at] = gradient[at] / size + sign(random) / count;
        }
        // Of a tensor of one number the two halves may cancel: it has one direction.
        if norm(&vector) < f64::EPSILON {
            range.for_each(|at| vector[at] = 1.0);
        }
        all.push(Direction { tensors: slot.name.clone(), how: "half at random", vector });
    }
    for direction in &mut all {
        let size = norm(&direction.vector).max(f64::MIN_POSITIVE);
        direction.vector.iter_mut().for_each(|value| *value /= size);
    }
    all
}

impl<'a> Loss<'a> {
    fn new(session: Session, batches: &'a [Batch], count: usize) -> Self {
        let counted = |of: fn(&Batch) -> f64| {
            let all: f64 = batches.iter().map(of).sum();
            HostTensor::scalar(narrow(if all > 0.0 { all } else { 1.0 }))
        };
        let (label_count, second_count) = (counted(|batch| batch.label_count), counted(|batch| batch.second_count));
        let nothing = || HostTensor::vector(vec![0.0_f32; count]);
        Self { session, batches, label_count, second_count, held: nothing(), nothing: nothing(), value: 0.0 }
    }

    /// The gradient where directions are followed from.
    fn begin(&mut self, start: &[f64]) -> Result<Vec<f64>> {
        self.held = HostTensor::vector(start.iter().copied().map(narrow).collect::<Vec<f32>>());
        let (value, gradient) = self.at(start)?;
        self.value = value;
        let (again, _) = self.at(start)?;
        if (again - value).abs() > CHANGE * value.abs() {
            let error = Error::unsupported("a check of this bundle", format!("the same rows have a loss of {value}, and then of {again}"));
            return Err(error.with_hint("the model draws random numbers: export it for inference (`model.eval()`)"));
        }
        if !value.is_finite() || gradient.iter().any(|value| !value.is_finite()) {
            return Err(Error::invalid(format!("the loss is {value}, or its gradient is no number, near the adapter")));
        }
        Ok(gradient.into_iter().map(f64::from).collect())
    }

    fn at(&mut self, trainable: &[f64]) -> Result<(f64, Vec<f32>)> {
        let trainable = HostTensor::vector(trainable.iter().copied().map(narrow).collect::<Vec<f32>>());
        let step = HostTensor::scalar(1_i64);
        let (mut loss, mut gradient) = (0.0, None);
        for batch in self.batches {
            let mut feeds = batch.feeds();
            feeds.push(Feed::host(Input::LabelCount.name(), &self.label_count));
            let second = Input::SecondCount.name();
            feeds.extend(self.session.input(second).map(|_| Feed::host(second, &self.second_count)));
            feeds.push(Feed::host(Input::Trainable.name(), &trainable));
            feeds.push(Feed::host(Input::Gradient.name(), gradient.as_ref().unwrap_or(&self.nothing)));
            feeds.extend(self.session.input(HELD).map(|_| Feed::host(HELD, &self.held)));
            feeds.extend(self.session.input(Input::Step.name()).map(|_| Feed::host(Input::Step.name(), &step)));
            let mut found = self.session.run(&feeds, &[Output::Loss.name(), Output::GradientNext.name()])?;
            loss += f64::from(found[0].item()?);
            gradient = found.pop();
        }
        Ok((loss, gradient.as_ref().unwrap_or(&self.nothing).to_f32()?))
    }

    fn follow(&mut self, start: &[f64], gradient: &[f64], direction: Direction) -> Result<Row> {
        let Direction { tensors, how, vector } = direction;
        let parts = || gradient.iter().zip(&vector).map(|(slope, along)| slope * along);
        let expected = Expected { slope: parts().sum(), usual: parts().map(|part| part * part).sum::<f64>().sqrt() };
        let moving = float(vector.iter().filter(|value| **value != 0.0).count());
        // Along the gradient few elements do most of the moving: there the change of the loss is the limit.
        let step = (STEP * moving.sqrt()).min(CHANGE * self.value.abs() / expected.slope.abs().max(f64::MIN_POSITIVE));
        let mut looks = vec![];
        for nearer in 0..LOOKS {
            looks.push(self.look(start, &vector, step / 4_f64.powi(nearer))?);
            if judged(&looks, expected) == Some(Verdict::Right) {
                break;
            }
        }
        let verdict = judged(&looks, expected).unwrap_or(Verdict::Steps);
        let shown = decisive(&looks, expected).unwrap_or(looks[0]);
        Ok(Row {
            tensors,
            direction: how,
            gradient: expected.slope,
            difference: shown.slope,
            tolerance: shown.tolerance(expected),
            verdict,
        })
    }

    /// The loss at five places around the start, up to `step` away from it.
    fn look(&mut self, start: &[f64], vector: &[f64], step: f64) -> Result<Look> {
        let mut losses = [0.0; 5];
        for (loss, by) in losses.iter_mut().zip([-1.0, -0.5, 0.0, 0.5, 1.0]) {
            let moved: Vec<f64> = start.iter().zip(vector).map(|(value, along)| value + by * step * along).collect();
            *loss = self.at(&moved)?.0;
        }
        Ok(Look::of(losses, step))
    }
}

/// What a gradient says of a direction.
#[derive(Clone, Copy, Debug)]
struct Expected {
    slope: f64,
    /// What the slope of a direction like this one is at the root of the mean square, were each element to move up or down by chance: what elements do may cancel in
    /// one direction, what kinks do to the differences does not.
    usual: f64,
}

impl Expected {
    /// What deviations are compared with.
    fn size(self, found: f64) -> f64 {
        self.slope.abs().max(found.abs()).max(self.usual)
    }
}

/// What the loss does along a direction, from some distance.
#[derive(Clone, Copy, Debug)]
struct Look {
    slope: f64,
    /// How far rounding of the loss may put the slope off.
    rounding: f64,
    /// How differently the slope changes from one part of the way to the next: of what has neither steps nor kinks, hardly.
    roughness: f64,
}

impl Look {
    fn of(losses: [f64; 5], step: f64) -> Self {
        let [behind, _, _, _, ahead] = losses;
        let far = (ahead - behind) / (2.0 * step);
        let near = (losses[3] - losses[1]) / step;
        let slopes: Vec<f64> = losses.windows(2).map(|pair| 2.0 * (pair[1] - pair[0]) / step).collect();
        let changes: Vec<f64> = slopes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        Self {
            // Richardson's extrapolation: what grows with the square of the step cancels.
            slope: (4.0 * near - far) / 3.0,
            // A loss of float32 is a sum of many rounded terms.
            rounding: 16.0 * f64::from(f32::EPSILON) * ahead.abs().max(behind.abs()) / step,
            roughness: changes.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f64::max),
        }
    }

    fn tolerance(&self, expected: Expected) -> f64 {
        RELATIVE * expected.size(self.slope) + self.rounding
    }

    fn agrees(&self, expected: Expected) -> bool {
        (self.slope - expected.slope).abs() <= self.tolerance(expected)
    }

    /// Whether nothing speaks for a step or a kink on the way.
    fn is_smooth(&self, expected: Expected) -> bool {
        // Slopes of a quarter of the way, of which four are compared, are rounded four times as much each.
        self.roughness <= 2.0 * RELATIVE * expected.size(self.slope) + 8.0 * self.rounding
    }
}

/// The look that tells: the one from farthest away that is smooth, unless another from nearer shows that it went over steps, too many to be
/// seen one by one.
fn decisive(looks: &[Look], expected: Expected) -> Option<Look> {
    let first = looks.first()?;
    if first.agrees(expected) {
        return Some(*first);
    }
    let size = expected.size(first.slope);
    // What kinks do to differences vanishes from nearer, what is wrong does not.
    let near = looks.iter().rev().find(|look| look.is_smooth(expected) && look.rounding <= RELATIVE * size);
    if let Some(look) = near.filter(|look| look.agrees(expected)) {
        return Some(*look);
    }
    let mut smooth = looks.iter().filter(|look| look.is_smooth(expected) && look.tolerance(expected) <= RESOLVED * size);
    let mut told = *smooth.next()?;
    for nearer in smooth {
        if (nearer.slope - told.slope).abs() > nearer.tolerance(expected) + told.tolerance(expected) {
            told = *nearer;
        }
    }
    Some(told)
}

fn judged(looks: &[Look], expected: Expected) -> Option<Verdict> {
    decisive(looks, expected).map(|look| if look.agrees(expected) { Verdict::Right } else { Verdict::Wrong })
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn sign(random: &mut ChaCha8Rng) -> f64 {
    if random.next_u32() & 1 == 0 { 1.0 } else { -1.0 }
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "numbers are rounded once, where they become tensors")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "numbers of elements are far below 2^53")]
fn float(count: usize) -> f64 {
    count as f64
}
