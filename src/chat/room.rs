//! The owner half of a room: its log, its members by shard, and who is present.
//!
//! Invariants: positions are given in order and never twice within an epoch; timestamps never go back. A member that
//! is live (no cursor) gets every message published after the delivery that made it so. A listener has at least one
//! member. A room of the relay has neither people nor history.
//!
//! Absent: other rooms, timers and queues; the state around it decides where things go.

use std::sync::Arc;

use crate::access::Standing;
use crate::chat::audience::AudienceId;
use crate::chat::consumer::Consumer;
use crate::chat::exchange::{Draft, JoinRequest, Seat};
use crate::chat::history::{Bounds, History};
use crate::chat::keys::{Keys, Used};
use crate::chat::log::{Jump, LogState};
use crate::chat::presence::People;
use crate::chat::receipts::Receipts;
use crate::chat::replay::Start;
use crate::chat::room_log::RoomLog;
use crate::clock::Time;
use crate::ids::{ConnId, Epoch, Namespace, RoomName, Seq, ShardId, UserName};
use crate::limits::SEQ_JUMP;
use crate::message::event::Message;
use crate::policy::{HistoryMode, RoomPolicy};

/// A room on its owner shard.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: RoomName,
    pub(super) epoch: Epoch,
    /// The last position given, or passed over.
    pub(super) head: Seq,
    last_timestamp: u64,
    /// The latest messages.
    pub(super) history: History,
    keep: Bounds,
    /// Where all messages are; absent when memory is all there is.
    pub(super) log: Option<Box<RoomLog>>,
    /// Keys that were used.
    keys: Option<Box<Keys>>,
    /// Shards with members, in order.
    pub(super) listeners: Vec<Listener>,
    /// Members that are fed and acknowledge.
    pub(super) consumers: Vec<(ShardId, Seat)>,
    /// Absent while no sender waits for any.
    pub(super) receipts: Option<Box<Receipts>>,
    /// Absent in the relay.
    pub(super) people: Option<Box<People>>,
    /// Since when nobody is here, while only history keeps the room.
    pub(super) idle: Option<Idle>,
}

/// A shard with members.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) shard: ShardId,
    pub(super) audience: AudienceId,
    /// Members by seat number.
    pub(super) seats: Vec<Option<Occupant>>,
    pub(super) members: u32,
    /// Members that want presence.
    pub(super) presence: u32,
}

/// One member.
#[derive(Debug)]
pub(super) struct Occupant {
    conn: ConnId,
    /// Absent in the relay.
    pub(super) user: Option<UserName>,
    /// What its replay has sent last; none when it is live.
    pub(super) cursor: Option<Seq>,
    pub(super) presence: bool,
    /// What it is and may do.
    pub(super) standing: Standing,
    /// It was silenced when it came, or since; whether it still is, the sanctions say.
    pub(super) muted: bool,
    /// It was put out, and has yet to leave.
    pub(super) out: bool,
    /// Absent unless it acknowledges what it gets: then its replay never ends.
    pub(super) consumer: Option<Box<Consumer>>,
    /// It is, or was before another of its user took over, a consumer.
    pub(super) ack: bool,
}

/// When a room became idle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    /// Place in the order of idle rooms.
    pub(super) stamp: u64,
    pub(super) since_ms: u64,
}

impl Room {
    pub(super) fn new(name: RoomName, epoch: Epoch, policy: &RoomPolicy) -> Self {
        let is_chat = name.namespace() == Namespace::Chat;
        let durable = is_chat && policy.history == HistoryMode::Durable;
        Self {
            name,
            epoch,
            head: Seq(0),
            last_timestamp: 0,
            history: History::default(),
            keep: Bounds::of(policy),
            log: durable.then(|| Box::new(RoomLog::new(policy.commit))),
            keys: None,
            listeners: Vec::new(),
            consumers: Vec::new(),
            receipts: None,
            people: is_chat.then(Box::default),
            idle: None,
        }
    }

    /// Learns what the store has of a durable room. After unclean stops positions are passed over that clients may
    /// have seen.
    pub(super) fn open(&mut self, state: LogState) {
        let Some(log) = &mut self.log else {
            return;
        };
        self.epoch = state.epoch;
        self.head = Seq(state.last.0 + (state.crashes * SEQ_JUMP).saturating_sub(1));
        self.last_timestamp = state.last_timestamp;
        self.history = History::after(state.last);
        log.register = state.crashes > 0;
        log.trimmed = state.trimmed;
        log.bytes = state.bytes;
        log.jumps = state.jumps;
        log.synced = state.last;
        if !state.keys.is_empty() {
            let keys: &mut Keys = self.keys.get_or_insert_default();
            for used in state.keys {
                keys.add(used.user, used.key, Used { seq: used.seq, timestamp: used.timestamp }, false);
            }
        }
    }

