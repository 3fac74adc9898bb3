//! `runtime install`: an ONNX Runtime out of a wheel, from an index on this machine or from a file.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Folder, project_library};

/// The library that the tests run on.
fn library() -> PathBuf {
    let place = project_library().or_else(|| std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from)).expect("tests have an ONNX Runtime");
    if place.is_file() {
        return place;
    }
    let entries = std::fs::read_dir(&place).expect("its folder").map(|entry| entry.expect("an entry").path());
    let mut libraries: Vec<PathBuf> = entries.filter(|path| path.display().to_string().contains("libonnxruntime.so.1.")).collect();
    libraries.sort();
    libraries.pop().expect("it has a library")
}

/// A wheel's name for this machine.
fn name(version: &str) -> String {
    format!("onnxruntime-{version}-cp312-cp312-manylinux_2_28_{}.whl", std::env::consts::ARCH)
}

/// A wheel with a library and what else wheels have.
fn wheel(path: &Path, library: &[u8]) {
    let mut zip = zip::ZipWriter::new(File::create(path).expect("a file"));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let deflated = stored.compression_method(zip::CompressionMethod::Deflated);
    for (entry, bytes, options) in [
        ("onnxruntime/capi/libonnxruntime.so.1.99.0", library, stored),
        ("onnxruntime/LICENSE", b"as you like".as_slice(), deflated),
        ("onnxruntime/__init__.py", b"raise SystemExit", deflated),
        ("onnxruntime/capi/../../../evil.so", b"no", stored),
    ] {
        zip.start_file(entry, options).expect("an entry");
        zip.write_all(bytes).expect("its bytes");
    }
    zip.finish().expect("a zip file");
}

/// An index on this machine, with files by their paths; it keeps what it was asked for.
struct Index {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Index {
    fn of(pages: Vec<(String, &'static str, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/simple", listener.local_addr().expect("it has an address"));
        let asked = Arc::new(Mutex::new(vec![]));
        let told = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream, &pages, &told);
            }
        });
        Self { address, asked }
    }
}

