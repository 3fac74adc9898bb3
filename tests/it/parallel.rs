//! Several processes train as one does with so many times the accumulation. Here they are threads of one process, behind the same trait as those of MPI.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use peft_onnx::data::{Order, Packing};
use peft_onnx::ort::{Options as RuntimeOptions, Runtime};
use peft_onnx::parallel::{Ranks, Threads};
use peft_onnx::training::schedule::Decay;
use peft_onnx::training::{self, EvalData, Event, Length, MicroBatch, Options, Start, Summary};
use peft_onnx::{ErrorKind, Result, safetensors};
use serde_json::{Value, json};

use crate::common::{Folder, done, fixture, number, project_library};
use crate::tasks::{tokenizer, words};

fn runtime() -> &'static Runtime {
    let options = RuntimeOptions { library: project_library(), threads: NonZeroUsize::new(1) };
    Runtime::start(&options).expect("tests need ONNX Runtime")
}

/// What so many processes make of a run; the one that leads first.
fn train(options: &Options, processes: usize, stop: &AtomicBool) -> Vec<Result<Option<Summary>>> {
    std::thread::scope(|scope| {
        let each = |one: Threads| {
            scope.spawn(move || {
                let ranks = Ranks::of(&one, stop);
                training::train_among(runtime(), options, &ranks, &mut |_| {})
            })
        };
        let all: Vec<_> = Threads::new(processes).into_iter().map(each).collect();
        all.into_iter().map(|one| one.join().expect("no thread panics")).collect()
    })
}

/// The same, where all must go well.
fn trained(options: &Options, processes: usize) -> Summary {
    let all: Vec<_> = train(options, processes, &AtomicBool::new(false)).into_iter().map(|came| came.expect("the run ends well")).collect();
    assert_eq!(all.iter().flatten().count(), 1, "one process tells of the run");
    all.into_iter().next().flatten().expect("the first process leads")
}

fn size(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("not zero")
}

/// Losses, norms of gradients and tokens of a run's steps.
fn steps(bundle: &Path, run: &str) -> Vec<[f64; 3]> {
    let metrics = std::fs::read_to_string(bundle.join("runs").join(run).join("metrics.jsonl")).expect("metrics are there");
    let of_line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        ["loss", "grad_norm", "tokens"].map(|name| number(&line[name]))
    };
    metrics.lines().filter(|line| line.contains("grad_norm")).map(of_line).collect()
}

/// All numbers of a bundle's adapter.
fn adapter(bundle: &Path) -> Vec<f32> {
    let tensors = safetensors::read(&bundle.join("adapter_model.safetensors")).expect("an adapter");
    tensors.values().flat_map(|tensor| tensor.to_f32().expect("floats")).collect()
}

/// Sums of the same numbers in another order; an update in between makes them a little more different.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-4 * a.abs()
}

/// A model with rows.
struct Case {
    what: &'static str,
    model: &'static str,
    inject: &'static [&'static str],
    row: fn(usize) -> Value,
    /// Options of one process, and those of several: with the same rows in a step.
    one: fn(&mut Options, usize),
    several: fn(&mut Options),
}

fn tokens(at: usize) -> Value {
    let length = 3 + (at * 5) % 7;
    let ids: Vec<usize> = (0..length).map(|place| (place * place * 5 + place * 3 + at) % 60 + 3).collect();
    let labels: Vec<i64> =
        ids.iter().enumerate().map(|(place, &id)| if place < at % 3 { -100 } else { i64::try_from(id).expect("small") }).collect();
    json!({"input_ids": ids, "attention_mask": vec![1; length], "labels": labels})
}

/// So many times the accumulation.
fn accumulated(options: &mut Options, processes: usize) {
    options.accumulation = size(options.accumulation.get() * processes);
}

