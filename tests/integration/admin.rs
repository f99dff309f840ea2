//! What the operator sees: metrics, health, and threads of their own for it.

use serde_json::json;

use crate::harness::{Server, http};

#[test]
fn metrics_follow_what_happens() {
    let server = Server::with_shards(2);
    let start = server.metrics();
    for name in ["hubbub_connections", "hubbub_rooms", "hubbub_messages_in_total", "hubbub_messages_out_total"] {
        assert_eq!(start.sum(name, &[]), 0, "{name}");
    }
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.tcp_as("bob");
    bob.join("lobby");
    let mut relay = server.relay("x");
    relay.settle("one");
    for n in 0..10 {
        ann.say("lobby", n);
    }
    ann.messages(10);
    bob.messages(10);
    ann.ok(json!({"type": "signal", "room": "lobby", "content": 1}));
    bob.expect("signal");
    ann.fence_room("lobby");
    let now = server.metrics();
    let kind = |kind| now.sum("hubbub_connections", &[("kind", kind)]);
    assert_eq!((kind("chat_ws"), kind("chat_tcp"), kind("relay"), kind("http")), (1, 1, 1, 0));
    assert_eq!(now.sum("hubbub_accepted_total", &[]), 3);
    assert_eq!(now.sum("hubbub_rooms", &[]), 2, "a room of the chat and one of the relay");
    assert_eq!(now.sum("hubbub_messages_in_total", &[]), 12);
    assert_eq!(now.sum("hubbub_messages_out_total", &[]), 23);
    assert!(now.sum("hubbub_fanout_size_count", &[]) >= 12);
    assert!(now.sum("hubbub_delivery_latency_seconds_count", &[]) > 0);
    assert!(now.sum("hubbub_turn_seconds_count", &[]) > 0 && now.sum("hubbub_enters_total", &[]) > 0);
    for (name, least) in [("hubbub_in_bytes_total", 500), ("hubbub_out_bytes_total", 2_000)] {
        assert!(now.sum(name, &[]) > least, "{name}: {}", now.sum(name, &[]));
    }
    drop((ann, bob, relay));
    let end = server.metrics_until("all to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
    assert_eq!(end.sum("hubbub_closed_total", &[]), 3);
    assert_eq!(end.sum("hubbub_audiences", &[]), 0);
    assert_eq!(end.sum("hubbub_outbox_bytes", &[]), 0);
}

#[test]
fn an_idle_server_sleeps() {
    for history in ["durable", "memory", "off"] {
        let server = Server::with(["--shards=2", &format!("--history={history}")]);
        let _clients: Vec<_> = (0..20).map(|n| server.member(&format!("user {n}"), "lobby")).collect();
        comes_to_rest(&server);
    }
}

/// Everything that joining brings has settled when two looks in a row see little difference.
fn comes_to_rest(server: &Server) {
    let enters = || server.metrics().sum("hubbub_enters_total", &[]);
    let mut last = enters();
    crate::harness::until("the shards to come to rest", || {
        let pause = crate::harness::Deadline::after(std::time::Duration::from_millis(300));
        crate::harness::until("a pause", || pause.left().is_none().then_some(()));
        let now = enters();
        let difference = now - last;
        last = now;
        (difference <= 10).then_some(())
    });
}

#[test]
fn the_text_is_what_scrapers_read() {
    let server = Server::start();
    let response = http(server.admin(), "GET", "/metrics", &[]);
    assert_eq!(response.status, 200);
    let kind = response.header("Content-Type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text") || kind.starts_with("text/plain"), "{kind}");
    let text = response.text();
    assert!(text.ends_with("# EOF\n"), "{}", &text[text.len().saturating_sub(200)..]);
    for name in ["hubbub_connections", "hubbub_mailbox_depth", "process_resident_memory_bytes"] {
        assert!(text.contains(&format!("# TYPE {name} gauge\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[test]
fn health_and_readiness_are_told() {
    let server = Server::start();
    assert_eq!(http(server.admin(), "GET", "/healthz", &[]).status, 200);
    let ready = http(server.admin(), "GET", "/readyz", &[]);
    assert!(ready.status == 200 && ready.text().contains("ready"), "{} {}", ready.head, ready.text());
    assert_eq!(http(server.admin(), "GET", "/nothing", &[]).status, 404);
    assert_eq!(http(server.admin(), "POST", "/metrics", &[]).status, 405);
}

#[test]
fn without_an_admin_key_the_api_is_closed() {
    let server = Server::start();
    for target in ["/api/v1/rooms", "/api/v1/", "/debug/pprof/profile?seconds=1"] {
        assert_eq!(http(server.admin(), "GET", target, &[]).status, 403, "{target}");
    }
}

#[test]
fn a_profile_names_what_runs_and_disturbs_nobody() {
    let key = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-admin-key", std::process::id()));
    std::fs::write(&key, "a key of this test alone\n").unwrap();
    let server = Server::with(["--shards=2", "--admin-key-file", key.to_str().unwrap()]);
    let target = "/debug/pprof/profile?seconds=1&hz=999";
    for wrong in [vec![], vec![("Authorization", "Bearer a key of another test ")]] {
        assert_eq!(http(server.admin(), "GET", target, &wrong).status, 401);
    }
    let shows = [("Authorization", "Bearer a key of this test alone")];
    let admin = server.admin();
    assert_eq!(http(admin, "GET", "/debug/pprof/profile?seconds=61", &shows).status, 400);
    assert_eq!(http(admin, "GET", "/debug/elsewhere", &shows).status, 404);
    let mut ann = server.member("ann", "lobby");
    let mut bob = server.tcp_as("bob");
    bob.join("lobby");
    let busy = std::thread::spawn(move || http(admin, "GET", target, &shows));
    let mut said = 0;
    let mut second = None;
    while !busy.is_finished() {
        for n in 0..20 {
            ann.say("lobby", n);
        }
        said += 20;
        ann.messages(20);
        bob.messages(20);
        // Refused while the first one runs; the first may not have begun at the very start.
        if second.is_none() && said >= 200 {
            second = Some(http(admin, "GET", "/debug/pprof/profile?seconds=1", &shows).status);
        }
    }
    let profile = busy.join().unwrap();
    if profile.status == 503 {
        assert!(profile.text().contains("perf_event"), "{}", profile.text());
        return;
    }
    assert_eq!((profile.status, second), (200, Some(409)), "{}", profile.text());
    let mut raw = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&profile.body[..]), &mut raw).unwrap();
    let text = String::from_utf8_lossy(&raw);
    // Which of the shards were busy is up to the kernel.
    for name in ["hubbub::", "hubbub-shard-", "nanoseconds", "io_uring_enter"] {
        assert!(text.contains(name), "{name} in {} bytes after {said} messages", raw.len());
    }
    let folded = http(admin, "GET", "/debug/pprof/profile?seconds=1&format=folded", &shows);
    assert_eq!((folded.status, folded.header("Content-Type")), (200, Some("text/plain; charset=utf-8")));
    assert_eq!(server.metrics().sum("hubbub_closed_total", &[]), 0);
}

#[test]
fn an_admin_key_that_cannot_be_used_is_named() {
    let output = crate::harness::run_to_end(&["serve", "--listen", "127.0.0.1:0", "--admin-key-file", "/nowhere/key"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("admin_key_file") && said.contains("/nowhere/key") && said.contains("openssl"), "{said}");
}

#[test]
fn the_announcement_says_where_and_how() {
    let server = Server::with_shards(2);
    let announced = server.announced();
    assert!(announced[0].starts_with("hubbub ") && announced[0].contains("2 shards"), "{announced:?}");
    let try_it = announced.last().unwrap();
    assert!(try_it.contains(&format!("http://{}/", server.http())), "{try_it}");
}

#[test]
fn ports_may_be_many_and_of_either_family() {
    let server = Server::with(["--listen", "[::1]:0", "--tcp-listen", "[::1]:0"]);
    let six: Vec<&String> = server.announced().iter().filter(|line| line.contains("[::1]")).collect();
    assert!(six.len() >= 2, "{:?}", server.announced());
    let mut ann = server.ws_as("ann");
    ann.join("lobby");
    let address: std::net::SocketAddr = six
        .iter()
        .find_map(|line| line.split("http://").nth(1)?.split('/').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{six:?}"));
    assert_eq!(http(address, "GET", "/healthz", &[]).status, 200);
    let mut bob = crate::harness::connect_ws(&crate::harness::Request::new(address, "/ws?name=bob&room=lobby")).0;
    bob.expect("welcome");
    bob.expect("ok");
    bob.say("lobby", "from six");
    assert_eq!(ann.expect("message")["content"], "from six");
}
