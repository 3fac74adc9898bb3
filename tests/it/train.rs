//! The main job through the command line, on the fixtures: inject PEFT's adapter, train, merge. Losses, gradient norms, the trained adapter, the
//! merged logits and the first step's gradients are compared with what PEFT and PyTorch got from the same weights and rows.
//!
//! One row a case; each runs on every export of its family.

#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use peft_onnx::ir::Tensor;
use peft_onnx::onnx::Runnable;
use peft_onnx::ort::{Device, Feed, HostTensor, Options, Presence, Purpose, Runtime, Session, Settings};
use peft_onnx::safetensors;
use serde_json::Value;

struct Case {
    family: &'static str,
    folder: &'static str,
    /// Where PEFT's file does not tell the task.
    task: Option<&'static str>,
    /// The name of a start that takes the factors out of the base's weights: a fresh adapter, since PEFT's is of a base of its own.
    start: Option<&'static str>,
    /// Whether the graphs of training allocate ranks, as PEFT's loop did.
    allocates: bool,
    /// The largest difference of trained weights, as a share of the tensor's largest.
    weight: f64,
}

const fn case(family: &'static str, folder: &'static str) -> Case {
    Case { family, folder, task: None, start: None, allocates: false, weight: WEIGHT }
}

const CASES: &[Case] = &[
    case("llama", "lora_qv"),
    case("llama", "lora_all_linear_rslora"),
    case("llama", "lora_lm_head"),
    case("llama", "lora_schedule"),
    case("llama", "dora"),
    case("llama", "ia3"),
    case("llama", "prompt"),
    case("llama", "p_tuning"),
    case("llama", "p_tuning_lstm"),
    Case { start: Some("pissa"), ..case("llama", "lora_pissa") },
    Case { start: Some("olora"), ..case("llama", "lora_olora") },
    case("llama", "prefix"),
    case("qwen2", "lora_bias"),
    case("qwen2", "adalora"),
    // Ranks are allocated at every step of a phase, and at every third step with two batches each; whole modules lose theirs.
    Case { allocates: true, ..case("qwen2", "adalora_allocating") },
    Case { allocates: true, ..case("qwen2", "adalora_sparse") },
    // Rows of the embedding, which no rank is allocated of.
    Case { allocates: true, ..case("qwen2", "adalora_tokens") },
    case("qwen2", "oft"),
    case("qwen2", "oft_exact"),
    // PEFT writes projected numbers over the trained ones at every forward pass; what it saves is from before that.
    case("qwen2", "oft_constrained"),
    case("qwen2", "miss"),
    case("qwen2", "fourierft"),
    case("qwen2", "hira"),
    case("qwen2", "road"),
    case("gpt2", "lora_c_attn"),
    // One element's first gradient is 9e-9, of 1e-2: less than AdamW's epsilon, so the last digit of that sum is a twentieth of a step.
    Case { weight: 1e-2, ..case("gpt2", "adalora") },
    case("gpt2", "fourierft"),
    case("gpt2", "hira"),
    case("bert_encoder", "head_mean"),
    case("bert_encoder", "lora_mean"),
    case("bert_encoder", "lora_cls"),
    // PEFT's adapter of the model for token classification, on its bare body.
    case("bert_encoder", "lora_tokens"),
    case("llama", "head_last"),
    case("bert_classifier", "lora_classifier"),
    case("bert_classifier", "p_tuning_v2"),
    case("bert_classifier", "oft_shared"),
    case("bert_classifier", "oft_constrained_shared"),
    case("bert_classifier", "miss_bat"),
    case("bert_classifier", "miss_mini"),
    case("bert_classifier", "road_2"),
    case("bert_classifier", "road_4"),
    Case { task: Some("masked-lm"), ..case("bert_masked", "lora_qv") },
    case("bert_tokens", "lora"),
    case("bert_tokens", "p_tuning_v2"),
    case("llama_classifier", "prefix"),
    case("t5", "lora"),
    case("t5", "prompt"),
    case("bart", "lora"),
    case("bart", "p_tuning_v2"),
    case("distilbert_classifier", "lora_classifier"),
    // One layer that is called twice; in the fused file one call's weights are a copy, packed.
    case("albert_classifier", "lora_classifier"),
    // Optimum leaves the size of images open: the merged model is compared on images of the size that the table of positions has.
    Case { task: Some("image-cls"), ..case("vit_classifier", "lora_classifier") },
    // PEFT saves no classifier for images unless it is told to.
    Case { task: Some("image-cls"), ..case("vit_classifier", "dora") },
];

