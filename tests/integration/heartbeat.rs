//! Signs of life: asked for after silence, and the end of those who give none.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Deadline, Frame, Server};

const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const INTERVAL: Duration = Duration::from_millis(300);

fn server() -> Server {
    Server::with(["--limits-heartbeat-interval=300ms"])
}

#[test]
fn a_silent_websocket_is_pinged_and_then_closed() {
    let server = server();
    for target in ["/ws?name=ann&room=lobby", "/relay/x"] {
        let mut raw = server.raw_ws(target);
        let begun = Deadline::patient();
        let mut pings = 0;
        let close = loop {
            let frame = raw.next().expect("a close frame comes before the end");
            match frame.first {
                PING => pings += 1,
                0x88 => break frame,
                _ => {}
            }
        };
        let took = begun.elapsed();
        assert_eq!(close.close_code(), Some(4000));
        assert!(pings >= 1, "it was closed without being asked");
        // Three intervals, of which the first may be shorter so as to spread connections.
        assert!(took >= INTERVAL * 2 && took < INTERVAL * 8, "{target} was closed after {took:?}");
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("hubbub_closed_total", &[("reason", "heartbeat_timeout")]), 2);
}

#[test]
fn a_silent_tcp_client_is_asked_and_then_closed() {
    let server = server();
    let mut client = server.tcp_as("ann");
    let begun = Deadline::patient();
    let (events, _) = client.end();
    assert!(!events.is_empty() && events.iter().all(|event| event.text == "{\"type\":\"ping\"}"), "{events:?}");
    assert!(begun.elapsed() >= INTERVAL * 2, "closed after {:?}", begun.elapsed());
}

#[test]
fn any_answer_is_a_sign_of_life() {
    let server = server();
    let mut by_pong = server.raw_ws("/ws?name=ann");
    by_pong.next_data();
    let mut pinged = 0;
    while pinged < 6 {
        assert_eq!(by_pong.next(), Some(Frame { first: PING, payload: Vec::new() }), "it answers and stays");
        pinged += 1;
        by_pong.frame(PONG, b"");
    }
    drop(by_pong);
    let answer = |client: &mut Client, answer: serde_json::Value| {
        for _ in 0..6 {
            client.expect("ping");
            client.send(&answer);
        }
    };
    answer(&mut server.tcp_as("bob"), json!({"type": "pong"}));
    // Even what is wrong shows that someone is there.
    let mut wrong = server.tcp_as("cat");
    for _ in 0..6 {
        wrong.expect("ping");
        wrong.send(&json!({"type": "nonsense"}));
        wrong.expect("error");
    }
    assert_eq!(server.metrics().sum("hubbub_closed_total", &[("reason", "heartbeat_timeout")]), 0);
}

#[test]
fn who_talks_is_not_asked() {
    let server = server();
    let mut raw = server.raw_ws("/relay/x");
    let talking = Deadline::after(INTERVAL * 5);
    let mut last = Deadline::patient();
    let mut longest = Duration::ZERO;
    while talking.left().is_some() {
        raw.frame(0x82, b"x");
        let frame = raw.next().unwrap();
        // Only a pause of the test itself could be taken for silence.
        longest = longest.max(last.elapsed());
        assert!(frame.first == 0x82 || longest > INTERVAL / 3, "{frame:?} came after at most {longest:?} of silence");
        last = Deadline::patient();
        std::thread::park_timeout(Duration::from_millis(10));
    }
}
