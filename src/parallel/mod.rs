//! Several processes that train one adapter together: who they are, and how numbers go around among them.
//!
//! ```text
//!   rank 0    batches 0, 2, .. ─▶ gradient ─┐              ┌─▶ update ─▶ the same state
//!                                           ├─ all-reduce ─┤
//!   rank 1    batches 1, 3, .. ─▶ gradient ─┘              └─▶ update ─▶ the same state
//! ```
//! A [`Communicator`] is the seam: one process ([`Alone`]), threads of one process ([`Threads`]), or the processes that `mpirun` started (feature
//! `mpi`). What a failure of one means for all is decided by [`Ranks`], which everything above uses. Knows no graphs.

mod alone;
mod bytes;
pub mod launcher;
#[cfg(feature = "mpi")]
mod mpi;
mod ranks;
mod share;
mod share_of_cores;
mod threads;

pub use alone::Alone;
pub use bytes::{Reader, Writer};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use ranks::Ranks;
pub use share::{Parts, Share};
pub use share_of_cores::{Cores, share_of_cores};
pub use threads::Threads;

use std::sync::atomic::AtomicBool;

use crate::error::{Error, ErrorKind, Result};

/// Processes that compute together, as one of them sees them. All of them call the same methods in the same order.
pub trait Communicator {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many processes there are.
    fn size(&self) -> usize;

    /// How many of them share this one's host.
    fn on_this_host(&self) -> usize {
        self.size()
    }

    /// What people call this process.
    fn name(&self) -> String {
        format!("process {}", self.rank())
    }

    /// Makes each number the sum of those of all processes. Every process gets the same bits.
    ///
    /// # Errors
    /// If a process is gone, or `stop` was set and the others did not come.
    fn all_reduce(&self, values: &mut [f32], stop: &AtomicBool) -> Result<()>;

    /// Makes each number of this process's own part the sum of those of all processes; the rest may be anything afterwards. `parts` has the length of each
    /// process's part, by rank; they lie behind one another.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn reduce_scatter(&self, values: &mut [f32], parts: &[usize], stop: &AtomicBool) -> Result<()> {
        let _ = parts;
        self.all_reduce(values, stop)
    }

    /// The bytes of every process, by rank; they need not be of one length.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn all_gather(&self, bytes: &[u8], stop: &AtomicBool) -> Result<Vec<Vec<u8>>>;
}

/// What the others say when one of them is gone, or does not come while everybody was asked to stop.
fn gone() -> Error {
    Error::from(ErrorKind::Interrupted)
        .with_hint("the other processes of this run did not come any more: one of them ended, or was stopped")
}
