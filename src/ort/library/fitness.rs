//! Whether a file can be a library of this system at all, told from its header. The loader itself says of all faults the same, and a file that
//! was cut short ends the process.

use std::env::consts;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::files::Kind;

/// Marks at the beginning of programs and libraries, with the system that they are for.
const SYSTEMS: [(&[u8], &str); 5] = [
    (b"\x7fELF", "linux"),
    (b"\xcf\xfa\xed\xfe", "macos"),
    (b"\xca\xfe\xba\xbe", "macos"),
    (b"MZ", "windows"),
    (b"!<arch>", "an archive of objects"),
];

/// Processors by their number in ELF, with Rust's names.
const PROCESSORS: [(u16, &str); 6] = [(3, "x86"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64"), (258, "loongarch64")];

/// Why a file cannot be loaded, where its header tells.
#[must_use]
pub fn unfit(path: &Path) -> Option<String> {
    let length = std::fs::metadata(path).ok()?.len();
    let mut head = vec![];
    File::open(path).ok()?.take(1 << 16).read_to_end(&mut head).ok()?;
    let Some((_, system)) = SYSTEMS.iter().find(|(mark, _)| head.starts_with(mark)) else {
        return Some(Kind::of(path).map_or_else(|| "it is no library".to_owned(), |kind| format!("it is no library but {}", kind.words())));
    };
    // What other systems than Linux keep their libraries in is not read here.
    if *system != "linux" || consts::OS == "macos" || consts::OS == "windows" {
        return (*system != consts::OS).then(|| format!("it is made for {system}, and this is {}", consts::OS));
    }
    let elf = Elf { head: &head };
    let processor = elf.number::<2>(18).and_then(|number| PROCESSORS.iter().find(|(known, _)| u64::from(*known) == number));
    if let Some((_, name)) = processor.filter(|(_, name)| *name != consts::ARCH) {
        return Some(format!("it is made for {name}, and this program for {}", consts::ARCH));
    }
    let end = elf.end()?;
    (end > length).then(|| format!("it is cut short: {length} of at least {end} bytes are there"))
}

/// The header of a library in the format ELF, of 64 bits and with the low byte first.
struct Elf<'a> {
    head: &'a [u8],
}

impl Elf<'_> {
    /// A number of so many bytes.
    fn number<const BYTES: usize>(&self, at: usize) -> Option<u64> {
        let bytes = self.head.get(at..at.checked_add(BYTES)?)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Where the last of the parts ends that are loaded (System V ABI: `e_phoff`, `e_phentsize`, `e_phnum`; `p_offset`, `p_filesz`).
    fn end(&self) -> Option<u64> {
        const WIDE: u8 = 2;
        if self.head.get(4) != Some(&WIDE) {
            return None;
        }
        let (start, size, count) = (self.number::<8>(32)?, self.number::<2>(54)?, self.number::<2>(56)?);
        let part = |index: u64| {
            let at = usize::try_from(start.checked_add(index * size)?).ok()?;
            self.number::<8>(at.checked_add(8)?)?.checked_add(self.number::<8>(at.checked_add(32)?)?)
        };
        (0..count).filter_map(part).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of a library for a processor whose one part ends at a place.
    fn elf(processor: u16, end: u64) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&processor.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64 + 32..64 + 40].copy_from_slice(&end.to_le_bytes());
        bytes
    }

    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn a_library_that_cannot_be_loaded_says_why() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes, expected) in [
            ("whole.so", elf(62, 100), None),
            ("short.so", elf(62, 5000), Some("it is cut short: 120 of at least 5000 bytes are there")),
            ("arm.so", elf(183, 100), Some("it is made for aarch64, and this program for x86_64")),
            ("x.dylib", b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01".to_vec(), Some("it is made for macos, and this is linux")),
            ("x.dll", b"MZ\x90\x00".to_vec(), Some("it is made for windows, and this is linux")),
            (
                "x.so",
                b"version https://git-lfs.github.com/spec/v1\n".to_vec(),
                Some("it is no library but a Git LFS pointer, not the file that it stands for"),
            ),
            ("y.so", b"noise".to_vec(), Some("it is no library")),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("the file is written");
            assert_eq!(unfit(&path).as_deref(), expected, "{name}");
        }
    }
}
