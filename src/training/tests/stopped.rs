//! Runs that a signal stopped.

use super::*;

#[test]
fn a_run_that_was_stopped_in_its_last_step_is_measured_when_it_is_resumed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = wild(&bundle(folder.path())?);
    asked.saving = Saving { every: NonZeroU64::new(1), keep: NonZeroUsize::new(2) };
    run(&asked)?;
    let (metrics, record) = (folder.path().join("runs/001/metrics.jsonl"), folder.path().join("runs/001/run.json"));
    let whole = std::fs::read_to_string(&metrics)?;
    let without = whole.trim_end().rsplit_once('\n').map(|(before, _)| format!("{before}\n")).expect("several lines");
    assert_eq!(evaluations(folder.path())?.last().map(|(step, _)| *step), Some(40), "the last line is a measurement");
    std::fs::write(&metrics, without)?;
    let text = std::fs::read_to_string(&record)?;
    let Some((before, after)) = text.split_once("\"kept\":") else { panic!("{text}") };
    let after = after.find([',', '}', '\n']).map_or("", |end| &after[end..]);
    std::fs::write(&record, format!("{before}\"kept\": null{after}").replace("\"finished\"", "\"interrupted\""))?;
    let resumed = Options { start: Start::Resumed, ..asked };
    let summary = run(&resumed)?;
    assert!(!summary.was_finished && summary.steps == 40, "{summary:?}");
    let measured = |text: &str| text.lines().filter(|line| line.contains("\"eval\"")).count();
    assert_eq!(measured(&std::fs::read_to_string(&metrics)?), measured(&whole));
    assert!(run(&resumed)?.was_finished);
    Ok(())
}
