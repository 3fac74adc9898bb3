//! What a run works on: the bundle, the rows, and where it starts.

use std::borrow::Cow;
use std::path::Path;

use super::ending::{measured, names_of, nothing_measured};
use super::graphs::{open as open_graph, open_loss_of_all};
use super::options::EvalData;
use super::start::Beginning;
use super::{Options, SomeRows, Source, fitting, need, taught};
use crate::adapter::config::Task;
use crate::contract::{GraphName, Input};
use crate::data::{Dataset, Labels};
use crate::error::{Error, Result};
use crate::evaluate::Evaluator;
use crate::evaluate::reference::Reference;
use crate::evaluate::teacher::Teacher;
use crate::export::Bundle;
use crate::num;
use crate::ort::{Feed, HostTensor, Runtime};
use crate::parallel::Ranks;
use crate::training::checkpoint::{self, Conditions};

/// What a run works on.
pub(super) struct Material {
    pub bundle: Bundle,
    pub source: Source,
    pub dataset: Dataset,
    pub eval_data: Option<Dataset>,
    pub beginning: Beginning,
}

impl Material {
    /// Reads the manifest, where the run starts, and the data: each process all of it.
    pub(super) fn read(runtime: &Runtime, options: &Options, ranks: &Ranks<'_>) -> Result<Self> {
        options.optimizer.check()?;
        let bundle = Bundle::open(&options.bundle, options.base.as_deref())?;
        let beginning = Beginning::find(options, bundle.manifest())?;
        let data = &options.data;
        let source = fitting::source(options, &bundle)?.computing_on(runtime.facts().threads);
        let (mut dataset, mut eval_data) = match &data.eval {
            EvalData::HeldOut(held_out) => source.read_parted(&data.file, *held_out).map(|(kept, held)| (kept, Some(held)))?,
            EvalData::File(file) => {
                let dataset = source.read_to_learn(&data.file)?;
                let eval_data = source.read_to_measure(file, Some(&dataset))?;
                (dataset, Some(eval_data))
            }
            EvalData::Nothing => (source.read_to_learn(&data.file)?, None),
        };
        if let Some(rows) = &mut eval_data {
            rows.class_weights.clone_from(&dataset.class_weights);
        }
        for rows in std::iter::once(&mut dataset).chain(&mut eval_data) {
            taught::fill(runtime, &bundle, options.device, &source, rows)?;
        }
        let rows = need::rows_at_a_time(&bundle, options, &dataset, ranks)?;
        Ok(Self { source: source.in_parts_of(rows), bundle, dataset, eval_data, beginning })
    }

    /// Says before the first step if so many processes of this host need more memory for it than the machine has.
    pub(super) fn warn_of_memory(&self, options: &Options, processes: usize) {
        let batch = options.data.batch_size.get();
        let rows = self.source.collation().micro_batch.unwrap_or(batch);
        need::warn(&self.bundle, &self.dataset, rows.min(batch), options, processes);
    }

    /// Refuses a loss that compares all rows of a batch, where the model runs on parts of it and the bundle has no graphs for that.
    pub(super) fn check_parts(&self, is_parted: bool) -> Result<()> {
        let manifest = self.bundle.manifest();
        let task = Task::from_name(&manifest.task);
        let has_graphs = manifest.graphs.contains_key(GraphName::Vjp.name());
        if is_parted && !has_graphs && task.is_some_and(|task| manifest.loss.needs_whole_batch(task)) {
            let what = format!("running the loss {} on parts of a batch", manifest.loss.name);
            let (why, otherwise) = if manifest.loss.is_of_batch {
                ("it gives `loss` alone, which may compare the rows of a batch", "let it give `loss_sum` and `label_count`, or ")
            } else {
                ("it compares all rows of a batch with each other", "")
            };
            let hint = format!("{otherwise}leave `micro_batch_size` out, and take a smaller `batch_size`");
            return Err(Error::unsupported(what, why).with_hint(hint));
        }
        Ok(())
    }

    /// So many of the rows that are measured on, from everywhere in their file. Standard input cannot be read again.
    pub(super) fn some_measured(&self, count: usize) -> Option<SomeRows> {
        let rows = self.eval_data.as_ref().filter(|rows| rows.path != Path::new("-"))?;
        let all = &rows.examples;
        let mut numbers: Vec<usize> =
            (0..count).map(|place| place * all.len() / count).filter(|row| *row < all.len()).map(|row| all.get(row).row).collect();
        numbers.dedup();
        // A block of several rows is none of them.
        numbers.retain(|number| *number > 0);
        (!numbers.is_empty()).then(|| SomeRows { file: rows.path.clone(), numbers })
    }

