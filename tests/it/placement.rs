//! What is written runs on CUDA: every node that computes with floats has a kernel there, and between the devices goes nothing but whole numbers, towards the GPU.
//!
//! No GPU is needed, and none was: which nodes have a kernel is in a table that the library gave (`src/kernels`), and where ONNX Runtime places those that have one is
//! computed here as it does. `scripts/checks/check_cuda_stub.py` asks the library itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use onnx_protobuf::ModelProto;
use peft_onnx::decompose::for_cuda;
use peft_onnx::export::Bundle;
use peft_onnx::ir::{Attr, Builder, DType, Dim, Graph, ModelInfo, Node, NodeId, ValueId};
use peft_onnx::kernels::has_cuda;
use peft_onnx::train::precision::lowered;

use crate::common::{Folder, done, fixture};
use crate::formats::rewrite::{Half, Scheme, in_half, quantised, rewrite};
use crate::tasks;

/// Inputs that the kernels of the CUDA provider read from the host's memory (`InputMemoryType` in their registrations).
const ON_HOST: &[(&str, &[usize])] = &[
    ("Reshape", &[1]),
    ("Expand", &[1]),
    ("Tile", &[1]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Squeeze", &[1]),
    ("Unsqueeze", &[1]),
    ("ReduceSum", &[1]),
    ("ReduceMean", &[1]),
    ("ReduceMax", &[1]),
    ("ReduceMin", &[1]),
    ("ReduceProd", &[1]),
    ("ReduceL2", &[1]),
    ("ReduceSumSquare", &[1]),
    ("ReduceLogSumExp", &[1]),
    ("Pad", &[1, 2, 3]),
    ("Resize", &[1, 2, 3]),
    ("ConstantOfShape", &[0]),
    ("Range", &[0, 1, 2]),
    ("TopK", &[1]),
    ("OneHot", &[1]),
    ("CumSum", &[1]),
    ("Trilu", &[1]),
    ("Clip", &[1, 2]),
    ("Dropout", &[1, 2]),
    ("If", &[0]),
    ("Loop", &[0, 1]),
];

/// Operators whose output the CUDA provider writes to the host's memory.
const TO_HOST: &[&str] = &["Shape", "Size"];

/// ONNX Runtime calls a constant of so many numbers small.
const SMALL: i64 = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Memory {
    Host,
    Gpu,
    /// A constant or an input of the whole graph: ONNX Runtime puts it where it is read.
    Anywhere,
}

/// A graph as the CUDA provider takes it.
struct Placement<'a> {
    model: &'a ModelInfo,
    graph: &'a Graph,
    on_cpu: BTreeSet<NodeId>,
    /// Values that are computed before anything is placed: they follow from constants alone.
    folded: BTreeSet<ValueId>,
    /// Where each value that a node makes lies.
    memory: BTreeMap<ValueId, Memory>,
    faults: Vec<String>,
}

impl<'a> Placement<'a> {
    /// Places the nodes of a graph, or of a body inside one whose captured values lie where `captured` says.
    ///
    /// As `GetCpuPreferredNodes` of ONNX Runtime (`core/framework/fallback_cpu_capability.cc`): what follows from a tensor in the host's memory, as shapes do, by
    /// way of such tensors, small constants and the graph's inputs alone, is computed on the processor: but nothing of half precision, and no node whose kernel on
    /// CUDA reads that tensor from the host's memory anyway.
    fn new(model: &'a ModelInfo, graph: &'a Graph, captured: BTreeMap<ValueId, Memory>) -> Self {
        let mut placement = Self { model, graph, on_cpu: BTreeSet::new(), folded: BTreeSet::new(), memory: captured, faults: vec![] };
        // What follows from the host's memory: ONNX Runtime does not look at what nodes without a kernel make, nor outside of a body.
        let mut of_host: BTreeSet<ValueId> = BTreeSet::new();
        for (id, node) in graph.node_ids() {
            if placement.is_folded(node) {
                placement.folded.extend(node.writes());
                continue;
            }
            let has_kernel = has_cuda(model, node, |value| graph.fact(value).dtype);
            let follows = node.inputs.iter().flatten().any(|input| of_host.contains(input));
            let preferred = has_kernel && follows && placement.is_preferred_on_cpu(node, &of_host);
            if preferred || !has_kernel {
                placement.on_cpu.insert(id);
            }
            let to_host = has_kernel && TO_HOST.contains(&&*node.op);
            if preferred || to_host {
                of_host.extend(node.writes());
            }
            let memory = if preferred || to_host || !has_kernel { Memory::Host } else { Memory::Gpu };
            placement.memory.extend(node.writes().map(|value| (value, memory)));
            placement.check(id, node, has_kernel);
        }
        placement
    }

    fn is_constant(&self, value: ValueId) -> bool {
        self.graph.constant(value).is_some() || self.folded.contains(&value)
    }

