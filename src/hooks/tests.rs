//! Hooks as the application sees them, over HTTP on loopback.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tempfile::NamedTempFile;

use super::*;
use crate::clock::Clock;
use crate::ids::{RoomName, ShardId, UserName};
use crate::message::close::{CloseReason, ErrorCode};
use crate::telemetry::metrics::Metrics;

#[path = "../../tests/integration/harness/hooks.rs"]
mod application;
use application::{HookCall, HookServer};

const KEY: &[u8] = b"a key that is just long enough..";
const PATIENCE: Duration = Duration::from_secs(20);

/// Hooks of one shard, with the files that they need.
struct Rig {
    hooks: Hooks,
    line: HookLine,
    rung: flume::Receiver<ShardId>,
    metrics: &'static HookMetrics,
    /// Read when the hooks start; goes with the rig.
    _secret: NamedTempFile,
}

impl Rig {
    fn start(url: String, change: impl FnOnce(&mut HookConfig)) -> Self {
        let mut secret = NamedTempFile::new().unwrap();
        secret.write_all(KEY).unwrap();
        secret.write_all(b"\n").unwrap();
        let mut config = HookConfig {
            url: Some(url),
            events: HookEvent::ALL.to_vec(),
            secret_file: Some(secret.path().to_owned()),
            timeout: PATIENCE,
            ..HookConfig::default()
        };
        change(&mut config);
        let metrics = &Box::leak(Box::new(Metrics::new(1))).hooks;
        let (bell, rung) = flume::bounded(10_000);
        let ring = Arc::new(move |shard| bell.send(shard).unwrap_or_default());
        let (port, mut lines) = lines(&config, "node-1", 1, ring, metrics);
        let hooks = Hooks::start(port).unwrap();
        Self { hooks, line: lines.remove(0), rung, metrics, _secret: secret }
    }

    fn with(server: &HookServer, change: impl FnOnce(&mut HookConfig)) -> Self {
        Self::start(server.url(), change)
    }

    /// The next answer, once there is one.
    fn answer(&mut self) -> (u64, Verdict) {
        loop {
            if let Some(answer) = self.line.next_answer() {
                return answer;
            }
            assert_eq!(self.rung.recv_timeout(PATIENCE), Ok(ShardId(0)), "the shard is woken for its answers");
        }
    }

    fn calls(&self, event: HookEvent, outcome: HookOutcome) -> u64 {
        self.metrics.calls(event, outcome)
    }
}

fn join(room: &str) -> Question {
    let about = About::Join { room: RoomName::chat(room).unwrap() };
    Question { connection: "0-7-1".into(), user: UserName::new("ann").unwrap(), about }
}

fn notice(connection: &str) -> Notice {
    Notice { connection: connection.into(), user: UserName::new("ann").unwrap(), reason: CloseReason::PeerGone }
}

fn code(verdict: &Verdict) -> Option<ErrorCode> {
    verdict.as_ref().err().map(|refusal| refusal.code)
}

/// HMAC as RFC 2104 spells it, apart from the library that signs.
fn hmac_by_hand(message: &[u8]) -> String {
    let mut key = [0; 64];
    key[..KEY.len()].copy_from_slice(KEY);
    let inner = digest(&SHA256, &[&key.map(|byte| byte ^ 0x36), message].concat());
    let outer = digest(&SHA256, &[&key.map(|byte| byte ^ 0x5c), inner.as_ref()].concat());
    outer.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn assert_signed(call: &HookCall) {
    let timestamp = call.header("Hubbub-Timestamp").unwrap();
    let message = [timestamp.as_bytes(), b".", &call.body].concat();
    assert_eq!(call.header("Hubbub-Signature"), Some(&*format!("v1={}", hmac_by_hand(&message))));
}

#[test]
fn a_request_is_signed_and_says_what_is_about_to_happen() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |_| {});
    let before = Clock::start().now().unix_ms / 1_000;
    assert_eq!(rig.line.try_ask(7, join("lobby")), Ok(()));
    let call = server.next();
    assert_eq!(call.request_line(), "POST /hooks?for=test HTTP/1.1");
    assert_eq!(call.header("Content-Type"), Some("application/json"));
    assert_eq!(call.header("Hubbub-Event"), Some("join"));
    let timestamp: u64 = call.header("Hubbub-Timestamp").unwrap().parse().unwrap();
    assert!((before..before + 60).contains(&timestamp), "{timestamp} is in Unix seconds");
    assert_signed(&call);
    let body = call.json();
    assert_eq!((&body["event"], &body["node"], &body["room"]), (&"join".into(), &"node-1".into(), &"lobby".into()));
    assert_eq!(body["timestamp"].as_u64().unwrap() / 60_000, timestamp / 60);
    call.answer(200, "");
    assert_eq!(rig.answer(), (7, Ok(())));
    assert_eq!(rig.calls(HookEvent::Join, HookOutcome::Allowed), 1);
}

