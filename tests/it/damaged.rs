//! Damaged files of every kind are refused or read: the same functions as under `fuzz/`, with as much damage as a test run has time for.

#[path = "../../fuzz/entries.rs"]
mod entries;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Running, done, fixture};
use entries::{ENTRIES, Entry, PARTING};

/// Time for each kind. What is tried first is the same in every run; slower machines try less of it.
const TIME: Duration = Duration::from_millis(1500);

/// A source of numbers: Knuth's multiplier for 64 bits.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end.max(1)
    }
}

/// Numbers and words that files should not have where they expect others.
const ODD: &[&[u8]] = &[
    b"-1",
    b"0",
    b"4294967296",
    b"18446744073709551616",
    b"1e400",
    b"null",
    b"[]",
    b"{}",
    b"\"",
    b"\\u0000",
    b"../x",
    b"NaN",
    b"{%",
    b"{{",
    b"\xff\xfe",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x00\x00\x00\x00",
];

fn damaged(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let (at, length) = (numbers.below(bytes.len()), numbers.below(16));
        let end = (at + length).min(bytes.len());
        match numbers.below(6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => _ = bytes.get_mut(at).map(|byte| *byte ^= 1 << (length % 8)),
            3 => _ = bytes.splice(at..end, ODD[numbers.below(ODD.len())].iter().copied()).count(),
            4 => bytes.extend_from_within(at..end),
            _ => {
                let part = bytes[at..end].to_vec();
                let place = numbers.below(bytes.len());
                bytes.splice(place..place, part);
            }
        }
    }
    bytes
}

/// Whole files of a kind.
fn seeds(entry: &Entry, bundle: &Path) -> Vec<Vec<u8>> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let read = |path: &Path| std::fs::read(path).expect("the fixture is there");
    let mut seeds: Vec<Vec<u8>> = entry.seeds.iter().map(|file| read(&models.join(file))).collect();
    match entry.name {
        "manifest" => seeds.push(read(&bundle.join("peft-onnx.json"))),
        "checkpoint" => seeds
            .push(br#"{"kind":"peft-onnx checkpoint","version":1,"step":1,"total_steps":2,"cursor":{"epoch":0,"position":1}}"#.to_vec()),
        "data_rows" => {
            seeds = vec![[&[0], &seeds[0][..seeds[0].len().min(2000)]].concat(), b"\x05text,label\n\"a, b\",red\nc,green\n".to_vec()];
        }
        "parquet" => seeds.push(read(&models.join("../tests/fixtures/rows.parquet"))),
        "image" => seeds = media(&models, &["png", "bmp", "webp", "gif", "jpg"], br#"{"size": {"shortest_edge": 9}, "crop_pct": 0.9}"#),
        "sound" => {
            let config = br#"{"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 1}"#;
            seeds = media(&models, &["wav", "flac", "mp3", "ogg"], config);
        }
        "template" => seeds.push(
            b"{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m['content'] | trim ~ eos_token }}{% endif %}{% endfor %}"
                .to_vec(),
        ),
        _ => {}
    }
    seeds
}

/// The files of these formats, each behind the configuration of its processor.
fn media(models: &Path, formats: &[&str], config: &[u8]) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(models.join("../tests/fixtures/media")).expect("the folder is there");
    let paths = folder.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|ending| formats.iter().any(|format| ending == *format))).collect();
    paths.sort();
    paths.iter().map(|path| [config, PARTING, &std::fs::read(path).expect("the fixture is there")].concat()).collect()
}

#[test]
fn damaged_files_of_every_kind_are_refused_or_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let bundle = folder.path().join("bundle");
    done(&["inject", &fixture("llama/dynamo.onnx"), "--method", "lora", "-o", bundle.to_str().expect("UTF-8"), "--quiet"]);
    for entry in ENTRIES {
        let (seeds, started) = (seeds(entry, &bundle), Instant::now());
        assert!(!seeds.is_empty(), "{}", entry.name);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for seed in &seeds {
            (entry.run)(seed);
        }
        let mut tried = 0_u32;
        while started.elapsed() < TIME && tried < 2000 {
            (entry.run)(&damaged(&seeds[numbers.below(seeds.len())], &mut numbers));
            tried += 1;
        }
        println!("{}: {tried} damaged files", entry.name);
    }
}

#[cfg(unix)]
#[test]
fn a_model_that_is_cut_short_under_a_running_command_is_an_error() {
    use std::io::{BufRead, BufReader, Read};

    let folder = crate::common::Folder::empty();
    let (model, bundle, rows) = (folder.path("model.onnx"), folder.path("bundle"), folder.path("rows.jsonl"));
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny-lm/model.onnx"), &model).expect("it is copied");
    std::fs::write(&rows, "{\"input_ids\": [5, 9, 12, 30, 7]}\n".repeat(4)).expect("it is written");
    done(&["inject", &model, "--method", "lora", "-o", &bundle, "-q"]);
    let mut command = std::process::Command::new(crate::common::peft_onnx().get_program());
    command.envs(crate::common::project_library().map(|library| ("ORT_DYLIB_PATH", library)));
    command.args(["train", &bundle, "--data", &rows, "--max-steps", "200000", "--log-every", "1"]);
    let mut running = Running(command.stderr(std::process::Stdio::piped()).spawn().expect("the binary starts"));
    let mut said = BufReader::new(running.0.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.starts_with("step ") {
        line.clear();
        assert!(said.read_line(&mut line).expect("text") > 0, "training begins");
    }
    std::fs::File::options().write(true).open(&model).and_then(|file| file.set_len(4096)).expect("it is cut");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("text");
    assert_eq!(running.0.wait().expect("it ends").code(), Some(1), "{rest}");
    assert!(rest.contains("error: a file was cut short"), "{rest}");
}
