//! Pieces of work that threads share, whose results come in the order of the pieces.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::error::{Error, Result};

/// As much as a program's first thread has: what is deep for that one is so here.
const STACK: usize = 8 << 20;

/// What takes a piece and what it weighs.
pub type Give<'g, T> = &'g mut dyn FnMut(T, usize) -> Result<()>;

/// Has so many threads do `work` on the pieces that `drive` gives, each with its weight, and hands the results to `take` in the order of the pieces.
/// `drive` and `take` run on the calling thread. No more than one piece above the weight of `most` is on its way at any time. A single thread is the
/// calling one.
///
/// # Errors
/// What `take` returns, or `drive`: whichever is of the earlier piece. After an error of `take` each piece that is given is refused, so that `drive` ends.
///
/// # Panics
/// If `work` does.
pub fn in_order<T: Send, R: Send>(
    threads: usize,
    most: usize,
    work: &(dyn Fn(T) -> R + Sync),
    take: &mut dyn FnMut(R) -> Result<()>,
    drive: impl FnOnce(Give<'_, T>) -> Result<()>,
) -> Result<()> {
    let mut taken = Taken { take, failed: None };
    let (give_out, pieces) = mpsc::channel::<(T, SyncSender<R>)>();
    let pieces = Mutex::new(pieces);
    let driven = thread::scope(|scope| {
        let helper = || {
            while let Some((piece, done)) = next(&pieces) {
                // Nobody waits for what came after an error.
                let _ = done.send(work(piece));
            }
        };
        let start = |_: &usize| thread::Builder::new().name("work".to_owned()).stack_size(STACK).spawn_scoped(scope, helper).is_ok();
        let helpers = if threads > 1 { (0..threads).take_while(start).count() } else { 0 };
        let (mut waiting, mut weight) = (VecDeque::<(usize, Receiver<R>)>::new(), 0);
        let driven = drive(&mut |piece, heavy| {
            if helpers == 0 {
                return taken.add(work(piece));
            }
            let (done, result) = mpsc::sync_channel(1);
            give_out.send((piece, done)).map_err(|_| gone())?;
            waiting.push_back((heavy, result));
            weight += heavy;
            while weight > most
                && let Some((heavy, result)) = waiting.pop_front()
            {
                weight -= heavy;
                taken.add(result.recv().map_err(|_| gone())?)?;
            }
            Ok(())
        });
        drop(give_out);
        for (_, result) in waiting {
            if taken.failed.is_none() {
                result.recv().map_err(|_| gone()).and_then(|result| taken.add(result))?;
            }
        }
        driven
    });
    taken.failed.map_or(driven, Err)
}

/// What takes results, until it fails.
struct Taken<'t, R> {
    take: &'t mut dyn FnMut(R) -> Result<()>,
    failed: Option<Error>,
}

impl<R> Taken<'_, R> {
    /// Takes a result.
    ///
    /// # Errors
    /// If this one or one before could not be taken: why is kept.
    fn add(&mut self, result: R) -> Result<()> {
        if self.failed.is_none() {
            self.failed = (self.take)(result).err();
        }
        if self.failed.is_none() { Ok(()) } else { Err(Error::invalid("a piece before this one failed")) }
    }
}

fn next<T>(pieces: &Mutex<Receiver<T>>) -> Option<T> {
    pieces.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// No thread works any more: one of them panicked, which ends this one, too.
fn gone() -> Error {
    Error::invalid("the threads that share this work are gone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_the_order_of_their_pieces() {
        for threads in [1, 2, 5] {
            let mut taken = vec![];
            let work = |piece: usize| {
                // Later pieces are done sooner.
                thread::sleep(std::time::Duration::from_micros(u64::try_from(50 - piece).unwrap_or_default() * 40));
                piece * piece
            };
            let mut take = |result| {
                taken.push(result);
                Ok(())
            };
            in_order(threads, 7, &work, &mut take, |give| (0..50).try_for_each(|piece| give(piece, 1))).expect("nothing fails");
            assert_eq!(taken, (0..50).map(|piece| piece * piece).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn the_error_of_the_earliest_piece_is_told_and_ends_the_work() {
        struct Case {
            /// The piece that cannot be taken, and the one before which there are no more.
            taken: usize,
            driven: usize,
            told: &'static str,
        }
        for Case { taken, driven, told } in [
            Case { taken: 3, driven: 90, told: "taken" },
            Case { taken: 50, driven: 51, told: "taken" },
            Case { taken: 51, driven: 50, told: "driven" },
            Case { taken: 90, driven: 4, told: "driven" },
        ] {
            for threads in [1, 3] {
                let given = AtomicUsize::new(0);
                let mut take = |piece| if piece == taken { Err(Error::invalid("taken")) } else { Ok(()) };
                let error = in_order(threads, 5, &|piece: usize| piece, &mut take, |give| {
                    for piece in 0..driven {
                        given.fetch_add(1, Ordering::Relaxed);
                        give(piece, 1)?;
                    }
                    Err(Error::invalid("driven"))
                });
                assert_eq!(error.expect_err("it fails").to_string(), told, "{taken} {driven} {threads}");
                assert!(given.into_inner() <= taken + 7, "no more is given than may be on its way");
            }
        }
    }

    #[test]
    fn what_is_on_its_way_stays_within_its_weight() {
        let (on_its_way, highest) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut take = |()| {
            on_its_way.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        in_order(4, 30, &|()| (), &mut take, |give| {
            (0..100).try_for_each(|_| {
                highest.fetch_max(on_its_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                give((), 10)
            })
        })
        .expect("nothing fails");
        assert!(highest.into_inner() <= 4);
    }
}
