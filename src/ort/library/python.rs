//! Where Pythons keep the library of their `onnxruntime` package: told by the layout of their folders, no Python is run.

use std::path::{Path, PathBuf};

use super::Surroundings;

/// The folders of the package, those of the active environment first.
pub(super) fn folders(around: &Surroundings) -> Vec<PathBuf> {
    // Where pip put this program, its Python stands beside it, whether the environment is active or not.
    let beside = around
        .executable
        .iter()
        .filter_map(|program| Some(program.parent()?.to_path_buf()))
        .flat_map(|folder| prefixes_of_programs(&folder));
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| around.folder_of(name));
    let started_by =
        around.parent.iter().filter(|program| program.is_absolute()).filter_map(|program| Some(program.parent()?.to_path_buf()));
    let programs = started_by.chain(around.folders_of("PATH"));
    let installed = programs.flat_map(|folder| prefixes_of_programs(&folder));
    let user = around.folder_of("HOME").map(|home| home.join(".local"));
    let mut folders = vec![];
    for prefix in beside.chain(environments).chain(installed).chain(user).flat_map(with_base) {
        for folder in package_folders(&prefix).into_iter().filter(|folder| folder.is_dir()) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// The installations that the Pythons in a folder of programs belong to: the one around the folder, and where a link leads.
fn prefixes_of_programs(folder: &Path) -> Vec<PathBuf> {
    let python = ["python3", "python", "python.exe"].iter().map(|name| folder.join(name)).find(|python| python.is_file());
    let Some(python) = python else { return vec![] };
    // On Windows the program lies in the installation itself.
    let installation = |program: &Path| {
        let folder = program.parent()?;
        if cfg!(windows) && !folder.ends_with("Scripts") { Some(folder.to_path_buf()) } else { Some(folder.parent()?.to_path_buf()) }
    };
    let leads_to = python.canonicalize().ok();
    [Some(python), leads_to].into_iter().flatten().filter_map(|program| installation(&program)).collect()
}

/// An environment, and the installation it was made of where it takes that one's packages too.
fn with_base(prefix: PathBuf) -> Vec<PathBuf> {
    let configuration = std::fs::read_to_string(prefix.join("pyvenv.cfg")).unwrap_or_default();
    let value = |key: &str| {
        let pairs = configuration.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.trim(), value.trim())).find(|(name, _)| *name == key).map(|(_, value)| value.to_owned())
    };
    let takes_both = value("include-system-site-packages").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let home = value("home").map(PathBuf::from).filter(|home| takes_both && home.is_absolute());
    let base = home.map(|home| prefixes_of_programs(&home)).unwrap_or_default();
    std::iter::once(prefix).chain(base).collect()
}

/// Where an installation or environment keeps the package, newest Python first.
fn package_folders(prefix: &Path) -> Vec<PathBuf> {
    const PACKAGE: &str = "onnxruntime/capi";
    // Debian's own Python looks below /usr/local for what pip installed.
    let local = (prefix == Path::new("/usr")).then(|| prefix.join("local"));
    let libraries = [Some(prefix.to_path_buf()), local].into_iter().flatten().flat_map(|prefix| [prefix.join("lib"), prefix.join("lib64")]);
    let mut pythons: Vec<_> =
        libraries.filter_map(|library| std::fs::read_dir(library).ok()).flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    pythons.retain(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python3")));
    pythons.sort_by_key(|path| (version(path), path.clone()));
    let unix = pythons.iter().rev().flat_map(|python| ["site-packages", "dist-packages"].map(|site| python.join(site).join(PACKAGE)));
    unix.chain([prefix.join("Lib/site-packages").join(PACKAGE)]).collect()
}

/// The minor version in `python3.11`.
fn version(folder: &Path) -> Option<u32> {
    folder.file_name()?.to_str()?.strip_prefix("python3.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, folder: &str) -> PathBuf {
        let path = root.join(folder);
        std::fs::create_dir_all(&path).expect("folders");
        path
    }

    #[test]
    fn the_newest_python_of_an_installation_comes_first() {
        let root = tempfile::tempdir().expect("a folder");
        let [old, new, shared] = ["lib/python3.9/site-packages", "lib64/python3.12/site-packages", "lib/python3/dist-packages"]
            .map(|site| make(root.path(), &format!("{site}/onnxruntime/capi")));
        let found: Vec<_> = package_folders(root.path()).into_iter().filter(|folder| folder.is_dir()).collect();
        assert_eq!(found, [new, old, shared]);
    }

    #[test]
    fn an_environment_that_takes_its_bases_packages_has_both() {
        let root = tempfile::tempdir().expect("a folder");
        let base = make(root.path(), "base/lib/python3.11/site-packages/onnxruntime/capi");
        let home = make(root.path(), "base/bin");
        std::fs::write(home.join("python3"), b"").expect("a file");
        let environment = make(root.path(), "venv");
        for (both, expected) in [("true", vec![base]), ("false", vec![])] {
            let text = format!("home = {}\ninclude-system-site-packages = {both}\n", home.display());
            std::fs::write(environment.join("pyvenv.cfg"), text).expect("a file");
            let around = Surroundings { variables: vec![("VIRTUAL_ENV".into(), environment.clone().into())], ..Surroundings::default() };
            assert_eq!(folders(&around), expected, "{both}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_program_that_pip_installed_finds_the_package_beside_it() {
        let root = tempfile::tempdir().expect("a folder");
        let [own, other] = ["own", "other"].map(|name| make(root.path(), &format!("{name}/lib/python3.11/site-packages/onnxruntime/capi")));
        let programs = make(root.path(), "own/bin");
        for name in ["peft-onnx", "python3"] {
            std::fs::write(programs.join(name), b"").expect("a file");
        }
        let variables = vec![("VIRTUAL_ENV".into(), root.path().join("other").into())];
        let around = Surroundings { executable: Some(programs.join("peft-onnx")), variables, ..Surroundings::default() };
        assert_eq!(folders(&around), [own, other]);
    }

    #[test]
    fn a_python_is_never_run() {
        let root = tempfile::tempdir().expect("a folder");
        let programs = make(root.path(), "bin");
        let mark = root.path().join("RAN");
        let python = programs.join("python3");
        std::fs::write(&python, format!("#!/bin/sh\necho x > '{}'\n", mark.display())).expect("a file");
        #[cfg(unix)]
        std::fs::set_permissions(&python, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("modes");
        let around = Surroundings { variables: vec![("PATH".into(), programs.into())], ..Surroundings::default() };
        assert_eq!(folders(&around), Vec::<PathBuf>::new());
        assert!(!mark.exists());
    }
}
