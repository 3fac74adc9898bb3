//! What a model's outputs are beside scores: probabilities, and predictions of another kind than the task learns.

use std::path::Path;

use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
use peft_onnx::onnx::{self, WriteOptions};
use serde_json::json;

use crate::common::{Folder, done, json_of, number, run};
use crate::tasks::tokenizer;

/// A masked model sees the answer that it is scored on; a decoder with an encoder is made for other rows.
#[test]
fn preferences_of_what_is_no_language_model_are_learnt_with_a_warning() {
    for (model, is_doubted) in [("llama/dynamo.onnx", false), ("bert_masked/dynamo.onnx", true), ("t5/dynamo.onnx", true)] {
        let folder = Folder::with(model);
        let bundle = folder.path("bundle");
        let (success, _, said) = run(&["inject", &folder.path("model.onnx"), "--method", "lora", "--task", "preference", "-o", &bundle]);
        assert!(success && said.contains("looks made for") == is_doubted, "{model}: {said}");
    }
}

/// A model whose outputs went through a softmax, beside the same without: the loss, the reference and the answers are of its scores.
#[test]
fn what_is_made_of_probabilities_is_what_is_made_of_their_scores() {
    let last = |folder: &Folder, name: &str, is_soft: bool, outputs: &[&str]| {
        let graph = onnx::read(Path::new(&folder.path("model.onnx"))).expect("a model");
        let b = Builder::on(&graph);
        let ends: Vec<_> = outputs.iter().map(|name| b.output_named(name).expect("an output")).collect();
        b.clear_outputs();
        for (name, end) in outputs.iter().zip(ends) {
            b.output(&format!("{name}_shown"), if is_soft { end.softmax(-1) } else { end + 0.0 });
        }
        let path = folder.path(name);
        onnx::write(&b.finish().expect("a valid graph"), Path::new(&path), &WriteOptions::default()).expect("it is written");
        path
    };
    let spans = Folder::empty();
    let b = Builder::new(ModelInfo::dialect());
    let shape = [Dim::symbol("batch"), Dim::symbol("seq")];
    let ids = b.input("input_ids", DType::I64, &shape);
    let weight = |name: &str, shape: &[usize]| b.initializer(name, crate::common::numbers(name, shape));
    let states = b.scoped("/embed", || weight("embed.weight", &[60, 4]).gather(ids, 0));
    let hidden = b.scoped("/fc", || states.matmul(weight("fc.weight", &[4, 4]))).tanh();
    let scores = b.scoped("/qa_outputs", || hidden.matmul(weight("qa_outputs.weight", &[4, 2])));
    for (at, name) in ["start", "end"].iter().enumerate() {
        b.output(name, scores.gather(b.int(i64::try_from(at).expect("few")), -1));
    }
    onnx::write(&b.finish().expect("a valid graph"), Path::new(&spans.path("model.onnx")), &WriteOptions::default())
        .expect("it is written");
    spans.write("tokenizer.json", &tokenizer());
    let qa = json!({"question": "w1 w2", "context": "w3 w4 w5", "answers": {"text": ["w4"], "answer_start": [3]}}).to_string();
    let words = Folder::with("llama/dynamo.onnx");
    words.write("tokenizer.json", &tokenizer());
    let pair = json!({"prompt": "w1", "chosen": " w2 w3", "rejected": " w4"}).to_string();
    for (folder, task, outputs, row) in [(&spans, "qa", &["start", "end"][..], qa), (&words, "preference", &["logits"], pair)] {
        let rows = folder.write("rows.jsonl", &row);
        let losses: Vec<f64> = [false, true]
            .iter()
            .map(|is_soft| {
                let model = last(folder, &format!("soft-{is_soft}.onnx"), *is_soft, outputs);
                let bundle = folder.path(&format!("{task}-{is_soft}"));
                done(&["inject", &model, "--method", "lora", "--task", task, "-o", &bundle, "-q"]);
                done(&["train", &bundle, "--data", &rows, "--max-steps", "1", "--batch-size", "1", "-q"]);
                number(&json_of(&["eval", &bundle, "--data", &rows, "--checkpoint", "initial"])["loss"])
            })
            .collect();
        assert!((losses[0] - losses[1]).abs() < 1e-5, "{task}: {losses:?}");
    }
}
