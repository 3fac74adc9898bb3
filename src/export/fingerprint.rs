//! What tells one base from another: a hash of all bytes of its files.
//!
//! The bytes are read once; what was found is remembered in the bundle by the sizes, times and numbers of the files, so that a base of many
//! gigabytes does not hold up every command. A file whose time is that of the reading itself is not remembered: it may change again within the
//! same tick of the clock.

use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use super::manifest::BaseFile;
use crate::{Context, Error, Result};

/// The file of a bundle that remembers what was read. It may be deleted at any time.
pub const REMEMBERED: &str = ".base-checked.json";

/// Bytes that are hashed on their own, by whichever thread is free.
const PIECE: u64 = 16 << 20;

/// Bytes that are read at once: they stay in a processor's own cache until they are hashed.
const BUFFER: usize = 256 << 10;

/// A file whose time of change is not older than this may change again without another time.
const TICK: Duration = Duration::from_secs(2);

/// The hash of a file that must have so many bytes: XXH3 (128 bits) of its length and of the hashes of its pieces of 16 MiB, in hexadecimal.
///
/// # Errors
/// If the file cannot be read, is no ordinary file, or has another length.
pub fn of_file(path: &Path, bytes: u64) -> Result<String> {
    let found = std::fs::metadata(path).in_file(path)?;
    if !found.is_file() {
        return Err(Error::invalid("not an ordinary file").in_file(path));
    }
    if found.len() != bytes {
        return Err(Error::mismatch("bytes of the base", bytes, found.len()).in_file(path));
    }
    let count = bytes.div_ceil(PIECE);
    // One processor is left to the work that goes on meanwhile.
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get).saturating_sub(1).max(1);
    let (next, pieces) = (AtomicU64::new(0), Mutex::new(Ok(vec![0_u128; usize::try_from(count).unwrap_or_default()])));
    let work = || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= count {
                return;
            }
            let hash = hash_piece(path, piece * PIECE, PIECE.min(bytes - piece * PIECE), &mut buffer);
            let mut pieces = pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match (&mut *pieces, hash) {
                (Ok(known), Ok(hash)) => known[usize::try_from(piece).unwrap_or_default()] = hash,
                (_, Ok(_)) => return,
                (before, Err(error)) => *before = Err(error),
            }
        }
    };
    std::thread::scope(|scope| {
        let helpers = u64::try_from(threads).unwrap_or(1).min(count).saturating_sub(1);
        (0..helpers).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    let mut hash = Xxh3Default::new();
    hash.update(&bytes.to_le_bytes());
    for piece in pieces.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)? {
        hash.update(&piece.to_le_bytes());
    }
    Ok(format!("{:032x}", hash.digest128()))
}

fn hash_piece(path: &Path, start: u64, length: u64, buffer: &mut [u8]) -> Result<u128> {
    // Read, not mapped: pages of a mapping would count as this process's memory, and a file that is cut short meanwhile would end it.
    let mut file = File::open(path).in_file(path)?;
    if length == PIECE && is_hole(&file, start, length) {
        return Ok(*ZEROS);
    }
    file.seek(SeekFrom::Start(start)).in_file(path)?;
    let mut hash = Xxh3Default::new();
    let mut left = length;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..part]).in_file(path)?;
        hash.update(&buffer[..part]);
        left -= u64::try_from(part).unwrap_or(left);
    }
    Ok(hash.digest128())
}

/// The hash of a piece of zeros.
static ZEROS: LazyLock<u128> = LazyLock::new(|| {
    let (zeros, mut hash) = (vec![0; BUFFER], Xxh3Default::new());
    let mut left = usize::try_from(PIECE).unwrap_or_default();
    while left > 0 {
        let part = left.min(BUFFER);
        hash.update(&zeros[..part]);
        left -= part;
    }
    hash.digest128()
});

/// Whether so many bytes of a file are a hole, which nobody wrote to: they read as zeros, and nothing need be read. A file system that knows no holes has
/// none.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_hole(file: &File, start: u64, length: u64) -> bool {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(start)) {
        Ok(data) => data >= start + length,
        // There is no data up to the file's end.
        Err(error) => error == rustix::io::Errno::NXIO,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_hole(_: &File, _: u64, _: u64) -> bool {
    false
}

/// The fingerprint of a base: a hash of the hashes of its files, in their order.
#[must_use]
pub fn of_base(files: &[BaseFile]) -> String {
    let mut hash = Xxh3Default::new();
    for file in files {
        hash.update(file.hash.as_bytes());
    }
    format!("{:032x}", hash.digest128())
}

/// What files were when they were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    fingerprint: String,
    files: Vec<Stamp>,
}

