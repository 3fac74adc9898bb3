use serde_json::json;

use super::*;

static PLAIN: std::sync::OnceLock<LossPlan> = std::sync::OnceLock::new();

/// A base's folder with a configuration and a tokenizer.
fn base(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("the file is written");
    write("model.onnx", "");
    write("config.json", &config.to_string());
    write("tokenizer.json", "{}");
    write("tokenizer_config.json", "{}");
    write("generation_config.json", "{\"do_sample\": true, \"top_k\": 7}");
    write("pytorch_model.bin", "weights");
    folder
}

fn port(name: &str, shape: &[Value]) -> Port {
    Port { name: name.to_owned(), role: crate::contract::PortRole::Data, dtype: "float32".to_owned(), shape: shape.to_vec() }
}

/// A language model as it is.
fn plain<'a>() -> Source<'a> {
    Source {
        base: Path::new(""),
        tokenizer: None,
        task: Task::CausalLm,
        loss: PLAIN.get_or_init(LossPlan::default),
        has_new_head: false,
        class_names: &[],
        classes: None,
        inputs: &[],
        outputs: &[],
    }
}

/// A folder made of the model in another one.
fn completed(folder: &tempfile::TempDir, layout: Layout, source: Source<'_>) -> Result<(tempfile::TempDir, Placed)> {
    let (into, model) = (tempfile::tempdir()?, folder.path().join("model.onnx"));
    let placed = complete(into.path(), layout, &Source { base: &model, ..source })?;
    Ok((into, placed))
}

fn json_of(folder: &tempfile::TempDir, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path().join(name)).expect("it was written")).expect("JSON")
}

#[test]
fn layouts_have_the_names_that_people_type() {
    for name in ["transformers.js", "transformersjs", "transformers-js", "Transformers_JS"] {
        assert_eq!(name.parse::<Layout>().ok(), Some(Layout::TransformersJs), "{name}");
    }
    for (layout, name) in NAMES {
        assert_eq!((layout.to_string().as_str(), name.parse::<Layout>().ok()), (name, Some(layout)));
    }
    assert!("openvino".parse::<Layout>().unwrap_err().hint().is_some_and(|hint| hint.contains("onnx, optimum, transformers.js, genai")));
}

#[test]
fn the_layout_is_that_of_the_bases_folder() {
    let folder = base(&json!({}));
    let model = folder.path().join("model.onnx");
    assert_eq!(Layout::around(&model), Layout::Optimum);
    std::fs::create_dir(folder.path().join("onnx")).expect("a folder");
    assert_eq!(Layout::around(&folder.path().join("onnx/model.onnx")), Layout::TransformersJs);
    std::fs::write(folder.path().join("genai_config.json"), "{}").expect("a file");
    assert_eq!(Layout::around(&model), Layout::Genai);
    let bare = tempfile::tempdir().expect("a folder");
    assert_eq!(Layout::around(&bare.path().join("model.onnx")), Layout::Onnx);
}

#[test]
fn a_classifiers_configuration_has_the_names_of_the_data() -> Result<()> {
    let config = json!({"architectures": ["BertModel"], "model_type": "bert", "id2label": {"0": "LABEL_0"}, "hidden_size": 8});
    let names = ["billing".to_owned(), "bug".to_owned()];
    let (folder, placed) = completed(
        &base(&config),
        Layout::Optimum,
        Source { task: Task::SeqCls, has_new_head: true, class_names: &names, classes: Some(3), ..plain() },
    )?;
    let found = json_of(&folder, "config.json");
    assert_eq!(found["id2label"], json!({"0": "billing", "1": "bug", "2": "LABEL_2"}));
    assert_eq!(found["label2id"], json!({"billing": 0, "bug": 1, "LABEL_2": 2}));
    assert_eq!((&found["num_labels"], &found["problem_type"]), (&json!(3), &json!("single_label_classification")));
    assert_eq!((&found["architectures"], &found["hidden_size"]), (&json!(["BertForSequenceClassification"]), &json!(8)));
    assert_eq!(placed.files, ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]);
    assert!(placed.missing.is_empty(), "{placed:?}");
    Ok(())
}

#[test]
fn a_head_of_the_base_keeps_its_class_and_names_that_nobody_changed() -> Result<()> {
    let config =
        json!({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}});
    let (folder, _) = completed(&base(&config), Layout::Optimum, Source { task: Task::SeqCls, classes: Some(2), ..plain() })?;
    assert_eq!(json_of(&folder, "config.json"), config);
    Ok(())
}

#[test]
fn an_architecture_of_another_form_is_left_out() -> Result<()> {
    let config = json!({"architectures": ["SomethingElse"], "model_type": "odd"});
    let (folder, _) =
        completed(&base(&config), Layout::Optimum, Source { task: Task::TokenCls, has_new_head: true, classes: Some(2), ..plain() })?;
    let found = json_of(&folder, "config.json");
    assert_eq!((found.get("architectures"), &found["model_type"]), (None, &json!("odd")));
    Ok(())
}

#[test]
fn transformers_js_is_told_which_file_and_where_its_weights_are() -> Result<()> {
    let folder =
        base(&json!({"model_type": "llama", "transformers.js_config": {"dtype": "q4", "use_external_data_format": true, "other": 1}}));
    let (into, _) = completed(&folder, Layout::TransformersJs, plain())?;
    assert_eq!(json_of(&into, "config.json")["transformers.js_config"], json!({"dtype": "fp32", "other": 1}));
    Ok(())
}

