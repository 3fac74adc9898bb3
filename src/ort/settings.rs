//! How ONNX Runtime is set up: one row a setting, with its reason.

#![expect(clippy::result_large_err, reason = "ort's builder gives itself back in its errors")]

use ort::ep;
use ort::logging::LogLevel;
use ort::session::builder::{BuilderResult, GraphOptimizationLevel, SessionBuilder};

use crate::ort::Device;

/// What a session is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Many steps of a graph with a backward pass, or of one that runs beside it: memory counts.
    #[default]
    Training,
    /// A graph without a backward pass, run often on few tokens: speed counts.
    Inference,
}

/// What the user decides about a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Settings {
    /// Where the graph runs.
    pub device: Device,
    /// What the session is for.
    pub purpose: Purpose,
    /// Whether CUDA may round the inputs of float32 products to 10 bits of mantissa.
    pub tf32: bool,
    /// Whether two runs on the same numbers may differ in the last bit, on a GPU.
    pub may_differ: bool,
    /// Whether weights that the graph casts are kept as they are cast.
    pub keeps_casts: bool,
    /// Whether every product of a graph of training has a copy of its weight in the order in which it reads it, on the processor.
    pub packs_weights: bool,
    /// The most memory of the GPU that the session may take, in bytes.
    pub memory_limit: Option<usize>,
}

/// One setting of ONNX Runtime.
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Why it is set as it is.
    pub why: &'static str,
    pub(super) apply: fn(SessionBuilder, &Settings) -> BuilderResult,
}

/// ONNX Runtime's optimizers that training graphs do without: those that would undo what a graph was written for; those that fuse nodes whose
/// inner values a backward pass reads, and so never find anything; and those whose gain cannot be measured in a step. Each looks at every node,
/// and each change has all types inferred again: together they are a third of the time that a session takes to open.
const NOT_IN_TRAINING: &str = "CommonSubexpressionElimination;SkipLayerNormFusion;\
     AttentionFusion;EmbedLayerNormFusion;GroupQueryAttentionFusion;RotaryEmbeddingsFusion;GeluFusionL1;GeluFusionL2;BiasGeluFusion;FastGeluFusion;\
     QuickGeluFusion;BiasSoftmaxFusion;BiasDropoutFusion;ConvActivationFusion;ConvAddActivationFusion;GemmActivationFusion;MatMulActivationFusion;\
     GatherSliceToSplitFusion;GatherToSliceFusion;IsInfReduceSumFusion;\
     TransposeOptimizer;NhwcTransformer;NchwcTransformer;ConstantSharing;PropagateCastOps;ReshapeFusion;MatMulScaleFusion;PreShapeNodeElimination;\
     FuseFp16InitializerToFp32NodeTransformer";

/// ONNX Runtime's optimizer that inference does without, in both places where it runs: it moves a `Transpose` past a `Resize` of mode cubic, whose axes
/// the kernel then refuses (1.32). With the usual folding of constants there is none left to move, but that would store weights twice.
const NOT_IN_INFERENCE: &str = "TransposeOptimizer;TransposeOptimizer_CPUExecutionProvider";

