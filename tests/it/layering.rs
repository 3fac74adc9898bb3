//! The walls of the crate, held against every path that `src/` names: rooms use only rooms below them, and files do not use each other in circles.
//!
//! A path is whatever stands behind `crate::`, `super::` or `self::`, in imports, code and links of documentation, and an import that begins with
//! a file beside. It belongs to the deepest file that it leads to; what a file only hands on (`pub use`) belongs to the file that has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top; rooms of one row do not use each other.
const ROOMS: &[&[&str]] = &[
    &["error", "measure", "contract"],
    &["num"],
    &["files", "parallel", "work"],
    &["media"],
    &["ir"],
    &["onnx", "decompose", "anatomy", "grad", "safetensors", "forecast", "kernels"],
    &["adapter"],
    &["train"],
    &["peft"],
    &["model"],
    &["export", "inspect"],
    &["ort"],
    &["data", "install"],
    &["evaluate"],
    &["training", "generate"],
    &["predict"],
    &["serve"],
    &["cli"],
    &["main", "lib"],
];

/// Circles that stand, each by its first file in the alphabet, with the reason.
const STANDING: &[(&str, &str)] = &[];

/// No file is longer than this.
const LONGEST: usize = 500;

/// A path of modules, as `ir::builder`.
type Module = Vec<String>;

