//! Fine-tune any ONNX transformer: adapters of parameter-efficient fine-tuning are put into the graph, the backward pass is written as
//! standard operators, and a stock ONNX Runtime trains the result.
//!
//! ```text
//! onnx::read ─▶ raise ─▶ decompose ─▶ anatomy::read ─▶ adapter::Plan ─▶ train::step ─▶ export::bundle ─▶ training::run ─▶ export::merge
//!   a Graph      one      standard   what a          where what       loss, gradient,  a folder of        PEFT's files        one model
//!                dialect  operators  transformer     is inserted      AdamW            graphs             again
//! ```
//!
//! The binary's commands are thin: each is a function of this library with its options. Three of them make a tuned model:
//!
//! ```no_run
//! use peft_onnx::Model;
//! use peft_onnx::export::Injection;
//! use peft_onnx::export::bundle::{self, Existing};
//! # fn main() -> peft_onnx::Result<()> {
//! let model = Model::open("model.onnx")?;
//! let injected = bundle::write(model, &Injection::default(), "model.lora".as_ref(), Existing::Keep)?;
//! println!("{} parameters are trained", injected.manifest.trainable_count);
//! # Ok(())
//! # }
//! ```
//!
//! Reading, adapting, differentiating and writing need no ONNX Runtime: without the feature `runtime` the crate has no native dependency.
//!
//! # A guide
//!
//! ## A graph
//!
//! A [`Graph`](ir::Graph) is an ONNX graph: values, nodes that make them, and tensors. It does not change: whatever works on a graph makes another one.
//! Values are known by [ids](ir::ValueId), which stay the same in every graph that is written on top of a graph; names are for people and files.
//!
//! ```
//! # use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
//! # fn main() -> peft_onnx::Result<()> {
//! let b = Builder::new(ModelInfo::dialect());
//! let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
//! b.output("y", x.tanh());
//! let graph = b.finish()?;
//! let y = graph.outputs()[0];
//! assert_eq!((graph.value_name(y), graph.nodes().len()), ("y", 1));
//! let bytes = peft_onnx::onnx::to_bytes(&graph)?;
//! assert_eq!(peft_onnx::onnx::read_bytes(bytes, &[])?.nodes().len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! ## A fact
//!
//! A [`Fact`](ir::Fact) is what is known of a value without running the graph: the type of its elements, the lengths of its axes, and, where it is
//! small and known, what it holds. A length is a [`Dim`](ir::Dim): a number, a name, or a polynomial of names. Every node that is written has facts for its outputs.
//!
//! ```
//! # use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
//! let b = Builder::new(ModelInfo::dialect());
//! let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::symbol("seq"), Dim::known(8)]);
//! let y = x.reshape(&[-1, 8]).matmul(b.input("w", DType::F32, &[Dim::known(8), Dim::known(2)]));
//! assert_eq!(y.fact().to_string(), "float[batch*seq, 2]");
//! ```
//!
//! ## A builder
//!
//! A [`Builder`](ir::Builder) writes graphs as formulas. An [`Expr`](ir::Expr) is a value in it: `+ - * /` and a method for each operator of ONNX.
//! What goes wrong is kept and told by [`finish`](ir::Builder::finish), so that formulas need no `?`. A builder that stands [on](ir::Builder::on) a graph
//! changes it: [`rewire`](ir::Builder::rewire) has all who read a value read another in its place.
//!
//! ```
//! # use peft_onnx::ir::{Builder, DType, Dim, ModelInfo};
//! # fn main() -> peft_onnx::Result<()> {
//! let b = Builder::new(ModelInfo::dialect());
//! let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
//! let gate = x.sigmoid();
//! let gate_id = gate.id();
//! b.output("y", x * gate);
//! let graph = b.finish()?;
//! let b = Builder::on(&graph);
//! b.rewire(b.expr(gate_id), |gate| gate * 0.5 + 0.5);
//! assert_eq!(b.finish()?.nodes().len(), 4);
//! # Ok(())
//! # }
//! ```
//!
//! ## An anatomy
//!
//! An [`Anatomy`](anatomy::Anatomy) says what a graph is as a transformer: its projections under the names of Hugging Face's modules, its attentions, tables,
//! head, cache and inputs. It is found from structure and from names that exporters leave. What was looked for in vain is a
//! [`Miss`](anatomy::Miss), with the place where the search ended.
//!
//! ```
//! # use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
//! # fn main() -> peft_onnx::Result<()> {
//! # let b = Builder::new(ModelInfo::dialect());
//! # let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
//! let weight = b.initializer("encoder.proj.weight", Tensor::from_f32(&[4, 2], &[0.5; 8]));
//! b.output("y", x.matmul(weight));
//! let model = peft_onnx::Model::of(&b.finish()?)?;
//! let projection = &model.anatomy().projections[0];
//! assert_eq!((&*projection.module, projection.in_features, projection.out_features), ("encoder.proj", 4, 2));
//! # Ok(())
//! # }
//! ```
//!
//! ## A plan
//!
//! A [`Plan`](adapter::Plan) is a method settled for a model: which modules have a branch, of what rank, with which initial values. It can be put into any graph of the
//! model: for inference with its parameters as optional inputs, for training with dropout, or folded into the weights.
//!
//! ```
//! # use peft_onnx::ir::{Builder, DType, Dim, ModelInfo, Tensor};
//! use peft_onnx::adapter::Method;
//! use peft_onnx::adapter::config::Task;
//! use peft_onnx::adapter::methods::lora::LoraConfig;
//! use peft_onnx::adapter::targets::Strictness;
//! use peft_onnx::adapter::{Plan, Purpose};
//! # fn main() -> peft_onnx::Result<()> {
//! # let b = Builder::new(ModelInfo::dialect());
//! # let x = b.input("x", DType::F32, &[Dim::symbol("batch"), Dim::known(4)]);
//! # let weight = b.initializer("encoder.q_proj.weight", Tensor::from_f32(&[4, 4], &[0.5; 16]));
//! # let head = b.initializer("classifier.weight", Tensor::from_f32(&[4, 2], &[0.5; 8]));
//! # b.output("logits", x.matmul(weight).tanh().matmul(head));
//! # let model = peft_onnx::Model::of(&b.finish()?)?;
//! let (graph, anatomy) = (model.graph(), model.anatomy());
//! let method = Method::from(LoraConfig::default());
//! let plan = Plan::new(&method, Task::SeqCls, anatomy, Strictness::Every, 42, &|_| None)?;
//! assert_eq!(plan.targets().len(), 1);
//! let b = Builder::on(graph);
//! let params = plan.insert(&b, graph, anatomy, &|_| None, Purpose::Inference)?;
//! assert!(params.iter().any(|param| param.key.contains("encoder.q_proj")));
//! # Ok(())
//! # }
//! ```
//!
//! From here: [`Bundle::of`] puts an adapter into a model in memory, `Trainer` takes steps over batches of one's own, and the folder `examples/` has whole programs.

