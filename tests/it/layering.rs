//! Rooms of the crate use only rooms below them: what `src/` says is checked line by line.

use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top; rooms of one row do not use each other.
const ROOMS: &[&[&str]] = &[
    &["error", "measure"],
    &["media"],
    &["files"],
    &["ir"],
    &["onnx", "unfuse", "anatomy", "grad"],
    &["adapter"],
    &["train"],
    &["peft"],
    &["export"],
    &["runtime"],
    &["cli"],
    &["main", "lib"],
];

#[test]
fn rooms_use_only_what_is_below_them() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = vec![];
    for file in rust_files(&source) {
        let inside = file.strip_prefix(&source).expect("a file of src");
        let room = inside.components().next().map(|part| part.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned());
        let room = room.expect("a path has a first part");
        let Some(height) = height(&room) else {
            wrong.push(format!("src/{}: room {room} has no place in the order of tests/it/layering.rs", inside.display()));
            continue;
        };
        let text = fs::read_to_string(&file).expect("source is readable UTF-8");
        for (line, other) in rooms_named(&text) {
            if other != room && self::height(&other).is_none_or(|other| other >= height) {
                wrong.push(format!("src/{}:{line}: {room} uses {other}, which is not below it", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn height(room: &str) -> Option<usize> {
    ROOMS.iter().position(|row| row.contains(&room))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).expect("src is readable").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let inside = |path: PathBuf| match (path.is_dir(), path.extension().is_some_and(|ending| ending == "rs")) {
        (true, _) => rust_files(&path),
        (false, true) => vec![path],
        _ => vec![],
    };
    paths.into_iter().flat_map(inside).collect()
}

/// Every room that stands behind `crate::`, alone or in braces, with its line. Types that the crate's root re-exports are the error room's.
fn rooms_named(text: &str) -> Vec<(usize, String)> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut found = vec![];
    for (at, marker) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + marker.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => first_parts(group),
            None => vec![identifier(rest)],
        };
        found.extend(names.into_iter().map(|name| (line, if name.starts_with(char::is_uppercase) { "error".into() } else { name })));
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

/// The first identifiers of the paths in a group of imports.
fn first_parts(group: &str) -> Vec<String> {
    let mut depth = 1;
    let mut names = vec![identifier(group.trim_start())];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(identifier(group[at + 1..].trim_start())),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn imports_are_understood() {
    let text = "use crate::ir::{Dim, Fact};\n// use crate::cli;\nuse crate::{Error, peft,\n    train::{loss, step}};\n";
    let named: Vec<(usize, String)> = [(1, "ir"), (3, "error"), (3, "peft"), (3, "train")].map(|(n, room)| (n, room.to_owned())).into();
    assert_eq!(rooms_named(text), named);
}
