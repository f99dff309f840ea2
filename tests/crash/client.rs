//! What publishers and subscribers have in common: a name, the rooms they are in, and what they make of events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use flume::Sender;
use serde_json::{Value, json};

use crate::lines::{Lines, Silence};
use crate::observation::{Message, Observation, Position, epoch};

/// One connection of a client.
#[derive(Debug)]
pub struct Connection {
    pub name: Arc<str>,
    lines: Lines,
    told: Sender<Observation>,
    next_id: u64,
    /// The epoch of each room that was entered.
    epochs: BTreeMap<Arc<str>, u64>,
}

impl Connection {
    /// Connects to the server, which knows nothing of it yet.
    pub fn open(name: &Arc<str>, address: SocketAddr, told: &Sender<Observation>) -> Result<Self, Silence> {
        let lines = Lines::connect(address)?;
        Ok(Self { name: Arc::clone(name), lines, told: told.clone(), next_id: 1, epochs: BTreeMap::new() })
    }

    /// Tells the oracle.
    pub fn tell(&self, observation: Observation) {
        self.told.send(observation).expect("the oracle listens");
    }

    /// Tells of what has no place here.
    pub fn tell_strange(&self, what: String) {
        self.tell(Observation::Strange { client: Arc::clone(&self.name), what });
    }

    /// Sends a command with a fresh `id`, which it gives.
    pub fn ask(&mut self, mut command: Value) -> Result<u64, Silence> {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = json!(id);
        self.lines.send(&command)?;
        Ok(id)
    }

    /// The next event. Says so when none comes though the server is there.
    pub fn receive(&mut self) -> Result<Value, Silence> {
        let event = self.lines.receive();
        if event == Err(Silence::Stuck) {
            self.tell_strange("the server is there and says nothing".into());
        }
        event
    }

    /// Sends `connect` with these fields and waits for the `welcome`.
    pub fn connect(&mut self, mut fields: Value) -> Result<Value, Silence> {
        fields["type"] = json!("connect");
        fields["name"] = json!(*self.name);
        let id = self.ask(fields)?;
        let welcome = self.receive()?;
        if welcome["type"] != "welcome" || welcome["id"] != id {
            self.tell_strange(format!("instead of a welcome came {welcome}"));
        }
        Ok(welcome)
    }

    /// Sends `join`, from a position if there is one.
    pub fn join(&mut self, room: &Arc<str>, since: Option<Position>) -> Result<u64, Silence> {
        self.ask(json!({"type": "join", "room": **room, "since": since.map(Position::json)}))
    }

    /// Takes the `ok` of a room that was entered; gives where its log ended, and whether all since the position follows.
    pub fn entered(&mut self, room: &Arc<str>, event: &Value, since: Option<Position>) -> Option<(Position, bool)> {
        let (Some(epoch), Some(head)) = (epoch(&event["epoch"]), event["seq"].as_u64()) else {
            self.tell_strange(format!("to enter {room} was answered by {event}"));
            return None;
        };
        self.epochs.insert(Arc::clone(room), epoch);
        let recovered = event["recovered"].as_bool();
        let (client, room) = (Arc::clone(&self.name), Arc::clone(room));
        self.tell(Observation::Joined { client, room, epoch, head, since, recovered });
        Some((Position { epoch, seq: head }, recovered == Some(true)))
    }

    /// The epoch of a room that was entered.
    pub fn epoch(&self, room: &str) -> Option<u64> {
        self.epochs.get(room).copied()
    }

    /// Takes an event that answers nothing. Gives the room and how far it was told of.
    pub fn pushed(&mut self, event: &Value) -> Option<(Arc<str>, Position)> {
        let kind = event["type"].as_str().unwrap_or_default();
        if matches!(kind, "ping" | "closing") {
            return None;
        }
        let entered = event["room"].as_str().and_then(|room| self.epochs.get_key_value(room));
        let entered = entered.map(|(room, epoch)| (Arc::clone(room), *epoch));
        let client = Arc::clone(&self.name);
        match (kind, entered, Message::read(event), event["to"].as_u64()) {
            ("message", Some((room, epoch)), Some(message), _) => {
                let position = Position { epoch, seq: message.seq };
                self.tell(Observation::Pushed { client, room: Arc::clone(&room), epoch, message });
                Some((room, position))
            }
            ("gap", Some((room, epoch)), _, Some(to)) => {
                self.tell(Observation::Gap { client, room: Arc::clone(&room), epoch, to });
                Some((room, Position { epoch, seq: to }))
            }
            _ => {
                self.tell_strange(format!("unasked came {event}"));
                None
            }
        }
    }
}