const CASES: &[Case] = &[
    Case {
        what: "a language model, rows and labels of different numbers, dropout",
        model: "llama/torchscript.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random", "--lora-dropout", "0.2"],
        row: tokens,
        one: accumulated,
        several: |_| {},
    },
    Case {
        what: "accumulation beside processes, parts of batches, rows by length",
        model: "qwen2/dynamo.onnx",
        inject: &["--method", "ia3"],
        row: tokens,
        one: |options, processes| {
            options.accumulation = size(2 * processes);
            options.micro_batch = MicroBatch::Rows(size(1));
            options.data.order = Order::ByLength { seed: 5 };
        },
        several: |options| {
            options.accumulation = size(2);
            options.micro_batch = MicroBatch::Rows(size(1));
            options.data.order = Order::ByLength { seed: 5 };
        },
    },
    Case {
        what: "packed rows",
        model: "llama/torchscript.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random"],
        row: tokens,
        one: |options, processes| {
            accumulated(options, processes);
            (options.data.packing, options.data.max_length) = (Packing::Whole, NonZeroUsize::new(12));
        },
        several: |options| (options.data.packing, options.data.max_length) = (Packing::Whole, NonZeroUsize::new(12)),
    },
    Case {
        what: "a classifier",
        model: "bert_classifier/dynamo.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random", "--task", "seq-cls"],
        row: |at| json!({"text": words(at), "label": at % 3}),
        one: accumulated,
        several: |_| {},
    },
    Case {
        what: "vectors that are compared with those of their own batch",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random", "--task", "embedding", "--pooling", "mean"],
        row: |at| json!({"anchor": words(at), "positive": words(at + 100)}),
        one: accumulated,
        several: |_| {},
    },
    Case {
        what: "vectors that are compared with those of all processes, where the model runs on parts",
        model: "bert_encoder/torchscript.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random", "--task", "embedding", "--pooling", "cls", "--lora-dropout", "0.1"],
        row: |at| json!({"query": words(at), "passage": words(at + 100), "negative": words(at + 200)}),
        one: |options, processes| {
            options.data.batch_size = size(2 * processes);
            options.micro_batch = MicroBatch::Rows(size(1));
        },
        several: |options| options.micro_batch = MicroBatch::Rows(size(1)),
    },
    Case {
        what: "scored pairs in parts",
        model: "bert_encoder/dynamo.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random", "--task", "embedding", "--loss", "cosent"],
        row: |at| json!({"sentence1": words(at), "sentence2": words(at + 100), "score": at % 5}),
        one: |options, processes| {
            options.data.batch_size = size(2 * processes);
            options.micro_batch = MicroBatch::Rows(size(1));
        },
        several: |options| options.micro_batch = MicroBatch::Rows(size(1)),
    },
];

/// A bundle with its data and what it is asked for: two rows a batch, two epochs of eleven rows.
fn prepared(folder: &Folder, name: &str, case: &Case) -> Options {
    std::fs::copy(fixture(case.model), folder.path("model.onnx")).expect("the fixture is there");
    folder.write("tokenizer.json", &tokenizer());
    let data = folder.write("rows.jsonl", &(0..11).map(|at| (case.row)(at).to_string() + "\n").collect::<String>());
    let (bundle, model) = (folder.path(name), folder.path("model.onnx"));
    done(&[&["inject", &model, "-o", &bundle, "-q"][..], case.inject].concat());
    let mut options = Options { bundle: bundle.into(), length: Length::Epochs(2.0), run: Some("it".to_owned()), ..Options::default() };
    options.data.file = data.into();
    options.data.batch_size = size(2);
    options.optimizer.learning_rate = 0.01;
    options.decay = Decay::Constant;
    options
}

#[test]
fn several_processes_are_one_with_so_many_times_the_accumulation() {
    are_one(false);
}

#[test]
fn several_processes_that_part_the_moments_are_one() {
    are_one(true);
}