/// Ours and PyTorch's sums are in different orders; both are float32.
const LOSS: f64 = 2e-5;
/// A gradient's largest difference as a share of the largest gradient of its tensor.
const GRADIENT: f64 = 1e-4;
/// Of the largest trained weight. AdamW turns rounding of small gradients into steps of full size.
const WEIGHT: f64 = 2e-3;
/// Of the largest logit; the trained weights differ by rounding, which an LSTM in front of the model enlarges.
const LOGITS: f64 = 2e-4;

/// Trains each case of a family on each of the family's exports.
fn follow_all(family: &str) {
    let mut failures = vec![];
    let mut done = 0;
    for case in CASES.iter().filter(|case| case.family == family) {
        for model in exports(family) {
            let label = format!("{family}/{} on {}", case.folder, model.file_name().unwrap().to_string_lossy());
            match follow(case, &model) {
                Ok(()) => done += 1,
                Err(why) => failures.push(format!("{label}: {why}")),
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), done + failures.len(), failures.join("\n"));
    assert!(done >= 2, "only {done} exports were found");
}

/// A test for each family, so that several run at a time.
macro_rules! families {
    ($($family:ident)*) => {
        const FAMILIES: &[&str] = &[$(stringify!($family)),*];

        mod training_follows_peft_on_every_export {
            $(#[test]
            fn $family() {
                super::follow_all(stringify!($family));
            })*
        }
    };
}

families! {
    llama qwen2 gpt2 bert_encoder bert_classifier bert_masked bert_tokens llama_classifier t5 bart distilbert_classifier albert_classifier vit_classifier
}

#[test]
fn every_case_is_of_a_family_that_is_tested() {
    let missing: Vec<&str> = CASES.iter().map(|case| case.family).filter(|family| !FAMILIES.contains(family)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// PEFT trains an adapter whose ranks were allocated with those that were dropped as well, and drops them again in the end; so it is compared as it is.
#[test]
fn an_adapter_with_ranks_of_its_own_merges_as_in_peft() {
    let source = fixtures().join("qwen2/cases/adalora_allocated");
    let folder = tempfile::tempdir().unwrap();
    for model in exports("qwen2") {
        let (bundle, merged) = (folder.path().join("bundle"), folder.path().join("merged.onnx"));
        run(&[
            "inject".into(),
            text(&model),
            "--adapter".into(),
            text(&source.join("adapter_init")),
            "-o".into(),
            text(&bundle),
            "--force".into(),
        ])
        .unwrap();
        run(&["merge".into(), text(&bundle), "-o".into(), text(&merged), "--force".into()]).unwrap();
        logits_are(&source, &merged, "initial").unwrap_or_else(|why| panic!("{}: {why}", model.display()));
        let trained: Value = serde_json::from_str(&std::fs::read_to_string(bundle.join("adapter_config.json")).unwrap()).unwrap();
        let kept = &trained["rank_pattern"]["model.layers.0.self_attn.q_proj.lora_E"];
        assert_eq!(*kept, serde_json::json!([false, false, false, false]), "one module keeps nothing");
        run(&train_arguments(
            &source,
            &serde_json::from_str(&std::fs::read_to_string(source.join("expected.json")).unwrap()).unwrap(),
            &bundle,
        ))
        .unwrap();
    }
}

/// Which ranks are masked, and what is known of their importance, are part of a checkpoint.
#[test]
fn a_run_that_allocates_ranks_resumes_bit_for_bit() {
    let source = fixtures().join("qwen2/cases/adalora_allocating");
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let inject =
        ["inject", &text(&exports("qwen2")[0]), "--allocate-ranks", "--adapter", &text(&source.join("adapter_init")), "-o", &text(&bundle)];
    run(&inject.map(str::to_owned)).unwrap();
    let expected = serde_json::from_str(&std::fs::read_to_string(source.join("expected.json")).unwrap()).unwrap();
    let train = |more: &[&str]| {
        let mut arguments = train_arguments(&source, &expected, &bundle);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        run(&arguments).unwrap();
        ["adapter_model.safetensors", "adapter_config.json"].map(|file| std::fs::read(bundle.join(file)).unwrap())
    };
    let whole = train(&["--save-steps", "1"]);
    for step in [1, 3, 5] {
        let checkpoint = text(&bundle.join(format!("runs/001/checkpoints/step-{step}")));
        assert!(train(&["--resume", &checkpoint, "--run", &format!("from-{step}")]) == whole, "from step {step}");
    }
    // What was masked is 0 where the graphs have a place for it.
    run(&["eval".into(), text(&bundle), "--data".into(), text(&source.join("train.jsonl"))]).unwrap();
    run(&[
        "inject".into(),
        text(&exports("qwen2")[0]),
        "--adapter".into(),
        text(&bundle),
        "--allocate-ranks".into(),
        "--force".into(),
        "-o".into(),
        text(&folder.path().join("again")),
    ])
    .expect_err("its ranks were allocated");
}

/// What was left out of the adapter's file is put into the inference graph in memory, beside weights that stay in their files.
#[test]
fn allocated_ranks_merge_where_tensors_are_not_small() {
    let source = fixtures().join("gpt2/cases/adalora");
    let folder = tempfile::tempdir().unwrap();
    let (bundle, merged) = (text(&folder.path().join("bundle")), text(&folder.path().join("merged.onnx")));
    let inject = [
        "inject",
        &text(&exports("gpt2")[0]),
        "--method",
        "adalora",
        "--rank",
        "4",
        "--allocate-ranks",
        "--bias",
        "lora_only",
        "-o",
        &bundle,
    ];
    let settings = ["--set", "total_step=6", "--set", "target_r=2"];
    let train = ["train", &bundle, "--data", &text(&source.join("train.jsonl")), "--max-steps", "6", "--batch-size", "3"];
    for arguments in [&[&inject[..], &settings].concat()[..], &train, &["merge", &bundle, "-o", &merged]] {
        run(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>()).unwrap();
    }
}

fn exports(family: &str) -> Vec<PathBuf> {
    let folder = fixtures().join(family);
    let mut models: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    models.retain(|path| path.extension().is_some_and(|extension| extension == "onnx"));
    models.sort();
    models
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures")
}

fn follow(case: &Case, model: &Path) -> Result<(), String> {
    let source = fixtures().join(case.family).join("cases").join(case.folder);
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(source.join("expected.json")).unwrap()).unwrap();
    let work = tempfile::tempdir().unwrap();
    let bundle = work.path().join("bundle");
    let merged = work.path().join("merged.onnx");
    let mut inject = vec!["inject".into(), text(model), "-o".into(), text(&bundle)];
    match case.start {
        None => inject.extend(["--adapter".to_owned(), text(&source.join("adapter_init"))]),
        Some(start) => {
            let options = ["--method", "lora", "--rank", "4", "--alpha", "8", "--target-modules", "q_proj,v_proj,down_proj"];
            inject.extend(options.into_iter().chain(["--init-lora-weights", start]).map(str::to_owned));
        }
    }
    inject.extend(case.allocates.then(|| "--allocate-ranks".to_owned()));
    inject.extend(case.task.iter().flat_map(|task| ["--task".to_owned(), (*task).to_owned()]));
    run(&inject)?;
    // The signs of singular vectors are free, so factors are compared by what they do.
    if case.start.is_none() {
        gradients_are(&source, &expected, &bundle)?;
    }
    run(&train_arguments(&source, &expected, &bundle))?;
    losses_are(&expected, &bundle)?;
    if case.start.is_none() {
        weights_are(&source, &bundle, case.weight)?;
        ranks_are(&source, &bundle)?;
    }
    run(&["merge".into(), text(&bundle), "-o".into(), text(&merged)])?;
    logits_are(&source, &merged, "final")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn run(arguments: &[String]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_peft-onnx")).args(arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{} failed: {message}", arguments[0]))
}

fn train_arguments(source: &Path, expected: &Value, bundle: &Path) -> Vec<String> {
    let numbers = &expected["hyperparameters"];
    let mut arguments = vec!["train".into(), text(bundle), "--data".into(), text(&source.join("train.jsonl")), "--no-shuffle".into()];
    let flags = [
        "batch_size",
        "max_steps",
        "learning_rate",
        "weight_decay",
        "lr_scheduler",
        "warmup_steps",
        "max_grad_norm",
        "gradient_accumulation_steps",
    ];
    for flag in flags {
        let value = &numbers[flag];
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        arguments.extend([format!("--{}", flag.replace('_', "-")), value]);
    }
    arguments
}

fn losses_are(expected: &Value, bundle: &Path) -> Result<(), String> {
    let lines = std::fs::read_to_string(bundle.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (name, key) in [("losses", "loss"), ("gradient_norms", "grad_norm"), ("learning_rates", "learning_rate")] {
        let wanted = expected[name].as_array().unwrap();
        if lines.len() != wanted.len() {
            return Err(format!("{} steps, expected {}", lines.len(), wanted.len()));
        }
        for (line, wanted) in lines.iter().zip(wanted) {
            let (found, wanted) = (line[key].as_f64().unwrap(), wanted.as_f64().unwrap());
            let tolerance = if key == "grad_norm" { 1e-3 } else { LOSS };
            if (found - wanted).abs() > tolerance * wanted.abs() {
                return Err(format!("step {}: {key} {found}, PEFT's is {wanted}", line["step"]));
            }
        }
    }
    Ok(())
}

fn weights_are(source: &Path, bundle: &Path, tolerance: f64) -> Result<(), String> {
    let read = |path: PathBuf| safetensors::read(&path).map_err(|e| e.to_string());
    let (ours, theirs) = (read(bundle.join("adapter_model.safetensors"))?, read(source.join("adapter_final/adapter_model.safetensors"))?);
    let names = |tensors: &indexmap::IndexMap<String, Tensor>| tensors.keys().cloned().collect::<std::collections::BTreeSet<_>>();
    if names(&ours) != names(&theirs) {
        return Err(format!("tensors {:?}, expected {:?}", names(&ours), names(&theirs)));
    }
    for (name, theirs) in &theirs {
        close(name, &ours[name].to_f32().unwrap(), &theirs.to_f32().unwrap(), tolerance)?;
    }
    Ok(())
}

/// Which singular values were kept is the same, and stands in the configuration.
fn ranks_are(source: &Path, bundle: &Path) -> Result<(), String> {
    let pattern = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["rank_pattern"].take()
    };
    let [ours, theirs] = [bundle, &source.join("adapter_final")].map(pattern);
    if ours == theirs { Ok(()) } else { Err(format!("ranks {ours}, PEFT's are {theirs}")) }
}

fn close(name: &str, ours: &[f32], theirs: &[f32], tolerance: f64) -> Result<(), String> {
    let largest = theirs.iter().fold(0_f64, |largest, v| largest.max(f64::from(v.abs())));
    let difference = ours.iter().zip(theirs).fold(0_f64, |worst, (a, b)| worst.max(f64::from((a - b).abs())));
    if ours.len() == theirs.len() && difference <= tolerance * largest + 1e-6 {
        return Ok(());
    }
    Err(format!("{name}: largest difference {difference:.1e} of {largest:.1e}"))
}

fn open(model: impl Into<Runnable>) -> Session {
    let runtime = Runtime::start(&Options::default()).unwrap();
    let settings = Settings { device: Device::Cpu, purpose: Purpose::Inference, ..Settings::default() };
    Session::open(runtime, model, &settings).unwrap()
}

/// Runs a session on what it asks for, what is not given made from the mask: positions counted, segments zero, caches empty.
fn outputs(session: &mut Session, given: &BTreeMap<String, HostTensor>, wanted: &[&str]) -> Vec<HostTensor> {
    let mask = given.get("attention_mask").map(|mask| mask.as_i64().unwrap().to_vec()).unwrap_or_default();
    let shape = given.get("attention_mask").map_or(vec![0, 1], |mask| mask.shape().to_vec());
    let positions: Vec<i64> = mask
        .chunks(shape[1])
        .flat_map(|row| {
            row.iter().scan(0, |n, m| {
                Some({
                    *n += m;
                    (*n - 1).max(0)
                })
            })
        })
        .collect();
    let mut feeds = given.clone();
    for port in session.inputs().iter().filter(|port| port.presence == Presence::Required) {
        let made = match port.name.as_str() {
            "position_ids" => HostTensor::new(shape.clone(), positions.clone()).unwrap(),
            "token_type_ids" => HostTensor::new(shape.clone(), vec![0_i64; mask.len()]).unwrap(),
            "use_cache_branch" => HostTensor::vector(vec![false]),
            past if past.starts_with("past") => HostTensor::new(vec![shape[0], 2, 0, 8], Vec::<f32>::new()).unwrap(),
            _ => continue,
        };
        feeds.insert(port.name.clone(), made);
    }
    feeds.retain(|name, _| session.input(name).is_some());
    let feeds: Vec<Feed<'_>> = feeds.iter().map(|(name, value)| Feed::host(name, value)).collect();
    session.run(&feeds, wanted).unwrap()
}

fn logits_are(source: &Path, merged: &Path, wanted: &str) -> Result<(), String> {
    let probe = safetensors::read(&source.join("logits.safetensors")).map_err(|e| e.to_string())?;
    let input = |tensor: &Tensor| match tensor.to_i64() {
        Some(numbers) => HostTensor::new(tensor.shape().to_vec(), numbers).unwrap(),
        None => HostTensor::new(tensor.shape().to_vec(), tensor.to_f32().unwrap()).unwrap(),
    };
    let is_input = |name: &str| !["base", "initial", "final"].contains(&name);
    let given: BTreeMap<String, HostTensor> =
        probe.iter().filter(|(name, _)| is_input(name)).map(|(name, tensor)| (name.clone(), input(tensor))).collect();
    let mut session = open(merged);
    let logits = outputs(&mut session, &given, &["logits"]).remove(0).to_f32().unwrap();
    let mut theirs = probe[wanted].to_f32().unwrap();
    let mut ours = logits;
    if probe[wanted].shape().len() == 3 && !given.contains_key("decoder_input_ids") {
        // Padding has logits too, which nothing defines.
        let classes = probe[wanted].shape()[2];
        for (row, real) in given["attention_mask"].as_i64().unwrap().iter().enumerate().filter(|(_, real)| **real == 0) {
            let _ = real;
            ours[row * classes..(row + 1) * classes].fill(0.0);
            theirs[row * classes..(row + 1) * classes].fill(0.0);
        }
    }
    close("merged logits", &ours, &theirs, LOGITS)
}

/// The whole gradient of the first step, tensor by tensor, against PyTorch's.
fn gradients_are(source: &Path, expected: &Value, bundle: &Path) -> Result<(), String> {
    if expected["hyperparameters"]["gradient_accumulation_steps"] != 1 {
        return Ok(());
    }
    let theirs = safetensors::read(&source.join("gradients.safetensors")).map_err(|e| e.to_string())?;
    let bundle = peft_onnx::export::Bundle::open(bundle, None).map_err(|e| e.to_string())?;
    let manifest = bundle.manifest();
    let rows = std::fs::read_to_string(source.join("train.jsonl")).unwrap();
    let size = usize::try_from(expected["hyperparameters"]["batch_size"].as_u64().unwrap()).unwrap();
    let rows: Vec<Value> = rows.lines().take(size).map(|line| serde_json::from_str(line).unwrap()).collect();
    let columns =
        ["input_ids", "attention_mask", "decoder_input_ids", "pixel_values"].into_iter().filter(|name| rows[0].get(name).is_some());
    let mut given: BTreeMap<String, HostTensor> = columns.map(|name| (name.to_owned(), column(&rows, name))).collect();
    let (labels, count) = if rows[0].get("label").is_some() {
        (column(&rows, "label"), size)
    } else {
        // A causal model's first label in a row has nothing to be predicted from.
        let first = usize::from(expected["task"] == "CAUSAL_LM");
        let labels = |row: &Value| row["labels"].as_array().unwrap()[first..].iter().filter(|label| **label != -100).count();
        (column(&rows, "labels"), rows.iter().map(labels).sum())
    };
    given.insert("labels".into(), labels);
    given.insert("label_count".into(), HostTensor::scalar(f32::from(u16::try_from(count).unwrap())));
    given.insert("gradient".into(), HostTensor::vector(vec![0_f32; manifest.trainable_count]));
    let start = peft_onnx::export::trainable::read(bundle.folder(), manifest).map_err(|e| e.to_string())?;
    given.insert("trainable".into(), HostTensor::vector(start));
    let mut session = open(bundle.runnable("gradient").map_err(|e| e.to_string())?);
    let ours = outputs(&mut session, &given, &["gradient_next"]).remove(0).to_f32().unwrap();
    for slot in &manifest.trainable {
        let count: usize = slot.shape.iter().product();
        close(
            &format!("gradient of {}", slot.name),
            &ours[slot.offset..slot.offset + count],
            &theirs[&slot.name].to_f32().unwrap(),
            GRADIENT,
        )?;
    }
    Ok(())
}

/// A column of some rows as a tensor `[rows, ..]`: pixels are floats, everything else is whole numbers.
fn column(rows: &[Value], name: &str) -> HostTensor {
    let all = Value::Array(rows.iter().map(|row| row[name].clone()).collect());
    let (mut shape, mut at) = (vec![], &all);
    while let Some(list) = at.as_array() {
        shape.push(list.len());
        at = &list[0];
    }
    let numbers = numbers(&all);
    if name == "pixel_values" {
        return HostTensor::new(shape, numbers.iter().map(|n| n.to_string().parse().unwrap()).collect::<Vec<f32>>()).unwrap();
    }
    HostTensor::new(shape, numbers.iter().map(|n| n.to_string().parse().unwrap()).collect::<Vec<i64>>()).unwrap()
}

/// The numbers in lists of lists.
fn numbers(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |list| list.iter().flat_map(numbers).collect())
}
