//! The processes that train together, where a launcher of MPI programs started several.

pub(super) use joined::Group;

/// What a run's config.yaml says of its processes.
pub(super) fn note(processes: usize) -> String {
    match processes {
        0 | 1 => String::new(),
        _ => format!("# In {processes} processes: batch-size, micro-batch-size and gradient-accumulation-steps are those of each.\n"),
    }
}

/// The processes that MPI connects.
#[cfg(feature = "mpi")]
mod joined {
    use std::num::NonZeroUsize;

    use crate::cli::{Global, failure};
    use crate::error::Result;
    use crate::parallel::launcher::Launched;
    use crate::parallel::{Alone, Communicator, Cores, Mpi, share_of_cores};

    /// This process and those that it trains with.
    pub(in super::super) struct Group(Option<Mpi>);

    impl Group {
        /// Joins the others, if a launcher started any.
        pub(in super::super) fn join() -> Self {
            Self(Launched::here().and_then(|_| Mpi::join()))
        }

        /// How they talk to each other.
        pub(in super::super) fn communicator(&self) -> &dyn Communicator {
            match &self.0 {
                Some(mpi) => mpi,
                None => &Alone,
            }
        }

        /// Threads for this one; none: as many as it may use.
        pub(in super::super) fn threads(&self) -> Option<NonZeroUsize> {
            let mpi = self.0.as_ref()?;
            let (cores, processes) = (Cores::here(), mpi.on_this_host());
            if let Some(share) = cores.withheld(processes).filter(|_| mpi.rank() == 0) {
                tracing::warn!(
                    "the launcher bound this process to {} of the host's processors, where its share is {share}: `mpirun --bind-to none` lets each use its share",
                    cores.usable
                );
            }
            share_of_cores(processes)
        }

        /// What came of the work. An error that this process alone knows of is said here, and ends the others; `is_known` says whether they know.
        pub(in super::super) fn ended<T>(&self, came: Result<T>, is_known: bool, global: &Global) -> Result<T> {
            if let (Err(error), Some(mpi), false) = (&came, &self.0, is_known) {
                let _ = failure::report(error, global.json);
                mpi.abandon();
            }
            came
        }
    }
}

/// A program without MPI is alone: the command line refused others.
#[cfg(not(feature = "mpi"))]
mod joined {
    use std::num::NonZeroUsize;

    use crate::cli::Global;
    use crate::error::Result;
    use crate::parallel::{Alone, Communicator};

    /// This process.
    pub(in super::super) struct Group(Alone);

    impl Group {
        /// There is nobody to join.
        pub(in super::super) fn join() -> Self {
            Self(Alone)
        }

        /// How it talks to others: it does not.
        pub(in super::super) fn communicator(&self) -> &dyn Communicator {
            &self.0
        }

        /// As many threads as it may use.
        pub(in super::super) fn threads(&self) -> Option<NonZeroUsize> {
            let Self(Alone) = self;
            None
        }

        /// What came of the work.
        pub(in super::super) fn ended<T>(&self, came: Result<T>, _: bool, _: &Global) -> Result<T> {
            let Self(Alone) = self;
            came
        }
    }
}
