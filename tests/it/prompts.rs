//! Prompts in front of the texts of a column: by its role, or by a name that people give a column of that role.

use serde_json::json;

use crate::common::{Folder, done, json_of, number, refused};
use crate::tasks::{tokenizer, words};

#[test]
fn a_prompt_is_followed_under_every_name_of_its_column_and_refused_under_no_columns_name() {
    let folder = Folder::with("bert_encoder/dynamo.onnx");
    folder.write("tokenizer.json", &tokenizer());
    let rows = (0..4).map(|at| json!({"query": words(at), "document": words(at + 100)}).to_string() + "\n");
    let data = folder.write("rows.jsonl", &rows.collect::<String>());
    let model = folder.path("model.onnx");
    let inject = |bundle: &str, prompts: &[&str]| {
        let mut args = vec!["inject", &model, "--method", "lora", "--task", "embedding", "--pooling", "mean", "-o", bundle, "-q"];
        args.extend(prompts.iter().flat_map(|prompt| ["--prompt", prompt]));
        done(&args);
        number(&json_of(&["eval", bundle, "--data", &data])["metrics"]["loss"])
    };
    let loss = |name: &str, prompts: &[&str]| inject(&folder.path(name), prompts);
    let (none, by_role) = (loss("none", &[]), loss("role", &["anchor=w1 w2 ", "positive=w3 "]));
    assert!((none - by_role).abs() > 1e-4, "prompts change what is learnt: {none}, {by_role}");
    for (name, prompts) in [("names", ["query=w1 w2 ", "document=w3 "]), ("mixed", ["Question=w1 w2 ", "positive=w3 "])] {
        let found = loss(name, &prompts);
        assert!((found - by_role).abs() < 1e-9, "{prompts:?}: {found}, by role {by_role}");
    }
    let bad = folder.path("bad");
    let with = |prompts: &[&'static str]| {
        let args = ["inject", &model, "--method", "lora", "--task", "embedding", "--pooling", "mean", "-o", &bad].map(str::to_owned);
        let prompts = prompts.iter().flat_map(|prompt| ["--prompt".to_owned(), (*prompt).to_owned()]);
        args.into_iter().chain(prompts).collect::<Vec<String>>()
    };
    let pooled = json!([{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]);
    folder.write("modules.json", &pooled.to_string());
    std::fs::create_dir(folder.path("1_Pooling")).expect("a folder");
    folder.write("1_Pooling/config.json", &json!({"pooling_mode_mean_tokens": true, "include_prompt": false}).to_string());
    for (prompts, expected) in [
        (&["anchor=w1 "][..], &["include_prompt of 1_Pooling/config.json"][..]),
        (&["headline=w1 "], &["no column of texts named", "headline", "anchor, positive"]),
        (&["query=w1 ", "anchor=w2 "], &["the prompts of query and anchor are both for the texts of anchor"]),
    ] {
        refused(&with(prompts).iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }
}
