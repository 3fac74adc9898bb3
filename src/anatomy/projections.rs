//! Gives projections and tables their modules.

use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{Graph, ValueId};

use super::embedding::Table;
use super::linear::Linear;
use super::names::{Evidence, Namer, first_call, owned};
use super::scores::scaled as scaled_by_number;
use super::walk::ValueRef;
use super::{Embedding, Layout, Projection, Scaling, Weight, copies};

/// What the graph says of the names of projections and tables.
pub(super) struct Hints {
    linears: Vec<Evidence>,
    tables: Vec<Evidence>,
    /// The scopes of modules that choose: routers of experts, which hold a bare parameter where their code also chooses.
    choosers: BTreeSet<String>,
    pub(super) namer: Namer,
}

impl Hints {
    pub(super) fn gather(graph: &Graph, linears: &[Linear], tables: &[Table]) -> Self {
        let of_linear = |l: &Linear| {
            let nodes: Vec<_> = std::iter::once(l.node).chain(l.bias_node).collect();
            Evidence::of(graph, &nodes, &[Some(l.weight.value), l.bias])
        };
        let linears: Vec<Evidence> = linears.iter().map(of_linear).collect();
        let tables: Vec<Evidence> = tables.iter().map(|t| Evidence::of(graph, &[t.node], &[Some(t.weight), Some(t.read)])).collect();
        let namer = Namer::learn(graph, &[linears.as_slice(), &tables].concat(), linears.last());
        let choices = graph.node_ids().filter(|(_, node)| &*node.op == "TopK");
        let choosers = choices.filter_map(|(id, _)| Evidence::of(graph, &[id], &[]).scope().map(str::to_owned)).collect();
        Self { linears, tables, choosers, namer }
    }

    /// A module for each projection that there is a name for: one for all calls of a shared module.
    pub(super) fn modules(&self, graph: &Graph, linears: &[Linear]) -> Vec<Option<String>> {
        let named = linears.iter().zip(&self.linears).map(|(linear, hint)| Some(named_part(self.namer.module(hint)?, linear.part_name)));
        let mut modules: Vec<Option<String>> = named.collect();
        // Optimizers change the order: a later call may come before the first.
        let mut calls: BTreeMap<String, &Linear> = BTreeMap::new();
        for (module, linear) in modules.iter().zip(linears) {
            if let Some(module) = module {
                calls.entry(module.clone()).or_insert(linear);
            }
        }
        for (module, linear) in modules.iter_mut().zip(linears) {
            let is_another = |first: &String| calls.get(first).is_some_and(|known| copies::are_one(graph, &known.weight, &linear.weight));
            if let Some(first) = module.as_deref().and_then(first_call).filter(is_another) {
                *module = Some(first);
            }
        }
        self.name_decoders(&mut modules);
        modules
    }

    /// Heads of masked language models keep the bias of their last projection beside it: `cls.predictions.bias` is that of
    /// `cls.predictions.decoder`, and no projection holds another (`cls.predictions.transform.dense`).
    fn name_decoders(&self, modules: &mut [Option<String>]) {
        let all: BTreeSet<String> = modules.iter().flatten().cloned().collect();
        let holds_another = |module: &String| {
            let inner = format!("{module}.");
            all.range(inner.clone()..).next().is_some_and(|next| next.starts_with(&inner))
        };
        for (module, hint) in modules.iter_mut().zip(&self.linears) {
            if let Some(module) = module.as_mut().filter(|module| hint.is_owner_only() && holds_another(module)) {
                module.push_str(".decoder");
            }
        }
    }

    /// The tables with their names.
    pub(super) fn embeddings(&self, graph: &Graph, tables: &[Table]) -> Vec<Embedding> {
        let named = tables.iter().zip(&self.tables).enumerate();
        let embedding = |(at, (table, hint)): (usize, (&Table, &Evidence))| {
            let Table { weight, transposed, indices, output, rows, hidden, is_rotation, .. } = *table;
            let module = self.namer.module(hint).unwrap_or_else(|| format!("embedding_{at}"));
            let (scaled, scaling) = self.scaled(graph, table, hint);
            Embedding { module, weight, transposed, indices, output, scaled, scaling, rows, hidden, is_rotation }
        };
        named.map(embedding).collect()
    }

