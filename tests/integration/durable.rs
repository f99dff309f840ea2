//! Rooms whose log is kept: what `durable` says, what a restart and a crash leave, and rules by the name of the room.

use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Client, DataDir, Event, Launch, Server, until};

/// A page of history.
fn page(client: &mut Client, room: &str, query: &Value) -> (Vec<Value>, bool) {
    let mut command = json!({"type": "history", "room": room});
    for (name, value) in query.as_object().unwrap() {
        command[name] = value.clone();
    }
    let page = client.ok(command);
    (page["messages"].as_array().unwrap().clone(), page["more"].as_bool().unwrap())
}

fn seqs(messages: &[Value]) -> Vec<u64> {
    messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect()
}

/// A member who only reads.
fn entered(server: &Server, name: &str, room: &str) -> (Client, Event) {
    let mut client = server.tcp_as(name);
    let joined = client.join(room);
    (client, joined)
}

fn kill(mut server: Server) {
    server.signal(Signal::KILL);
    server.wait_exit();
}

/// A server whose file has these rules.
fn with_rules(text: &str) -> (Launch, DataDir) {
    let folder = DataDir::new();
    let path: PathBuf = folder.path().join("hubbub.toml");
    std::fs::write(&path, text).unwrap();
    (Launch::new().arguments([&format!("--config={}", path.display())]), folder)
}

const RULES: &str = "
    [store]
    commit_interval = '50ms'
    maintenance_interval = '50ms'
    [[rooms]]
    pattern = 'game-*'
    history = 'memory'
    [[rooms]]
    pattern = 'secret'
    history = 'off'
    [[rooms]]
    pattern = 'sensor'
    commit = 'interval'
    [[rooms]]
    pattern = 'short'
    history_size = 10
";

#[test]
fn an_ok_says_that_the_message_is_on_the_disk() {
    for shards in [1, 3] {
        let server = Server::with_shards(shards);
        let mut ann = server.member("ann", "lobby");
        let mut bob = server.member("bob", "lobby");
        let sent = ann.ok(json!({"type": "message", "room": "lobby", "content": "a", "echo": false}));
        assert_eq!((&sent["seq"], &sent["durable"]), (&json!(1), &json!(true)), "{}", sent.text);
        assert_eq!(bob.expect("message").seq(), 1);
        // Without `id` there is no `ok`, and what follows is not held up.
        ann.say("lobby", "b");
        assert_eq!(ann.expect("message").seq(), 2);
        assert_eq!(ann.say_and_wait("lobby", "c"), 3);
    }
}

#[test]
fn a_history_beyond_memory_is_there_after_a_restart_and_paged_both_ways() {
    const MESSAGES: u64 = 3_000;
    let launch = Launch::new().arguments(["--shards=2"]);
    let server = launch.start();
    let (mut ann, joined) = entered(&server, "ann", "lobby");
    for n in 1..=MESSAGES {
        ann.send(&json!({"type": "message", "room": "lobby", "content": {"n": n}, "tag": "t", "echo": false}));
    }
    assert_eq!(ann.say_and_wait("lobby", "last"), MESSAGES + 1);
    let check = |ann: &mut Client| {
        let mut all = Vec::new();
        loop {
            let after = all.last().map_or(0, |message: &Value| message["seq"].as_u64().unwrap());
            let (messages, more) = page(ann, "lobby", &json!({"after": after, "limit": 700}));
            all.extend(messages);
            if !more {
                break;
            }
        }
        assert_eq!(seqs(&all), (1..=MESSAGES + 1).collect::<Vec<_>>());
        for (n, message) in (1..=MESSAGES).zip(&all) {
            assert_eq!((&message["content"], &message["tag"]), (&json!({"n": n}), &json!("t")));
        }
        let mut back = Vec::new();
        loop {
            let before = back.first().map_or(u64::MAX / 2, |message: &Value| message["seq"].as_u64().unwrap());
            let (messages, more) = page(ann, "lobby", &json!({"before": before, "limit": 1000}));
            back.splice(0..0, messages);
            if !more {
                break;
            }
        }
        assert!(back == all, "the pages backwards are not those forwards");
        let (middle, more) = page(ann, "lobby", &json!({"before": 1500, "limit": 3}));
        assert_eq!((seqs(&middle), more), (vec![1497, 1498, 1499], true));
        let (latest, more) = page(ann, "lobby", &json!({"limit": 2}));
        assert_eq!((seqs(&latest), more), (vec![MESSAGES, MESSAGES + 1], true));
    };
    check(&mut ann);
    server.stop();
    let server = launch.start();
    let (mut ann, again) = entered(&server, "ann", "lobby");
    assert_eq!((&again["epoch"], again.seq()), (&joined["epoch"], MESSAGES + 1));
    check(&mut ann);
    // A clean stop passes nothing over.
    ann.say("lobby", "next");
    let next = ann.expect("message");
    assert_eq!((next.seq(), &next["prev"]), (MESSAGES + 2, &Value::Null), "{}", next.text);
}

