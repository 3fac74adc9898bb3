mod stopped;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use super::{DataOptions, EvalData, Event, Length, MicroBatch, Optimizer, Options, Saving, Start, Warmup, Watching, train};
use crate::data::{ColumnMap, HeldOut, Order, Packing, Sampler, ValSize};
use crate::error::{ErrorKind, Result};
use crate::evaluate::reference::Referee;
use crate::media::Augmentation;
use crate::ort::{Device, Options as RuntimeOptions, Runtime};
use crate::train::precision::Precision;
use crate::training::schedule::Decay;

fn runtime() -> &'static Runtime {
    Runtime::start(&RuntimeOptions::default()).unwrap_or_else(|error| panic!("tests need ONNX Runtime: {error}"))
}

/// A copy of the bundle that `scripts/fixtures/make_bundle_fixture.py` wrote.
fn bundle(into: &Path) -> Result<PathBuf> {
    let fixture: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/bundle"].iter().collect();
    for entry in std::fs::read_dir(fixture)? {
        let path = entry?.path();
        std::fs::copy(&path, into.join(path.file_name().expect("a file has a name")))?;
    }
    Ok(into.to_path_buf())
}

fn options(bundle: &Path) -> Options {
    Options {
        bundle: bundle.to_path_buf(),
        base: None,
        reference: Referee::Base,
        data: DataOptions {
            file: bundle.join("train.jsonl"),
            eval: EvalData::Nothing,
            columns: ColumnMap::default(),
            tokenizer: None,
            max_length: None,
            stride: None,
            sampler: Sampler::Any,
            augmentation: Augmentation::default(),
            packing: Packing::Off,
            order: Order::Shuffled { seed: 3 },
            batch_size: NonZeroUsize::MIN,
        },
        accumulation: NonZeroUsize::MIN,
        micro_batch: MicroBatch::Whole,
        length: Length::Steps(6),
        optimizer: Optimizer { learning_rate: 0.1, weight_decay: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 1.0 },
        decay: Decay::Constant,
        warmup: Warmup::Steps(0),
        seed: 3,
        watching: Watching::default(),
        saving: Saving::default(),
        start: Start::Untrained,
        run: None,
        config: "max-steps: 6\n".to_owned(),
        tensorboard: false,
        device: Device::Cpu,
        precision: Precision::default(),
        packs_weights: false,
        parts_state: false,
        waiting: NonZeroUsize::MIN,
    }
}

fn run(options: &Options) -> Result<super::Summary> {
    train(runtime(), options, &AtomicBool::new(false), &mut |_| {})
}

/// The metrics without the wall times.
fn metrics(bundle: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(bundle.join("metrics.jsonl"))?;
    let rows = text.lines().map(|line| {
        let mut row: Value = serde_json::from_str(line).expect("a line is JSON");
        row.as_object_mut().and_then(|row| row.shift_remove("seconds")).expect("a line has its time");
        row
    });
    Ok(rows.collect())
}

#[test]
fn a_resumed_run_is_the_same_bit_by_bit() -> Result<()> {
    for (accumulation, batch_size, order) in [(1, 2, Order::File), (2, 2, Order::ByLength { seed: 3 }), (3, 1, Order::Shuffled { seed: 4 })]
    {
        let (whole, parted) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut asked = options(&bundle(whole.path())?);
        asked.accumulation = NonZeroUsize::new(accumulation).expect("not zero");
        asked.data.batch_size = NonZeroUsize::new(batch_size).expect("not zero");
        asked.data.order = order;
        run(&asked)?;
        asked.bundle = bundle(parted.path())?;
        asked.length = Length::Steps(3);
        run(&asked)?;
        asked.length = Length::Steps(6);
        asked.start = Start::Resumed;
        run(&asked)?;
        for file in ["adapter_model.safetensors", "checkpoints/step-6/state.safetensors", "checkpoints/step-6/trainer.json"] {
            let [whole, parted] = [&whole, &parted].map(|folder| std::fs::read(folder.path().join(file)));
            assert_eq!(whole?, parted?, "{file} with accumulation {accumulation}");
        }
        assert_eq!(metrics(whole.path())?, metrics(parted.path())?);
        assert_eq!(metrics(whole.path())?.len(), 6);
    }
    Ok(())
}