/// Every setting of every session, in the order in which they are made.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "log level",
        why: "constants that are not folded (below) are a warning each; errors come back as errors anyway",
        apply: |builder, _| builder.with_log_level(LogLevel::Fatal),
    },
    Setting {
        name: "optimization level",
        why: "the backward pass is written so that the fusions of the forward pass still apply",
        apply: |builder, _| builder.with_optimization_level(GraphOptimizationLevel::All),
    },
    Setting {
        name: "disabled optimizers",
        why: "CommonSubexpressionElimination would merge what is recomputed to save memory with what it was recomputed from; SkipLayerNormFusion \
              loses the mean and deviation that the backward pass reads, on CUDA; FuseFp16InitializerToFp32NodeTransformer would store every float16 \
              weight in float32, and ONNX Runtime 1.32 fails where a Loop reads one; the others fuse what a backward pass reads the inner values of, \
              which they find out by looking at every node",
        apply: |builder, settings| match settings.purpose {
            Purpose::Training => builder.with_disabled_optimizers(NOT_IN_TRAINING),
            Purpose::Inference => builder.with_disabled_optimizers(NOT_IN_INFERENCE),
        },
    },
    Setting {
        name: "constant folding up to 64 KiB",
        why: "a transposed or upcast weight would be stored a second time; a product transposes while it reads. A weight that is cast to half precision takes half of \
              what it took, and casting it costs as much as a layer's elementwise operators in every step",
        apply: |builder, settings| {
            if settings.keeps_casts {
                return Ok(builder);
            }
            builder.with_config_entry("optimization.constant_folding_max_output_size_in_bytes", "65536")
        },
    },
    Setting {
        name: "quantised operators",
        why: "weights stay packed, in the forward and the backward pass: fusing or folding what unpacks them would store them a second time, and \
              ONNX Runtime 1.32 aborts while it fuses rounding that the backward pass reads too; without its fusions, products of int8 weights overflow \
              on processors without VNNI unless it is told to be precise",
        apply: |builder, settings| match settings.purpose {
            Purpose::Training => builder
                .with_config_entry("session.disable_quant_qdq", "1")?
                .with_config_entry("session.disable_qdq_constant_folding", "1")?
                .with_config_entry("session.x64quantprecision", "1"),
            Purpose::Inference => Ok(builder),
        },
    },
    Setting {
        name: "memory pattern",
        why: "the plan of the second run is allocated beside the chunks of the first, and one more for every new shape: memory doubles",
        apply: |builder, _| builder.with_memory_pattern(false),
    },
    Setting {
        name: "arena",
        why: "a session's own arena has several regions of one size, and writes to all of each in the end: memory was a third more, and with rows of many \
              lengths it grew on and on",
        apply: |builder, settings| match (settings.device, settings.purpose) {
            (Device::Cpu, Purpose::Training) => builder.with_config_entry(super::arena::USED, "1"),
            _ => Ok(builder),
        },
    },
    Setting {
        name: "prepacking",
        why: "a packed copy of every weight, for the forward and for the backward pass: twice the model's size for 7 to 20 % of time; few tokens a run gain most. \
              Training has it where it is asked for",
        apply: |builder, settings| builder.with_prepacking(settings.purpose == Purpose::Inference || settings.packs_weights),
    },
    Setting {
        name: "deterministic compute",
        why: "a resumed run repeats the interrupted one bit by bit; CUDA then adds up with cuDNN instead of kernels of the provider's own, which only the graphs that \
              change the state have to",
        apply: |builder, settings| {
            let may_differ = settings.may_differ && settings.device != Device::Cpu;
            builder.with_deterministic_compute(settings.purpose == Purpose::Training && !may_differ)
        },
    },
    Setting {
        name: "weights outside the arena",
        why: "the arena of the GPU rounds up what it holds, and weights never go back to it",
        apply: |builder, settings| match settings.device {
            Device::Cpu => Ok(builder),
            Device::Cuda(_) => builder.with_device_allocated_initializers(),
        },
    },
    Setting {
        name: "execution provider",
        why: "CUDA only where it was asked for, and then an error if it does not start. The CPU's is always there: registering it as well would switch off its arena",
        apply: |builder, settings| match settings.device {
            Device::Cpu => Ok(builder),
            Device::Cuda(number) => builder.with_execution_providers([cuda(number, settings).error_on_failure()]),
        },
    },
];

fn cuda(number: i32, settings: &Settings) -> ep::ExecutionProviderDispatch {
    let provider = ep::CUDA::default()
        .with_device_id(number)
        // The default doubles: a model that needs 33 GB takes 64. What rows of other lengths leave is given back (`cuda::Growth`).
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        // Set either way: the provider's own default is on, the crate's documentation says off.
        .with_tf32(settings.tf32);
    match settings.memory_limit {
        Some(bytes) => provider.with_memory_limit(bytes).build(),
        None => provider.build(),
    }
}
