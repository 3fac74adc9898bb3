//! What writes text, and what does not: `generate` and `chat`.

use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
use peft_onnx::onnx;
use serde_json::json;

use crate::common::{Folder, done, fixture, numbers, refused};
use crate::tasks::tokenizer;

const PREDICT: &str = "hint: `peft-onnx predict` answers the rows of a file";

/// Classes of tokens and vectors have the axes of a language model's scores, and their numbers were written as tokens.
#[test]
fn nothing_is_written_with_what_gives_no_scores_of_the_next_token() {
    for (model, why) in [
        ("bert_encoder/dynamo.onnx", "it looks made for vectors: last_hidden_state"),
        ("bert_encoder/torchscript.onnx", "it looks made for vectors: last_hidden_state"),
        ("bert_masked/dynamo.onnx", "it looks made for masked-lm: "),
        ("bert_masked/torchscript.onnx", "it looks made for masked-lm: "),
        ("bert_tokens/dynamo.onnx", "it looks made for token-cls: "),
        ("llama_classifier/torchscript.onnx", "it looks made for seq-cls: "),
        ("vit_classifier/optimum.onnx", "it looks made for image-cls: "),
    ] {
        let model = fixture(model);
        for command in [&["generate", &model, "--prompt", "w1"][..], &["chat", &model]] {
            refused(command, &[&model, "writing text with this model is not supported", why, PREDICT]);
        }
    }
}

/// A folder may say more than the graph: that a decoder writes whose masks are not recognised. It does not make tokens of vectors.
#[test]
fn what_the_folder_says_of_a_model_that_may_write_counts() {
    for (model, class, is_writer) in [
        ("bert_masked/torchscript.onnx", "BertLMHeadModel", true),
        ("bert_masked/torchscript.onnx", "BertForMaskedLM", false),
        ("bert_encoder/torchscript.onnx", "LlamaForCausalLM", false),
        ("llama/torchscript.onnx", "LlamaForSequenceClassification", true),
        ("llama/optimum_cache.onnx", "LlamaModel", true),
    ] {
        let folder = Folder::with(model);
        folder.write("tokenizer.json", &tokenizer());
        folder.write("config.json", &json!({"architectures": [class]}).to_string());
        let model = folder.path("model.onnx");
        let args = ["generate", &model, "--prompt", "w1 w2", "--max-new-tokens", "2", "-q"];
        if is_writer {
            done(&args);
        } else {
            refused(&args, &["writing text with this model is not supported", PREDICT]);
        }
    }
}

/// A table whose rows are the scores of what comes next has no projection.
#[test]
fn a_table_of_next_words_writes() {
    let folder = Folder::empty();
    folder.write("tokenizer.json", &tokenizer());
    let b = Builder::new(ModelInfo::dialect());
    let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
    b.output("logits", b.initializer("next", numbers("next", &[45, 45])).gather(ids, 0));
    let model = folder.path("model.onnx");
    onnx::write(&b.finish().expect("a valid graph"), std::path::Path::new(&model), &onnx::WriteOptions::default()).expect("a model");
    done(&["generate", &model, "--prompt", "w1 w2", "--max-new-tokens", "2", "-q"]);
}

#[test]
fn a_bundle_writes_if_its_task_or_its_base_does() {
    for (model, task, more, refusal) in [
        ("llama/torchscript.onnx", "causal-lm", &[][..], None),
        ("llama/torchscript.onnx", "preference", &[], None),
        ("llama/torchscript.onnx", "embedding", &[], None),
        ("llama/torchscript.onnx", "reward", &["--num-labels", "1"], Some("its task is reward")),
        ("llama/torchscript.onnx", "seq-cls", &["--num-labels", "2"], Some("its task is seq-cls")),
        ("llama/torchscript.onnx", "token-cls", &["--num-labels", "3"], Some("its task is token-cls")),
        ("bert_masked/torchscript.onnx", "masked-lm", &[], Some("its task is masked-lm")),
        ("bert_encoder/torchscript.onnx", "embedding", &[], Some("it looks made for vectors")),
    ] {
        let folder = Folder::with(model);
        folder.write("tokenizer.json", &tokenizer());
        let (model, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
        done(&[&["inject", &model, "--method", "lora", "--task", task, "-o", &bundle, "-q"][..], more].concat());
        let args = ["generate", &bundle, "--prompt", "w1 w2", "--max-new-tokens", "2", "-q"];
        match refusal {
            None => drop(done(&args)),
            Some(why) => refused(&args, &[&bundle, "writing text with this model is not supported", why, PREDICT]),
        }
    }
}