#[test]
fn rooms_use_only_what_is_below_them() {
    let source = Source::read();
    let mut wrong = vec![];
    for (module, file) in &source.files {
        let room = room(module);
        let Some(height) = height(&room) else {
            wrong.push(format!("{}: room {room} has no place in the order of tests/it/layering.rs", file.path));
            continue;
        };
        for (line, used) in &file.uses {
            let other = self::room(&source.owner(used));
            if other != room && self::height(&other).is_none_or(|other| other >= height) {
                wrong.push(format!("{}:{line}: {room} uses {other}, which is not below it", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_do_not_use_each_other_in_circles() {
    let source = Source::read();
    let graph = source.graph();
    let found: BTreeMap<String, Vec<Module>> = circles(&graph).into_iter().map(|circle| (circle[0].join("::"), circle)).collect();
    let mut wrong = vec![];
    for (first, circle) in &found {
        if !STANDING.iter().any(|(standing, _)| standing == first) {
            let arrows = circle.iter().flat_map(|from| graph[from].iter().filter(|to| circle.contains(to)).map(move |to| (from, to)));
            let arrows: Vec<String> = arrows.map(|(from, to)| format!("  {} uses {}", from.join("::"), to.join("::"))).collect();
            wrong.push(format!("a circle of {} files:\n{}", circle.len(), arrows.join("\n")));
        }
    }
    for (standing, _) in STANDING.iter().filter(|(standing, _)| !found.contains_key(*standing)) {
        wrong.push(format!("the circle of {standing} is gone: its row in tests/it/layering.rs goes, too"));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_are_short() {
    let long: Vec<String> =
        (rust_files(&folder("src")).into_iter().chain(rust_files(&folder("tests"))).chain(rust_files(&folder("examples"))))
            .filter_map(|path| {
                let lines = fs::read_to_string(&path).expect("source is readable UTF-8").lines().count();
                (lines > LONGEST).then(|| format!("{}: {lines} lines", path.display()))
            })
            .collect();
    assert!(long.is_empty(), "files of more than {LONGEST} lines:\n{}", long.join("\n"));
}

/// Below the command line there are no flags: a room names an option by its words, in backticks, and `cli` makes a flag of it. Whole commands, in backticks
/// too, may have them.
#[test]
fn rooms_below_the_command_line_name_no_flags() {
    let mut wrong = vec![];
    for path in rust_files(&folder("src")) {
        let inside = path.strip_prefix(folder("src")).expect("a file of src").to_path_buf();
        if inside.starts_with("cli") || inside.ends_with("main.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("source is readable UTF-8");
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let flags = line.match_indices("--").filter(|(at, _)| line[at + 2..].starts_with(|letter: char| letter.is_ascii_lowercase()));
            let is_alone = |at: usize| {
                let before = &line[..at];
                let span = before.rsplit('`').next().unwrap_or_default();
                before.matches('`').count() % 2 == 0 || span.is_empty()
            };
            if flags.into_iter().any(|(at, _)| is_alone(at)) {
                wrong.push(format!("{}:{}: {}", inside.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A folder that is made by itself may be part of one that a signal has just removed: `files` makes it while none does.
#[test]
fn folders_are_made_with_those_above_them_by_one_function() {
    let mut wrong = vec![];
    for path in rust_files(&folder("src")) {
        let inside = path.strip_prefix(folder("src")).expect("a file of src").to_path_buf();
        if inside.starts_with("files") || inside.starts_with("files.rs") || inside.iter().any(|part| part == "tests" || part == "tests.rs")
        {
            continue;
        }
        let text = fs::read_to_string(&path).expect("source is readable UTF-8");
        let lines = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(") || !line.contains("test"));
        wrong.extend(
            lines
                .filter(|(_, line)| line.contains("create_dir_all"))
                .map(|(number, line)| format!("{}:{}: {}", inside.display(), number + 1, line.trim())),
        );
    }
    assert!(wrong.is_empty(), "files::make_folder makes it\n{}", wrong.join("\n"));
}

/// The files of the crate by their modules.
struct Source {
    files: BTreeMap<Module, File>,
}

struct File {
    path: String,
    /// Every path that is used, from the crate's root, with its line.
    uses: Vec<(usize, Module)>,
    /// What the file hands on from others: the name, and where it is.
    hands_on: BTreeMap<String, Module>,
}

impl Source {
    fn read() -> Self {
        let texts: Vec<(Module, String, String)> = rust_files(&folder("src"))
            .into_iter()
            .map(|path| {
                let inside = path.strip_prefix(folder("src")).expect("a file of src").to_path_buf();
                let text = fs::read_to_string(&path).expect("source is readable UTF-8");
                (module_of(&inside), format!("src/{}", inside.display()), text)
            })
            .collect();
        let modules: BTreeSet<Module> = texts.iter().map(|(module, ..)| module.clone()).collect();
        let files = texts.into_iter().map(|(module, path, text)| {
            let (uses, hands_on) = paths(&module, &text, &modules);
            (module, File { path, uses, hands_on })
        });
        Self { files: files.collect() }
    }

    /// The file that a path leads to: the deepest that is on it, or the one from which that hands the name on.
    fn owner(&self, path: &[String]) -> Module {
        let mut path = path.to_vec();
        for _ in 0..8 {
            let depth = (0..=path.len()).rev().find(|&depth| self.files.contains_key(&path[..depth])).unwrap_or(0);
            let (module, rest) = path.split_at(depth);
            let handed_on = rest.first().and_then(|name| self.files.get(module)?.hands_on.get(name));
            match handed_on {
                Some(target) => path = [target, &rest[1..]].concat(),
                None if module.is_empty() => return vec![rest.first().cloned().unwrap_or_else(|| "lib".to_owned())],
                None => return module.to_vec(),
            }
        }
        path
    }

    /// Who uses whom. That a parent uses its children is what it is there for.
    fn graph(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |module: &Module, file: &File| -> BTreeSet<Module> {
            let used = file.uses.iter().map(|(_, used)| self.owner(used));
            used.filter(|used| self.files.contains_key(used) && !used.starts_with(module)).collect()
        };
        self.files.iter().map(|(module, file)| (module.clone(), of(module, file))).collect()
    }
}

/// Sets of modules each of which leads to each other, the largest ones, each sorted.
fn circles(graph: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let reached = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(module) = open.pop() {
            open.extend(graph[module].iter().filter(|next| seen.insert((*next).clone())));
        }
        seen
    };
    let all: BTreeMap<&Module, BTreeSet<Module>> = graph.keys().map(|module| (module, reached(module))).collect();
    let mut found = vec![];
    let mut taken = BTreeSet::new();
    for (module, reached) in &all {
        if reached.contains(*module) && !taken.contains(*module) {
            let circle: Vec<Module> = reached.iter().filter(|other| all[other].contains(*module)).cloned().collect();
            taken.extend(circle.iter().cloned());
            found.push(circle);
        }
    }
    found
}

fn room(module: &[String]) -> String {
    module.first().cloned().unwrap_or_else(|| "lib".to_owned())
}

fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|row| row.contains(&room))
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let inside = |path: PathBuf| match (path.is_dir(), path.extension().is_some_and(|ending| ending == "rs")) {
        (true, _) => rust_files(&path),
        (false, true) => vec![path],
        _ => vec![],
    };
    paths.into_iter().flat_map(inside).collect()
}

fn module_of(file: &Path) -> Module {
    let mut parts: Vec<String> = file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] {
        parts.pop();
    }
    parts
}

/// The paths that a file uses, and those that it hands on.
fn paths(module: &[String], text: &str, modules: &BTreeSet<Module>) -> (Vec<(usize, Module)>, BTreeMap<String, Module>) {
    let (mut uses, mut hands_on) = (vec![], BTreeMap::new());
    // Modules in the file itself, the line in which they end, and how far they are indented.
    let mut inner: Vec<usize> = vec![];
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if trimmed.starts_with('}') && inner.last() == Some(&indent) {
            inner.pop();
        }
        if is_inner_module(trimmed) {
            inner.push(indent);
        }
        let own = [module, &vec!["(inner)".to_owned(); inner.len()]].concat();
        let statement = statement(trimmed).map(|(is_public, begin)| {
            let mut tree = begin.to_owned();
            while !tree.contains(';') {
                tree += lines.next().map_or(";", |(_, line)| line.trim());
            }
            (is_public, tree)
        });
        if let Some((is_public, tree)) = statement {
            for (path, name) in leaves(tree.trim_end_matches(';')) {
                let beside = [module, &path[..1.min(path.len())]].concat();
                let absolute = match absolute(&own, &path) {
                    None if inner.is_empty() && modules.contains(&beside) => [module, &path].concat(),
                    None => continue,
                    Some(absolute) => absolute,
                };
                if is_public && inner.is_empty() {
                    hands_on.insert(name, absolute.clone());
                }
                uses.push((at + 1, absolute));
            }
            continue;
        }
        let links = trimmed.starts_with("//").then(|| line.match_indices('`').map(|(at, _)| at).collect::<Vec<_>>());
        for root in ["crate::", "super::", "self::"] {
            for (start, _) in line.match_indices(root) {
                let is_whole = !line[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
                let path: Module = line[start..].split("::").map(identifier).take_while(|part| !part.is_empty()).collect();
                let is_code = links.is_none() && !line[..start].contains("// ");
                if is_whole && is_code {
                    uses.extend(absolute(&own, &path).map(|path| (at + 1, path)));
                }
            }
        }
    }
    (uses, hands_on)
}

fn is_inner_module(line: &str) -> bool {
    let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    line.starts_with("mod ") && line.ends_with('{')
}

/// Whether a line begins an import: a public one or not, and its tree as far as it is in this line.
fn statement(line: &str) -> Option<(bool, &str)> {
    let visible = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(").and_then(|rest| Some(rest.split_once(") ")?.1)));
    Some((visible.is_some(), visible.unwrap_or(line).strip_prefix("use ")?))
}

/// The paths of a tree of imports, each with the name that it has here.
fn leaves(tree: &str) -> Vec<(Module, String)> {
    let tree = tree.trim();
    if let Some((front, group)) = tree.split_once('{') {
        let front: Module = front.split("::").filter(|part| !part.trim().is_empty()).map(|part| part.trim().to_owned()).collect();
        let group = group.rsplit_once('}').map_or(group, |(inside, _)| inside);
        let inside = branches(group).into_iter().flat_map(leaves);
        return inside
            .map(|(path, name)| (front.iter().cloned().chain(path.into_iter().filter(|part| part != "self")).collect(), name))
            .collect();
    }
    let (path, name) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim().to_owned())));
    let path: Module = path.split("::").map(|part| part.trim().to_owned()).collect();
    let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
    vec![(path, name)]
}

/// What commas separate, outside of braces.
fn branches(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut found) = (0, 0, vec![]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    found.push(&group[begin..]);
    found.into_iter().filter(|branch| !branch.trim().is_empty()).collect()
}

/// A path from the crate's root, if it says where it begins.
fn absolute(own: &[String], path: &[String]) -> Option<Module> {
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([own, &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            Some([&own[..own.len().checked_sub(up)?], &path[up..]].concat())
        }
        _ => None,
    }
    .map(|path| path.into_iter().filter(|part| part != "(inner)" && part != "*").collect())
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn paths_are_understood() {
    let parts = |path: &str| -> Module { path.split("::").filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect() };
    let modules: BTreeSet<Module> = ["a", "a::b", "a::c", "d"].map(parts).into();
    let text = "use crate::d::{X, inner::{Y, self}};\n// use crate::cli;\npub use c::Z;\nuse serde::Serialize;\nfn f(x: super::c::W) {}\nmod tests {\n    use super::*;\n    use super::super::c;\n}\nuse super::c;\n";
    let (uses, hands_on) = paths(&parts("a::b"), text, &modules);
    let found: Vec<(usize, String)> = uses.into_iter().map(|(line, path)| (line, path.join("::"))).collect();
    let expected = [(1, "d::X"), (1, "d::inner::Y"), (1, "d::inner"), (5, "a::c::W"), (7, "a::b"), (8, "a::c"), (10, "a::c")];
    assert_eq!(found, expected.map(|(line, path)| (line, path.to_owned())));
    assert!(hands_on.is_empty(), "a::b has no file c of its own");
    let (uses, hands_on) = paths(&parts("a"), "pub use b::Z;\n", &modules);
    assert_eq!((uses, hands_on), (vec![(1, parts("a::b::Z"))], BTreeMap::from([("Z".to_owned(), parts("a::b::Z"))])));
}

#[test]
fn circles_are_found() {
    let name = |text: &str| vec![text.to_owned()];
    let rows = [("a", vec!["b"]), ("b", vec!["c"]), ("c", vec!["a", "d"]), ("d", vec![]), ("e", vec!["d"])];
    let graph = rows.into_iter().map(|(from, to)| (name(from), to.into_iter().map(name).collect())).collect();
    assert_eq!(circles(&graph), [vec![name("a"), name("b"), name("c")]]);
}