/// What changes with every writing to a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    /// When anything of the file changed, its times and name too: nobody sets it back. Nanoseconds since 1970; 0 where there is no such time.
    changed: i128,
    /// The file system and the file's number in it; 0 where there are none.
    place: (u64, u64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let facts = std::fs::metadata(path).ok()?;
        let modified = facts.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let (changed, place) = change_and_place(&facts);
        Some(Self { bytes: facts.len(), modified, changed, place })
    }

    /// Whether the file has been left alone for a while.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(TICK).as_nanos();
        self.modified < now && u128::try_from(self.changed).is_ok_and(|changed| changed < now)
    }
}

#[cfg(unix)]
fn change_and_place(facts: &Metadata) -> (i128, (u64, u64)) {
    use std::os::unix::fs::MetadataExt;
    (i128::from(facts.ctime()) * 1_000_000_000 + i128::from(facts.ctime_nsec()), (facts.dev(), facts.ino()))
}

#[cfg(not(unix))]
fn change_and_place(_: &Metadata) -> (i128, (u64, u64)) {
    (0, (0, 0))
}

/// Whether a bundle remembers these files as those of this fingerprint.
#[must_use]
pub fn is_remembered(bundle: &Path, fingerprint: &str, files: &[&Path]) -> bool {
    let remembered = || -> Option<Remembered> { serde_json::from_slice(&std::fs::read(bundle.join(REMEMBERED)).ok()?).ok() };
    let now = || files.iter().map(|path| Stamp::of(path)).collect::<Option<Vec<_>>>();
    remembered().is_some_and(|then| then.fingerprint == fingerprint && now().is_some_and(|now| now == then.files))
}

/// Has a bundle remember files as those of a fingerprint. Where it cannot be written to, they are read again next time.
pub fn remember(bundle: &Path, fingerprint: &str, files: &[&Path]) {
    let stamps: Option<Vec<Stamp>> = files.iter().map(|path| Stamp::of(path).filter(Stamp::is_settled)).collect();
    let remembered = stamps.map(|files| Remembered { fingerprint: fingerprint.to_owned(), files });
    if let Some(text) = remembered.and_then(|remembered| serde_json::to_vec(&remembered).ok())
        && let Err(error) = crate::files::replace(&bundle.join(REMEMBERED), &text)
    {
        tracing::debug!("the base's fingerprint is not remembered: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_byte_counts_and_so_does_the_length() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("weights");
        // More than two pieces, so that threads share them.
        let mut bytes = vec![7_u8; usize::try_from(2 * PIECE + 100).expect("it fits")];
        let length = u64::try_from(bytes.len()).expect("it fits");
        std::fs::write(&path, &bytes)?;
        let first = of_file(&path, length)?;
        assert_eq!(first, of_file(&path, length)?);
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            bytes[place] ^= 1;
            std::fs::write(&path, &bytes)?;
            assert_ne!(first, of_file(&path, length)?, "byte {place}");
            bytes[place] ^= 1;
        }
        std::fs::write(&path, &bytes[1..])?;
        assert!(of_file(&path, length).is_err());
        assert!(of_file(folder.path(), 0).is_err());
        Ok(())
    }

    #[test]
    fn holes_have_the_hash_of_their_zeros() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (sparse, written) = (folder.path().join("sparse"), folder.path().join("written"));
        let length = 5 * PIECE + 100;
        // Data in the second piece and at the end of the fourth; the last piece is short.
        let places = [PIECE + 70_000, 4 * PIECE - 3];
        let mut file = File::create(&sparse)?;
        file.set_len(length)?;
        let mut bytes = vec![0_u8; usize::try_from(length).expect("it fits")];
        for place in places {
            file.seek(SeekFrom::Start(place))?;
            file.write_all(b"xyz")?;
            let place = usize::try_from(place).expect("it fits");
            bytes[place..place + 3].copy_from_slice(b"xyz");
        }
        std::fs::write(&written, bytes)?;
        assert_eq!(of_file(&sparse, length)?, of_file(&written, length)?);
        Ok(())
    }

    #[test]
    fn a_file_is_remembered_until_anything_of_it_changes() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("weights");
        std::fs::write(&path, "one")?;
        remember(folder.path(), "f", &[&path]);
        assert!(!is_remembered(folder.path(), "f", &[&path]), "a file that was written just now may change again in the same tick");
        let long_ago = Stamp::of(&path).map(|stamp| Remembered { fingerprint: "f".into(), files: vec![stamp] });
        std::fs::write(folder.path().join(REMEMBERED), serde_json::to_vec(&long_ago).expect("JSON"))?;
        assert!(is_remembered(folder.path(), "f", &[&path]));
        assert!(!is_remembered(folder.path(), "another", &[&path]));
        let before = std::fs::metadata(&path)?.modified()?;
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&path, "two")?;
        File::options().write(true).open(&path)?.set_modified(before)?;
        assert!(!is_remembered(folder.path(), "f", &[&path]), "the time of change tells what a time set back does not");
        Ok(())
    }
}
