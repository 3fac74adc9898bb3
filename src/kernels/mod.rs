//! Which nodes ONNX Runtime's CUDA provider has kernels for.
//!
//! A node without one runs on the processor, and what it reads and writes is copied between the devices in every run. The table, `cuda.txt`, is what the library
//! itself lists: `scripts/fixtures/make_cuda_kernels.py` writes it, and says what its lines are. It knows nothing of what a kernel does when it runs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use crate::ir::{DType, ModelInfo, Node, ValueId};

/// The table.
const TABLE: &str = include_str!("cuda.txt");

/// Names of types in the table.
const TYPES: &[(&str, DType)] = &[
    ("f32", DType::F32),
    ("f16", DType::F16),
    ("bf16", DType::BF16),
    ("f64", DType::F64),
    ("bool", DType::Bool),
    ("i4", DType::I4),
    ("i8", DType::I8),
    ("i16", DType::I16),
    ("i32", DType::I32),
    ("i64", DType::I64),
    ("u4", DType::U4),
    ("u8", DType::U8),
    ("u16", DType::U16),
    ("u32", DType::U32),
    ("u64", DType::U64),
];

/// One kernel, or several that differ in one type.
struct Kernel {
    /// The operator sets that have it.
    first: i64,
    last: i64,
    types: Vec<(Vec<Place>, Vec<DType>)>,
}

/// Where a value of a type stands.
#[derive(Clone, Copy)]
enum Place {
    Input(usize),
    Output(usize),
    InputsFrom(usize),
    OutputsFrom(usize),
}

/// Whether the CUDA provider has a kernel for a node of a model, if its values are of the types that `dtype` tells; a value of which it tells none is of any type.
pub fn has_cuda(model: &ModelInfo, node: &Node, dtype: impl Fn(ValueId) -> Option<DType>) -> bool {
    let (domain, _) = node.domain_and_name();
    // A domain that a model does not name is one that ONNX Runtime adds, in its first version.
    let version = model.version_of(domain).unwrap_or(1);
    let kernels = table().get(&*node.op).map(Vec::as_slice).unwrap_or_default();
    kernels.iter().filter(|kernel| (kernel.first..=kernel.last).contains(&version)).any(|kernel| kernel.takes(node, &dtype))
}

impl Kernel {
    fn takes(&self, node: &Node, dtype: &impl Fn(ValueId) -> Option<DType>) -> bool {
        self.types.iter().all(|(places, types)| {
            let values = places.iter().flat_map(|place| place.values(node));
            values.filter_map(dtype).all(|dtype| types.contains(&dtype))
        })
    }

    /// The operator and its kernel, of a line of the table; none of a line that is not understood.
    fn read(line: &'static str) -> Option<(&'static str, Self)> {
        let mut words = line.split(' ');
        let (op, versions) = (words.next()?, words.next()?);
        let (first, last) = versions.split_once('-')?;
        let last = if last.is_empty() { i64::MAX } else { last.parse().ok()? };
        let types = words.map(|word| {
            let (places, types) = word.split_once('=')?;
            let dtype = |name: &str| TYPES.iter().find(|(short, _)| *short == name).map(|(_, dtype)| *dtype);
            Some((places.split(',').map(Place::read).collect::<Option<_>>()?, types.split(',').map(dtype).collect::<Option<_>>()?))
        });
        Some((op, Self { first: first.parse().ok()?, last, types: types.collect::<Option<_>>()? }))
    }
}

impl Place {
    fn read(word: &str) -> Option<Self> {
        let (is_output, word) = word.strip_prefix('>').map_or((false, word), |rest| (true, rest));
        let (is_many, word) = word.strip_suffix('*').map_or((false, word), |rest| (true, rest));
        let at = word.parse().ok()?;
        Some(match (is_output, is_many) {
            (false, false) => Self::Input(at),
            (false, true) => Self::InputsFrom(at),
            (true, false) => Self::Output(at),
            (true, true) => Self::OutputsFrom(at),
        })
    }

    fn values(self, node: &Node) -> impl Iterator<Item = ValueId> + '_ {
        let (values, at, count) = match self {
            Self::Input(at) => (&node.inputs, at, 1),
            Self::InputsFrom(at) => (&node.inputs, at, usize::MAX),
            Self::Output(at) => (&node.outputs, at, 1),
            Self::OutputsFrom(at) => (&node.outputs, at, usize::MAX),
        };
        values.iter().skip(at).take(count).flatten().copied()
    }
}

fn table() -> &'static BTreeMap<&'static str, Vec<Kernel>> {
    static READ: OnceLock<BTreeMap<&'static str, Vec<Kernel>>> = OnceLock::new();
    READ.get_or_init(|| {
        let mut table: BTreeMap<&str, Vec<Kernel>> = BTreeMap::new();
        for (op, kernel) in lines().filter_map(Kernel::read) {
            table.entry(op).or_default().push(kernel);
        }
        table
    })
}

fn lines() -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Builder, Dim};

    #[test]
    fn every_line_of_the_table_is_understood() {
        let wrong: Vec<&str> = lines().filter(|line| Kernel::read(line).is_none()).collect();
        assert!(wrong.is_empty() && lines().count() > 300, "{wrong:?}");
    }

    #[test]
    fn kernels_are_told_by_operator_version_and_types() -> crate::Result<()> {
        let is_there = |op: &str, opset: i64, inputs: &[DType], output: DType| {
            let b = Builder::new(ModelInfo::dialect().with_opset("", opset));
            let inputs: Vec<_> = (0..).zip(inputs).map(|(i, dtype)| b.input(&format!("x{i}"), *dtype, &[Dim::known(2)])).collect();
            let y = b.op(op, &inputs, &[]);
            b.assume(y.id(), crate::ir::Fact::new(output, vec![Dim::known(2)]));
            b.output("y", y);
            let graph = b.finish()?;
            Ok::<_, crate::Error>(has_cuda(graph.model(), &graph.nodes()[0], |id| graph.fact(id).dtype))
        };
        for (op, opset, inputs, output, expected) in [
            ("Add", 18, &[DType::F32, DType::F32][..], DType::F32, true),
            ("Add", 18, &[DType::BF16, DType::BF16], DType::BF16, true),
            ("Log", 18, &[DType::F16], DType::F16, true),
            ("Log", 18, &[DType::BF16], DType::BF16, false),
            ("Cos", 21, &[DType::BF16], DType::BF16, false),
            ("Cos", 22, &[DType::BF16], DType::BF16, true),
            ("Dropout", 21, &[DType::F32], DType::F32, true),
            ("Dropout", 22, &[DType::F32], DType::F32, false),
            ("Less", 18, &[DType::F32, DType::F32], DType::Bool, true),
            ("DynamicQuantizeLinear", 18, &[DType::F32], DType::U8, false),
            ("com.microsoft:QuickGelu", 18, &[DType::F16], DType::F16, true),
        ] {
            assert_eq!(is_there(op, opset, inputs, output)?, expected, "{op} of opset {opset} with {inputs:?}");
        }
        Ok(())
    }
}