#[test]
fn fetching_losses_seldom_changes_nothing_but_when_they_come() -> Result<()> {
    for accumulation in [1, 2] {
        let (often, seldom) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mut asked = options(&bundle(often.path())?);
        asked.accumulation = NonZeroUsize::new(accumulation).expect("not zero");
        asked.watching.every = NonZeroU64::new(3);
        asked.data.eval = EvalData::File(asked.data.file.clone());
        run(&asked)?;
        asked.bundle = bundle(seldom.path())?;
        asked.waiting = NonZeroUsize::new(4).expect("not zero");
        run(&asked)?;
        assert_eq!(metrics(often.path())?, metrics(seldom.path())?);
        for file in ["adapter_model.safetensors", "checkpoints/step-6/state.safetensors"] {
            let [often, seldom] = [&often, &seldom].map(|folder| std::fs::read(folder.path().join(file)));
            assert_eq!(often?, seldom?, "{file} with accumulation {accumulation}");
        }
    }
    Ok(())
}

#[test]
fn losses_and_state_are_what_they_should_be() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.data.eval = EvalData::File(asked.data.file.clone());
    asked.watching.every = NonZeroU64::new(20);
    asked.data.batch_size = NonZeroUsize::new(7).expect("not zero");
    asked.length = Length::Steps(60);
    let mut seen = vec![];
    let summary = train(runtime(), &asked, &AtomicBool::new(false), &mut |event| match event {
        Event::Step(record) => assert!(record.tokens == 23),
        Event::Evaluated { step, .. } => seen.push(step),
        _ => {}
    })?;
    assert_eq!(seen, [20, 40, 60]);
    let rows = metrics(folder.path())?;
    assert!((rows[0]["loss"].as_f64().expect("a loss") - 5_f64.ln()).abs() < 1e-6);
    // The entropy of the labels: 0, 1, 2, 3, 4 occur 1, 3, 8, 2 and 2 times behind the first place.
    let shares = [1.0, 3.0, 8.0, 2.0, 2.0].map(|count: f64| count / 16.0);
    let entropy: f64 = shares.iter().map(|share| -share * share.ln()).sum();
    let evaluation = summary.evaluation.expect("there is evaluation data");
    assert!((evaluation.loss - entropy).abs() < 0.02, "{evaluation:?}, entropy {entropy}");
    assert_eq!((evaluation.labels, evaluation.accuracy), (16, Some(0.5)));
    Ok(())
}

#[test]
fn accumulated_batches_have_the_loss_of_one_batch() -> Result<()> {
    let mut losses = vec![];
    for (accumulation, batch_size) in [(1, 6), (2, 3), (3, 2)] {
        let folder = tempfile::tempdir()?;
        let mut asked = options(&bundle(folder.path())?);
        asked.accumulation = NonZeroUsize::new(accumulation).expect("not zero");
        asked.data.batch_size = NonZeroUsize::new(batch_size).expect("not zero");
        asked.data.order = Order::File;
        asked.length = Length::Steps(1);
        run(&asked)?;
        losses.push(metrics(folder.path())?[0]["loss"].as_f64().expect("a loss"));
    }
    assert!(losses.iter().all(|loss| (loss - losses[0]).abs() < 1e-6), "{losses:?}");
    Ok(())
}

#[test]
fn what_is_no_number_stops_the_run_and_the_last_good_state_stays() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.optimizer.learning_rate = 1e38;
    asked.optimizer.weight_decay = 0.0;
    asked.data.order = Order::File;
    let error = run(&asked).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Diverged(_)), "{error}");
    assert!(error.to_string().contains("at step 2, with the rows of lines 2 of"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("the state after step 1 was saved")), "{:?}", error.hint());
    assert!(folder.path().join("runs/001/checkpoints/step-1/state.safetensors").exists());
    let last = metrics(folder.path())?.pop().expect("there are metrics");
    assert_eq!((&last["step"], &last["diverged"]), (&2.into(), &true.into()));
    // The adapter is not that of a run that left the range of numbers.
    let fixture: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/bundle/adapter_model.safetensors"].iter().collect();
    assert_eq!(std::fs::read(folder.path().join("adapter_model.safetensors"))?, std::fs::read(fixture)?);
    Ok(())
}

#[test]
fn an_interrupted_run_can_go_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    let error = train(runtime(), &asked, &AtomicBool::new(true), &mut |_| {}).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Interrupted), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`resume`")));
    asked.start = Start::Resumed;
    run(&asked)?;
    assert_eq!(metrics(folder.path())?.len(), 6);
    Ok(())
}