    /// The rows after the scale that the table's own module multiplies them with, as its name tells (Gemma 3, XGLM); another module's scale is
    /// no part of the table (Gemma). And that scale, whosever it is; ONNX Runtime GenAI's builder calls every one the table's.
    fn scaled(&self, graph: &Graph, table: &Table, hint: &Evidence) -> (ValueId, Option<Scaling>) {
        let reader = ValueRef::new(graph, table.output).into(&["Mul", "Div"]).ok().filter(|&node| scaled_by_number(node).is_ok());
        let Some((node, product)) = reader.and_then(|node| Some((node, node.node().output(0)?))) else { return (table.output, None) };
        let evidence = Evidence::of(graph, &[node.id()], &[]);
        let is_told = !self.namer.genai && evidence.scope().is_some() && hint.scope().is_some();
        let scaled = if evidence.is_of_same_scope(hint) { product } else { table.output };
        let factor = scaled_by_number(node).ok().and_then(|(_, factor)| factor);
        (scaled, Some(Scaling { product, factor, is_told }))
    }

    /// Every module path that names tell, those of norms and biases among them.
    pub(super) fn known(&self, graph: &Graph, modules: &[Option<String>], embeddings: &[Embedding]) -> BTreeSet<String> {
        let owners = graph.initializers().filter_map(|(id, _)| self.namer.parameter(graph.value_name(id))).map(|owned| owned.module);
        owners.chain(modules.iter().flatten().cloned()).chain(embeddings.iter().map(|e| e.module.clone())).collect()
    }

    /// The projections with their names; different weights get different ones.
    pub(super) fn projections(&self, graph: &Graph, linears: Vec<Linear>, modules: Vec<Option<String>>) -> Vec<Projection> {
        let mut bearers: BTreeMap<String, Weight> = BTreeMap::new();
        let mut projections = Vec::with_capacity(linears.len());
        for ((linear, module), hint) in linears.into_iter().zip(modules).zip(&self.linears) {
            let is_free = |name: &String| bearers.get(name).is_none_or(|other| copies::are_one(graph, other, &linear.weight));
            let wanted = module.unwrap_or_else(|| "linear".to_owned());
            let numbers = (1..=bearers.len()).map(|n| format!("{wanted}.{n}"));
            let module = std::iter::once(wanted.clone()).chain(numbers).find(is_free).unwrap_or(wanted);
            bearers.entry(module.clone()).or_insert_with(|| linear.weight.clone());
            let is_linear = is_linear(hint) && !hint.scope().is_some_and(|scope| self.choosers.contains(scope));
            projections.push(Projection { is_linear, ..projection(graph, linear, module, hint) });
        }
        projections
    }
}

/// The name of a part beside those of the other parts, instead of that of the whole.
fn named_part(whole: String, part: Option<&str>) -> String {
    match (part, whole.rsplit_once('.')) {
        (Some(part), Some((parent, _))) => format!("{parent}.{part}"),
        (Some(part), None) => part.to_owned(),
        (None, _) => whole,
    }
}

fn projection(graph: &Graph, linear: Linear, module: String, hint: &Evidence) -> Projection {
    let Linear { x, y, output, weight, bias, in_features, out_features, .. } = linear;
    let is_stored_so = || weight.layout == Layout::InOut && keeps_its_name(graph, weight.value, &module);
    let conv1d = match hint.class_name() {
        Some("Conv1D") => true,
        Some(class) => !class.contains("Linear") && is_stored_so(),
        None => CONV1D.contains(&module.rsplit('.').next().unwrap_or_default()) && is_stored_so(),
    };
    Projection { module, x, y, output, weight, bias, in_features, out_features, rows: None, conv1d, is_linear: is_linear(hint) }
}

/// Whether the exporter says that the module is a linear layer, or says nothing.
fn is_linear(hint: &Evidence) -> bool {
    hint.class_name().is_none_or(|name| name == "Conv1D" || name.contains("Linear"))
}

/// What transformers calls its modules of the class `Conv1D` (GPT-2 and its relatives), where no exporter tells classes.
const CONV1D: &[&str] = &["c_attn", "q_attn", "c_proj", "c_fc"];

/// Whether the constant still has the name that PyTorch gave it. PyTorch's exporters give a weight that they transpose another, so that one which
/// has its name and is stored `[in, out]` was `[in, out]` in PyTorch. Other converters write a `Linear` so.
fn keeps_its_name(graph: &Graph, weight: ValueId, module: &str) -> bool {
    let name = graph.value_name(weight);
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    name.ends_with(".weight") && !name.ends_with(".MatMul.weight") && owned(name).is_some_and(|o| last(&o.module) == last(module))
}

