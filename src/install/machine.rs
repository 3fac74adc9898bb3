//! Which wheels are for a machine, by the tags of their names (Python Packaging User Guide, platform compatibility tags).

use std::env::consts;

/// A system and a processor, in Rust's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `linux`, `macos`, `windows`.
    pub system: &'static str,
    /// `x86_64`, `aarch64`.
    pub processor: &'static str,
    /// Whether the C library is the one that wheels for Linux are made for.
    pub is_glibc: bool,
}

impl Machine {
    /// The one that this program runs on.
    #[must_use]
    pub fn this() -> Self {
        Self { system: consts::OS, processor: consts::ARCH, is_glibc: cfg!(target_env = "gnu") }
    }

    /// Whether a wheel with this tag, or with these joined by dots, is for the machine.
    #[must_use]
    pub fn takes(&self, tags: &str) -> bool {
        tags.split('.').any(|tag| self.takes_one(tag))
    }

    fn takes_one(&self, tag: &str) -> bool {
        let processor = self.processor;
        let ends_with = |name: &str| tag.strip_suffix(name).is_some_and(|rest| rest.ends_with('_'));
        match self.system {
            "linux" if self.is_glibc => (tag.starts_with("manylinux") || tag.starts_with("linux")) && ends_with(processor),
            "linux" => tag.starts_with("musllinux") && ends_with(processor),
            "macos" => {
                tag.starts_with("macosx")
                    && (ends_with("universal2") || ends_with(if processor == "aarch64" { "arm64" } else { processor }))
            }
            "windows" => tag == if processor == "aarch64" { "win_arm64" } else { "win_amd64" },
            _ => false,
        }
    }

    /// The machine, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let library = if self.system == "linux" && !self.is_glibc { " with musl" } else { "" };
        format!("{}{library} on {}", self.system, self.processor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_for_the_machines_that_their_tags_name() {
        let machine = |system, processor, is_glibc| Machine { system, processor, is_glibc };
        let pc = machine("linux", "x86_64", true);
        for (machine, tags, expected) in [
            (pc, "manylinux_2_27_x86_64.manylinux_2_28_x86_64", true),
            (pc, "manylinux2014_x86_64", true),
            (pc, "manylinux_2_27_aarch64.manylinux_2_28_aarch64", false),
            (pc, "musllinux_1_2_x86_64", false),
            (pc, "win_amd64", false),
            (pc, "any", false),
            (machine("linux", "x86_64", false), "manylinux_2_28_x86_64", false),
            (machine("linux", "aarch64", true), "manylinux_2_28_aarch64", true),
            (machine("macos", "aarch64", false), "macosx_13_0_arm64", true),
            (machine("macos", "aarch64", false), "macosx_13_0_universal2", true),
            (machine("macos", "aarch64", false), "macosx_13_0_x86_64", false),
            (machine("macos", "x86_64", false), "macosx_13_0_x86_64", true),
            (machine("windows", "x86_64", false), "win_amd64", true),
            (machine("windows", "aarch64", false), "win_amd64", false),
            (machine("windows", "aarch64", false), "win_arm64", true),
            (machine("freebsd", "x86_64", false), "manylinux_2_28_x86_64", false),
        ] {
            assert_eq!(machine.takes(tags), expected, "{machine:?} {tags}");
        }
    }
}
