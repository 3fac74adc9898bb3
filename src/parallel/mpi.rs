//! The processes that `mpirun` started, by the MPI library that the program was built with.
//!
//! Waiting is ours: MPI's own calls wait for ever for a process that is gone. What is waited for is asked after again and again, so that a process
//! that is told to end (as launchers tell the others when one of them dies) can still save what it has.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mpi::environment::{Threading, Universe, initialize_with_threading, processor_name};
use mpi::ffi;
use mpi::traits::{AsRaw, Communicator as _};

use super::{Communicator, gone};
use crate::error::{Error, ErrorKind, Result};

/// This process among those of `mpirun`. Dropped, it takes leave of the others, and waits until they do.
pub struct Mpi {
    universe: Option<Universe>,
    rank: usize,
    size: usize,
    on_this_host: usize,
    host: String,
    /// Whether others are gone: nobody can take leave of them.
    is_lost: Cell<bool>,
    /// What is given to MPI, kept for the next time.
    buffers: RefCell<[Vec<f32>; 2]>,
}

/// How long a process that was told to end waits for the others. Open MPI ends processes one second after it told them.
const PATIENCE: Duration = Duration::from_millis(300);
/// Numbers that are summed at a time: MPI counts in 32 bits, and half of them is a piece that caches like.
const PIECE: usize = 1 << 28;
/// How often MPI is asked before the processor is offered to others.
const QUICK: u32 = 64;

/// A number of MPI's.
fn number(count: usize) -> Result<c_int> {
    c_int::try_from(count).map_err(|_| Error::unsupported("an exchange of more than 2 GB at once", "MPI counts in 32 bits"))
}

fn check(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Error::from(ErrorKind::Runtime(format!("MPI: error {code}")))),
    }
}

impl Mpi {
    /// Joins the other processes. None if MPI was joined before.
    #[must_use]
    pub fn join() -> Option<Self> {
        // Graphs compute in threads of their own, and the main thread alone talks to the others.
        let (universe, _) = initialize_with_threading(Threading::Funneled)?;
        let world = universe.world();
        let size = usize::try_from(world.size()).unwrap_or(1);
        let rank = usize::try_from(world.rank()).unwrap_or_default();
        let on_this_host = usize::try_from(world.split_shared(world.rank()).size()).unwrap_or(1);
        let host = processor_name().unwrap_or_default();
        Some(Self { universe: Some(universe), rank, size, on_this_host, host, is_lost: Cell::new(false), buffers: RefCell::default() })
    }

    /// Ends all processes, because this one alone knows why it cannot go on.
    pub fn abandon(&self) -> ! {
        match &self.universe {
            Some(universe) => universe.world().abort(1),
            None => std::process::exit(1),
        }
    }

