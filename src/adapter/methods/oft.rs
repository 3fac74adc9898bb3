//! OFT: `y = W·(R·x)`, a rotation of the input in blocks of a skew-symmetric `Q` (Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal
//! Finetuning; PEFT `tuners/oft/layer.py`). By default (`use_cayley_neumann`) `R` is a sum of powers of `Q`, nearly `(I + Q)·(I − Q)⁻¹`; else it is
//! `(I − Q)·(I + Q)⁻¹` itself, as in PEFT with the other sign. Constrained (`coft`), no `Q` is larger than `eps / √blocks`.

mod rotation;

use std::collections::BTreeSet;
use std::ops::Range;

use ndarray::{Array2, s};

use super::branch::{self, Attached, Branch, Forward, Linear, Side, has_stored_weight, stored_weight};
use crate::adapter::config::fields::{Fields, Flag};
use crate::adapter::config::options::{Options, SCOPE};
use crate::adapter::config::{Bias, Scope, finite, probability, settings::Settings};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::budget::wide;
use crate::adapter::params::constraint::{self, Constraint};
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::{Param, init, places};
use crate::adapter::part::{Folding, Insertion};
use crate::anatomy::{Anatomy, Layout};
use crate::error::{Error, Result};
use crate::ir::{DType, Expr};
use crate::num;

use rotation::Cayley;

/// `[blocks, size · (size − 1) / 2]`: what stands above the diagonal of each `Q`, row by row.
const R: KeyPart = KeyPart::new("oft_R", "weight");

/// The row of OFT.
pub static ROW: Row = Row {
    name: "oft",
    aliases: &[],
    variants: &[],
    about: "Rotations of what modules take, in blocks",
    peft_type: "OFT",
    learning_rate: 1e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[R], shared: &[] },
    adapter_file: "oft",
    takes: &[SCOPE, &["rank", "bias"]],
    page: "oft.md",
    read: |fields| OftConfig::read(fields).map(Into::into),
    configure: |options: &Options| {
        let default = OftConfig::default();
        let (blocks, block_size) = options.rank.map_or((0, default.block_size), |rank| (rank, 0));
        Ok(OftConfig { scope: options.scope.clone(), blocks, block_size, bias: options.bias, ..default }.into())
    },
};

/// The options of OFT (`OFTConfig`).
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are PEFT's own switches, each on its own")]
pub struct OftConfig {
    /// Where it attaches.
    pub scope: Scope,
    /// Number of blocks (`r`), or 0 if their size is given.
    pub blocks: usize,
    /// Size of the blocks (`oft_block_size`), or 0 if their number is given.
    pub block_size: usize,
    /// A setting of PEFT's that its layers do not read: it changes nothing there, and nothing here.
    pub module_dropout: f64,
    /// Whether all blocks of a module rotate alike.
    pub block_share: bool,
    /// Whether the inverse is a sum of powers.
    pub use_cayley_neumann: bool,
    /// Terms of that sum.
    pub terms: usize,
    /// The norm (`eps`) within which the blocks of a module stay together, if they are constrained (`coft`).
    pub constrained: Option<f64>,
    /// Which biases of the base are trained.
    pub bias: Bias,
    /// Whether a fresh adapter changes something, for tests.
    pub random: bool,
    /// Whether the base's weights are stored `[in, out]`.
    pub fan_in_fan_out: bool,
}

/// PEFT's `eps`.
const EPSILON: f64 = 6e-5;
/// Terms of the sum, each of which is a product in the graph for every module; the sum of small rotations ends long before.
const MOST_TERMS: usize = 256;

impl Default for OftConfig {
    fn default() -> Self {
        Self {
            scope: Scope::default(),
            blocks: 0,
            block_size: 32,
            module_dropout: 0.0,
            block_share: false,
            use_cayley_neumann: true,
            terms: 5,
            constrained: None,
            bias: Bias::None,
            random: false,
            fan_in_fan_out: false,
        }
    }
}

impl OftConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        let epsilon = fields.number("eps", EPSILON)?;
        let default = Self::default();
        Ok(Self {
            scope: Scope::read(fields)?,
            blocks: fields.size("r")?.unwrap_or(default.blocks),
            block_size: fields.size("oft_block_size")?.unwrap_or(default.block_size),
            module_dropout: fields.number("module_dropout", default.module_dropout)?,
            block_share: fields.flag("block_share", Flag::Off)?,
            use_cayley_neumann: fields.flag("use_cayley_neumann", Flag::On)?,
            terms: fields.size("num_cayley_neumann_terms")?.unwrap_or(default.terms),
            constrained: fields.flag("coft", Flag::Off)?.then_some(epsilon),
            bias: Bias::read(fields, "oft_only")?,
            random: !fields.flag("init_weights", Flag::On)?,
            fan_in_fan_out: fields.flag("fan_in_fan_out", Flag::Off)?,
        })
    }

    fn branch(&self, linear: Linear, at: &Places<'_>) -> Result<Oft> {
        let inputs = linear.in_features;
        let block = if self.blocks == 0 { divisor(inputs, self.block_size) } else { inputs / divisor(inputs, self.blocks) };
        if block < 2 {
            let error = Error::mismatch(format!("size of the blocks of {}", linear.module), "at least 2", block);
            return Err(error.with_hint("a number alone cannot be rotated: choose fewer blocks, or larger ones"));
        }
        // The parts of a packed product share its input.
        let is_packed =
            at.anatomy.projections.iter().any(|projection| projection.module == linear.module && projection.weight.part.is_some());
        let blocks = if self.block_share { 1 } else { inputs / block };
        let norm = self.constrained.map(|epsilon| norm(epsilon, blocks));
        Ok(Oft { linear, blocks, block, cayley: self.cayley(), norm, is_packed, random: self.random, seed: at.seed })
    }
}

