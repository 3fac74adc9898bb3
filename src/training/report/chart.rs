//! Curves as SVG, and as dots of Braille letters for a terminal.

use std::fmt::Write as _;

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it shows.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, f64)>,
    /// Whether points are marked: they are few, and each was measured on its own.
    pub has_marks: bool,
}

impl Series {
    /// The running average of a curve, in which a new value has this share.
    pub(super) fn smoothed(share: f64) -> impl Fn(Self) -> Self {
        move |series| {
            let mean = |mean: &mut Option<f64>, (x, y): (f64, f64)| {
                let next = mean.map_or(y, |mean| mean + share * (y - mean));
                *mean = Some(next);
                Some((x, next))
            };
            Self { points: series.points.iter().copied().scan(None, mean).collect(), ..series }
        }
    }

    /// At most so many points: each the mean of its neighbours.
    fn thinned(&self, most: usize) -> Vec<(f64, f64)> {
        let each = self.points.len().div_ceil(most.max(1)).max(1);
        let mean = |part: &[(f64, f64)]| {
            let count = part.iter().fold(0.0, |count, _| count + 1.0);
            (part[part.len() / 2].0, part.iter().map(|(_, y)| y).sum::<f64>() / count)
        };
        self.points.chunks(each).map(mean).collect()
    }
}

/// The range of numbers that a chart shows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    low: f64,
    high: f64,
}

impl Span {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        match () {
            () if low > high => Self { low: 0.0, high: 1.0 },
            () if low < high => Self { low, high },
            // One value alone stands in the middle.
            () => Self { low: low - low.abs().max(1e-9) / 2.0, high: high + high.abs().max(1e-9) / 2.0 },
        }
    }

    fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Round numbers in the range, about five.
    fn ticks(self) -> Vec<f64> {
        let rough = (self.high - self.low) / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough).unwrap_or(rough);
        let first = (self.low / step).ceil();
        (0..8_u8).map(|number| (first + f64::from(number)) * step).take_while(|tick| *tick <= self.high + step * 1e-6).collect()
    }
}

/// Curves that can be told apart by colour, on light and dark ground.
const COLOURS: [&str; 6] = ["#2563eb", "#ea580c", "#16a34a", "#c026d3", "#0891b2", "#b45309"];

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 24.0;
const MARGIN: f64 = 12.0;
const TOP: f64 = 26.0;
const MOST: usize = 600;

/// Curves in one chart, as SVG.
pub(super) fn svg(all: &[Series]) -> String {
    let points = || all.iter().flat_map(|series| series.points.iter().copied());
    let (xs, ys) = (Span::of(points().map(|(x, _)| x)), Span::of(points().map(|(_, y)| y)));
    let x = |value: f64| LEFT + xs.share(value) * (WIDTH - LEFT - MARGIN);
    let y = |value: f64| HEIGHT - BOTTOM - ys.share(value) * (HEIGHT - BOTTOM - TOP);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">");
    let mut add = |part: std::fmt::Arguments<'_>| svg.write_fmt(part).expect("writing to a string does not fail");
    for tick in ys.ticks() {
        let at = y(tick);
        add(format_args!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", WIDTH - MARGIN));
        add(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, short(tick)));
    }
    for tick in xs.ticks().into_iter().filter(|tick| tick.fract() == 0.0) {
        add(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>", x(tick), HEIGHT - 6.0));
    }
    let mut name_at = LEFT;
    for (series, colour) in all.iter().filter(|series| !series.points.is_empty()).zip(COLOURS.iter().cycle()) {
        let line: Vec<String> = series
            .thinned(MOST)
            .into_iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(a, b)| format!("{:.1},{:.1}", x(a), y(b)))
            .collect();
        add(format_args!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-linejoin=\"round\" points=\"{}\"/>",
            line.join(" ")
        ));
        for (a, b) in series.points.iter().filter(|(_, value)| series.has_marks && value.is_finite()) {
            add(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>step {a}: {}</title></circle>",
                x(*a),
                y(*b),
                short(*b)
            ));
        }
        add(format_args!("<rect x=\"{name_at:.1}\" y=\"6\" width=\"10\" height=\"10\" rx=\"2\" fill=\"{colour}\"/>"));
        add(format_args!("<text x=\"{:.1}\" y=\"15\">{}</text>", name_at + 15.0, escaped(&series.name)));
        name_at += series.name.chars().fold(36.0, |width, _| width + 6.5);
    }
    svg + "</svg>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with four digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// Letters of a chart in a terminal.
const COLUMNS: usize = 64;
const ROWS: usize = 12;
/// The bits of a Braille letter's dots, by column and row (Unicode, block 2800).
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