#[test]
fn a_run_that_is_not_the_same_is_not_resumed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let asked = Options { start: Start::Resumed, ..options(&bundle(folder.path())?) };
    assert!(run(&asked).unwrap_err().to_string().contains("there is no run to go on with"));
    run(&Options { start: Start::Untrained, ..asked.clone() })?;
    let longer = Options { length: Length::Steps(8), seed: 4, ..asked };
    let error = run(&longer).unwrap_err();
    assert_eq!(error.to_string(), "`seed`: expected 3, as in the checkpoint, found 4");
    Ok(())
}

#[test]
fn checkpoints_come_when_they_are_due_and_only_the_newest_stay() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.saving = Saving { every: NonZeroU64::new(2), keep: NonZeroUsize::new(2) };
    let mut saved = 0;
    train(runtime(), &asked, &AtomicBool::new(false), &mut |event| saved += u32::from(matches!(event, Event::Saved(_))))?;
    assert_eq!(saved, 3);
    let mut left: Vec<_> =
        std::fs::read_dir(folder.path().join("checkpoints"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    left.sort();
    assert_eq!(left, ["step-4", "step-6"]);
    Ok(())
}

#[test]
fn what_a_kill_behind_the_last_checkpoint_left_undone_is_done_when_the_run_is_resumed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.saving = Saving { every: NonZeroU64::new(2), keep: None };
    run(&asked)?;
    let (record, report) = (folder.path().join("runs/001/run.json"), folder.path().join("runs/001/report.html"));
    std::fs::write(&record, std::fs::read_to_string(&record)?.replace("\"finished\"", "null"))?;
    std::fs::remove_file(&report)?;
    asked.saving.keep = NonZeroUsize::new(1);
    let resumed = Options { start: Start::Resumed, ..asked };
    assert!(run(&resumed)?.was_finished);
    let left: Vec<_> = std::fs::read_dir(folder.path().join("runs/001/checkpoints"))?.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["step-6"]);
    // The same where the page alone was not come to.
    for _ in 0..2 {
        assert!(std::fs::read_to_string(&report)?.contains("<html"));
        std::fs::remove_file(&report)?;
        assert!(run(&resumed)?.was_finished);
    }
    Ok(())
}

fn adapter(bundle: &Path) -> Result<Vec<u8>> {
    Ok(std::fs::read(bundle.join("adapter_model.safetensors"))?)
}

#[test]
fn a_finished_run_that_is_resumed_is_finished_and_completes_the_adapter() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let asked = options(&bundle(folder.path())?);
    let before = adapter(folder.path())?;
    assert!(!run(&asked)?.was_finished);
    let after = adapter(folder.path())?;
    let resumed = Options { start: Start::Resumed, ..asked.clone() };
    assert!(run(&resumed)?.was_finished);
    // A kill between the last checkpoint and the adapter: the run does not know that it ended.
    std::fs::write(folder.path().join("adapter_model.safetensors"), &before)?;
    let record = folder.path().join("runs/001/run.json");
    std::fs::write(&record, std::fs::read_to_string(&record)?.replace("\"finished\"", "null"))?;
    assert!(run(&resumed)?.was_finished);
    assert_eq!(adapter(folder.path())?, after);
    // What the user put there after the end stays.
    std::fs::write(folder.path().join("adapter_model.safetensors"), &before)?;
    assert!(run(&resumed)?.was_finished);
    assert_eq!(adapter(folder.path())?, before);
    let longer = run(&Options { length: Length::Steps(8), ..resumed })?;
    assert_eq!((longer.run.as_str(), longer.steps, longer.was_finished), ("001", 8, false));
    Ok(())
}

#[test]
fn where_a_trained_bundle_starts_must_be_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let asked = options(&bundle(folder.path())?);
    let initial = folder.path().join("initial");
    std::fs::create_dir(&initial)?;
    std::fs::copy(folder.path().join("adapter_model.safetensors"), initial.join("adapter_model.safetensors"))?;
    run(&asked)?;
    let first = adapter(folder.path())?;
    let error = run(&asked).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(error.to_string().contains("run 001 saved its step 6"), "{error}");
    assert!(["`resume`", "`continue`", "`restart`"].iter().all(|choice| hint.contains(choice)), "{hint}");
    assert_eq!(run(&Options { start: Start::Restarted, ..asked.clone() })?.run, "002");
    assert_eq!(adapter(folder.path())?, first, "the same start, the same end");
    assert_eq!(run(&Options { start: Start::Continued, run: Some("more".into()), ..asked.clone() })?.run, "more");
    assert_ne!(adapter(folder.path())?, first);
    // Without its runs the adapter still tells.
    std::fs::remove_dir_all(folder.path().join("runs"))?;
    assert!(run(&asked).unwrap_err().to_string().contains("its adapter is not the one that `inject` wrote"));
    std::fs::copy(initial.join("adapter_model.safetensors"), folder.path().join("adapter_model.safetensors"))?;
    run(&asked).map(drop)
}

