//! `serve`: requests for different adapters in one batch, each answered as it is alone; and what is refused when there is too much to do.

use serde_json::{Value, json};

use crate::common::{Folder, number};
use crate::serve::{Server, TEXT, generated, greedy, injected, near, predicted, put, writer};
use crate::tasks::tokenizer;

/// Answers to requests that are sent at the same time, in their order.
fn at_once(server: &Server, path: &str, bodies: &[Value]) -> Vec<Value> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = bodies.iter().map(|body| scope.spawn(move || server.answer(path, body))).collect();
        asked.into_iter().map(|asked| asked.join().expect("it is answered")).collect()
    })
}

/// Adapters of several kinds: ranks, scales, modules, a magnitude.
const KINDS: [(&str, &[&str]); 3] = [
    ("a", &["--rank", "4", "--seed", "1", "--alpha", "64"]),
    ("b", &["--rank", "2", "--seed", "2", "--alpha", "32", "--use-dora", "--target-modules", "q_proj,down_proj"]),
    ("c", &["--rank", "8", "--seed", "3", "--alpha", "96", "--use-rslora", "--target-modules", "all-linear"]),
];

#[test]
fn texts_with_different_adapters_are_written_in_one_run_and_each_is_what_it_is_alone() {
    for export in ["llama/optimum_cache.onnx", "llama/optimum_merged.onnx", "llama/dynamo.onnx", "gpt2/torchscript.onnx"] {
        let folder = writer(export);
        let model = folder.path("model.onnx");
        let is_gpt2 = export.starts_with("gpt2");
        let kinds = KINDS.map(|(name, options)| {
            let options: Vec<&str> = options.iter().map(|&o| if is_gpt2 && o.contains("q_proj") { "c_attn,c_proj" } else { o }).collect();
            (name, injected(&folder, name, &options))
        });
        for (name, bundle) in &kinds {
            put(&folder, bundle, name);
        }
        let svd = folder.path("svd");
        crate::common::done(&["inject", &model, "--method", "adalora", "--set", "init_lora_weights=false", "-o", &svd, "-q"]);
        put(&folder, &svd, "svd");
        let server = Server::of(&[&model, "--name", "base", "--adapters", &folder.path("adapters"), "-v", "--batch-wait", "700"]);
        let prompts = ["w1 w2", "w3 w4 w5 w6", "w7", "w8 w9 w10", "w13 w14"];
        let names = ["base", "a", "b", "c", "svd"];
        let mut bodies: Vec<Value> = names.iter().zip(prompts).map(|(name, prompt)| greedy(name, prompt)).collect();
        bodies.push(greedy("a", "w11 w12"));
        // The first request waits until its adapter is read, and the others with it.
        let found = at_once(&server, TEXT, &bodies);
        for (body, found) in bodies.iter().zip(&found) {
            let name = body["model"].as_str().expect("a name");
            let others = [("base", &model), ("svd", &svd)];
            let all = kinds.iter().map(|(kind, bundle)| (*kind, bundle)).chain(others);
            let bundle = { all }.find(|(kind, _)| *kind == name).expect("it was put there").1;
            let alone = generated(bundle, &folder, body["prompt"].as_str().expect("a text"), &[]);
            assert_eq!(found["choices"][0]["text"], json!(alone), "{export}: {name}");
        }
        let said = server.said();
        assert!(said.contains("6 texts in one run"), "{export}: {said}");
    }
}

#[test]
fn a_text_keeps_its_adapter_and_others_join_and_leave_on_the_way() {
    let folder = writer("llama/optimum_cache.onnx");
    let model = folder.path("model.onnx");
    let [a, d] = [("a", ["--seed", "1"]), ("d", ["--seed", "4"])]
        .map(|(name, seed)| injected(&folder, name, &[&seed[..], &["--alpha", "64"]].concat()));
    put(&folder, &a, "a");
    let server = Server::of(&[&model, "--name", "base", "--adapters", &folder.path("adapters"), "-v", "--batch-wait", "700"]);
    let long = |name: &str, tokens: usize| json!({"model": name, "prompt": "w1 w2", "temperature": 0, "max_tokens": tokens});
    let alone = |bundle: &str, tokens: &str| {
        let tokenizer = folder.path("tokenizer.json");
        let args = ["generate", bundle, "--tokenizer", &tokenizer, "--prompt", "w1 w2", "--max-new-tokens", tokens, "--threads", "1"];
        crate::common::json_of(&args)[0]["completion"].clone()
    };
    for round in 0..2 {
        let bodies: Vec<Value> = [("a", 40), ("base", 3), ("a", 11), ("base", 40)].map(|(name, tokens)| long(name, tokens)).to_vec();
        let found = at_once(&server, TEXT, &bodies);
        let (one, tokens) = if round == 0 { (&a, ["40", "3", "11", "40"]) } else { (&d, ["40", "3", "11", "40"]) };
        let bundles = [one, &model, one, &model];
        for ((found, bundle), tokens) in found.iter().zip(bundles).zip(tokens) {
            assert_eq!(found["choices"][0]["text"], alone(bundle, tokens), "{round}: {bundle} {tokens}");
        }
        // Another adapter under the same name: the session stays.
        put(&folder, &d, "a");
    }
    assert!(server.said().contains("texts in one run"));
}

