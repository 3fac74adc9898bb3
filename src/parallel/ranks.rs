//! What processes of a run do together, failures included: where one fails, all end, and the one that leads says why.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Communicator, Parts, Reader, Share, Writer};
use crate::error::{Error, ErrorKind, Result};

/// The processes of a run, as one of them sees them.
///
/// All of them call the same methods in the same order. What goes around carries whether each has failed, and whether it was asked to stop.
pub struct Ranks<'a> {
    communicator: &'a dyn Communicator,
    stop: &'a AtomicBool,
    /// Whether a process was asked to stop, as all of them know.
    stops: Cell<bool>,
    /// Whether all of them know that the run is over, and why.
    is_settled: Cell<bool>,
}

/// Numbers of each process that are given to the others at a time: what is under way takes little memory.
const PIECE: usize = 1 << 22;
/// What stands before what a process gives.
const FAILED: u8 = 1;
const STOPS: u8 = 2;
/// What stands between an error and its hint.
const HINT: char = '\0';

impl<'a> Ranks<'a> {
    /// Those of a communicator; `stop` becomes true when this process is asked to end.
    #[must_use]
    pub fn of(communicator: &'a dyn Communicator, stop: &'a AtomicBool) -> Self {
        Self { communicator, stop, stops: Cell::new(false), is_settled: Cell::new(false) }
    }

    /// How many there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.communicator.size()
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.size() > 1
    }

    /// How many of them share this one's host.
    #[must_use]
    pub fn on_this_host(&self) -> usize {
        self.communicator.on_this_host().max(1)
    }

    /// Whether this is the one that writes and speaks.
    #[must_use]
    pub fn is_lead(&self) -> bool {
        self.communicator.rank() == 0
    }

    /// Which parts of a step this one computes.
    #[must_use]
    pub fn share(&self) -> Share {
        Share { rank: self.communicator.rank(), size: self.size() }
    }

    /// Whether a process was asked to end: this one alone, or one of several, as they all know since they last gave each other something.
    #[must_use]
    pub fn stops(&self) -> bool {
        if self.are_several() { self.stops.get() } else { self.stop.load(Ordering::SeqCst) }
    }

    /// Whether an error that this run ended with is known to all of its processes, or they are gone. Where it is not, the others still wait, and have to be
    /// ended. From then on this process is by itself.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        self.is_settled.get() || !self.are_several()
    }

    /// What an error is called with which all processes end alike: the one that leads says it.
    pub fn alike(&self, error: Error) -> Error {
        self.is_settled.set(true);
        if self.is_lead() { error } else { ErrorKind::Elsewhere.into() }
    }

    /// Makes each number the sum of those of all processes.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce`].
    pub fn reduce(&self, values: &mut [f32]) -> Result<()> {
        if !self.are_several() {
            return Ok(());
        }
        if self.is_settled.get() {
            return Err(ErrorKind::Elsewhere.into());
        }
        self.communicator.all_reduce(values, self.stop).map_err(|error| self.alike(error))
    }

    /// Makes each number the sum of those of all processes: all numbers, or where they are parted those of this one's own part alone.
    ///
    /// # Errors
    /// As [`Communicator::all_reduce`].
    pub fn reduce_parts(&self, values: &mut [f32], parts: Option<&Parts>) -> Result<()> {
        let Some(parts) = parts.filter(|_| self.are_several()) else { return self.reduce(values) };
        if self.is_settled.get() {
            return Err(ErrorKind::Elsewhere.into());
        }
        self.communicator.reduce_scatter(values, parts.lengths(), self.stop).map_err(|error| self.alike(error))
    }

    /// What every process gives, by rank.
    ///
    /// # Errors
    /// If one of them failed: the first of those that did decides what is said.
    pub fn gather(&self, own: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        if !self.are_several() {
            return own.map(|own| vec![own]);
        }
        if self.is_settled.get() {
            return own.and(Err(ErrorKind::Elsewhere.into()));
        }
        let stops = if self.stop.load(Ordering::SeqCst) { STOPS } else { 0 };
        let given = match &own {
            Ok(own) => [&[stops], own.as_slice()].concat(),
            Err(error) => [&[FAILED | stops], self.told(error).as_bytes()].concat(),
        };
        let all = self.communicator.all_gather(&given, self.stop).map_err(|error| self.alike(error))?;
        let parts: Vec<(u8, &[u8])> = all.iter().filter_map(|bytes| bytes.split_first().map(|(first, rest)| (*first, rest))).collect();
        self.stops.set(self.stops.get() || parts.iter().any(|(first, _)| first & STOPS != 0));
        let Some((_, words)) = parts.iter().find(|(first, _)| first & FAILED != 0) else {
            return Ok(parts.into_iter().map(|(_, rest)| rest.to_vec()).collect());
        };
        Err(self.alike(match own {
            Err(error) if self.is_lead() => error,
            _ => heard(&String::from_utf8_lossy(words)),
        }))
    }

    /// An error as the one that leads says it of another.
    fn told(&self, error: &Error) -> String {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source()).map(ToString::to_string);
        let words: Vec<String> = [self.communicator.name(), error.to_string()].into_iter().chain(causes).collect();
        format!("{}{HINT}{}", words.join(": "), error.hint().unwrap_or_default())
    }

    /// Puts the parts of all processes together, each of which gives its `own`. Who wants no whole gives its part alone.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn join(&self, parts: &Parts, own: &[f32], mut whole: Option<&mut [f32]>) -> Result<()> {
        let longest = parts.lengths().iter().copied().max().unwrap_or_default();
        for from in (0..longest).step_by(PIECE) {
            let piece = |length: usize| from.min(length)..(from + PIECE).min(length);
            let given = bytemuck::cast_slice(&own[piece(own.len())]).to_vec();
            let all = self.gather(Ok(given))?;
            let Some(whole) = &mut whole else { continue };
            let mut start = 0;
            for (bytes, &length) in all.iter().zip(parts.lengths()) {
                let (place, values) = (piece(length), bytemuck::pod_collect_to_vec::<u8, f32>(bytes));
                whole[start + place.start..start + place.end].copy_from_slice(&values);
                start += length;
            }
        }
        Ok(())
    }

    /// What came of something that each of them did, where none failed.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn agree<T>(&self, own: Result<T>) -> Result<T> {
        if self.are_settled() {
            return own;
        }
        let (own, told) = match own {
            Ok(own) => (Some(own), Ok(vec![])),
            Err(error) => (None, Err(error)),
        };
        self.gather(told)?;
        own.ok_or_else(|| ErrorKind::Elsewhere.into())
    }

    /// What came of something that the one that leads did; the others wait until it is done, and have nothing.
    ///
    /// # Errors
    /// If it failed.
    pub fn lead<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        self.agree(if self.is_lead() { work().map(Some) } else { Ok(None) })
    }

    /// The sum of what each of them has, added up by rank.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn total(&self, own: Result<f64>) -> Result<f64> {
        let all = self.gather(own.map(|own| Writer::default().number(own).finish()))?;
        all.iter().map(|bytes| Reader::new(bytes).number()).sum()
    }

    /// The sum of the counts that they have.
    ///
    /// # Errors
    /// As [`gather`](Self::gather).
    pub fn count(&self, own: usize) -> Result<usize> {
        if !self.are_several() {
            return Ok(own);
        }
        let all = self.gather(Ok(Writer::default().count(own).finish()))?;
        all.iter().map(|bytes| Reader::new(bytes).count()).sum()
    }

    /// Refuses what is not the same for all of them.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) with the first process that has another.
    pub fn same(&self, what: &'static str, own: &str) -> Result<()> {
        if self.are_settled() {
            return Ok(());
        }
        let all = self.gather(Ok(own.as_bytes().to_vec()))?;
        match all.iter().position(|other| other != &all[0]) {
            None => Ok(()),
            Some(rank) => {
                let text = |rank: usize| String::from_utf8_lossy(&all[rank]).into_owned();
                Err(self.alike(Error::mismatch(
                    what,
                    format!("{}, as process 0 has it", text(0)),
                    format!("{} in process {rank}", text(rank)),
                )))
            }
        }
    }
}

