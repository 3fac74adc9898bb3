//! Batches made on a thread of their own, while the step before them runs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use crate::data::{Batch, Batches, Cursor};
use crate::error::{Error, Result};

/// Groups that wait for their step: one is made while another is computed with.
const WAITING: usize = 1;

/// What the model runs on for one optimizer step.
pub(super) struct Group {
    pub batches: Vec<Batch>,
    /// The place in the data behind it.
    pub after: Cursor,
}

/// Groups in the order of the data, without end.
pub(super) struct Ahead(Receiver<Result<Group>>);

impl Ahead {
    /// Makes groups of `count` batches each on a thread of `scope`, until the answer is dropped or one cannot be made.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, batches: Batches<'scope>, count: usize) -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        scope.spawn(move || make(batches, count, &sender));
        Self(receiver)
    }

    /// The next group.
    ///
    /// # Errors
    /// Rows that do not fit together.
    pub(super) fn next(&self) -> Result<Group> {
        self.0.recv().map_err(|_| Error::invalid("making batches was broken off"))?
    }
}

fn make(mut batches: Batches<'_>, count: usize, sender: &SyncSender<Result<Group>>) {
    loop {
        let group = batches.next_group(count).map(|made| Group { batches: made, after: batches.cursor() });
        let is_last = group.is_err();
        if sender.send(group).is_err() || is_last {
            return;
        }
    }
}
