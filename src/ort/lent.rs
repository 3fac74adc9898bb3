//! Weights that ONNX Runtime reads where they are in memory.

use std::ffi::c_char;

use ort::AsPointer;
use ort::session::builder::SessionBuilder;
use ort::sys::os_char;

use super::refused;
use crate::error::Result;
use crate::onnx::Lent;

/// Whether the bytes of files in memory are used where they are. Otherwise ONNX Runtime copies them.
const WHERE_THEY_ARE: &str = "session.use_external_initializer_file_buffers_directly";

/// The folder that the locations of weights start from.
pub(super) const ROOT: &str = "session.model_external_initializers_file_folder_path";

/// Has a session read files from memory. What is lent must outlive it.
///
/// `ort`'s own method takes the bytes in an `Arc<[u8]>`, which a mapped file cannot be without a copy.
pub(super) fn lend(mut builder: SessionBuilder, lent: &[Lent]) -> Result<SessionBuilder> {
    if lent.is_empty() {
        return Ok(builder);
    }
    let locations: Vec<Vec<os_char>> = lent.iter().map(|lent| os_string(lent.location())).collect();
    let names: Vec<*const os_char> = locations.iter().map(Vec::as_ptr).collect();
    let bytes: Vec<*mut c_char> = lent.iter().map(|lent| lent.bytes().as_ptr().cast::<c_char>().cast_mut()).collect();
    let lengths: Vec<usize> = lent.iter().map(|lent| lent.bytes().len()).collect();
    let add = ort::api().AddExternalInitializersFromMemory;
    // SAFETY: three arrays of the same length, of names that end in zero and of memory that its owner keeps alive as long as the session (see the
    // order of the fields of `Session`). ONNX Runtime reads the memory and never writes to it.
    #[expect(unsafe_code, reason = "a mapped file is handed over without a copy")]
    let status = unsafe { add(builder.ptr_mut(), names.as_ptr(), bytes.as_ptr(), lengths.as_ptr(), lent.len()) };
    // SAFETY: the status is this call's own.
    #[expect(unsafe_code, reason = "the other half of the call")]
    unsafe { ort::Error::result_from_status(status) }.map_err(refused)?;
    builder.with_config_entry(WHERE_THEY_ARE, "1").map_err(refused)
}

#[cfg(not(windows))]
fn os_string(text: &str) -> Vec<os_char> {
    text.bytes().chain([0]).map(|byte| os_char::from_ne_bytes([byte])).collect()
}

#[cfg(windows)]
fn os_string(text: &str) -> Vec<os_char> {
    text.encode_utf16().chain([0]).collect()
}