#[test]
fn the_answer_decides() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |_| {});
    let default = "the application does not allow it";
    let rows: [(u16, &str, Option<&str>); 9] = [
        (204, "", None),
        (200, " \r\n", None),
        (200, r#"{"allow":true,"reason":"whatever"}"#, None),
        (201, r#"{"allow":true}"#, None),
        (200, r#"{"allow":false,"reason":"not\u001b[31m today\n"}"#, Some("not[31m today")),
        (200, r#"{"allow":false}"#, Some(default)),
        (403, "", Some(default)),
        (403, r#"{"reason":"members only"}"#, Some("members only")),
        (403, "<html>", Some(default)),
    ];
    for (status, body, refusal) in rows {
        rig.line.try_ask(1, join("lobby")).unwrap();
        server.next().answer(status, body);
        let (_, verdict) = rig.answer();
        assert_eq!(code(&verdict), refusal.map(|_| ErrorCode::Forbidden), "{status} {body}");
        assert_eq!(verdict.err().map(|refusal| refusal.message.into_owned()).as_deref(), refusal, "{status} {body}");
    }
    assert_eq!(rig.calls(HookEvent::Join, HookOutcome::Refused), 5);
}

#[test]
fn what_is_no_answer_fails_and_is_not_tried_again() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |_| {});
    let huge = format!(r#"{{"allow":true,"reason":"{}"}}"#, "x".repeat(64 * 1024));
    let rows = [
        (404, ""),
        (401, r#"{"allow":true}"#),
        (302, ""),
        (307, ""),
        (200, "hello"),
        (200, r#"{"ok":true}"#),
        (200, r#"{"allow":1}"#),
        (200, &*huge),
    ];
    for (token, (status, body)) in rows.into_iter().enumerate() {
        let room = format!("room-{token}");
        rig.line.try_ask(token as u64, join(&room)).unwrap();
        let call = server.next();
        // A second attempt, or a redirect that was followed, would come where the next question is expected.
        assert_eq!(
            (call.json()["room"].as_str(), call.request_line().starts_with("POST /hooks")),
            (Some(&*room), true)
        );
        call.answer(status, body);
        let (_, verdict) = rig.answer();
        assert_eq!(code(&verdict), Some(ErrorCode::Overloaded), "{status} {body:.20}");
    }
    assert_eq!(rig.calls(HookEvent::Join, HookOutcome::Failed), rows.len() as u64);
}

#[test]
fn what_may_pass_is_tried_again_under_the_same_id() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| config.attempts = 4);
    rig.line.try_ask(1, join("lobby")).unwrap();
    let first = server.next();
    let id = first.json()["id"].clone();
    first.answer(503, "");
    for attempt in 2..=4 {
        let call = server.next();
        assert_eq!(call.json()["id"], id);
        assert_signed(&call);
        match attempt {
            2 => call.answer(429, ""),
            3 => drop(call),
            _ => call.answer(200, ""),
        }
    }
    assert_eq!(rig.answer(), (1, Ok(())));
    let retries: u64 = rig.metrics.callers.iter().map(|caller| caller.retries_total.get()).sum();
    assert_eq!(retries, 3);
    rig.line.try_ask(2, join("lobby")).unwrap();
    let other = server.next();
    assert_ne!(other.json()["id"], id, "another call has another id");
    other.answer(200, "");
}

#[test]
fn after_the_last_attempt_the_operator_has_decided() {
    for (on_failure, expected) in [(OnFailure::Allow, None), (OnFailure::Refuse, Some(ErrorCode::Overloaded))] {
        let server = HookServer::answering(|_| (500, String::new()));
        let mut rig = Rig::with(&server, |config| {
            config.attempts = 2;
            config.on_failure = on_failure;
        });
        rig.line.try_ask(1, join("lobby")).unwrap();
        let (_, verdict) = rig.answer();
        assert_eq!(code(&verdict), expected);
        assert_eq!(rig.calls(HookEvent::Join, HookOutcome::Failed), 1);
        let _both = (server.next(), server.next());
    }
}

#[test]
fn an_application_that_is_not_there_fails() {
    let server = HookServer::start();
    let url = server.url();
    drop(server);
    let mut rig = Rig::start(url, |config| config.attempts = 2);
    rig.line.try_ask(1, join("lobby")).unwrap();
    let (_, verdict) = rig.answer();
    assert_eq!(code(&verdict), Some(ErrorCode::Overloaded));
}

#[test]
fn an_attempt_ends_with_its_time() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| {
        config.attempts = 2;
        config.timeout = Duration::from_millis(200);
    });
    let clock = Clock::start();
    rig.line.try_ask(1, join("lobby")).unwrap();
    let _never_answered = server.next();
    server.next().answer_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf of it".to_vec());
    let (_, verdict) = rig.answer();
    assert_eq!(code(&verdict), Some(ErrorCode::Overloaded));
    assert!(clock.us() >= 400_000, "each attempt has its time: {} us", clock.us());
}

#[test]
fn waiting_counts_towards_the_deadline() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| {
        config.events = vec![HookEvent::Join];
        (config.attempts, config.concurrency) = (1, 1);
        config.timeout = Duration::from_millis(200);
    });
    let clock = Clock::start();
    let questions = 50;
    for token in 0..questions {
        rig.line.try_ask(token, join("lobby")).unwrap();
    }
    for token in 0..questions {
        assert_eq!(rig.answer().0, token);
    }
    // One after the other they would take 10 s.
    assert!(clock.us() < 5_000_000, "{} us", clock.us());
}

