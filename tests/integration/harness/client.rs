//! A client of the chat over any transport: commands out, events in, one deadline for each wait.

use std::collections::VecDeque;
use std::net::TcpStream;
use std::ops::Deref;

use serde_json::{Value, json};

use super::wait::{Deadline, PATIENCE};

/// What carries JSON texts to the server and back.
pub trait Transport: Send {
    /// Sends one text.
    fn transmit(&mut self, text: &str);

    /// The next text, or the end. `None` when the deadline has passed.
    fn receive(&mut self, deadline: &Deadline) -> Option<Received>;

    /// The socket below.
    fn stream(&self) -> &TcpStream;

    /// Says goodbye as the transport does.
    fn close(&mut self);
}

/// What comes from a server.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// One text.
    Text(String),
    /// The end, with the close frame's code and text where there was one.
    Closed(Option<(u16, String)>),
}

/// An event as it was written and as it reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What came.
    pub text: String,
    /// What it says.
    pub value: Value,
}

impl Event {
    /// Its `type`.
    pub fn kind(&self) -> &str {
        self.value["type"].as_str().unwrap_or_default()
    }

    /// Its `seq`.
    pub fn seq(&self) -> u64 {
        self.value["seq"].as_u64().unwrap_or_else(|| panic!("no seq in {}", self.text))
    }
}

impl Deref for Event {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.value
    }
}

/// A client of the chat.
pub struct Client {
    transport: Box<dyn Transport>,
    /// Events that came while something else was waited for.
    early: VecDeque<Event>,
    next_id: u64,
}

impl Client {
    /// A client over a transport.
    pub fn new(transport: impl Transport + 'static) -> Self {
        Self { transport: Box::new(transport), early: VecDeque::new(), next_id: FIRST_ID }
    }

    /// The socket below.
    pub fn stream(&self) -> &TcpStream {
        self.transport.stream()
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        self.transport.close();
    }

    /// Sends a command.
    pub fn send(&mut self, command: &Value) {
        self.transport.transmit(&command.to_string());
    }

    /// Sends a text as it is.
    pub fn send_text(&mut self, text: &str) {
        self.transport.transmit(text);
    }

    /// Sends a command with a fresh `id` and gives its one reply. What else comes before it is kept for later.
    pub fn ask(&mut self, command: Value) -> Event {
        let id = self.send_with_id(command);
        self.reply_to(id)
    }

    /// Sends a command with a fresh `id`, which it gives.
    pub fn send_with_id(&mut self, mut command: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        self.send(&command);
        id
    }

    /// The reply to an earlier command. What else comes before it is kept for later.
    pub fn reply_to(&mut self, id: u64) -> Event {
        if let Some(at) = self.early.iter().position(|event| event["id"] == id) {
            return self.early.remove(at).expect("it was just found");
        }
        loop {
            let event = self.take_next(&format!("the reply to {id}"));
            if event["id"] == id {
                return event;
            }
            self.early.push_back(event);
        }
    }

    /// Sends a command and expects `ok`.
    pub fn ok(&mut self, command: Value) -> Event {
        let shown = command.to_string();
        let reply = self.ask(command);
        assert_eq!(reply.kind(), "ok", "{shown} was answered by {}", reply.text);
        reply
    }

    /// Sends a command and expects to be refused with this code.
    pub fn refused(&mut self, command: Value, code: &str) -> Event {
        let shown = command.to_string();
        let reply = self.ask(command);
        assert_eq!((reply.kind(), reply["code"].as_str()), ("error", Some(code)), "{shown} got {}", reply.text);
        assert!(reply["message"].as_str().is_some_and(|message| message.len() > 8), "{}", reply.text);
        assert_eq!(reply["temporary"], matches!(code, "rate_limited" | "overloaded"), "{}", reply.text);
        reply
    }

    /// Sends a command and expects to be refused with this code, in words that have this text.
    pub fn refused_saying(&mut self, command: Value, code: &str, text: &str) -> Event {
        let reply = self.refused(command, code);
        assert!(reply["message"].as_str().is_some_and(|message| message.contains(text)), "{text}: {}", reply.text);
        reply
    }

