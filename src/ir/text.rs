//! Graphs as ONNX text: the syntax that `onnx.parser.parse_model` reads (ONNX repository, `docs/Syntax.md`).

use std::fmt::{self, Display, Formatter, Write};

use super::dtype::DType;
use super::fact::Fact;
use super::graph::attr::Attr;
use super::graph::{Graph, Node, ValueId};
use super::tensor::Tensor;

/// Prints the graph in ONNX's textual syntax, which its parser reads back.
///
/// `{graph}` is for reading and comparing: constants of more than 16 elements stand there with their type and shape but with empty
/// data. `{graph:#}` writes all data, so that what is parsed from it is the same model. Not in the text: what a file says beside
/// operators, names and types (documentation, metadata), and attributes of kinds that have no text.
impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "<")?;
        writeln!(f, "   ir_version: {},", self.model.ir_version)?;
        let opset = |o: &super::graph::Opset| format!("{} : {}", quoted(&o.domain), o.version);
        writeln!(f, "   opset_import: [{}]", joined(&self.model.opsets, opset))?;
        writeln!(f, ">")?;
        let elements = if f.alternate() { usize::MAX } else { SHORT };
        Text { graph: self, elements, indent: 0 }.write(f)?;
        writeln!(f)
    }
}

/// Constants of up to this many elements are written out.
const SHORT: usize = 16;

/// One graph of a model, or a body in it.
struct Text<'a> {
    graph: &'a Graph,
    /// The number of elements up to which constants are written out.
    elements: usize,
    indent: usize,
}

impl Text<'_> {
    fn write(&self, out: &mut impl Write) -> fmt::Result {
        let graph = self.graph;
        let input = |&id: &ValueId| match graph.initializer(id) {
            Some(default) => format!("{} = {}", self.typed(id), self.data(default)),
            None => self.typed(id),
        };
        let output = |&id: &ValueId| self.typed(id);
        write!(out, "{} ({}) => ({})", name(graph.name()), joined(graph.inputs(), input), joined(graph.outputs(), output))?;
        let pad = "   ".repeat(self.indent);
        let constants: Vec<_> = graph.initializers().filter(|(id, _)| !graph.is_input(*id)).collect();
        if !constants.is_empty() {
            let lines = constants
                .iter()
                .map(|(id, tensor)| format!("{pad}   {} {} = {}", tensor_type(tensor), name(graph.value_name(*id)), self.data(tensor)));
            write!(out, "\n{pad}<\n{}\n{pad}>", lines.collect::<Vec<_>>().join(",\n"))?;
        }
        writeln!(out, "\n{pad}{{")?;
        for node in graph.nodes() {
            write!(out, "{pad}   ")?;
            self.node(out, node)?;
            writeln!(out)?;
        }
        write!(out, "{pad}}}")
    }

    fn node(&self, out: &mut impl Write, node: &Node) -> fmt::Result {
        if !node.name.is_empty() {
            write!(out, "[{}] ", quoted(&node.name))?;
        }
        let value = |id: &Option<ValueId>| id.map_or_else(|| "\"\"".into(), |id| name(self.graph.value_name(id)));
        let (domain, op) = node.domain_and_name();
        let dot = if domain.is_empty() { "" } else { "." };
        write!(out, "{} = {domain}{dot}{op}", joined(&node.outputs, value))?;
        if !node.attrs.is_empty() {
            let attrs: Vec<_> = node.attrs.iter().collect();
            write!(out, " <{}>", joined(&attrs, |(name, attr)| self.attribute(name, attr)))?;
        }
        write!(out, " ({})", joined(&node.inputs, value))
    }

    fn attribute(&self, name: &str, attr: &Attr) -> String {
        let text = match attr {
            Attr::Int(n) => n.to_string(),
            Attr::Float(x) => float(*x),
            Attr::Str(bytes) => quoted(&String::from_utf8_lossy(bytes)),
            Attr::Tensor(tensor) => self.tensor(tensor),
            Attr::Graph(body) => self.body(body),
            Attr::Ints(all) => format!("[{}]", joined(all, i64::to_string)),
            Attr::Floats(all) => format!("[{}]", joined(all, |&x| float(x))),
            Attr::Strs(all) => format!("[{}]", joined(all, |bytes| quoted(&String::from_utf8_lossy(bytes)))),
            Attr::Tensors(all) => format!("[{}]", joined(all, |tensor| self.tensor(tensor))),
            Attr::Graphs(all) => format!("[{}]", joined(all, |body| self.body(body))),
            Attr::Opaque(bytes) => quoted(&format!("{} bytes that are not shown", bytes.len())),
        };
        // The parser takes the type of a list from its first element.
        let kind = match attr {
            Attr::Ints(all) if all.is_empty() => ": ints ",
            Attr::Floats(all) if all.is_empty() => ": floats ",
            Attr::Strs(all) if all.is_empty() => ": strings ",
            Attr::Tensors(all) if all.is_empty() => ": tensors ",
            Attr::Graphs(all) if all.is_empty() => ": graphs ",
            _ => "",
        };
        format!("{name} {kind}= {text}")
    }

    fn body(&self, body: &Graph) -> String {
        let mut text = String::new();
        let written = Text { graph: body, elements: self.elements, indent: self.indent + 1 }.write(&mut text);
        written.expect("writing to a string does not fail");
        text
    }

    fn tensor(&self, tensor: &Tensor) -> String {
        format!("{} {}", tensor_type(tensor), self.data(tensor))
    }

    /// The elements, none if there are too many.
    fn data(&self, tensor: &Tensor) -> String {
        if tensor.len() > self.elements { "{}".into() } else { format!("{{{}}}", elements(tensor).join(", ")) }
    }

    fn typed(&self, id: ValueId) -> String {
        let value = self.graph.value(id);
        let mut text = fact_type(&value.fact);
        text.push_str(&name(&value.name));
        text
    }
}

