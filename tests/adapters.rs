//! Adapters that are activated run by run: an `.onnx_adapter` file turns the inference graph of one adapter into that of another, as ONNX Runtime
//! itself reads it. The logits are those that Hugging Face PEFT computed.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use ort::environment::Environment;
use ort::session::{Adapter, RunOptions, Session};
use ort::value::Tensor as Value;
use peft_onnx::ir::Tensor;
use peft_onnx::ort::library::{self, Surroundings};
use peft_onnx::{peft, safetensors};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures").join(path)
}

fn peft_onnx(args: &[&Path]) -> std::process::Output {
    Command::cargo_bin("peft-onnx").expect("the binary is built for its tests").args(args).output().expect("the binary starts")
}

fn done(args: &[&Path]) {
    let output = peft_onnx(args);
    assert!(output.status.success(), "{args:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn word(text: &str) -> &Path {
    Path::new(text)
}

/// The logits of the inference graph with an adapter activated, and those of PEFT with it; both of real tokens alone.
fn with_adapter(environment: &Environment, bundle: &Path, adapter: &Path, case: &str, wanted: &str) -> (Vec<f32>, Vec<f32>) {
    let probe = safetensors::read(&fixture(case).join("logits.safetensors")).expect("the case has logits");
    let [ids, mask] = ["input_ids", "attention_mask"].map(|name| probe[name].to_i64().expect("integers"));
    let shape: Vec<i64> = probe["input_ids"].shape().iter().map(|&length| i64::try_from(length).expect("small")).collect();
    let mut session = Session::builder(environment).expect("a builder").commit_from_file(bundle.join("inference.onnx")).expect("a session");
    let adapter = Adapter::from_file(adapter, None).expect("ONNX Runtime reads the adapter");
    let mut options = RunOptions::new().expect("options");
    options.add_adapter(&adapter).expect("it is activated");
    let tensor = |values: &[i64]| Value::from_array((shape.clone(), values.to_vec())).expect("a tensor");
    let inputs = ort::inputs!["input_ids" => tensor(&ids), "attention_mask" => tensor(&mask)];
    let outputs = session.run_with_options(inputs, &options).expect("a run");
    let (_, logits) = outputs["logits"].try_extract_tensor::<f32>().expect("floats");
    let theirs = probe[wanted].to_f32().expect("floats");
    let classes = logits.len() / mask.len();
    let real = |numbers: &[f32]| {
        let rows = numbers.chunks(classes).zip(&mask).filter(|(_, real)| **real == 1);
        rows.flat_map(|(row, _)| row.to_vec()).collect::<Vec<f32>>()
    };
    (real(logits), real(&theirs))
}

#[test]
fn an_adapter_file_makes_one_graph_that_of_another_adapter() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = library::attempts(&Surroundings::of_process(None)).find_map(|attempt| attempt.found).expect("there is a runtime");
    peft_onnx::ort::without_telemetry();
    let environment = ort::environment::init_from(library).expect("it is loaded").build().expect("an environment");
    for name in ["lora_qv", "prompt", "prefix"] {
        let case = format!("llama/cases/{name}");
        let (bundle, file) = (folder.path().join(name), folder.path().join(format!("{name}.onnx_adapter")));
        let (model, first) = (fixture("llama/torchscript.onnx"), fixture(&case).join("adapter_init"));
        done(&[word("inject"), &model, word("--adapter"), &first, word("-o"), &bundle]);
        for (folder, wanted) in [("adapter_final", "final"), ("adapter_init", "initial")] {
            let adapter = fixture(&case).join(folder);
            done(&[
                word("export"),
                &bundle,
                word("--format"),
                word("onnx_adapter"),
                word("--adapter"),
                &adapter,
                word("--force"),
                word("-o"),
                &file,
            ]);
            let (ours, theirs) = with_adapter(&environment, &bundle, &file, &case, wanted);
            let largest = theirs.iter().fold(0_f32, |largest, number| largest.max(number.abs()));
            let difference = ours.iter().zip(&theirs).fold(0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(ours.len() == theirs.len() && difference <= 1e-4 * largest, "{name}/{folder}: {difference} of {largest}");
        }
    }
}

/// The numbers that a file has for an input, as they lie in it.
fn has_numbers(file: &Path, numbers: &[f32]) -> bool {
    let bytes = std::fs::read(file).expect("the file");
    let wanted: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn an_adapter_of_another_scale_is_brought_to_that_of_the_graph() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, case) = (fixture("llama/torchscript.onnx"), fixture("llama/cases/lora_qv/adapter_final"));
    let (bundle, file, other) = (folder.path().join("bundle"), folder.path().join("x.onnx_adapter"), folder.path().join("other"));
    done(&[word("inject"), &model, word("--adapter"), &case, word("-o"), &bundle]);
    std::fs::create_dir(&other).expect("a folder");
    std::fs::copy(case.join("adapter_model.safetensors"), other.join("adapter_model.safetensors")).expect("a copy");
    let config = std::fs::read_to_string(case.join("adapter_config.json")).expect("the configuration");
    // Half of the fixture's 8: a scale of 1 where the graph has 2.
    let halved = config.replace("\"lora_alpha\": 8", "\"lora_alpha\": 4");
    assert_ne!(config, halved);
    std::fs::write(other.join("adapter_config.json"), halved).expect("the file is written");
    done(&[word("export"), &bundle, word("--format"), word("onnx_adapter"), word("--adapter"), &other, word("-o"), &file]);
    let tensors = safetensors::read(&case.join("adapter_model.safetensors")).expect("tensors");
    let of = |part: &str| tensors[&format!("base_model.model.model.layers.0.self_attn.q_proj.{part}.weight")].to_f32().expect("floats");
    let halved: Vec<f32> = of("lora_B").iter().map(|number| number * 0.5).collect();
    assert!(has_numbers(&file, &of("lora_A")) && has_numbers(&file, &halved) && !has_numbers(&file, &of("lora_B")));
}

