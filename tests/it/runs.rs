//! Runs of a bundle: where training starts, what a signal leaves, which checkpoint a command takes, and what is not finite.

use std::path::{Path, PathBuf};

use crate::common::{Running, done, fixture, json_of, number, refused, run, text};

/// A LoRA of the smallest decoder, and rows to learn from.
struct Case {
    folder: tempfile::TempDir,
    data: String,
}

impl Case {
    fn new() -> Self {
        let case = Self { folder: tempfile::tempdir().expect("a folder"), data: fixture("llama/cases/lora_qv/train.jsonl") };
        done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", text(&case.bundle())]);
        case
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().join("bundle")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn train<'a>(&'a self, bundle: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["train", bundle, "--data", &self.data, "--batch-size", "2", "--quiet"][..], more].concat()
    }
}

fn adapter(bundle: &Path) -> Vec<u8> {
    std::fs::read(bundle.join("adapter_model.safetensors")).expect("there is an adapter")
}

#[test]
fn a_run_keeps_its_options_and_is_begun_again_from_them() {
    let case = Case::new();
    let (bundle, config) = (case.bundle(), case.bundle().join("runs/001/config.yaml"));
    done(&case.train(text(&bundle), &["--max-steps", "3", "--lr-scheduler", "constant", "--learning-rate", "0.01"]));
    let first = adapter(&bundle);
    let kept = std::fs::read_to_string(&config).expect("options are kept");
    assert!(kept.contains("max-steps: 3\n") && kept.contains("learning-rate: 0.01\n") && !kept.contains("null"), "{kept}");
    let again = ["train", text(&bundle), "--config", text(&config), "--restart", "--quiet"];
    done(&[&again[..], &["--run", "again"]].concat());
    assert_eq!(adapter(&bundle), first);
    done(&[&again[..], &["--run", "wide", "--learning_rate", "0.02"]].concat());
    assert_ne!(adapter(&bundle), first);
    let runs = json_of(&["runs", text(&bundle)]);
    let told: Vec<(&str, &str)> = runs
        .as_array()
        .expect("a list")
        .iter()
        .map(|run| (run["run"].as_str().expect("a name"), run["state"].as_str().expect("a state")))
        .collect();
    assert_eq!(told, [("001", "finished"), ("again", "finished"), ("wide", "finished")]);
    let table = done(&["runs", text(&bundle)]);
    assert!(table.lines().nth(3).is_some_and(|row| row.contains("learning-rate 0.02")), "{table}");
    assert!(!table.contains("seed"), "what is the same everywhere is not told: {table}");
}

#[test]
fn a_resumed_run_goes_on_with_its_own_options_where_others_are_not_said() {
    let case = Case::new();
    let bundle = case.bundle();
    let options =
        ["--max-steps", "6", "--save-steps", "3", "--learning-rate", "0.02", "--lr-scheduler", "constant", "--weight-decay", "0.1"];
    done(&case.train(text(&bundle), &options));
    let (whole, middle) = (adapter(&bundle), bundle.join("runs/001/checkpoints/step-3"));
    let resumed = ["train", text(&bundle), "--resume", text(&middle), "--quiet"];
    done(&[&resumed[..], &["--run", "again"]].concat());
    assert_eq!(adapter(&bundle), whole, "data and all options are the run's");
    let kept = std::fs::read_to_string(bundle.join("runs/again/config.yaml")).expect("options are kept");
    assert!(["weight-decay: 0.1\n", "lr-scheduler: constant\n", "max-steps: 6\n"].iter().all(|line| kept.contains(line)), "{kept}");
    done(&[&resumed[..], &["--run", "other", "--learning-rate", "0.03"]].concat());
    assert_ne!(adapter(&bundle), whole, "what is said wins");
    // A file that the run found from another folder is not looked for here without a word, and standard input is not waited for.
    let config = bundle.join("runs/001/config.yaml");
    let with_data = |data: &str| {
        let changed = kept.replace(&format!("data: {}", case.data), &format!("data: {data}"));
        std::fs::write(&config, changed).expect("the options are written");
    };
    with_data("elsewhere/rows.jsonl");
    refused(
        &resumed,
        &["config.yaml: no file named \"elsewhere/rows.jsonl\"", "hint: the run found it from the folder that it was begun in"],
    );
    with_data("'-'");
    let (success, _, said) = crate::common::run(&resumed);
    assert!(!success && said.contains("--data"), "{said}");
}

