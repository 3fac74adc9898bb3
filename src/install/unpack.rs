//! The libraries of a wheel, which is a zip file.

use std::io::{Read, Write as _};
use std::path::Path;

use zip::ZipArchive;

use crate::error::{Context, Error, Result};

/// The folder of the libraries in a wheel.
const LIBRARIES: &str = "onnxruntime/capi/";
/// What goes with them.
const TEXTS: [&str; 2] = ["onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"];
/// A provider that is not used.
const UNUSED: &str = "tensorrt";
/// The libraries of a wheel are not larger together, in bytes.
const LARGEST: u64 = 8 << 30;

/// Writes the libraries of a wheel into a folder, and gives their names, that of ONNX Runtime first.
///
/// # Errors
/// A file that is no zip file, or has no library of ONNX Runtime's; a folder that cannot be written to.
pub(super) fn libraries(wheel: &Path, folder: &Path) -> Result<Vec<String>> {
    let broken = |error: zip::result::ZipError| Error::format("a wheel (a zip file)", error);
    let mut archive = ZipArchive::new(std::fs::File::open(wheel).in_file(wheel)?).map_err(broken)?;
    let mut names: Vec<String> = vec![];
    let mut left = LARGEST;
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).map_err(broken)?;
        let Some(name) = wanted(&entry.name().map_err(broken)?).map(str::to_owned) else { continue };
        let path = folder.join(&name);
        let mut file = std::fs::File::create_new(&path).in_file(&path)?;
        let mut from = entry.by_ref().take(left + 1);
        let count = std::io::copy(&mut from, &mut file).map_err(|error| Error::format("a wheel (a zip file)", error))?;
        left = left.checked_sub(count).ok_or_else(|| Error::mismatch("bytes of the libraries", format!("at most {LARGEST}"), "more"))?;
        file.flush().and_then(|()| file.sync_all()).in_file(&path)?;
        names.push(name);
    }
    let is_library = |name: &String| crate::ort::library::is_named_as_library(name);
    let Some(at) = names.iter().position(is_library) else {
        return Err(Error::not_found("library in the wheel", format!("{LIBRARIES}libonnxruntime")));
    };
    let library = folder.join(&names[at]);
    if let Some(why) = crate::ort::library::unfit(&library) {
        return Err(Error::invalid(format!("the library in the wheel cannot be loaded: {why}")));
    }
    names.swap(0, at);
    Ok(names)
}

/// The name under which an entry is written, if it is.
fn wanted(entry: &str) -> Option<&str> {
    if TEXTS.contains(&entry) {
        return entry.rsplit('/').next();
    }
    let name = entry.strip_prefix(LIBRARIES)?;
    let is_library = name.starts_with("libonnxruntime") || (name.starts_with("onnxruntime") && name.to_ascii_lowercase().ends_with(".dll"));
    (is_library && !name.contains(UNUSED) && !name.contains(['/', '\\'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_and_licences_leave_a_wheel_and_none_leaves_its_folder() {
        for (entry, expected) in [
            ("onnxruntime/capi/libonnxruntime.so.1.32.0", Some("libonnxruntime.so.1.32.0")),
            ("onnxruntime/capi/libonnxruntime_providers_cuda.so", Some("libonnxruntime_providers_cuda.so")),
            ("onnxruntime/capi/onnxruntime.dll", Some("onnxruntime.dll")),
            ("onnxruntime/LICENSE", Some("LICENSE")),
            ("onnxruntime/capi/libonnxruntime_providers_tensorrt.so", None),
            ("onnxruntime/capi/onnxruntime_pybind11_state.so", None),
            ("onnxruntime/capi/../../libonnxruntime.so", None),
            ("../onnxruntime/capi/libonnxruntime.so", None),
            ("onnxruntime/capi/libonnxruntime/../../../x.so", None),
            ("onnxruntime/tools/symbolic_shape_infer.py", None),
        ] {
            assert_eq!(wanted(entry), expected, "{entry}");
        }
    }
}
