use indexmap::IndexMap;

use super::*;
use crate::adapter::methods::lora::LoraConfig;

fn resolve(config: &LoraConfig, strictness: Strictness) -> Result<Vec<Site>> {
    config.ranks().resolve(&config.scope, &llama(), strictness)
}

fn llama() -> Vec<Candidate> {
    let mut all = Vec::new();
    for layer in 0..3 {
        for projection in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"] {
            all.push(Candidate { module: format!("model.layers.{layer}.{projection}"), kind: CandidateKind::Linear });
        }
    }
    all.push(Candidate { module: "lm_head".into(), kind: CandidateKind::Head });
    all.push(Candidate { module: "model.embed_tokens".into(), kind: CandidateKind::Embedding });
    all
}

fn names(names: &[&str]) -> Selection {
    Selection::Names(names.iter().map(ToString::to_string).collect())
}

fn only(list: &[&str]) -> Scope {
    Scope { targets: Targets::Only(names(list)), ..Scope::default() }
}

fn regex(source: &str) -> Scope {
    Scope { targets: Targets::Only(Selection::Regex(source.into())), ..Scope::default() }
}

/// The last segments of what is chosen, layer by layer.
fn chosen(scope: &Scope) -> String {
    let all = llama();
    let places = select(scope, &all, Strictness::AsPeft).unwrap_or_default();
    let short =
        |place: usize| all[place].module.replace("model.layers.", "").replace("self_attn.", "").replace("mlp.", "").replace("_proj", "");
    places.into_iter().map(short).collect::<Vec<_>>().join(" ")
}

#[test]
fn modules_are_chosen_as_peft_does() {
    let layers = |scope: Scope, layers: &[usize], pattern: &[&str]| Scope {
        layers_to_transform: layers.to_vec(),
        layers_pattern: pattern.iter().map(ToString::to_string).collect(),
        ..scope
    };
    let exclude = |scope: Scope, exclude: Selection| Scope { exclude: Some(exclude), ..scope };
    let save = |scope: Scope, save: &[&str]| Scope { modules_to_save: save.iter().map(ToString::to_string).collect(), ..scope };
    let rows = [
        (Scope::default(), "0.q 0.k 0.v 0.o 0.down 1.q 1.k 1.v 1.o 1.down 2.q 2.k 2.v 2.o 2.down"),
        (only(&["q_proj", "v_proj"]), "0.q 0.v 1.q 1.v 2.q 2.v"),
        (only(&["self_attn.q_proj"]), "0.q 1.q 2.q"),
        (only(&["proj"]), ""),
        (only(&["elf_attn.q_proj"]), ""),
        (only(&["model.layers.1.mlp.down_proj"]), "1.down"),
        (only(&["lm_head", "q_proj"]), "0.q 1.q 2.q lm_head"),
        (only(&["embed_tokens"]), "model.embed_tokens"),
        (regex(r".*\.(q|v)_proj"), "0.q 0.v 1.q 1.v 2.q 2.v"),
        (regex(r"q_proj"), ""),
        (regex(r"model\.layers\.[02]\..*(?<!o)_proj"), "0.q 0.k 0.v 0.down 2.q 2.k 2.v 2.down"),
        (regex(r"(?P<any>.*)q_proj|lm_head"), "0.q 1.q 2.q lm_head"),
        (exclude(only(&["q_proj"]), names(&["layers.1.self_attn.q_proj"])), "0.q 2.q"),
        (exclude(Scope::default(), Selection::Regex(r".*(mlp|k_proj|o_proj).*".into())), "0.q 0.v 1.q 1.v 2.q 2.v"),
        (layers(only(&["q_proj"]), &[0, 2], &[]), "0.q 2.q"),
        (layers(only(&["q_proj"]), &[2], &["layers"]), "2.q"),
        (layers(only(&["q_proj"]), &[2], &["h"]), ""),
        (layers(only(&["q_proj"]), &[2], &["h", "layers"]), "2.q"),
        (layers(only(&["q_proj", "lm_head"]), &[1], &[]), "1.q lm_head"),
        (layers(only(&["model.layers.0.self_attn.k_proj", "q_proj"]), &[1], &[]), "0.k 1.q"),
        (layers(Scope::default(), &[1], &[]), "1.q 1.k 1.v 1.o 1.down"),
        (save(Scope::default(), &["self_attn"]), "0.down 1.down 2.down"),
        (save(only(&["q_proj", "lm_head"]), &["lm_head"]), "0.q 1.q 2.q"),
        (save(only(&["q_proj"]), &["layers.0"]), "1.q 2.q"),
    ];
    for (scope, expected) in rows {
        assert_eq!(chosen(&scope), expected, "{scope:?}");
    }
}

