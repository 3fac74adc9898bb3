//! Combinations of adapters are those that Hugging Face PEFT makes: tensors of its `add_weighted_adapter`, written by
//! `scripts/fixtures/make_combine_fixture.py`.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use peft_onnx::adapter::combine::{Majority, Recipe, Technique};
use peft_onnx::adapter::methods::{
    self,
    lora::{LORA_A, LORA_B, LoraConfig},
};
use peft_onnx::adapter::params::key::{Family, Key};
use peft_onnx::adapter::params::matrices::matrix;
use peft_onnx::ir::Tensor;
use peft_onnx::peft::combine::{Share, combine};
use peft_onnx::peft::{self, AdapterFiles};
use peft_onnx::safetensors;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn adapter(case: &str) -> AdapterFiles {
    peft::read(&at(&format!("models/fixtures/llama/cases/{case}/adapter_final"))).expect("an adapter")
}

fn recipe(technique: &str, density: Option<f64>, majority: Majority) -> Recipe {
    Recipe { technique: Technique::from_name(technique).expect("a technique"), density, majority, seed: 0 }
}

fn settings(files: &AdapterFiles) -> &LoraConfig {
    files.config.method.get::<LoraConfig>().expect("LoRA")
}

/// One combination of the fixture.
struct Case {
    name: &'static str,
    adapters: &'static [(&'static str, f64)],
    technique: &'static str,
    density: Option<f64>,
    majority: Majority,
    rank: Option<usize>,
}

const fn case(name: &'static str, technique: &'static str, density: Option<f64>, rank: Option<usize>) -> Case {
    Case { name, adapters: &[("lora_qv", 0.7), ("lora_schedule", 0.5)], technique, density, majority: Majority::Total, rank }
}

const OTHER_TARGETS: &[(&str, f64)] = &[("lora_qv", 0.5), ("lora_all_linear_rslora", 0.25)];

const CASES: &[Case] = &[
    case("linear", "linear", None, None),
    Case { adapters: &[("lora_qv", 1.0), ("lora_schedule", -0.4)], ..case("linear_negative", "linear", None, None) },
    case("cat", "cat", None, None),
    Case { adapters: OTHER_TARGETS, ..case("cat_other_targets", "cat", None, None) },
    case("svd", "svd", None, Some(3)),
    Case { adapters: OTHER_TARGETS, ..case("svd_other_targets", "svd", None, None) },
    case("ties", "ties", Some(0.3), None),
    Case {
        adapters: &[("lora_qv", 0.7), ("lora_schedule", 0.5), ("lora_all_linear_rslora", -0.3)],
        majority: Majority::Frequency,
        ..case("ties_frequency", "ties", Some(0.6), None)
    },
    case("ties_svd", "ties_svd", Some(0.4), Some(5)),
    case("dare_linear", "dare_linear", Some(1.0), None),
    case("dare_ties", "dare_ties", Some(1.0), None),
    case("dare_linear_svd", "dare_linear_svd", Some(1.0), None),
    case("magnitude_prune", "magnitude_prune", Some(0.45), None),
    case("magnitude_prune_svd", "magnitude_prune_svd", Some(0.45), None),
];

/// The updates `B·A` by module, under the beginnings of their keys.
fn updates(tensors: &IndexMap<String, Tensor>) -> IndexMap<String, Tensor> {
    let factor = |module: &str, part| matrix(&tensors[&Key::module(module, part).to_string()]).expect("a matrix");
    let modules = tensors.keys().filter_map(|key| match methods::key(key, Family::Tuner)? {
        Key::Module { module, part: LORA_A } => Some(module),
        _ => None,
    });
    let update = |module: String| {
        let product = factor(&module, LORA_B).dot(&factor(&module, LORA_A));
        (format!("base_model.model.{module}"), peft_onnx::adapter::params::matrices::tensor(&product.view()))
    };
    modules.map(update).collect()
}

