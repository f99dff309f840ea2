//! A publisher: says every message with a key, and again after a crash until it is answered.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use flume::Sender;
use serde_json::{Value, json};

use crate::client::Connection;
use crate::lines::Silence;
use crate::observation::Observation;
use crate::rng::Rng;

/// A publisher over all its connections.
#[derive(Debug)]
pub struct Publisher {
    name: Arc<str>,
    rng: Rng,
    rooms: Vec<Arc<str>>,
    /// Messages that may wait for their answers.
    window: usize,
    said: u64,
    /// What was said and not answered, in order.
    unanswered: VecDeque<Said>,
}

#[derive(Clone, Debug)]
struct Said {
    room: Arc<str>,
    key: Arc<str>,
    content: Arc<str>,
}

impl Publisher {
    pub fn new(name: &str, rng: Rng, rooms: Vec<Arc<str>>, window: usize) -> Self {
        Self { name: name.into(), rng, rooms, window, said: 0, unanswered: VecDeque::new() }
    }

    /// Says what was not answered yet, then so many new messages, until all are answered or the server goes.
    pub fn publish(&mut self, address: SocketAddr, told: &Sender<Observation>, mut new: u64) {
        // Whether the server went or everything was answered shows in what is unanswered.
        let _ = Connection::open(&self.name, address, told).and_then(|connection| self.talk(connection, &mut new));
    }

    /// Whether everything it said was answered.
    pub fn is_done(&self) -> bool {
        self.unanswered.is_empty()
    }

    fn talk(&mut self, mut connection: Connection, new: &mut u64) -> Result<(), Silence> {
        connection.connect(json!({}))?;
        for room in self.rooms.clone() {
            let id = connection.join(&room, None)?;
            loop {
                let event = connection.receive()?;
                if event["id"] == id {
                    connection.entered(&room, &event, None);
                    break;
                }
                connection.pushed(&event);
            }
        }
        let mut flying = BTreeMap::new();
        let outcome = self.fly(&mut connection, &mut flying, new);
        // In the order in which they were said, before those that were not even sent.
        flying.into_values().rev().for_each(|said| self.unanswered.push_front(said));
        outcome
    }

    fn fly(
        &mut self,
        connection: &mut Connection,
        flying: &mut BTreeMap<u64, Said>,
        new: &mut u64,
    ) -> Result<(), Silence> {
        loop {
            while flying.len() < self.window
                && let Some(said) = self.unanswered.pop_front().or_else(|| self.say(connection, new))
            {
                let (room, key, content) = (&*said.room, &*said.key, &*said.content);
                let command = json!({"type": "message", "room": room, "key": key, "content": content});
                match connection.ask(command) {
                    Ok(id) => flying.insert(id, said),
                    Err(silence) => {
                        self.unanswered.push_front(said);
                        return Err(silence);
                    }
                };
            }
            if flying.is_empty() {
                return Ok(());
            }
            let event = connection.receive()?;
            match event["id"].as_u64().and_then(|id| flying.remove(&id)) {
                Some(said) => self.answered(connection, said, &event),
                None => drop(connection.pushed(&event)),
            }
        }
    }

    fn say(&mut self, connection: &Connection, new: &mut u64) -> Option<Said> {
        *new = new.checked_sub(1)?;
        self.said += 1;
        let room = Arc::clone(self.rng.pick(&self.rooms));
        let key: Arc<str> = format!("{}-{}", self.name, self.said).into();
        let filler = if self.rng.chance(1, 50) { self.rng.below(20_000) } else { self.rng.below(300) };
        let content: Arc<str> = format!("{key} {}", "x".repeat(filler)).into();
        let said = Said { room, key, content };
        let (room, key, content) = (Arc::clone(&said.room), Arc::clone(&said.key), Arc::clone(&said.content));
        connection.tell(Observation::Sent { sender: Arc::clone(&self.name), room, key, content });
        Some(said)
    }

    fn answered(&mut self, connection: &Connection, said: Said, event: &Value) {
        let client = Arc::clone(&self.name);
        let refusal = event["code"].as_str().filter(|_| event["temporary"] == true);
        if let Some(code) = refusal {
            connection.tell(Observation::Refused { client, code: code.into() });
            self.unanswered.push_back(said);
            return;
        }
        let (seq, durable) = (event["seq"].as_u64(), event["durable"].as_bool());
        let (Some(seq), Some(durable), Some(epoch)) = (seq, durable, connection.epoch(&said.room)) else {
            return connection.tell_strange(format!("{} was answered by {event}", said.key));
        };
        let duplicate = event["duplicate"] == true;
        let Said { room, key, .. } = said;
        connection.tell(Observation::Acked { client, room, epoch, seq, key, durable, duplicate });
    }
}
