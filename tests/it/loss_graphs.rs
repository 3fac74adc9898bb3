//! Losses that somebody wrote, with the operators that PyTorch's exporters write for its own.

use std::path::Path;

use crate::common::{Folder, done, fixture, json_of, number, refused};
use peft_onnx::ir::{Attr, Builder, DType, Dim, ModelInfo, Tensor};
use peft_onnx::onnx::{self, WriteOptions};

/// Writes `cross_entropy(logits, labels)` as PyTorch's exporters do; of each token where `of_tokens`, and with equal weights of the classes.
fn cross_entropy(path: &str, of_tokens: bool, classes: usize) {
    let b = Builder::new(ModelInfo::dialect());
    let (batch, seq) = (Dim::symbol("batch"), Dim::symbol("seq"));
    let width = Dim::known(i64::try_from(classes).expect("few"));
    let weights = b.initializer("weights", Tensor::from_f32(&[classes], &vec![0.5; classes]));
    let loss = if of_tokens {
        let logits = b.input("logits", DType::F32, &[batch.clone(), seq.clone(), width]).transpose(&[0, 2, 1]);
        let labels = b.input("labels", DType::I64, &[batch, seq]);
        b.op("SoftmaxCrossEntropyLoss", &[logits, labels, weights], &[("ignore_index", Attr::Int(-100)), ("reduction", "mean".into())])
    } else {
        let logits = b.input("logits", DType::F32, &[batch.clone(), width]);
        let labels = b.input("labels", DType::I64, &[batch]);
        b.op("NegativeLogLikelihoodLoss", &[logits.log_softmax(1), labels, weights], &[("reduction", "mean".into())])
    };
    b.output("loss", loss);
    onnx::write(&b.finish().expect("a valid graph"), Path::new(path), &WriteOptions::default()).expect("it is written");
}

#[test]
fn cross_entropy_as_pytorch_exports_it_is_a_loss_for_rows_and_for_tokens() {
    for (task, model, case, of_tokens) in [
        ("seq-cls", "bert_classifier/dynamo.onnx", "bert_classifier/cases/lora_classifier/train.jsonl", false),
        ("token-cls", "bert_tokens/dynamo.onnx", "bert_tokens/cases/lora/train.jsonl", true),
    ] {
        let folder = Folder::empty();
        let (own, theirs, loss) = (folder.path("own"), folder.path("theirs"), folder.path("loss.onnx"));
        let inject = ["inject", &fixture(model), "--method", "lora", "--task", task];
        done(&[&inject[..], &["-o", &own]].concat());
        let classes = json_of(&["inspect", &fixture(model)])["head"]["classes"].as_u64().expect("a head of classes");
        cross_entropy(&loss, of_tokens, usize::try_from(classes).expect("few"));
        done(&[&inject[..], &["--loss-graph", &loss, "-o", &theirs]].concat());
        let trained = |bundle: &str| {
            let train = ["train", bundle, "--data", &fixture(case), "--batch-size", "4", "--max-steps", "2", "--no-shuffle"];
            let summary = json_of(&train);
            [number(&summary["first_loss"]), number(&summary["loss"])]
        };
        let (expected, found) = (trained(&own), trained(&theirs));
        let parted =
            ["train", &theirs, "--data", &fixture(case), "--batch-size", "4", "--micro-batch-size", "2", "--max-steps", "1", "--restart"];
        refused(&parted, &["running the loss graph on parts of a batch", "may compare the rows", "loss_sum"]);
        for (expected, found) in expected.iter().zip(found) {
            assert!((expected - found).abs() < 1e-5, "{task}: {expected} {found}");
        }
    }
}