#[test]
fn a_checkpoint_that_is_not_the_newest_is_gone_on_from_in_a_new_run() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.saving.every = NonZeroU64::new(2);
    run(&asked)?;
    let (first, rows) = (adapter(folder.path())?, metrics(folder.path())?);
    asked.start = Start::ResumedFrom(folder.path().join("checkpoints/step-4"));
    let summary = run(&asked)?;
    assert_eq!(summary.run, "002");
    assert_eq!((adapter(folder.path())?, metrics(folder.path())?), (first, rows));
    let left = |run: &str| std::fs::read_dir(folder.path().join("runs").join(run).join("checkpoints")).map(Iterator::count);
    assert_eq!((left("001")?, left("002")?), (3, 1));
    // The newest of a run is its own.
    asked.start = Start::ResumedFrom(folder.path().join("runs/001/checkpoints/step-6"));
    asked.length = Length::Steps(7);
    assert_eq!(run(&asked)?.run, "001");
    Ok(())
}

/// The rows of the newest run's metrics, wherever the bundle's link leads.
fn newest_metrics(bundle: &Path) -> Result<Vec<Value>> {
    metrics(&crate::training::runs::Runs::of(bundle).newest()?.expect("there is a run").folder)
}

#[test]
fn a_disk_that_fails_at_any_step_loses_nothing() -> Result<()> {
    use crate::files::fault::test as fault;
    let whole = tempfile::tempdir()?;
    let mut asked = options(&bundle(whole.path())?);
    asked.length = Length::Steps(3);
    asked.saving = Saving { every: NonZeroU64::new(1), keep: NonZeroUsize::new(1) };
    let before = adapter(whole.path())?;
    run(&asked)?;
    let expected = (adapter(whole.path())?, metrics(whole.path())?);
    let mut failures = 0;
    for step in 1.. {
        let folder = tempfile::tempdir()?;
        asked.bundle = bundle(folder.path())?;
        asked.start = Start::Untrained;
        fault::at(step);
        let outcome = run(&asked);
        if fault::is_left() {
            break;
        }
        failures += u32::from(outcome.is_err());
        let saved = crate::training::runs::Runs::of(folder.path()).newest()?.map(|run| run.checkpoints()?.newest()).transpose()?.flatten();
        if saved.is_some() {
            asked.start = Start::Resumed;
        } else {
            assert_eq!(adapter(folder.path())?, before, "step {step}: nothing was saved");
        }
        if let Err(error) = run(&asked) {
            panic!("step {step} failed ({:?}), and then: {error}", outcome.map(drop));
        }
        assert_eq!((adapter(folder.path())?, newest_metrics(folder.path())?), expected, "step {step}");
        let left = std::fs::read_dir(folder.path())?
            .filter(|entry| entry.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with(".peft-onnx-")));
        assert_eq!(left.count(), 0, "step {step}");
    }
    assert!(failures > 40, "{failures}");
    Ok(())
}

/// A run whose loss on the evaluation data falls first and rises later: the learning rate is far too large.
fn wild(bundle: &Path) -> Options {
    let mut asked = options(bundle);
    asked.optimizer = Optimizer { learning_rate: 2.0, ..asked.optimizer };
    asked.data.eval = EvalData::File(asked.data.file.clone());
    asked.length = Length::Steps(40);
    asked.watching = Watching { every: NonZeroU64::new(2), load_best: true, ..Watching::default() };
    asked
}

fn evaluations(folder: &Path) -> Result<Vec<(u64, f64)>> {
    let rows = metrics(folder)?.into_iter().filter(|row| row["split"] == "eval");
    Ok(rows.map(|row| (row["step"].as_u64().expect("a step"), row["loss"].as_f64().unwrap_or(f64::NAN))).collect())
}

