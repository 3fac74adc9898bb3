//! Merged models of bases that write the same thing in an unusual way.

use crate::common::{Folder, done, fixture};

#[test]
fn a_prefix_leaves_nothing_of_the_masks_that_each_layer_made_for_itself() {
    for (model, method) in [("torchscript.onnx", "prefix_tuning"), ("dynamo.onnx", "p_tuning_v2")] {
        let folder = Folder::empty();
        let (bundle, merged) = (folder.path("bundle"), folder.path("merged.onnx"));
        let base = fixture(&format!("distilbert_classifier/{model}"));
        done(&["inject", &base, "--method", method, "--num-virtual-tokens", "3", "-o", &bundle]);
        let said = done(&["merge", &bundle, "-o", &merged]);
        assert!(said.contains("verified"), "{model}: {said}");
    }
}

#[test]
fn what_nobody_reads_in_the_base_stays_in_the_merged_model() {
    use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
    use peft_onnx::onnx::{self, WriteOptions};
    let folder = Folder::empty();
    let (base, bundle, merged) = (folder.path("base.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
    let b = Builder::new(ModelInfo::dialect());
    let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
    let weight = |name: &str| b.initializer(name, crate::common::numbers(name, &[4, 4]));
    let hidden = b.scoped("/fc", || x.matmul(weight("fc.weight"))).tanh();
    b.scoped("/unread", || x.matmul(weight("unread.weight")));
    b.initializer("spare.weight", Tensor::from_f32(&[2], &[1.0, 2.0]));
    b.output("logits", b.scoped("/classifier", || hidden.matmul(weight("classifier.weight"))));
    onnx::write(&b.finish_whole().expect("a valid graph"), std::path::Path::new(&base), &WriteOptions::default()).expect("it is written");
    done(&["inject", &base, "--method", "lora", "--target-modules", "fc", "--task", "seq-cls", "-o", &bundle]);
    done(&["merge", &bundle, "-o", &merged]);
    let text = onnx::read(std::path::Path::new(&merged)).expect("a model").to_string();
    assert!(["unread.weight", "spare.weight"].iter().all(|name| text.contains(name)), "{text}");
}
