//! LoRA on an embedding: `y = E[ids] + scaling · Aᵀ[ids]·Bᵀ` (PEFT `tuners/lora/layer.py`, `Embedding`).

use super::branches::{Branches, Start, delta};
use super::{EMBEDDING_A, EMBEDDING_B};
use crate::adapter::params::init;
use crate::adapter::params::key::{Key, KeyPart};
use crate::adapter::params::matrices;
use crate::adapter::part::{Folding, Insertion, Part};
use crate::adapter::targets::Site;
use crate::adapter::weights::fold;
use crate::anatomy::Embedding;
use crate::ir::Tensor;
use crate::num;
use crate::{Error, Result};

/// A branch at an embedding table.
#[derive(Debug)]
pub(crate) struct LoraEmbedding {
    pub(crate) site: Site,
    pub(crate) branches: Branches,
}

impl Part for LoraEmbedding {
    /// `A` is `[rank, rows]`, `B` `[hidden, rank]`; a fresh `A` is zero. PEFT saves the table itself, too: it is kept where it was.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let Site { module, rank, scaling } = &self.site;
        for table in at.anatomy.embeddings.iter().filter(|table| table.module == *module) {
            let (rows, hidden) = (num::size("rows of the table", table.rows)?, num::size("hidden size", table.hidden)?);
            let [a, b] = [(EMBEDDING_A, [*rank, rows], self.branches.start == Start::Random), (EMBEDDING_B, [hidden, *rank], true)].map(
                |(part, shape, random)| at.params.of(module, part, || self.fresh(&Key::module(module, part).to_string(), &shape, random)),
            );
            let builder = at.b;
            let (indices, output) = (builder.expr(table.indices), builder.expr(table.output));
            builder.scoped(&format!("lora/{module}"), || {
                builder.rewire(output, |y| {
                    let rows = a.t().gather(indices, 0);
                    y + (rows.matmul(b.t()) * *scaling).cast(y.dtype())
                });
            });
            let saved = Key::module(module, KeyPart::BASE_WEIGHT).to_string();
            if at.params.given(&saved).is_some() {
                let stored = at.graph.stored(table.weight).filter(|tensor| tensor.dtype().is_float());
                let stored = stored.ok_or_else(|| Error::unsupported(module.clone(), "its table is not stored as plain floats"))?;
                let own = fold::table_of(stored, table)?;
                let _ = at.params.fixed(&saved, &format!("{module}.base_layer.weight"), || matrices::tensor(&own.view()));
            }
        }
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        let Site { module, scaling, .. } = &self.site;
        let part = |part| at.tensor(&Key::module(module, part).to_string());
        let delta = delta(&part(EMBEDDING_A)?, &part(EMBEDDING_B)?, *scaling)?;
        let lookups: Vec<&Embedding> = at.anatomy.embeddings.iter().filter(|table| table.module == *module).collect();
        fold::change_table(at, &lookups, |table| Ok(table + &delta.t()))
    }

    fn targets(&self) -> Vec<(String, usize)> {
        vec![(self.site.module.clone(), self.site.rank)]
    }
}

impl LoraEmbedding {
    fn fresh(&self, key: &str, shape: &[usize; 2], random: bool) -> Tensor {
        if random { init::normal(&mut init::generator(self.branches.seed, key), shape, 1.0) } else { init::zeros(shape) }
    }
}