#[test]
fn no_more_requests_are_made_at_once_than_configured() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| {
        config.events = vec![HookEvent::Join];
        config.concurrency = 3;
    });
    for token in 0..100 {
        rig.line.try_ask(token, join("lobby")).unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(server.next());
        if held.len() == 3 {
            held.remove(0).answer(200, "");
        }
    }
    held.into_iter().for_each(|call| call.answer(200, ""));
    let mut answered: Vec<u64> = (0..100).map(|_| rig.answer().0).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..100).collect::<Vec<_>>());
    assert_eq!(server.most_at_once(), 3);
}

#[test]
fn a_full_queue_is_a_failure_that_is_known_at_once() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| {
        config.events = vec![HookEvent::Join];
        (config.concurrency, config.queue) = (2, 1);
    });
    rig.line.try_ask(1, join("a")).unwrap();
    let first = server.next();
    rig.line.try_ask(2, join("b")).unwrap();
    let second = server.next();
    // Nobody answers, so both threads are taken: one question waits, and the next finds no place.
    assert_eq!(rig.line.try_ask(3, join("c")), Ok(()));
    assert_eq!(rig.metrics.waiting(), 1);
    assert_eq!(code(&rig.line.try_ask(4, join("d")).map_or_else(|verdict| verdict, Ok)), Some(ErrorCode::Overloaded));
    assert_eq!(rig.calls(HookEvent::Join, HookOutcome::Dropped), 1);
    assert_eq!(rig.metrics.in_flight(), 2);
    first.answer(200, "");
    assert_eq!(rig.answer(), (1, Ok(())));
    let third = server.next();
    third.answer(403, "");
    assert_eq!(rig.answer().0, 3);
    second.answer(200, "");
    assert_eq!(rig.answer(), (2, Ok(())));
}

#[test]
fn answers_that_are_not_taken_hold_up_the_asking_and_not_the_callers() {
    let server = HookServer::answering(|_| (200, String::new()));
    let mut rig = Rig::with(&server, |config| {
        config.events = vec![HookEvent::Join];
        (config.concurrency, config.queue) = (1, 2);
    });
    for token in 0..3 {
        rig.line.try_ask(token, join("a")).unwrap();
        // Answered, but the answer stays where it is.
        assert_eq!(rig.rung.recv_timeout(PATIENCE), Ok(ShardId(0)));
    }
    assert!(rig.line.try_ask(3, join("a")).is_err());
    assert_eq!(rig.answer().0, 0);
    assert_eq!(rig.line.try_ask(4, join("a")), Ok(()));
}

#[test]
fn nobody_is_asked_of_what_the_application_does_not_want_to_hear() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| config.events = vec![HookEvent::Message]);
    assert!(!rig.line.asks(HookEvent::Join) && rig.line.asks(HookEvent::Message));
    assert_eq!(rig.line.try_ask(1, join("lobby")), Err(Ok(())));
    rig.line.notify(notice("0-1-1"));
    let content = bytes::Bytes::from_static(br#"{"text":"hi"}"#);
    let room = RoomName::chat("lobby").unwrap();
    let about = About::Message { room, content, key: None, tag: Some("t".into()) };
    rig.line.try_ask(2, Question { about, ..join("lobby") }).unwrap();
    let call = server.next();
    assert_eq!((&call.json()["event"], &call.json()["content"]["text"]), (&"message".into(), &"hi".into()));
    call.answer(200, "");
    assert_eq!(rig.answer(), (2, Ok(())));
}

