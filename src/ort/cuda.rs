//! What CUDA needs before a session can start on it, and what to say when it does not.

use std::path::{Path, PathBuf};
use std::sync::Once;

use ort::ep::{CUDA, ExecutionProvider};

use super::{Device, Facts};
use crate::error::{Error, ErrorKind, Result};

/// The beginnings of the names of the libraries that the CUDA provider and the libraries themselves open.
const LIBRARIES: [&str; 8] =
    ["libcudart.so", "libcublas", "libcufft.so", "libcurand.so", "libnvJitLink.so", "libnvrtc", "libcudnn", "libcusparse.so"];

/// What reductions and convolutions need. The provider opens it when the first of them runs, and not before.
const CUDNN: &str = if cfg!(windows) { "cudnn64_9.dll" } else { "libcudnn.so.9" };
/// A part of NVIDIA's driver.
const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// The libraries that graphs on a GPU will ask for and that are not there: cuDNN and the driver. None if the library was built without CUDA.
#[must_use]
pub fn missing_for_cuda(facts: &Facts) -> Vec<&'static str> {
    if prepare(facts).is_err() {
        return vec![];
    }
    [DRIVER, CUDNN].into_iter().filter(|&name| ort::util::preload_dylib(name).is_err()).collect()
}

/// The most numbers that a session was fed with.
///
/// The arena of the GPU takes a region for every value that fits into none, and keeps it: with rows of rising lengths it held ten times what the longest need. A run on more numbers than any
/// before gives back what it leaves free.
#[derive(Debug, Default)]
pub(super) struct Growth {
    most: usize,
}

impl Growth {
    /// Notes a run on so many numbers. If it gives memory back, the device as ONNX Runtime names it there.
    pub(super) fn with(&mut self, device: Device, numbers: usize) -> Option<String> {
        let Device::Cuda(number) = device else { return None };
        let is_more = numbers > self.most;
        self.most = self.most.max(numbers);
        is_more.then(|| format!("gpu:{number}"))
    }
}

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
    PRELOAD.call_once(|| {
        preload(&package_libraries(&facts.path));
        if ort::util::preload_dylib(CUDNN).is_err() {
            tracing::warn!("{}", hint(CUDNN));
        }
    });
    Ok(())
}

/// What to do about a session that did not start on CUDA, from what ONNX Runtime said.
pub(super) fn hint(message: &str) -> String {
    // What is said of cuDNN when a node needs it does not name the file.
    let message = if message.to_lowercase().contains("cudnn") && !message.contains("libcudnn") { CUDNN } else { message };
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
    fn memory_of_the_gpu_is_given_back_by_runs_on_more_than_any_before() {
        let mut growth = Growth::default();
        let found: Vec<bool> = [4, 4, 8, 6, 8, 9].into_iter().map(|numbers| growth.with(Device::Cuda(1), numbers).is_some()).collect();
        assert_eq!(found, [true, false, true, false, false, true]);
        assert_eq!(growth.with(Device::Cuda(1), 10).as_deref(), Some("gpu:1"));
        assert_eq!(Growth::default().with(Device::Cpu, 10), None, "the processor has an arena of few large regions");
    }

    #[test]
    fn the_hint_names_the_library_that_is_missing() {
        struct Case(&'static str, &'static str);
        for Case(message, start) in [
            Case(
                "Failed to load library x_cuda.so with error: libcublasLt.so.13: cannot open shared object file",
                "libcublasLt.so.13 is missing",
            ),
            Case("libcudnn.so.9: cannot open shared object file: No such file", "libcudnn.so.9 is missing"),
            Case("cuDNN is not available: CUDNN_STATUS_NOT_INITIALIZED", "libcudnn.so.9 is missing"),
            Case("libcuda.so.1: cannot open shared object file", "libcuda.so.1 belongs to the NVIDIA driver"),
            Case("CUDA failure 100: no CUDA-capable device is detected", "check that the GPU exists"),
        ] {
            assert!(hint(message).starts_with(start), "{message}: {}", hint(message));
        }
    }
}