    /// Whether processes are gone that nobody can take leave of.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    fn world(&self) -> Result<ffi::MPI_Comm> {
        let universe = self.universe.as_ref().filter(|_| !self.is_lost.get()).ok_or_else(gone)?;
        Ok(universe.world().as_raw())
    }

    /// Waits until a request is done.
    fn wait(&self, request: &mut ffi::MPI_Request, stop: &AtomicBool) -> Result<()> {
        let (mut asked, mut since) = (0_u32, None::<Instant>);
        loop {
            let mut is_done: c_int = 0;
            // SAFETY: the request is one that MPI gave and that was not done yet; no status is asked for.
            #[expect(unsafe_code, reason = "MPI's own interface")]
            check(unsafe { ffi::MPI_Test(request, &raw mut is_done, ffi::RSMPI_STATUS_IGNORE) })?;
            if is_done != 0 {
                return Ok(());
            }
            asked = asked.wrapping_add(1);
            if asked > QUICK {
                std::thread::yield_now();
            }
            if stop.load(Ordering::SeqCst) && since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                self.is_lost.set(true);
                return Err(gone());
            }
        }
    }

    fn sum(&self, given: &[f32], sums: &mut [f32], stop: &AtomicBool) -> Result<()> {
        let (world, count) = (self.world()?, number(given.len())?);
        // SAFETY: both slices have so many numbers, and live until the request is done; where that is not waited for, the caller leaks them.
        #[expect(unsafe_code, reason = "MPI's own interface")]
        let mut request = unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (from, into) = (given.as_ptr().cast::<c_void>(), sums.as_mut_ptr().cast::<c_void>());
            check(ffi::MPI_Iallreduce(from, into, count, ffi::RSMPI_FLOAT, ffi::RSMPI_SUM, world, &raw mut request))?;
            request
        };
        self.wait(&mut request, stop)
    }

    fn sum_part(&self, given: &[f32], sums: &mut [f32], lengths: &[c_int], stop: &AtomicBool) -> Result<()> {
        let world = self.world()?;
        // SAFETY: `given` has as many numbers as `lengths` together, `sums` as many as this process's own; all live until the request is done, or are leaked.
        #[expect(unsafe_code, reason = "MPI's own interface")]
        let mut request = unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (from, into) = (given.as_ptr().cast::<c_void>(), sums.as_mut_ptr().cast::<c_void>());
            let (float, sum) = (ffi::RSMPI_FLOAT, ffi::RSMPI_SUM);
            check(ffi::MPI_Ireduce_scatter(from, into, lengths.as_ptr(), float, sum, world, &raw mut request))?;
            request
        };
        self.wait(&mut request, stop)
    }

    /// The bytes of all, one behind the other, where each gives `lengths` of them.
    fn gathered(&self, bytes: &[u8], lengths: &[c_int], all: &mut [u8], stop: &AtomicBool) -> Result<()> {
        let (world, count) = (self.world()?, number(bytes.len())?);
        let mut end: c_int = 0;
        let mut starts = vec![];
        for length in lengths {
            starts.push(end);
            end = end
                .checked_add(*length)
                .ok_or_else(|| Error::unsupported("an exchange of more than 2 GB at once", "MPI counts in 32 bits"))?;
        }
        // SAFETY: `all` has room for `lengths`, one behind the other from `starts`; everything lives until the request is done, or is leaked.
        #[expect(unsafe_code, reason = "MPI's own interface")]
        let mut request = unsafe {
            let mut request = ffi::RSMPI_REQUEST_NULL;
            let (from, into, byte) = (bytes.as_ptr().cast::<c_void>(), all.as_mut_ptr().cast::<c_void>(), ffi::RSMPI_UINT8_T);
            check(ffi::MPI_Iallgatherv(from, count, byte, into, lengths.as_ptr(), starts.as_ptr(), byte, world, &raw mut request))?;
            request
        };
        let waited = self.wait(&mut request, stop);
        if waited.is_err() {
            std::mem::forget(starts);
        }
        waited
    }

    /// Gives `bytes` to all; each gives as many as `lengths` says.
    fn exchange(&self, bytes: &[u8], lengths: Vec<c_int>, stop: &AtomicBool) -> Result<Vec<u8>> {
        let given = bytes.to_vec();
        let total: usize = lengths.iter().map(|length| usize::try_from(*length).unwrap_or_default()).sum();
        let mut all = vec![0; total];
        let done = self.gathered(&given, &lengths, &mut all, stop);
        if let Err(error) = done {
            // MPI may still read and write them.
            std::mem::forget((given, lengths, all));
            return Err(error);
        }
        Ok(all)
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn on_this_host(&self) -> usize {
        self.on_this_host
    }

    fn name(&self) -> String {
        format!("process {} on {}", self.rank, self.host)
    }

    fn all_reduce(&self, values: &mut [f32], stop: &AtomicBool) -> Result<()> {
        let [mut given, mut sums] = self.buffers.take();
        for piece in values.chunks_mut(PIECE) {
            given.clear();
            given.extend_from_slice(piece);
            sums.resize(piece.len(), 0.0);
            if let Err(error) = self.sum(&given, &mut sums, stop) {
                std::mem::forget((given, sums));
                return Err(error);
            }
            piece.copy_from_slice(&sums);
        }
        self.buffers.replace([given, sums]);
        Ok(())
    }

    fn reduce_scatter(&self, values: &mut [f32], parts: &[usize], stop: &AtomicBool) -> Result<()> {
        if number(values.len()).is_err() {
            return self.all_reduce(values, stop);
        }
        let lengths = parts.iter().map(|length| number(*length)).collect::<Result<Vec<_>>>()?;
        let start = parts[..self.rank].iter().sum::<usize>();
        let own = start..start + parts[self.rank];
        let [mut given, mut sums] = self.buffers.take();
        given.clear();
        given.extend_from_slice(values);
        sums.clear();
        sums.resize(own.len(), 0.0);
        if let Err(error) = self.sum_part(&given, &mut sums, &lengths, stop) {
            std::mem::forget((given, sums, lengths));
            return Err(error);
        }
        values[own].copy_from_slice(&sums);
        self.buffers.replace([given, sums]);
        Ok(())
    }

    fn all_gather(&self, bytes: &[u8], stop: &AtomicBool) -> Result<Vec<Vec<u8>>> {
        let own = number(bytes.len())?;
        let width = size_of::<c_int>();
        let each = vec![number(width)?; self.size];
        let told = self.exchange(&own.to_ne_bytes(), each, stop)?;
        let lengths: Vec<c_int> = told.as_chunks::<4>().0.iter().map(|bytes| c_int::from_ne_bytes(*bytes)).collect();
        let all = self.exchange(bytes, lengths.clone(), stop)?;
        let mut rest = all.as_slice();
        let mut parts = vec![];
        for length in lengths {
            let (part, behind) = rest.split_at_checked(usize::try_from(length).unwrap_or_default()).ok_or_else(gone)?;
            parts.push(part.to_vec());
            rest = behind;
        }
        Ok(parts)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if self.is_lost.get() {
            // To take leave is to wait for all.
            std::mem::forget(self.universe.take());
        }
    }
}