#[test]
fn notices_are_tried_again_and_do_not_wait_for_questions() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| config.concurrency = 2);
    rig.line.try_ask(1, join("lobby")).unwrap();
    let question = server.next();
    rig.line.notify(notice("0-1-1"));
    let first = server.next();
    let told = first.json();
    assert_eq!(
        (&told["event"], &told["connection"], &told["reason"]),
        (&"close".into(), &"0-1-1".into(), &"peer_gone".into())
    );
    first.answer(500, "");
    let second = server.next();
    assert_eq!(second.json(), told);
    assert_signed(&second);
    second.answer(200, "anything");
    question.answer(200, "");
    assert_eq!(rig.answer(), (1, Ok(())), "a notice has no answer");
    let metrics = rig.metrics;
    rig.hooks.close(PATIENCE);
    assert_eq!(metrics.calls(HookEvent::Close, HookOutcome::Allowed), 1);
}

#[test]
fn notices_beyond_the_queue_are_counted() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |config| {
        config.events = vec![HookEvent::Close];
        (config.concurrency, config.queue) = (1, 1);
    });
    rig.line.notify(notice("0-1-1"));
    let held = server.next();
    rig.line.notify(notice("0-2-1"));
    rig.line.notify(notice("0-3-1"));
    assert_eq!(rig.calls(HookEvent::Close, HookOutcome::Dropped), 1);
    held.answer(200, "");
    assert_eq!(server.next().json()["connection"], "0-2-1");
}

#[test]
fn closing_finishes_what_waits() {
    let server = HookServer::answering(|_| (200, String::new()));
    let mut rig = Rig::with(&server, |config| config.concurrency = 2);
    for connection in ["0-1-1", "0-2-1", "0-3-1"] {
        rig.line.notify(notice(connection));
    }
    let metrics = rig.metrics;
    rig.hooks.close(PATIENCE);
    assert_eq!(metrics.calls(HookEvent::Close, HookOutcome::Allowed), 3);
    assert_eq!(code(&rig.line.try_ask(1, join("a")).map_or_else(|verdict| verdict, Ok)), Some(ErrorCode::Overloaded));
}

#[test]
fn closing_waits_no_longer_than_it_may() {
    let server = HookServer::start();
    let mut rig = Rig::with(&server, |_| {});
    rig.line.notify(notice("0-1-1"));
    rig.line.try_ask(1, join("lobby")).unwrap();
    let _held = (server.next(), server.next());
    let clock = Clock::start();
    rig.hooks.close(Duration::from_millis(50));
    assert!(clock.us() < 5_000_000, "an attempt may take {PATIENCE:?}, and closing took {} us", clock.us());
}

#[test]
fn files_that_cannot_be_used_are_named_with_a_remedy() {
    let start = |change: &dyn Fn(&mut HookConfig)| {
        let mut config = HookConfig { url: Some("https://app.example/".into()), ..HookConfig::default() };
        change(&mut config);
        let metrics = &Box::leak(Box::new(Metrics::new(1))).hooks;
        let (port, _) = lines(&config, "node-1", 1, Arc::new(|_| {}), metrics);
        let error = Hooks::start(port).unwrap_err();
        (error.key(), error.to_string(), error.remedy())
    };
    let mut short = NamedTempFile::new().unwrap();
    short.write_all(b"secret").unwrap();
    let path = short.path().to_owned();
    let (key, what, remedy) = start(&|config| config.secret_file = Some(path.clone()));
    assert_eq!(key, "hooks.secret_file");
    assert!(what.contains("has 6 bytes") && !what.contains("secret\""), "{what}");
    assert!(remedy.contains("openssl rand -hex 32"));
    assert_eq!(start(&|_| {}).0, "hooks.secret_file");
    let mut key_file = NamedTempFile::new().unwrap();
    key_file.write_all(KEY).unwrap();
    let (key, _, remedy) = start(&|config| {
        config.secret_file = Some(key_file.path().to_owned());
        config.ca_file = Some(path.clone());
    });
    assert_eq!((key, remedy), ("hooks.ca_file", "name a file with certificates in PEM"));
}

#[test]
fn an_https_application_must_show_a_certificate_that_is_trusted() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut ca = NamedTempFile::new().unwrap();
    ca.write_all(made.cert.pem().as_bytes()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/hooks", listener.local_addr().unwrap());
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let stream = rustls::StreamOwned::new(connection, stream.unwrap());
            std::thread::spawn(|| allow_all(stream));
        }
    });
    let mut trusting = Rig::start(url.clone(), |config| config.ca_file = Some(ca.path().to_owned()));
    trusting.line.try_ask(1, join("lobby")).unwrap();
    assert_eq!(trusting.answer(), (1, Ok(())));
    let mut other = Rig::start(url, |config| config.attempts = 1);
    other.line.try_ask(1, join("lobby")).unwrap();
    assert_eq!(code(&other.answer().1), Some(ErrorCode::Overloaded));
}

/// Allows whatever is asked, until the peer goes or does not trust the certificate.
fn allow_all(mut stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>) {
    let mut seen = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..n]);
        if seen.ends_with(b"}") {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            seen.clear();
        }
    }
}
