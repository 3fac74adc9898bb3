//! Values that are computed again in the backward pass: the gradient is what it was, and what was to be forgotten is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use peft_onnx::export::Bundle;
use peft_onnx::ir::{Attr, DType, Graph, Node, ValueId};
use peft_onnx::ort::{Axis, Elements, Feed, HostTensor, Options, Port, Presence, Runtime, Session, Settings};

use crate::common::{Folder, done, fixture};

/// What is computed again, beside nothing.
const CHOICES: [&str; 3] = ["attention", "auto", "layer"];

/// Models, and the options of `inject`.
const ROWS: &[(&str, &[&str])] = &[
    ("llama/dynamo.onnx", &["--method", "lora", "--target-modules", "all-linear", "--lora-dropout", "0.3"]),
    ("llama/torchscript.onnx", &["--method", "p_tuning_v2", "--num-virtual-tokens", "3"]),
    ("llama/optimum_cache.onnx", &["--method", "lora", "--use-dora", "--target-modules", "all-linear"]),
    ("gpt2/torchscript.onnx", &["--method", "ia3"]),
    ("qwen2/dynamo.onnx", &["--method", "prompt_tuning", "--num-virtual-tokens", "3"]),
    ("bert_classifier/torchscript.onnx", &["--method", "lora", "--target-modules", "query,value,dense"]),
    ("t5/torchscript.onnx", &["--method", "lora", "--target-modules", "all-linear"]),
];

/// Whole numbers that follow from a seed.
fn numbers(count: usize, below: i64) -> Vec<i64> {
    (0..count).map(|at| i64::try_from(at * at * 7 + at * 3 + 1).expect("small") % below).collect()
}

/// A value for an input: two rows of `length` tokens.
fn value(port: &Port, trainable: usize, length: usize) -> HostTensor {
    let axes = port.shape.iter().enumerate();
    let shape: Vec<usize> = axes.map(|(at, axis)| if let Axis::Known(n) = axis { *n } else { [2, length][at.min(1)] }).collect();
    let count: usize = shape.iter().product();
    let elements: Elements = match port.name.as_str() {
        "trainable" => {
            (0..trainable).map(|at| (f32::from(u16::try_from(at % 97).expect("small")) - 48.0) / 800.0).collect::<Vec<_>>().into()
        }
        "gradient" => vec![0_f32; trainable].into(),
        "label_count" => vec![11_f32].into(),
        "attention_mask" => (0..count).map(|at| i64::from(at % length < length - 1 || at / length == 0)).collect::<Vec<_>>().into(),
        "labels" => numbers(count, if count == 2 { 2 } else { 40 }).into(),
        "position_ids" => (0..count).map(|at| i64::try_from(at % length).expect("small")).collect::<Vec<_>>().into(),
        name if name.contains("token_type") => vec![0_i64; count].into(),
        _ => numbers(count, 40).into(),
    };
    HostTensor::new(shape, elements).unwrap_or_else(|error| panic!("{}: {error}", port.name))
}

/// Loss and gradient of a bundle.
fn gradient(bundle: &Path, length: usize) -> (f32, Vec<f32>) {
    let runtime = Runtime::start(&Options::default()).unwrap_or_else(|error| panic!("{error}"));
    let bundle = Bundle::open(bundle, None).unwrap_or_else(|error| panic!("{error}"));
    let runnable = bundle.runnable("gradient").unwrap_or_else(|error| panic!("{error}"));
    let mut session = Session::open(runtime, runnable, &Settings::default()).unwrap_or_else(|error| panic!("{error}"));
    let required = session.inputs().iter().filter(|port| port.presence == Presence::Required);
    let fed: Vec<(String, HostTensor)> =
        required.map(|port| (port.name.clone(), value(port, bundle.manifest().trainable_count, length))).collect();
    let feeds: Vec<Feed<'_>> = fed.iter().map(|(name, value)| Feed::host(name, value)).collect();
    let found = session.run(&feeds, &["loss", "gradient_next"]).unwrap_or_else(|error| panic!("{error}"));
    let loss = found[0].item().expect("a number");
    (loss, found[1].to_f32().expect("float32"))
}

fn injected(folder: &Folder, model: &str, options: &[&str], choice: &str) -> String {
    let (bundle, model) = (folder.path(choice), fixture(model));
    done(&[&["inject", &model, "--quiet", "--force", "--recompute", choice, "-o", &bundle], options].concat());
    bundle
}

