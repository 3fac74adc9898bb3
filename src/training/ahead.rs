//! Batches made on a thread of their own, while the step before them runs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use crate::data::{Batches, Cursor, Group};
use crate::error::{Error, Result};
use crate::parallel::Share;

/// Groups that wait for their step: one is made while another is computed with.
const WAITING: usize = 1;

/// What the model runs on for one optimizer step.
#[derive(Default)]
pub(super) struct Next {
    pub group: Group,
    /// The place in the data behind it.
    pub after: Cursor,
}

/// Groups in the order of the data, without end.
pub(super) struct Ahead(Receiver<Result<Next>>);

impl Ahead {
    /// Makes a share of groups of `count` batches each on a thread of `scope`, until the answer is dropped or one cannot be made.
    pub(super) fn start<'scope>(scope: &'scope Scope<'scope, '_>, batches: Batches<'scope>, count: usize, share: Share) -> Self {
        let (sender, receiver) = sync_channel(WAITING);
        scope.spawn(move || make(batches, count, share, &sender));
        Self(receiver)
    }

    /// The next group.
    ///
    /// # Errors
    /// Rows that do not fit together.
    pub(super) fn next(&self) -> Result<Next> {
        self.0.recv().map_err(|_| Error::invalid("making batches was broken off"))?
    }
}

fn make(mut batches: Batches<'_>, count: usize, share: Share, sender: &SyncSender<Result<Next>>) {
    loop {
        let group = batches.next_group(count, share).map(|group| Next { group, after: batches.cursor() });
        let is_last = group.is_err();
        if sender.send(group).is_err() || is_last {
            return;
        }
    }
}