impl OftConfig {
    fn cayley(&self) -> Cayley {
        if self.use_cayley_neumann { Cayley::Neumann { terms: self.terms } } else { Cayley::Exact }
    }

    /// Says where modules have other blocks than were asked for, because these do not divide what the modules take.
    fn warn_of_other_blocks(&self, branches: &[Oft]) {
        let (what, asked) = if self.blocks == 0 { ("oft_block_size", self.block_size) } else { ("r", self.blocks) };
        let mut told = BTreeSet::new();
        for branch in branches {
            let inputs = branch.linear.in_features;
            let taken = if self.blocks == 0 { branch.block } else { inputs / branch.block };
            if taken != asked && told.insert((inputs, taken)) {
                tracing::warn!(
                    "{what} = {asked} does not divide the {inputs} inputs of {}: {taken} is taken, as PEFT does",
                    branch.linear.module
                );
            }
        }
    }
}

/// The largest norm of what stands above the diagonal of a block: that of the whole `Q`, which has everything twice, is `eps / √blocks` (`_project_batch`).
fn norm(epsilon: f64, blocks: usize) -> f64 {
    epsilon / (2.0 * num::float(blocks)).sqrt()
}

/// The divisor of a length that is nearest to what was asked for, the smaller one of two (`adjust_oft_parameters`).
fn divisor(length: usize, wanted: usize) -> usize {
    if wanted >= length {
        return length;
    }
    let higher = (wanted..=length).find(|&n| length.is_multiple_of(n)).unwrap_or(length);
    let lower = (1..=wanted).rev().find(|&n| length.is_multiple_of(n)).unwrap_or(1);
    if wanted - lower <= higher - wanted { lower } else { higher }
}

/// The rotation in front of one module.
#[derive(Debug)]
struct Oft {
    linear: Linear,
    /// Rotations that the module has; 1 if all blocks share one.
    blocks: usize,
    /// Their size.
    block: usize,
    cayley: Cayley,
    /// The largest norm of a row of the tensor, if rotations are constrained.
    norm: Option<f64>,
    is_packed: bool,
    random: bool,
    seed: u64,
}

impl Configuration for OftConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        if (self.blocks == 0) == (self.block_size == 0) {
            let found = format!("r = {} and oft_block_size = {}", self.blocks, self.block_size);
            return Err(Error::mismatch("blocks", "one of r and oft_block_size, the other 0", found));
        }
        if self.terms > MOST_TERMS {
            return Err(Error::mismatch("num_cayley_neumann_terms", format!("at most {MOST_TERMS}"), self.terms));
        }
        if let Some(epsilon) = self.constrained.filter(|epsilon| !(epsilon.is_finite() && *epsilon >= 0.0)) {
            return Err(Error::mismatch("eps", "a number from 0", epsilon));
        }
        self.constrained.map_or(Ok(()), |epsilon| finite("eps", epsilon))?;
        probability("module_dropout", self.module_dropout)?;
        self.scope.check()
    }

    fn write(&self, settings: &mut Settings) {
        settings.put_scope(&self.scope);
        settings.put_layers(&self.scope);
        settings.put("r", self.blocks);
        settings.put("oft_block_size", self.block_size);
        settings.put("module_dropout", self.module_dropout);
        settings.put("block_share", self.block_share);
        settings.put("use_cayley_neumann", self.use_cayley_neumann);
        settings.put("num_cayley_neumann_terms", self.terms);
        settings.put("coft", self.constrained.is_some());
        self.constrained.iter().for_each(|epsilon| settings.put("eps", *epsilon));
        settings.put("bias", self.bias.setting("oft_only"));
        settings.put("init_weights", !self.random);
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

    fn constants(&self) -> Vec<(&'static str, String)> {
        let constrained = self.constrained.map_or_else(|| "off".to_owned(), |epsilon| format!("within {epsilon}"));
        vec![
            ("use_cayley_neumann", self.use_cayley_neumann.to_string()),
            ("num_cayley_neumann_terms", self.terms.to_string()),
            ("coft", constrained),
        ]
    }

    fn constraints(&self, params: &[Param]) -> Vec<Constraint> {
        let Some(epsilon) = self.constrained else { return vec![] };
        let is_rotation = |key: &str| matches!(Key::parse(key, Family::Tuner, &[ROW.tensors]), Some(Key::Module { part: R, .. }));
        let rows = params.iter().map(|param| param.initial.shape().first().copied().unwrap_or(1));
        let all = places(params).into_iter().zip(rows).filter(|((key, _), _)| is_rotation(key));
        all.map(|((_, place), rows)| Constraint { place, rows, norm: norm(epsilon, rows) }).collect()
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        if self.module_dropout > 0.0 {
            tracing::warn!("module_dropout = {} does nothing: the layers of PEFT's OFT do not read it", self.module_dropout);
        }
        let branches = branch::choose(&self.scope, at)?.into_iter().map(|linear| self.branch(linear, at)).collect::<Result<Vec<_>>>()?;
        branch::warn_of_conv1d("OFT", &branches, at);
        self.warn_of_other_blocks(&branches);
        Ok(branch::placed(self.clone(), branches, self.bias, at))
    }
}

