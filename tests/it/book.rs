//! The documentation hangs together: every link leads somewhere, and every page is in the book.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages below a folder.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|kind| kind == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A page's text without what stands between fences, or marks of code.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// The targets of a page's links.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// What a heading is called in an address.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() {
    let mut all = pages(&root().join("docs"));
    all.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "python/README.md", "web/README.md"]
            .map(|page| root().join(page)),
    );
    let mut wrong = vec![];
    for page in all.iter().filter(|page| page.exists()) {
        let text = std::fs::read_to_string(page).expect("a page is text");
        for link in links(&text).into_iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (path, place) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().expect("a page lies in a folder").join(path) };
            let is_there = target.exists() && {
                let found = || std::fs::read_to_string(&target).unwrap_or_default();
                place.is_empty()
                    || found().lines().filter_map(|line| line.strip_prefix('#')).any(|line| anchor(line.trim_start_matches('#')) == place)
            };
            if !is_there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_book() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).expect("the book has a summary");
    let told: BTreeSet<PathBuf> = links(&summary).iter().map(|link| docs.join(link)).collect();
    let missing: Vec<_> = pages(&docs).into_iter().filter(|page| !page.ends_with("SUMMARY.md") && !told.contains(page)).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not name {missing:?}");
}

#[test]
fn links_are_told_from_code_and_headings_get_their_addresses() {
    assert_eq!(links("a [b](c.md#d) `x[0](1)`\n```\n[no](e.md)\n```\n![p](q.svg)"), ["c.md#d", "q.svg"]);
    assert_eq!(anchor("Names of classes"), "names-of-classes");
    assert_eq!(anchor("`peft-onnx.json`"), "peft-onnxjson");
}

#[test]
fn workflows_are_yaml_whose_steps_do_something() {
    let folder = root().join(".github/workflows");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("there are workflows") {
        let path = entry.expect("it can be read").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let workflow: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (name, job) in workflow["jobs"].as_object().expect("jobs") {
            for step in job["steps"].as_array().expect("steps") {
                assert!(step["uses"].is_string() != step["run"].is_string(), "{}: {name}: {step}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 5, "{count} steps");
}
