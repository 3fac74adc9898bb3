//! What anatomy finds in exports of tiny models, compared with the models' own weights.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use peft_onnx::anatomy::{self, Anatomy, Task};
use peft_onnx::decompose::{Decoder, specialise};
use peft_onnx::ir::{Builder, Expr, Graph, NodeSpec, ValueId};
use peft_onnx::onnx;
use safetensors::SafeTensors;

/// What a family of models has, beside its weights.
struct Family {
    folder: &'static str,
    /// Module and largest number of positions, where a table tells.
    tokens: (&'static str, Option<i64>),
    head: Head,
    task: Task,
    /// Query heads, key and value heads, length of a head.
    heads: [i64; 3],
    causal: bool,
    conv1d: &'static [&'static str],
}

struct Head {
    module: &'static str,
    tied: bool,
}

const FAMILIES: &[Family] = &[
    Family {
        folder: "llama",
        tokens: ("model.embed_tokens", None),
        head: Head { module: "lm_head", tied: false },
        task: Task::CausalLm,
        heads: [4, 2, 8],
        causal: true,
        conv1d: &[],
    },
    Family {
        folder: "qwen2",
        tokens: ("model.embed_tokens", None),
        head: Head { module: "lm_head", tied: true },
        task: Task::CausalLm,
        heads: [4, 2, 8],
        causal: true,
        conv1d: &[],
    },
    Family {
        folder: "gpt2",
        tokens: ("transformer.wte", Some(64)),
        head: Head { module: "lm_head", tied: true },
        task: Task::CausalLm,
        heads: [4, 4, 8],
        causal: true,
        conv1d: &["c_attn", "c_proj", "c_fc"],
    },
    Family {
        folder: "bert_masked",
        tokens: ("bert.embeddings.word_embeddings", Some(64)),
        head: Head { module: "cls.predictions.decoder", tied: true },
        task: Task::MaskedLm,
        heads: [4, 4, 8],
        causal: false,
        conv1d: &[],
    },
    Family {
        folder: "bert_classifier",
        tokens: ("bert.embeddings.word_embeddings", Some(64)),
        head: Head { module: "classifier", tied: false },
        task: Task::SeqCls,
        heads: [4, 4, 8],
        causal: false,
        conv1d: &[],
    },
    Family {
        folder: "bert_tokens",
        tokens: ("bert.embeddings.word_embeddings", Some(64)),
        head: Head { module: "classifier", tied: false },
        task: Task::TokenCls,
        heads: [4, 4, 8],
        causal: false,
        conv1d: &[],
    },
    Family {
        folder: "llama_classifier",
        tokens: ("model.embed_tokens", None),
        head: Head { module: "score", tied: false },
        task: Task::SeqCls,
        heads: [4, 2, 8],
        causal: true,
        conv1d: &[],
    },
    Family {
        folder: "distilbert_classifier",
        tokens: ("distilbert.embeddings.word_embeddings", Some(64)),
        head: Head { module: "classifier", tied: false },
        task: Task::SeqCls,
        heads: [4, 4, 8],
        causal: false,
        conv1d: &[],
    },
];

fn folder(family: &Family) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures").join(family.folder)
}

/// Every export of a family, by file name; of decoders with two branches the one that is trained.
fn exports(family: &Family) -> BTreeMap<String, Graph> {
    let files = fs::read_dir(folder(family)).expect("the fixture's folder is there");
    let paths = files.map(|file| file.expect("the folder can be read").path()).filter(|path| path.extension().is_some_and(|e| e == "onnx"));
    let graph = |path: &Path| onnx::read(path).and_then(|graph| specialise(&graph, Decoder::WithoutCache)).expect("a valid model");
    let read = |path: PathBuf| (path.file_name().expect("a file").to_string_lossy().into_owned(), graph(&path));
    let exports: BTreeMap<_, _> = paths.map(read).collect();
    assert!(exports.len() >= 2, "{}: two exports or more", family.folder);
    exports
}

/// The model's parameters: name and shape.
fn parameters(family: &Family) -> BTreeMap<String, Vec<usize>> {
    let bytes = fs::read(folder(family).join("hf/model.safetensors")).expect("the weights are there");
    let weights = SafeTensors::deserialize(&bytes).expect("valid safetensors");
    weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec())).collect()
}

/// The paths of all linear modules.
fn linear_modules(family: &Family) -> BTreeSet<String> {
    let is_table = |name: &str| ["embed", "wte", "wpe"].iter().any(|word| name.contains(word));
    let matrices = parameters(family).into_iter().filter(|(name, shape)| shape.len() == 2 && !is_table(name)).map(|(name, _)| name);
    let modules = matrices.filter_map(|name| name.strip_suffix(".weight").map(str::to_owned));
    modules.chain([family.head.module.to_owned()]).collect()
}