    /// Whether the store has yet to say what there is of the room.
    pub(super) fn is_opening(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.parked.is_some())
    }

    /// For which message the user has used this key.
    pub(super) fn find_key(&mut self, user: &UserName, key: Option<&Arc<str>>, now: Time) -> Option<Used> {
        self.keys.as_mut()?.find(user, key?, now.unix_ms.max(self.last_timestamp))
    }

    /// Keys that are remembered.
    pub(super) fn keys_len(&self) -> usize {
        self.keys.as_ref().map_or(0, |keys| keys.len())
    }

    /// Gives a message its place, and keeps it as long as the bounds allow. `crowded`: the shard remembers as many keys
    /// as it may.
    pub(super) fn publish(&mut self, sender: UserName, draft: Draft, now: Time, crowded: bool) -> Arc<Message> {
        let last = self.history.last();
        let prev = (last != self.head).then_some(last);
        self.head = self.head.next();
        self.last_timestamp = self.last_timestamp.max(now.unix_ms);
        if let Some(key) = &draft.key {
            let used = Used { seq: self.head, timestamp: self.last_timestamp };
            self.keys.get_or_insert_default().add(sender.clone(), Arc::clone(key), used, crowded);
        }
        let message = Arc::new(Message {
            room: self.name.clone(),
            seq: self.head,
            prev,
            sender,
            content: draft.content,
            timestamp: self.last_timestamp,
            tag: draft.tag,
            key: draft.key,
            deleted: false,
        });
        if let (Some(log), Some(prev)) = (&mut self.log, prev) {
            log.jumps.push(Jump { prev, next: self.head });
        }
        self.history.push(Arc::clone(&message), self.keep, self.stored());
        message
    }

    /// A message is on the disk.
    pub(super) fn settle(&mut self, seq: Seq) {
        if let Some(log) = &mut self.log {
            log.synced = log.synced.max(seq);
            log.unsynced -= 1;
        }
        self.history.shrink(self.keep, self.stored());
    }

    /// What need not be kept in memory ends here.
    pub(super) fn stored(&self) -> Seq {
        self.log.as_ref().map_or(Seq(u64::MAX), |log| log.synced)
    }

    /// The position up to which everything is gone for good.
    pub(super) fn trimmed(&self) -> Seq {
        self.log.as_ref().map_or(self.history.before(), |log| log.trimmed)
    }

    /// Seats a member that is not here yet, and decides what is replayed to it.
    pub(super) fn enter(
        &mut self,
        from: ShardId,
        join: &JoinRequest,
        (consumer, muted): (Option<Consumer>, bool),
        now: Time,
    ) -> Start {
        let (mut start, mut cursor) = self.start_of(join);
        if let Some(consumer) = &consumer {
            start.live = false;
            cursor = Some(consumer.reached().unwrap_or(consumer.acked));
            self.consumers.push((from, join.seat));
        }
        if let (Some(people), Some(user)) = (&mut self.people, &join.user) {
            people.enter(user, now.unix_ms);
            if join.presence {
                people.listen(true);
            }
        }
        let index = match self.find_listener(from) {
            Ok(index) => index,
            Err(index) => {
                // Most rooms have members on few shards, and many have a single member.
                self.listeners.reserve_exact(usize::from(self.listeners.is_empty()));
                self.listeners.insert(index, Listener::new(from, join.audience));
                index
            }
        };
        debug_assert_eq!(self.listeners[index].audience, join.audience, "a shard has one audience per room");
        let occupant = Occupant {
            conn: join.seat.conn,
            user: join.user.clone(),
            cursor,
            presence: join.presence,
            standing: join.standing,
            muted,
            out: false,
            consumer: consumer.map(Box::new),
            ack: join.ack,
        };
        self.listeners[index].seat(join.seat.number, occupant);
        start
    }

    /// Takes a member away; its user stays present until `grace_until_ms`, if that is given.
    pub(super) fn leave(&mut self, from: ShardId, seat: Seat, grace_until_ms: Option<u64>) -> Option<Occupant> {
        let index = self.find_listener(from).ok()?;
        let occupant = self.listeners[index].unseat(seat)?;
        if self.listeners[index].members == 0 {
            self.listeners.remove(index);
            if self.listeners.is_empty() {
                self.listeners = Vec::new();
            }
        }
        if let (Some(people), Some(user)) = (&mut self.people, &occupant.user) {
            if occupant.presence {
                people.listen(false);
            }
            people.exit(user, grace_until_ms);
        }
        Some(occupant)
    }

    /// A consumer, and up to where it was sent messages.
    pub(super) fn consumer_mut(&mut self, from: ShardId, seat: Seat) -> Option<(&mut Consumer, Seq)> {
        let (occupant, cursor) = self.cursor_mut(from, seat)?;
        Some((occupant.consumer.as_deref_mut()?, cursor))
    }

    /// Makes a member no consumer any more.
    pub(super) fn take_consumer(&mut self, from: ShardId, seat: Seat) -> Option<Box<Consumer>> {
        self.cursor_mut(from, seat)?.0.consumer.take()
    }

    /// A consumer has been sent everything up to a position.
    pub(super) fn skip_to(&mut self, from: ShardId, seat: Seat, seq: Seq) {
        if let Some((occupant, cursor)) = self.cursor_mut(from, seat) {
            occupant.cursor = Some(cursor.max(seq));
        }
    }

    /// The users of all consumers but the one of this connection.
    pub(super) fn consuming_users(&self, except: (ShardId, ConnId)) -> Vec<UserName> {
        let others = self.consumers.iter().filter(|(shard, seat)| (*shard, seat.conn) != except);
        others.filter_map(|(shard, seat)| self.occupant(*shard, *seat)?.user.clone()).collect()
    }

    /// The member on a seat, if it is still the same connection, and was not put out.
    pub(super) fn occupant(&self, from: ShardId, seat: Seat) -> Option<&Occupant> {
        let listener = &self.listeners[self.find_listener(from).ok()?];
        listener
            .seats
            .get(seat.number as usize)?
            .as_ref()
            .filter(|occupant| occupant.conn == seat.conn && !occupant.out)
    }

    /// The audience of the members from one shard.
    pub(super) fn audience(&self, from: ShardId) -> Option<AudienceId> {
        self.find_listener(from).ok().map(|index| self.listeners[index].audience)
    }

    /// A member whose replay runs, and how far it has come.
    pub(super) fn cursor_mut(&mut self, from: ShardId, seat: Seat) -> Option<(&mut Occupant, Seq)> {
        let index = self.find_listener(from).ok()?;
        let occupant = self.listeners[index].seats.get_mut(seat.number as usize)?.as_mut()?;
        let cursor = occupant.cursor.filter(|_| occupant.conn == seat.conn)?;
        Some((occupant, cursor))
    }

    /// Whether nothing is left that anyone could ask for.
    pub(super) fn is_empty(&self) -> bool {
        self.is_deserted() && (self.history.is_empty() || self.log.is_some()) && self.is_settled()
    }

    /// Whether nothing of it waits for the disk or for an answer of the store.
    pub(super) fn is_settled(&self) -> bool {
        self.log.as_ref().is_none_or(|log| {
            log.unsynced + log.burying + u64::from(log.reading) == 0 && log.parked.is_none() && log.entering.is_empty()
        })
    }

    /// Whether nobody is here, not even in grace.
    pub(super) fn is_deserted(&self) -> bool {
        self.listeners.is_empty() && self.people.as_ref().is_none_or(|people| people.is_empty())
    }

    #[inline]
    fn find_listener(&self, shard: ShardId) -> Result<usize, usize> {
        self.listeners.binary_search_by_key(&shard, |listener| listener.shard)
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        self.history.check();
        assert!(self.history.len() as u64 <= self.head.0 && self.history.last() <= self.head);
        if let Some(keys) = &self.keys {
            keys.check();
        }
        if let Some(log) = &self.log {
            log.check();
            assert!(self.history.before() <= log.synced, "what is not stored is in memory");
        }
        assert!(self.listeners.is_sorted_by(|a, b| a.shard < b.shard), "one listener per shard, in order");
        let occupants = || self.listeners.iter().flat_map(|l| l.seats.iter().flatten());
        for listener in &self.listeners {
            let seated = listener.seats.iter().flatten().count();
            let presence = listener.seats.iter().flatten().filter(|o| o.presence).count();
            assert!(seated > 0, "a listener has members");
            assert_eq!((listener.members, listener.presence), (seated as u32, presence as u32));
        }
        let last = self.history.last();
        assert!(occupants().all(|o| o.ack || o.cursor.is_none_or(|c| c < last)), "what has met the head is live");
        assert_eq!(occupants().filter(|o| o.consumer.is_some()).count(), self.consumers.len(), "consumers are listed");
        occupants().filter_map(|o| o.consumer.as_ref()).for_each(|consumer| consumer.check());
        if let Some(people) = &self.people {
            people.check(occupants().count() as u32, occupants().filter(|o| o.presence).count() as u32);
        }
        assert_eq!(self.idle.is_some(), self.is_deserted() && self.is_settled(), "deserted rooms are idle");
    }
}

