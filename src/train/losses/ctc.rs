//! The loss of connectionist temporal classification (Graves et al. 2006): the probability of a text over all ways to lay its symbols out on frames.
//!
//! Symbols stand between blanks, `_ a _ b _`, and each of these states may last several frames. Forward and backward probabilities of the states are
//! computed in two `Loop`s over frames, as logarithms. Their product is how much of the probability passes a state in a frame, and the gradient of the loss
//! is that of the frames' log-probabilities weighted with it (equation 16 of the paper): the engine never differentiates the loops.

use super::{Sum, Terms};
use crate::ir::{Builder, DType, Expr};

/// The logarithm of a probability of nothing. Finite, so that differences of two are numbers.
const NEVER: f64 = -1e30;
/// A loss above this is one of a text that cannot be: more symbols than frames.
const IMPOSSIBLE: f64 = 1e20;

/// `torch.nn.functional.ctc_loss` as transformers calls it: labels below 0 are not there, and each row has the
/// frames that the second of `columns` tells, int64 `[batch]`, or all. Options: `blank`, the blank's number; `mean`,
/// whether a row's loss is divided by its symbols and the batch's by its rows, or all are added up; `zero_infinity`, whether texts that cannot be cost nothing.
pub(super) fn ctc<'g>(terms: &Terms<'g>) -> Sum<'g> {
    let (logits, labels) = (terms.outputs[0], terms.columns[0]);
    let b = logits.b();
    let states = States::new(labels, terms.option("blank"), terms.columns.get(1).copied());
    let log_p = logits.log_softmax(-1);
    // `[frames, batch, states]`
    let of_frames = states.symbols.unsqueeze(&[1]).expand(log_p.length(0).concat(&[log_p.length(1), states.symbols.length(1)], 0));
    let emitted = log_p.gather_elements(of_frames, -1).transpose(&[1, 0, 2]);
    let known = emitted.without_gradient();
    let rest = backward(b, known, &states);
    let first = known.gather(b.ints(&[0]), 0).squeeze(&[0]) + rest.gather(rest.length(0) - 1.0, 0).squeeze(&[0]);
    let entry = first.slice(&[0], &[2], &[1]);
    let losses = -log_sum(entry);
    let passing = passing(b, known, rest, losses, &states);
    let is_impossible = losses.greater(b.number(IMPOSSIBLE, DType::F32));
    let losses = is_impossible.where_(b.number(f64::INFINITY, DType::F32), losses);
    let (losses, passing) = if terms.option("zero_infinity") == 0.0 {
        // The gradient of a loss that is infinite is no number.
        let unknown = losses * 0.0;
        (losses, passing + unknown.unsqueeze(&[1]).unsqueeze(&[0]))
    } else {
        let zero = b.number(0.0, DType::F32);
        (is_impossible.where_(zero, losses), is_impossible.unsqueeze(&[1]).unsqueeze(&[0]).where_(zero, passing))
    };
    let means = terms.option("mean") != 0.0;
    let weights = if means { 1.0 / states.lengths.cast(DType::F32).max(b.number(1.0, DType::F32)) } else { losses.filled_like(1.0) };
    let of_rows = terms.weights_like(losses);
    let weights = weights * of_rows;
    let value = (losses * weights).sum_all();
    let passed = (emitted * passing.without_gradient()).sum_away(&[0, 2]);
    let count = if means { of_rows.sum_all() } else { b.number(1.0, DType::F32) };
    // The value of the loss, with the gradient of what passes.
    let follows = -(passed * weights).sum_all();
    Sum { sum: follows - follows.without_gradient() + value.without_gradient(), count }
}

/// The states of each row's text: its symbols with a blank before, between and behind them.
struct States<'g> {
    /// The symbol of each, `[batch, states]`, int64.
    symbols: Expr<'g>,
    /// 0 where a state may follow the one before the last, else [`NEVER`]; `[batch, states]`, float32.
    skips: Expr<'g>,
    /// 0 for the states that a text may end in, else [`NEVER`]; `[batch, states]`, float32.
    ends: Expr<'g>,
    /// Symbols of each row, `[batch]`, int64.
    lengths: Expr<'g>,
    /// Frames of each row, `[batch, 1]`, int64; all if none are told.
    frames: Option<Expr<'g>>,
}

impl<'g> States<'g> {
    fn new(labels: Expr<'g>, blank: f64, frames: Option<Expr<'g>>) -> Self {
        let b = labels.b();
        let is_there = labels.less(labels.same_type(0.0)).logical_not();
        let lengths = is_there.cast(DType::I64).sum_away(&[1]);
        let blanks = labels.filled_like(blank);
        let symbols = is_there.where_(labels, blanks);
        let pairs = blanks.unsqueeze(&[-1]).concat(&[symbols.unsqueeze(&[-1])], -1);
        let rows = labels.length(0);
        let pairs = pairs.reshape_to(rows.concat(&[labels.length(1) * 2.0], 0));
        let last = rows.concat(&[b.ints(&[1])], 0).filled(blank, DType::I64);
        let symbols = pairs.concat(&[last], 1);
        let front = rows.concat(&[b.ints(&[2])], 0).filled(blank, DType::I64);
        let before = front.concat(&[symbols], 1).slice_at(b.ints(&[0]), symbols.length(1), &[1]);
        let is_blank = symbols.equal(symbols.same_type(blank));
        let may_not = is_blank.or(symbols.equal(before));
        let (zero, never) = (b.number(0.0, DType::F32), b.number(NEVER, DType::F32));
        let place = b.op("Range", &[b.int(0), symbols.length(1).reshape(&[]), b.int(1)], &[]);
        let behind = lengths.unsqueeze(&[1]) * 2.0 - place;
        // The last blank, or the last symbol where there is one.
        let is_end = behind.equal(behind.same_type(0.0)).or(behind.equal(behind.same_type(1.0)));
        Self {
            symbols,
            skips: may_not.where_(never, zero),
            ends: is_end.where_(zero, never),
            lengths,
            frames: frames.map(|frames| frames.unsqueeze(&[1])),
        }
    }
}

