//! Hard prompts through the command line, on language models of the fixtures with a tokenizer of whole words: asked as they are, trained, merged.

use std::path::Path;

use crate::common::{Folder, done, json_of, number, run};
use serde_json::{Value, json};

const WORDS: &str = r#"{"positive": ["good", "great"], "negative": ["bad"]}"#;
const MASKED: &str = "{text} it was [MASK] .";
const CAUSAL: &str = "{text} it was [MASK]";

/// A folder with a model, its tokenizer, and rows of text in which one word tells the label.
fn asked(model: &str) -> Folder {
    let folder = Folder::with(model);
    let named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "great", "bad", "it", "was", ".", "just", "half-good"];
    let vocabulary: serde_json::Map<String, Value> =
        (0..64).map(|id| (named.get(id).map_or_else(|| format!("w{id}"), ToString::to_string), id.into())).collect();
    let mask =
        json!({"id": 4, "content": "[MASK]", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [mask], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    folder.write("tokenizer.json", &tokenizer.to_string());
    folder.write("tokenizer_config.json", &json!({"unk_token": "[UNK]", "pad_token": "[PAD]"}).to_string());
    let row = |n: usize| {
        let (word, label) = if n.is_multiple_of(2) { (20 + n % 3, "positive") } else { (40 + n % 3, "negative") };
        json!({"text": format!("w{} w{word} w{}", 24 + n % 5, 30 + n % 7), "label": label}).to_string() + "\n"
    };
    folder.write("rows.jsonl", &(0..12).map(row).collect::<String>());
    folder
}

#[test]
fn words_are_learnt_and_the_merged_model_knows_them() {
    for (model, template) in
        [("bert_masked/dynamo.onnx", MASKED), ("bert_masked/torchscript.onnx", MASKED), ("llama/torchscript.onnx", CAUSAL)]
    {
        let folder = asked(model);
        let (base, bundle, merged, rows) =
            (folder.path("model.onnx"), folder.path("bundle"), folder.path("merged.onnx"), folder.path("rows.jsonl"));
        let asked = ["--template", template, "--verbalizer", WORDS];
        let zero = json_of(&[&["eval", &base, "--data", &rows][..], &asked].concat());
        assert!(zero["perplexity"].is_null() && zero["labels"] == 12 && zero["template"] == template, "{zero}");
        done(&[&["inject", &base, "--method", "lora", "-o", &bundle][..], &asked].concat());
        let before = json_of(&["eval", &bundle, "--data", &rows]);
        // The graph's loss is over the same words as the one that is computed from all logits.
        assert!((number(&before["loss"]) - number(&zero["loss"])).abs() < 1e-5, "{model}: {before} {zero}");
        assert!(json_of(&["check", &bundle, "--data", &rows]).as_array().is_some_and(|rows| rows.len() > 4), "{model}");
        let options = ["--learning-rate", "0.005", "--lr-scheduler", "constant", "--max-steps", "120", "--batch-size", "6", "--quiet"];
        done(&[&["train", &bundle, "--data", &rows, "--eval-data", &rows][..], &options].concat());
        let after = json_of(&["eval", &bundle, "--data", &rows]);
        assert!(number(&after["loss"]) < 0.5 * number(&before["loss"]) && number(&after["accuracy"]) > 0.9, "{model}: {before} {after}");
        done(&["merge", &bundle, "-o", &merged]);
        let of_merged = json_of(&[&["eval", &merged, "--data", &rows][..], &asked].concat());
        assert!((number(&of_merged["loss"]) - number(&after["loss"])).abs() < 1e-4, "{model}: {after} {of_merged}");
    }
}

#[test]
fn templates_are_compared() {
    let folder = asked("bert_masked/torchscript.onnx");
    let (base, rows) = (folder.path("model.onnx"), folder.path("rows.jsonl"));
    let words = folder.write("words.json", WORDS);
    let asked = ["eval", &base, "--data", &rows, "--verbalizer", &words, "--template", MASKED, "--template", "just [MASK] . {text}"];
    let compared = json_of(&asked);
    let templates = compared["templates"].as_array().expect("one entry a template");
    assert_eq!(templates.iter().map(|one| one["template"].as_str()).collect::<Vec<_>>(), [Some(MASKED), Some("just [MASK] . {text}")]);
    assert!((number(&templates[0]["loss"]) - number(&templates[1]["loss"])).abs() > 1e-6, "the templates differ: {compared}");
    let table = done(&asked);
    assert!(table.starts_with("template") && table.contains("accuracy") && table.contains("just [MASK] . {text}"), "{table}");
    // A bundle that was not made for words is asked through its inference graph.
    let bundle = folder.path("bundle");
    done(&["inject", &base, "--method", "ia3", "-o", &bundle]);
    let asked = ["eval", &bundle, "--data", &rows, "--verbalizer", &words, "--template", MASKED];
    assert!((number(&json_of(&asked)["loss"]) - number(&templates[0]["loss"])).abs() < 1e-5);
}

/// Model, data, template, words, more options; and what is said.
type Case<'a> = (&'a Folder, &'a str, &'a str, &'a str, &'a [&'a str], &'a str);

#[test]
fn what_cannot_be_asked_is_said() {
    let folder = asked("bert_masked/torchscript.onnx");
    let causal = asked("llama/torchscript.onnx");
    let strange = folder.write("strange.jsonl", "{\"text\": \"w20\", \"label\": \"mixed\"}\n");
    let long = folder.write("long.jsonl", &format!("{{\"text\": \"{}\", \"label\": \"negative\"}}\n", "w20 ".repeat(80)));
    let endless = format!("{{text}} {} [MASK]", "it was ".repeat(40));
    let (rows, verbalizer) = (folder.path("rows.jsonl"), |words: &str| format!(r#"{{"positive": {words}, "negative": ["bad"]}}"#));
    let unknown = verbalizer(r#"["superb"]"#);
    let several = verbalizer(r#"["good great"]"#);
    let twice = verbalizer(r#"["bad"]"#);
    let cases: [Case<'_>; 10] = [
        (&folder, &rows, "{text} it was good .", WORDS, &[], "has no [MASK]"),
        (&folder, &rows, "{title} it was [MASK] .", WORDS, &[], "expected title, which the template shows"),
        (&folder, &rows, MASKED, &unknown, &[], "the tokenizer does not know the label word \"superb\""),
        (&folder, &rows, MASKED, &several, &[], "tokens of the label word \"good great\": expected 1, found 2 (good great)"),
        (&folder, &rows, MASKED, &twice, &[], "the label word \"bad\" is there twice"),
        (&folder, &rows, MASKED, "{", &[], "not a verbalizer"),
        (&folder, &strange, MASKED, WORDS, &[], "line 1: label: expected one of positive, negative, found mixed"),
        (&folder, &long, MASKED, WORDS, &[], "hint: `--max-length 64` cuts longer rows"),
        (&folder, &rows, &endless, WORDS, &["--max-length", "64"], "tokens of the template alone: expected at most 64"),
        (&causal, &rows, MASKED, WORDS, &[], "end the template with [MASK]"),
    ];
    for (folder, data, template, words, more, expected) in cases {
        let model = folder.path("model.onnx");
        let args = ["eval", &model, "--data", data, "--template", template, "--verbalizer", words];
        let (success, _, stderr) = run(&[&args[..], more].concat());
        assert!(!success && stderr.contains(expected), "{template} {words}: {stderr}");
    }
    let model = folder.path("model.onnx");
    let cut = ["eval", &model, "--data", &long, "--template", MASKED, "--verbalizer", WORDS, "--max-length", "20"];
    assert_eq!(json_of(&cut)["tokens"], 20, "the text is cut, the template is not");
    assert!(Path::new(&model).exists());
}
