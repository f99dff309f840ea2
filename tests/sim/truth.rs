//! What has been said, and what it became: facts that every witness must agree on.
//!
//! Each content begins with a number of its own, so whatever arrives anywhere can be traced to whoever sent it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hubbub::ids::{Epoch, RoomName, UserName};
use hubbub::limits::KEY_WINDOW_MS;
use hubbub::message::event::Message;

/// A client in one of its lives: its index, and which of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Author {
    pub client: usize,
    pub life: u32,
}

/// Something a client sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub author: Author,
    pub what: What,
    pub room: usize,
    pub tag: Option<String>,
    pub key: Option<String>,
    pub echo: bool,
    pub step: u64,
    /// Whether the room's owner is known to have taken it, or to have had it before.
    pub accepted: bool,
    /// Its key was used before.
    pub again: bool,
    /// The server says that it is a duplicate: then nobody may get it.
    pub duplicate: bool,
}

/// Which command carried it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Message,
    Signal,
    Relayed,
}

/// A message's place in its room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of its content; unknown while only the tombstone was seen.
    pub number: Option<usize>,
    pub timestamp: u64,
    pub sender: UserName,
}

/// A room's name in the plan, one life of its log, and a position.
pub type Spot = (usize, u64, u64);

/// Positions that are never given again: of which room and log, after the first, up to the second.
pub type Dead = (RoomName, Epoch, u64, u64);

/// Everything known.
#[derive(Debug, Default)]
pub struct Truth {
    pub sent: Vec<Sent>,
    pub places: BTreeMap<Spot, Place>,
    /// Where each number went, as far as members were told.
    spots: BTreeMap<usize, Spot>,
    /// Position and timestamp that `ok` or a fan-out gave to each number.
    claims: BTreeMap<usize, (u64, u64)>,
    /// Where gaps end for which no outbox was the cause: retention must have taken these messages.
    pub lost: BTreeSet<Spot>,
    /// Numbers by room and position, whatever the epoch.
    pub published: BTreeMap<(usize, u64), Vec<usize>>,
    /// Messages that were deleted and answered with `ok`.
    pub buried: BTreeSet<Spot>,
    /// Messages that were said to be durable.
    pub durable: BTreeSet<Spot>,
    /// Positions that crashes made the server pass over, by room and log: after the key, up to the value.
    pub dead: BTreeMap<(usize, u64), BTreeMap<u64, u64>>,
    /// Gaps that outboxes told and nobody has read, by connection, room, first and last; one may be told twice.
    pub gaps: Vec<(Author, usize, u64, u64)>,
    /// Contents by room, client and key.
    keys: BTreeMap<(usize, usize, String), Vec<usize>>,
    /// Which relayed frame or signal of a room follows which, and the reverse.
    followers: BTreeMap<usize, usize>,
    leaders: BTreeMap<usize, usize>,
}

impl Truth {
    /// Numbers a new content and makes it: JSON text that begins with the number.
    pub fn write(&mut self, sent: Sent, padding: usize) -> Vec<u8> {
        let number = self.sent.len();
        if let Some(key) = &sent.key {
            self.keys.entry((sent.room, sent.author.client, key.clone())).or_default().push(number);
        }
        self.sent.push(sent);
        format!("\"{number} {}\"", "x".repeat(padding)).into_bytes()
    }

    /// Reads the number back.
    pub fn number(&self, content: &Bytes) -> Result<usize, String> {
        let text = std::str::from_utf8(content).map_err(|e| e.to_string())?;
        let digits = text.trim_start_matches('"').split(' ').next().unwrap_or_default();
        let number = digits.parse().map_err(|_| format!("content {text:?} was never sent"))?;
        if number >= self.sent.len() { Err(format!("content {text:?} was never sent")) } else { Ok(number) }
    }

    /// A shell was told to deliver the message to somebody.
    pub fn publish(&mut self, message: &Message) -> Result<(), String> {
        if message.deleted {
            return Ok(());
        }
        let number = self.number(&message.content)?;
        self.claim(number, message.seq.0, message.timestamp)
    }

    /// A number was given this position and time.
    pub fn claim(&mut self, number: usize, seq: u64, timestamp: u64) -> Result<(), String> {
        let room = self.sent[number].room;
        let claim = *self.claims.entry(number).or_insert_with(|| {
            self.published.entry((room, seq)).or_default().push(number);
            (seq, timestamp)
        });
        if claim != (seq, timestamp) {
            return Err(format!("content {number} is at {claim:?} for one and at {:?} for another", (seq, timestamp)));
        }
        self.sent[number].accepted = true;
        if self.sent[number].duplicate {
            return Err(format!("content {number} is a duplicate, and it is at {seq}"));
        }
        Ok(())
    }

    /// The server says that a content's key was used for the message at this position.
    pub fn claim_duplicate(&mut self, number: usize, seq: u64, timestamp: u64) -> Result<(), String> {
        let sent = &mut self.sent[number];
        (sent.accepted, sent.duplicate) = (true, true);
        let sent = &self.sent[number];
        let uses = sent.key.as_ref().and_then(|key| self.keys.get(&(sent.room, sent.author.client, key.clone())));
        let is_first = |first: &usize| match self.claims.get(first) {
            Some(claim) => *claim == (seq, timestamp),
            // What nobody was shown, nobody can judge.
            None => *first != number && !self.sent[*first].duplicate,
        };
        let fair = uses.is_some_and(|uses| uses.iter().any(is_first));
        if !fair || self.claims.contains_key(&number) {
            return Err(format!("content {number} {sent:?} is no duplicate of what is at {seq}"));
        }
        Ok(())
    }

