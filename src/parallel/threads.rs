//! Threads of one process in place of processes: for tests, and for programs that have a device for each thread.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Communicator, gone};
use crate::error::{Error, Result};

/// One of several threads that compute together. One that is dropped is gone: the others get errors.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    hall: Arc<Hall>,
    /// How often this one has given something.
    round: Cell<u64>,
}

#[derive(Debug)]
struct Hall {
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rounds: BTreeMap<u64, Round>,
    gone: usize,
}

#[derive(Debug)]
struct Round {
    given: Vec<Option<Vec<u8>>>,
    taken: usize,
}

/// How long a stop that was asked for waits for the others.
const PATIENCE: Duration = Duration::from_millis(300);

impl Threads {
    /// So many of them, by rank.
    #[must_use]
    pub fn new(size: usize) -> Vec<Self> {
        let hall = Arc::new(Hall { size, state: Mutex::default(), changed: Condvar::new() });
        (0..size).map(|rank| Self { rank, hall: Arc::clone(&hall), round: Cell::new(0) }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.hall.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hall.size
    }

    fn all_reduce(&self, values: &mut [f32], stop: &AtomicBool) -> Result<()> {
        let given = self.all_gather(bytemuck::cast_slice(values), stop)?;
        values.fill(0.0);
        for bytes in given {
            let others: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            if others.len() != values.len() {
                return Err(Error::mismatch("numbers of a thread", values.len(), others.len()));
            }
            values.iter_mut().zip(others).for_each(|(value, other)| *value += other);
        }
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8], stop: &AtomicBool) -> Result<Vec<Vec<u8>>> {
        let (number, size) = (self.round.get(), self.hall.size);
        self.round.set(number + 1);
        let mut state = self.lock();
        let round = state.rounds.entry(number).or_insert_with(|| Round { given: vec![None; size], taken: 0 });
        round.given[self.rank] = Some(bytes.to_vec());
        self.hall.changed.notify_all();
        loop {
            let is_someone_gone = state.gone > 0;
            let Some(round) = state.rounds.get_mut(&number) else { return Err(gone()) };
            if round.given.iter().all(Option::is_some) {
                let all = round.given.iter().flatten().cloned().collect();
                round.taken += 1;
                if round.taken == size {
                    state.rounds.remove(&number);
                }
                return Ok(all);
            }
            if is_someone_gone {
                return Err(gone());
            }
            let (next, waited) = self.hall.changed.wait_timeout(state, PATIENCE).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() && stop.load(Ordering::SeqCst) {
                return Err(gone());
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.lock().gone += 1;
        self.hall.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of some threads does.
    fn among<T: Send>(size: usize, work: impl Fn(Threads) -> T + Sync) -> Vec<T> {
        std::thread::scope(|scope| {
            let work = &work;
            let all: Vec<_> = Threads::new(size).into_iter().map(|one| scope.spawn(move || work(one))).collect();
            all.into_iter().map(|one| one.join().expect("no thread panics")).collect()
        })
    }

    #[test]
    fn sums_are_the_same_for_all_and_come_round_after_round() {
        let stop = AtomicBool::new(false);
        let found = among(3, |one| {
            let rank = f32::from(u8::try_from(one.rank()).expect("few threads"));
            let mut sums = vec![];
            for round in 0..50_u8 {
                let mut values = [rank, f32::from(round) * 0.1, 1e-9 * rank];
                one.all_reduce(&mut values, &stop).expect("nobody is gone");
                sums.push(values.map(f32::to_bits));
            }
            sums
        });
        assert!(found.iter().all(|sums| *sums == found[0]));
        assert_eq!(f32::from_bits(found[0][0][0]).to_bits(), 3.0_f32.to_bits());
    }

    #[test]
    fn nobody_waits_for_one_who_is_gone() {
        let stop = AtomicBool::new(false);
        let found = among(3, |one| {
            if one.rank() == 1 {
                return true;
            }
            one.all_gather(&[1], &stop).is_err()
        });
        assert_eq!(found, [true; 3]);
    }

    #[test]
    fn who_is_asked_to_stop_does_not_wait_for_ever() {
        let stop = AtomicBool::new(true);
        let mut two = Threads::new(2);
        let (_silent, one) = (two.pop(), two.pop());
        assert!(one.is_some_and(|one| one.all_gather(&[], &stop).is_err()));
    }
}