    /// What measures, if there is anything to measure on.
    pub(super) fn evaluator(&self, runtime: &Runtime, options: &Options) -> Result<Option<Evaluator<'_>>> {
        let Self { bundle, source, eval_data, .. } = self;
        let (manifest, watching) = (bundle.manifest(), &options.watching);
        let Some(dataset) = eval_data else {
            return if watching.decides() { Err(nothing_measured()) } else { Ok(None) };
        };
        let session = open_graph(runtime, bundle, GraphName::Evaluation, options.computing())?;
        let evaluator = Evaluator::new(session, dataset, source.collation(), options.data.batch_size.get());
        let evaluator =
            evaluator.narrowed_to(source.hard_prompt()).measuring(source.classes(), &names_of(dataset, manifest), &manifest.loss);
        let evaluator = evaluator.spelled_by(source.tokenizer(), &manifest.loss);
        let evaluator = evaluator.comparing_all(|| open_loss_of_all(runtime, bundle, options.computing()))?;
        measured(&watching.goal, &evaluator.names())?;
        let evaluator = evaluator.compared_with(Reference::of(runtime, bundle, options.reference, options.device)?);
        Ok(Some(evaluator.taught_by(Teacher::of(runtime, bundle, options.device, &source.collation())?)))
    }

    /// The row of these lines whose text has no place on the frames of its sound, as an error.
    pub(super) fn impossible(&self, runtime: &Runtime, options: &Options, lines: &[String]) -> Option<Error> {
        let Self { bundle, source, dataset, .. } = self;
        if dataset.task != Task::Ctc {
            return None;
        }
        let rows = dataset.examples.iter().filter(|row| lines.contains(&row.line.to_string())).map(Cow::into_owned).collect();
        let rows = Dataset::of(&dataset.path, dataset.task, rows);
        let session = open_graph(runtime, bundle, GraphName::Evaluation, options.device).ok()?;
        let trainable = HostTensor::vector(bundle.trainable().ok()?);
        let mut evaluator = Evaluator::new(session, &rows, source.collation(), 1).measuring(source.classes(), &[], &bundle.manifest().loss);
        evaluator.measure(Some(Feed::host(Input::Trainable.name(), &trainable))).err()
    }

    /// What must be the same for this run to go on, and for all of its processes.
    pub(super) fn conditions(&self, options: &Options, processes: usize) -> Result<Conditions> {
        let (manifest, data) = (self.bundle.manifest(), &options.data);
        Ok(Conditions {
            bundle: format!("{} with {} numbers on {}", manifest.method, manifest.trainable_count, manifest.base.fingerprint),
            data: checkpoint::file_hash(&data.file)?,
            rows: [
                &checkpoint::numbers_hash(numbers(&self.dataset)),
                data.sampler.mark(),
                data.augmentation.mark(),
                options.reference.mark(),
            ]
            .concat(),
            batch_size: data.batch_size.get(),
            accumulation: options.accumulation.get(),
            processes,
            order: data.order,
            seed: options.seed,
            precision: options.precision.to_string(),
        })
    }

    /// Keeps what the bundle does not know yet of the data: the names of its classes, which whoever reads the bundle later must number alike, and the
    /// roles of its columns.
    pub(super) fn keep_names(&self, bundle: &Path) -> Result<()> {
        let manifest = self.bundle.manifest();
        let mut kept = manifest.clone();
        kept.class_names = self.dataset.class_names.clone().unwrap_or(kept.class_names);
        if manifest.loss.balances_classes {
            // Whoever measures the loss later weighs classes alike.
            kept.loss.class_weights.clone_from(&self.dataset.class_weights);
        }
        kept.columns = self.source.roles_to_keep().iter().map(|renamed| (renamed.column().to_owned(), renamed.role().to_owned())).collect();
        let is_known = kept.class_names == manifest.class_names && kept.loss == manifest.loss && kept.columns == manifest.columns;
        if is_known { Ok(()) } else { kept.write(bundle) }
    }
}

/// The numbers of all examples one after another, to tell whether two readings gave the same.
fn numbers(dataset: &Dataset) -> impl Iterator<Item = i64> + '_ {
    dataset.examples.iter().flat_map(|example| {
        let labels: &[i32] = match &example.labels {
            Labels::Tokens(labels) => labels,
            Labels::Class(class) => std::slice::from_ref(class),
            Labels::Hidden | Labels::Column | Labels::Row => &[],
        };
        let line = num::int(example.line);
        let all = example.input_ids.iter().chain(labels).chain(&example.segments).map(|number| i64::from(*number));
        std::iter::once(line).chain(all).collect::<Vec<i64>>()
    })
}
