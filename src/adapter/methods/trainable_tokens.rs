//! Rows of an embedding, trained as they are (PEFT `tuners/trainable_tokens/layer.py`).

use indexmap::IndexMap;
use ndarray::s;
use serde_json::{Value, json};

use crate::adapter::config::fields::{Fields, sizes};
use crate::adapter::config::options::Options;
use crate::adapter::config::settings::{Settings, selection};
use crate::adapter::config::{Selection, Targets, Task, at_least_one};
use crate::adapter::method::{Configuration, Placed, Places, Row};
use crate::adapter::params::key::{Family, Key, KeyPart, Tensors};
use crate::adapter::params::matrices::matrix;
use crate::adapter::part::{Folding, Insertion, Part, boxed};
use crate::adapter::targets::SelectionMatcher;
use crate::adapter::targets::tables::{self, Table};
use crate::adapter::weights::fold;
use crate::anatomy::{Anatomy, Embedding};
use crate::ir::{DType, Expr, Tensor};
use crate::num;
use crate::{Error, Result};

/// The setting of a low-rank method.
const BESIDE: &str = "trainable_token_indices";
/// The rows of a table that LoRA attaches beside, `[rows, hidden]`.
pub(crate) const TOKEN_DELTA: KeyPart = KeyPart::new("token_adapter.trainable_tokens_delta", "");
/// The rows of a table where nothing else is trained, `[rows, hidden]`.
const OWN_TOKEN_DELTA: KeyPart = KeyPart::new("trainable_tokens_delta", "");

/// The row of the method that trains rows and nothing else.
pub static ROW: Row = Row {
    name: "trainable_tokens",
    aliases: &["trainable-tokens"],
    variants: &[],
    about: "Rows of the embedding",
    peft_type: "TRAINABLE_TOKENS",
    learning_rate: 1e-3,
    family: Family::Tuner,
    tensors: Tensors { parts: &[OWN_TOKEN_DELTA], shared: &[] },
    adapter_file: "trainable_tokens",
    takes: &[&["target_modules", "trainable_token_indices"]],
    page: "trainable-tokens.md",
    read: |fields| TokensConfig::read(fields).map(Into::into),
    configure: |options: &Options| {
        let targets = match &options.scope.targets {
            Targets::Only(selection) => Some(selection.clone()),
            Targets::AllLinear => Some(Selection::Names(vec!["all-linear".to_owned()])),
            Targets::Default => None,
        };
        Ok(TokensConfig { targets, rows: options.rows() }.into())
    },
};

/// The options of training rows of embeddings (`TrainableTokensConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokensConfig {
    /// The tables; none: the one that tokens are looked up in.
    pub targets: Option<Selection>,
    /// The rows.
    pub rows: Vec<usize>,
}

impl TokensConfig {
    fn read(fields: &Fields<'_>) -> Result<Self> {
        fields.inert(&["init_weights"]);
        Ok(Self { targets: fields.selection("target_modules")?, rows: fields.sizes("token_indices")? })
    }
}

impl Configuration for TokensConfig {
    fn row(&self) -> &'static Row {
        &ROW
    }

    fn check(&self) -> Result<()> {
        at_least_one("number of token_indices", self.rows.len())
            .map_err(|error| error.with_hint("`trainable_token_indices` names the tokens whose rows are trained, by number"))
    }

    fn write(&self, settings: &mut Settings) {
        settings.put("target_modules", self.targets.as_ref().map_or(Value::Null, selection));
        settings.put("token_indices", json!(self.rows));
    }

    fn place(&self, at: &Places<'_>) -> Result<Placed> {
        place(self, at)
    }

    /// PEFT's class for classes of tokens wants modules that are saved as a whole, which trainable tokens cannot have
    /// (`PeftModelForTokenClassification` in `peft/peft_model.py`).
    fn task_type(&self, task: Task) -> Option<&'static str> {
        if task == Task::TokenCls { None } else { task.task_type() }
    }

    fn constants(&self) -> Vec<(&'static str, String)> {
        vec![("token_indices", format!("{:?}", self.rows))]
    }
}

/// Some rows of one table.
#[derive(Debug)]
pub(crate) struct Tokens {
    module: String,
    rows: Vec<usize>,
    /// What PEFT calls the rows.
    part: KeyPart,
}