    fn is_folded(&self, node: &Node) -> bool {
        let is_plain = node.captures.is_empty() && !node.attrs.values().any(|attr| matches!(attr, Attr::Graph(_)));
        is_plain && node.reads().all(|read| self.is_constant(read))
    }

    fn is_preferred_on_cpu(&self, node: &Node, of_host: &BTreeSet<ValueId>) -> bool {
        (0..).zip(&node.inputs).filter_map(|(at, input)| Some((at, (*input)?))).all(|(at, input)| {
            let is_half = matches!(self.graph.fact(input).dtype, Some(DType::F16 | DType::BF16));
            let length = self.graph.fact(input).known_shape().map(|shape| shape.iter().product::<i64>());
            let is_small = self.is_constant(input) && length.is_some_and(|length| length <= SMALL);
            !is_half && (is_small || self.graph.is_input(input) || (of_host.contains(&input) && !reads_from_host(node, at)))
        })
    }

    /// Notes what a node has to do with that it should not.
    fn check(&mut self, id: NodeId, node: &Node, has_kernel: bool) {
        let graph = self.graph;
        let label = format!("{} ({})", graph.node_label(id), node.op);
        let is_float = |value: ValueId| graph.fact(value).dtype.is_some_and(DType::is_float);
        let is_on_cpu = self.on_cpu.contains(&id);
        if is_on_cpu && node.inputs.iter().flatten().copied().chain(node.writes()).any(is_float) {
            let types: Vec<String> = node.inputs.iter().flatten().map(|&value| graph.fact(value).to_string()).collect();
            let why = if has_kernel { "computes with floats on the processor" } else { "has no kernel on CUDA" };
            self.faults.push(format!("{label} {why}: {}", types.join(", ")));
        }
        for (at, &input) in (0..).zip(&node.inputs) {
            let Some(input) = input else { continue };
            let wanted = if is_on_cpu || reads_from_host(node, at) { Memory::Host } else { Memory::Gpu };
            match (self.memory_of(input), wanted) {
                (Memory::Host, Memory::Gpu) if is_float(input) => {
                    self.faults.push(format!("{label}: floats are copied to the GPU: {} {}", graph.value_name(input), graph.fact(input)));
                }
                (Memory::Gpu, Memory::Host) => {
                    self.faults.push(format!("{label} waits for {} {} from the GPU", graph.value_name(input), graph.fact(input)));
                }
                _ => {}
            }
        }
        for body in node.attrs.values().filter_map(|attr| if let Attr::Graph(body) = attr { Some(body) } else { None }) {
            let outside = body.captured().iter().zip(&node.captures).map(|(&inside, &outside)| (inside, self.memory_of(outside)));
            // What a body is given, round by round, lies on the GPU.
            let given = body.inputs().iter().map(|&input| (input, Memory::Gpu));
            let placed = Placement::new(self.model, body, outside.chain(given).collect());
            self.faults.extend(placed.faults.into_iter().map(|fault| format!("{label}: {fault}")));
        }
    }

    fn memory_of(&self, value: ValueId) -> Memory {
        self.memory.get(&value).copied().unwrap_or(Memory::Anywhere)
    }
}

fn reads_from_host(node: &Node, input: usize) -> bool {
    ON_HOST.iter().any(|(op, inputs)| *op == &*node.op && inputs.contains(&input))
}

/// What is wrong with a bundle's graphs. In the graph for inference, which computes as the base does, it is what is not wrong with the base already, and its lengths may
/// come from the GPU.
fn faults(bundle: &str) -> Vec<String> {
    let bundle = Bundle::open(Path::new(bundle), None).expect("a bundle");
    // As a session is opened on CUDA.
    let of = |graph: &Graph| {
        let rewritten = for_cuda(graph).expect("it is finished").unwrap_or_else(|| graph.clone());
        Placement::new(rewritten.model(), &rewritten, BTreeMap::new()).faults
    };
    let own = of(&bundle.base().expect("its base").base().raw);
    let mut faults = vec![];
    for name in bundle.manifest().graphs.keys() {
        let mut found = of(&bundle.graph(name).expect("its graph"));
        if name == "inference" {
            found.retain(|fault| !own.contains(fault) && !fault.contains("waits for"));
        }
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
        if ["gradient", "evaluation", "encode", "vjp"].contains(&name.as_str()) {
            for half in [DType::F16, DType::BF16] {
                let graph = lowered(&bundle.graph(name).expect("its graph"), half).expect("it can be lowered");
                faults.extend(of(&graph).into_iter().map(|fault| format!("{name} in {half}: {fault}")));
            }
        }
    }
    faults
}