/// Compares several processes, which part the optimizer's moments or do not, with one.
fn are_one(parts_state: bool) {
    let mut wrong = vec![];
    for (case, processes) in CASES.iter().zip([2, 3].into_iter().cycle()) {
        let folder = Folder::empty();
        let mut one = prepared(&folder, "one", case);
        (case.one)(&mut one, processes);
        trained(&one, 1);
        let mut several = prepared(&folder, "several", case);
        (case.several)(&mut several);
        several.parts_state = parts_state;
        trained(&several, processes);
        let (expected, found) = (steps(&one.bundle, "it"), steps(&several.bundle, "it"));
        let is_same = expected.len() == found.len()
            && expected.iter().zip(&found).all(|(a, b)| near(a[0], b[0]) && near(a[1], b[1]) && a[2].to_bits() == b[2].to_bits());
        let (expected_adapter, found_adapter) = (adapter(&one.bundle), adapter(&several.bundle));
        let far = expected_adapter.iter().zip(&found_adapter).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if !is_same || far > 2e-4 || expected_adapter.len() != found_adapter.len() {
            wrong.push(format!("{} in {processes}: {expected:?}\nfound {found:?}, {far} apart", case.what));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A model, how its bundle is made, and its rows.
type Rows = (&'static str, &'static [&'static str], fn(usize) -> Value);

#[test]
fn an_evaluation_in_several_processes_finds_the_same_bit_by_bit() {
    let rows: [Rows; 6] = [
        ("llama/torchscript.onnx", &["--method", "lora", "--init-lora-weights", "random"], tokens),
        (
            "bert_classifier/dynamo.onnx",
            &["--method", "lora", "--init-lora-weights", "random", "--task", "seq-cls"],
            |at| json!({"text": words(at), "label": at % 3}),
        ),
        (
            "bert_classifier/dynamo.onnx",
            &["--method", "lora", "--init-lora-weights", "random", "--task", "multi-label"],
            |at| json!({"text": words(at), "labels": [at % 3]}),
        ),
        (
            "bert_tokens/dynamo.onnx",
            &["--method", "lora", "--init-lora-weights", "random", "--task", "token-cls"],
            |at| json!({"tokens": ["w1", words(at)], "tags": [0, at % 2]}),
        ),
        (
            "bert_encoder/dynamo.onnx",
            &["--method", "lora", "--init-lora-weights", "random", "--task", "embedding"],
            |at| json!({"anchor": words(at), "positive": words(at + 100)}),
        ),
        (
            "llama/torchscript.onnx",
            &["--method", "lora", "--init-lora-weights", "random", "--task", "preference"],
            |at| json!({"prompt": words(at), "chosen": words(at + 50), "rejected": words(at + 70)}),
        ),
    ];
    for (model, inject, row) in rows {
        let folder = Folder::empty();
        let case = Case { what: "", model, inject, row, one: accumulated, several: |_| {} };
        // At a rate of 0 the adapter stays what it is.
        let found = [1, 2, 3].map(|processes| {
            let mut options = prepared(&folder, &format!("in{processes}"), &case);
            options.data.eval = EvalData::File(options.data.file.clone());
            options.optimizer.learning_rate = 0.0;
            options.length = Length::Steps(1);
            let summary = trained(&options, processes);
            let evaluation = summary.evaluation.expect("it was measured");
            let values: Vec<(&str, u64)> = evaluation.all().into_iter().map(|(name, value)| (name, value.to_bits())).collect();
            (values, evaluation.labels, evaluation.tokens, evaluation.confusion)
        });
        assert!(found[0].0.len() > 1, "{model} {inject:?}: {:?}", found[0]);
        assert!(found[1] == found[0] && found[2] == found[0], "{model} {inject:?}: {found:?}");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_processes_from_the_same_place() {
    let case = &CASES[0];
    let (whole, parted) = (false, true);
    for (first, then, [parts_first, parts_then]) in [
        ((2, 1), (1, 2), [whole, whole]),
        ((1, 4), (4, 1), [whole, whole]),
        ((4, 1), (2, 2), [whole, whole]),
        ((2, 1), (2, 1), [parted, whole]),
        ((4, 1), (2, 2), [parted, parted]),
        ((1, 2), (2, 1), [whole, parted]),
    ] {
        let folder = Folder::empty();
        let asked = |name: &str, (processes, accumulation): (usize, usize), length: u64| {
            let mut options = prepared(&folder, name, case);
            options.parts_state = parts_first;
            (options.accumulation, options.length) = (size(accumulation), Length::Steps(length));
            (options, processes)
        };
        let (whole, processes) = asked("whole", first, 6);
        trained(&whole, processes);
        let (parted, processes) = asked("parted", first, 3);
        trained(&parted, processes);
        let rest = Options {
            accumulation: size(then.1),
            length: Length::Steps(6),
            start: Start::Resumed,
            parts_state: parts_then,
            ..parted.clone()
        };
        trained(&rest, then.0);
        let (expected, found) = (steps(&whole.bundle, "it"), steps(&parted.bundle, "it"));
        let is_same =
            expected.len() == 6 && found.len() == 6 && expected.iter().zip(&found).all(|(a, b)| near(a[0], b[0]) && near(a[2], b[2]));
        assert!(is_same, "{first:?} then {then:?}: {expected:?}\n{found:?}");
    }
}

#[test]
fn a_run_by_epochs_ends_where_they_do_with_whatever_number_of_processes() {
    let folder = Folder::empty();
    // Eleven rows are six batches: two epochs are six steps of two, twelve of one.
    let mut options = prepared(&folder, "bundle", &CASES[0]);
    options.saving.every = NonZeroU64::new(2);
    let stop = AtomicBool::new(false);
    let came = std::thread::scope(|scope| {
        let stop = &stop;
        let options = &options;
        let each = |one: Threads| {
            scope.spawn(move || {
                let mut report = |event: Event<'_>| {
                    if matches!(event, Event::Step(record) if record.step == 2) {
                        stop.store(true, Ordering::SeqCst);
                    }
                };
                training::train_among(runtime(), options, &Ranks::of(&one, stop), &mut report)
            })
        };
        let all: Vec<_> = Threads::new(2).into_iter().map(each).collect();
        all.into_iter().map(|one| one.join().expect("no thread panics")).collect::<Vec<_>>()
    });
    let kinds: Vec<_> = came.iter().map(|came| came.as_ref().err().map(|error| error.kind().to_string())).collect();
    assert_eq!(kinds, [Some("interrupted".to_owned()), Some("process 0 says why".to_owned())]);
    let stopped = steps(&options.bundle, "it").len();
    assert!((2..=3).contains(&stopped), "{stopped}");
    let rest = Options { start: Start::Resumed, ..options };
    let summary = trained(&rest, 1);
    assert_eq!(usize::try_from(summary.steps).expect("few"), stopped + 12 - 2 * stopped);
    let rows: f64 = steps(&rest.bundle, "it").iter().map(|step| step[2]).sum();
    let of_epoch: f64 = (0..11).map(|at| f64::from(u8::try_from(3 + (at * 5) % 7).expect("small"))).sum();
    assert!(near(rows, 2.0 * of_epoch), "each row twice: {rows} tokens, {of_epoch} an epoch");
}

#[test]
fn one_that_fails_ends_all_and_the_state_before_is_saved() {
    let folder = Folder::empty();
    let case = Case {
        what: "",
        model: "vit_classifier/dynamo.onnx",
        inject: &["--method", "lora", "--init-lora-weights", "random"],
        row: |at| json!({"image": format!("{}.png", if at < 9 { "photo" } else { "missing" }), "label": at % 3}),
        one: accumulated,
        several: |_| {},
    };
    let side = json!({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 12, "width": 12}, "image_processor_type": "ViTImageProcessor"});
    folder.write("preprocessor_config.json", &side.to_string());
    let picture: std::path::PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/media/photo.png"].iter().collect();
    std::fs::copy(picture, folder.path("photo.png")).expect("the picture is there");
    // It is there when the file is read, and gone when its batch is made.
    std::fs::copy(folder.path("photo.png"), folder.path("missing.png")).expect("a copy");
    let mut options = prepared(&folder, "bundle", &case);
    options.data.order = Order::File;
    let missing = folder.path("missing.png");
    let came: Vec<_> = std::thread::scope(|scope| {
        let (options, missing) = (&options, &missing);
        let each = |one: Threads| {
            scope.spawn(move || {
                let mut report = |event: Event<'_>| {
                    if matches!(event, Event::Started(_)) {
                        let _ = std::fs::remove_file(missing);
                    }
                };
                training::train_among(runtime(), options, &Ranks::of(&one, &AtomicBool::new(false)), &mut report)
            })
        };
        let all: Vec<_> = Threads::new(2).into_iter().map(each).collect();
        all.into_iter().map(|one| one.join().expect("no thread panics")).collect()
    });
    let error = came[0].as_ref().expect_err("a picture is missing");
    assert!(error.to_string().contains("missing.png"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("step 2 of run it was saved")), "{:?}", error.hint());
    assert!(came[1].as_ref().is_err_and(|error| matches!(error.kind(), ErrorKind::Elsewhere)));
    assert!(options.bundle.join("runs/it/checkpoints/step-2/state.safetensors").is_file());
}

#[test]
fn processes_that_were_asked_for_different_things_are_refused() {
    let folder = Folder::empty();
    let options = prepared(&folder, "bundle", &CASES[0]);
    let other = Options { seed: 7, ..options.clone() };
    let words: Vec<String> = std::thread::scope(|scope| {
        let each = |(one, options): (Threads, &Options)| {
            let options = options.clone();
            scope.spawn(move || {
                let stop = AtomicBool::new(false);
                let came = training::train_among(runtime(), &options, &Ranks::of(&one, &stop), &mut |_| {});
                came.err().map(|error| error.to_string()).unwrap_or_default()
            })
        };
        let all: Vec<_> = Threads::new(2).into_iter().zip([&options, &other]).map(each).collect();
        all.into_iter().map(|one| one.join().expect("no thread panics")).collect()
    });
    assert!(words[0].contains("what the processes of this run work on") && words[0].contains("seed: 7"), "{words:?}");
    assert!(!options.bundle.join("runs").exists(), "nothing was begun");
}

#[cfg(not(feature = "mpi"))]
#[test]
fn a_program_without_mpi_does_not_start_several_writers() {
    let folder = Folder::empty();
    let options = prepared(&folder, "bundle", &CASES[0]);
    let (bundle, data) = (options.bundle.display().to_string(), options.data.file.display().to_string());
    for (variables, command) in [
        ([("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "1")], vec!["train", &bundle, "--data", &data]),
        ([("PMI_SIZE", "2"), ("PMI_RANK", "0")], vec!["train", &bundle, "--data", &data]),
        ([("PMI_SIZE", "2"), ("PMI_RANK", "0")], vec!["merge", &bundle, "-o", "x.onnx"]),
    ] {
        let output = crate::common::peft_onnx().envs(variables).args(&command).output().expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("in 2 processes") && said.contains("hint: "), "{command:?}: {said}");
    }
    assert!(!options.bundle.join("runs").exists());
    let alone = [("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")];
    let output = crate::common::peft_onnx()
        .envs(alone)
        .args(["train", &bundle, "--data", &data, "--max-steps", "1"])
        .output()
        .expect("the binary starts");
    assert!(output.status.success());
}
