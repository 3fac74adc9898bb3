//! Tables of embeddings under the names that PEFT knows them by.
//!
//! An encoder and a decoder may look their tokens up in one table. Hugging Face then has the module `shared` above both, which is the model's
//! embedding of tokens, and `encoder.embed_tokens` and `decoder.embed_tokens`, which are tied to it.

use crate::anatomy::{Anatomy, Embedding};
use crate::{Error, Result};

/// A table, and every place where it is looked up.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    /// The module's path.
    pub(crate) module: String,
    /// The places, at least one.
    pub(crate) lookups: Vec<&'a Embedding>,
    /// Whether it is what the model's tokens are looked up in: a tied head shares it.
    pub(crate) is_of_tokens: bool,
}

impl Table<'_> {
    /// Any of its places: what they look rows up in is the same.
    pub(crate) fn first(&self) -> &Embedding {
        self.lookups[0]
    }
}

/// The table that the tokens are looked up in.
pub(crate) fn of_tokens(anatomy: &Anatomy) -> Result<&Embedding> {
    anatomy.token_embedding.and_then(|place| anatomy.embeddings.get(place)).ok_or_else(|| {
        Error::unsupported("training what tokens are looked up as", "this graph has no table that its token ids are looked up in")
            .with_hint("`peft-onnx inspect --explain` says what was looked for")
    })
}

/// Every table; that of the tokens is first, if there is one.
pub(crate) fn all(anatomy: &Anatomy) -> Vec<Table<'_>> {
    let tokens = of_tokens(anatomy).ok();
    let shared = tokens.and_then(|tokens| shared(anatomy, tokens));
    let has_shared = shared.is_some();
    let mut tables: Vec<Table<'_>> = shared.into_iter().collect();
    for table in &anatomy.embeddings {
        if tables.iter().all(|known| known.module != table.module) {
            let lookups = anatomy.embeddings.iter().filter(|other| other.module == table.module).collect();
            let is_of_tokens = !has_shared && tokens.is_some_and(|tokens| tokens.module == table.module);
            tables.push(Table { module: table.module.clone(), lookups, is_of_tokens });
        }
    }
    tables.sort_by_key(|table| !table.is_of_tokens);
    tables
}

/// The table of the tokens, if modules of other names look their own up in it as well.
fn shared<'a>(anatomy: &'a Anatomy, tokens: &Embedding) -> Option<Table<'a>> {
    let lookups: Vec<&Embedding> = anatomy.embeddings.iter().filter(|table| table.weight == tokens.weight).collect();
    let other = lookups.iter().find(|table| table.module != tokens.module)?;
    let above = tokens.module.split('.').zip(other.module.split('.')).take_while(|(a, b)| a == b).map(|(segment, _)| segment);
    let module = above.chain(["shared"]).collect::<Vec<_>>().join(".");
    Some(Table { module, lookups, is_of_tokens: true })
}