/// Finds the tables of the method that trains rows and nothing else.
fn place(config: &TokensConfig, at: &Places<'_>) -> Result<Placed> {
    let all = tables::all(at.anatomy);
    let found: Vec<&Table<'_>> = match &config.targets {
        None => {
            tables::of_tokens(at.anatomy)?;
            all.iter().take(1).collect()
        }
        Some(selection) => {
            let matcher = SelectionMatcher::new("target_modules", selection)?;
            all.iter().filter_map(|table| matcher.has(&table.module).map(|has| has.then_some(table)).transpose()).collect::<Result<_>>()?
        }
    };
    if found.is_empty() {
        return Err(Error::invalid("no embedding matches the targets").with_hint(format!("the model has {}", names(&all))));
    }
    let mut parts = vec![];
    for table in &found {
        check_rows(table, &config.rows)?;
        parts.push(boxed(Tokens { module: table.module.clone(), rows: config.rows.clone(), part: OWN_TOKEN_DELTA }));
    }
    let mut modules: Vec<String> = found.iter().map(|table| table.module.clone()).collect();
    modules.sort();
    let settled = TokensConfig { targets: Some(Selection::Names(modules)), ..config.clone() };
    Ok(Placed { parts, settled: settled.into() })
}

fn names(tables: &[Table<'_>]) -> String {
    tables.iter().map(|table| table.module.as_str()).collect::<Vec<_>>().join(", ")
}

fn check_rows(table: &Table<'_>, rows: &[usize]) -> Result<()> {
    let count = table.first().rows;
    match rows.iter().find(|&&row| i64::try_from(row).map_or(true, |row| row >= count)) {
        Some(row) => Err(Error::mismatch("row of trainable_token_indices", format!("below {count}"), row)),
        None => Ok(()),
    }
}

/// The rows that are trained beside a low-rank method (`trainable_token_indices` of `LoraConfig`), by the names of their tables: a list is of the table
/// that tokens are looked up in, which PEFT calls `embed_tokens`.
pub(super) fn read_beside(fields: &Fields<'_>) -> Result<IndexMap<String, Vec<usize>>> {
    match fields.value(BESIDE) {
        Some(Value::Array(_)) => Ok(IndexMap::from([("embed_tokens".to_owned(), fields.sizes(BESIDE)?)])),
        _ => fields.by_name(BESIDE, "rows by name", sizes),
    }
}

/// The same as they are written.
pub(super) fn write_beside(rows: &IndexMap<String, Vec<usize>>, settings: &mut Settings) {
    settings.put_unless(BESIDE, if rows.is_empty() { Value::Null } else { json!(rows) }, &Value::Null);
}

/// The same as a user asks for them.
pub(super) fn asked_beside(options: &Options) -> IndexMap<String, Vec<usize>> {
    let rows = options.rows();
    if rows.is_empty() { IndexMap::new() } else { IndexMap::from([("embed_tokens".to_owned(), rows)]) }
}

/// The same as constants of a graph, whatever the tables are called.
pub(super) fn constant_beside(rows: &IndexMap<String, Vec<usize>>) -> (&'static str, String) {
    let mut rows: Vec<&Vec<usize>> = rows.values().collect();
    rows.sort();
    (BESIDE, format!("{rows:?}"))
}

/// The tables that rows are trained of.
pub(crate) fn find(settings: &IndexMap<String, Vec<usize>>, at: &Places<'_>) -> Result<Vec<Tokens>> {
    let all = tables::all(at.anatomy);
    let mut found = vec![];
    for (name, rows) in settings {
        // PEFT calls the table of the tokens `embed_tokens` where the configuration does not name one.
        let tokens = all.iter().find(|table| table.is_of_tokens && name == "embed_tokens");
        let is_named = |table: &&Table<'_>| table.module == *name || table.module.ends_with(&format!(".{name}"));
        let table = tokens.or_else(|| all.iter().find(is_named));
        let table = table.ok_or_else(|| Error::not_found("embedding", name.clone()).with_hint(format!("the model has {}", names(&all))))?;
        check_rows(table, rows)?;
        found.push(Tokens { module: table.module.clone(), rows: rows.clone(), part: TOKEN_DELTA });
    }
    Ok(found)
}

impl Part for Tokens {
    /// The rows are `[rows, hidden]` and start as the base's. A head that shares the table reads the trained rows as well.
    fn insert(&self, at: &Insertion<'_, '_>) -> Result<()> {
        let table = self.table(at.anatomy)?;
        let base = self.base_rows(at, table.first())?;
        let rows = at.params.of(&self.module, self.part, || base.clone());
        let b = at.b;
        let numbers: Vec<i64> = self.rows.iter().map(|&row| num::int(row)).collect();
        b.scoped(&format!("tokens/{}", self.module), || {
            for lookup in &table.lookups {
                let indices = b.expr(lookup.indices).cast(DType::I64);
                b.rewire(b.expr(lookup.output), |y| {
                    let is_row = indices.unsqueeze(&[-1]).equal(b.ints(&numbers)).cast(DType::F32);
                    let others = 1.0 - is_row.sum(&[-1]);
                    (y.cast(DType::F32) * others + is_row.matmul(rows)).cast(y.dtype())
                });
            }
            if table.is_of_tokens {
                self.change_head(at, rows - b.constant(base.clone()), &numbers);
            }
        });
        Ok(())
    }

    fn fold(&self, at: &Folding<'_>) -> Result<()> {
        let trained = matrix(&at.tensor(&Key::module(&*self.module, self.part).to_string())?)?;
        let change = |table: &ndarray::Array2<f32>| {
            let mut table = table.clone();
            if trained.nrows() != self.rows.len() || trained.ncols() != table.ncols() {
                return Err(Error::mismatch("shape", format!("[{}, {}]", self.rows.len(), table.ncols()), format!("{:?}", trained.dim())));
            }
            for (row, values) in self.rows.iter().zip(trained.rows()) {
                table.slice_mut(s![*row, ..]).assign(&values);
            }
            Ok(table)
        };
        let table = self.table(at.anatomy)?;
        if table.is_of_tokens && at.anatomy.head.as_ref().is_some_and(|head| head.tied) {
            fold::change_tied_table(at, &table.lookups, change)
        } else {
            fold::change_table(at, &table.lookups, change)
        }
    }

    fn targets(&self) -> Vec<(String, usize)> {
        vec![(self.module.clone(), self.rows.len())]
    }
}

impl Tokens {
    fn table<'a>(&self, anatomy: &'a Anatomy) -> Result<Table<'a>> {
        let found = tables::all(anatomy).into_iter().find(|table| table.module == self.module);
        found.ok_or_else(|| Error::not_found("embedding", self.module.clone()))
    }

    /// The table's name and rows, as a configuration has them.
    pub(crate) fn setting(&self) -> (String, Vec<usize>) {
        (self.module.clone(), self.rows.clone())
    }

    fn base_rows(&self, at: &Insertion<'_, '_>, table: &Embedding) -> Result<Tensor> {
        let stored = at.graph.stored(table.weight).ok_or_else(|| Error::not_found("table", self.module.clone()))?;
        if !stored.dtype().is_float() {
            return Err(Error::unsupported(
                format!("training rows of {}", self.module),
                format!("its table is stored as {}", stored.dtype()),
            )
            .with_hint(
                "take the model before it was quantised; `method prompt_tuning` learns tokens of its own beside a quantised table",
            ));
        }
        fold::rows_of(stored, table, &self.rows)
    }

    /// Adds the logits of what the rows changed by.
    fn change_head<'g>(&self, at: &Insertion<'g, '_>, change: Expr<'g>, numbers: &[i64]) {
        let Some(head) = at.anatomy.head.as_ref().filter(|head| head.tied) else { return };
        let Some(projection) = head.projection.map(|place| &at.anatomy.projections[place]) else { return };
        let Ok(classes) = usize::try_from(projection.out_features) else { return };
        let mut places = vec![0.0_f32; numbers.len() * classes];
        for (i, row) in self.rows.iter().enumerate() {
            places[i * classes + row] = 1.0;
        }
        let places = at.b.constant(Tensor::from_f32(&[numbers.len(), classes], &places));
        let x = at.b.current(projection.x);
        at.b.rewire(at.b.expr(projection.y), |y| y + x.cast(DType::F32).matmul(change.t()).matmul(places).cast(y.dtype()));
    }
}
