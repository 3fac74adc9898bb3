//! IA3: learned factors of what modules give, or of what feed-forward modules take (Liu et al., Few-Shot Parameter-Efficient Fine-Tuning,
//! section 3.3; PEFT `tuners/ia3/layer.py`).

use std::collections::BTreeMap;

use ndarray::{ArrayView1, Axis};

use crate::adapter::config::{Ia3Config, Method, Selection};
use crate::adapter::params::{
    key::{Key, Part as KeyPart},
    param,
};
use crate::adapter::part::{Folding, Insertion, Part, Placed, Places};
use crate::adapter::targets::{self, pattern::Pattern};
use crate::adapter::weights::fold;
use crate::anatomy::{Anatomy, Projection};
use crate::ir::{Builder, DType, Expr, NodeSpec, Tensor, ValueId};
use crate::{Error, Result};

/// Factors at one module.
#[derive(Debug)]
struct Factors {
    module: String,
    /// Whether it is the input that is scaled.
    of_input: bool,
}

/// Finds the modules; where none are named: keys, values, and what makes the hidden states of a feed-forward block narrow again.
pub(crate) fn place(config: &Ia3Config, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.scope.modules_to_save = at.saved.to_vec();
    if config.scope.targets.is_default() {
        let (targets, feedforward) = defaults(at.anatomy);
        config.scope.targets = crate::adapter::config::Targets::Only(Selection::Names(targets));
        config.feedforward.get_or_insert(Selection::Names(feedforward));
    }
    let candidates = targets::candidates(at.anatomy);
    let chosen = targets::select(&config.scope, &candidates, at.strictness)?;
    let mut parts: Vec<Box<dyn Part>> = vec![];
    for place in chosen {
        let module = candidates[place].module.clone();
        if !at.anatomy.projections.iter().any(|projection| projection.module == module) {
            return Err(Error::unsupported(format!("IA3 on {module}"), "only linear projections have factors"));
        }
        let of_input = config.feedforward.as_ref().map_or(Ok(false), |selection| is_feedforward(selection, &module))?;
        parts.push(Box::new(Factors { module, of_input }));
    }
    let modules: Vec<String> = parts.iter().flat_map(|part| part.targets()).map(|(module, _)| module).collect();
    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    config.scope.settle(&modules, at.saved);
    config.fan_in_fan_out |= at.anatomy.projections.iter().any(|p| p.conv1d && modules.contains(&p.module.as_str()));
    Ok(Placed { parts, settled: Method::Ia3(config) })
}

/// PEFT's rule: names are ends of a path, with or without a dot before them (`_check_target_module_feedforward`).
fn is_feedforward(selection: &Selection, module: &str) -> Result<bool> {
    match selection {
        Selection::Names(names) => Ok(names.iter().any(|name| module.ends_with(name.as_str()))),
        Selection::Regex(source) => Pattern::whole("feedforward_modules", source)?.matches(module),
    }
}

/// The modules to scale, and those of them whose input is scaled, by structure.
fn defaults(anatomy: &Anatomy) -> (Vec<String>, Vec<String>) {
    let module = |place: Option<usize>| place.map(|place| anatomy.projections[place].module.clone());
    let mut targets: Vec<String> = anatomy.attentions.iter().flat_map(|a| [module(a.k), module(a.v)]).flatten().collect();
    let attention: Vec<usize> = anatomy.attentions.iter().flat_map(|a| [a.q, a.k, a.v, a.o]).flatten().collect();
    let head = anatomy.head.as_ref().and_then(|head| head.projection);
    let narrowing = |(place, projection): &(usize, &Projection)| {
        projection.in_features > projection.out_features && !attention.contains(place) && Some(*place) != head
    };
    let mut feedforward: Vec<String> =
        anatomy.projections.iter().enumerate().filter(narrowing).map(|(_, projection)| projection.module.clone()).collect();
    feedforward.dedup();
    targets.extend(feedforward.iter().cloned());
    targets.dedup();
    (targets, feedforward)
}