#[cfg(test)]
mod tests {
    use super::Projection;
    use crate::anatomy;
    use crate::ir::{Builder, DType, Dim, ModelInfo, NodeSpec, Tensor};

    /// The projection of a product with a weight of this name, by a node with the annotation that tells its class.
    fn of_class(weight: &str, numbers: Tensor, class: Option<&str>) -> Projection {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x", DType::F32, &[Dim::symbol("rows"), Dim::known(2)]);
        let w = b.initializer(weight, numbers);
        let classes = class.map(|class| ("pkg.torch.onnx.class_hierarchy".into(), format!("['model', '{class}', 'aten.linear']").into()));
        let spec = NodeSpec {
            op: "MatMul".into(),
            inputs: vec![Some(x.id()), Some(w.id())],
            outputs: vec![Some("y".into())],
            metadata: classes.into_iter().collect(),
            ..NodeSpec::default()
        };
        let y = b.node(spec).into_iter().flatten().next().expect("one output");
        b.output("y", y);
        let graph = b.finish().expect("a valid graph");
        anatomy::read(&graph).projections.remove(0)
    }

    #[test]
    fn classes_tell_which_projections_are_linear_modules() {
        let rows = [
            (Some("torch.nn.modules.linear.Linear"), true),
            (Some("transformers.models.falcon.modeling_falcon.FalconLinear"), true),
            (Some("transformers.models.deepseek_v3.modeling_deepseek_v3.DeepseekV3TopkRouter"), false),
            (None, true),
        ];
        for (class, expected) in rows {
            let projection = of_class("w", Tensor::from_f32(&[2, 2], &[0.5; 4]), class);
            assert_eq!(projection.is_linear, expected, "{class:?}");
        }
    }

    /// A weight that is stored `[in, out]` under the name that its module has.
    #[test]
    fn what_is_stored_by_inputs_is_a_conv1d_where_its_class_or_its_name_says_so() {
        let rows = [
            ("h.0.attn.c_attn", None, true),
            ("lm_head", None, false),
            ("h.0.fc", None, false),
            ("h.0.fc", Some("transformers.pytorch_utils.Conv1D"), true),
            ("h.0.c_attn", Some("torch.nn.modules.linear.Linear"), false),
            // A module of one's own that multiplies by a parameter as it is.
            ("h.0.mix", Some("own.Mixer"), true),
        ];
        for (module, class, expected) in rows {
            let projection = of_class(&format!("{module}.weight"), Tensor::from_f32(&[2, 3], &[0.5; 6]), class);
            assert_eq!(projection.conv1d, expected, "{module} {class:?}");
        }
    }

    #[test]
    fn a_router_that_chooses_is_no_linear_module_and_one_beside_the_choice_is() {
        for (choice_in, expected) in [("/layers.0/mlp/gate", false), ("/layers.0/mlp", true)] {
            let b = Builder::new(ModelInfo::dialect());
            let x = b.input("x", DType::F32, &[Dim::symbol("rows"), Dim::known(2)]);
            let w = b.initializer("w", Tensor::from_f32(&[2, 4], &[0.5; 8]));
            let scores = b.scoped("/layers.0/mlp/gate", || x.matmul(w));
            b.output("chosen", b.scoped(choice_in, || b.op_n("TopK", &[Some(scores), Some(b.ints(&[2]))], &[], 2)[0]));
            let graph = b.finish().expect("a valid graph");
            assert_eq!(anatomy::read(&graph).projections[0].is_linear, expected, "{choice_in}");
        }
    }

    #[test]
    fn a_scale_is_part_of_a_table_where_its_module_says_so() {
        for (scale_in, is_part) in [("/model/embed_tokens", true), ("/model", false)] {
            let b = Builder::new(ModelInfo::dialect());
            let ids = b.input("input_ids", DType::I64, &[Dim::symbol("batch"), Dim::symbol("seq")]);
            let table = b.initializer("model.embed_tokens.weight", Tensor::from_f32(&[50, 2], &[0.5; 100]));
            let rows = b.scoped("/model/embed_tokens", || b.op("Gather", &[table, ids], &[]));
            let scaled = b.scoped(scale_in, || rows * 8.0);
            let (rows, scaled) = (rows.id(), scaled.id());
            b.output("out", b.scoped("/model/norm", || b.expr(scaled).tanh()));
            let graph = b.finish().expect("a valid graph");
            let found = &anatomy::read(&graph).embeddings[0];
            assert_eq!((found.output, found.scaled), (rows, if is_part { scaled } else { rows }), "{scale_in}");
        }
    }
}