/// Type and shape with a space behind; nothing where even the type is unknown. `[]` is an unknown rank, nothing is rank 0.
fn fact_type(fact: &Fact) -> String {
    let Some(dtype) = fact.dtype else { return String::new() };
    let length = |dim: &super::dim::Dim| match (dim.as_known(), dim.as_name()) {
        (Some(length), _) => length.to_string(),
        (None, Some(symbol)) => name(symbol),
        (None, None) => quoted(&dim.to_string()),
    };
    match &fact.shape {
        None => format!("{dtype}[] "),
        Some(dims) if dims.is_empty() => format!("{dtype} "),
        Some(dims) => format!("{dtype}[{}] ", dims.iter().map(length).collect::<Vec<_>>().join(",")),
    }
}

fn tensor_type(tensor: &Tensor) -> String {
    match tensor.shape() {
        [] => tensor.dtype().to_string(),
        shape => format!("{}[{}]", tensor.dtype(), shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// The elements as ONNX's parser takes them: small floats as the whole numbers of their bits, types of less than a byte as packed bytes.
fn elements(tensor: &Tensor) -> Vec<String> {
    let bytes = || tensor.bytes().map(|b| b.to_vec()).unwrap_or_default();
    let wide = |size: usize| {
        let read = |chunk: &[u8]| chunk.iter().rev().fold(0_u64, |n, &b| n << 8 | u64::from(b)).to_string();
        bytes().chunks_exact(size).map(read).collect::<Vec<_>>()
    };
    match tensor.dtype() {
        DType::String => tensor.as_strings().unwrap_or_default().iter().map(|s| quoted(&String::from_utf8_lossy(s))).collect(),
        DType::F32 => tensor.to_f32().unwrap_or_default().into_iter().map(float).collect(),
        DType::F64 => tensor.to_f64().unwrap_or_default().into_iter().map(|x| format!("{x:?}").to_lowercase()).collect(),
        DType::U64 => wide(8),
        DType::F16 | DType::BF16 => wide(2),
        DType::Complex64 | DType::Complex128 => vec![],
        _ => match tensor.to_i64() {
            Some(all) => all.iter().map(ToString::to_string).collect(),
            None => wide(1),
        },
    }
}

/// A number that the parser takes for a float: with a point, an exponent, or a name.
fn float(x: f32) -> String {
    format!("{x:?}").to_lowercase()
}

/// Words that the parser takes for types.
const TYPES: &[&str] = &["graph", "map", "optional", "seq", "sparse_tensor"];

/// A name, in quotes unless it is an identifier that means nothing else.
fn name(text: &str) -> String {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = starts && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let reserved = || TYPES.contains(&text) || (1..=26).filter_map(DType::from_code).any(|dtype| dtype.name() == text);
    if plain && !reserved() { text.into() } else { quoted(text) }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn joined<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Dim, ModelInfo};

    #[test]
    fn names_values_and_bodies() {
        let b = Builder::new(ModelInfo::dialect());
        let x = b.input("x/in", DType::F32, &[Dim::symbol("batch"), &Dim::symbol("seq") + &Dim::known(1)]);
        let rate = b.optional_input("rate", Tensor::from_f32(&[], &[1e-10]));
        let go = b.input("go", DType::Bool, &[]);
        let branch = |name: &str| {
            let body = b.body(name);
            let z = body.capture(x).exp();
            body.output(&format!("{name}_z"), z);
            body.finish_body().expect("a body")
        };
        let z = b.op_with_bodies("If", &[Some(go)], vec![("then_branch", branch("yes")), ("else_branch", branch("no"))], 1)[0];
        b.output("y", z * rate);
        b.output("float", b.initializer("w", Tensor::from_f32(&[17], &[0.5; 17])).identity());
        let graph = b.finish().expect("a graph");
        insta::assert_snapshot!(graph.to_string(), @r#"
        <
           ir_version: 8,
           opset_import: ["" : 18]
        >
        "graph" (float[batch,"seq + 1"] "x/in", float rate = {1e-10}, bool go) => (float[batch,"seq + 1"] y, float[17] "float")
        <
           float[17] w = {}
        >
        {
           ["If"] "If:0" = If <then_branch = yes () => (float[batch,"seq + 1"] yes_z)
           {
              ["yes/Exp"] yes_z = Exp ("x/in")
           }, else_branch = no () => (float[batch,"seq + 1"] no_z)
           {
              ["no/Exp"] no_z = Exp ("x/in")
           }> (go)
           ["Mul"] y = Mul ("If:0", rate)
           ["Identity"] "float" = Identity (w)
        }
        "#);
        assert!(format!("{graph:#}").contains("float[17] w = {0.5, 0.5"));
    }
}
