mod peft_settings;

use std::collections::BTreeSet;

use super::*;
use crate::adapter::config::options::PromptStart;
use crate::adapter::config::settings::Settings;
use crate::adapter::config::{Bias, Reparameterization, Selection, Targets};
use crate::adapter::params::key::KeyPart;

#[test]
fn every_row_has_names_of_its_own_and_reads_what_it_writes() -> Result<()> {
    let mut seen = BTreeSet::new();
    for row in METHODS {
        for name in [row.name].iter().chain(row.aliases).chain(row.variants) {
            assert!(seen.insert(*name), "{name} is two methods'");
        }
        let method = configure(&asked(row))?;
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

/// What a user says at least of a method.
fn asked(row: &Row) -> Options {
    let mut options = Options { name: row.name.to_owned(), ..Options::default() };
    match row.name {
        "trainable_tokens" => options.trainable_token_indices = vec![1],
        "head" => options.scope.modules_to_save = vec!["classifier".to_owned()],
        _ => {}
    }
    options
}

/// Says an option, in a way that is no method's default.
type Say = fn(&mut Options);

/// Every option, said.
static SAID: &[(&str, Say)] = &[
    ("target_modules", |options| options.scope.targets = Targets::Only(Selection::from_text("q_proj"))),
    ("exclude_modules", |options| options.scope.exclude = Some(Selection::from_text("v_proj"))),
    ("layers_to_transform", |options| options.scope.layers_to_transform = vec![1]),
    ("layers_pattern", |options| {
        options.scope.layers_to_transform = vec![1];
        options.scope.layers_pattern = vec!["h".to_owned()];
    }),
    ("modules_to_save", |options| options.scope.modules_to_save = vec!["score".to_owned()]),
    ("rank", |options| options.rank = Some(2)),
    ("alpha", |options| options.alpha = Some(3.0)),
    ("dropout", |options| options.dropout = Some(0.25)),
    ("allocate_ranks", |options| {
        options.allocate_ranks = true;
        options.settings.insert("total_step".to_owned(), 500.into());
    }),
    ("rank_pattern", |options| _ = options.rank_pattern.insert("q_proj".to_owned(), 2)),
    ("alpha_pattern", |options| _ = options.alpha_pattern.insert("q_proj".to_owned(), 2.0)),
    ("use_rslora", |options| options.use_rslora = true),
    ("use_dora", |options| options.use_dora = true),
    ("bias", |options| options.bias = Bias::All),
    ("init_lora_weights", |options| options.init_lora_weights = Some("gaussian".to_owned())),
    ("trainable_token_indices", |options| options.trainable_token_indices = vec![5]),
    ("feedforward_modules", |options| options.feedforward = Some(Selection::from_text("fc2"))),
    ("num_virtual_tokens", |options| options.num_virtual_tokens = Some(3)),
    ("prefix_projection", |options| options.prefix_projection = true),
    ("encoder_hidden_size", |options| options.encoder_hidden_size = Some(7)),
    ("encoder_reparameterization_type", |options| options.reparameterization = Some(Reparameterization::Lstm)),
    ("encoder_num_layers", |options| {
        options.reparameterization = Some(Reparameterization::Lstm);
        options.encoder_num_layers = Some(3);
    }),
    ("prompt_init", |options| {
        options.prompt_init = Some(PromptStart::Text);
        options.prompt_init_text = Some("Answer:".to_owned());
    }),
    ("prompt_init_text", |options| options.prompt_init_text = Some("Answer:".to_owned())),
];

#[test]
fn a_method_heeds_the_options_of_its_row_and_refuses_all_others() -> Result<()> {
    assert!(options::TABLE.iter().map(|(name, _)| name).eq(SAID.iter().map(|(name, _)| name)), "an option is said nowhere");
    for row in METHODS {
        let plain = configure(&asked(row))?;
        assert!(row.takes.concat().iter().all(|taken| SAID.iter().any(|(name, _)| name == taken)), "{}", row.name);
        for (name, say) in SAID {
            let mut options = asked(row);
            say(&mut options);
            match configure(&options) {
                // A prefix that a network computes says so by its name already.
                Ok(method) => assert!(row.takes(name) && (method != plain || *name == "prefix_projection"), "{} {name}", row.name),
                Err(error) => {
                    assert!(!row.takes(name), "{} {name}: {error}", row.name);
                    assert!(error.to_string().contains("a method that takes it") && error.to_string().ends_with(row.name), "{error}");
                    assert!(error.hint().is_some_and(|hint| hint.starts_with(row.name)), "{error}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn layers_are_of_an_lstm_alone() {
    for reparameterization in [None, Some(Reparameterization::Mlp)] {
        let options = Options { reparameterization, encoder_num_layers: Some(3), ..asked(&prompt::P_TUNING) };
        let error = configure(&options).expect_err("an MLP has three layers");
        assert!(error.to_string().starts_with("encoder_num_layers") && error.hint().is_some(), "{error}");
    }
}

#[test]
fn ranks_are_allocated_where_that_is_asked_for_and_over_steps_that_are_said() -> Result<()> {
    let of = |allocate_ranks, settings: &[(&str, usize)]| {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        configure(&Options { allocate_ranks, settings, ..asked(&adalora::ROW) })
    };
    of(true, &[("total_step", 50), ("tinit", 5), ("deltaT", 2)])?;
    for (allocates, settings, word) in [(true, &[("tinit", 5)][..], "total_step"), (false, &[("tinit", 5)], "allocate_ranks")] {
        let error = of(allocates, settings).expect_err(word);
        assert!(error.to_string().contains(word) && error.hint().is_some(), "{error}");
    }
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
        (Family::Tuner, "base_model.model.h.0.c_attn.lora_A", module("h.0.c_attn", KeyPart::new("lora_A", ""))),
        (Family::Tuner, "base_model.model.wte.lora_embedding_B", module("wte", lora::EMBEDDING_B)),
        (Family::Tuner, "base_model.model.q.lora_magnitude_vector", module("q", lora::MAGNITUDE)),
        (Family::Tuner, "base_model.model.query.base_layer.bias", module("query", KeyPart::BASE_BIAS)),
        (
            Family::Tuner,
            "base_model.model.embed_tokens.token_adapter.trainable_tokens_delta",
            module("embed_tokens", trainable_tokens::TOKEN_DELTA),
        ),
        (
            Family::Tuner,
            "base_model.model.embed_tokens.trainable_tokens_delta",
            module("embed_tokens", KeyPart::new("trainable_tokens_delta", "")),
        ),
        (Family::Tuner, "base_model.model.k_proj.ia3_l", module("k_proj", KeyPart::new("ia3_l", ""))),
        (Family::Tuner, "base_model.model.q.lokr_w1_a", module("q", KeyPart::new("lokr_w1_a", ""))),
        (Family::Tuner, "base_model.model.norm.ln_tuning_layers.weight", module("norm", KeyPart::new("ln_tuning_layers", "weight"))),
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
    const OWN_PART: KeyPart = KeyPart::new("own_block", "");
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
        takes: &[options::SCOPE],
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
