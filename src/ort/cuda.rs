//! What CUDA needs before a session can start on it, and what to say when it does not.

use std::path::{Path, PathBuf};
use std::sync::Once;

use ort::ep::{CUDA, ExecutionProvider};

use super::Facts;
use crate::error::{Error, ErrorKind, Result};

/// The beginnings of the names of the libraries that the CUDA provider and the libraries themselves open.
const LIBRARIES: [&str; 8] =
    ["libcudart.so", "libcublas", "libcufft.so", "libcurand.so", "libnvJitLink.so", "libnvrtc", "libcudnn", "libcusparse.so"];

/// Makes sure that the library can do CUDA at all, and loads the CUDA libraries of the Python packages `nvidia-*` beside it, if there are any.
///
/// # Errors
/// [`Runtime`](ErrorKind::Runtime) if the library was built without CUDA.
pub(super) fn prepare(facts: &Facts) -> Result<()> {
    static PRELOAD: Once = Once::new();
    if !facts.providers.contains(&CUDA::NAME) {
        let what = format!("the library {} was built without CUDA", facts.path.display());
        return Err(Error::from(ErrorKind::Runtime(what)).with_hint(
            "run scripts/get_onnxruntime.sh cuda, or `pip install onnxruntime-gpu`; `peft-onnx runtime` shows which library is found, and `onnxruntime PATH` names another",
        ));
    }
    PRELOAD.call_once(|| preload(&package_libraries(&facts.path)));
    Ok(())
}

/// What to do about a session that did not start on CUDA, from what ONNX Runtime said.
pub(super) fn hint(message: &str) -> String {
    let missing = message
        .split_whitespace()
        .map(|word| word.trim_matches([':', ',', '\'', '"']))
        .find(|word| LIBRARIES.iter().any(|name| word.starts_with(name)) || word.starts_with("libcuda.so"));
    match missing {
        Some(name) if name.starts_with("libcuda.so") => format!("{name} belongs to the NVIDIA driver: install it, or use `device cpu`"),
        Some(name) => format!("{name} is missing: `pip install onnxruntime-gpu[cuda,cudnn]`, or put the folders of the CUDA and cuDNN libraries on LD_LIBRARY_PATH"),
        None => "check that the GPU exists and has room (nvidia-smi), and that the CUDA libraries are of the version that this ONNX Runtime was built for; \
                 `device cpu` does without"
            .to_owned(),
    }
}

/// The CUDA libraries in `site-packages/nvidia/*/lib`, for a library in `site-packages/onnxruntime/capi`.
fn package_libraries(onnxruntime: &Path) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let Some(packages) = onnxruntime.ancestors().nth(3) else { return vec![] };
    let mut libraries: Vec<PathBuf> = entries(packages.join("nvidia")).flat_map(|package| entries(package.join("lib"))).collect();
    libraries.retain(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| LIBRARIES.iter().any(|start| name.starts_with(start)))
    });
    libraries.sort();
    libraries
}

/// Loads libraries that need one another, in whatever order works.
fn preload(libraries: &[PathBuf]) {
    let mut left: Vec<&PathBuf> = libraries.iter().collect();
    loop {
        let before = left.len();
        left.retain(|path| ort::util::preload_dylib(path.as_path()).is_err());
        if left.is_empty() || left.len() == before {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_names_the_library_that_is_missing() {
        struct Case(&'static str, &'static str);
        for Case(message, start) in [
            Case(
                "Failed to load library x_cuda.so with error: libcublasLt.so.13: cannot open shared object file",
                "libcublasLt.so.13 is missing",
            ),
            Case("libcudnn.so.9: cannot open shared object file: No such file", "libcudnn.so.9 is missing"),
            Case("libcuda.so.1: cannot open shared object file", "libcuda.so.1 belongs to the NVIDIA driver"),
            Case("CUDA failure 100: no CUDA-capable device is detected", "check that the GPU exists"),
        ] {
            assert!(hint(message).starts_with(start), "{message}: {}", hint(message));
        }
    }
}
