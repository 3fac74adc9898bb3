//! VeRA: `y = W·x + b ⊙ B·(d ⊙ A·dropout(x))` with frozen random `A` and `B` that all modules share (Kopiczko et al., VeRA; PEFT
//! `tuners/vera/layer.py`).

use crate::adapter::config::{Method, VeraConfig};
use crate::adapter::params::{
    init,
    key::{Key, Part as KeyPart, Shared},
    param,
};
use crate::adapter::part::{Folding, Insertion, Part, Placed, Places};
use crate::adapter::weights::{fold, linalg};
use ndarray::{Axis, s};

use super::{trained, update};
use crate::ir::{DType, Expr, Tensor};
use crate::{Error, Result};

/// The branches.
#[derive(Debug)]
struct Vera {
    /// Module, outputs, inputs.
    sites: Vec<(String, usize, usize)>,
    rank: usize,
    dropout: f64,
    d_initial: f64,
    /// Seed of the projections, which all modules share.
    key: u64,
}

/// Finds the modules.
pub(crate) fn place(config: &VeraConfig, at: &Places<'_>) -> Result<Placed> {
    let mut config = config.clone();
    config.scope.modules_to_save = at.saved.to_vec();
    let sites = update::projections(&config.scope, at)?;
    let is_given = |key: Key| (at.given)(&key.to_string()).is_some();
    let (first, _, _) = sites.first().ok_or_else(|| Error::invalid("VeRA has no targets"))?;
    if is_given(Key::module(&**first, KeyPart::VeraLambdaB)) && !is_given(Key::Shared(Shared::VeraA)) {
        return Err(Error::unsupported(
            "this VeRA adapter",
            "its file has no projections, which PEFT then draws again with PyTorch's generator",
        )
        .with_hint("save it with `save_projection=True`"));
    }
    config.save_projection = true;
    let modules: Vec<String> = sites.iter().map(|(module, ..)| module.clone()).collect();
    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    config.scope.settle(&modules, at.saved);
    config.fan_in_fan_out |= at.anatomy.projections.iter().any(|p| p.conv1d && modules.contains(&p.module.as_str()));
    let vera = Vera {
        sites,
        rank: config.rank,
        dropout: config.dropout,
        d_initial: config.d_initial,
        key: config.projection_prng_key.unsigned_abs(),
    };
    let biases = trained::biases(at, config.bias, &vera.targets());
    let mut parts: Vec<Box<dyn Part>> = vec![Box::new(vera)];
    parts.extend(biases);
    Ok(Placed { parts, settled: Method::Vera(config) })
}

impl Part for Vera {
    /// `vera_A` is `[rank, widest input]`, `vera_B` `[widest output, rank]`; modules take their first columns and rows.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let b = at.b;
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let widest = |of: fn(&(String, usize, usize)) -> usize| self.sites.iter().map(of).max().unwrap_or(0);
        let a_all = self.shared(at, Shared::VeraA, [self.rank, widest(|site| site.2)]);
        let b_all = self.shared(at, Shared::VeraB, [widest(|site| site.1), self.rank]);
        let mut place = 0;
        for (module, n_out, n_in) in &self.sites {
            let d = param(at.params, module, KeyPart::VeraLambdaD, || {
                Tensor::from_f32(&[self.rank], &vec![init::narrow(self.d_initial); self.rank])
            });
            let scale = param(at.params, module, KeyPart::VeraLambdaB, || init::zeros(&[*n_out]));
            for projection in at.anatomy.projections.iter().filter(|projection| projection.module == *module) {
                place += 1;
                b.scoped(&format!("vera/{module}"), || {
                    let a = a_all.slice(&[0], &[size(*n_in)], &[1]);
                    let up = b_all.slice(&[0], &[size(*n_out)], &[0]);
                    let x = b.current(projection.x).cast(DType::F32);
                    let x = at.purpose.masks().map_or(x, |masks| masks.drop(x, self.dropout, place));
                    b.rewire(b.expr(projection.output), |y| {
                        let change = scale * (d * x.matmul(a.t())).matmul(up.t());
                        y + change.cast(y.dtype())
                    });
                });
            }
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        let get = |shared| linalg::matrix(&at.tensor(&Key::Shared(shared).to_string())?);
        let (a, b) = (get(Shared::VeraA)?, get(Shared::VeraB)?);
        for (module, n_out, n_in) in &self.sites {
            let vector = |part| Ok::<_, Error>(ndarray::Array1::from(at.numbers(&Key::module(&**module, part).to_string())?));
            let (d, scale) = (vector(KeyPart::VeraLambdaD)?, vector(KeyPart::VeraLambdaB)?);
            if a.ncols() < *n_in || b.nrows() < *n_out || d.len() != a.nrows() || d.len() != b.ncols() || scale.len() != *n_out {
                return Err(Error::mismatch("shape of VeRA's tensors", format!("{n_out} outputs, {n_in} inputs"), module));
            }
            let down = &a.slice(s![.., ..*n_in]) * &d.view().insert_axis(Axis(1));
            let up = &b.slice(s![..*n_out, ..]) * &scale.view().insert_axis(Axis(1));
            fold::change_weight(at, module, |weight| Ok(weight + up.dot(&down)))?;
        }
        Ok(())
    }

    fn targets(&self) -> Vec<(String, usize)> {
        self.sites.iter().map(|(module, ..)| (module.clone(), self.rank)).collect()
    }

    fn dropout(&self) -> f64 {
        self.dropout
    }
}

impl Vera {
    fn shared<'g>(&self, at: &Insertion<'g, '_>, shared: Shared, shape: [usize; 2]) -> Expr<'g> {
        let key = Key::Shared(shared).to_string();
        // Kaiming's bound for linear layers with `a = 0`: `√(6 / fan_in)`, hence a deviation of `√(2 / fan_in)`.
        let bound = (6.0 / init::to_f32(shape[1])).sqrt();
        let name = key.trim_start_matches("base_model.").to_owned();
        at.params.fixed(&key, &name, || init::uniform(&mut init::generator(self.key, &name), &shape, bound))
    }
}
