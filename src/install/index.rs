//! What an index has of a package: its page in the JSON form of PEP 691, or in the HTML form of PEP 503 where the index has no other.

use serde::Deserialize;

use super::address::{Address, joined};
use super::file::File;
use super::{Build, Machine, download};
use crate::error::{Context, Error, Result};

#[derive(Deserialize)]
struct Page {
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
    /// `false`, or why.
    #[serde(default)]
    yanked: serde_json::Value,
}

#[derive(Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

/// The files of a package.
///
/// # Errors
/// An index that cannot be reached or read.
pub(super) fn files(address: &Address, package: &str) -> Result<Vec<File>> {
    let page = address.page(package);
    let (is_json, text) = download::page(address, &page)?;
    if is_json { of_json(&page, &text).in_file(&page) } else { Ok(of_html(&page, &text)) }
}

fn of_json(page: &str, text: &str) -> Result<Vec<File>> {
    let read: Page = serde_json::from_str(text).map_err(|error| Error::format("a page of a package index", error))?;
    let file = |entry: Entry| {
        let is_yanked = entry.yanked.as_bool().unwrap_or(!entry.yanked.is_null());
        Some(File { url: joined(page, &entry.url), sha256: entry.hashes.sha256?.to_ascii_lowercase(), name: entry.filename, is_yanked })
    };
    Ok(read.files.into_iter().filter_map(file).collect())
}

/// The links of a page: `<a href="URL#sha256=HASH" data-yanked="">NAME</a>`.
fn of_html(page: &str, text: &str) -> Vec<File> {
    let file = |link: &str| {
        let (tag, rest) = link.split_once('>')?;
        let name = rest.split("</a").next()?.trim();
        let quoted = |quote: char| tag.split_once(&format!("href={quote}"))?.1.split(quote).next();
        let href = quoted('"').or_else(|| quoted('\''))?.replace("&amp;", "&");
        let sha256 = href.split_once("#sha256=")?.1.split('&').next()?.to_ascii_lowercase();
        Some(File { name: name.to_owned(), url: joined(page, &href), sha256, is_yanked: tag.contains("data-yanked") })
    };
    text.split("<a ").skip(1).filter_map(file).collect()
}

/// What a wheel's name says: `NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl`.
struct Wheel<'a> {
    package: &'a str,
    version: &'a str,
    python: &'a str,
    platform: &'a str,
}

impl<'a> Wheel<'a> {
    fn read(name: &'a str) -> Option<Self> {
        let parts: Vec<&str> = name.strip_suffix(".whl")?.split('-').collect();
        let [package, version, .., python, _, platform] = parts[..] else { return None };
        (parts.len() <= 6).then_some(Self { package, version, python, platform })
    }

    fn is_of(&self, build: Build) -> bool {
        self.package.replace(['_', '.'], "-").eq_ignore_ascii_case(build.package())
    }

    /// The numbers of a version that is no trial (`1.32.0rc1`, `1.32.0.dev1`).
    fn numbers(&self) -> Option<Vec<u64>> {
        self.version.split('.').map(|part| part.parse().ok()).collect()
    }

    /// The number in `cp312`.
    fn python_number(&self) -> u64 {
        let digits: String = self.python.chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_default()
    }
}

/// The newest file for a machine, or the one of a version. All Pythons' have the same library.
pub(super) fn chosen(files: Vec<File>, build: Build, machine: &Machine, version: Option<&str>) -> Result<File> {
    let count = files.len();
    let is_wanted = |wheel: &Wheel<'_>, file: &File| match version {
        Some(version) => wheel.version == version,
        None => !file.is_yanked && wheel.numbers().is_some(),
    };
    let rank = |file: &File| {
        let wheel =
            Wheel::read(&file.name).filter(|wheel| wheel.is_of(build) && machine.takes(wheel.platform) && is_wanted(wheel, file))?;
        Some((wheel.numbers(), wheel.python_number(), file.name.clone()))
    };
    let best = files.into_iter().filter_map(|file| Some((rank(&file)?, file))).max_by(|(one, _), (other, _)| one.cmp(other));
    best.map(|(_, file)| file).ok_or_else(|| {
        let version = version.map(|version| format!(" {version}")).unwrap_or_default();
        Error::invalid(format!("the index has no wheel of {}{version} for {}, among {count} files", build.package(), machine.words()))
    })
}

