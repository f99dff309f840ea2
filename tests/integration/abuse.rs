//! Clients that vanish, hurry or do both at the worst moment. The server loses nothing of others and forgets nothing of
//! theirs: afterwards it is as empty as it began.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::harness::{Client, Event, RawWs, Server};

/// A generator of small numbers, for mixtures that are the same in every run.
struct Mixture(u64);

impl Mixture {
    fn below(&mut self, n: u64) -> u64 {
        // Numerical Recipes' constants; the high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn is_empty(server: &Server) {
    let metrics = server.metrics_until("all to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 0);
    let accepted = metrics.sum("hubbub_accepted_total", &[]);
    assert_eq!(metrics.sum("hubbub_closed_total", &[]), accepted, "each end has one reason");
    server.metrics_until("no room to have members", |metrics| metrics.sum("hubbub_audiences", &[]) == 0);
    assert_eq!(server.metrics().sum("hubbub_outbox_bytes", &[]), 0);
}

fn reset(client: &Client) {
    let socket = socket2::SockRef::from(client.stream());
    // The close that follows is a reset, whatever was sent or not read.
    socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
}

/// One client's short life; every ending is possible at every point of it.
fn live(server: &Server, mixture: &mut Mixture) {
    let name = format!("user {}", mixture.below(5));
    let mut client = if mixture.below(2) == 0 { server.ws() } else { server.tcp() };
    let steps = mixture.below(30);
    let room = |mixture: &mut Mixture| format!("room {}", mixture.below(4));
    if mixture.below(10) > 0 {
        client.send(&json!({"type": "connect", "name": name}));
    }
    for id in 0..steps {
        let command = match mixture.below(9) {
            0 | 1 => json!({"type": "join", "room": room(mixture), "history": mixture.below(50), "presence": true}),
            2 => json!({"type": "leave", "room": room(mixture)}),
            3 => json!({"type": "switch", "from": room(mixture), "to": room(mixture), "history": 5}),
            4 => json!({"type": "rooms"}),
            5 => json!({"type": "presence", "room": room(mixture)}),
            6 => json!({"type": "history", "room": room(mixture)}),
            7 => json!({"type": "signal", "room": room(mixture), "content": 1}),
            _ => {
                json!({"type": "message", "room": room(mixture), "content": "x".repeat(mixture.below(3_000) as usize)})
            }
        };
        let mut command = command;
        if mixture.below(2) == 0 {
            command["id"] = json!(id);
        }
        client.send(&command);
    }
    match mixture.below(5) {
        0 => reset(&client),
        1 => client.close(),
        2 => client.stream().shutdown(Shutdown::Write).unwrap(),
        3 => {
            client.fence_or_end();
            client.close();
            client.end();
        }
        _ => {}
    }
}

#[test]
fn lives_of_every_kind_leave_nothing_behind() {
    for shards in [1, 3] {
        let server = Server::with([&format!("--shards={shards}"), "--limits-presence-grace=50ms"]);
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let server = &server;
                scope.spawn(move || {
                    let mut mixture = Mixture(seed * 1_000 + shards);
                    for _ in 0..60 {
                        live(server, &mut mixture);
                    }
                });
            }
        });
        is_empty(&server);
        server.stop();
    }
}