/// How many nodes may stand between a product and what it reads: `DynamicQuantizeLinear`, `MatMulInteger`, `Cast`, `Mul` and one to spare.
const BETWEEN: usize = 5;

/// One product made to read another value. What rounds its input may be read by other products as well, so that it is written again.
struct Again<'g> {
    /// What stands for a value: the other input, and what was written for it.
    instead: BTreeMap<ValueId, Expr<'g>>,
    b: &'g Builder,
}

impl<'g> Again<'g> {
    fn reading(old: Expr<'g>, new: Expr<'g>) -> Self {
        Self { instead: BTreeMap::from([(old.id(), new)]), b: old.b() }
    }

    fn rewire(mut self, output: ValueId) {
        let inputs = self.b.maker(output).map(|node| node.inputs).unwrap_or_default();
        for (place, input) in inputs.into_iter().enumerate() {
            if let Some(new) = input.and_then(|input| self.instead_of(input, BETWEEN)) {
                self.b.rewire_input(output, place, new);
            }
        }
    }

    /// What stands for a value, if it is made of the old input by so many nodes at most.
    fn instead_of(&mut self, value: ValueId, nodes: usize) -> Option<Expr<'g>> {
        if let Some(known) = self.instead.get(&value) {
            return Some(*known);
        }
        let node = self.b.maker(value).filter(|_| nodes > 0)?;
        let inputs: Vec<Option<Expr<'g>>> = node.inputs.iter().map(|input| self.instead_of((*input)?, nodes - 1)).collect();
        if inputs.iter().all(Option::is_none) {
            return None;
        }
        let outputs = node.outputs.clone();
        let written = self.b.node(NodeSpec {
            name: "".into(),
            op: node.op,
            inputs: node.inputs.iter().zip(inputs).map(|(old, new)| new.map_or(*old, |new| Some(new.id()))).collect(),
            outputs: outputs.iter().map(|output| output.map(|_| "".into())).collect(),
            attrs: node.attrs,
            ..NodeSpec::default()
        });
        self.instead.extend(outputs.iter().zip(written).filter_map(|(old, new)| old.zip(new)));
        self.instead.get(&value).copied()
    }
}

impl Part for Factors {
    /// `[out_features, 1]`, or `[1, in_features]` for the input's; fresh ones are 1.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let b = at.b;
        for projection in at.anatomy.projections.iter().filter(|projection| projection.module == self.module) {
            let length = if self.of_input { projection.in_features } else { projection.out_features };
            let length = usize::try_from(length).unwrap_or(0);
            let shape = if self.of_input { [1, length] } else { [length, 1] };
            let factors = param(at.params, &self.module, KeyPart::Ia3, || Tensor::from_f32(&shape, &vec![1.0; length]));
            b.scoped(&format!("ia3/{}", self.module), || {
                let row = factors.reshape(&[-1]);
                if self.of_input {
                    let x = b.current(projection.x);
                    Again::reading(x, (x.cast(DType::F32) * row).cast(x.dtype())).rewire(projection.y);
                } else {
                    b.rewire(b.expr(projection.output), |y| (y.cast(DType::F32) * row).cast(y.dtype()));
                }
            });
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        let factors = at.numbers(&Key::module(&*self.module, KeyPart::Ia3).to_string())?;
        let view = ArrayView1::from(&factors);
        fold::change_weight(at, &self.module, |weight| {
            let (length, axis) = if self.of_input { (weight.ncols(), Axis(0)) } else { (weight.nrows(), Axis(1)) };
            if view.len() != length {
                return Err(Error::mismatch("number of factors", length, view.len()));
            }
            Ok(weight * view.insert_axis(axis))
        })?;
        if self.of_input { Ok(()) } else { fold::scale_bias(at, &self.module, &factors) }
    }

    fn targets(&self) -> Vec<(String, usize)> {
        vec![(self.module.clone(), 0)]
    }
}
