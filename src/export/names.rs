//! Where things lie in a bundle, and what refers to them.

use std::path::{Component, Path, PathBuf};

use crate::contract::GraphName;

/// What the locations of the base's files begin with, in the graphs of a bundle.
pub const LENT: &str = "base";

/// The graph that runs without training.
pub const INFERENCE: &str = GraphName::Inference.name();

/// The location of a base's file in a bundle's graphs, by its path from the folder of the model (0) or of a part.
pub(super) fn location(file: &str, part: usize) -> String {
    if part == 0 { format!("{LENT}/{file}") } else { format!("{LENT}/part-{part}/{file}") }
}

/// Whether a path is made of names alone, so that it leads into the folder that it starts from.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.contains('\\') && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// The path of `file` as seen from `folder`; none where there is no way (another drive).
pub(super) fn relative(file: &Path, folder: &Path) -> Option<PathBuf> {
    let (file, folder): (Vec<_>, Vec<_>) = (file.components().collect(), folder.components().collect());
    let common = file.iter().zip(&folder).take_while(|(one, other)| one == other).count();
    if common == 0 {
        return None;
    }
    let up = folder[common..].iter().map(|_| Component::ParentDir);
    Some(up.chain(file[common..].iter().copied()).collect())
}

/// The folder in a bundle with its runs.
pub const RUNS: &str = "runs";

/// The folder in a bundle with the adapter as `inject` wrote it, which training can start from again.
pub const INITIAL: &str = "initial";

/// The folder in a run with what it saved on the way.
pub const CHECKPOINTS: &str = "checkpoints";

/// The folders that are the bundle with an adapter's folder, if any is one: the folder itself, or one in which the adapter has the place of
/// [`INITIAL`] or of a run's checkpoint.
pub(super) fn bundles(adapter: &Path) -> Vec<PathBuf> {
    let whole = adapter.canonicalize().unwrap_or_else(|_| adapter.to_path_buf());
    let above = |levels: usize| whole.ancestors().nth(levels).map(Path::to_path_buf);
    let is_called = |levels: usize, name: &str| above(levels).is_some_and(|folder| folder.ends_with(name));
    let is_checkpoint = is_called(1, CHECKPOINTS) && is_called(3, RUNS);
    let places = [Some(0), is_called(0, INITIAL).then_some(1), is_checkpoint.then_some(4)];
    places.into_iter().flatten().filter_map(above).collect()
}
