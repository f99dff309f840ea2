//! A subscriber: keeps its position in every room, and comes back by `since` or by resuming its session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use flume::Sender;
use serde_json::{Map, Value, json};

use crate::client::Connection;
use crate::lines::Silence;
use crate::observation::{Observation, Position};
use crate::rng::Rng;

/// A subscriber over all its connections.
#[derive(Debug)]
pub struct Subscriber {
    name: Arc<str>,
    rng: Rng,
    rooms: Vec<Arc<str>>,
    session: Option<String>,
    /// The last it has seen of each room.
    positions: BTreeMap<Arc<str>, Position>,
}

/// What a reply answers.
enum Asked {
    /// A `join`, from this position.
    Join(Arc<str>, Option<Position>),
    /// A page of a resumed room, which is refused if the session had forgotten the room.
    Page(Arc<str>),
}

impl Subscriber {
    pub fn new(name: &str, rng: Rng, rooms: Vec<Arc<str>>) -> Self {
        Self { name: name.into(), rng, rooms, session: None, positions: BTreeMap::new() }
    }

    /// Listens until the server goes, or until it has seen all that there is up to `goal` in each of its rooms.
    pub fn listen(&mut self, address: SocketAddr, told: &Sender<Observation>, goal: Option<&BTreeMap<Arc<str>, u64>>) {
        // Whether it reached its goal shows in its positions.
        let _ = Connection::open(&self.name, address, told).and_then(|connection| self.attend(connection, goal));
    }

    /// Rooms in which it has not seen all up to `goal`.
    pub fn behind(&self, goal: &BTreeMap<Arc<str>, u64>) -> Vec<String> {
        let behind = goal.iter().filter(|(room, head)| self.positions.get(*room).is_none_or(|at| at.seq < **head));
        behind
            .map(|(room, head)| format!("{} is at {:?} of {head} in {room}", self.name, self.positions.get(room)))
            .collect()
    }

    fn attend(&mut self, mut connection: Connection, goal: Option<&BTreeMap<Arc<str>, u64>>) -> Result<(), Silence> {
        let mut asked = BTreeMap::new();
        // A resumed room enters by itself; from where, if it does.
        let mut resumed = BTreeMap::new();
        if self.come_back(&mut connection)? {
            for room in self.rooms.clone() {
                resumed.insert(Arc::clone(&room), self.positions.get(&room).copied());
                let page = json!({"type": "history", "room": *room, "limit": 1});
                asked.insert(connection.ask(page)?, Asked::Page(room));
            }
        } else {
            for room in self.rooms.clone() {
                let since = self.positions.get(&room).copied();
                asked.insert(connection.join(&room, since)?, Asked::Join(room, since));
            }
        }
        while !asked.is_empty() || goal.is_none_or(|goal| !self.behind(goal).is_empty()) {
            let event = connection.receive()?;
            let resumes =
                || resumed.get_key_value(event["room"].as_str()?).map(|(room, since)| (Arc::clone(room), *since));
            match event["id"].as_u64().map(|id| asked.remove(&id)) {
                Some(Some(Asked::Join(room, since))) => self.entered(&mut connection, &room, &event, since),
                Some(Some(Asked::Page(room))) => {
                    if resumed.remove(&room).is_some() {
                        if event["code"] != "not_member" {
                            connection.tell_strange(format!("{room} was not entered, but a page of it is {event}"));
                        }
                        let since = self.positions.get(&room).copied();
                        asked.insert(connection.join(&room, since)?, Asked::Join(room, since));
                    }
                }
                Some(None) => connection.tell_strange(format!("nobody asked for {event}")),
                None if event["type"] == "ok" => match resumes() {
                    Some((room, since)) => {
                        resumed.remove(&room);
                        self.entered(&mut connection, &room, &event, since);
                    }
                    None => connection.tell_strange(format!("nobody asked for {event}")),
                },
                None => {
                    if let Some((room, position)) = connection.pushed(&event) {
                        self.positions.insert(room, position);
                    }
                }
            }
        }
        Ok(())
    }

    /// Connects, half the times with the session it had; whether that goes on.
    fn come_back(&mut self, connection: &mut Connection) -> Result<bool, Silence> {
        let session = self.session.clone().filter(|_| self.rng.chance(1, 2));
        let asks = session.is_some();
        let fields = session.map_or_else(
            || json!({}),
            |session| {
                let rooms: Map<String, Value> =
                    self.positions.iter().map(|(room, at)| (room.to_string(), at.json())).collect();
                json!({"resume": {"session": session, "rooms": rooms}})
            },
        );
        let welcome = connection.connect(fields)?;
        self.session = welcome["session"].as_str().map(str::to_owned);
        let resumed = welcome["resumed"] == true;
        if asks {
            connection.tell(Observation::Resumed { client: Arc::clone(&self.name), resumed });
        }
        Ok(resumed)
    }

    fn entered(&mut self, connection: &mut Connection, room: &Arc<str>, event: &Value, since: Option<Position>) {
        if let Some((head, recovered)) = connection.entered(room, event, since)
            && !recovered
        {
            self.positions.insert(Arc::clone(room), head);
        }
    }
}
