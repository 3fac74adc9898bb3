use std::collections::BTreeSet;

use super::*;
use crate::adapter::config::settings::Settings;
use crate::adapter::params::key::Part;

#[test]
fn every_row_has_names_of_its_own_and_reads_what_it_writes() -> Result<()> {
    let mut seen = BTreeSet::new();
    for row in METHODS {
        for name in [row.name].iter().chain(row.aliases).chain(row.variants) {
            assert!(seen.insert(*name), "{name} is two methods'");
        }
        let mut options = Options { name: row.name.to_owned(), trainable_token_indices: vec![1], ..Options::default() };
        options.scope.modules_to_save = vec!["classifier".to_owned()];
        let method = configure(&options)?;
        assert_eq!((method.name(), method.family()), (row.name, row.family));
        let mut settings = Settings::default();
        settings.put("peft_type", row.peft_type);
        method.write(&mut settings);
        let fields = crate::adapter::config::fields::Fields::new(&settings.0);
        let peft_type = fields.text("peft_type")?.expect("it was put there");
        let read = (of_peft_type(peft_type)?.read)(&fields)?;
        assert_eq!((read.name(), fields.unread()), (row.name, vec![]), "{:?}", settings.0);
    }
    assert!(of_peft_type("POLY").is_err() && named("poly").is_none());
    Ok(())
}

#[test]
fn every_tensor_is_written_and_read() {
    for row in METHODS {
        for part in row.tensors.parts {
            let written = Key::module("model.layers.0.self_attn.q_proj", *part);
            assert_eq!(key(&written.to_string(), Family::Tuner), Some(written), "{}", row.name);
        }
    }
}

#[test]
fn names_as_peft_writes_them() {
    let module = |module: &str, part| Key::module(module, part);
    let parameter = |name: &str| Key::Parameter { name: name.to_owned() };
    let rows = [
        (Family::Tuner, "base_model.model.h.0.c_attn.lora_A.weight", module("h.0.c_attn", lora::LORA_A)),
        (Family::Tuner, "base_model.model.h.0.c_attn.lora_B.bias", module("h.0.c_attn", lora::LORA_B_BIAS)),
        (Family::Tuner, "base_model.model.h.0.c_attn.lora_A", module("h.0.c_attn", Part::new("lora_A", ""))),
        (Family::Tuner, "base_model.model.wte.lora_embedding_B", module("wte", lora::EMBEDDING_B)),
        (Family::Tuner, "base_model.model.q.lora_magnitude_vector", module("q", lora::MAGNITUDE)),
        (Family::Tuner, "base_model.model.query.base_layer.bias", module("query", Part::BASE_BIAS)),
        (
            Family::Tuner,
            "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            module("embed_tokens", trainable_tokens::TOKEN_DELTA),
        ),
        (
            Family::Tuner,
            "base_model.model.embed_tokens.trainable_tokens_delta",
            module("embed_tokens", Part::new("trainable_tokens_delta", "")),
        ),
        (Family::Tuner, "base_model.model.k_proj.ia3_l", module("k_proj", Part::new("ia3_l", ""))),
        (Family::Tuner, "base_model.model.q.lokr_w1_a", module("q", Part::new("lokr_w1_a", ""))),
        (Family::Tuner, "base_model.model.norm.ln_tuning_layers.weight", module("norm", Part::new("ln_tuning_layers", "weight"))),
        (Family::Tuner, "base_model.model.classifier.weight", parameter("classifier.weight")),
        (Family::Tuner, "base_model.model.encoder.layer.0.output.dense.bias", parameter("encoder.layer.0.output.dense.bias")),
        (Family::Tuner, "base_model.vera_A", Key::Shared("base_model.vera_A")),
        (Family::Prompt, "prompt_embeddings", Key::Prompt),
        (Family::Prompt, "base_model.classifier.bias", Key::PromptParameter { name: "classifier.bias".into() }),
        (Family::Prompt, "base_model.model.norm.weight", Key::PromptParameter { name: "model.norm.weight".into() }),
        (Family::Prompt, "prompt_encoder.transform.0.weight", Key::Encoder { name: "transform.0.weight".into() }),
    ];
    for (family, text, wanted) in rows {
        assert_eq!(key(text, family).as_ref(), Some(&wanted), "{text}");
        assert_eq!(wanted.to_string(), text);
    }
}

