//! The thread and what follows it, against a server of keys on the loopback.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::token::keygen::generate_files;
use crate::token::{Algorithm, TokenError};

/// The key of RFC 8037 A.2, under this name.
fn jwk(kid: &str) -> String {
    format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"{kid}","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}}"#)
}

fn jwks(kids: &[&str]) -> String {
    let keys: Vec<String> = kids.iter().map(|kid| jwk(kid)).collect();
    format!("{{\"keys\":[{}]}}", keys.join(","))
}

/// Serves keys: to the n-th request, from 0, what the test says, `None` with status 503.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Server {
    fn start(answer: impl Fn(usize) -> Option<String> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                assert!(head[0].starts_with("GET /keys HTTP/1.1"), "{head:?}");
                let (status, body) = match answer(count.fetch_add(1, Ordering::SeqCst)) {
                    Some(body) => ("200 OK", body),
                    None => ("503 Service Unavailable", String::new()),
                };
                let length = body.len();
                // The client may have had enough of it.
                let _ =
                    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn config(&self, cooldown: Duration) -> TokenConfig {
        TokenConfig {
            jwks_url: Some(format!("http://{}/keys", self.address)),
            jwks_cooldown: cooldown,
            ..TokenConfig::default()
        }
    }
}

fn start(config: &TokenConfig) -> (KeyRing, Keys, &'static KeyMetrics) {
    let figures: &'static KeyMetrics = Box::leak(Box::default());
    let (ring, keys) = KeyRing::start(config, figures).unwrap();
    (ring, keys, figures)
}

/// Asks and waits until told. `false` if there is nothing to wait for.
fn refresh(keys: &Keys, kid: &str) -> bool {
    let (tell, told) = flume::bounded(1);
    let is_asked = keys.refresh_for(Some(kid), move || tell.send(()).unwrap());
    if is_asked {
        told.recv_timeout(PATIENCE).unwrap();
    }
    is_asked
}

fn count(keys: &mut Keys) -> (u64, usize) {
    let generation = keys.current();
    (generation.number, generation.verifier.keys())
}

const PATIENCE: Duration = Duration::from_secs(20);
const NEVER_AGAIN: Duration = Duration::from_secs(3600);

#[test]
fn an_unknown_key_is_fetched_once_for_all_who_wait() {
    let server = Server::start(|n| Some(if n == 0 { jwks(&["a"]) } else { jwks(&["a", "b"]) }));
    let (_ring, mut keys, figures) = start(&server.config(Duration::ZERO));
    assert_eq!((count(&mut keys), server.requests()), ((2, 1), 1));
    let (tell, told) = flume::bounded(100);
    for _ in 0..100 {
        let tell = tell.clone();
        assert!(keys.refresh_for(Some("b"), move || tell.send(()).unwrap()));
    }
    for _ in 0..100 {
        told.recv_timeout(PATIENCE).unwrap();
    }
    assert_eq!((count(&mut keys), server.requests()), ((3, 2), 2));
    assert_eq!((figures.keys.get(), figures.fetches_total.get(), figures.fetch_failures_total.get()), (2, 2, 0));
}

#[test]
fn nobody_asks_during_the_cooldown() {
    let server = Server::start(|_| Some(jwks(&["a"])));
    let (_ring, keys, _) = start(&server.config(NEVER_AGAIN));
    for _ in 0..100 {
        assert!(!refresh(&keys, "b"));
    }
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_fetch_that_fails_keeps_the_keys() {
    let large = "x".repeat(crate::limits::KEY_SET_BYTES_MAX + 1);
    let answers = [Some(jwks(&["a"])), None, Some("no JSON".into()), Some("{\"keys\":[]}".into()), Some(large)];
    let failures = answers.len() - 1;
    let server = Server::start(move |n| answers.get(n).cloned().unwrap_or_else(|| Some(jwks(&["a", "b"]))));
    let (_ring, mut keys, figures) = start(&server.config(Duration::ZERO));
    for failed in 1..=failures {
        assert!(refresh(&keys, "b"));
        assert_eq!((count(&mut keys), figures.fetch_failures_total.get()), ((2, 1), failed as u64));
    }
    assert!(refresh(&keys, "b"));
    assert_eq!(count(&mut keys), (3, 2));
}

#[test]
fn keys_that_are_still_the_same_are_no_new_generation() {
    let server = Server::start(|_| Some(jwks(&["a"])));
    let (_ring, mut keys, _) = start(&server.config(Duration::ZERO));
    assert!(refresh(&keys, "b") && refresh(&keys, "b"));
    assert_eq!((count(&mut keys), server.requests()), ((2, 1), 3));
}

#[test]
fn a_server_of_keys_that_is_away_keeps_nobody_from_starting() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = TokenConfig { jwks_url: Some(format!("http://{unused}/keys")), ..TokenConfig::default() };
    let (_ring, mut keys, figures) = start(&config);
    assert_eq!((count(&mut keys), figures.fetch_failures_total.get()), ((1, 0), 1));
    let token = "eyJhbGciOiJFZERTQSJ9.e30.AA";
    assert_eq!(keys.current().verifier.verify(token, 0), Err(TokenError::UnknownKey { kid: None }));
}