impl Occupant {
    /// Leaves it nothing but to go; who that is.
    pub(super) fn put_out(&mut self) -> ConnId {
        self.out = true;
        self.conn
    }
}

impl Listener {
    fn new(shard: ShardId, audience: AudienceId) -> Self {
        Self { shard, audience, seats: Vec::new(), members: 0, presence: 0 }
    }

    /// Seats and who is on them.
    pub(super) fn seated(&self) -> impl Iterator<Item = Seat> {
        let numbered = self.seats.iter().enumerate();
        numbered.filter_map(|(number, o)| o.as_ref().map(|o| Seat { number: number as u32, conn: o.conn }))
    }

    pub(super) fn occupant_mut(&mut self, seat: Seat) -> Option<&mut Occupant> {
        let occupant = self.seats.get_mut(seat.number as usize)?.as_mut()?;
        (occupant.conn == seat.conn).then_some(occupant)
    }

    fn seat(&mut self, number: u32, occupant: Occupant) {
        let number = number as usize;
        if self.seats.len() <= number {
            self.seats.reserve_exact(usize::from(self.seats.is_empty()));
            self.seats.resize_with(number + 1, || None);
        }
        debug_assert!(self.seats[number].is_none(), "a seat is given once");
        self.members += 1;
        self.presence += u32::from(occupant.presence);
        self.seats[number] = Some(occupant);
    }

