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

#[test]
fn weights_that_are_stored_in_other_shapes_and_orders_are_changed_where_they_are() {
    use peft_onnx::ir::{Attr, Builder, DType, Dim, Expr, ModelInfo};
    use peft_onnx::onnx::{self, WriteOptions};
    type Table = for<'g> fn(&'g Builder, Expr<'g>) -> Expr<'g>;
    fn weight<'g>(b: &'g Builder, name: &str, shape: &[usize]) -> Expr<'g> {
        b.initializer(name, crate::common::numbers(name, shape))
    }
    let lookups: [(&str, Table); 4] = [
        ("in one row", |b, ids| b.initializer("tokens.weight", crate::common::numbers("tokens", &[200])).reshape(&[50, 4]).gather(ids, 0)),
        ("turned", |b, ids| b.initializer("tokens.weight", crate::common::numbers("tokens", &[4, 50])).t().gather(ids, 0)),
        ("in columns", |b, ids| {
            let table = b.initializer("tokens.weight", crate::common::numbers("tokens", &[4, 50]));
            b.op("Gather", &[table, ids], &[("axis", Attr::Int(1))]).transpose(&[1, 2, 0])
        }),
        ("in float64", |b, ids| {
            let table = b.initializer("tokens.weight", crate::common::numbers("tokens", &[50, 4]));
            let wide =
                peft_onnx::ir::Tensor::from_f64(DType::F64, &[50, 4], &b.initial(table.id()).and_then(|t| t.to_f64()).unwrap_or_default());
            b.initializer("tokens.weight.wide", wide.expect("floats")).cast(DType::F32).gather(ids, 0)
        }),
    ];
    for (what, lookup) in lookups {
        let folder = Folder::empty();
        let (base, bundle, merged) = (folder.path("base.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let states = b.scoped("/tokens", || lookup(&b, ids));
        let hidden = b.scoped("/fc", || states.matmul(weight(&b, "fc.weight", &[16]).reshape(&[4, 4]).t())).tanh();
        let pooled = hidden.mean(&[1]).reshape(&[-1, 4]);
        b.output("logits", b.scoped("/classifier", || pooled.matmul(weight(&b, "classifier.weight", &[12]).reshape(&[4, 3]))));
        let graph = b.finish().expect("a valid graph");
        onnx::write(&graph, std::path::Path::new(&base), &WriteOptions::default()).expect("it is written");
        folder.write("rows.jsonl", "{\"input_ids\": [1, 2, 3], \"label\": 1}\n{\"input_ids\": [4, 5], \"label\": 2}\n");
        for options in [&["--target-modules", "tokens,fc"][..], &["--target-modules", "fc", "--modules-to-save", "tokens,classifier"]] {
            let inject = ["inject", &base, "--method", "lora", "--task", "seq-cls", "-o", &bundle, "--force"];
            done(&[&inject[..], options].concat());
            done(&["train", &bundle, "--data", &folder.path("rows.jsonl"), "--max-steps", "3", "--learning-rate", "0.1", "-q"]);
            let said = done(&["merge", &bundle, "-o", &merged, "--force"]);
            assert!(said.contains("verified"), "{what} {options:?}: {said}");
        }
    }
}

/// Each reads the same half-precision tensor, widened; the one that is trained gets its own.
#[test]
fn a_head_that_shares_a_table_of_half_precision_is_read_as_wide_as_before() {
    use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
    use peft_onnx::onnx::{self, WriteOptions};
    for options in [&["--method", "head"][..], &["--method", "lora", "--target-modules", "lm_head,fc"]] {
        let folder = Folder::empty();
        let (base, bundle, merged) = (folder.path("base.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
        let b = Builder::new(ModelInfo::dialect());
        let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
        let numbers = crate::common::numbers("tokens", &[50, 4]).to_f64().expect("floats");
        let table =
            b.initializer("embed_tokens.weight", Tensor::from_f64(DType::F16, &[50, 4], &numbers).expect("halves")).cast(DType::F32);
        let states = b.scoped("/embed_tokens", || table.gather(ids, 0));
        let hidden = b.scoped("/fc", || states.matmul(b.initializer("fc.weight", crate::common::numbers("fc", &[4, 4])))).tanh();
        b.output("logits", b.scoped("/lm_head", || hidden.matmul(table.t())));
        onnx::write(&b.finish().expect("a valid graph"), std::path::Path::new(&base), &WriteOptions::default()).expect("it is written");
        let rows = folder.write("rows.jsonl", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5]}\n");
        done(&[&["inject", &base, "--task", "causal-lm", "-o", &bundle], options].concat());
        done(&["train", &bundle, "--data", &rows, "--max-steps", "2", "--quiet"]);
        let said = done(&["merge", &bundle, "-o", &merged]);
        assert!(said.contains("verified"), "{options:?}: {said}");
    }
}

/// The prompt's places stand in front of the tokens, which the table reads all the same.
#[test]
fn a_merged_prompt_leaves_a_language_model_what_it_was() {
    for method in ["prompt_tuning", "p_tuning"] {
        let folder = Folder::with("llama/torchscript.onnx");
        let (base, bundle, merged) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"));
        done(&["inject", &base, "--method", method, "--num-virtual-tokens", "3", "-o", &bundle]);
        done(&["merge", &bundle, "-o", &merged]);
        let found = crate::common::json_of(&["inspect", &merged]);
        assert_eq!(found["task"]["name"].as_str().or(found["task"].as_str()), Some("causal-lm"), "{method}: {}", found["task"]);
    }
}