#[test]
fn patterns_give_ranks_and_alphas() -> Result<()> {
    let base = LoraConfig { scope: only(&["q_proj", "v_proj"]), rank: 8, alpha: 16.0, ..LoraConfig::default() };
    let ranks = |entries: &[(&str, usize)]| entries.iter().map(|(key, rank)| ((*key).to_owned(), *rank)).collect::<IndexMap<_, _>>();
    let alphas = |entries: &[(&str, f64)]| entries.iter().map(|(key, alpha)| ((*key).to_owned(), *alpha)).collect::<IndexMap<_, _>>();
    // Rank and scale of layer 0's q and v, and of layer 1's.
    let rows = [
        (base.clone(), [(8, 2.0), (8, 2.0), (8, 2.0), (8, 2.0)]),
        (LoraConfig { use_rslora: true, rank: 16, ..base.clone() }, [(16, 4.0); 4]),
        (LoraConfig { rank_pattern: ranks(&[("q_proj", 4)]), ..base.clone() }, [(4, 4.0), (8, 2.0), (4, 4.0), (8, 2.0)]),
        (LoraConfig { rank_pattern: ranks(&[("_proj", 4)]), ..base.clone() }, [(8, 2.0); 4]),
        (LoraConfig { rank_pattern: ranks(&[("layers.0.*", 4), ("q_proj", 2)]), ..base.clone() }, [(4, 4.0), (4, 4.0), (2, 8.0), (8, 2.0)]),
        (LoraConfig { rank_pattern: ranks(&[("q_proj", 2), ("layers.0.*", 4)]), ..base.clone() }, [(2, 8.0), (4, 4.0), (2, 8.0), (8, 2.0)]),
        (
            LoraConfig { alpha_pattern: alphas(&[("^model.layers.1.self_attn.v_proj", 4.0)]), ..base.clone() },
            [(8, 2.0), (8, 2.0), (8, 2.0), (8, 0.5)],
        ),
    ];
    for (config, expected) in rows {
        let sites = resolve(&config, Strictness::AsPeft)?;
        let found: Vec<_> = sites.iter().take(4).map(|site| (site.rank, site.scaling)).collect();
        assert_eq!(found, expected, "{:?} {:?}", config.rank_pattern, config.alpha_pattern);
    }
    Ok(())
}

#[test]
fn what_a_user_types_has_to_match() {
    let lora = |scope: Scope| LoraConfig { scope, ..LoraConfig::default() };
    let rows = [
        (lora(only(&["q_proj", "v_porj"])), "no target module named \"v_porj\"", "the model has v_proj, "),
        (lora(only(&["attn.q_proj"])), "no module matches the targets \"attn.q_proj\"", "the model has self_attn.q_proj, "),
        (lora(regex("c_attn")), "no module matches the targets \"c_attn\"", "the model has "),
        (lora(regex("(")), "target_modules: \"(\" is not a regular expression", ""),
        (
            lora(Scope { exclude: Some(names(&["o_prj"])), ..Scope::default() }),
            "no module to exclude named \"o_prj\"",
            "the model has o_proj",
        ),
        (lora(Scope { layers_to_transform: vec![1, 7], ..Scope::default() }), "no layer named \"7\"", "the model has 0, 1, 2"),
        (lora(Scope { exclude: Some(names(&["q_proj"])), ..only(&["q_proj"]) }), "after leaving out excluded modules", ""),
        (
            LoraConfig { rank_pattern: IndexMap::from([("x_proj".to_owned(), 2)]), ..lora(only(&["q_proj"])) },
            "no target for the rank pattern named \"x_proj\"",
            "the model has q_proj",
        ),
    ];
    for (config, message, hint) in rows {
        let error = resolve(&config, Strictness::Every).expect_err(message);
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.hint().unwrap_or_default().starts_with(hint), "{error}: {:?}", error.hint());
    }
}

#[test]
fn what_peft_wrote_may_name_more_than_there_is() -> Result<()> {
    let config = LoraConfig { scope: only(&["q_proj", "c_attn"]), ..LoraConfig::default() };
    assert_eq!(resolve(&config, Strictness::AsPeft)?.len(), 3);
    assert!(resolve(&LoraConfig { scope: only(&["c_attn"]), ..config }, Strictness::AsPeft).is_err());
    Ok(())
}

#[test]
fn modules_are_saved_by_the_end_of_their_paths() -> Result<()> {
    let parameters =
        ["bert.pooler.dense.bias", "classifier.dense.weight", "classifier.out_proj.bias", "my_score.weight", "score", "lm_head.weight"];
    let saved = |list: &[&str]| {
        let names: Vec<String> = list.iter().map(ToString::to_string).collect();
        saved_parameters(&names, &parameters, Strictness::AsPeft)
    };
    assert_eq!(saved(&["classifier"])?, [1, 2]);
    assert_eq!(saved(&["score"])?, [3]);
    assert_eq!(saved(&["dense", "lm_head"])?, [0, 1, 5]);
    assert!(saved(&["nothing"])?.is_empty());
    let error = saved_parameters(&["lm_haed".to_owned()], &parameters, Strictness::Every).expect_err("no such module");
    assert!(error.hint().is_some_and(|hint| hint.starts_with("the model has lm_head")), "{error}");
    Ok(())
}

#[test]
fn texts_on_the_command_line_are_names_or_expressions() {
    assert_eq!(Targets::from_text("all-linear"), Targets::AllLinear);
    assert_eq!(Targets::from_text("q_proj, mlp.down_proj,"), Targets::Only(names(&["q_proj", "mlp.down_proj"])));
    for text in ["q_proj mlp.down_proj", r#"["q_proj", "mlp.down_proj"]"#, "['q_proj','mlp.down_proj',]"] {
        assert_eq!(Targets::from_text(text), Targets::Only(names(&["q_proj", "mlp.down_proj"])), "{text}");
    }
    assert_eq!(Targets::from_text("[qv]_proj"), Targets::Only(Selection::Regex("[qv]_proj".into())));
    assert_eq!(Targets::from_text(r".*\.q_proj"), Targets::Only(Selection::Regex(r".*\.q_proj".into())));
}
