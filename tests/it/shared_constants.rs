//! Models whose layers share constants by chance, as TorchScript's exporter stores equal tensors once: what is trained in one layer changes no
//! other, and merged models compute what was trained.

use std::path::Path;

use crate::common::{Folder, done, json_of, number, numbers, refused};
use peft_onnx::ir::{Attr, Builder, DType, Dim, Expr, Graph, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};

const WIDTH: usize = 4;

/// What both layers share: constants under the names of the first layer's, and one matrix whose name is gone.
struct Shared<'g> {
    scale: Expr<'g>,
    shift: Expr<'g>,
    weight: Expr<'g>,
    bias: Expr<'g>,
}

fn layer<'g>(b: &'g Builder, number: usize, x: Expr<'g>, shared: &Shared<'g>) -> Expr<'g> {
    let normed = b.scoped(&format!("/layers.{number}/norm"), || {
        b.op("LayerNormalization", &[x, shared.scale, shared.shift], &[("axis", Attr::Int(-1))])
    });
    x + b.scoped(&format!("/layers.{number}/fc"), || normed.matmul(shared.weight) + shared.bias).tanh()
}

/// How a model keeps the parameters of its norms.
#[derive(Clone, Copy, Debug)]
enum Stored {
    /// Under the names of the first layer's.
    AsTheyAre,
    /// In half precision, under names that are no parameters', behind one `Cast` each.
    InHalves,
}