    /// A client read the message in this life of the room's log.
    pub fn place(&mut self, room: usize, epoch: Epoch, message: &Message) -> Result<Option<usize>, String> {
        let spot = (room, epoch.0, message.seq.0);
        if self.alive_from(room, epoch.0, spot.2) != spot.2 {
            return Err(format!("{message:?} is at a position that was passed over"));
        }
        let before = self.alive_before(room, epoch.0, spot.2);
        if message.prev != (before + 1 < spot.2).then_some(hubbub::ids::Seq(before)) {
            return Err(format!("{message:?} comes after {before}"));
        }
        let number = if message.deleted { None } else { Some(self.number(&message.content)?) };
        if let Some(number) = number {
            let first = *self.spots.entry(number).or_insert(spot);
            if first != spot {
                return Err(format!("content {number} is both at {first:?} and at {spot:?}"));
            }
            self.check_labels(number, room, message)?;
            self.claim(number, message.seq.0, message.timestamp)?;
        }
        let place = Place { number, timestamp: message.timestamp, sender: message.sender.clone() };
        let known = self.places.entry(spot).or_insert_with(|| place.clone());
        let same_number = known.number.is_none() || number.is_none() || known.number == number;
        if !same_number || known.timestamp != place.timestamp || known.sender != place.sender {
            return Err(format!("{spot:?} is {known:?} for one and {place:?} for another"));
        }
        known.number = known.number.or(number);
        Ok(known.number)
    }

    fn check_labels(&self, number: usize, room: usize, message: &Message) -> Result<(), String> {
        let sent = &self.sent[number];
        if sent.room != room || message.tag.as_deref() != sent.tag.as_deref() {
            return Err(format!("{sent:?} became {message:?}"));
        }
        if message.key.as_deref() != sent.key.as_deref() {
            return Err(format!("{sent:?} lost its key"));
        }
        Ok(())
    }

    /// The first position from `seq` on that was not passed over.
    pub fn alive_from(&self, room: usize, epoch: u64, seq: u64) -> u64 {
        let dead = self.dead.get(&(room, epoch)).and_then(|dead| dead.range(..seq).next_back());
        dead.map_or(seq, |(_, last)| seq.max(last + 1))
    }

    /// The last position before `seq` that was not passed over; 0 before the first one.
    pub fn alive_before(&self, room: usize, epoch: u64, seq: u64) -> u64 {
        let before = seq.saturating_sub(1);
        let dead = self.dead.get(&(room, epoch)).and_then(|dead| dead.range(..before).next_back());
        dead.map_or(before, |(first, last)| if before <= *last { *first } else { before })
    }

    /// Whether an outbox told this gap, which is being read.
    pub fn was_told(&mut self, gap: (Author, usize, u64, u64)) -> bool {
        let at = self.gaps.iter().position(|told| *told == gap);
        at.map(|at| self.gaps.swap_remove(at)).is_some()
    }

    /// A member read relayed frame or signal `next` right after `last`. All members of a room read stretches of one
    /// order, so each has one follower and one leader.
    pub fn follow(&mut self, last: usize, next: usize) -> Result<(), String> {
        let follower = *self.followers.entry(last).or_insert(next);
        let leader = *self.leaders.entry(next).or_insert(last);
        if follower != next || leader != last {
            return Err(format!("{next} after {last}, elsewhere {follower} after {last} and {next} after {leader}"));
        }
        Ok(())
    }

    /// Positions, senders and keys of a life of a room's log must be in order too; what a crash took does not count.
    pub fn check_logs(&self) -> Result<(), String> {
        let mut last_time: BTreeMap<(usize, u64), u64> = BTreeMap::new();
        let mut keys = BTreeMap::new();
        let mut last_number: BTreeMap<(usize, u64, Author), usize> = BTreeMap::new();
        for (&(room, epoch, seq), place) in &self.places {
            if self.alive_from(room, epoch, seq) != seq {
                continue;
            }
            let time = last_time.entry((room, epoch)).or_default();
            if place.timestamp < *time {
                return Err(format!("time goes back at {:?}", (room, epoch, seq)));
            }
            *time = place.timestamp;
            let Some(number) = place.number else { continue };
            let Sent { author, key, .. } = &self.sent[number];
            let author = *author;
            let used = key.clone().map(|key| (room, epoch, author.client, key));
            let first = used.and_then(|used| keys.insert(used, (seq, place.timestamp)));
            if let Some((first, _)) = first.filter(|(_, at)| at + KEY_WINDOW_MS >= place.timestamp) {
                return Err(format!("one key is at {first} and at {seq} of {:?}", (room, epoch)));
            }
            if let Some(last) = last_number.insert((room, epoch, author), number).filter(|last| *last > number) {
                return Err(format!("{author:?} sent {number} before {last}, {:?} says otherwise", (room, seq)));
            }
        }
        Ok(())
    }
}