#[test]
fn commands_take_the_checkpoint_that_is_meant() {
    let case = Case::new();
    let (bundle, merged) = (case.bundle(), case.path("merged.onnx"));
    let eval = |model: &str, more: &[&str]| number(&json_of(&[&["eval", model, "--data", &case.data][..], more].concat())["loss"]);
    let untrained = eval(text(&bundle), &[]);
    let more = ["--max-steps", "12", "--save-steps", "4", "--eval-steps", "4", "--eval-data", &case.data, "--learning-rate", "0.02"];
    done(&case.train(text(&bundle), &more));
    let losses: Vec<f64> = ["4", "8", "12"].map(|step| eval(text(&bundle), &["--checkpoint", step])).into();
    assert!(losses.windows(2).all(|pair| pair[0] > pair[1]) && losses[0] < untrained, "{untrained} {losses:?}");
    let last = eval(text(&bundle), &[]);
    assert_eq!(last.to_bits(), losses[2].to_bits());
    assert_eq!(eval(text(&bundle), &["--checkpoint", "best"]).to_bits(), last.to_bits());
    let folder = bundle.join("runs/001/checkpoints/step-4");
    assert_eq!(eval(text(&folder), &[]).to_bits(), losses[0].to_bits(), "a checkpoint's folder stands for the bundle with it");
    // So do a run's folder, with its newest checkpoint, and that of the adapter before training.
    for (place, loss) in [("initial", untrained), ("runs/001", losses[2])] {
        let place = bundle.join(place);
        assert_eq!(eval(text(&place), &[]).to_bits(), loss.to_bits(), "{}", place.display());
        assert_eq!(eval(text(&bundle), &["--checkpoint", text(&place)]).to_bits(), loss.to_bits(), "{}", place.display());
        done(&["merge", text(&place), "-o", &merged]);
        assert!((eval(&merged, &[]) - loss).abs() < 1e-4);
        std::fs::remove_file(&merged).expect("it was written");
    }
    assert_eq!(eval(text(&bundle), &["--checkpoint", "initial"]).to_bits(), untrained.to_bits());
    done(&["merge", text(&bundle), "--checkpoint", "4", "-o", &merged]);
    assert!((eval(&merged, &[]) - losses[0]).abs() < 1e-4);
    done(&["export", text(&bundle), "--run", "001", "--checkpoint", "4", "--format", "peft", "-o", &case.path("adapter")]);
    // What is an adapter for one command is one for the others: a run's folder is its newest checkpoint.
    for (number, (place, loss)) in [("runs/001/checkpoints/step-4", losses[0]), ("runs/001", losses[2])].into_iter().enumerate() {
        let again = case.path(&format!("again{number}"));
        done(&["inject", &fixture("llama/dynamo.onnx"), "--adapter", text(&bundle.join(place)), "-o", &again]);
        assert!((eval(&again, &[]) - loss).abs() < 1e-6, "{place}");
    }
    let both = [bundle.join("runs/001"), bundle.join("initial")];
    done(&["combine", text(&both[0]), text(&both[1]), "--weights", "1,0", "-o", &case.path("combined")]);
    refused(
        &["merge", text(&bundle), "--checkpoint", "5", "-o", &merged, "--force"],
        &["no checkpoint", "hint: it has those of the steps 4, 8, 12"],
    );
    // A flipped bit is not merged.
    let file = folder.join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&file).expect("the checkpoint's adapter");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(&file, bytes).expect("the file is written");
    refused(&["merge", text(&bundle), "--checkpoint", "4", "-o", &merged, "--force"], &["SHA-256", "hint: the checkpoint was damaged"]);
}

