//! Which options of a run go with which task and loss: one row each.

use super::{Options, Source};
use crate::anatomy::Task;
use crate::data::{Order, Packing, Sampler};
use crate::error::{Context, OnlyWith, Result};
use crate::evaluate::reference::Referee;
use crate::export::Bundle;
use crate::train::plan::LossPlan;

/// What is trained.
struct Case {
    task: Task,
    loss: LossPlan,
}

/// The options that not every task or loss has a use for.
#[rustfmt::skip]
static OPTIONS: &[OnlyWith<Options, Case>] = &[
    OnlyWith { option: "max_length",      is_given: |options| options.data.max_length.is_some(),                     with: "a task whose rows are tokens",              holds: |case| case.task.reads_tokens() },
    OnlyWith { option: "group_by_length", is_given: |options| matches!(options.data.order, Order::ByLength { .. }),  with: "a task whose rows are tokens",              holds: |case| case.task.reads_tokens() },
    OnlyWith { option: "doc_stride",      is_given: |options| options.data.stride.is_some(),                         with: "the task qa",                               holds: |case| case.task == Task::Qa },
    OnlyWith { option: "batch_sampler",   is_given: |options| options.data.sampler != Sampler::Any,                  with: "a task whose rows are tokens",              holds: |case| case.task.reads_tokens() },
    OnlyWith { option: "augment",         is_given: |options| !options.data.augmentation.is_none(),                  with: "the task image-cls",                        holds: |case| case.task == Task::ImageCls },
    OnlyWith { option: "packing",         is_given: |options| options.data.packing != Packing::Off,                  with: "a task that predicts a row's own tokens (causal-lm, masked-lm), without a teacher", holds: |case| matches!(case.task, Task::CausalLm | Task::MaskedLm) && case.loss.distillation.is_none() },
    OnlyWith { option: "reference",       is_given: |options| options.reference != Referee::Base,                    with: "a loss that compares (dpo, ipo, kto)",      holds: |case| case.loss.needs_reference() },
];

/// How the data of a run is read.
///
/// # Errors
/// An option that does not go with what the bundle trains; as [`Source::of`] and [`Source::packed`].
pub(super) fn source(options: &Options, bundle: &Bundle) -> Result<Source> {
    let data = &options.data;
    let source = Source::of(bundle, data.tokenizer.as_deref())?;
    check(options, source.task(), &bundle.manifest().loss).in_file(bundle.folder())?;
    source
        .mapped(&data.columns)
        .cut(data.max_length)
        .parted(data.stride)
        .sampled(data.sampler)
        .augmented(data.augmentation)
        .packed(data.packing)
}

/// Refuses options that do not go with what is trained.
fn check(options: &Options, task: Task, loss: &LossPlan) -> Result<()> {
    let found = format!("the loss {} of {task}", loss.name);
    OnlyWith::check(OPTIONS, options, &Case { task, loss: loss.clone() }, found)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::anatomy::TASKS;

    type Give = fn(&mut Options);

    /// Each option, given.
    static GIVEN: &[(&str, Give)] = &[
        ("max_length", |options| options.data.max_length = Some(NonZeroUsize::MIN)),
        ("group_by_length", |options| options.data.order = Order::ByLength { seed: 1 }),
        ("doc_stride", |options| options.data.stride = Some(8)),
        ("batch_sampler", |options| options.data.sampler = Sampler::NoDuplicates),
        ("augment", |options| options.data.augmentation.horizontal_flip = true),
        ("packing", |options| options.data.packing = Packing::Concatenate),
        ("reference", |options| options.reference = Referee::Initial),
    ];

    #[test]
    fn every_option_is_taken_or_refused_by_every_loss_of_every_task() {
        assert!(OPTIONS.iter().map(|row| row.option).eq(GIVEN.iter().map(|(option, _)| *option)));
        for row in TASKS {
            for name in row.losses {
                let loss = LossPlan { name: (*name).to_owned(), ..LossPlan::default_of(row.task) };
                assert!(check(&Options::default(), row.task, &loss).is_ok(), "nothing is given");
                for (option, give) in GIVEN {
                    let mut options = Options::default();
                    give(&mut options);
                    let is_taken = match *option {
                        "doc_stride" => row.name == "qa",
                        "augment" => row.name == "image-cls",
                        "packing" => ["causal-lm", "masked-lm"].contains(&row.name),
                        "reference" => ["dpo", "ipo", "kto"].contains(name),
                        _ => !["image-cls", "audio-cls", "ctc", "speech-seq2seq"].contains(&row.name),
                    };
                    let checked = check(&options, row.task, &loss);
                    assert_eq!(checked.is_ok(), is_taken, "{option} with {name} of {}", row.name);
                    assert!(checked.err().is_none_or(|error| error.to_string().starts_with(option) && error.hint().is_some()));
                }
            }
        }
    }
}
