//! The address of a package index.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// The official index of Python packages.
pub const OFFICIAL: &str = "https://pypi.org/simple";

/// The address of an index that pip could use, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Without a slash at the end, and without who asks.
    base: String,
    /// The value of the header `Authorization`.
    authorization: Option<String>,
}

/// Passwords are for nobody to read.
impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

impl Address {
    /// Reads an address: `https://HOST/simple`, with `USER:PASSWORD@` in front of the host where the index asks who one is.
    ///
    /// # Errors
    /// An address that is not of this form, or whose answers anybody on the way could change.
    pub fn read(text: &str) -> Result<Self> {
        let wrong = |found: &str| Error::mismatch("address of the index", "https://HOST/PATH", format!("{found:?}"));
        let (scheme, rest) = text.trim().trim_end_matches('/').split_once("://").ok_or_else(|| wrong(text))?;
        let (before, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (user, host) = before.rsplit_once('@').map_or((None, before), |(user, host)| (Some(user), host));
        let shown = format!("{scheme}://{host}{path}");
        if host.is_empty() || !["http", "https"].contains(&scheme) {
            return Err(wrong(&shown));
        }
        if scheme == "http" && !is_loopback(host) {
            let error = Error::invalid(format!("{shown}: hashes that come over plain http prove nothing"));
            return Err(error.with_hint("name an https address, or fetch the wheel yourself and give it with `from FILE.whl`"));
        }
        let authorization = user.map(|user| format!("Basic {}", STANDARD.encode(decoded(user))));
        Ok(Self { base: shown, authorization })
    }

    /// The page of a package.
    #[must_use]
    pub(super) fn page(&self, package: &str) -> String {
        format!("{}/{package}/", self.base)
    }

    /// What says who asks, for an address on the index's own host.
    pub(super) fn authorization(&self, url: &str) -> Option<&str> {
        self.authorization.as_deref().filter(|_| origin(url) == origin(&self.base))
    }
}

/// Scheme and host.
pub(super) fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].find('/').map_or(url, |at| &url[..start + at])
}

fn is_loopback(host: &str) -> bool {
    let name = if let Some(rest) = host.strip_prefix('[') { rest.split(']').next() } else { host.split(':').next() };
    name.is_some_and(|name| name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()))
}

/// The bytes behind `%41`.
fn decoded(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (vec![], text.as_bytes());
    while let [first, behind @ ..] = rest {
        let hex = behind.get(..2).filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(hex.unwrap_or(*first));
        rest = if hex.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

/// An address on a page, from the page's own.
pub(super) fn joined(page: &str, link: &str) -> String {
    let link = link.split('#').next().unwrap_or_default();
    if link.contains("://") {
        return link.to_owned();
    }
    if let Some(path) = link.strip_prefix("//") {
        return format!("{}://{path}", page.split("://").next().unwrap_or("https"));
    }
    if link.starts_with('/') {
        return format!("{}{link}", origin(page));
    }
    let mut folder = page.trim_end_matches('/').to_owned();
    let mut link = link;
    while let Some(rest) = link.strip_prefix("../") {
        folder.truncate(folder.rfind('/').filter(|&at| at > origin(page).len()).unwrap_or(origin(page).len()));
        link = rest;
    }
    format!("{folder}/{}", link.trim_start_matches("./"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_what_pip_would_ask_and_keep_passwords_to_themselves() {
        let address = Address::read("https://me:s%40cret@index.example/simple/").expect("an address");
        assert_eq!(address.page("onnxruntime"), "https://index.example/simple/onnxruntime/");
        assert_eq!(format!("{address} {address:?}"), "https://index.example/simple https://index.example/simple");
        assert_eq!(address.authorization("https://index.example/files/x.whl"), Some("Basic bWU6c0BjcmV0"));
        assert_eq!(address.authorization("https://files.example/x.whl"), None);
        for (text, is_fine) in [
            (OFFICIAL, true),
            ("http://127.0.0.1:8000/simple", true),
            ("http://[::1]:8000/simple", true),
            ("http://localhost/simple", true),
            ("http://index.example/simple", false),
            ("http://127.0.0.1.example/simple", false),
            ("ftp://index.example/simple", false),
            ("index.example/simple", false),
            ("https:///simple", false),
            ("", false),
        ] {
            assert_eq!(Address::read(text).is_ok(), is_fine, "{text}");
        }
    }

    #[test]
    fn links_of_a_page_lead_where_a_browser_would_go() {
        let page = "https://index.example/root/simple/onnxruntime/";
        for (link, expected) in [
            ("https://files.example/a.whl#sha256=0", "https://files.example/a.whl"),
            ("/files/a.whl", "https://index.example/files/a.whl"),
            ("../../files/a.whl#sha256=0", "https://index.example/root/files/a.whl"),
            ("a.whl", "https://index.example/root/simple/onnxruntime/a.whl"),
            ("//files.example/a.whl", "https://files.example/a.whl"),
            ("../../../../../a.whl", "https://index.example/a.whl"),
        ] {
            assert_eq!(joined(page, link), expected, "{link}");
        }
    }
}