#[test]
fn the_log_does_not_depend_on_the_number_of_shards() {
    let launch = Launch::new();
    let server = launch.start();
    let rooms: Vec<String> = (0..20).map(|n| format!("room-{n}")).collect();
    let mut ann = server.tcp_as("ann");
    for room in &rooms {
        ann.join(room);
        ann.say_and_wait(room, room.as_str());
    }
    server.stop();
    let server = launch.arguments(["--shards=3"]).start();
    let mut ann = server.tcp_as("ann");
    for room in &rooms {
        ann.join(room);
        let (messages, _) = page(&mut ann, room, &json!({}));
        assert_eq!(messages.len(), 1, "{room}");
        assert_eq!(messages[0]["content"], json!(room));
    }
}

#[test]
fn after_a_crash_positions_that_may_have_been_seen_are_passed_over() {
    let launch = Launch::new();
    let server = launch.start();
    let (mut ann, joined) = entered(&server, "ann", "lobby");
    assert_eq!(ann.say_and_wait("lobby", "a"), 1);
    kill(server);
    let server = launch.start();
    let mut ann = server.tcp_as("ann");
    let since = json!({"epoch": joined["epoch"], "seq": 1});
    let again = ann.ok(json!({"type": "join", "room": "lobby", "since": since}));
    assert_eq!((&again["epoch"], &again["recovered"]), (&joined["epoch"], &json!(true)), "{}", again.text);
    ann.say("lobby", "b");
    let next = ann.expect("message");
    assert_eq!((next.seq(), &next["prev"]), (1 + 4_097, &json!(1)), "{}", next.text);
    ann.say("lobby", "c");
    let next = ann.expect("message");
    assert_eq!((next.seq(), &next["prev"]), (2 + 4_097, &Value::Null), "{}", next.text);
    // The pages tell it as the member heard it.
    let (mut messages, more) = page(&mut ann, "lobby", &json!({"after": 0}));
    if more {
        // A page from the disk ends with what is there.
        messages.extend(page(&mut ann, "lobby", &json!({"after": messages.last().unwrap()["seq"]})).0);
    }
    let told: Vec<_> = messages.iter().map(|message| (message["seq"].as_u64(), message["prev"].as_u64())).collect();
    assert_eq!(told, [(Some(1), None), (Some(4_098), Some(1)), (Some(4_099), None)]);
}

#[test]
fn a_key_is_known_after_a_restart_and_after_a_crash() {
    let launch = Launch::new();
    let say = |ann: &mut Client| ann.ok(json!({"type": "message", "room": "lobby", "content": "a", "key": "k"}));
    let server = launch.start();
    let (mut ann, _) = entered(&server, "ann", "lobby");
    let first = say(&mut ann);
    assert_eq!((&first["duplicate"], &first["durable"]), (&Value::Null, &json!(true)), "{}", first.text);
    server.stop();
    let mut server = launch.start();
    for _ in 0..2 {
        let (mut ann, _) = entered(&server, "ann", "lobby");
        let again = say(&mut ann);
        assert_eq!((again.seq(), &again["timestamp"]), (first.seq(), &first["timestamp"]), "{}", again.text);
        assert_eq!((&again["duplicate"], &again["durable"]), (&json!(true), &json!(true)), "{}", again.text);
        kill(server);
        server = launch.start();
    }
    // It is the user's own.
    let (mut bob, _) = entered(&server, "bob", "lobby");
    let other = say(&mut bob);
    assert!(other.seq() > first.seq() && other["duplicate"].is_null(), "{}", other.text);
    let (messages, _) = page(&mut bob, "lobby", &json!({"after": 0}));
    assert_eq!(seqs(&messages), [first.seq(), other.seq()]);
}

