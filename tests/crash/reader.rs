//! Reads whole histories, page by page.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::lines::Lines;
use crate::observation::{Message, epoch};

/// What is kept of a room after some position.
#[derive(Debug)]
pub struct History {
    pub room: Arc<str>,
    pub epoch: u64,
    /// The head that `join` told.
    pub head: u64,
    /// Only messages after this were asked for.
    pub after: u64,
    pub messages: Vec<Message>,
}

/// Reads what is kept after a position of each room.
///
/// # Panics
/// When the server does not answer as it should.
pub fn read(address: SocketAddr, rooms: &[(Arc<str>, u64)]) -> Vec<History> {
    let mut lines = Lines::connect(address).expect("the server listens");
    let mut ask = |command: Value| -> Value {
        lines.send(&command).expect("the server reads");
        loop {
            let event = lines.receive().expect("the server answers");
            if event["id"] == command["id"] {
                assert_ne!(event["type"], "error", "{command} was refused: {event}");
                return event;
            }
        }
    };
    ask(json!({"type": "connect", "name": "reader", "id": 1}));
    let mut histories = Vec::new();
    for (room, after) in rooms {
        let joined = ask(json!({"type": "join", "room": **room, "id": 2}));
        let epoch = epoch(&joined["epoch"]).expect("a joined room has an epoch");
        let head = joined["seq"].as_u64().expect("a joined room has a head");
        let mut messages: Vec<Message> = Vec::new();
        loop {
            let from = messages.last().map_or(*after, |message| message.seq);
            let page = ask(json!({"type": "history", "room": **room, "after": from, "limit": 1000, "id": 3}));
            let read = page["messages"].as_array().expect("a page has messages");
            messages
                .extend(read.iter().map(|event| Message::read(event).unwrap_or_else(|| panic!("a message: {event}"))));
            if page["more"] != true {
                break;
            }
            assert!(!read.is_empty(), "there is more in {room}, but not on this page");
        }
        histories.push(History { room: Arc::clone(room), epoch, head, after: *after, messages });
    }
    histories
}
