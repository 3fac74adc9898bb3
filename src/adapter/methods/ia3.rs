//! IA3: learned factors of what modules give, or of what feed-forward modules take (Liu et al., Few-Shot Parameter-Efficient Fine-Tuning,
//! section 3.3; PEFT `tuners/ia3/layer.py`).

use std::ops::Range;

use ndarray::{Array2, Axis};
use serde_json::json;

use super::branch::{self, Attached, Branch, Forward, Linear, Side};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::settings::{Settings, selection};
use crate::adapter::config::{Bias, Scope, Selection, Targets};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::key::{Family, KeyPart, Tensors};
use crate::adapter::part::{Folding, Insertion};
use crate::adapter::targets::pattern::Pattern;
use crate::adapter::weights::fold;
use crate::anatomy::{Anatomy, Projection};
use crate::ir::Tensor;
use crate::{Error, Result};

/// `[out_features, 1]`, or `[1, in_features]` for the input's.
const IA3: KeyPart = KeyPart::new("ia3_l", "");

/// The row of IA3.
pub static ROW: Row = Row {
    name: "ia3",
    aliases: &[],
    variants: &[],
    about: "Learned factors of activations",
    peft_type: "IA3",
    learning_rate: 5e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[IA3], shared: &[] },
    adapter_file: "ia3",
    takes: &[SCOPE, &["feedforward_modules"]],
    page: "ia3.md",
    read: |fields| Ia3Config::read(fields).map(Into::into),
    configure: |options: &Options| {
        let (scope, feedforward) = (options.scope.clone(), options.feedforward.clone());
        Ok(Ia3Config { scope, feedforward, fan_in_fan_out: false }.into())
    },
};

/// The options of IA3 (`IA3Config`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ia3Config {
    /// Where it attaches.
    pub scope: Scope,
    /// Targets whose input is scaled instead of their output.
    pub feedforward: Option<Selection>,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

impl Ia3Config {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(&["init_ia3_weights"]);
        Ok(Self {
            scope: Scope::read(fields)?,
            feedforward: fields.selection("feedforward_modules")?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }
}

/// Factors at one module.
#[derive(Debug)]
struct Factors {
    linear: Linear,
    side: Side,
}

impl Configuration for Ia3Config {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put("feedforward_modules", self.feedforward.as_ref().map_or(json!([]), selection));
        settings.put("fan_in_fan_out", self.fan_in_fan_out);
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }

    fn scope_mut(&mut self) -> Option<&mut Scope> {
        Some(&mut self.scope)
    }

    fn fan_in_fan_out_mut(&mut self) -> Option<&mut bool> {
        Some(&mut self.fan_in_fan_out)
    }

    /// Finds the modules; where none are named: keys, values, and what makes the hidden states of a feed-forward block narrow again.
    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        let mut config = self.clone();
        if config.scope.targets.is_default() {
            let (targets, feedforward) = defaults(at.anatomy);
            config.scope.targets = Targets::Only(Selection::Names(targets));
            config.feedforward.get_or_insert(Selection::Names(feedforward));
        }
        let factors = |linear: Linear| {
            let of_input = config.feedforward.as_ref().map_or(Ok(false), |selection| is_feedforward(selection, &linear.module))?;
            Ok(Factors { linear, side: if of_input { Side::Input } else { Side::Output } })
        };
        let branches = branch::choose(&config.scope, at)?.into_iter().map(factors).collect::<Result<Vec<_>>>()?;
        Ok(branch::placed(config, branches, Bias::None, at))
    }
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

impl Factors {
    fn length(&self) -> usize {
        if self.side == Side::Input { self.linear.in_features } else { self.linear.out_features }
    }
}

impl Branch for Factors {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "ia3", module: &self.linear.module, ..Attached::default() }
    }

    fn side(&self) -> Side {
        self.side
    }

    /// Fresh factors are 1.
    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let length = self.length();
        let shape = if self.side == Side::Input { [1, length] } else { [length, 1] };
        let factors = at.params.of(self.module(), IA3, || Tensor::from_f32(&shape, &vec![1.0; length]));
        Ok(Box::new(move |call| call.times(factors.reshape(&[-1]))))
    }

    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, _: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let factors = at.vector(self.module(), IA3)?;
        let (length, axis) = if self.side == Side::Input { (weight.ncols(), Axis(0)) } else { (weight.nrows(), Axis(1)) };
        if factors.len() != length {
            return Err(Error::mismatch("number of factors", length, factors.len()));
        }
        Ok(weight * factors.view().insert_axis(axis))
    }

    fn fold_bias(&self, at: &Folding<'_>) -> Result<()> {
        match self.side {
            Side::Input => Ok(()),
            Side::Output => {
                let factors = at.vector(self.module(), IA3)?;
                let scaled = |bias: &[f32]| Ok(bias.iter().zip(&factors).map(|(bias, factor)| bias * factor).collect());
                fold::change_bias(at, self.module(), factors.len(), scaled)
            }
        }
    }
}