#[test]
fn a_server_with_tls_is_trusted_by_the_certificates_that_are_named() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(tls.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/keys", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(tls.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let lines = BufReader::new(&mut stream).lines();
            // A client that does not trust us breaks off here.
            if lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count() > 0 {
                let body = jwks(&["a"]);
                let length = body.len();
                let _ =
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, cert.pem()).unwrap();
    let fetched = |ca_file| {
        let config = TokenConfig { jwks_url: Some(url.clone()), jwks_ca_file: ca_file, ..TokenConfig::default() };
        let (_ring, mut keys, figures) = start(&config);
        (keys.current().verifier.keys(), figures.fetch_failures_total.get())
    };
    assert_eq!(fetched(Some(trusted)), (1, 0));
    assert_eq!(fetched(None), (0, 1), "browsers do not trust it either");
}

#[test]
fn keys_are_fetched_again_without_being_asked() {
    let (tell, told) = flume::bounded(10);
    let server = Server::start(move |n| {
        let _ = tell.try_send(n);
        Some(jwks(&["a"]))
    });
    let refresh = Duration::from_millis(20);
    let _running = start(&TokenConfig { jwks_refresh: refresh, ..server.config(Duration::ZERO) });
    for n in 0..3 {
        assert_eq!(told.recv_timeout(PATIENCE), Ok(n));
    }
}

#[test]
fn without_a_url_there_is_nothing_to_wait_for() {
    let folder = tempfile::tempdir().unwrap();
    let files = generate_files(Algorithm::EdDsa, &folder.path().join("k")).unwrap();
    let config = TokenConfig { key_files: vec![files.public.unwrap()], ..TokenConfig::default() };
    let (_ring, mut keys, _) = start(&config);
    assert!(!refresh(&keys, "b"));
    assert_eq!(count(&mut keys), (1, 1));
}

#[test]
fn a_reload_reads_the_files_anew_and_forgets_another_urls_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| generate_files(Algorithm::EdDsa, &folder.path().join(name)).unwrap().public.unwrap();
    let server = Server::start(|_| Some(jwks(&["a", "b"])));
    let mut config = TokenConfig { key_files: vec![file("k1")], ..server.config(NEVER_AGAIN) };
    let (ring, mut keys, _) = start(&config);
    let mut follower = keys.clone();
    assert_eq!(count(&mut keys), (2, 3));
    let wait_for = |keys: &mut Keys, number: u64| {
        while keys.current().number < number {
            std::thread::yield_now();
        }
        count(keys)
    };
    config.key_files.push(file("k2"));
    ring.reload(&config).unwrap();
    assert_eq!(wait_for(&mut keys, 3), (3, 4), "what came from the URL is still there");
    config.key_files.push(folder.path().join("none"));
    assert!(ring.reload(&config).unwrap_err().to_string().contains("none"));
    config.key_files.pop();
    config.jwks_url = None;
    ring.reload(&config).unwrap();
    assert_eq!(wait_for(&mut keys, 4), (4, 2));
    assert_eq!(count(&mut follower), (4, 2), "who looked away for a while follows too");
}

#[test]
fn a_long_chain_of_generations_is_dropped_without_recursion() {
    let generation = |number| Generation { number, verifier: Verifier::default() };
    let first = Arc::new(Link { generation: generation(1), next: OnceLock::new() });
    let keys = Keys { link: first.clone(), orders: flume::bounded(1).0, may_ask: Arc::default() };
    let mut last = first;
    for number in 2..200_000 {
        let next = Arc::new(Link { generation: generation(number), next: OnceLock::new() });
        let _ = last.next.set(next.clone());
        last = next;
    }
    drop(last);
    drop(keys);
}
