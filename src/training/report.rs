//! `report.html`: a run, or several beside each other, as one page that needs no network.
//!
//! Everything comes from the runs' own files (`metrics.jsonl`, `config.yaml`), save for what only the program that measured knows: which classes were taken
//! for which, and what it ran on.

mod chart;
mod curves;
mod samples;

use std::path::Path;

use minijinja::{Environment, Value, context};

use super::metrics;
use super::runs::Run;
use crate::error::{Context, Error, Result};
use crate::export::Manifest;
use crate::files;
use crate::measure::Confusion;

pub use chart::{Series, terminal};
pub use curves::Curves;
pub use samples::{Sample, Samples};

const PAGE: &str = include_str!("report/page.html");

/// What the files of a run do not tell.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// What it ran on, in pairs of a name and a text.
    pub environment: Vec<(&'static str, String)>,
    /// Which classes were taken for which, of the adapter that was kept.
    pub confusion: Option<&'a Confusion>,
    /// The names of the classes.
    pub class_names: &'a [String],
    /// Rows before and after training.
    pub samples: Option<&'a Samples>,
}

/// Writes the report of a run into its folder.
///
/// # Errors
/// If the run's files cannot be read, or the report cannot be written.
pub fn write(run: &Run, manifest: &Manifest, facts: &Facts<'_>) -> Result<()> {
    let title = format!("run {} of {} for {}", run.name, manifest.method, manifest.task);
    let page = page(&title, std::slice::from_ref(run), facts).in_file(run.report())?;
    files::replace(&run.report(), page.as_bytes())
}

/// Writes a page with several runs beside each other.
///
/// # Errors
/// If the runs' files cannot be read, or the page cannot be written.
pub fn compare(path: &Path, runs: &[Run]) -> Result<()> {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let page = page(&format!("runs {}", names.join(" and ")), runs, &Facts::default()).in_file(path)?;
    files::replace(path, page.as_bytes())
}

fn page(title: &str, runs: &[Run], facts: &Facts<'_>) -> Result<String> {
    let wrong = |error: minijinja::Error| Error::format("a report", error);
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE).map_err(wrong)?;
    let curves = Curves::of(runs)?;
    let charts = curves.charts().into_iter().map(|(name, svg)| context! { name, svg => Value::from_safe_string(svg) });
    let page = environment.get_template("page.html").map_err(wrong)?;
    let context = context! {
        title,
        runs => runs.iter().map(summary).collect::<Result<Vec<_>>>()?,
        charts => charts.collect::<Vec<_>>(),
        options => options(runs)?,
        metrics => curves.best(),
        classes => facts.confusion.map(|table| classes(table, facts.class_names)),
        samples => facts.samples.map(Samples::shown),
        environment => &facts.environment,
        producer => format!("peft-onnx {}", env!("CARGO_PKG_VERSION")),
    };
    page.render(context).map_err(wrong)
}

fn summary(run: &Run) -> Result<Value> {
    let told = run.told()?;
    let ended = run.record.ended.map_or("not ended", |ended| ended.word());
    let seconds: f64 = metrics::lines(&run.metrics())?.iter().filter_map(|line| line.value("seconds")).sum();
    Ok(context! {
        name => &run.name,
        ended,
        steps => told.steps,
        kept => run.record.kept,
        loss => told.loss,
        best => told.best,
        seconds => format!("{seconds:.0}"),
    })
}

/// Every option with its value in each run, those that differ first.
fn options(runs: &[Run]) -> Result<Vec<Value>> {
    let mut files = vec![];
    for run in runs {
        let path = run.config();
        let text = if path.is_file() { files::read_text(&path)? } else { String::new() };
        files.push(serde_yaml_ng::from_str::<serde_yaml_ng::Mapping>(&text).unwrap_or_default());
    }
    let mut names: Vec<&str> = files.iter().flat_map(serde_yaml_ng::Mapping::keys).filter_map(serde_yaml_ng::Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // The page is for others, too: where files lie on this machine is nobody's business.
    let shown = |value: &Option<serde_yaml_ng::Value>| {
        let named = value.as_ref().map(by_name);
        named.map(|value| serde_yaml_ng::to_string(&value).unwrap_or_default().trim().to_owned()).unwrap_or_default()
    };
    let rows = names.into_iter().map(|name| (name, files.iter().map(|file| file.get(name).cloned()).collect::<Vec<_>>()));
    let (differ, same): (Vec<_>, Vec<_>) = rows.partition(|(_, values)| values.iter().any(|value| *value != values[0]));
    let row = |differs: bool| {
        move |(name, values): (&str, Vec<Option<serde_yaml_ng::Value>>)| {
            context! { name, values => values.iter().map(shown).collect::<Vec<_>>(), differs }
        }
    };
    Ok(differ.into_iter().map(row(true)).chain(same.into_iter().map(row(false))).collect())
}

/// An option's value for others' eyes: of a file whose whole path it is, the name.
#[must_use]
pub fn by_name(value: &serde_yaml_ng::Value) -> serde_yaml_ng::Value {
    use serde_yaml_ng::Value;
    match value {
        Value::String(text) if Path::new(text).is_absolute() => {
            Value::String(Path::new(text).file_name().unwrap_or_default().to_string_lossy().into_owned())
        }
        Value::Sequence(all) => Value::Sequence(all.iter().map(by_name).collect()),
        _ => value.clone(),
    }
}

/// Precision, recall and F1 of every class, and which were taken for which.
fn classes(table: &Confusion, names: &[String]) -> Value {
    let name = |class: usize| names.get(class).cloned().unwrap_or_else(|| class.to_string());
    let rows = (0..table.classes()).map(|class| {
        let scores = table.scores(class);
        let counts: Vec<usize> = (0..table.classes()).map(|other| table.count(class, other)).collect();
        let share = |count: usize| (100 * count).checked_div(scores.support).unwrap_or_default();
        context! {
            name => name(class),
            precision => format!("{:.3}", scores.precision),
            recall => format!("{:.3}", scores.recall),
            f1 => format!("{:.3}", scores.f1),
            support => scores.support,
            cells => counts.into_iter().enumerate().map(|(other, count)| context! { count, share => share(count), is_right => other == class }).collect::<Vec<_>>(),
        }
    });
    context! { rows => rows.collect::<Vec<_>>(), names => (0..table.classes()).map(name).collect::<Vec<_>>() }
}
