//! The memory that graphs compute in on the CPU: one arena for all sessions that train, whose regions double without end.
//!
//! ONNX Runtime's own arena of a session stops doubling at a gigabyte. In the second step it fills the newer of two free regions of that size first, and then writes to
//! all pages of both: SmolLM2-135M with DoRA took 3.4 GB where its values take 2.1. Of regions of different sizes it takes the smallest, so that the greatest has pages
//! that are never written to and cost nothing; and rows of rising lengths take no more than rows of the greatest.

use std::ffi::CStr;

use ort::AsPointer;
use ort::environment::Environment;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use super::refused;
use crate::error::Result;
use crate::forecast::arena::{FIRST_REGION, LARGEST_REGION, MOST_DEAD};
use crate::num;

/// The entry of a session's configuration that has it use the arena.
pub(super) const USED: &str = "session.use_env_allocators";
/// Regions double (`kNextPowerOfTwo`).
const DOUBLING: usize = 0;

/// Gives the environment the arena.
///
/// # Errors
/// If ONNX Runtime refuses.
pub(super) fn register(environment: &Environment) -> Result<()> {
    let memory = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Arena, MemoryType::Default).map_err(refused)?;
    let size = |bytes: u64| num::index(i64::try_from(bytes).unwrap_or(i64::MAX));
    let settings: [(&CStr, usize); 4] = [
        (c"arena_extend_strategy", DOUBLING),
        (c"initial_chunk_size_bytes", size(FIRST_REGION)),
        (c"max_dead_bytes_per_chunk", size(MOST_DEAD)),
        (c"max_power_of_two_extend_bytes", size(LARGEST_REGION)),
    ];
    let (names, values): (Vec<_>, Vec<usize>) = settings.iter().map(|(name, value)| (name.as_ptr(), *value)).unzip();
    let api = ort::api();
    let mut arena = std::ptr::null_mut();
    // SAFETY: two arrays of the same length, of names that end in zero and of numbers; the answer is this call's own.
    #[expect(unsafe_code, reason = "`ort` does not wrap arenas of an environment")]
    unsafe { ort::Error::result_from_status((api.CreateArenaCfgV2)(names.as_ptr(), values.as_ptr(), names.len(), &raw mut arena)) }
        .map_err(refused)?;
    // SAFETY: environment and memory are alive; ONNX Runtime copies the settings, which are released once.
    #[expect(unsafe_code, reason = "`ort` does not wrap arenas of an environment")]
    let registered = unsafe {
        let status = (api.CreateAndRegisterAllocator)(environment.ptr().cast_mut(), memory.ptr(), arena);
        let registered = ort::Error::result_from_status(status);
        (api.ReleaseArenaCfg)(arena);
        registered
    };
    registered.map_err(refused)
}