/// Curves over each other for a terminal: dots of Braille letters, each curve with a letter of its own at its end.
#[must_use]
pub fn terminal(all: &[Series]) -> String {
    let points = || all.iter().flat_map(|series| series.points.iter().copied()).filter(|(_, y)| y.is_finite());
    if points().next().is_none() {
        return String::new();
    }
    let (xs, ys) = (Span::of(points().map(|(x, _)| x)), Span::of(points().map(|(_, y)| y)));
    let mut cells = vec![[0_u32; COLUMNS]; ROWS];
    let mut marks: Vec<(usize, usize, char)> = vec![];
    for (series, letter) in all.iter().zip('a'..='z') {
        let dots: Vec<(usize, usize)> = series
            .points
            .iter()
            .filter(|(_, y)| y.is_finite())
            .map(|(x, y)| (dot(xs.share(*x), 2 * COLUMNS), dot(1.0 - ys.share(*y), 4 * ROWS)))
            .collect();
        let between = dots.windows(2).flat_map(|pair| line(pair[0], pair[1]));
        for (x, y) in between.chain(dots.iter().copied()) {
            cells[y / 4][x / 2] |= DOTS[x % 2][y % 4];
        }
        marks.extend(dots.last().map(|(x, y)| (x / 2, y / 4, letter)));
    }
    let mut text = String::new();
    for (row, letters) in cells.iter().enumerate() {
        let label = match row {
            0 => short(ys.high),
            _ if row == ROWS - 1 => short(ys.low),
            _ => String::new(),
        };
        let shown = letters.iter().enumerate().map(|(column, bits)| {
            let mark = marks.iter().find(|(x, y, _)| (*x, *y) == (column, row)).map(|(_, _, letter)| *letter);
            mark.or_else(|| char::from_u32(0x2800 + bits)).unwrap_or(' ')
        });
        writeln!(text, "{label:>10} ┤{}", shown.collect::<String>()).expect("writing to a string does not fail");
    }
    let names: Vec<String> = all.iter().zip('a'..='z').map(|(series, letter)| format!("{letter} {}", series.name)).collect();
    writeln!(text, "{:>10}  step {} to {}: {}", "", short(xs.low), short(xs.high), names.join(", "))
        .expect("writing to a string does not fail");
    text
}

/// The place of a share among so many dots.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place on a screen"
)]
fn dot(share: f64, count: usize) -> usize {
    ((share.clamp(0.0, 1.0) * (count - 1) as f64).round() as usize).min(count - 1)
}

/// The dots between two, one for each column.
fn line((x0, y0): (usize, usize), (x1, y1): (usize, usize)) -> Vec<(usize, usize)> {
    let wide = x1.saturating_sub(x0);
    (0..wide).map(|step| (x0 + step, if y1 >= y0 { y0 + (y1 - y0) * step / wide } else { y0 - (y0 - y1) * step / wide })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, values: &[f64]) -> Series {
        Series { name: name.to_owned(), points: values.iter().zip(1_u8..).map(|(y, x)| (f64::from(x), *y)).collect(), has_marks: true }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high, ticks) in
            [(0.0, 1.0, vec![0.0, 0.5, 1.0]), (1.0, 9.0, vec![2.0, 4.0, 6.0, 8.0]), (0.31, 0.34, vec![0.31, 0.32, 0.33, 0.34])]
        {
            let found = Span { low, high }.ticks();
            assert!(found.len() == ticks.len() && found.iter().zip(&ticks).all(|(a, b)| (a - b).abs() < 1e-9), "{low} {high}: {found:?}");
        }
    }

    #[test]
    fn charts_stand_what_runs_record() {
        for values in [&[][..], &[2.0], &[2.0, 2.0], &[f64::NAN, 1.0], &[1.0, f64::INFINITY, 0.5]] {
            let all = [series("a <b>", values)];
            let picture = svg(&all);
            assert!(!picture.contains("NaN") && !picture.contains("inf") && !picture.contains("<b>"), "{picture}");
            let _ = terminal(&all);
        }
        let text = terminal(&[series("one", &[3.0, 2.0, 1.0]), series("two", &[3.0, 2.5, 2.0])]);
        assert_eq!(text.lines().count(), ROWS + 1);
        assert!(text.contains("a one, b two") && text.contains('b') && text.starts_with("         3 ┤"), "{text}");
    }

    #[test]
    fn long_curves_are_thinned_and_smoothed() {
        let long =
            Series { name: String::new(), points: (0..10_000_u32).map(|x| (f64::from(x), f64::from(x % 2))).collect(), has_marks: false };
        let thin = long.thinned(100);
        assert!(thin.len() == 100 && thin.iter().all(|(_, y)| (y - 0.5).abs() < 1e-9));
        let smooth = Series::smoothed(0.5)(series("", &[1.0, 0.0, 0.0]));
        assert_eq!(smooth.points.iter().map(|(_, y)| *y).collect::<Vec<_>>(), [1.0, 0.5, 0.25]);
    }
}