/// What is left to come behind each state of each frame, the last frame first: `[frames, batch, states]`.
fn backward<'g>(b: &'g Builder, emitted: Expr<'g>, states: &States<'g>) -> Expr<'g> {
    let body = b.body("ctc/rest");
    let (number, go_on) = (body.input("ctc/rest/number", DType::I64, &[]), body.input("ctc/rest/go_on", DType::Bool, &[]));
    let dims = states.ends.known_dims();
    // What is left behind the states of the frame that comes next, with what they emit; of the last frame nothing comes next.
    let next = body.input("ctc/rest/next", DType::F32, &dims);
    let (emitted_in, ends, skips) = (body.capture(emitted), body.capture(states.ends), body.capture(states.skips));
    let stay = next;
    let one = moved(next, 1);
    let two = moved(next + skips, 2);
    let frame = emitted_in.length(0).reshape(&[]) - 1.0 - number;
    let is_last = match states.frames {
        None => number.equal(body.int(0)),
        // Behind a row's last frame it does not matter what is left.
        Some(frames) => frame.greater_or_equal(body.capture(frames) - 1.0),
    };
    let rest = is_last.where_(ends, log_sum3(stay, one, two));
    body.output("ctc/rest/continue", go_on.identity());
    body.output("ctc/rest/next_next", rest + emitted_in.gather(frame, 0));
    body.output("ctc/rest/of_frame", rest);
    let body = match body.finish_body() {
        Ok(body) => body,
        Err(error) => {
            b.fail(error);
            return b.unknown();
        }
    };
    let inputs = [Some(emitted.length(0).reshape(&[])), None, Some(states.ends)];
    b.op_with_bodies("Loop", &inputs, vec![("body", body)], 2)[1]
}

/// How much of each row's probability passes each state in each frame: `[frames, batch, states]`, its sum over states 1.
fn passing<'g>(b: &'g Builder, emitted: Expr<'g>, rest: Expr<'g>, losses: Expr<'g>, states: &States<'g>) -> Expr<'g> {
    let body = b.body("ctc/passing");
    let (number, go_on) = (body.input("ctc/passing/number", DType::I64, &[]), body.input("ctc/passing/go_on", DType::Bool, &[]));
    let dims = states.ends.known_dims();
    let so_far = body.input("ctc/passing/so_far", DType::F32, &dims);
    let (emitted_in, rest_in, losses_in) = (body.capture(emitted), body.capture(rest), body.capture(losses));
    let skips = body.capture(states.skips);
    let came = log_sum3(so_far, moved(so_far, -1), moved(so_far, -2) + skips) + emitted_in.gather(number, 0);
    let left = emitted_in.length(0).reshape(&[]) - 1.0 - number;
    let passing = came + rest_in.gather(left, 0) + losses_in.unsqueeze(&[1]);
    let passing = match states.frames {
        None => passing,
        // Nothing passes behind a row's last frame.
        Some(frames) => number.less(body.capture(frames)).where_(passing, body.number(NEVER, DType::F32)),
    };
    let passing = passing.exp();
    body.output("ctc/passing/continue", go_on.identity());
    body.output("ctc/passing/so_far_next", came);
    body.output("ctc/passing/of_frame", passing);
    let body = match body.finish_body() {
        Ok(body) => body,
        Err(error) => {
            b.fail(error);
            return b.unknown();
        }
    };
    // Before the first frame all is in the first state, which no frame has emitted yet.
    let rows = states.symbols.length(0);
    let first = rows.concat(&[b.ints(&[1])], 0).filled(0.0, DType::F32);
    let others = rows.concat(&[states.symbols.length(1) - 1.0], 0).filled(NEVER, DType::F32);
    let inputs = [Some(emitted.length(0).reshape(&[])), None, Some(first.concat(&[others], 1))];
    b.op_with_bodies("Loop", &inputs, vec![("body", body)], 2)[1]
}

/// Each state's place given to the one `by` places before it, or behind it where `by` is negative; what moves in is [`NEVER`].
fn moved(values: Expr<'_>, by: i64) -> Expr<'_> {
    let b = values.b();
    let never = values.length(0).concat(&[b.ints(&[by.abs()])], 0).filled(NEVER, DType::F32);
    if by > 0 {
        let wide = values.concat(&[never], 1);
        wide.slice(&[by], &[i64::MAX], &[1])
    } else {
        let wide = never.concat(&[values], 1);
        wide.slice(&[0], &[by], &[1])
    }
}

/// `ln(eᵃ + eᵇ + eᶜ)`
fn log_sum3<'g>(x: Expr<'g>, y: Expr<'g>, z: Expr<'g>) -> Expr<'g> {
    let most = x.max(y).max(z);
    most + ((x - most).exp() + (y - most).exp() + (z - most).exp()).log()
}

/// `ln Σ eˣ` along the last axis.
fn log_sum(x: Expr<'_>) -> Expr<'_> {
    let most = x.reduce_max(-1);
    (most + (x - most).exp().sum(&[-1]).log()).squeeze(&[-1])
}
