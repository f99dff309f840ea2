//! The web client, embedded in the binary: bytes, types and the headers that go with them.
//!
//! Invariant: whatever `index.html` and the scripts refer to is in [`ASSETS`], and nothing in it needs inline script or
//! style, so that [`HEADERS`] can forbid both. Absent: reading of requests and writing of responses, which are the
//! shell's.

/// One file of the client.
#[derive(Debug, PartialEq, Eq)]
pub struct Asset {
    /// The path that names it, beginning with `/`.
    pub path: &'static str,
    /// What to send.
    pub body: &'static [u8],
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// Value of `ETag`: a strong validator with its quotes (RFC 9110, section 8.8.3).
    etag: [u8; ETAG_BYTES],
}

impl Asset {
    const fn new(path: &'static str, content_type: &'static str, body: &'static [u8]) -> Self {
        Self { path, body, content_type, etag: etag_of(body) }
    }

    /// Value of `ETag`, quotes included.
    #[must_use]
    pub fn etag(&self) -> &str {
        std::str::from_utf8(&self.etag).expect("an etag is hexadecimal digits between quotes")
    }

    /// Whether a client that sent this `If-None-Match` has the file already, so that 304 is the answer
    /// (RFC 9110, section 13.1.2: weak comparison, a list, or `*`).
    #[must_use]
    pub fn is_known(&self, if_none_match: &[u8]) -> bool {
        let Ok(list) = std::str::from_utf8(if_none_match) else { return false };
        list.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag())
    }
}

/// The file that a request's path names; a query, if there is one, is not part of `path`.
#[must_use]
pub fn asset(path: &str) -> Option<&'static Asset> {
    let path = if path == "/index.html" { "/" } else { path };
    ASSETS.iter().find(|asset| asset.path == path)
}

/// Headers of every response that carries an asset, 304 included.
///
/// The policy allows this origin's own files and WebSockets, and no script or style within the page, so text
/// that somehow became markup still could not run. `no-cache` asks for revalidation by `ETag`: after an upgrade
/// of the server no browser runs the old client.
pub const HEADERS: [(&str, &str); 8] = [
    (
        "Content-Security-Policy",
        "default-src 'self'; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Cache-Control", "no-cache"),
];

/// Every file of the client.
pub static ASSETS: [Asset; 16] = [
    Asset::new("/", "text/html; charset=utf-8", include_bytes!("index.html")),
    script("/client.js", include_bytes!("client.js")),
    script("/view.js", include_bytes!("view.js")),
    script("/elements.js", include_bytes!("elements.js")),
    script("/browser.js", include_bytes!("browser.js")),
    script("/entrance.js", include_bytes!("entrance.js")),
    script("/moderation.js", include_bytes!("moderation.js")),
    script("/access.js", include_bytes!("access.js")),
    script("/chat.js", include_bytes!("chat.js")),
    script("/direct.js", include_bytes!("direct.js")),
    script("/connection.js", include_bytes!("connection.js")),
    script("/timeline.js", include_bytes!("timeline.js")),
    script("/text.js", include_bytes!("text.js")),
    Asset::new("/style.css", "text/css; charset=utf-8", include_bytes!("style.css")),
    Asset::new("/icon.svg", "image/svg+xml", include_bytes!("icon.svg")),
    Asset::new("/manifest.webmanifest", "application/manifest+json", include_bytes!("manifest.webmanifest")),
];

const fn script(path: &'static str, body: &'static [u8]) -> Asset {
    Asset::new(path, "text/javascript; charset=utf-8", body)
}

/// Sixteen hexadecimal digits and two quotes.
const ETAG_BYTES: usize = 18;

/// FNV-1a over the body, written as an `ETag`; it only has to differ between versions of one file.
const fn etag_of(body: &[u8]) -> [u8; ETAG_BYTES] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < body.len() {
        hash = (hash ^ body[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    let mut text = [b'"'; ETAG_BYTES];
    let mut digit = 0;
    while digit < ETAG_BYTES - 2 {
        text[1 + digit] = b"0123456789abcdef"[(hash >> (60 - 4 * digit)) as usize & 15];
        digit += 1;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(asset(path).unwrap().body).unwrap()
    }

    /// What stands between `before` and the next `after`, for every place where `before` occurs.
    fn all_between<'a>(text: &'a str, before: &str, after: &str) -> Vec<&'a str> {
        text.split(before).skip(1).filter_map(|rest| rest.split(after).next()).collect()
    }

    #[test]
    fn everything_the_page_refers_to_is_embedded() {
        let page = text("/");
        let mut paths = all_between(page, "href=\"/", "\"");
        paths.extend(all_between(page, "src=\"/", "\""));
        let scripts = ASSETS.iter().filter(|asset| asset.path.ends_with(".js"));
        for script in scripts.clone() {
            paths.extend(all_between(text(script.path), " from './", "'"));
        }
        assert!(paths.len() >= 12 + scripts.count(), "{paths:?}");
        for path in paths {
            assert!(asset(&format!("/{path}")).is_some(), "/{path} is not embedded");
        }
        assert!(asset("/index.html") == asset("/"));
        assert!(asset("/mod.rs").is_none());
        assert!(asset("/../Cargo.toml").is_none());
    }

    #[test]
    fn the_page_has_no_inline_script_or_style() {
        let page = text("/");
        assert!(!page.contains("<style"));
        assert!(!page.contains("style=\""));
        assert!(!page.contains("javascript:"));
        for script in all_between(page, "<script", "</script>") {
            assert!(script.contains("src=\"/") && script.ends_with('>'), "inline script: {script}");
        }
        let handler = page.split_whitespace().find(|word| word.starts_with("on") && word.contains('='));
        assert_eq!(handler, None, "an inline handler");
    }

    #[test]
    fn the_client_never_writes_markup() {
        let scripts: Vec<_> = ASSETS.iter().filter(|asset| asset.path.ends_with(".js")).collect();
        assert!(scripts.len() > 1);
        for script in scripts {
            for sink in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "setAttribute('style'"]
            {
                assert!(!text(script.path).contains(sink), "{} has {sink}", script.path);
            }
        }
    }

    #[test]
    fn the_policy_forbids_what_is_not_ours() {
        let (_, policy) = HEADERS.iter().find(|(name, _)| *name == "Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'self'; connect-src 'self' ws: wss:;"));
        assert!(!policy.contains("unsafe"));
        for (name, value) in HEADERS {
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
            assert!(value.bytes().all(|b| (b' '..=b'~').contains(&b)), "{name}");
        }
    }

    #[test]
    fn a_known_version_is_recognised() {
        let page = asset("/").unwrap();
        let tag = page.etag();
        assert_eq!(tag.len(), ETAG_BYTES);
        assert!(page.is_known(tag.as_bytes()));
        assert!(page.is_known(format!("\"other\", W/{tag}").as_bytes()));
        assert!(page.is_known(b"*"));
        assert!(!page.is_known(b"\"other\""));
        assert!(!page.is_known(&[0xff]));
        for other in &ASSETS[1..] {
            assert_ne!(other.etag(), tag);
        }
    }
}
