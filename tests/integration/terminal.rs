//! `hubbub chat` in a pipe: lines in, lines out, coming back to a server that was away, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};

use flume::Receiver;
use serde_json::json;

use crate::harness::{Deadline, Issuer, Launch, PATIENCE, Server, until};

/// A client with pipes at all ends. Killed when dropped.
struct Chat {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
    status: Receiver<String>,
}

impl Chat {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hubbub"))
            .arg("chat")
            .args(arguments)
            .env_remove("HUBBUB_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be run");
        let input = child.stdin.take();
        let output = lines_of(child.stdout.take().expect("it is piped"));
        let status = lines_of(child.stderr.take().expect("it is piped"));
        Self { child, input, output, status }
    }

    fn write(&mut self, text: &str) {
        self.input.as_mut().expect("it is open").write_all(text.as_bytes()).expect("it reads");
    }

    fn line(&self) -> String {
        self.output.recv_timeout(PATIENCE).expect("a line comes")
    }

    fn told(&self, part: &str) -> String {
        let deadline = Deadline::patient();
        let mut seen = Vec::new();
        loop {
            match self.status.recv_timeout(deadline.left().unwrap_or_default()) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("nobody told {part:?}; instead came {seen:?}"),
            }
        }
    }

    /// Ends the input, and gives the exit code.
    fn end(&mut self) -> Option<i32> {
        self.input = None;
        self.wait()
    }

    fn wait(&mut self) -> Option<i32> {
        until("the end of the client", || self.child.try_wait().expect("a child can be waited for")).code()
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = flume::bounded(10_000);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = sender.try_send(line);
        }
    });
    receiver
}

fn addresses(server: &Server) -> [String; 2] {
    [format!("ws://{}", server.http()), format!("tcp://{}", server.lines())]
}

#[test]
fn lines_in_are_messages_and_messages_are_lines_out() {
    let server = Server::with_shards(2);
    let mut ann = server.member("ann", "lobby");
    for (at, address) in addresses(&server).iter().enumerate() {
        let name = format!("bot{at}");
        let mut chat = Chat::start(&[address, "--plain", "--room", "lobby", "--name", &name]);
        chat.told("in lobby");
        chat.write("from a pipe\n");
        let message = ann.expect("message");
        assert_eq!((&message["sender"], &message["content"]), (&json!(name), &json!("from a pipe")));
        ann.say("lobby", "to a pipe");
        assert_eq!(chat.line(), "[lobby] ann: to a pipe");
        ann.say("lobby", json!({"text": "two\nlines"}));
        assert_eq!(chat.line(), "[lobby] ann: two↵lines");
        assert_eq!((chat.end(), chat.output.recv().ok()), (Some(0), None));
        ann.fence_room("lobby");
    }
}

#[test]
fn input_that_ends_at_once_is_sent_whole_and_in_order() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    for address in addresses(&server) {
        let mut chat = Chat::start(&[&address, "--plain", "--room", "lobby", "--name", "bot"]);
        let lines: String = (0..300).map(|n| format!("{n}\n")).collect();
        chat.write(&lines);
        assert_eq!(chat.end(), Some(0));
        let said: Vec<String> =
            ann.messages(300).iter().map(|event| event["content"].as_str().unwrap().into()).collect();
        assert!(said.iter().map(|text| text.parse::<u32>().unwrap()).eq(0..300), "{said:?}");
    }
}

#[test]
fn without_input_it_tells_the_past_and_ends() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    for n in 0..200 {
        ann.say("lobby", n.to_string());
    }
    ann.fence_room("lobby");
    for address in addresses(&server) {
        let mut chat = Chat::start(&[&address, "--plain", "--room", "lobby", "--name", "bot", "--history", "150"]);
        assert_eq!(chat.end(), Some(0));
        let told: Vec<String> = chat.output.iter().collect();
        assert!(told.iter().cloned().eq((50..200).map(|n| format!("[lobby] ann: {n}"))), "{told:?}");
    }
}

#[test]
fn commands_wait_for_the_connection() {
    let server = Server::start();
    let _ann = server.member("ann", "lobby");
    let mut chat = Chat::start(&[&addresses(&server)[0], "--plain", "--room", "lobby", "--name", "bot"]);
    chat.write("/who\n");
    chat.told("2 people: ann, bot");
    chat.write("/nonsense\n");
    chat.told("there is no /nonsense");
    assert_eq!(chat.end(), Some(1));
}

#[test]
fn a_restarted_server_is_found_again_and_nothing_is_missed_or_said_twice() {
    let port = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (http, lines) = (port(), port());
    let launch = Launch::new().arguments([
        "--listen",
        &format!("127.0.0.1:{http}"),
        "--tcp-listen",
        &format!("127.0.0.1:{lines}"),
    ]);
    let server = launch.start();
    let start = |address: String, name: &str| {
        let chat = Chat::start(&[&address, "--plain", "--room", "lobby", "--name", name]);
        chat.told("in lobby");
        chat
    };
    let mut chats =
        [start(format!("ws://127.0.0.1:{http}/ws"), "over-ws"), start(format!("tcp://127.0.0.1:{lines}"), "over-tcp")];
    server.member("ann", "lobby").say_and_wait("lobby", "before");
    for chat in &chats {
        assert_eq!(chat.line(), "[lobby] ann: before");
    }
    server.stop();
    for chat in &mut chats {
        chat.told("trying again");
        chat.write("while away\n");
    }
    let server = launch.start();
    let mut ann = server.member("ann", "lobby");
    ann.say_and_wait("lobby", "after");
    for (chat, other) in chats.iter().zip(["over-tcp", "over-ws"]) {
        chat.told("connected again");
        let mut heard = [chat.line(), chat.line()];
        heard.sort();
        assert_eq!(heard, ["[lobby] ann: after".to_owned(), format!("[lobby] {other}: while away")]);
    }
    let past = ann.ok(json!({"type": "history", "room": "lobby"}));
    let count = |text: &str| past["messages"].as_array().unwrap().iter().filter(|said| said["content"] == text).count();
    assert_eq!((count("before"), count("while away"), count("after")), (1, 2, 1), "{}", past.text);
    for mut chat in chats {
        assert_eq!((chat.end(), chat.output.recv().ok()), (Some(0), None));
    }
}