#[test]
fn sentence_transformers_finds_its_modules_and_a_classifier_of_sentences_has_none() -> Result<()> {
    let folder = base(&json!({"architectures": ["BertModel"]}));
    let modules = json!([{"path": "", "type": "Transformer"}, {"path": "1_Pooling", "type": "Pooling"}, {"path": "2_Normalize", "type": "Normalize"}]);
    std::fs::write(folder.path().join("modules.json"), modules.to_string())?;
    std::fs::create_dir(folder.path().join("1_Pooling"))?;
    std::fs::write(folder.path().join("1_Pooling/config.json"), "{}")?;
    for (task, has_new_head, expected) in [(Task::Embedding, false, true), (Task::SeqCls, true, false)] {
        let (into, _) = completed(&folder, Layout::Optimum, Source { task, has_new_head, classes: Some(2), ..plain() })?;
        assert_eq!(into.path().join("modules.json").is_file(), expected, "{task}");
        assert_eq!(into.path().join("1_Pooling/config.json").is_file(), expected, "{task}");
    }
    let all = names(&folder.path().join("model.onnx"))?;
    assert!(all.contains(&"1_Pooling".to_owned()) && all.contains(&"2_Normalize".to_owned()));
    Ok(())
}

#[test]
fn genai_is_told_the_cache_the_sizes_and_the_tokens() -> Result<()> {
    let config = json!({"model_type": "llama", "max_position_embeddings": 64, "num_attention_heads": 4, "hidden_size": 32, "vocab_size": 50,
        "bos_token_id": 1, "eos_token_id": [2, 3]});
    let folder = base(&config);
    let free = |name: &str| Value::from(name);
    let shape = [free("batch"), 2.into(), free("past"), 8.into()];
    let names = |what: &str| (0..3).flat_map(|layer| ["key", "value"].map(|part| format!("{what}.{layer}.{part}"))).collect::<Vec<_>>();
    let inputs: Vec<Port> = ["input_ids", "attention_mask"]
        .map(ToOwned::to_owned)
        .iter()
        .chain(&names("past_key_values"))
        .map(|name| port(name, &shape))
        .collect();
    let outputs: Vec<Port> = names("present").iter().map(|name| port(name, &shape)).collect();
    let (into, _) = completed(&folder, Layout::Genai, Source { inputs: &inputs, outputs: &outputs, ..plain() })?;
    let found = json_of(&into, "genai_config.json");
    let decoder = &found["model"]["decoder"];
    assert_eq!(decoder["inputs"]["past_value_names"], "past_key_values.%d.value");
    assert_eq!(decoder["outputs"]["present_key_names"], "present.%d.key");
    assert_eq!((&decoder["inputs"]["attention_mask"], decoder["inputs"].get("position_ids")), (&json!("attention_mask"), None));
    let sizes =
        ["num_hidden_layers", "num_key_value_heads", "head_size", "num_attention_heads", "hidden_size"].map(|name| decoder[name].clone());
    assert_eq!(sizes, [3, 2, 8, 4, 32].map(Value::from));
    assert_eq!((&found["model"]["eos_token_id"], &found["model"]["pad_token_id"]), (&json!([2, 3]), &json!(2)));
    assert_eq!((&found["search"]["top_k"], &found["search"]["max_length"]), (&json!(7), &json!(64)));
    let refused = completed(&folder, Layout::Genai, plain()).expect_err("no cache");
    assert!(refused.hint().is_some_and(|hint| hint.contains("text-generation-with-past")), "{refused}");
    Ok(())
}

#[test]
fn a_genai_configuration_that_is_there_gets_the_new_file() -> Result<()> {
    let folder = base(&json!({}));
    std::fs::write(
        folder.path().join("genai_config.json"),
        r#"{"model": {"decoder": {"filename": "phi.onnx", "head_size": 4}}, "search": {}}"#,
    )?;
    let (into, _) = completed(&folder, Layout::Genai, plain())?;
    assert_eq!(json_of(&into, "genai_config.json")["model"]["decoder"], json!({"filename": "model.onnx", "head_size": 4}));
    Ok(())
}

#[test]
fn what_is_not_beside_the_base_is_told() -> Result<()> {
    let bare = tempfile::tempdir()?;
    std::fs::write(bare.path().join("model.onnx"), "")?;
    let (_, placed) = completed(&bare, Layout::Optimum, plain())?;
    assert!(placed.missing.len() == 2 && placed.missing[1].contains("config.json"), "{placed:?}");
    let other = base(&json!({}));
    let (into, placed) = completed(&bare, Layout::Onnx, Source { tokenizer: Some(other.path()), ..plain() })?;
    assert!(into.path().join("tokenizer.json").is_file() && placed.missing.is_empty());
    Ok(())
}

#[test]
fn states_of_sentence_transformers_exports_have_the_name_that_optimum_reads() {
    let width = || [json!("batch"), json!("sequence"), json!(8)];
    let exported = [port("token_embeddings", &width()), port("sentence_embedding", &width()[1..])];
    let named = [port("last_hidden_state", &width()), exported[1].clone()];
    let found = |layout, source: Source<'_>| source.renamed(layout).map(|(own, other)| (own.to_owned(), other.to_owned()));
    let embedding = Source { task: Task::Embedding, outputs: &exported, ..plain() };
    let expected = Some(("token_embeddings".to_owned(), "last_hidden_state".to_owned()));
    assert_eq!([Layout::Optimum, Layout::TransformersJs].map(|layout| found(layout, embedding)), [expected.clone(), expected]);
    assert_eq!([Layout::Onnx, Layout::Genai].map(|layout| found(layout, embedding)), [None, None]);
    assert_eq!(found(Layout::Optimum, Source { outputs: &named, ..embedding }), None);
    assert_eq!(found(Layout::Optimum, Source { task: Task::CausalLm, ..embedding }), None);
}