/// An error of another process.
fn heard(words: &str) -> Error {
    let (what, hint) = words.split_once(HINT).unwrap_or((words, ""));
    let error = Error::invalid(what);
    if hint.is_empty() { error } else { error.with_hint(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::super::{Alone, Threads};
    use super::*;

    fn among<T: Send>(size: usize, work: impl Fn(&Ranks<'_>) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let each = |one: Threads| scope.spawn(move || work(&Ranks::of(&one, &AtomicBool::new(false))));
            let all: Vec<_> = Threads::new(size).into_iter().map(each).collect();
            all.into_iter().map(|one| one.join().expect("no thread panics")).collect()
        })
    }

    #[test]
    fn where_one_fails_all_end_and_the_lead_says_why() {
        let words = among(3, |ranks| {
            let own = if ranks.share().rank == 2 { Err(Error::invalid("no rows").with_hint("write some")) } else { Ok(()) };
            let error = ranks.agree(own).expect_err("one failed");
            assert!(ranks.are_settled());
            (error.to_string(), error.hint().map(str::to_owned))
        });
        assert_eq!(words[0], ("process 2: no rows".to_owned(), Some("write some".to_owned())));
        assert_eq!(
            (words[1].clone(), words[2].clone()),
            (("process 0 says why".to_owned(), None), ("process 0 says why".to_owned(), None))
        );
    }

    #[test]
    fn what_differs_is_named() {
        let words = among(2, |ranks| ranks.same("the data", if ranks.is_lead() { "a" } else { "b" }).map_err(|error| error.to_string()));
        assert_eq!(words[0], Err("the data: expected a, as process 0 has it, found b in process 1".to_owned()));
        assert!(among(2, |ranks| ranks.same("the data", "a").is_ok()).into_iter().all(|is_ok| is_ok));
    }

    #[test]
    fn all_know_that_one_was_asked_to_stop() {
        let asked = std::thread::scope(|scope| {
            let each = |(rank, one): (usize, Threads)| {
                scope.spawn(move || {
                    let stop = AtomicBool::new(rank == 1);
                    let ranks = Ranks::of(&one, &stop);
                    let before = ranks.stops();
                    (before, ranks.total(Ok(0.5)).ok(), ranks.stops())
                })
            };
            let all: Vec<_> = Threads::new(2).into_iter().enumerate().map(each).collect();
            all.into_iter().map(|one| one.join().expect("no thread panics")).collect::<Vec<_>>()
        });
        assert_eq!(asked, [(false, Some(1.0), true); 2]);
    }

    #[test]
    fn one_process_is_what_it_was() {
        let stop = AtomicBool::new(false);
        let ranks = Ranks::of(&Alone, &stop);
        assert_eq!((ranks.share(), ranks.is_lead(), ranks.are_several()), (Share::ALL, true, false));
        assert_eq!(ranks.agree(Err::<(), _>(Error::invalid("x"))).map_err(|error| error.to_string()), Err("x".to_owned()));
        stop.store(true, Ordering::SeqCst);
        assert!(ranks.stops());
    }
}
