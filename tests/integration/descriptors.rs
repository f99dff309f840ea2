//! Descriptors: each shard has a table of its own, and when a table is full the server says so and goes on.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Client, Launch, Request, Server, http, try_connect_ws, until};

/// What a thread's table holds.
#[derive(Debug)]
struct Thread {
    name: String,
    /// Inodes of sockets.
    sockets: BTreeSet<u64>,
    /// Rings.
    rings: usize,
}

/// The threads that are shards: those that listen for connections.
fn shards<'t>(server: &Server, threads: &'t [Thread]) -> Vec<&'t Thread> {
    let by_port = sockets_by_port();
    let (listening, _) = &by_port[&server.http().port()];
    threads.iter().filter(|thread| !thread.sockets.is_disjoint(listening)).collect()
}

fn threads(server: &Server) -> Vec<Thread> {
    let pid = server.pid().as_raw_nonzero();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let task = task.ok()?.path();
            let name = std::fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
            let mut thread = Thread { name, sockets: BTreeSet::new(), rings: 0 };
            for entry in std::fs::read_dir(task.join("fd")).ok()?.flatten() {
                let Ok(target) = std::fs::read_link(entry.path()) else { continue };
                let target = target.to_string_lossy().into_owned();
                if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
                    thread.sockets.insert(inode.parse().unwrap());
                }
                thread.rings += usize::from(target.contains("io_uring"));
            }
            Some(thread)
        })
        .collect()
}

/// Inodes of TCP sockets by local port: those that listen, and the others.
fn sockets_by_port() -> BTreeMap<u16, (BTreeSet<u64>, BTreeSet<u64>)> {
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut by_port: BTreeMap<u16, (BTreeSet<u64>, BTreeSet<u64>)> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap();
        let (listening, others) = by_port.entry(port).or_default();
        let inode: u64 = fields[9].parse().unwrap();
        if fields[3] == "0A" {
            listening.insert(inode);
        } else if inode != 0 {
            others.insert(inode);
        }
    }
    by_port
}

#[test]
fn sockets_are_in_the_table_of_their_shard_alone() {
    const SHARDS: usize = 3;
    let server = Server::with_shards(SHARDS as u16);
    let _clients: Vec<Client> = (0..12)
        .flat_map(|n| [server.member(&format!("user {n}"), "lobby"), server.tcp_as(&format!("user {n}"))])
        .collect();
    let threads = threads(&server);
    let by_port = sockets_by_port();
    let shards = shards(&server, &threads);
    assert_eq!(shards.len(), SHARDS, "{threads:?}");
    for address in [server.http(), server.lines()] {
        let (listening, open) = &by_port[&address.port()];
        assert_eq!((listening.len(), open.len()), (SHARDS, 12), "{address}");
        for inode in listening.iter().chain(open) {
            // Threads that the kernel runs for a ring share the table of the thread that they work for.
            let holds = |thread: &&Thread| thread.sockets.contains(inode) && !thread.name.starts_with("iou-");
            let holders: Vec<&Thread> = threads.iter().filter(holds).collect();
            assert!(holders.len() == 1 && holders[0].name.starts_with("hubbub-shard"), "{address}: {holders:?}");
        }
        for shard in &shards {
            let own = shard.sockets.intersection(listening).count();
            assert_eq!(own, 1, "a shard has one listener of each port: {shard:?}");
        }
    }
    let (admin, _) = &by_port[&server.admin().port()];
    assert_eq!(admin.len(), 1);
    for shard in &shards {
        assert!(shard.sockets.is_disjoint(admin), "the admin port is no business of a shard: {shard:?}");
    }
    // Metrics sum over all tables.
    let metrics = server.metrics();
    assert!(metrics.sum("process_open_fds", &[]) > 24 + 2 * SHARDS as u64);
    assert!(metrics.sum("hubbub_descriptor_tables", &[]) > SHARDS as u64);
}

#[test]
fn tables_do_not_grow_with_what_has_passed() {
    let server = Server::with_shards(2);
    let count =
        || shards(&server, &threads(&server)).iter().map(|shard| shard.sockets.len() + shard.rings).sum::<usize>();
    let before = count();
    for round in 0..40 {
        let mut client = server.member("ann", &format!("room {round}"));
        http(server.http(), "GET", "/", &[]);
        drop(server.tcp());
        if round % 2 == 0 {
            client.close();
            client.end();
        }
    }
    server.metrics_until("all to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
    assert_eq!(count(), before);
}

/// How many connections are let in before one is refused.
fn fill(server: &Server) -> Vec<Client> {
    let mut inside = Vec::new();
    loop {
        match try_connect_ws(&Request::new(server.http(), &format!("/ws?name=user-{}&room=lobby", inside.len()))) {
            Ok((mut client, _)) => {
                client.expect("welcome");
                client.expect("ok");
                inside.push(client);
            }
            Err((status, body)) => {
                assert_eq!(status, 503, "{body}");
                return inside;
            }
        }
        assert!(inside.len() < 1_000, "nobody was refused");
    }
}

fn assert_full(server: &Server) {
    for _ in 0..3 {
        let refused = http(server.http(), "GET", "/", &[]);
        assert!(refused.status == 503 && refused.header("Retry-After").is_some(), "{}", refused.head);
        let (events, _) = server.tcp().end();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((&events[0]["code"], &events[0]["temporary"]), (&json!("overloaded"), &json!(true)));
    }
    // The admin port has descriptors of its own.
    assert!(server.metrics().sum("hubbub_refused_total", &[("reason", "descriptors")]) >= 6);
}

fn assert_serves_again(server: &Server, mut inside: Vec<Client>) {
    inside[0].say_and_wait("lobby", "still here");
    let last = inside.len() - 1;
    inside[last].expect("message");
    let half = inside.split_off(inside.len() / 2);
    let freed = half.len();
    drop(half);
    for n in 0..freed {
        let request = Request::new(server.http(), &format!("/ws?name=late-{n}&room=lobby"));
        let (mut late, _) = until("a descriptor to be free", || try_connect_ws(&request).ok());
        late.expect("welcome");
        late.expect("ok");
        inside.push(late);
    }
    inside[0].say_and_wait("lobby", "all here");
    while inside[last].expect("message")["content"] != "all here" {}
}

#[test]
fn a_shard_takes_no_more_than_its_table_holds() {
    let server = Launch::new().descriptors(300).start();
    let inside = fill(&server);
    assert_eq!(inside.len(), 300 - 256, "each table keeps some for everything but connections");
    assert_full(&server);
    assert_serves_again(&server, inside);
}

#[test]
fn without_a_single_descriptor_left_it_refuses_and_goes_on() {
    // What the server was started with leaves less than it counts on.
    let server = Launch::new().descriptors(300).inherits(262).start();
    let inside = fill(&server);
    assert!(!inside.is_empty() && inside.len() < 300 - 256, "{} were let in", inside.len());
    assert_full(&server);
    assert_serves_again(&server, inside);
    server.stop();
}

#[test]
fn after_the_signal_no_copy_of_a_listener_accepts() {
    let mut server = Server::with(["--shards=4", "--drain-timeout=2s", "--limits-close-timeout=60s"]);
    let mut stubborn = server.raw_ws("/ws?name=ann");
    stubborn.next_data();
    server.signal(Signal::TERM);
    while stubborn.next().unwrap().first != 0x88 {}
    let ports = [server.http().port(), server.lines().port()];
    until("no socket to listen any more", || {
        let by_port = sockets_by_port();
        ports.iter().all(|port| by_port.get(port).is_none_or(|(listening, _)| listening.is_empty())).then_some(())
    });
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
}