#[test]
fn names_in_a_dump_of_the_model_have_an_adapter_inside() {
    let rows = [
        ("base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_A.weight"),
        ("base_model.model.q.lora_B.my_adapter.bias", "base_model.model.q.lora_B.bias"),
        ("base_model.model.q.lora_magnitude_vector.default.weight", "base_model.model.q.lora_magnitude_vector"),
        ("base_model.model.q.lora_magnitude_vector.weight", "base_model.model.q.lora_magnitude_vector"),
        ("base_model.model.wte.lora_embedding_A.default", "base_model.model.wte.lora_embedding_A"),
        ("base_model.model.k.ia3_l.default", "base_model.model.k.ia3_l"),
        ("base_model.model.classifier.modules_to_save.default.weight", "base_model.model.classifier.weight"),
        ("base_model.model.classifier.modules_to_save.weight", "base_model.model.classifier.weight"),
        ("base_model.vera_B.default", "base_model.vera_B"),
    ];
    for (dumped, written) in rows {
        assert_eq!(key(dumped, Family::Tuner).map(|key| key.to_string()).as_deref(), Some(written), "{dumped}");
    }
}

#[test]
fn other_names_are_not_keys() {
    for text in ["", "lora_A.weight", "model.layers.0.q_proj.lora_A.weight", "base_model", "prompt_embedding"] {
        assert_eq!(key(text, Family::Tuner), None, "{text}");
    }
}

/// The page of all methods has a line for each, with its default rate and a link to its own page.
#[test]
fn the_documentation_has_every_method() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/methods");
    let table = std::fs::read_to_string(docs.join("README.md")).expect("docs/methods/README.md");
    for row in METHODS {
        let line = table.lines().find(|line| line.starts_with(&format!("| `{}` |", row.name)));
        let line = line.unwrap_or_else(|| panic!("docs/methods/README.md has no line `{}`", row.name));
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.get(3), Some(&format!("{:e}", row.learning_rate).as_str()), "default learning rate of {}", row.name);
        assert!(line.contains(&format!("]({})", row.page)) && docs.join(row.page).exists(), "page of {}: {}", row.name, row.page);
    }
}

/// From outside a method is known by its row alone.
#[test]
fn a_method_of_ones_own_is_known_once_it_is_registered() -> Result<()> {
    static OWN_ROW: Row = Row { name: "own", peft_type: "OWN", tensors: Tensors { parts: &[OWN_PART], shared: &[] }, ..PLAIN };
    static TAKEN: Row = Row { name: "rslora", peft_type: "OTHER", ..PLAIN };
    const OWN_PART: Part = Part::new("own_block", "");
    const PLAIN: Row = Row {
        name: "",
        aliases: &[],
        variants: &[],
        about: "",
        peft_type: "",
        learning_rate: 1e-3,
        family: Family::Tuner,
        tensors: Tensors { parts: &[], shared: &[] },
        adapter_file: "",
        page: "",
        read: |_| Err(Error::invalid("not read")),
        configure: |_| Err(Error::invalid("not configured")),
    };
    let written = Key::module("h.0.q", OWN_PART);
    assert!(named("own").is_none() && key(&written.to_string(), Family::Tuner) != Some(written.clone()));
    register(&OWN_ROW)?;
    register(&OWN_ROW)?;
    assert_eq!(of_peft_type("own")?.name, "own");
    assert_eq!(key(&written.to_string(), Family::Tuner), Some(written));
    assert!(register(&TAKEN).is_err(), "the name is a kind of LoRA's");
    Ok(())
}