#[test]
fn combinations_are_those_of_peft() {
    let fixture = safetensors::read(&at("tests/fixtures/combine.safetensors")).expect("the fixture");
    for Case { name, adapters, technique, density, majority, rank } in CASES {
        let files: Vec<AdapterFiles> = adapters.iter().map(|(case, _)| adapter(case)).collect();
        let shares: Vec<Share<'_>> = files.iter().zip(*adapters).map(|(files, (_, weight))| Share { files, weight: *weight }).collect();
        let made = combine(&shares, &recipe(technique, *density, *majority), *rank).unwrap_or_else(|error| panic!("{name}: {error}"));
        let config = settings(&made);
        assert!(
            (config.alpha - f64::from(u32::try_from(config.rank).expect("small"))).abs() < 1e-9 && !config.use_rslora,
            "{name}: a scale of 1"
        );
        let found = if technique.ends_with("svd") { updates(&made.tensors) } else { made.tensors };
        let expected = fixture.iter().filter_map(|(key, tensor)| Some((key.strip_prefix(&format!("{name}/"))?, tensor)));
        let expected: IndexMap<&str, &Tensor> = expected.collect();
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), expected.keys().copied().collect::<Vec<_>>(), "{name}");
        for (key, tensor) in &found {
            assert_eq!(tensor.shape(), expected[key.as_str()].shape(), "{name}: {key}");
            let [ours, theirs] = [tensor, expected[key.as_str()]].map(|tensor| tensor.to_f32().expect("floats"));
            let largest = theirs.iter().fold(0_f32, |largest, number| largest.max(number.abs()));
            let difference = ours.iter().zip(&theirs).fold(0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(largest > 0.0 && difference <= 2e-6 * largest.max(0.1), "{name}: {key}: {difference} of {largest}");
        }
    }
}

#[test]
fn chance_leaves_out_what_the_seed_says_and_keeps_the_expectation() {
    let (a, b) = (adapter("lora_qv"), adapter("lora_schedule"));
    let shares = [Share { files: &a, weight: 1.0 }, Share { files: &b, weight: 0.0 }];
    let made = |seed| {
        combine(&shares, &Recipe { seed, ..recipe("dare_linear", Some(0.5), Majority::Total) }, None).expect("a combination").tensors
    };
    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2));
    let whole = combine(&shares, &recipe("linear", None, Majority::Total), None).expect("a combination").tensors;
    let (mut kept, mut all) = (0_u32, 0_u32);
    for (key, tensor) in made(1) {
        for (number, own) in tensor.to_f32().expect("floats").iter().zip(whole[&key].to_f32().expect("floats")) {
            assert!(*number == 0.0 || (number - 2.0 * own).abs() <= 1e-6 * own.abs(), "{key}: {number} of {own}");
            all += 1;
            kept += u32::from(*number != 0.0);
        }
    }
    let share = f64::from(kept) / f64::from(all);
    assert!((0.4..0.6).contains(&share), "{share}");
}

#[test]
fn what_cannot_be_combined_is_said() {
    let files = |case: &str| adapter(case);
    let rows: &[(&[&str], Recipe, Option<usize>, &str)] = &[
        (&["lora_qv"], recipe("cat", None, Majority::Total), None, "two adapters at least"),
        (&["lora_qv", "dora"], recipe("cat", None, Majority::Total), None, "combining DoRA is not supported"),
        (&["lora_qv", "ia3"], recipe("cat", None, Majority::Total), None, "combining adapters of ia3 is not supported"),
        (
            &["lora_lm_head", "lora_lm_head"],
            recipe("cat", None, Majority::Total),
            None,
            "lm_head.weight: a tensor that several adapters train",
        ),
        (&["lora_qv", "lora_schedule"], recipe("ties", None, Majority::Total), None, "ties needs the share"),
        (
            &["lora_qv", "lora_schedule"],
            recipe("ties", Some(1.5), Majority::Total),
            None,
            "density: expected above 0 and up to 1, found 1.5",
        ),
        (&["lora_qv", "lora_schedule"], recipe("cat", Some(0.5), Majority::Total), None, "cat leaves no numbers out"),
        (
            &["lora_qv", "lora_schedule"],
            recipe("linear", None, Majority::Total),
            Some(2),
            "rank of a combination by linear: expected 4, found 2",
        ),
    ];
    for (cases, recipe, rank, expected) in rows {
        let files: Vec<AdapterFiles> = cases.iter().map(|case| files(case)).collect();
        let shares: Vec<Share<'_>> = files.iter().map(|files| Share { files, weight: 1.0 }).collect();
        let error = combine(&shares, recipe, *rank).expect_err(expected).to_string();
        assert!(error.contains(expected), "expected {expected}\nfound {error}");
    }
    let error = Technique::from_name("average").expect_err("not a technique").to_string();
    assert!(error.contains("magnitude_prune_svd"), "{error}");
}

#[test]
fn the_only_head_is_kept() {
    let (a, b) = (adapter("lora_lm_head"), adapter("lora_qv"));
    let made = combine(&[Share { files: &b, weight: 1.0 }, Share { files: &a, weight: 0.5 }], &recipe("cat", None, Majority::Total), None);
    let made = made.expect("a combination");
    assert_eq!(made.tensors["base_model.model.lm_head.weight"], a.tensors["base_model.model.lm_head.weight"]);
    assert_eq!(settings(&made).scope.modules_to_save, ["lm_head"]);
}