#[test]
fn who_vanishes_with_commands_unanswered_takes_nobody_along() {
    let server = Server::with_shards(4);
    let mut watcher = server.member("watcher", "lobby");
    let mut said = 0;
    for round in 0..10 {
        let mut client = if round % 2 == 0 { server.ws_as("ann") } else { server.tcp_as("ann") };
        client.join("lobby");
        // More than may wait: the connection is held up while it vanishes.
        for n in 0..300 {
            client.send_with_id(json!({"type": "message", "room": "lobby", "content": n}));
        }
        reset(&client);
        drop(client);
        server.metrics_until("the client to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 1);
        // Whatever of it was read has been carried out, as one sequence without holes.
        let last = watcher.say_and_wait("lobby", "fence");
        let heard = watcher.messages((last - said) as usize);
        assert!(heard.iter().map(Event::seq).eq(said + 1..=last));
        said = last;
    }
    drop(watcher);
    is_empty(&server);
}

#[test]
fn who_vanishes_in_the_middle_of_a_replay_is_forgotten() {
    let server = Server::with(["--shards=2", "--limits-history-bytes=20000000"]);
    let mut ann = server.member("ann", "lobby");
    for _ in 0..1_000 {
        ann.send(&json!({"type": "message", "room": "lobby", "content": "x".repeat(5_000), "echo": false}));
    }
    ann.fence_room("lobby");
    let slow: Vec<RawWs> = (0..8)
        .map(|n| {
            let mut raw = RawWs::connect_slow(server.http(), &format!("/ws?name=slow-{n}"));
            raw.next_data();
            raw.frame(0x81, json!({"type": "join", "room": "lobby", "history": 1000}).to_string().as_bytes());
            raw.next_data();
            raw
        })
        .collect();
    drop(slow);
    server.metrics_until("the slow ones to be gone", |metrics| metrics.sum("hubbub_connections", &[]) == 1);
    ann.say_and_wait("lobby", "still here");
    drop(ann);
    is_empty(&server);
}

#[test]
fn a_socket_that_is_half_open_in_every_way_is_let_go() {
    let server = Server::with(["--limits-handshake-timeout=300ms", "--limits-close-timeout=300ms"]);
    // Kept open until the server has let go of them.
    let mut kept = Vec::new();
    for bytes in [
        &b"GET /ws HTTP/1.1\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /relay/x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ] {
        let mut raw = RawWs::before_handshake(server.http());
        raw.write(bytes);
        kept.push(raw.stream().try_clone().unwrap());
        let half = RawWs::before_handshake(server.http());
        half.stream().write_all_and_finish(bytes);
        kept.push(half.stream().try_clone().unwrap());
    }
    for bytes in [&b"{\"type\":\"connect\""[..], b"{\"type\":\"connect\",\"name\":\"ann\"}\n", b"x", b""] {
        let client = server.tcp();
        client.stream().write_all_and_finish(bytes);
        kept.push(client.stream().try_clone().unwrap());
    }
    is_empty(&server);
    drop(kept);
}

/// Writes and finishes, as a peer does that has no more to say but may still listen.
trait WriteAndFinish {
    fn write_all_and_finish(&self, bytes: &[u8]);
}

impl WriteAndFinish for std::net::TcpStream {
    fn write_all_and_finish(&self, bytes: &[u8]) {
        let mut stream = self;
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
}

#[test]
fn the_end_comes_in_time_while_commands_are_held_up() {
    let mut server = Server::with(["--shards=4", "--drain-timeout=10s"]);
    let mut hurried: Vec<Client> = (0..8)
        .map(|n| {
            let name = format!("user {n}");
            let mut client = if n % 2 == 0 { server.ws_as(&name) } else { server.tcp_as(&name) };
            client.join("lobby");
            client
        })
        .collect();
    for client in &mut hurried {
        for n in 0..200 {
            client.send_with_id(json!({"type": "message", "room": "lobby", "content": n}));
        }
    }
    let begun = crate::harness::Deadline::patient();
    server.signal(rustix::process::Signal::TERM);
    for client in &mut hurried {
        let (events, _) = client.end();
        client.close();
        let seqs: Vec<u64> = events.iter().filter(|event| event.kind() == "message").map(Event::seq).collect();
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{seqs:?}");
        assert!(events.iter().any(|event| event.kind() == "closing"), "{:?}", events.last());
    }
    assert_eq!(server.wait_exit().code(), Some(0), "{}", server.stderr());
    assert!(begun.elapsed().as_secs() < 5, "it took {:?}", begun.elapsed());
}