impl Oft {
    /// Numbers above the diagonal of a block.
    fn elements(&self) -> usize {
        self.block * (self.block - 1) / 2
    }

    /// `x` rotated, float32.
    fn rotated<'g>(&self, x: Expr<'g>, rotations: Expr<'g>) -> Expr<'g> {
        let [blocks, block] = [self.linear.in_features / self.block, self.block].map(size);
        let parts = x.reshape(&[-1, blocks, block]).transpose(&[1, 0, 2]);
        parts.matmul(rotations).transpose(&[1, 0, 2]).reshape_like(x)
    }
}

fn size(length: usize) -> i64 {
    num::int(length)
}

impl Branch for Oft {
    fn attached(&self) -> Attached<'_> {
        Attached { name: "oft", module: &self.linear.module, ..Attached::default() }
    }

    fn numbers(&self, _: &Anatomy) -> u128 {
        wide(self.blocks) * wide(self.elements())
    }

    fn side(&self) -> Side {
        if self.is_packed { Side::Output } else { Side::Input }
    }

    fn forward<'s, 'g: 's>(&'s self, at: &Insertion<'g, '_>) -> Result<Forward<'s, 'g>> {
        let shape = [self.blocks, self.elements()];
        if self.is_packed {
            has_stored_weight(at, self.module())?;
        }
        let vectors = at.params.of(self.module(), R, || {
            let key = Key::module(self.module(), R).to_string();
            if self.random { init::normal(&mut init::generator(self.seed, &key), &shape, 0.1) } else { init::zeros(&shape) }
        });
        let rotations = at.b.scoped(&format!("oft/{}", self.module()), || {
            let vectors = self.norm.map_or(vectors, |norm| vectors.straight_through(constraint::within(vectors, norm)));
            self.cayley.rotations(vectors, self.blocks, self.block)
        });
        Ok(Box::new(move |call| match self.side() {
            Side::Input => self.rotated(call.y.cast(DType::F32), rotations).cast(call.y.dtype()),
            Side::Output => {
                let turned = self.rotated(call.x, rotations) - call.x;
                let weight = stored_weight(rotations.b(), call.projection);
                call.plus(turned.matmul(if call.projection.weight.layout == Layout::OutIn { weight.t() } else { weight }))
            }
        }))
    }

    /// `W·Rᵀ`, block by block.
    fn folded(&self, at: &Folding<'_>, weight: Array2<f32>, _: Option<&Range<i64>>) -> Result<Array2<f32>> {
        let mut vectors = at.matrix(self.module(), R)?;
        if vectors.dim() != (self.blocks, self.elements()) || weight.ncols() != self.linear.in_features {
            let expected = format!("[{}, {}]", self.blocks, self.elements());
            return Err(Error::mismatch("shape of oft_R", expected, format!("{:?}", vectors.dim())));
        }
        if let Some(norm) = self.norm {
            constraint::keep(&mut vectors, norm);
        }
        let rotation = |place: usize| self.cayley.rotation(&vectors.row(if self.blocks == 1 { 0 } else { place }), self.block);
        let mut turned = weight;
        for (place, start) in (0..self.linear.in_features).step_by(self.block).enumerate() {
            let columns = s![.., start..start + self.block];
            let product = turned.slice(columns).dot(&rotation(place)?.t());
            turned.slice_mut(columns).assign(&product);
        }
        Ok(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_of_very_many_terms_is_refused() {
        let of = |terms| OftConfig { terms, ..OftConfig::default() }.check();
        assert!(of(MOST_TERMS).is_ok() && of(1 << 31).is_err());
    }

    #[test]
    fn sizes_of_blocks_are_adjusted_as_in_peft() {
        for (length, wanted, expected) in [(64, 32, 32), (48, 32, 24), (768, 50, 48), (10, 64, 10), (30, 7, 6), (7, 3, 1), (12, 5, 4)] {
            assert_eq!(divisor(length, wanted), expected, "{length} {wanted}");
        }
    }
}