fn found_modules(anatomy: &Anatomy) -> BTreeSet<String> {
    anatomy.projections.iter().map(|p| p.module.clone()).collect()
}

#[test]
fn every_export_has_the_models_modules_under_its_names() {
    for family in FAMILIES {
        let expected = linear_modules(family);
        for (file, graph) in exports(family) {
            let anatomy = anatomy::read(&graph);
            let place = format!("{}/{file}", family.folder);
            assert_eq!(found_modules(&anatomy), expected, "{place}");
            assert_eq!(anatomy.projections.len(), expected.len(), "{place}: each once");
            for projection in &anatomy.projections {
                let last = projection.module.rsplit('.').next().unwrap_or_default();
                assert_eq!(projection.conv1d, family.conv1d.contains(&last), "{place}: {}", projection.module);
            }
        }
    }
}

/// Exports that have a module's weight more than once, or no names for it.
#[test]
fn shared_and_fused_modules_have_their_names() {
    for (name, head) in [("albert_classifier", "classifier"), ("bart", "lm_head"), ("vit_classifier", "classifier")] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures").join(name);
        let bytes = fs::read(folder.join("hf/model.safetensors")).expect("the weights are there");
        let weights = SafeTensors::deserialize(&bytes).expect("valid safetensors");
        let is_table = |name: &str| ["embed", "shared"].iter().any(|word| name.contains(word)) && !name.contains("embedding_hidden");
        let matrices = weights.iter().filter(|(name, tensor)| tensor.shape().len() == 2 && !is_table(name));
        let modules = matrices.filter_map(|(name, _)| name.strip_suffix(".weight").map(str::to_owned));
        let expected: BTreeSet<String> = modules.chain([head.to_owned()]).collect();
        for file in fs::read_dir(&folder).expect("the fixture's folder is there").flatten() {
            if file.path().extension().is_some_and(|e| e == "onnx") {
                let anatomy = peft_onnx::Model::open(file.path()).expect("a valid model").anatomy().clone();
                assert_eq!(found_modules(&anatomy), expected, "{}", file.path().display());
            }
        }
    }
}

#[test]
fn every_parameter_is_found_with_its_shape() {
    for family in FAMILIES {
        for (file, graph) in exports(family) {
            let anatomy = anatomy::read(&graph);
            let found: BTreeMap<&str, Vec<i64>> = anatomy
                .parameters
                .iter()
                .map(|parameter| {
                    let mut shape = graph.fact(parameter.value).known_shape().expect("constants have shapes");
                    if parameter.transposed {
                        shape.reverse();
                    }
                    (&*parameter.name, shape)
                })
                .collect();
            // BERT calls its head's bias twice; it is found where it is added.
            for (name, shape) in parameters(family).iter().filter(|(name, _)| *name != "cls.predictions.bias") {
                let shape: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).expect("small")).collect();
                assert_eq!(found.get(name.as_str()), Some(&shape), "{}/{file}: {name}", family.folder);
            }
        }
    }
}

#[test]
fn every_attention_is_complete() {
    for family in FAMILIES {
        for (file, graph) in exports(family) {
            let anatomy = anatomy::read(&graph);
            let place = format!("{}/{file}", family.folder);
            assert_eq!(anatomy.attentions.len(), 2, "{place}");
            for attention in &anatomy.attentions {
                let [heads, kv_heads, size] = family.heads;
                assert_eq!(
                    [attention.heads, attention.kv_heads, attention.head_size],
                    [Some(heads), Some(kv_heads), Some(size)],
                    "{place}"
                );
                assert!([attention.q, attention.k, attention.v, attention.o].iter().all(Option::is_some), "{place}: {attention:?}");
                assert_eq!((attention.causal, attention.cross), (family.causal, false), "{place}");
                assert!(!attention.masks.is_empty(), "{place}");
                let scale = attention.scale.expect("a scale that can be told");
                assert!((scale - 8f64.sqrt().recip()).abs() < 1e-6, "{place}: {scale}");
            }
        }
    }
}

#[test]
fn the_ends_of_every_export_are_found() {
    for family in FAMILIES {
        for (file, graph) in exports(family) {
            let anatomy = anatomy::read(&graph);
            let place = format!("{}/{file}", family.folder);
            let head = anatomy.head.as_ref().expect("a head");
            let module = head.projection.map(|at| anatomy.projections[at].module.as_str());
            assert_eq!((module, head.tied), (Some(family.head.module), family.head.tied), "{place}");
            let tokens = anatomy.token_embedding.map(|at| anatomy.embeddings[at].module.as_str());
            assert_eq!((tokens, anatomy.max_positions), (Some(family.tokens.0), family.tokens.1), "{place}");
            assert_eq!(anatomy.task.task, Some(family.task), "{place}: {}", anatomy.task.why);
            let name = |id: Option<ValueId>| id.map(|id| graph.value_name(id));
            assert_eq!(name(anatomy.inputs.main), Some("input_ids"), "{place}");
            assert_eq!(name(anatomy.inputs.attention_mask), Some("attention_mask"), "{place}");
            assert!(anatomy.misses.is_empty(), "{place}: {:?}", anatomy.misses);
        }
    }
}