fn serve(mut stream: TcpStream, pages: &[(String, &'static str, Vec<u8>)], told: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?).lines();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let who = head.iter().find(|line| line.to_ascii_lowercase().starts_with("authorization:")).cloned().unwrap_or_default();
    told.lock().expect("no test panicked").push(format!("{path} {who}").trim().to_owned());
    let (status, form, bytes) = match pages.iter().find(|(page, _, _)| *page == path) {
        Some((_, form, bytes)) => ("200 OK", *form, bytes.as_slice()),
        None => ("404 Not Found", "text/plain", b"".as_slice()),
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-type: {form}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len())?;
    stream.write_all(bytes)
}

/// Runs `runtime install` with a home of its own; gives whether it went well and what it printed.
fn install(home: &Path, variables: &[(&str, &str)], args: &[&str]) -> (bool, Value, String) {
    let mut command = Command::cargo_bin("peft-onnx").expect("the binary is built for its tests");
    for name in ["ORT_DYLIB_PATH", "XDG_DATA_HOME", "PIP_INDEX_URL", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let output = command.args(["runtime", "install"]).args(args).arg("--json").env("HOME", home).envs(variables.iter().copied());
    let output = output.output().expect("the binary starts");
    let told = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.success(), told, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[test]
#[cfg(target_os = "linux")]
fn a_library_comes_from_an_index_when_its_hash_is_right_and_it_loads() {
    let folder = Folder::empty();
    let (home, file) = (PathBuf::from(folder.path("home")), PathBuf::from(folder.path("a.whl")));
    std::fs::create_dir(&home).expect("a folder");
    wheel(&file, &std::fs::read(library()).expect("the library is there"));
    let bytes = std::fs::read(&file).expect("the wheel is there");
    let page = |hash: &str| {
        let entry = json!({"filename": name("1.99.0"), "url": "../../files/a.whl", "hashes": {"sha256": hash}});
        let older = json!({"filename": name("1.9.0"), "url": "none", "hashes": {"sha256": "00"}});
        json!({"meta": {"api-version": "1.0"}, "files": [older, entry]}).to_string().into_bytes()
    };
    let form = "application/vnd.pypi.simple.v1+json";
    let right = Index::of(vec![
        ("/simple/onnxruntime/".into(), form, page(&hash(&bytes))),
        ("/files/a.whl".into(), "application/octet-stream", bytes.clone()),
    ]);
    let with_name = right.address.replace("//", "//me:secret@");
    let (success, told, stderr) = install(&home, &[("PIP_INDEX_URL", &with_name)], &["cpu"]);
    assert!(success, "{stderr}");
    let installed = home.join(".local/share/peft-onnx/onnxruntime");
    assert_eq!(told["folder"], json!(installed));
    assert_eq!(told["sha256"], json!(hash(&bytes)));
    assert_eq!(told["files"], json!(["libonnxruntime.so.1.99.0", "LICENSE"]));
    assert!(!stderr.contains("secret"), "{stderr}");
    let asked = right.asked.lock().expect("no panic").join("\n");
    assert!(asked.contains("/files/a.whl") && asked.to_ascii_lowercase().contains("basic bwu6c2vjcmv0"), "{asked}");
    let mut files: Vec<String> = std::fs::read_dir(&installed)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, ["LICENSE", "libonnxruntime.so.1.99.0", "package.txt"]);

    // Another hash leaves what is there.
    let wrong = Index::of(vec![
        ("/simple/onnxruntime/".into(), form, page(&hash(b"other"))),
        ("/files/a.whl".into(), "application/octet-stream", bytes),
    ]);
    let (success, _, stderr) = install(&home, &[("PIP_INDEX_URL", "http://127.0.0.1:1/simple")], &["cpu", "--index", &wrong.address]);
    assert!(!success && stderr.contains("SHA-256: expected"), "{stderr}");
    let left: Vec<_> = std::fs::read_dir(installed.parent().expect("a folder")).expect("it is there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(installed.join("libonnxruntime.so.1.99.0").is_file());
}

#[test]
#[cfg(target_os = "linux")]
fn without_a_network_it_says_what_to_fetch_and_takes_the_file() {
    let folder = Folder::empty();
    let home = PathBuf::from(folder.path("home"));
    std::fs::create_dir(&home).expect("a folder");
    let index = ["cpu", "--index", "http://127.0.0.1:1/simple"];
    let (success, _, stderr) = install(&home, &[], &index);
    assert!(!success && stderr.contains("--from FILE.whl") && stderr.contains(std::env::consts::ARCH), "{stderr}");

    let file = PathBuf::from(folder.path(&name("1.32.0")));
    wheel(&file, &std::fs::read(library()).expect("the library is there"));
    let path = file.display().to_string();
    let (success, told, stderr) = install(&home, &[], &["cpu", "--from", &path]);
    assert!(success, "{stderr}");
    assert_eq!(told["wheel"], json!(name("1.32.0")));

    // What is no library for this machine takes nobody's place.
    for (bytes, words) in [(b"MZ not for here".as_slice(), "made for windows"), (b"noise", "it is no library")] {
        wheel(&file, bytes);
        let (success, _, stderr) = install(&home, &[], &["cpu", "--from", &path]);
        assert!(!success && stderr.contains(words), "{stderr}");
    }
    std::fs::write(&file, b"no zip file").expect("a file");
    let (success, _, stderr) = install(&home, &[], &["cpu", "--from", &path]);
    assert!(!success && stderr.contains("not a wheel (a zip file)"), "{stderr}");
    let (success, _, stderr) = install(&home, &[], &["cuda", "--from", &path]);
    assert!(!success && stderr.contains("a wheel of onnxruntime-gpu"), "{stderr}");
    assert!(home.join(".local/share/peft-onnx/onnxruntime/libonnxruntime.so.1.99.0").is_file());
}
