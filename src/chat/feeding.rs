//! How a room's owner feeds consumers from the log, and what becomes of what they never acknowledge.
//!
//! Invariants: a consumer gets one chunk at a time, and the next when its shard has room for it. Nothing is given up
//! without a dead letter, unless retention took it: then the store has written the letter.

use std::sync::Arc;

use crate::chat::consumer::{Consumer, Next, Sent};
use crate::chat::exchange::{Delivery, JoinRequest, RoomId, Seat};
use crate::chat::lifecycle::Timer;
use crate::chat::log::{CursorKind, DeadLetter, DeadReason, LetterOrder, LogRead, LogWrite};
use crate::chat::recall::Asked;
use crate::chat::room::Room;
use crate::chat::state::State;
use crate::ids::{RoomName, Seq, ShardId, UserName};
use crate::limits::{AWAY_PER_ROOM_MAX, REPLAY_CHUNK_BYTES, REPLAY_CHUNK_MESSAGES};
use crate::message::event::{KickNotice, Message};

/// Messages that are being read for a consumer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fetch {
    pub(super) after: Seq,
    pub(super) attempt: u32,
}

impl State {
    /// Makes a consumer of a member that is about to enter. One of the same user that is here is replaced.
    pub(super) fn new_consumer(
        &mut self,
        id: RoomId,
        join: &JoinRequest,
        letters: Vec<DeadLetter>,
    ) -> Option<Consumer> {
        let user = join.user.clone()?;
        self.replace_consumer(id, &user);
        let room = self.rooms.get_mut(id.slot, id.generation)?;
        let start = room.start_after(join);
        let (epoch, log) = (room.epoch, room.log.as_mut()?);
        let reader = log.readers.entry(user.clone()).or_default();
        let acked = match reader.ack {
            Some(acked) => acked.max(log.trimmed),
            None => start,
        };
        if reader.ack != Some(acked) {
            // From here on nothing may be missed, also if nothing is ever acknowledged.
            self.journal.write(LogWrite::Cursor { epoch, user: user.clone(), kind: CursorKind::Ack, seq: acked });
            reader.ack = Some(acked);
            reader.ticket = self.journal.ticket();
        }
        let before = log.away.remove(&user).unwrap_or_default();
        Some(Consumer::new(user, acked, before, letters))
    }