    /// Connects with a token; gives the welcome.
    pub fn connect_with(&mut self, token: &str) -> Event {
        let welcome = self.ask(json!({"type": "connect", "token": token}));
        assert_eq!(welcome.kind(), "welcome", "{}", welcome.text);
        welcome
    }

    /// Connects under a name; gives the welcome.
    pub fn connect_as(&mut self, name: &str) -> Event {
        let welcome = self.ask(json!({"type": "connect", "name": name}));
        assert_eq!((welcome.kind(), &welcome["user"]), ("welcome", &json!(name)), "{}", welcome.text);
        welcome
    }

    /// Joins a room; gives the `ok`.
    pub fn join(&mut self, room: &str) -> Event {
        self.ok(json!({"type": "join", "room": room}))
    }

    /// Says something without waiting for an answer.
    pub fn say(&mut self, room: &str, content: impl Into<Value>) {
        self.send(&json!({"type": "message", "room": room, "content": content.into()}));
    }

    /// Says something and waits for its place.
    pub fn say_and_wait(&mut self, room: &str, content: impl Into<Value>) -> u64 {
        self.ok(json!({"type": "message", "room": room, "content": content.into()})).seq()
    }

    /// The next event, whatever it is.
    pub fn next(&mut self) -> Event {
        self.early.pop_front().unwrap_or_else(|| self.take_next("an event"))
    }

    /// The next event, which must be of this type.
    pub fn expect(&mut self, kind: &str) -> Event {
        let event = self.next();
        assert_eq!(event.kind(), kind, "instead came {}", event.text);
        event
    }

    /// The next `n` messages, skipping nothing.
    pub fn messages(&mut self, n: usize) -> Vec<Event> {
        (0..n).map(|_| self.expect("message")).collect()
    }

    /// All that had been sent to this client by its own shard when the server read this: a fence.
    pub fn fence(&mut self) -> Vec<Event> {
        let pong = self.ask(json!({"type": "ping"}));
        assert_eq!(pong.kind(), "pong", "{}", pong.text);
        self.early.drain(..).collect()
    }

    /// A fence for a client that may not even have connected.
    pub fn fence_or_end(&mut self) {
        let id = self.send_with_id(json!({"type": "ping"}));
        self.reply_to(id);
        self.early.clear();
    }

    /// All that the room's owner had sent to this member when the owner was asked: a fence across shards.
    pub fn fence_room(&mut self, room: &str) -> Vec<Event> {
        self.ok(json!({"type": "history", "room": room, "limit": 1}));
        self.early.drain(..).collect()
    }

    /// Asserts that nothing has come that was not taken.
    pub fn expect_silence(&mut self) {
        let events = self.fence();
        assert!(events.is_empty(), "{events:?}");
    }

    /// Waits for the end; gives the events before it, and the close frame's code and text where there was one.
    pub fn end(&mut self) -> (Vec<Event>, Option<(u16, String)>) {
        let deadline = Deadline::patient();
        let mut events: Vec<Event> = self.early.drain(..).collect();
        loop {
            match self.transport.receive(&deadline) {
                Some(Received::Text(text)) => events.push(event(text)),
                Some(Received::Closed(close)) => return (events, close),
                None => panic!("the connection did not end; before that came {events:?}"),
            }
        }
    }

    /// Waits for the end and gives the close frame's code.
    pub fn close_code(&mut self) -> Option<u16> {
        self.end().1.map(|(code, _)| code)
    }

    fn take_next(&mut self, what: &str) -> Event {
        match self.transport.receive(&Deadline::patient()) {
            Some(Received::Text(text)) => event(text),
            Some(Received::Closed(close)) => {
                panic!("closed ({close:?}) while waiting for {what}; before that came {:?}", self.early)
            }
            None => panic!("waited {PATIENCE:?} in vain for {what}; meanwhile came {:?}", self.early),
        }
    }
}

fn event(text: String) -> Event {
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text:?} is no JSON: {error}"));
    assert!(value["type"].is_string(), "{text} has no type");
    Event { text, value }
}

/// Replies are told from pushes by their `id`, so no `seq` of a test should look like one.
const FIRST_ID: u64 = 1_000_000;
