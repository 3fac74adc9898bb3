//! Adapters of the layer that writes the logits: training, evaluation and the merged model compute the same.

use std::path::Path;

use crate::common::{self, Folder, done, json_of, number};
use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};
use peft_onnx::{peft, safetensors};

const WIDTH: usize = 4;
const TOKENS: usize = 20;

/// Numbers from -1 to 1, others for each name.
fn numbers(name: &str, shape: &[usize]) -> Tensor {
    let half = common::numbers(name, shape).to_f32().expect("floats");
    Tensor::from_f32(shape, &half.into_iter().map(|number| 2.0 * number).collect::<Vec<_>>())
}

/// Where a language model's head has its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Head {
    /// In the table of the tokens.
    Tied,
    /// In a copy of that table, turned as a product reads it.
    TiedCopy,
    Own,
    /// As `Own`, under the name that PyTorch gave it: so do converters that no exporter of PyTorch is in.
    OwnByName,
}

fn model(path: &str, head: Head, dtype: DType) {
    let stored_as = |tensor: Tensor| {
        let values = tensor.to_f64().expect("numbers");
        Tensor::from_f64(dtype, tensor.shape(), &values).expect("a type of floats")
    };
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let stored = numbers("table", &[TOKENS, WIDTH]);
    let table = b.initializer("model.embed_tokens.weight", stored_as(stored.clone()));
    let x = b.scoped("/model/embed_tokens", || table.gather(ids, 0));
    let fc = b.initializer("model.fc.weight", stored_as(numbers("fc", &[WIDTH, WIDTH])));
    let x = b.scoped("/model/fc", || x.matmul(fc)).tanh() + x;
    let logits = b.scoped("/lm_head", || match head {
        Head::Tied => x.matmul(table.t()),
        Head::TiedCopy => {
            let rows = stored.to_f32().expect("floats");
            let turned: Vec<f32> = (0..WIDTH).flat_map(|column| rows.iter().skip(column).step_by(WIDTH)).copied().collect();
            x.matmul(b.initializer("onnx::MatMul_7", stored_as(Tensor::from_f32(&[WIDTH, TOKENS], &turned))))
        }
        Head::Own | Head::OwnByName => {
            let name = if head == Head::Own { "onnx::MatMul_7" } else { "lm_head.weight" };
            x.matmul(b.initializer(name, stored_as(numbers("head", &[WIDTH, TOKENS]))))
        }
    });
    b.output("logits", logits);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

const ROWS: &str = r#"{"input_ids": [5, 9, 12, 3]}
{"input_ids": [4, 8, 15]}
{"input_ids": [2, 3, 4, 5]}
"#;

#[test]
fn what_changes_the_logits_themselves_is_trained_and_measured_as_it_is_merged() {
    const TOKENS: [&str; 4] = ["--method", "trainable_tokens", "--trainable-token-indices", "5,9"];
    const BESIDE: [&str; 8] = ["--method", "lora", "--rank", "2", "--target-modules", "fc", "--trainable-token-indices", "5,9"];
    let rows: &[(Head, &[&str])] = &[
        (Head::Tied, &TOKENS),
        (Head::TiedCopy, &TOKENS),
        (Head::Own, &TOKENS),
        (Head::Tied, &BESIDE),
        (Head::TiedCopy, &BESIDE),
        (Head::Tied, &["--method", "lora", "--rank", "2", "--target-modules", "lm_head"]),
        (Head::Own, &["--method", "lora", "--rank", "2", "--target-modules", "lm_head,fc"]),
        (Head::Own, &["--method", "lora", "--rank", "2", "--target-modules", "lm_head", "--use-dora"]),
        (Head::Own, &["--method", "lora", "--rank", "2", "--target-modules", "lm_head", "--set", "lora_bias=true"]),
        (Head::Own, &["--method", "ia3", "--target-modules", "lm_head", "--feedforward-modules", "none"]),
        (Head::Own, &["--method", "loha", "--rank", "2", "--target-modules", "lm_head"]),
        (Head::Own, &["--method", "head"]),
        (Head::OwnByName, &["--method", "head"]),
        (Head::OwnByName, &["--method", "lora", "--rank", "2", "--target-modules", "lm_head", "--modules-to-save", "fc"]),
    ];
    for (head, options) in rows {
        let folder = Folder::empty();
        let (base, data) = (folder.path("model.onnx"), folder.write("rows.jsonl", ROWS));
        model(&base, *head, DType::F32);
        let (bundle, merged) = (folder.path("bundle"), folder.path("merged.onnx"));
        done(&[&["inject", &base, "--task", "causal-lm", "-o", &bundle, "-q"], *options].concat());
        done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--learning-rate", "0.1", "-q"]);
        done(&["merge", &bundle, "-o", &merged]);
        let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
        let (before, adapted) = (loss(&[&base, "--task", "causal-lm"]), loss(&[&bundle]));
        let folded = loss(&[&merged, "--task", "causal-lm"]);
        assert!((adapted - folded).abs() < 1e-5, "{head:?} {options:?}: {adapted} with the adapter, {folded} merged");
        assert!(adapted < before - 1e-2, "{head:?} {options:?}: {before} before, {adapted} trained");
    }
}

#[test]
fn half_precision_models_merge_the_rows_and_the_whole_modules_that_they_trained() {
    const ROWS_OF_TABLE: [&str; 4] = ["--method", "trainable_tokens", "--trainable-token-indices", "5,9"];
    let rows: &[(Head, &[&str])] = &[
        (Head::Tied, &ROWS_OF_TABLE),
        (Head::TiedCopy, &ROWS_OF_TABLE),
        (Head::Own, &["--method", "head"]),
        (Head::Own, &["--method", "lora", "--rank", "2", "--target-modules", "fc", "--modules-to-save", "lm_head"]),
        (Head::Own, &["--method", "lora", "--rank", "2", "--target-modules", "lm_head", "--modules-to-save", "fc"]),
    ];
    for (dtype, (head, options)) in rows.iter().flat_map(|row| [(DType::F16, row), (DType::BF16, row)]) {
        let folder = Folder::empty();
        let (base, data) = (folder.path("model.onnx"), folder.write("rows.jsonl", ROWS));
        model(&base, *head, dtype);
        let (bundle, merged) = (folder.path("bundle"), folder.path("merged.onnx"));
        done(&[&["inject", &base, "--task", "causal-lm", "-o", &bundle, "-q"], *options].concat());
        done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--learning-rate", "0.1", "-q"]);
        let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
        done(&["merge", &bundle, "-o", &merged, "-q"]);
        // The processor multiplies no bfloat16.
        if dtype == DType::BF16 {
            continue;
        }
        let (adapted, folded) = (loss(&[&bundle]), loss(&[&merged, "--task", "causal-lm"]));
        assert!((adapted - folded).abs() < 2e-2, "{dtype} {head:?} {options:?}: {adapted} with the adapter, {folded} merged");
    }
}

#[test]
fn a_linear_weight_is_pytorchs_in_the_adapter_however_the_base_stores_it_and_is_read_again() {
    const KEY: &str = "base_model.model.lm_head.weight";
    const BESIDE: &[&str] = &["--method", "lora", "--rank", "2", "--target-modules", "fc", "--modules-to-save", "lm_head"];
    let rows: [&[&str]; 2] = [&["--method", "head"], BESIDE];
    for options in rows {
        let folder = Folder::empty();
        let (base, bundle, data) = (folder.path("model.onnx"), folder.path("bundle"), folder.write("rows.jsonl", ROWS));
        model(&base, Head::OwnByName, DType::F32);
        done(&[&["inject", &base, "--task", "causal-lm", "-o", &bundle, "-q"], options].concat());
        done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--save-steps", "2", "--learning-rate", "0.1", "-q"]);
        let read = |folder: &str| safetensors::read(&Path::new(folder).join(peft::WEIGHTS_FILE)).expect("tensors");
        let loss = |bundle: &str| number(&json_of(&["eval", bundle, "--data", &data])["loss"]);
        for (number, inside) in ["", "/initial", "/runs/001/checkpoints/step-2"].iter().enumerate() {
            let (source, again) = (format!("{bundle}{inside}"), folder.path(&format!("again{number}")));
            assert_eq!(read(&source)[KEY].shape(), [TOKENS, WIDTH], "{inside}");
            done(&["inject", &base, "--adapter", &source, "--task", "causal-lm", "-o", &again, "-q"]);
            let (wanted, found) = (loss(&source), loss(&again));
            assert!((wanted - found).abs() < 1e-5, "{options:?} {inside}: {wanted}, read again {found}");
        }
        // Adapters of older versions have it as the base does.
        let (old, again) = (folder.path("old"), folder.path("of_old"));
        std::fs::create_dir(&old).expect("a folder");
        std::fs::copy(format!("{bundle}/{}", peft::CONFIG_FILE), format!("{old}/{}", peft::CONFIG_FILE)).expect("it is copied");
        let mut tensors = read(&bundle);
        let rows = tensors[KEY].to_f32().expect("floats");
        let turned: Vec<f32> = (0..WIDTH).flat_map(|column| rows.iter().skip(column).step_by(WIDTH)).copied().collect();
        tensors.insert(KEY.into(), Tensor::from_f32(&[WIDTH, TOKENS], &turned));
        safetensors::write(&Path::new(&old).join(peft::WEIGHTS_FILE), &tensors).expect("it is written");
        done(&["inject", &base, "--adapter", &old, "--task", "causal-lm", "-o", &again, "-q"]);
        assert_eq!(read(&again)[KEY], read(&bundle)[KEY]);
    }
}

/// A classifier whose head is called as a module of its encoder is: `proj`.
#[test]
fn a_head_is_trained_alone_where_other_modules_have_its_name() {
    let folder = Folder::empty();
    let (base, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let table = b.initializer("embed.weight", numbers("table", &[TOKENS, WIDTH]));
    let x = b.scoped("/embed", || table.gather(ids, 0));
    let within = b.initializer("enc.0.proj.weight", numbers("within", &[WIDTH, WIDTH]));
    let x = b.scoped("/enc/0/proj", || x.matmul(within)).tanh() + x;
    let head = b.initializer("proj.weight", numbers("head", &[WIDTH, 3]));
    b.output("logits", b.scoped("/proj", || x.mean(&[1]).squeeze(&[1]).matmul(head)));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(&base), &WriteOptions::default()).expect("it is written");
    let names = |bundle: &str| {
        let file = Path::new(bundle).join("adapter_model.safetensors");
        peft_onnx::safetensors::read(&file).expect("an adapter").keys().cloned().collect::<Vec<_>>()
    };
    done(&["inject", &base, "--method", "head", "--task", "seq-cls", "-o", &bundle, "-q"]);
    assert_eq!(names(&bundle), ["base_model.model.proj.weight"]);
    // What is read again is what was written.
    let again = folder.path("again");
    done(&["inject", &base, "--adapter", &bundle, "--task", "seq-cls", "-o", &again, "-q"]);
    assert_eq!(names(&again), names(&bundle));
    // A module that is named and is not the head is trained wherever it is.
    let named = folder.path("named");
    done(&["inject", &base, "--method", "head", "--modules-to-save", "0.proj", "--task", "seq-cls", "-o", &named, "-q"]);
    assert_eq!(names(&named), ["base_model.model.enc.0.proj.weight"]);
}

/// A head that an exporter wrote without its bias of zeros.
fn without_bias(path: &str, head: &str, of_tokens: bool) {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let table = b.initializer("embed.weight", numbers("table", &[TOKENS, WIDTH]));
    let x = b.scoped("/embed", || table.gather(ids, 0));
    let fc = b.initializer("encoder.fc.weight", numbers("fc", &[WIDTH, WIDTH]));
    let x = b.scoped("/encoder/fc", || x.matmul(fc)).tanh() + x;
    let x = if of_tokens { x } else { x.mean(&[1]).squeeze(&[1]) };
    let weight = b.initializer(&format!("{head}.weight"), numbers("head", &[3, WIDTH]));
    b.output("logits", b.scoped(&format!("/{head}"), || x.matmul(weight.t())));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn a_bias_of_zeros_that_an_exporter_left_out_is_trained_and_merged_and_read_from_an_adapter() {
    const CLASSES: &str = r#"{"input_ids": [5, 9, 12, 3], "label": 2}
{"input_ids": [4, 8, 15], "label": 2}
"#;
    const TAGS: &str = r#"{"input_ids": [5, 9, 12, 3], "labels": [2, 2, 1, 2]}
{"input_ids": [4, 8, 15], "labels": [2, 1, 2]}
"#;
    // The head, its task, and whether its class has a bias: all but a decoder's for whole texts.
    let rows =
        [("classifier", "seq-cls", true), ("score", "seq-cls", false), ("score", "token-cls", true), ("classifier", "token-cls", true)];
    for (head, task, has_bias) in rows {
        let folder = Folder::empty();
        let (base, bundle, merged) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
        let data = folder.write("rows.jsonl", if task == "token-cls" { TAGS } else { CLASSES });
        without_bias(&base, head, task == "token-cls");
        let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
        let bias = |folder: &str| {
            let tensors = safetensors::read(&Path::new(folder).join(peft::WEIGHTS_FILE)).expect("tensors");
            tensors.get(&format!("base_model.model.{head}.bias")).and_then(Tensor::to_f32)
        };
        done(&[
            "inject",
            &base,
            "--method",
            "lora",
            "--target-modules",
            "fc",
            "--modules-to-save",
            head,
            "--task",
            task,
            "-o",
            &bundle,
            "-q",
        ]);
        assert_eq!(bias(&bundle), has_bias.then(|| vec![0.0; 3]), "{head} {task}");
        done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--learning-rate", "0.1", "-q"]);
        assert_eq!(bias(&bundle).map(|bias| bias.iter().all(|number| number.abs() > 0.01)), has_bias.then_some(true), "{head} {task}");
        done(&["merge", &bundle, "-o", &merged, "-q"]);
        let again = folder.path("again");
        done(&["inject", &base, "--adapter", &bundle, "--task", task, "-o", &again, "-q"]);
        let adapted = loss(&[&bundle]);
        for (what, found) in [("merged", loss(&[&merged, "--task", task])), ("read again", loss(&[&again]))] {
            assert!((adapted - found).abs() < 1e-5, "{head} {task}: {adapted}, {what} {found}");
        }
    }
}

/// A table of angles and a norm, neither of which is a projection or a table of tokens.
#[test]
fn norms_are_vectors() {
    let folder = Folder::empty();
    let (base, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let table = b.initializer("model.embed_tokens.weight", numbers("table", &[TOKENS, WIDTH]));
    let x = b.scoped("/model/embed_tokens", || table.gather(ids, 0));
    let angles = b.initializer("model.rotary.weight", numbers("angles", &[1, 2, WIDTH]));
    let x = x + b.scoped("/model/rotary", || angles.mean(&[1]));
    let scale = b.initializer("model.norm.weight", numbers("scale", &[1, 1, WIDTH]));
    let x = b.scoped("/model/norm", || x * scale);
    let head = b.initializer("lm_head.weight", numbers("head", &[WIDTH, TOKENS]));
    b.output("logits", b.scoped("/lm_head", || x.matmul(head)));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(&base), &WriteOptions::default()).expect("it is written");
    done(&["inject", &base, "--method", "ln_tuning", "--task", "causal-lm", "-o", &bundle, "-q"]);
    let file = Path::new(&bundle).join("adapter_model.safetensors");
    let names: Vec<String> = peft_onnx::safetensors::read(&file).expect("an adapter").keys().cloned().collect();
    assert_eq!(names, ["base_model.model.model.norm.ln_tuning_layers.weight"]);
}

/// A regression learns the number that the graph gives, not the score that a sigmoid makes it of.
#[test]
fn numbers_that_a_sigmoid_makes_are_compared_with_the_labels() {
    let folder = Folder::empty();
    let (base, bundle, merged) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let table = b.initializer("embed.weight", numbers("table", &[TOKENS, WIDTH]));
    let x = b.scoped("/embed", || table.gather(ids, 0));
    let fc = b.initializer("fc.weight", numbers("fc", &[WIDTH, WIDTH]));
    let x = b.scoped("/fc", || x.matmul(fc)).tanh() + x;
    let head = b.initializer("score.weight", numbers("head", &[WIDTH, 1]));
    let score = b.scoped("/score", || x.mean(&[1]).squeeze(&[1]).matmul(head));
    b.output("rating", score.sigmoid() * 5.0);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(&base), &WriteOptions::default()).expect("it is written");
    let rows =
        [(5, 4.5), (9, 0.5), (12, 3.0)].map(|(token, label)| format!("{{\"input_ids\": [{token}, 3], \"label\": {label}}}\n")).concat();
    let data = folder.write("rows.jsonl", &rows);
    let squares = |model: &str| {
        let told = done(&["predict", model, "--task", "regression", "--data", &data]);
        let all = told.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let given = number(&row["prediction"]);
            assert!((0.0..=5.0).contains(&given), "{row}");
            (given - number(&row["label"])).powi(2)
        });
        all.sum::<f64>() / 3.0
    };
    let loss = |args: &[&str]| number(&json_of(args)["loss"]);
    let before = loss(&["eval", &base, "--task", "regression", "--data", &data]);
    assert!((before - squares(&base)).abs() < 1e-5, "{before}");
    done(&["inject", &base, "--method", "lora", "--rank", "2", "--target-modules", "fc", "--task", "regression", "-o", &bundle, "-q"]);
    done(&["train", &bundle, "--data", &data, "--max-steps", "20", "--learning-rate", "0.05", "-q"]);
    let after = loss(&["eval", &bundle, "--data", &data]);
    done(&["merge", &bundle, "-o", &merged, "-q"]);
    assert!(after < 0.8 * before && (after - squares(&merged)).abs() < 1e-4, "{before} {after}");
}
