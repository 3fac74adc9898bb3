//! Whether this process is one of several that a launcher of MPI programs started: what its environment says.

/// What a launcher says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The launcher, for people.
    pub by: &'static str,
    /// How many processes it started; none if it does not say.
    pub size: Option<usize>,
    /// The number of this one.
    pub rank: Option<usize>,
}

/// A launcher, and the variables that its processes have.
struct Launcher {
    name: &'static str,
    size: &'static str,
    rank: &'static str,
}

/// The launchers of the MPI libraries. A job of Slurm without MPI has its variables, too: they count where PMIx is there.
const LAUNCHERS: [Launcher; 4] = [
    Launcher { name: "Open MPI", size: "OMPI_COMM_WORLD_SIZE", rank: "OMPI_COMM_WORLD_RANK" },
    Launcher { name: "MVAPICH", size: "MV2_COMM_WORLD_SIZE", rank: "MV2_COMM_WORLD_RANK" },
    Launcher { name: "an MPI launcher", size: "PMI_SIZE", rank: "PMI_RANK" },
    Launcher { name: "Slurm", size: "SLURM_STEP_NUM_TASKS", rank: "PMIX_RANK" },
];

impl Launched {
    /// What this process's environment says.
    #[must_use]
    pub fn here() -> Option<Self> {
        Self::in_environment(&|name| std::env::var(name).ok())
    }

    /// What an environment says; both variables of a launcher have to be there.
    #[must_use]
    pub fn in_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name).and_then(|text| text.trim().parse().ok());
        LAUNCHERS.iter().find(|launcher| variable(launcher.size).is_some() && variable(launcher.rank).is_some()).map(|launcher| Self {
            by: launcher.name,
            size: number(launcher.size),
            rank: number(launcher.rank),
        })
    }

    /// How many processes were started.
    #[must_use]
    pub fn processes(self) -> usize {
        self.size.unwrap_or(1)
    }

    /// Whether another one of them speaks for all.
    #[must_use]
    pub fn is_follower(self) -> bool {
        self.processes() > 1 && self.rank.is_some_and(|rank| rank > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Launched> {
        Launched::in_environment(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn launchers_are_known_by_what_they_leave() {
        for (variables, size, is_follower) in [
            (&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")], 4, true),
            (&[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")], 4, false),
            (&[("PMI_SIZE", "2"), ("PMI_RANK", "1")], 2, true),
            (&[("PMI_SIZE", "1"), ("PMI_RANK", "0")], 1, false),
            (&[("SLURM_STEP_NUM_TASKS", "8"), ("PMIX_RANK", "7")], 8, true),
        ] {
            let launched = of(variables).expect("a launcher");
            assert_eq!((launched.processes(), launched.is_follower()), (size, is_follower), "{variables:?}");
        }
        assert_eq!(of(&[("SLURM_STEP_NUM_TASKS", "8")]), None, "a job without MPI");
        assert_eq!(of(&[]), None);
    }
}
