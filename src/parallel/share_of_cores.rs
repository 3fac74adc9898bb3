//! How many threads a process computes with where several share a host.

use std::num::NonZeroUsize;
use std::thread;

/// The processors of a host, as one process sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Those that this process may use: its affinity, and the limits of its container.
    pub usable: usize,
    /// Those of the affinity alone, where it is known.
    pub bound: Option<usize>,
    /// Those of the host, where it is known.
    pub online: Option<usize>,
}

impl Cores {
    /// Those of this host and process.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let status = read("/proc/self/status");
        let bound = status.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")));
        Self {
            usable: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            bound: bound.and_then(listed),
            online: read("/sys/devices/system/cpu/online").as_deref().and_then(listed),
        }
    }

    /// Threads for one of so many processes of this host.
    ///
    /// A process that its launcher has bound to some processors uses those, but not more than its share; others part what there is.
    #[must_use]
    pub fn share(self, processes: usize) -> usize {
        let processes = processes.max(1);
        let is_bound = self.bound.zip(self.online).is_some_and(|(bound, online)| bound < online);
        let all = if is_bound { self.online.unwrap_or(self.usable) } else { self.usable };
        (all / processes).clamp(1, self.usable.max(1))
    }

    /// Threads that this process would have as its share and may not use, because its launcher has bound it to fewer processors.
    #[must_use]
    pub fn withheld(self, processes: usize) -> Option<usize> {
        let share = self.online? / processes.max(1);
        (share > self.usable && self.bound? < self.online?).then_some(share)
    }
}

/// Threads for one of so many processes of this host; as many as it may use if it is alone.
#[must_use]
pub fn share_of_cores(processes: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(Cores::here().share(processes)).filter(|_| processes > 1)
}

/// How many numbers a list as `0-3,8` has.
fn listed(text: &str) -> Option<usize> {
    let of_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1),
        None => part.parse::<usize>().ok().map(|_| 1),
    };
    text.trim().split(',').map(of_part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_part_the_cores_of_their_host() {
        let cores = |usable, bound, online| Cores { usable, bound: Some(bound), online: Some(online) };
        for (cores, processes, threads, withheld) in [
            (cores(64, 64, 64), 1, 64, None),
            (cores(64, 64, 64), 4, 16, None),
            // Bound to a core each.
            (cores(1, 1, 64), 2, 1, Some(32)),
            // Bound to a socket that two of four share.
            (cores(32, 32, 64), 4, 16, None),
            // A container that has two processors of many.
            (cores(2, 64, 64), 2, 1, None),
            (cores(2, 2, 2), 5, 1, None),
        ] {
            assert_eq!((cores.share(processes), cores.withheld(processes)), (threads, withheld), "{cores:?} {processes}");
        }
        let unknown = Cores { usable: 8, bound: None, online: None };
        assert_eq!((unknown.share(2), unknown.withheld(2)), (4, None));
    }

    #[test]
    fn lists_of_processors_are_counted() {
        for (text, count) in [("0-3\n", Some(4)), ("0-3,8", Some(5)), ("\t0", Some(1)), ("", None), ("3-1", None)] {
            assert_eq!(listed(text), count, "{text:?}");
        }
    }
}