fn model(path: &str, stored: Stored) {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let constant = |name: &str, shape: &[usize]| b.initializer(name, numbers(name, shape));
    let table = constant("embed.weight", &[20, WIDTH]);
    let of_norm = |leaf: &str, value: f64| match stored {
        Stored::AsTheyAre => {
            b.initializer(&format!("layers.0.norm.{leaf}"), Tensor::from_f64(DType::F32, &[WIDTH], &[value; WIDTH]).expect("floats"))
        }
        Stored::InHalves => {
            b.initializer(&format!("{leaf}_f16"), Tensor::from_f64(DType::F16, &[WIDTH], &[value; WIDTH]).expect("floats")).cast(DType::F32)
        }
    };
    // The same zeros are the bias of norms and projections.
    let zeros = of_norm("bias", 0.0);
    let shared = Shared { scale: of_norm("weight", 1.0), shift: zeros, weight: constant("onnx::MatMul_7", &[WIDTH, WIDTH]), bias: zeros };
    let x = b.scoped("/embed", || table.gather(ids, 0));
    let x = layer(&b, 1, layer(&b, 0, x, &shared), &shared);
    let pooled = x.mean(&[1]).reshape(&[-1, 4]);
    let logits = b.scoped("/classifier", || pooled.matmul(constant("onnx::MatMul_9", &[WIDTH, 2])) + constant("classifier.bias", &[2]));
    b.output("logits", logits);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

/// The constants that nodes of a scope read, `[operator, numbers]`.
fn constants(graph: &Graph, scope: &str) -> Vec<Vec<f32>> {
    let nodes = graph.nodes().iter().filter(|node| node.name.starts_with(scope));
    nodes.flat_map(|node| node.reads().filter_map(|id| graph.initializer(id)?.to_f32()).collect::<Vec<_>>()).collect()
}

const ROWS: &str = r#"{"input_ids": [5, 9, 12, 3], "label": 1}
{"input_ids": [4, 8, 15], "label": 0}
{"input_ids": [2, 3, 4, 5], "label": 1}
{"input_ids": [11, 12], "label": 0}
"#;

#[test]
fn what_is_trained_in_one_layer_changes_no_other_that_shares_its_constants() {
    // What is added, and the scopes of the first layer whose constants change when it is merged.
    let rows: &[(&[&str], &str)] = &[
        (&["--method", "ln_tuning", "--target-modules", "layers.0.norm"], "/layers.0/norm"),
        (&["--method", "lora", "--rank", "2", "--target-modules", "layers.0.fc"], "/layers.0/fc"),
        (&["--method", "lora", "--rank", "2", "--target-modules", "layers.0.fc", "--bias", "lora_only"], "/layers.0/fc"),
        (&["--method", "lora", "--rank", "2", "--target-modules", "layers.0.fc", "--modules-to-save", "layers.0.norm"], "/layers.0/norm"),
        (&["--method", "ia3", "--target-modules", "layers.0.fc", "--feedforward-modules", "none"], "/layers.0/fc"),
    ];
    for (options, changed) in rows {
        let folder = Folder::empty();
        let (base, data) = (folder.path("model.onnx"), folder.write("rows.jsonl", ROWS));
        model(&base, Stored::AsTheyAre);
        let (bundle, merged) = (folder.path("bundle"), folder.path("merged.onnx"));
        done(&[&["inject", &base, "--task", "seq-cls", "-o", &bundle, "-q"], *options].concat());
        done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--learning-rate", "0.1", "-q"]);
        done(&["merge", &bundle, "-o", &merged]);
        let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
        let (adapted, folded) = (loss(&[&bundle]), loss(&[&merged, "--task", "seq-cls"]));
        assert!((adapted - folded).abs() < 1e-5, "{options:?}: {adapted} with the adapter, {folded} merged");
        let read = |path: &str| onnx::read(Path::new(path)).expect("a model");
        let (before, after) = (read(&base), read(&merged));
        assert_ne!(constants(&before, changed), constants(&after, changed), "{options:?}");
        for scope in ["/layers.1/norm", "/layers.1/fc"] {
            assert_eq!(constants(&before, scope), constants(&after, scope), "{options:?}: {scope}");
        }
    }
}

#[test]
fn every_layer_has_parameters_of_its_own_though_their_numbers_are_stored_once() {
    for stored in [Stored::AsTheyAre, Stored::InHalves] {
        for options in
            [&["--method", "ln_tuning"][..], &["--method", "lora", "--rank", "2", "--target-modules", "layers.0.fc", "--bias", "all"]]
        {
            let folder = Folder::empty();
            let (base, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
            model(&base, stored);
            done(&[&["inject", &base, "--task", "seq-cls", "-o", &bundle, "-q"], options].concat());
            let weights = peft_onnx::safetensors::read(&Path::new(&bundle).join("adapter_model.safetensors")).expect("tensors");
            for name in ["layers.0.norm.", "layers.1.norm."] {
                let is_there = weights.keys().any(|key| key.contains(name) && key.ends_with("bias"));
                assert!(is_there, "{stored:?} {options:?}, {name}bias: {:?}", weights.keys());
            }
        }
    }
}

/// How the copies of one matrix are read.
#[derive(Clone, Copy, Debug)]
enum Copies {
    /// Each by a module of its own.
    OfModules,
    /// By one module, which is called three times.
    OfCalls,
}

/// Three layers whose weights are one matrix, which `torch.onnx.export` stores once: the others are an `Identity` of it each.
fn copies(path: &str, copies: Copies) {
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    let table = b.initializer("embed.weight", numbers("embed", &[20, WIDTH]));
    let mut x = b.scoped("/embed", || table.gather(ids, 0));
    let stored = b.initializer("onnx::MatMul_40", numbers("stored", &[WIDTH, WIDTH]));
    let bias = b.initializer("layers.0.fc.bias", numbers("bias", &[WIDTH]));
    for number in 0..3 {
        let scope = match (copies, number) {
            (Copies::OfModules, _) => format!("/layers.{number}/fc"),
            (Copies::OfCalls, 0) => "/layers.0/fc".to_owned(),
            (Copies::OfCalls, _) => format!("/layers.0/fc_{number}"),
        };
        let weight = if number == 0 { stored } else { stored.identity() };
        let bias = if number == 0 { bias } else { bias.identity() };
        x = x + b.scoped(&scope, || x.matmul(weight) + bias).tanh();
    }
    let pooled = x.mean(&[1]).reshape(&[-1, 4]);
    b.output("logits", b.scoped("/classifier", || pooled.matmul(b.initializer("onnx::MatMul_9", numbers("head", &[WIDTH, 2])))));
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn weights_that_are_read_through_an_identity_are_adapted_and_merged_as_any_other() {
    const LORA: [&str; 4] = ["--method", "lora", "--rank", "2"];
    for stored in [Copies::OfModules, Copies::OfCalls] {
        let second = if matches!(stored, Copies::OfModules) { "layers.1.fc" } else { "layers.0.fc" };
        let rows: &[&[&str]] = &[
            &["--target-modules", second],
            &["--target-modules", second, "--use-dora"],
            &["--target-modules", second, "--init-lora-weights", "pissa"],
            &["--target-modules", second, "--init-lora-weights", "olora"],
            &["--target-modules", second, "--bias", "lora_only"],
            &["--target-modules", "embed", "--modules-to-save", second],
        ];
        for options in rows {
            let folder = Folder::empty();
            let (base, data) = (folder.path("model.onnx"), folder.write("rows.jsonl", ROWS));
            copies(&base, stored);
            let (bundle, merged) = (folder.path("bundle"), folder.path("merged.onnx"));
            let options = [&LORA[..], options].concat();
            done(&[&["inject", &base, "--task", "seq-cls", "-o", &bundle, "-q"], &options[..]].concat());
            done(&["train", &bundle, "--data", &data, "--max-steps", "4", "--learning-rate", "0.1", "-q"]);
            done(&["merge", &bundle, "-o", &merged]);
            let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
            let before = loss(&[&base, "--task", "seq-cls"]);
            let (adapted, folded) = (loss(&[&bundle]), loss(&[&merged, "--task", "seq-cls"]));
            assert!((adapted - folded).abs() < 1e-5, "{stored:?} {options:?}: {adapted} with the adapter, {folded} merged");
            assert!(adapted < before - 1e-3, "{stored:?} {options:?}: {before} before, {adapted} trained");
            let nodes =
                |path: &str| onnx::read(Path::new(path)).expect("a model").nodes().iter().filter(|node| &*node.op == "MatMul").count();
            assert_eq!(nodes(&base), nodes(&merged), "{stored:?} {options:?}: it is folded");
        }
    }
}

/// `get_peft_model` without a `task_type` leaves a classifier's head as it is: it is not in the file, and stays frozen.
#[test]
fn an_adapter_whose_configuration_names_no_head_leaves_the_head_as_it_is() {
    let folder = Folder::empty();
    let (base, data) = (folder.path("model.onnx"), folder.write("rows.jsonl", ROWS));
    copies(&base, Copies::OfModules);
    for (task_type, is_there) in [("null", true), ("\"SEQ_CLS\"", false)] {
        let config = format!(
            r#"{{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["fc"], "modules_to_save": null, "task_type": {task_type}}}"#
        );
        let adapter = folder.path(&format!("adapter_{is_there}"));
        std::fs::create_dir(&adapter).expect("a folder");
        std::fs::write(Path::new(&adapter).join("adapter_config.json"), config).expect("a file");
        let parts = (0..3).flat_map(|layer| [("A", [2, WIDTH]), ("B", [WIDTH, 2])].map(|(part, shape)| (layer, part, shape)));
        let tensors = parts.map(|(layer, part, shape)| {
            let name = format!("base_model.model.layers.{layer}.fc.lora_{part}.weight");
            (name.clone(), numbers(&name, &shape))
        });
        peft_onnx::safetensors::write(&Path::new(&adapter).join("adapter_model.safetensors"), &tensors.collect()).expect("a file");
        let bundle = folder.path(&format!("bundle_{is_there}"));
        let inject = ["inject", &base, "--adapter", &adapter, "--task", "seq-cls", "-o", &bundle, "-q"];
        if !is_there {
            refused(&inject, &["the file has no base_model.model.classifier.weight", "hint: "]);
            continue;
        }
        done(&inject);
        done(&["train", &bundle, "--data", &data, "--max-steps", "3", "--learning-rate", "0.1", "-q"]);
        let merged = folder.path("merged.onnx");
        done(&["merge", &bundle, "-o", &merged]);
        let read = |path: &str| onnx::read(Path::new(path)).expect("a model");
        assert_eq!(constants(&read(&base), "/classifier"), constants(&read(&merged), "/classifier"));
        let loss = |model: &[&str]| number(&json_of(&[&["eval"], model, &["--data", &data]].concat())["loss"]);
        assert!((loss(&[&bundle]) - loss(&[&merged, "--task", "seq-cls"])).abs() < 1e-5);
    }
}