#[test]
fn what_computes_on_the_processor_or_waits_for_the_gpu_is_found() {
    type Write = fn(&Builder);
    let faults = |write: Write| {
        let b = Builder::new(ModelInfo::dialect());
        write(&b);
        let graph = b.finish().expect("a graph");
        Placement::new(graph.model(), &graph, BTreeMap::new()).faults
    };
    let cases: [(Write, &str); 4] = [
        (|b| b.output("y", b.op("DynamicQuantizeLinear", &[b.input("x", DType::F32, &[Dim::known(4)])], &[])), "has no kernel on CUDA"),
        (
            |b| {
                let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
                b.output("y", x.tanh() / x.length(0).reshape(&[]).cast(DType::F32));
            },
            "floats are copied to the GPU",
        ),
        (
            |b| {
                let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
                b.output("y", x.sum_all().cast(DType::I64).range_from(b.int(0)));
            },
            "from the GPU",
        ),
        (
            |b| {
                let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
                b.output("y", x.reshape_like(x.t()) * 2.0);
            },
            "",
        ),
    ];
    for (write, expected) in cases {
        let found = faults(write);
        let is_right = if expected.is_empty() { found.is_empty() } else { found.iter().any(|fault| fault.contains(expected)) };
        assert!(is_right, "expected {expected:?}, found {found:?}");
    }
}

/// A model of the fixtures, and what is injected into it.
struct Case {
    model: &'static str,
    change: Option<fn(&mut ModelProto)>,
    inject: &'static [&'static str],
}

const fn case(model: &'static str, inject: &'static [&'static str]) -> Case {
    Case { model, change: None, inject }
}

const CASES: &[Case] = &[
    case("llama/torchscript.onnx", &["--method", "lora", "--target-modules", "all-linear", "--recompute", "layer"]),
    case("llama/dynamo.onnx", &["--method", "lora", "--lora-dropout", "0.1", "--recompute", "attention"]),
    case("llama/optimum_cache.onnx", &["--method", "lora", "--use-dora"]),
    case("llama/optimum_merged.onnx", &["--method", "prefix_tuning", "--num-virtual-tokens", "4", "--prefix-projection"]),
    case("llama/dynamo.onnx", &["--method", "adalora"]),
    case("gpt2/torchscript.onnx", &["--method", "prompt_tuning", "--num-virtual-tokens", "4"]),
    case("gpt2/dynamo.onnx", &["--method", "p_tuning", "--num-virtual-tokens", "4", "--encoder-reparameterization-type", "lstm"]),
    case("qwen2/dynamo.onnx", &["--method", "p_tuning", "--num-virtual-tokens", "4"]),
    case("qwen2/torchscript.onnx", &["--method", "ia3"]),
    case("bert_classifier/torchscript_opset12.onnx", &["--method", "head"]),
    case("bert_masked/torchscript.onnx", &["--method", "p_tuning_v2", "--num-virtual-tokens", "4"]),
    case("distilbert_classifier/dynamo.onnx", &["--method", "lora", "--lora-dropout", "0.1"]),
    case("bart/fused.onnx", &["--method", "lora"]),
    case("t5/torchscript.onnx", &["--method", "lora"]),
    case("vit_classifier/optimum.onnx", &["--method", "lora"]),
    Case { change: Some(|model| in_half(model, Half::Float16)), ..case("llama/torchscript.onnx", &["--method", "lora"]) },
    Case { change: Some(|model| in_half(model, Half::BFloat16)), ..case("llama/torchscript.onnx", &["--method", "lora"]) },
    Case { change: Some(|model| quantised(model, Scheme::Blocks(4))), ..case("llama/torchscript.onnx", &["--method", "lora"]) },
    Case { change: Some(|model| quantised(model, Scheme::Blocks(8))), ..case("llama/torchscript.onnx", &["--method", "lora"]) },
    Case { change: Some(|model| quantised(model, Scheme::Dynamic)), ..case("llama/torchscript.onnx", &["--method", "lora"]) },
];

#[test]
fn every_graph_of_a_bundle_computes_on_cuda() {
    let mut wrong = vec![];
    for Case { model, change, inject } in CASES {
        let folder = Folder::empty();
        let (file, bundle) = (folder.path("model.onnx"), folder.path("bundle"));
        rewrite(Path::new(&fixture(model)), Path::new(&file), |model| change.iter().for_each(|change| change(model)));
        done(&[&["inject", &file, "-o", &bundle, "-q"], *inject].concat());
        wrong.extend(faults(&bundle).into_iter().map(|fault| format!("{model} {}: {fault}", inject.join(" "))));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_graphs_of_every_task_compute_on_cuda() {
    let mut wrong = vec![];
    for case in tasks::CASES {
        let folder = Folder::empty();
        let bundle = folder.path("bundle");
        done(&[&["inject", &fixture(case.model), "--method", "lora", "-o", &bundle, "-q"], case.inject].concat());
        wrong.extend(faults(&bundle).into_iter().map(|fault| format!("{}: {fault}", case.what)));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