#[test]
fn a_refused_token_ends_with_one_and_says_why() {
    let server = Server::start();
    for address in addresses(&server) {
        let mut chat = Chat::start(&[&address, "--plain", "--room", "lobby", "--token", "not.a.token"]);
        chat.told("unauthorized");
        assert_eq!(chat.wait(), Some(1));
    }
}

#[test]
fn who_shows_no_token_is_told_how_to() {
    let server = Issuer::new().launch("").start();
    for address in addresses(&server) {
        let mut chat = Chat::start(&[&address, "--plain", "--room", "lobby"]);
        let told = chat.told("unauthorized");
        assert!(told.contains("--token-file FILE") && told.contains("$HUBBUB_TOKEN"), "{told}");
        assert_eq!(chat.wait(), Some(1));
    }
}

#[test]
fn what_cannot_be_said_is_told_and_ends_with_one() {
    let server = Server::start();
    let mut ann = server.member("ann", "team-1");
    let mut chat =
        Chat::start(&[&addresses(&server)[0], "--plain", "--room", "team-1", "--room", "ops", "--name", "bot"]);
    chat.told("in team-1, 2 people here");
    ann.ok(json!({"type": "kick", "room": "team-1", "user": "bot"}));
    chat.told("you were removed from team-1 (kicked by ann)");
    chat.write("ONE\n");
    let told = chat.told("not sent");
    assert!(told.contains("not sent: “ONE”: you were removed from team-1 (kicked by ann)"), "{told}");
    chat.write("/join team-1\nTWO\n");
    chat.told("in team-1, 2 people here");
    assert_eq!(ann.expect("message")["content"], "TWO");
    assert_eq!(chat.end(), Some(1));
}

#[test]
fn who_is_in_no_room_any_more_ends_with_one_though_its_input_is_open() {
    let server = Server::start();
    for (kind, part) in [("kick", "(kicked by ann)"), ("ban", "(banned by ann)"), ("close", "lobby was closed")] {
        let mut ann = server.member("ann", "lobby");
        let mut chat = Chat::start(&[&addresses(&server)[0], "--plain", "--room", "lobby", "--name", kind]);
        chat.told("in lobby");
        ann.ok(json!({"type": kind, "room": "lobby", "user": kind}));
        chat.told(part);
        assert_eq!(chat.wait(), Some(1), "{kind}");
    }
}

#[test]
fn a_refused_room_is_told_once_and_what_was_for_it_is_not_sent() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    ann.ok(json!({"type": "ban", "room": "lobby", "user": "bot"}));
    let mut chat = Chat::start(&[&addresses(&server)[0], "--plain", "--room", "lobby", "--name", "bot"]);
    chat.write("line\n");
    assert_eq!(chat.end(), Some(1));
    let told: Vec<String> = chat.status.iter().filter(|line| line.contains("cannot enter lobby")).collect();
    let is_once =
        told.len() == 2 && !told[0].contains("not sent") && told[1].contains("not sent: “line”: cannot enter");
    assert!(is_once, "{told:?}");
}

#[test]
fn what_cannot_work_says_what_to_do() {
    for (arguments, code, part) in [
        (&["http://127.0.0.1:1"][..], 2, "ws://HOST:PORT"),
        (&["--shards", "2"], 2, "--shards"),
        (&["tcp://127.0.0.1:1", "--plain"], 1, "nothing listens there"),
        (&["ws://127.0.0.1:1", "--plain", "--token-file", "/nowhere/token"], 2, "/nowhere/token"),
        (&["wss://127.0.0.1:1", "--plain", "--ca", "/nowhere/ca"], 2, "/nowhere/ca"),
        (&["ws://127.0.0.1:1", "--plain", "--insecure"], 2, "wss://"),
    ] {
        let mut chat = Chat::start(arguments);
        chat.told(part);
        assert_eq!(chat.wait(), Some(code), "{arguments:?}");
    }
}

#[test]
fn control_characters_of_others_do_not_reach_the_output() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    let chat = Chat::start(&[&addresses(&server)[0], "--plain", "--room", "lobby", "--name", "bot"]);
    chat.told("in lobby");
    ann.say("lobby", "\u{1b}[2J\u{9b}31mred\u{202e}\r\nnext");
    let line = chat.line();
    assert!(line.starts_with("[lobby] ann: ") && line.ends_with("red\u{fffd}↵next"), "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let server = Server::start();
    let mut ann = server.member("ann", "lobby");
    let mut chat = Command::new(env!("CARGO_BIN_EXE_hubbub"))
        .args(["chat", &addresses(&server)[0], "--plain", "--room", "lobby", "--name", "bot"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    drop(chat.stdout.take());
    ann.say_and_wait("lobby", "early");
    let status = until("the end of the client", || {
        ann.say_and_wait("lobby", "to nobody");
        chat.try_wait().expect("a child can be waited for")
    });
    let mut told = String::new();
    chat.stderr.take().expect("it is piped").read_to_string(&mut told).expect("it is text");
    assert!(status.code() == Some(0) && !told.contains("roken pipe"), "{status}: {told}");
}