pub mod adapter;
pub mod anatomy;
#[cfg(feature = "cli")]
pub mod cli;
pub mod contract;
#[cfg(feature = "runtime")]
pub mod data;
pub mod decompose;
pub mod error;
#[cfg(feature = "runtime")]
pub mod evaluate;
pub mod export;
pub mod files;
pub mod forecast;
#[cfg(feature = "runtime")]
pub mod generate;
pub mod grad;
pub mod inspect;
#[cfg(feature = "cli")]
pub mod install;
pub mod ir;
pub mod kernels;
pub mod measure;
#[cfg(feature = "runtime")]
pub mod media;
pub mod model;
pub mod num;
pub mod onnx;
#[cfg(feature = "runtime")]
pub mod ort;
#[cfg(feature = "runtime")]
pub mod parallel;
pub mod peft;
#[cfg(feature = "runtime")]
pub mod predict;
pub mod safetensors;
#[cfg(feature = "serve")]
pub mod serve;
pub mod train;
#[cfg(feature = "runtime")]
pub mod training;
pub mod work;
pub use error::{Context, Error, ErrorKind, Place, Result};
pub use export::{Bundle, Injection};
pub use model::Model;
pub use peft::AdapterFiles as Adapter;
#[cfg(feature = "runtime")]
pub use training::{Trainer, TrainerOptions};
