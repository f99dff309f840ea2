//! An operator's program: requests to the API, whose every answer must be what the document says.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::http::{Response, http, http_raw};
use super::server::{Launch, Server};

/// A server with keys, and its API.
pub struct Api {
    pub server: Server,
    key: String,
    document: Value,
}

impl Api {
    /// A server with two shards and these flags.
    pub fn with<const N: usize>(arguments: [&str; N]) -> Self {
        Self::launch(&Launch::new().arguments(["--shards=2"]).arguments(arguments))
    }

    /// Such a server.
    pub fn launch(launch: &Launch) -> Self {
        let keys = keys_file(&format!("# keys of this test\nops:{KEY}\nviewer:{READING_KEY} ro\n"));
        let server = launch.clone().arguments([&format!("--admin-key-file={}", keys.display())]).start();
        let document = http(server.admin(), "GET", "/api/v1/openapi.json", &[]);
        assert_eq!(document.status, 200, "{}", document.text());
        let document = serde_json::from_slice(&document.body).expect("the document is JSON");
        Self { server, key: KEY.to_owned(), document }
    }

    /// The same server for the holder of the key that only reads.
    pub fn reading(self) -> Self {
        Self { key: READING_KEY.to_owned(), ..self }
    }

    /// Where the API is.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.admin())
    }

    /// Makes a request and gives the answer's status and body.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let text = body.map(ToString::to_string).unwrap_or_default();
        let response = self.send(method, path, &text);
        (response.status, self.checked(method, path, &response))
    }

    /// Makes a request with a body as it is.
    pub fn send(&self, method: &str, path: &str, body: &str) -> Response {
        request(self.server.admin(), method, path, &self.key, body)
    }

    /// Makes a request and does not wait for its answer.
    pub fn post_and_hang_up(&self, path: &str) {
        let mut stream = TcpStream::connect(self.server.admin()).expect("the admin port listens");
        let head = head("POST", path, self.server.admin(), &self.key, 0);
        stream.write_all(head.as_bytes()).expect("the server reads requests");
    }

    /// Makes a request that succeeds.
    pub fn ok(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!((200..300).contains(&status), "{method} {path} got {status}: {answer}");
        answer
    }

    /// Asks for something that is there.
    pub fn get(&self, path: &str) -> Value {
        self.ok("GET", path, None)
    }

    /// Has something done.
    pub fn post(&self, path: &str, body: Value) -> Value {
        self.ok("POST", path, Some(&body))
    }

    /// Makes a request that is refused like this; gives the detail.
    pub fn refused(&self, method: &str, path: &str, body: Option<&Value>, status: u16, code: &str) -> String {
        let (got, problem) = self.call(method, path, body);
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{method} {path}: {problem}");
        problem["detail"].as_str().expect("a problem has a detail").to_owned()
    }

    /// The answer's body, if it is what the document says.
    pub fn checked(&self, method: &str, path: &str, response: &Response) -> Value {
        let value: Value = serde_json::from_slice(&response.body)
            .unwrap_or_else(|error| panic!("{method} {path} gave no JSON ({error}): {}", response.text()));
        let kind = response.header("content-type").unwrap_or_default();
        self.check(method, path, response.status, kind, &value);
        value
    }

    /// Checks an answer against the document.
    pub fn check(&self, method: &str, path: &str, status: u16, kind: &str, value: &Value) {
        let Some(operation) = self.operation(method, path) else {
            assert!(
                matches!(status, 404 | 405),
                "{method} {path} is not in the document, and was answered by {status}"
            );
            return;
        };
        let responses = &operation["responses"];
        let response = responses.get(status.to_string()).unwrap_or(&responses["default"]);
        let (wanted, content) = response["content"].as_object().and_then(|all| all.iter().next()).expect("a content");
        assert_eq!(kind, wanted, "{method} {path}: {status}");
        let schema = json!({"components": self.document["components"], "allOf": [content["schema"]]});
        let validator = jsonschema::validator_for(&schema).expect("the document has schemas");
        if let Err(error) = validator.validate(value) {
            panic!("{method} {path}: {status} {value} is not as documented: {error} at {}", error.instance_path());
        }
    }

    /// What the document says of a request.
    fn operation(&self, method: &str, path: &str) -> Option<&Value> {
        let path = path.split('?').next().unwrap_or(path);
        let fits = |template: &str| {
            let (given, wanted): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), template.split('/').collect());
            let same = |(given, wanted): (&&str, &&str)| given == wanted || wanted.starts_with('{');
            given.len() == wanted.len() && given.iter().zip(&wanted).all(same)
        };
        let paths = self.document["paths"].as_object()?;
        let (_, item) = paths.iter().find(|(template, _)| fits(template))?;
        item.get(method.to_lowercase())
    }
}

/// Makes one request.
pub fn request(address: SocketAddr, method: &str, path: &str, key: &str, body: &str) -> Response {
    http_raw(address, (head(method, path, address, key, body.len()) + body).as_bytes())
}

fn head(method: &str, path: &str, address: SocketAddr, key: &str, body_bytes: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
         Content-Length: {body_bytes}\r\n\r\n"
    )
}

/// A file with such keys.
pub fn keys_file(text: &str) -> PathBuf {
    static FILES: AtomicU32 = AtomicU32::new(0);
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-api-keys-{number}", std::process::id());
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("a new file can be written");
    path
}

/// May do everything.
pub const KEY: &str = "the key of this test alone";
/// May read.
pub const READING_KEY: &str = "another key of this test";