#[test]
fn an_adapter_of_rows_or_projections_that_the_graph_has_not_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = fixture("llama/torchscript.onnx");
    let file = folder.path().join("x.onnx_adapter");
    let rows: &[(&[&str], &[&str], &str)] = &[
        (
            &["trainable_tokens", "--trainable-token-indices", "5,6"],
            &["--trainable-token-indices", "5,7"],
            "token_indices: expected [5, 6], found [5, 7]",
        ),
        (&["vera", "--rank", "4"], &["--rank", "4"], "vera_A: other numbers than those in the graph"),
        (&["loha", "--rank", "2", "--alpha", "4"], &["--rank", "2", "--alpha", "8"], "scales of the updates"),
    ];
    for (own, others, expected) in rows {
        let bundle = |name: &str, options: &[&str]| {
            let bundle = folder.path().join(format!("{}.{name}", own[0]));
            let options = options.iter().map(Path::new);
            done(
                &[word("inject"), &model, word("-o"), &bundle, word("--method"), word(own[0])]
                    .into_iter()
                    .chain(options)
                    .collect::<Vec<_>>(),
            );
            bundle
        };
        let (first, second) = (bundle("own", &own[1..]), bundle("other", others));
        // Projections of another seed.
        let mut files = peft::read(&second).expect("an adapter");
        if let Some(shared) = files.tensors.get_mut("base_model.vera_A") {
            *shared = Tensor::from_f32(shared.shape(), &vec![0.25; shared.len()]);
            peft::write(&second, &files).expect("it is written");
        }
        done(&[word("export"), &first, word("--format"), word("onnx_adapter"), word("--force"), word("-o"), &file]);
        let output = peft_onnx(&[
            word("export"),
            &first,
            word("--format"),
            word("onnx_adapter"),
            word("--adapter"),
            &second,
            word("--force"),
            word("-o"),
            &file,
        ]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(expected), "{own:?}: {stderr}");
    }
}

#[test]
fn an_adapter_of_other_modules_or_ranks_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bundle, file) = (folder.path().join("bundle"), folder.path().join("x.onnx_adapter"));
    let case = |name: &str| fixture(&format!("llama/cases/{name}/adapter_final"));
    done(&[word("inject"), &fixture("llama/torchscript.onnx"), word("--adapter"), &case("lora_qv"), word("-o"), &bundle]);
    let both = folder.path().join("both");
    done(&[word("combine"), &case("lora_qv"), &case("lora_schedule"), word("-o"), &both]);
    for (adapter, expected) in [
        (case("lora_all_linear_rslora"), "no optional input of the inference graph named"),
        (case("prompt"), "method: expected lora, found prompt_tuning"),
        (both, "shape: expected [4,32], found [8,32]"),
    ] {
        let output = peft_onnx(&[
            word("export"),
            &bundle,
            word("--format"),
            word("onnx_adapter"),
            word("--adapter"),
            &adapter,
            word("--force"),
            word("-o"),
            &file,
        ]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(expected), "{stderr}");
    }
    assert!(!file.exists());
}