    fn unseat(&mut self, seat: Seat) -> Option<Occupant> {
        let entry = self.seats.get_mut(seat.number as usize)?;
        if entry.as_ref()?.conn != seat.conn {
            return None;
        }
        let occupant = entry.take()?;
        self.members -= 1;
        self.presence -= u32::from(occupant.presence);
        while let Some(None) = self.seats.last() {
            self.seats.pop();
        }
        if self.seats.len() < self.seats.capacity() / 4 {
            self.seats.shrink_to(self.seats.len() * 2);
        }
        Some(occupant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Rights;
    use crate::chat::audience::Part;
    use crate::chat::exchange::JoinTicket;
    use crate::chat::replay::{Chunk, Replay};
    use crate::limits::REPLAY_CHUNK_MESSAGES;
    use crate::message::command::Position;
    use crate::message::event::Role;
    use crate::policy::RoomPolicies;

    const HERE: ShardId = ShardId(0);
    const THERE: ShardId = ShardId(1);

    fn room(history_size: usize) -> Room {
        let policy = RoomPolicies::memory(history_size, 1 << 20).default;
        Room::new(RoomName::new(Namespace::Chat, "lobby").unwrap(), Epoch(5), &policy)
    }

    fn next_of(room: &mut Room, seat: Seat) -> Option<Chunk> {
        room.replay(HERE, seat).map(|replay| match replay {
            Replay::Chunk(chunk) => chunk,
            Replay::Stored(after) => panic!("nothing is stored after {after:?}"),
        })
    }

    fn seat(number: u32) -> Seat {
        Seat { number, conn: ConnId { slot: 100 + number, generation: 1 } }
    }

    fn join(number: u32, since: Option<Position>, history: u64) -> JoinRequest {
        JoinRequest {
            room: RoomName::new(Namespace::Chat, "lobby").unwrap(),
            audience: AudienceId { slot: 3, generation: 0, part: Part::Live },
            seat: seat(number),
            user: Some(UserName::new(&format!("user-{number}")).unwrap()),
            standing: Standing::Fixed { role: Role::Member, rights: Rights::of(Role::Member) },
            since,
            history,
            presence: false,
            ack: false,
            ticket: JoinTicket { id: None, say_ok: false, switch_from: None, resumed: false, rules: 0 },
        }
    }

    fn publish(room: &mut Room, messages: u64) {
        for _ in 0..messages {
            let draft = Draft { content: "1".into(), key: None, tag: None, echo: true, receipt: false };
            let now = Time { us: 0, unix_ms: 1_000 - room.head.0.min(900) };
            room.publish(UserName::new("ann").unwrap(), draft, now, false);
        }
    }

    fn since(epoch: u64, seq: u64) -> Option<Position> {
        Some(Position { epoch: Epoch(epoch), seq: Seq(seq) })
    }

    #[test]
    fn time_does_not_go_back_when_the_clock_does() {
        let mut room = room(10);
        publish(&mut room, 5);
        room.history.check();
        assert_eq!(room.history.get(Seq(5)).unwrap().timestamp, 1_000);
        assert_eq!(room.head, Seq(5));
    }

    #[test]
    fn a_replay_begins_where_the_member_left_off_or_is_refused() {
        let mut room = room(4);
        publish(&mut room, 10);
        let start = |since, history| {
            let (start, cursor) = room.start_of(&join(0, since, history));
            assert_eq!(start.live, cursor.is_none());
            (start.recovered, cursor.map(|seq| seq.0))
        };
        assert_eq!(start(None, 0), (None, None));
        assert_eq!(start(None, 2), (None, Some(8)));
        assert_eq!(start(None, u64::MAX), (None, Some(6)));
        assert_eq!(start(since(5, 8), 3), (Some(true), Some(8)));
        assert_eq!(start(since(5, 6), 0), (Some(true), Some(6)));
        assert_eq!(start(since(5, 10), 0), (Some(true), None));
        assert_eq!(start(since(5, 5), 0), (Some(false), None), "retention took what came after");
        assert_eq!(start(since(5, 11), 0), (Some(false), None), "the future");
        assert_eq!(start(since(4, 8), 9), (Some(false), None), "another life");
        assert_eq!(start(since(5, u64::MAX), 0), (Some(false), None));
    }

    #[test]
    fn a_replay_meets_the_head_and_says_what_retention_took() {
        let mut room = room(100);
        publish(&mut room, 100);
        assert!(!room.enter(HERE, &join(0, None, 100), (None, false), Time::default()).live);
        let chunk = next_of(&mut room, seat(0)).unwrap();
        assert_eq!((chunk.messages.len(), chunk.gap, chunk.live), (64, None, false));
        publish(&mut room, 90);
        let chunk = next_of(&mut room, seat(0)).unwrap();
        assert_eq!(chunk.gap, Some((Seq(65), Seq(90))));
        assert_eq!((chunk.messages[0].seq, chunk.live), (Seq(91), false));
        let chunk = next_of(&mut room, seat(0)).unwrap();
        assert_eq!((chunk.messages.last().unwrap().seq, chunk.live), (Seq(190), true));
        assert!(room.replay(HERE, seat(0)).is_none(), "a live member has no replay");
    }

    #[test]
    fn a_replay_that_lacks_one_message_is_not_at_its_end() {
        let mut room = room(100);
        publish(&mut room, REPLAY_CHUNK_MESSAGES as u64 + 1);
        room.enter(HERE, &join(0, None, 100), (None, false), Time::default());
        let ends = [(); 2].map(|()| next_of(&mut room, seat(0)).map(|chunk| (chunk.messages.len(), chunk.live)));
        assert_eq!(ends, [Some((REPLAY_CHUNK_MESSAGES, false)), Some((1, true))]);
    }

    #[test]
    fn a_replay_of_which_nothing_is_left_is_one_gap() {
        let mut room = room(100);
        publish(&mut room, 100);
        room.enter(HERE, &join(0, None, 100), (None, false), Time::default());
        room.replay(HERE, seat(0)).unwrap();
        publish(&mut room, 1);
        while !room.history.is_empty() {
            room.history.forget_oldest(Seq(u64::MAX));
        }
        let chunk = next_of(&mut room, seat(0)).unwrap();
        assert_eq!((chunk.gap, chunk.messages.len(), chunk.live), (Some((Seq(65), Seq(101))), 0, true));
    }

    #[test]
    fn seats_belong_to_one_connection_of_one_shard() {
        let mut room = room(100);
        for (shard, number) in [(THERE, 2), (HERE, 0), (HERE, 1)] {
            room.enter(shard, &join(number, None, 0), (None, false), Time::default());
        }
        room.check();
        assert!(room.occupant(THERE, seat(2)).is_some());
        assert!(room.occupant(HERE, seat(2)).is_none());
        let other = Seat { number: 2, conn: ConnId { slot: 102, generation: 2 } };
        assert!(room.occupant(THERE, other).is_none() && room.leave(THERE, other, None).is_none());
        assert!(room.leave(THERE, seat(2), None).is_some() && room.leave(THERE, seat(2), None).is_none());
        assert_eq!(room.listeners.len(), 1);
        room.check();
    }

    #[test]
    fn a_room_is_deserted_when_the_last_grace_has_ended() {
        let mut room = room(100);
        room.enter(HERE, &join(0, None, 0), (None, false), Time::default());
        room.leave(HERE, seat(0), Some(50));
        assert!(!room.is_deserted());
        room.people.as_mut().unwrap().expire(50);
        assert!(room.is_empty());
    }
}