#[test]
fn an_adapter_that_is_not_what_was_written_is_told_of_and_one_that_stays_as_it_was_is_refused() {
    let case = Case::new();
    let bundle = case.bundle();
    let out = case.path("out");
    let says = |arguments: &[&str]| {
        let (success, _, said) = run(arguments);
        assert!(success, "{arguments:?}: {said}");
        said.contains("the tensors are not what was written")
    };
    let flip = |file: &Path| {
        let mut bytes = std::fs::read(file).expect("an adapter");
        *bytes.last_mut().expect("it is not empty") ^= 1;
        std::fs::write(file, bytes).expect("the file is written");
    };
    let own = bundle.join("adapter_model.safetensors");
    for is_trained in [false, true] {
        if is_trained {
            assert!(!says(&case.train(text(&bundle), &["--max-steps", "2", "--restart"])));
        }
        let commands: [&[&str]; 4] = [
            &["eval", text(&bundle), "--data", &case.data],
            &["merge", text(&bundle), "-o", &out, "--no-verify", "--force"],
            &["export", text(&bundle), "--format", "peft", "-o", &case.path("adapter"), "--force"],
            &["inject", &fixture("llama/dynamo.onnx"), "--adapter", text(&bundle), "-o", &case.path("again"), "--force"],
        ];
        assert!(commands.iter().all(|command| !says(command)), "{is_trained}");
        // The same tensors behind a longer header, as another program writes them.
        let tensors = peft_onnx::safetensors::read(&own).expect("an adapter");
        let bytes = std::fs::read(&own).expect("an adapter");
        let (header, data) = bytes[8..].split_at(usize::from(bytes[0]) + 256 * usize::from(bytes[1]));
        let header = [header, &[b' '; 64]].concat();
        let longer = [&(u64::try_from(header.len()).expect("it fits")).to_le_bytes()[..], &header, data].concat();
        std::fs::write(&own, longer).expect("the file is written");
        assert_eq!(peft_onnx::safetensors::read(&own).expect("an adapter").len(), tensors.len());
        assert!(!says(commands[0]), "the tensors are the same");
        flip(&own);
        assert!(commands.iter().all(|command| says(command)), "{is_trained}");
        std::fs::write(&own, bytes).expect("the file is written");
    }
    let options = ["--max-steps", "1", "--restart"];
    for name in ["adapter_model.safetensors", "adapter_config.json"] {
        let file = bundle.join("initial").join(name);
        let bytes = std::fs::read(&file).expect("a file");
        if name.ends_with("json") {
            std::fs::write(&file, [&bytes[..], b" "].concat()).expect("the file is written");
        } else {
            flip(&file);
        }
        let said = ["expected ", "hint: the file was damaged or changed after `inject` wrote it"];
        refused(&case.train(text(&bundle), &options), &said);
        refused(&["eval", text(&bundle), "--checkpoint", "initial", "--data", &case.data], &said);
        std::fs::write(&file, bytes).expect("the file is written");
    }
    done(&case.train(text(&bundle), &options));
}

#[test]
fn what_is_not_finite_is_neither_saved_nor_handed_on() {
    let case = Case::new();
    let bundle = case.bundle();
    let before = adapter(&bundle);
    let rows: [&[&str]; 3] =
        [&["--learning-rate", "1e38"], &["--weight-decay", "1e38"], &["--learning-rate", "1e37", "--gradient-accumulation-steps", "2"]];
    for (number, options) in rows.into_iter().enumerate() {
        let name = format!("diverges-{number}");
        let more = [&["--max-steps", "6", "--save-steps", "1", "--lr-scheduler", "constant", "--run", &name], options].concat();
        let start: &[&str] = if number == 0 { &[] } else { &["--restart"] };
        refused(&case.train(text(&bundle), &[&more[..], start].concat()), &["step ", "hint: "]);
        assert_eq!(adapter(&bundle), before, "{options:?}");
    }
    let said = ["which rounds to", "hint: the graph computes in float32"];
    refused(&case.train(text(&bundle), &["--max-steps", "1", "--learning-rate", "1e39", "--restart"]), &said);
    // An adapter with a NaN from elsewhere.
    let mut bytes = before;
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(bundle.join("adapter_model.safetensors"), bytes).expect("the file is written");
    let said = ["1 of ", "numbers are not finite", "hint: "];
    refused(&["merge", text(&bundle), "-o", &case.path("m.onnx")], &said);
    for format in ["peft", "onnx_adapter", "inference"] {
        refused(&["export", text(&bundle), "--format", format, "-o", &case.path("out")], &said);
    }
    refused(&["inject", &fixture("llama/dynamo.onnx"), "--adapter", text(&bundle), "-o", &case.path("b")], &said);
}

#[cfg(unix)]
#[test]
fn a_signal_saves_and_tells_which_it_was() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let case = Case::new();
    let bundle = case.bundle();
    let mut start: &[&str] = &[];
    for (signal, code) in [("TERM", 143), ("HUP", 129), ("INT", 130)] {
        // It would end by itself, should this process be killed.
        let arguments = case.train(text(&bundle), &[&["--max-steps", "200000", "--save-steps", "200000"], start].concat());
        let runs = || std::fs::read_dir(bundle.join("runs")).map_or(0, Iterator::count);
        let before = runs();
        let mut command = Command::new(env!("CARGO_BIN_EXE_peft-onnx"));
        command.args(arguments).envs(crate::common::project_library().map(|library| ("ORT_DYLIB_PATH", library)));
        let mut process = Running(command.stderr(Stdio::piped()).spawn().expect("the binary starts"));
        let began = Instant::now();
        while runs() == before && began.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(20));
        }
        // While it runs, nobody else changes the bundle.
        refused(&case.train(text(&bundle), &["--max-steps", "1", "--restart"]), &["is changing this bundle", "hint: wait"]);
        let sent = Command::new("kill").args(["-s", signal, &process.0.id().to_string()]).status().expect("kill is there");
        assert!(sent.success());
        assert_eq!(process.0.wait().expect("the process ends").code(), Some(code), "{signal}");
        start = &["--restart"];
    }
    let runs = json_of(&["runs", text(&bundle)]);
    for run in runs.as_array().expect("a list") {
        assert_eq!(run["state"], "interrupted", "{run}");
        assert_eq!(run["checkpoints"][0], run["steps"], "{run}");
    }
    let steps = number(&runs[2]["steps"]).to_string();
    let said = done(&["train", text(&bundle), "--data", &case.data, "--batch-size", "2", "--resume", "--max-steps", &steps]);
    assert!(said.contains("is finished"), "{said}");
}

