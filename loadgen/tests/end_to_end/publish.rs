//! Publishers against a small chat server over TCP lines that acknowledges messages: faithfully, or with one fault; and
//! against one that speaks Redis's protocol.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::Run;

/// What the server does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Says of one message that it is not on disk.
    NotDurable,
    /// Passes a number of the room over.
    SkipSeq,
    /// Does not answer one message.
    Swallow,
    /// Refuses one message for now.
    Defer,
    /// Refuses one message.
    Refuse,
    /// Sends one message back to its sender.
    Echo,
}

/// The message of each connection that meets the fault.
const FAULTY: u64 = 20;

#[test]
fn each_publisher_sends_so_many_and_hears_an_ok_for_each() {
    for in_flight in [1, 16] {
        let run = publish(Fault::None, in_flight);
        assert_eq!(run.exit_code, 0, "{}", run.output);
        assert_eq!((run.count("sent"), run.count("acks"), run.count("unanswered")), (120, 120, 0));
        assert_eq!(run.json["latency_us"]["durable_ack"]["count"], 120);
        assert!(run.json["elapsed_s"].as_f64() < Some(5.0), "it does not wait for the end of the window");
    }
}

#[test]
fn an_ok_that_is_not_durable_is_found() {
    let run = publish(Fault::NotDurable, 4);
    assert_eq!((run.exit_code, run.count("not_durable")), (1, 3), "{}", run.output);
    assert!(run.output.contains("FAULT: 3 answered without being on disk"), "{}", run.output);
}

#[test]
fn a_number_that_was_passed_over_is_found() {
    let run = publish(Fault::SkipSeq, 4);
    assert_eq!((run.exit_code, run.count("ack_seq_faults")), (1, 3), "{}", run.output);
}

#[test]
fn a_message_without_an_answer_is_found() {
    let run = publish(Fault::Swallow, 4);
    assert_eq!((run.exit_code, run.count("unanswered")), (1, 3), "{}", run.output);
}

#[test]
fn what_is_refused_for_now_is_sent_again() {
    let run = publish(Fault::Defer, 4);
    assert_eq!((run.exit_code, run.count("deferred"), run.count("acks")), (0, 3, 120), "{}", run.output);
    assert_eq!(run.count("sent"), 123);
    assert_eq!(run.json["errors"]["error overloaded: later"], 3);
    let slowest = run.json["latency_us"]["durable_ack"]["max"].as_u64();
    assert!(slowest >= Some(10_000), "{slowest:?}: it counts from the first sending");
}

#[test]
fn what_is_refused_for_good_is_found_and_the_rest_goes_on() {
    let run = publish(Fault::Refuse, 4);
    assert_eq!((run.exit_code, run.count("errors"), run.count("acks")), (1, 3, 117), "{}", run.output);
}

#[test]
fn an_echo_that_nobody_asked_for_is_found() {
    let run = publish(Fault::Echo, 4);
    assert_eq!((run.exit_code, run.count("misrouted")), (1, 3), "{}", run.output);
}

#[test]
fn publishers_append_to_redis_as_well() {
    let (listener, address) = listen();
    thread::spawn(move || {
        listener.incoming().for_each(|stream| drop(thread::spawn(|| answer_as_redis(stream.unwrap()))))
    });
    let target = format!("redis://{address}");
    let flags = ["--target", &target, "--messages-each", "30", "--in-flight", "4", "--duration", "3s"];
    let run = Run::at(address, "kind = 'publish'\nconnections = 3", &flags);
    assert_eq!((run.exit_code, run.count("acks"), run.count("joined")), (0, 90, 3), "{}", run.output);
    assert_eq!(run.json["latency_us"]["ack"]["count"], 90);
    let unsaid = Run::at(address, "kind = 'publish'\nrequire_durable = true", &flags);
    assert!(unsaid.exit_code == 2 && unsaid.output.contains("do not say what is on disk"), "{}", unsaid.output);
}

/// Three publishers with 40 messages each.
fn publish(fault: Fault, in_flight: u32) -> Run {
    let (listener, address) = listen();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap(), fault));
        }
    });
    let scenario = format!("kind = 'publish'\nconnections = 3\nin_flight = {in_flight}\ndrain = '500ms'");
    let target = format!("tcp://{address}");
    let flags = ["--target", &target, "--messages-each", "40", "--require-durable", "--duration", "3s"];
    Run::at(address, &scenario, &flags)
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves one publisher to its end.
fn answer(stream: TcpStream, fault: Fault) {
    let mut writer = stream.try_clone().unwrap();
    // The generator may be gone before its last answer is.
    let mut say = |event: Value| drop(writeln!(writer, "{event}"));
    let (mut messages, mut seq) = (0, 6);
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let command: Value = serde_json::from_str(&line).unwrap();
        let id = &command["id"];
        match command["type"].as_str().unwrap() {
            "connect" => say(json!({"type": "welcome"})),
            "join" => say(json!({"type": "ok", "id": id, "room": command["room"], "epoch": "0", "seq": 6})),
            "message" => {
                assert_eq!(command["echo"], false);
                messages += 1;
                let fault = if messages == FAULTY { fault } else { Fault::None };
                let error = |temporary: bool| json!({"type": "error", "id": id, "code": "overloaded", "message": "later", "temporary": temporary});
                match fault {
                    Fault::Swallow => continue,
                    Fault::Defer | Fault::Refuse => {
                        say(error(fault == Fault::Defer));
                        continue;
                    }
                    Fault::SkipSeq => seq += 1,
                    Fault::Echo => say(json!({"type": "message", "seq": seq + 1, "content": command["content"]})),
                    Fault::None | Fault::NotDurable => {}
                }
                seq += 1;
                let durable = fault != Fault::NotDurable;
                say(json!({"type": "ok", "id": id, "room": command["room"], "seq": seq, "durable": durable}));
            }
            other => panic!("nobody sends {other}"),
        }
    }
}

/// Answers every `XADD` as Redis does.
fn answer_as_redis(stream: TcpStream) {
    let mut writer = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(head) = lines.next() {
        assert_eq!(head, "*5");
        let parts: Vec<String> = lines.by_ref().take(10).collect();
        assert_eq!((parts[1].as_str(), parts[5].as_str(), parts.len()), ("XADD", "*", 10));
        let _ = writer.write_all(b"$15\r\n1700000000000-0\r\n");
    }
}