/// Checks that a file's name is that of a wheel of the build for the machine.
pub(super) fn check_name(name: &str, build: Build, machine: &Machine) -> Result<()> {
    let expected = || format!("a wheel of {} for {}", build.package(), machine.words());
    match Wheel::read(name) {
        Some(wheel) if wheel.is_of(build) && machine.takes(wheel.platform) => Ok(()),
        _ => Err(Error::mismatch("file", expected(), format!("{name:?}")).with_hint("a wheel keeps the name under which the index has it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC: Machine = Machine { system: "linux", processor: "x86_64", is_glibc: true };

    fn page(names: &[(&str, bool)]) -> Vec<File> {
        let file = |(name, is_yanked): &(&str, bool)| File {
            name: (*name).to_owned(),
            url: format!("https://files.example/{name}"),
            sha256: "00".to_owned(),
            is_yanked: *is_yanked,
        };
        names.iter().map(file).collect()
    }

    #[test]
    fn the_newest_version_for_the_machine_is_chosen() -> Result<()> {
        let all = [
            ("onnxruntime-1.9.0-cp39-cp39-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", false),
            ("onnxruntime-1.20.1-cp310-cp310-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", false),
            ("onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl", false),
            ("onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl", false),
            ("onnxruntime-1.32.0-cp312-cp312-win_amd64.whl", false),
            ("onnxruntime-1.33.0-cp312-cp312-manylinux_2_28_x86_64.whl", true),
            ("onnxruntime-1.34.0-cp312-cp312-macosx_13_0_arm64.whl", false),
            ("onnxruntime-1.35.0rc1-cp312-cp312-manylinux_2_28_x86_64.whl", false),
            ("onnxruntime_gpu-1.36.0-cp312-cp312-manylinux_2_28_x86_64.whl", false),
            ("onnxruntime-1.36.0.tar.gz", false),
        ];
        let name = |build, machine, version| chosen(page(&all), build, &machine, version).map(|file| file.name);
        assert_eq!(name(Build::Cpu, PC, None)?, all[3].0);
        assert_eq!(name(Build::Cpu, PC, Some("1.20.1"))?, all[1].0);
        assert_eq!(name(Build::Cpu, PC, Some("1.33.0"))?, all[5].0, "what was taken back can be asked for");
        assert_eq!(name(Build::Cuda, PC, None)?, all[8].0);
        assert_eq!(name(Build::Cpu, Machine { system: "windows", ..PC }, None)?, all[4].0);
        let error = name(Build::Cuda, Machine { system: "macos", ..PC }, None).unwrap_err();
        assert_eq!(error.to_string(), "the index has no wheel of onnxruntime-gpu for macos on x86_64, among 10 files");
        Ok(())
    }

    #[test]
    fn both_forms_of_a_page_say_the_same() -> Result<()> {
        let page = "https://index.example/simple/onnxruntime/";
        let json = r#"{"meta": {"api-version": "1.1"}, "name": "onnxruntime", "files": [
            {"filename": "a.whl", "url": "../../files/a.whl", "hashes": {"sha256": "AB"}, "yanked": false},
            {"filename": "b.whl", "url": "https://f.example/b.whl", "hashes": {"sha256": "cd"}, "yanked": "broken"},
            {"filename": "c.whl", "url": "c.whl", "hashes": {}}]}"#;
        let html = r#"<!DOCTYPE html><html><body><h1>Links</h1>
            <a href="../../files/a.whl#sha256=AB" data-requires-python="&gt;=3.10">a.whl</a><br />
            <a data-yanked="broken" href='https://f.example/b.whl#sha256=cd' >b.whl</a>
            <a href="c.whl">c.whl</a></body></html>"#;
        let expected = [("a.whl", "https://index.example/files/a.whl", "ab", false), ("b.whl", "https://f.example/b.whl", "cd", true)]
            .map(|(name, url, sha256, is_yanked)| File { name: name.into(), url: url.into(), sha256: sha256.into(), is_yanked });
        assert_eq!(of_json(page, json)?, expected);
        assert_eq!(of_html(page, html), expected);
        assert!(of_json(page, "<html>").is_err());
        Ok(())
    }

    #[test]
    fn a_wheel_of_another_machine_is_refused_by_its_name() {
        assert!(check_name("onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl", Build::Cpu, &PC).is_ok());
        for name in ["onnxruntime-1.32.0-cp312-cp312-win_amd64.whl", "numpy-2.0-cp312-cp312-manylinux_2_28_x86_64.whl", "x.zip", ""] {
            assert!(check_name(name, Build::Cpu, &PC).is_err(), "{name}");
        }
        assert!(check_name("onnxruntime-1.32.0-cp312-cp312-manylinux_2_28_x86_64.whl", Build::Cuda, &PC).is_err());
    }
}