#[test]
fn what_a_command_reads_is_not_replaced_with_force_neither() {
    let case = Case::new();
    let (bundle, base) = (case.bundle(), case.path("model.onnx"));
    done(&["convert", &fixture("llama/dynamo.onnx"), "-o", &base, "--weights", "external"]);
    done(&["inject", &base, "--method", "lora", "-o", text(&bundle), "--force"]);
    done(&case.train(text(&bundle), &["--max-steps", "1"]));
    let own = |name: &str| bundle.join(name).display().to_string();
    let (data, adapter, initial) = (case.path("model.onnx.data"), own("adapter_model.safetensors"), own("initial"));
    let before = [&base, &data, &adapter].map(|path| std::fs::read(path).expect("it is there"));
    let bundle = text(&bundle);
    let is_read: &[&str] = &["read", "hint: `-o` names another"];
    // What its ending refuses is not even looked at.
    let ends_otherwise: &[&str] = &["is written", "hint: "];
    // Nor is what belongs to a bundle that it does not read, whoever may be training that.
    let other = case.path("other");
    done(&["inject", &base, "--method", "lora", "-o", &other]);
    let is_own: &[&str] = &["it belongs to the bundle", "hint: `-o` names another"];
    let rows: [(&[&str], &[&str]); 13] = [
        (&["convert", &base, "-o", &own("inference.onnx")], is_own),
        (&["export", &other, "--format", "inference", "-o", &own("inference.onnx")], is_own),
        (&["merge", &other, "-o", &own("training.onnx"), "--no-verify"], is_own),
        (&["export", &other, "--format", "peft", "-o", &initial], is_own),
        (&["predict", &other, "--data", &case.data, "-o", &own("runs/001/metrics.jsonl")], is_own),
        (&["merge", bundle, "-o", &data], ends_otherwise),
        (&["merge", bundle, "-o", &base], is_read),
        (&["export", bundle, "--format", "inference", "-o", &own("inference.onnx")], is_read),
        (&["export", bundle, "--format", "onnx_adapter", "-o", &adapter], ends_otherwise),
        (&["export", bundle, "--format", "peft", "-o", &initial], is_read),
        (&["runs", bundle, "--html", &own("runs/001/run.json")], ends_otherwise),
        (&["convert", &base, "-o", &data], ends_otherwise),
        (&["combine", &initial, &initial, "-o", &initial], is_read),
    ];
    for (row, said) in rows {
        refused(&[row, &["--force"]].concat(), said);
    }
    assert_eq!([&base, &data, &adapter].map(|path| std::fs::read(path).expect("it is there")), before);
}

#[test]
fn settings_under_which_nothing_is_learnt_are_said() {
    use crate::common::run;
    let case = Case::new();
    let bundle = case.bundle();
    let bundle = text(&bundle);
    let (base, other) = (fixture("llama/dynamo.onnx"), case.path("other"));
    let train = ["train", bundle, "--data", &case.data, "--batch-size", "2", "--max-steps", "2"];
    let rows: [(&[&str], &[&str], &str); 4] = [
        (&["inject", &base, "--method", "lora", "--alpha", "0", "-o", &other], &[], "lora_alpha is 0"),
        (&train, &["--learning-rate", "0"], "the learning rate is 0"),
        (&train, &["--warmup-steps", "9", "--restart"], "the warm-up of 9 steps does not end within the 2 steps"),
        (&train, &["--learning-rate", "-1", "--restart"], "--learning-rate: expected a number from 0, found -1"),
    ];
    for (command, more, expected) in rows {
        let (_, _, said) = run(&[command, more].concat());
        assert!(said.contains(expected), "{more:?}: {said}");
    }
}