#[test]
fn caches_are_paired() {
    for family in FAMILIES {
        let exports = exports(family);
        let Some(graph) = exports.get("optimum_cache.onnx") else { continue };
        let anatomy = anatomy::read(graph);
        assert_eq!(anatomy.cache.len(), 4, "{}", family.folder);
        assert!(anatomy.cache.iter().all(|slot| slot.present.is_some()), "{}", family.folder);
        let presents: Vec<_> = anatomy.attentions.iter().flat_map(|a| [Some(a.key.value), Some(a.value.value)]).collect();
        assert_eq!(anatomy.cache.iter().map(|slot| slot.present).collect::<Vec<_>>(), presents, "{}", family.folder);
    }
}

/// The same graph with other names: of constants, of other values, and of nodes.
fn named(
    graph: &Graph,
    constant: &dyn Fn(ValueId, &[usize]) -> String,
    value: &dyn Fn(ValueId) -> String,
    node: &dyn Fn(&str) -> String,
) -> Graph {
    let b = Builder::new(graph.model().clone());
    let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for id in graph.data_inputs() {
        ids.insert(id, b.input_value(graph.value_name(id), graph.fact(id).clone(), None).id());
    }
    for (id, tensor) in graph.initializers() {
        ids.insert(id, b.initializer(&constant(id, tensor.shape()), tensor.clone()).id());
    }
    for made in graph.nodes() {
        let inputs = made.inputs.iter().map(|input| input.map(|id| ids[&id])).collect();
        let outputs = made.outputs.iter().map(|output| output.map(|id| value(id).into())).collect();
        let name = node(&made.name).into();
        let written = b.node(NodeSpec { name, op: made.op.clone(), inputs, outputs, attrs: made.attrs.clone(), ..NodeSpec::default() });
        ids.extend(made.outputs.iter().flatten().copied().zip(written.into_iter().flatten().map(Expr::id)));
    }
    for &output in graph.outputs() {
        b.output(graph.value_name(output), b.expr(ids[&output]));
    }
    b.finish().expect("the same graph")
}

/// The same graph as an optimizer leaves it: nodes and values renamed, annotations gone. Vectors keep their names, if `keep_vectors`.
fn renamed(graph: &Graph, keep_vectors: bool) -> Graph {
    let constant = |id: ValueId, shape: &[usize]| {
        if keep_vectors && shape.len() == 1 { graph.value_name(id).to_owned() } else { format!("constant_{}", id.index()) }
    };
    named(graph, &constant, &|id| format!("value_{}", id.index()), &|_| String::new())
}

#[test]
fn queries_keys_and_values_of_one_call_have_the_names_of_its_parameters() {
    let family = FAMILIES.iter().find(|family| family.folder == "llama").expect("it is there");
    let graph = &exports(family)["torchscript.onnx"];
    // As the exporter writes `torch.nn.functional.multi_head_attention_forward`: all three products are nodes of the attention itself.
    let as_one =
        |name: &str| ["q_proj", "k_proj", "v_proj"].iter().fold(name.to_owned(), |name, part| name.replace(&format!("/{part}/"), "/"));
    let constant = |id: ValueId, shape: &[usize]| {
        if shape.len() == 2 { format!("onnx::MatMul_{}", id.index()) } else { graph.value_name(id).to_owned() }
    };
    let called = named(graph, &constant, &|id| format!("{}_{}", as_one(graph.value_name(id)), id.index()), &as_one);
    let found = found_modules(&anatomy::read(&called));
    let wanted: Vec<String> = ["q_proj", "k_proj", "v_proj"].map(|part| format!("model.layers.0.self_attn.{part}")).into();
    assert!(wanted.iter().all(|module| found.contains(module)), "{found:?}");
}

#[test]
fn names_that_are_lost_are_found_again_from_structure() {
    for family in FAMILIES {
        let expected = linear_modules(family);
        for (file, graph) in exports(family) {
            let found = found_modules(&anatomy::read(&renamed(&graph, true)));
            assert_eq!(found, expected, "{}/{file}: names of vectors are left", family.folder);
            if ["llama", "qwen2"].contains(&family.folder) {
                let found = found_modules(&anatomy::read(&renamed(&graph, false)));
                assert_eq!(found, expected, "{}/{file}: no names are left", family.folder);
            }
        }
    }
}