#[test]
fn the_bundle_gets_the_best_step_and_its_checkpoint_stays() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = wild(&bundle(folder.path())?);
    asked.saving = Saving { every: NonZeroU64::new(4), keep: NonZeroUsize::new(2) };
    let summary = run(&asked)?;
    let measured = evaluations(folder.path())?;
    let best = measured.iter().copied().reduce(|best, next| if next.1 < best.1 { next } else { best }).expect("there are evaluations");
    assert!(best.0 < 40, "the case is one where the last step is not the best: {measured:?}");
    assert_eq!((summary.kept, summary.steps, summary.stopped_early), (best.0, 40, false));
    assert_eq!(summary.best, Some(("loss".to_owned(), best.1)));
    assert_eq!(summary.evaluation.map(|evaluation| evaluation.loss), Some(best.1));
    let checkpoint = folder.path().join(format!("runs/001/checkpoints/step-{}", best.0));
    let [own, kept] = [folder.path(), &checkpoint].map(|folder| std::fs::read(folder.join("adapter_model.safetensors")));
    assert_eq!(own?, kept?);
    let record: Value = serde_json::from_slice(&std::fs::read(folder.path().join("runs/001/run.json"))?).expect("JSON");
    assert_eq!(record["kept"], best.0);
    // The best one, and the two newest.
    let mut steps: Vec<String> = std::fs::read_dir(folder.path().join("runs/001/checkpoints"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    steps.sort();
    let mut expected = vec![format!("step-{}", best.0), "step-36".to_owned(), "step-40".to_owned()];
    expected.sort();
    assert_eq!(steps, expected);
    let report = std::fs::read_to_string(folder.path().join("runs/001/report.html"))?;
    assert!(report.contains("<svg") && report.contains("max-steps"), "{report}");
    Ok(())
}

#[test]
fn a_run_ends_where_nothing_gets_better_and_is_the_same_after_an_interruption() -> Result<()> {
    let (whole, parts) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut asked = wild(&bundle(whole.path())?);
    asked.watching.patience = NonZeroUsize::new(3);
    let summary = run(&asked)?;
    assert!(summary.stopped_early && summary.steps == summary.kept + 6, "{summary:?}");
    asked.bundle = bundle(parts.path())?;
    asked.data.file = parts.path().join("train.jsonl");
    asked.data.eval = EvalData::File(asked.data.file.clone());
    // Interrupted after every step: what was measured before is read again.
    for _ in 0..summary.steps {
        let stopped = train(runtime(), &asked, &AtomicBool::new(true), &mut |_| {});
        asked.start = Start::Resumed;
        if stopped.is_ok() {
            break;
        }
    }
    let resumed = run(&asked)?;
    assert_eq!((resumed.kept, resumed.steps), (summary.kept, summary.steps));
    assert_eq!(evaluations(parts.path())?, evaluations(whole.path())?);
    let [one, other] = [&whole, &parts].map(|folder| std::fs::read(folder.path().join("adapter_model.safetensors")));
    assert_eq!(one?, other?);
    Ok(())
}

#[test]
fn a_metric_that_is_not_measured_is_refused_before_any_step() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = wild(&bundle(folder.path())?);
    asked.watching.goal = super::Goal::of("rouge");
    let error = run(&asked).unwrap_err();
    assert!(error.to_string().contains("rouge") && error.hint().is_some_and(|hint| hint.contains("loss, perplexity, accuracy")), "{error}");
    assert!(!folder.path().join("runs").exists());
    asked.data.eval = EvalData::Nothing;
    assert!(run(&asked).unwrap_err().hint().is_some_and(|hint| hint.contains("`val_size 0.1`")));
    Ok(())
}

#[test]
fn rows_that_are_held_back_are_measured_and_not_learnt() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.data.eval = EvalData::HeldOut(HeldOut { size: ValSize::Rows(2), seed: 1 });
    let mut plans = vec![];
    train(runtime(), &asked, &AtomicBool::new(false), &mut |event| {
        if let Event::Started(plan) = event {
            plans.push((plan.data.rows, plan.eval_rows));
        }
    })?;
    let all = std::fs::read_to_string(&asked.data.file)?.lines().count();
    assert_eq!(plans, [(all - 2, Some(2))]);
    Ok(())
}

#[test]
fn events_of_tensorboard_stand_beside_the_metrics() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut asked = options(&bundle(folder.path())?);
    asked.tensorboard = true;
    run(&asked)?;
    let names = std::fs::read_dir(folder.path().join("runs/001"))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    let file = names.iter().find(|name| name.starts_with("events.out.tfevents.")).expect("there is a file of events");
    let bytes = std::fs::read(folder.path().join("runs/001").join(file))?;
    let has = |text: &str| bytes.windows(text.len()).filter(|part| *part == text.as_bytes()).count();
    assert_eq!((has("brain.Event:2"), has("train/loss"), has("train/grad_norm")), (1, 6, 6));
    Ok(())
}