#[test]
fn a_session_goes_on_after_a_restart() {
    let launch = Launch::new().arguments(["--shards=2", "--store-commit-interval=50ms"]);
    let server = launch.start();
    let mut bob = server.tcp();
    let welcome = bob.connect_as("bob");
    let epochs: Vec<Value> = ["red", "blue"].map(|room| bob.join(room)["epoch"].clone()).into();
    let mut ann = server.tcp_as("ann");
    for room in ["red", "blue"] {
        ann.join(room);
        assert_eq!(ann.say_and_wait(room, "seen"), 1);
        bob.expect("message");
        // Not seen, as far as bob will say.
        assert_eq!(ann.say_and_wait(room, "missed"), 2);
    }
    server.stop();
    let server = launch.start();
    let mut bob = server.tcp();
    let rooms = json!({"red": {"epoch": epochs[0], "seq": 1}, "blue": {"epoch": epochs[1], "seq": 1}});
    let resume = json!({"session": welcome["session"], "rooms": rooms});
    let again = bob.ask(json!({"type": "connect", "name": "bob", "resume": resume}));
    assert_eq!((&again["resumed"], &again["user"]), (&json!(true), &json!("bob")), "{}", again.text);
    let mut told = Vec::new();
    for _ in 0..4 {
        let event = bob.next();
        let what = if event.kind() == "ok" { &event["recovered"] } else { &event["content"] };
        told.push((event["room"].as_str().unwrap().to_owned(), what.clone()));
    }
    for room in ["red", "blue"] {
        let of_room: Vec<&Value> = told.iter().filter(|(of, _)| of == room).map(|(_, what)| what).collect();
        assert_eq!(of_room, [&json!(true), &json!("missed")], "{room}");
    }
    // Nobody else gets in with it.
    let mut eve = server.tcp();
    let stolen = eve.ask(json!({"type": "connect", "name": "eve", "resume": resume}));
    assert_ne!(stolen["resumed"], true, "{}", stolen.text);
}

#[test]
fn rooms_of_memory_and_of_nothing_forget() {
    let (launch, _folder) = with_rules(RULES);
    let server = launch.start();
    let mut ann = server.tcp_as("ann");
    let epochs: Vec<Value> = ["game-1", "secret"].map(|room| ann.join(room)["epoch"].clone()).into();
    for room in ["game-1", "secret"] {
        let sent = ann.ok(json!({"type": "message", "room": room, "content": "a"}));
        assert_eq!((&sent["seq"], &sent["durable"]), (&json!(1), &json!(false)), "{}", sent.text);
        ann.expect("message");
    }
    assert_eq!(seqs(&page(&mut ann, "game-1", &json!({})).0), [1]);
    assert_eq!(page(&mut ann, "secret", &json!({})), (vec![], false));
    server.stop();
    let server = launch.start();
    let mut ann = server.tcp_as("ann");
    for (room, epoch) in ["game-1", "secret"].into_iter().zip(epochs) {
        let since = json!({"epoch": epoch, "seq": 1});
        let joined = ann.ok(json!({"type": "join", "room": room, "since": since}));
        assert_eq!((joined.seq(), &joined["recovered"]), (0, &json!(false)), "{}", joined.text);
        assert_ne!(joined["epoch"], epoch);
        assert_eq!(page(&mut ann, room, &json!({})), (vec![], false));
    }
}

#[test]
fn rooms_of_the_interval_do_not_wait_and_keep() {
    let (launch, _folder) = with_rules(RULES);
    let server = launch.start();
    let (mut ann, joined) = entered(&server, "ann", "sensor");
    let sent = ann.ok(json!({"type": "message", "room": "sensor", "content": 20.5}));
    assert_eq!((&sent["seq"], &sent["durable"]), (&json!(1), &json!(false)), "{}", sent.text);
    server.stop();
    let server = launch.start();
    let (mut ann, again) = entered(&server, "ann", "sensor");
    assert_eq!((&again["epoch"], again.seq()), (&joined["epoch"], 1), "{}", again.text);
    let (messages, _) = page(&mut ann, "sensor", &json!({}));
    assert_eq!(messages[0]["content"], json!(20.5));
}

#[test]
fn retention_keeps_the_latest() {
    let (launch, _folder) = with_rules(RULES);
    let server = launch.start();
    let (mut ann, joined) = entered(&server, "ann", "short");
    let mut last = 0;
    for _ in 0..3 {
        for n in 0..1_000 {
            ann.send(&json!({"type": "message", "room": "short", "content": n, "echo": false}));
        }
        last = ann.say_and_wait("short", "last");
    }
    // It is done in the background: a page that it overtakes between two reads lacks what went meanwhile.
    let kept = until("the oldest to go", || {
        let (messages, _) = page(&mut ann, "short", &json!({"after": 0, "limit": 1000}));
        Some(seqs(&messages)).filter(|seqs| seqs.len() < 1_000 && seqs.iter().copied().eq(seqs[0]..=last))
    });
    assert!(kept.len() >= 10, "{kept:?}");
    let mut bob = server.tcp_as("bob");
    let since = json!({"epoch": joined["epoch"], "seq": 1});
    let joined = bob.ok(json!({"type": "join", "room": "short", "since": since}));
    assert_eq!(joined["recovered"], json!(false), "{}", joined.text);
    server.stop();
    let server = launch.start();
    let (mut ann, _) = entered(&server, "ann", "short");
    let (messages, _) = page(&mut ann, "short", &json!({"after": 0, "limit": 1000}));
    let after = seqs(&messages);
    assert!(after[0] >= kept[0] && *after.last().unwrap() == last, "{after:?} after {kept:?}");
}