#[test]
fn the_gradient_is_the_same_whatever_is_computed_again() {
    for (model, options) in ROWS {
        let folder = Folder::empty();
        let (loss, expected) = gradient(Path::new(&injected(&folder, model, options, "none")), 9);
        let largest = expected.iter().fold(0_f32, |largest, number| largest.max(number.abs()));
        assert!(largest > 0.0 && loss.is_finite(), "{model}: {loss}, {largest}");
        for choice in CHOICES {
            let (again, found) = gradient(Path::new(&injected(&folder, model, options, choice)), 9);
            let difference = expected.iter().zip(&found).fold(0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!((again - loss).abs() <= 1e-6 * loss.abs(), "{model} {choice}: a loss of {again}, not {loss}");
            assert!(difference <= 2e-5 * largest, "{model} {choice}: {difference} of {largest}");
        }
    }
}

#[test]
fn long_texts_are_attended_to_in_several_rounds() {
    let (folder, options) = (Folder::empty(), ["--method", "lora", "--target-modules", "q_proj,k_proj"]);
    // More than 512 queries with as many keys: two rounds, the second not full.
    let model = "llama/torchscript.onnx";
    let gradients = ["none", "attention"].map(|choice| gradient(Path::new(&injected(&folder, model, &options, choice)), 555));
    let [(loss, expected), (again, found)] = gradients;
    let largest = expected.iter().fold(0_f32, |largest, number| largest.max(number.abs()));
    let difference = expected.iter().zip(&found).fold(0_f32, |worst, (a, b)| worst.max((a - b).abs()));
    assert!((again - loss).abs() <= 1e-5 * loss.abs() && difference <= 1e-4 * largest, "{loss} {again}, {difference} of {largest}");
}

/// The graph that adds gradients up.
fn graph(bundle: &str) -> Graph {
    Bundle::open(Path::new(bundle), None).and_then(|bundle| bundle.graph("gradient")).unwrap_or_else(|error| panic!("{error}"))
}

/// Values that stand for equal ones after every equal node was merged with the first, as ONNX Runtime's CommonSubexpressionElimination does.
fn merged(graph: &Graph) -> BTreeMap<ValueId, ValueId> {
    let mut same: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut seen: BTreeMap<String, Vec<Option<ValueId>>> = BTreeMap::new();
    for node in graph.nodes() {
        let now = |id: &ValueId| *same.get(id).unwrap_or(id);
        let inputs: Vec<_> = node.inputs.iter().map(|input| input.as_ref().map(now)).collect();
        let key = format!("{} {inputs:?} {:?}", node.op, node.attrs);
        let has_body = node.attrs.values().any(|attr| matches!(attr, Attr::Graph(_)));
        match seen.get(&key).filter(|_| !has_body) {
            Some(first) => same.extend(node.outputs.iter().zip(first).filter_map(|(own, first)| (*own).zip(*first))),
            None => {
                seen.insert(key, node.outputs.clone());
            }
        }
    }
    same
}

#[test]
fn no_optimizer_can_merge_what_is_computed_again() {
    for (model, options) in ROWS {
        let folder = Folder::empty();
        for choice in ["auto", "layer"] {
            let bundle = injected(&folder, model, options, choice);
            let graph = graph(&bundle);
            let is_again = |node: &&Node| node.name.contains("again/");
            let again: Vec<&Node> = graph.nodes().iter().filter(is_again).collect();
            assert!(!again.is_empty(), "{model} {choice}");
            let own: BTreeSet<ValueId> = again.iter().flat_map(|node| node.writes()).collect();
            let same = merged(&graph);
            // Lengths may be shared; nothing that has the size of hidden states may.
            let lost = own.iter().filter(|id| {
                let is_large = graph.fact(**id).rank().is_some_and(|rank| rank > 1) && graph.fact(**id).dtype != Some(DType::I64);
                is_large && same.get(id).is_some_and(|first| !own.contains(first))
            });
            let names: Vec<&str> = lost.map(|&id| graph.value_name(id)).collect();
            assert!(names.is_empty(), "{model} {choice}: {names:?}");
        }
    }
}

/// Scores of all queries with all keys, for every head.
fn scores(graph: &Graph) -> Vec<String> {
    let is_scores = |id: &ValueId| {
        let fact = graph.fact(*id);
        let of_seq = fact.shape.iter().flatten().filter(|dim| dim.to_string().contains("seq")).count();
        let heads = fact.shape.as_ref().and_then(|dims| dims.get(1)?.as_known());
        fact.rank() == Some(4) && of_seq == 2 && heads.is_some_and(|heads| heads > 1) && fact.dtype == Some(DType::F32)
    };
    graph.nodes().iter().flat_map(Node::writes).filter(is_scores).map(|id| graph.value_name(id).to_owned()).collect()
}

#[test]
fn scores_of_all_queries_never_exist_at_once() {
    let (folder, options) = (Folder::empty(), ["--method", "lora", "--target-modules", "all-linear"]);
    let of = |choice: &str| graph(&injected(&folder, "llama/torchscript.onnx", &options, choice));
    assert!(scores(&of("none")).len() > 4, "they are there where nothing is computed again");
    for choice in CHOICES {
        assert_eq!(scores(&of(choice)), Vec::<String>::new(), "{choice}");
    }
    let scans = |choice: &str| of(choice).nodes().iter().filter(|node| &*node.op == "Scan").count();
    assert_eq!(scans("none"), 1, "the loss alone");
    assert_eq!(scans("attention"), 1 + 4, "the loss; two layers, forward and backward");
}