#[test]
fn vectors_and_classes_with_different_adapters_are_one_batch() {
    let texts = ["w1 w2", "w3", "w4 w5 w6"];
    let folder = Folder::with("bert_encoder/dynamo.onnx");
    folder.write("tokenizer.json", &tokenizer());
    let (model, tokens, adapters) = (folder.path("model.onnx"), folder.path("tokenizer.json"), folder.path("adapters"));
    let kinds = [
        ("a", &["--rank", "4", "--seed", "1", "--alpha", "64"][..]),
        ("b", &["--rank", "2", "--seed", "2", "--alpha", "32", "--use-dora", "--target-modules", "query,dense"]),
        ("c", &["--rank", "8", "--seed", "3", "--alpha", "96", "--bias", "lora_only", "--target-modules", "value"]),
    ];
    let vectors =
        kinds.map(|(name, options)| (name, injected(&folder, &format!("{name}.vectors"), &[options, &["--task", "embedding"]].concat())));
    for (name, bundle) in &vectors {
        put(&folder, bundle, name);
    }
    let base = folder.path("base.vectors");
    let server = Server::of(&[
        &model,
        "--task",
        "embedding",
        "--name",
        "base",
        "--adapters",
        &adapters,
        "--tokenizer",
        &tokens,
        "-v",
        "--batch-wait",
        "700",
    ]);
    let bodies: Vec<Value> = ["base", "a", "b", "c"].iter().map(|name| json!({"model": name, "input": texts})).collect();
    let found = at_once(&server, "/v1/embeddings", &bodies);
    let alone: Vec<&str> = std::iter::once(base.as_str()).chain(vectors.iter().map(|(_, bundle)| bundle.as_str())).collect();
    // A fresh LoRA is the base.
    crate::common::done(&["inject", &model, "--method", "lora", "--task", "embedding", "-o", &base, "-q"]);
    for (found, bundle) in found.iter().zip(alone) {
        for (at, row) in predicted(&folder, bundle, &texts).iter().enumerate() {
            assert!(near(&found["data"][at]["embedding"], &row["vector"]), "{bundle} {at}");
        }
    }
    let said = server.said();
    assert!(said.contains("12 rows of 4 requests in one batch"), "{said}");

    // Classifiers, each with a head of its own; what is served is an adapter, too.
    std::fs::remove_dir_all(&adapters).expect("it is there");
    let classes = ["--task", "seq-cls", "--num-labels", "3"];
    let kinds = kinds.map(|(name, options)| (name, injected(&folder, &format!("{name}.classes"), &[options, &classes].concat())));
    for (name, bundle) in &kinds[1..] {
        put(&folder, bundle, name);
    }
    let server = Server::of(&[&kinds[0].1, "--name", "a", "--adapters", &adapters, "--tokenizer", &tokens, "-v", "--batch-wait", "700"]);
    let bodies: Vec<Value> = kinds.iter().map(|(name, _)| json!({"model": name, "input": texts})).collect();
    for (found, (name, bundle)) in at_once(&server, "/classify", &bodies).iter().zip(&kinds) {
        for (at, row) in predicted(&folder, bundle, &texts).iter().enumerate() {
            assert_eq!(found["data"][at]["label"], row["prediction"], "{name} {at}");
            assert!((number(&found["data"][at]["probability"]) - number(&row["probability"])).abs() < 1e-5, "{name} {at}");
        }
    }
    let said = server.said();
    assert!(said.contains("9 rows of 3 requests in one batch"), "{said}");
}

#[test]
fn what_is_no_update_of_low_rank_is_answered_in_batches_of_its_own() {
    let folder = writer("llama/optimum_cache.onnx");
    let model = folder.path("model.onnx");
    let prompt = folder.path("prompt");
    crate::common::done(&["inject", &model, "--method", "prompt_tuning", "--num-virtual-tokens", "4", "-o", &prompt, "-q"]);
    let lora = injected(&folder, "lora", &["--alpha", "64"]);
    put(&folder, &prompt, "prompt");
    put(&folder, &lora, "lora");
    let server = Server::of(&[&model, "--name", "base", "--adapters", &folder.path("adapters"), "-v", "--batch-wait", "700"]);
    let bodies: Vec<Value> =
        ["prompt", "lora", "prompt", "base"].iter().zip(["w1 w2", "w3", "w4 w5", "w6"]).map(|(name, text)| greedy(name, text)).collect();
    let found = at_once(&server, TEXT, &bodies);
    for ((body, found), bundle) in bodies.iter().zip(&found).zip([&prompt, &lora, &prompt, &model]) {
        let alone = generated(bundle, &folder, body["prompt"].as_str().expect("a text"), &[]);
        assert_eq!(found["choices"][0]["text"], json!(alone), "{bundle}");
    }
    assert!(server.said().contains("is computed in batches of its own"));
}

#[test]
fn too_many_requests_and_requests_that_take_too_long_are_refused() {
    let folder = writer("llama/optimum_cache.onnx");
    let model = folder.path("model.onnx");
    put(&folder, &injected(&folder, "a", &[]), "a");
    let limits = ["--max-requests", "1", "--timeout", "1", "--max-tokens", "100000"];
    let server = Server::of(&[&[model.as_str(), "--name", "base", "--adapters", &folder.path("adapters")][..], &limits].concat());
    let forever = json!({"model": "base", "prompt": "w1 w2", "temperature": 0, "max_tokens": 100_000});
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.ask(TEXT, &forever));
        std::thread::sleep(std::time::Duration::from_millis(300));
        let (status, answer) = server.ask(TEXT, &greedy("base", "w1"));
        assert_eq!(
            (status, &answer["error"]["type"], &answer["error"]["code"]),
            (429, &json!("rate_limit_error"), &json!("rate_limit_exceeded"))
        );
        let (status, answer) = first.join().expect("it is answered");
        assert_eq!((status, &answer["error"]["code"]), (504, &json!("timeout")), "{answer}");
    });
    // What was given up makes room.
    assert_eq!(server.ask(TEXT, &greedy("base", "w1")).0, 200);
}
