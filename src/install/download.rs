//! Bytes from the network, and their hash.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use ureq::Agent;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use ureq::tls::{RootCerts, TlsConfig};

use super::address::{Address, origin};
use super::file::File;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::files::leftovers;

/// Both forms of a page, JSON rather than HTML (PEP 691).
const FORMS: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// No page is longer, in bytes.
const LONGEST_PAGE: u64 = 64 << 20;
/// No wheel is larger, in bytes.
const LARGEST_WHEEL: u64 = 4 << 30;
/// How long an answer may take to begin, and the way there.
const PATIENCE: Duration = Duration::from_mins(1);

/// The system's certificates count, as for pip and browsers, and the proxies that variables name.
fn agent() -> Agent {
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
    let config = Agent::config_builder().tls_config(tls).timeout_connect(Some(PATIENCE)).timeout_recv_response(Some(PATIENCE));
    config.user_agent(concat!("peft-onnx/", env!("CARGO_PKG_VERSION"))).build().into()
}

fn get(address: &Address, url: &str, accept: &str) -> Result<ureq::http::Response<ureq::Body>> {
    let is_safe = url.starts_with("https://") || origin(url) == origin(&address.page(""));
    if !is_safe {
        return Err(Error::invalid(format!("{url}: the index leads to an address that is not https")));
    }
    let request = agent().get(url).header(ACCEPT, accept);
    let request = match address.authorization(url) {
        Some(value) => request.header(AUTHORIZATION, value),
        None => request,
    };
    request.call().map_err(|error| unreachable_index(&error)).in_file(url)
}

fn unreachable_index(error: &ureq::Error) -> Error {
    Error::from(ErrorKind::Io(std::io::Error::other(error.to_string())))
}

/// A page, and whether it is JSON.
pub(super) fn page(address: &Address, url: &str) -> Result<(bool, String)> {
    let answer = get(address, url, FORMS)?;
    let is_json = answer.headers().get(CONTENT_TYPE).and_then(|form| form.to_str().ok()).is_some_and(|form| form.contains("json"));
    let mut text = String::new();
    answer.into_body().into_reader().take(LONGEST_PAGE).read_to_string(&mut text).in_file(url)?;
    Ok((is_json, text))
}

/// A file of the index in a folder, and its SHA-256, which is the index's.
pub(super) fn to_file(
    address: &Address,
    file: &File,
    folder: &Path,
    told: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(NamedTempFile, String)> {
    let answer = get(address, &file.url, "*/*")?;
    let all = answer.body().content_length();
    let mut reader = answer.into_body().into_reader().take(LARGEST_WHEEL);
    let mut target = tempfile::Builder::new().prefix(&leftovers::prefix()).tempfile_in(folder).in_file(folder)?;
    let (mut hash, mut count, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let read = reader.read(&mut buffer).in_file(&file.url)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        target.write_all(bytes).in_file(folder)?;
        count += u64::try_from(read).unwrap_or_default();
        told(count, all);
    }
    target.flush().in_file(folder)?;
    let found = hexadecimal(&hash.finalize());
    if found == file.sha256 {
        return Ok((target, found));
    }
    let error = Error::mismatch("SHA-256", &file.sha256, found).in_file(&file.url);
    Err(error.with_hint("what came is not what the index says: something on the way changed or cut it; nothing was installed, try again"))
}

/// The SHA-256 of a file.
pub(super) fn hash(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = std::fs::File::open(path).in_file(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).in_file(path)?;
        match buffer.get(..read) {
            Some(bytes) if !bytes.is_empty() => hash.update(bytes),
            _ => return Ok(hexadecimal(&hash.finalize())),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