    /// Sends a consumer what is due, if its shard has room for it.
    pub(super) fn feed(&mut self, id: RoomId, from: ShardId, seat: Seat) {
        loop {
            let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
                return;
            };
            let last = room.history.last();
            let Some((consumer, sent)) = room.consumer_mut(from, seat) else {
                return;
            };
            if !consumer.ready {
                return;
            }
            match consumer.next(self.now.ms(), sent < last, &self.config.limits) {
                Next::Wait(due) => return self.arm_consumer(id, from, seat, due),
                Next::New(max) => return self.fetch(id, (from, seat), Fetch { after: sent, attempt: 1 }, max),
                Next::Again { after, count, attempt } => {
                    return self.fetch(id, (from, seat), Fetch { after, attempt }, count);
                }
                Next::GiveUp(_) if self.journal.refusal(false).is_some() => {
                    return self.arm_consumer(id, from, seat, Some(self.now.ms() + UNSTORED_RETRY_MS));
                }
                Next::GiveUp(sent) => {
                    let Some(message) = room.history.get(sent.seq).cloned() else {
                        return self.fetch_to_give_up(id, (from, seat), sent);
                    };
                    self.give_up(id, (from, seat), sent, &message);
                }
                Next::Letter(message, attempt) => {
                    consumer.ready = false;
                    return self.deliver_to_consumer(id, (from, seat), vec![message], attempt);
                }
                Next::PutBack(letter) => self.journal.write(LogWrite::AddLetter(letter)),
            }
        }
    }

    /// Feeds everyone who consumes a room in which something was said.
    pub(super) fn feed_all(&mut self, id: RoomId) {
        let consumers = self.rooms.get(id.slot, id.generation).map(|room| room.consumers.clone());
        for (from, seat) in consumers.unwrap_or_default() {
            self.feed(id, from, seat);
        }
    }

    /// A consumer's time to acknowledge something is over.
    pub(super) fn redeliver(&mut self, id: RoomId, from: ShardId, seat: Seat) {
        let full = self.lanes.deliveries_full();
        let room = self.rooms.get_mut(id.slot, id.generation);
        let Some((consumer, _)) = room.and_then(|room| room.consumer_mut(from, seat)) else {
            return;
        };
        consumer.armed_ms = None;
        if full {
            return self.arm_consumer(id, from, seat, Some(self.now.ms() + RETRY_MS));
        }
        self.feed(id, from, seat);
    }

    /// An operator wants dead letters of a room sent again, or gone.
    pub(super) fn on_letters(&mut self, room: &RoomName, order: LetterOrder) {
        let id = self.room_by_name.get(room).copied();
        let (letters, replay) = match order {
            LetterOrder::Replay(letters) => (letters, true),
            LetterOrder::Purge(letters) => (letters, false),
        };
        for letter in letters {
            if let Some(id) = id {
                self.order_consumer(id, &letter, replay);
            }
            let (epoch, seq, user) = (letter.epoch, letter.message.seq, letter.user.clone());
            self.journal.write(match replay {
                true => LogWrite::AddLetter(Box::new(DeadLetter { replay, ..letter })),
                false => LogWrite::DropLetter { epoch, seq, user },
            });
        }
        self.journal.sync();
        if let Some(id) = id {
            self.feed_all(id);
        }
    }

    fn order_consumer(&mut self, id: RoomId, letter: &DeadLetter, replay: bool) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        for (from, seat) in room.consumers.clone() {
            match room.consumer_mut(from, seat) {
                Some((consumer, _)) if consumer.user == letter.user => match replay {
                    true => consumer.replay(vec![letter.clone()]),
                    false => consumer.forget_letter(letter.message.seq),
                },
                _ => {}
            }
        }
    }

    /// Messages for a consumer have come from the store, or could not be read.
    pub(super) fn on_fetched(
        &mut self,
        id: RoomId,
        (from, seat): (ShardId, Seat),
        fetch: Fetch,
        page: Option<Vec<Arc<Message>>>,
    ) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let (trimmed, before) = (room.trimmed(), room.history.before());
        let Some((consumer, sent)) = room.consumer_mut(from, seat) else {
            return;
        };
        if fetch.attempt == 1 && fetch.after != sent {
            // It was asked for a former membership on this very seat.
            return;
        }
        let Some(mut messages) = page else {
            consumer.ready = true;
            return self.arm_consumer(id, from, seat, Some(self.now.ms() + UNREADABLE_RETRY_MS));
        };
        if fetch.attempt > 1 {
            // What comes before the first that is there, retention has taken.
            let first = messages.first().map_or(trimmed.max(before).next(), |message| message.seq);
            for seq in consumer.waiting_between(fetch.after, first) {
                consumer.give_up(seq, sent);
            }
            messages.retain(|message| consumer.waits_for(message.seq, fetch.attempt, self.now.ms()));
        }
        if !messages.is_empty() {
            return self.send_fetched(id, (from, seat), messages, fetch.attempt);
        }
        consumer.ready = true;
        if fetch.attempt == 1 {
            room.skip_to(from, seat, trimmed.max(before));
        }
        self.feed(id, from, seat);
    }

    /// A message that is given up has come from the store.
    pub(super) fn on_fetched_to_give_up(
        &mut self,
        id: RoomId,
        (from, seat): (ShardId, Seat),
        sent: Sent,
        page: Option<Vec<Arc<Message>>>,
    ) {
        let room = self.rooms.get_mut(id.slot, id.generation);
        let Some((consumer, reached)) = room.and_then(|room| room.consumer_mut(from, seat)) else {
            return;
        };
        consumer.ready = true;
        let Some(messages) = page else {
            return self.arm_consumer(id, from, seat, Some(self.now.ms() + UNREADABLE_RETRY_MS));
        };
        match messages.iter().find(|message| message.seq == sent.seq) {
            Some(message) => self.give_up(id, (from, seat), sent, message),
            None => consumer.give_up(sent.seq, reached),
        }
        self.feed(id, from, seat);
    }

    /// Gets messages for a consumer, from memory or from the store.
    fn fetch(&mut self, id: RoomId, (from, seat): (ShardId, Seat), fetch: Fetch, max: usize) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let messages_max = max.min(REPLAY_CHUNK_MESSAGES);
        let stored = fetch.after < room.history.before() && room.trimmed() < room.history.before();
        let messages = room.history.chunk(fetch.after, messages_max, REPLAY_CHUNK_BYTES);
        let read = LogRead::After {
            room: room.name.clone(),
            epoch: room.epoch,
            seq: fetch.after,
            messages_max,
            bytes_max: REPLAY_CHUNK_BYTES,
        };
        if let Some((consumer, _)) = room.consumer_mut(from, seat) {
            consumer.ready = false;
        }
        if stored {
            self.journal.ask(Asked::Feed { room: id, from, seat, fetch }, read);
        } else {
            self.on_fetched(id, (from, seat), fetch, Some(messages));
        }
    }

    fn send_fetched(&mut self, id: RoomId, at: (ShardId, Seat), messages: Vec<Arc<Message>>, attempt: u32) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let reached = messages.last().map_or(Seq(0), |message| message.seq);
        if let Some((consumer, _)) = room.consumer_mut(at.0, at.1) {
            consumer.sent(&messages, attempt, self.now.ms(), &self.config.limits);
        }
        room.skip_to(at.0, at.1, reached);
        self.redelivered += if attempt > 1 { messages.len() as u64 } else { 0 };
        self.deliver_to_consumer(id, at, messages, attempt);
    }

    fn deliver_to_consumer(
        &mut self,
        id: RoomId,
        (from, seat): (ShardId, Seat),
        messages: Vec<Arc<Message>>,
        attempt: u32,
    ) {
        let audience = self.rooms.get(id.slot, id.generation).and_then(|room| room.audience(from));
        if let Some(audience) = audience {
            let conn = seat.conn;
            self.deliver(from, Delivery::Replay { audience, conn, gap: None, messages, live: false, attempt });
        }
    }

    fn fetch_to_give_up(&mut self, id: RoomId, (from, seat): (ShardId, Seat), sent: Sent) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let read = LogRead::After {
            room: room.name.clone(),
            epoch: room.epoch,
            seq: Seq(sent.seq.0 - 1),
            messages_max: 1,
            bytes_max: 1,
        };
        if let Some((consumer, _)) = room.consumer_mut(from, seat) {
            consumer.ready = false;
        }
        self.journal.ask(Asked::GiveUp { room: id, from, seat, sent }, read);
    }

    /// Sets a message aside that a consumer never acknowledged.
    fn give_up(&mut self, id: RoomId, (from, seat): (ShardId, Seat), sent: Sent, message: &Arc<Message>) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let epoch = room.epoch;
        let Some((consumer, reached)) = room.consumer_mut(from, seat) else {
            return;
        };
        consumer.give_up(sent.seq, reached);
        let (user, acked) = (consumer.user.clone(), consumer.acked);
        let letter = DeadLetter {
            epoch,
            user: user.clone(),
            message: Arc::clone(message),
            reason: DeadReason::Attempts,
            attempts: sent.attempt,
            at_ms: self.now.unix_ms,
            replay: false,
        };
        self.dead_letters += 1;
        self.journal.write(LogWrite::AddLetter(Box::new(letter)));
        self.journal.write(LogWrite::Cursor { epoch, user: user.clone(), kind: CursorKind::Ack, seq: acked });
        if let Some(reader) = room.log.as_mut().and_then(|log| log.readers.get_mut(&user)) {
            reader.ack = Some(acked);
            reader.ticket = self.journal.ticket();
        }
    }

    /// Takes what a consumer was sent from its place, for when its user comes back.
    pub(super) fn rest_consumer(&mut self, id: RoomId, from: ShardId, seat: Seat, consumer: &Consumer) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        room.consumers.retain(|at| *at != (from, seat));
        let attempts = consumer.attempts();
        if let Some(log) = &mut room.log
            && !attempts.is_empty()
            && log.away.len() < AWAY_PER_ROOM_MAX
        {
            log.away.insert(consumer.user.clone(), attempts);
        }
    }

    /// A user's newest consumer is the one that is fed.
    fn replace_consumer(&mut self, id: RoomId, user: &UserName) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let of_user = |room: &mut Room, at: &(ShardId, Seat)| {
            room.consumer_mut(at.0, at.1).is_some_and(|(consumer, _)| consumer.user == *user)
        };
        let Some(at) = room.consumers.clone().into_iter().find(|at| of_user(room, at)) else {
            return;
        };
        let audience = room.audience(at.0);
        if let Some(consumer) = room.take_consumer(at.0, at.1) {
            self.rest_consumer(id, at.0, at.1, &consumer);
        }
        if let Some(audience) = audience {
            let notice = Box::new(KickNotice::new("consumer_replaced"));
            self.deliver(at.0, Delivery::Kicked { audience, conns: vec![at.1.conn], notice });
        }
    }

    fn arm_consumer(&mut self, id: RoomId, from: ShardId, seat: Seat, due_ms: Option<u64>) {
        let room = self.rooms.get_mut(id.slot, id.generation);
        let (Some((consumer, _)), Some(due)) = (room.and_then(|room| room.consumer_mut(from, seat)), due_ms) else {
            return;
        };
        if consumer.armed_ms.is_none_or(|armed| armed > due) {
            consumer.armed_ms = Some(due);
            self.wheel.schedule(due, Timer::Redeliver(id, from, seat));
        }
    }
}

/// How long a consumer waits while queues are full.
const RETRY_MS: u64 = 100;
/// How long nothing is given up while the store takes no letters.
const UNSTORED_RETRY_MS: u64 = 1_000;
/// How long a consumer waits after its messages could not be read.
const UNREADABLE_RETRY_MS: u64 = 1_000;
