//! What a room's owner asks of the store, and what it does with the answers.
//!
//! Invariants: every question has one answer, and whoever it was for may be gone by then. What waits for room in the
//! queues of deliveries keeps its order: a room's parked requests are taken one by one, and only while there is room.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chat::consumer::Sent;
use crate::chat::exchange::{Delivery, JoinRequest, Refusal, RoomId, Seat};
use crate::chat::feeding::Fetch;
use crate::chat::history::tombstone;
use crate::chat::log::{LogAnswer, LogEvent, LogFailure, LogRead};
use crate::chat::publish::NOT_MEMBER;
use crate::chat::room::Room;
use crate::chat::state::State;
use crate::ids::{ConnId, Epoch, RoomName, Seq, ShardId};
use crate::limits::{HISTORY_PAGE_BYTES, KEY_WINDOW_MS, REPLAY_CHUNK_BYTES, REPLAY_CHUNK_MESSAGES};
use crate::message::close::ErrorCode;
use crate::message::command::HistoryFrom;
use crate::message::event::{Message, Reply};

/// What an answer of the store is for.
#[derive(Debug)]
pub(super) enum Asked {
    /// A room opens.
    Open(RoomId),
    /// A member's replay goes on, after this position.
    Replay { room: RoomId, from: ShardId, seat: Seat, after: Seq },
    /// A page of the past, forwards, or backwards from `rest`.
    History { room: RoomId, from: ShardId, conn: ConnId, id: u64, limit: usize, rest: Option<Vec<Arc<Message>>> },
    /// Messages for a consumer.
    Feed { room: RoomId, from: ShardId, seat: Seat, fetch: Fetch },
    /// A message that a consumer never acknowledged.
    GiveUp { room: RoomId, from: ShardId, seat: Seat, sent: Sent },
    /// A member enters once its cursors are known.
    Enter { room: RoomId, from: ShardId, join: Box<JoinRequest> },
    /// A message that only the store has is to be deleted.
    Delete { room: RoomId, from: ShardId, seat: Seat, id: Option<u64>, seq: Seq },
}

impl State {
    pub(super) fn on_log_event(&mut self, event: LogEvent) {
        match event {
            LogEvent::Committed { applied, synced } => self.on_committed(applied, synced),
            LogEvent::Read { token, outcome } => self.on_log_answer(token, outcome),
            LogEvent::Trimmed { room, epoch, upto } => self.on_trimmed(&room, epoch, upto),
            LogEvent::Health(health) => self.on_store_health(health),
            LogEvent::Sessions(records) => self.on_stored_sessions(records),
            LogEvent::Sanctions(records) => self.on_stored_sanctions(records),
        }
    }

    /// Asks the store what there is of a room that has just been made.
    pub(super) fn open_log(&mut self, id: RoomId, room: RoomName) {
        self.opening += 1;
        let keys_since_ms = self.now.unix_ms.saturating_sub(KEY_WINDOW_MS);
        self.journal.ask(Asked::Open(id), LogRead::Open { room, keys_since_ms });
    }

    /// Goes on with the requests that waited for rooms to open, as far as there is room for what they produce.
    pub(super) fn unpark(&mut self) {
        while !self.lanes.deliveries_full()
            && let Some(id) = self.opened.front().copied()
        {
            let parked = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut());
            let Some((from, request)) = parked.and_then(|log| log.parked.as_mut()).and_then(VecDeque::pop_front) else {
                self.opened.pop_front();
                self.end_opening(id);
                continue;
            };
            self.unparking = true;
            self.on_request(from, request);
            self.unparking = false;
        }
    }

    pub(super) fn replay_here(&mut self, from: ShardId, id: RoomId, seat: Seat) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        if let Some((consumer, _)) = room.consumer_mut(from, seat) {
            consumer.ready = true;
            return self.feed(id, from, seat);
        }
        match room.replay(from, seat) {
            Some(crate::chat::replay::Replay::Chunk(chunk)) => self.deliver_chunk(from, id, seat, chunk),
            Some(crate::chat::replay::Replay::Stored(after)) => {
                let read = LogRead::After {
                    room: room.name.clone(),
                    epoch: room.epoch,
                    seq: after,
                    messages_max: REPLAY_CHUNK_MESSAGES,
                    bytes_max: REPLAY_CHUNK_BYTES,
                };
                self.journal.ask(Asked::Replay { room: id, from, seat, after }, read);
            }
            None => {}
        }
    }

    /// Answers with a page of the past, or asks the store for what memory does not have.
    pub(super) fn history_here(
        &mut self,
        from: ShardId,
        (id, conn, tag): (RoomId, ConnId, u64),
        start: HistoryFrom,
        limit: usize,
    ) {
        let Some(room) = self.rooms.get(id.slot, id.generation) else {
            return self.reply(from, conn, Some(tag), Err(NOT_MEMBER));
        };
        let before = room.history.before();
        let stored = room.trimmed() < before;
        let in_memory = match start {
            HistoryFrom::After(seq) => !stored || seq >= before,
            HistoryFrom::Before(_) | HistoryFrom::Latest => true,
        };
        let (messages, more) =
            if in_memory { room.history.page(start, limit, HISTORY_PAGE_BYTES) } else { (Vec::new(), false) };
        let bytes: usize = messages.iter().map(|message| message.weight()).sum();
        let backwards = !matches!(start, HistoryFrom::After(_));
        if !stored || (in_memory && (!backwards || more || messages.len() == limit || bytes * 2 > HISTORY_PAGE_BYTES)) {
            let more = more || (backwards && stored);
            return self.reply(from, conn, Some(tag), Ok(page_of(room, messages, more)));
        }
        let (room, epoch, messages_max) = (room.name.clone(), room.epoch, limit - messages.len());
        let bytes_max = HISTORY_PAGE_BYTES - bytes;
        let read = match start {
            HistoryFrom::After(seq) => LogRead::After { room, epoch, seq, messages_max, bytes_max },
            HistoryFrom::Before(seq) => {
                LogRead::Before { room, epoch, seq: seq.min(before.next()), messages_max, bytes_max }
            }
            HistoryFrom::Latest => LogRead::Before { room, epoch, seq: before.next(), messages_max, bytes_max },
        };
        let rest = backwards.then_some(messages);
        self.journal.ask(Asked::History { room: id, from, conn, id: tag, limit, rest }, read);
        self.owe(from, conn);
        self.note_reading(id, conn, true);
    }

    /// Deletes a message that only the store has, once it has been seen whose it is.
    pub(super) fn delete_stored(&mut self, from: ShardId, room_id: RoomId, seat: Seat, id: Option<u64>, seq: Seq) {
        let Some(room) = self.rooms.get(room_id.slot, room_id.generation) else {
            return;
        };
        let read = LogRead::After {
            room: room.name.clone(),
            epoch: room.epoch,
            seq: Seq(seq.0.saturating_sub(1)),
            messages_max: 1,
            bytes_max: 1,
        };
        self.journal.ask(Asked::Delete { room: room_id, from, seat, id, seq }, read);
        if id.is_some() {
            self.owe(from, seat.conn);
        }
    }

    fn on_log_answer(&mut self, token: u64, outcome: Result<LogAnswer, LogFailure>) {
        match self.journal.answered(token) {
            Some(Asked::Open(id)) => self.on_opened_log(id, outcome),
            Some(Asked::Replay { room, from, seat, after }) => {
                let page = self.page_in(room, outcome).map(|(messages, _)| messages);
                let chunk = self
                    .rooms
                    .get_mut(room.slot, room.generation)
                    .and_then(|r| r.replay_stored(from, seat, after, page));
                if let Some(chunk) = chunk {
                    self.deliver_chunk(from, room, seat, chunk);
                }
            }
            Some(Asked::History { room: asked, from, conn, id, limit, rest }) => {
                let outcome = match (self.page_in(asked, outcome), self.rooms.get(asked.slot, asked.generation)) {
                    (Some((messages, more)), Some(room)) => Ok(join_pages(room, messages, rest, (more, limit))),
                    (None, Some(_)) => Err(UNREADABLE),
                    (_, None) => Err(NOT_MEMBER),
                };
                self.answer_waiter(from, conn, id, outcome);
                self.note_reading(asked, conn, false);
            }
            Some(Asked::Feed { room, from, seat, fetch }) => {
                let page = self.page_in(room, outcome).map(|(messages, _)| messages);
                self.on_fetched(room, (from, seat), fetch, page);
            }
            Some(Asked::GiveUp { room, from, seat, sent }) => {
                let page = self.page_in(room, outcome).map(|(messages, _)| messages);
                self.on_fetched_to_give_up(room, (from, seat), sent, page);
            }
            Some(Asked::Enter { room, from, join }) => self.on_cursors(token, room, from, join, outcome),
            Some(Asked::Delete { room, from, seat, id, seq }) => {
                let page = self.page_in(room, outcome).map(|(messages, _)| messages);
                let found = page.map(|messages| messages.into_iter().find(|message| message.seq == seq));
                self.on_found_to_delete(from, room, (seat, id), (seq, found));
            }
            None => debug_assert!(false, "only what was asked is answered"),
        }
    }

    /// A page of the store, in which what was deleted meanwhile is deleted too.
    fn page_in(&self, room: RoomId, outcome: Result<LogAnswer, LogFailure>) -> Option<(Vec<Arc<Message>>, bool)> {
        let Ok(LogAnswer::Page { mut messages, more }) = outcome else {
            return None;
        };
        for message in &mut messages {
            if !message.deleted && self.journal.is_buried(room, message.seq) {
                *message = Arc::new(tombstone(message));
            }
        }
        Some((messages, more))
    }

    fn on_found_to_delete(
        &mut self,
        from: ShardId,
        room: RoomId,
        (seat, id): (Seat, Option<u64>),
        (seq, found): (Seq, Option<Option<Arc<Message>>>),
    ) {
        let refusal = match &found {
            None => Some(UNREADABLE),
            Some(found) => self.may_delete(from, room, seat, found.as_deref()).err(),
        };
        match (refusal, found.flatten()) {
            (None, Some(message)) if !message.deleted => self.bury(from, room, (seat.conn, id), message.seq, true),
            (None, Some(_)) => self.confirm_burial(from, room, (seat.conn, id), seq, true),
            (refusal, None) | (refusal @ Some(_), Some(_)) => {
                let outcome = refusal.map_or(Ok(Reply::Done), Err);
                match id {
                    Some(id) => self.answer_waiter(from, seat.conn, id, outcome),
                    None => self.reply(from, seat.conn, None, outcome),
                }
            }
        }
    }

    /// The store has said what there is of a room.
    fn on_opened_log(&mut self, id: RoomId, outcome: Result<LogAnswer, LogFailure>) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            debug_assert!(false, "a room that opens is not forgotten");
            return;
        };
        match outcome {
            Ok(LogAnswer::Opened(Some(state))) => {
                room.open(*state);
                self.keys += room.keys_len();
            }
            Ok(_) => {}
            // A room without its log would give positions twice, so nobody enters it.
            Err(LogFailure::Unreadable) => return self.refuse_parked(id),
        }
        self.opened.push_back(id);
        self.unpark();
    }

    fn end_opening(&mut self, id: RoomId) {
        if let Some(log) = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut()) {
            log.parked = None;
            self.opening -= 1;
        }
        self.settle_room(id);
    }

    fn refuse_parked(&mut self, id: RoomId) {
        let parked = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut());
        self.opening -= 1;
        for (from, request) in parked.and_then(|log| log.parked.take()).unwrap_or_default() {
            self.refuse_request(from, request, UNREADABLE);
        }
        self.settle_room(id);
    }

    fn deliver_chunk(&mut self, from: ShardId, id: RoomId, seat: Seat, chunk: crate::chat::replay::Chunk) {
        let audience = self.rooms.get(id.slot, id.generation).and_then(|room| room.audience(from));
        if let Some(audience) = audience {
            let (gap, messages, live) = (chunk.gap, chunk.messages, chunk.live);
            self.deliver(from, Delivery::Replay { audience, conn: seat.conn, gap, messages, live, attempt: 1 });
        }
    }

    /// Retention has taken part of a room's log.
    fn on_trimmed(&mut self, room: &RoomName, epoch: Epoch, upto: Seq) {
        let Some(id) = self.room_by_name.get(room).copied() else {
            return;
        };
        let Some(room) = self.rooms.get_mut(id.slot, id.generation).filter(|room| room.epoch == epoch) else {
            return;
        };
        let weight = room.history.weight();
        if let Some(log) = &mut room.log {
            log.trimmed = log.trimmed.max(upto);
            // The store may have taken what is not yet known to be stored.
            let gone = upto.min(log.synced);
            while room.history.before() < gone && room.history.forget_oldest(gone) {}
        }
        self.history_weight = self.history_weight - weight + room.history.weight();
        for (from, seat) in room.consumers.clone() {
            if let Some((consumer, _)) = room.consumer_mut(from, seat) {
                consumer.overtaken(upto);
            }
        }
        self.feed_all(id);
    }
}

fn page_of(room: &Room, messages: Vec<Arc<Message>>, more: bool) -> Reply {
    Reply::History { room: room.name.clone(), epoch: room.epoch, messages, more }
}

/// A page with what the store has of it: before `rest`, or forwards up to where memory goes on.
fn join_pages(
    room: &Room,
    mut messages: Vec<Arc<Message>>,
    rest: Option<Vec<Arc<Message>>>,
    (more, limit): (bool, usize),
) -> Reply {
    if let Some(rest) = rest {
        messages.extend(rest);
        return page_of(room, messages, more);
    }
    // Where the store has nothing more, memory goes on, also if retention has taken everything asked for.
    let before = room.history.before();
    let reached = messages.last().map_or(before, |last| last.seq);
    if more || reached < before || messages.len() >= limit {
        return page_of(room, messages, more || reached < room.history.last());
    }
    let bytes: usize = messages.iter().map(|message| message.weight()).sum();
    let bytes_max = HISTORY_PAGE_BYTES.saturating_sub(bytes);
    let (newer, more) = room.history.page(HistoryFrom::After(reached), limit - messages.len(), bytes_max);
    messages.extend(newer);
    page_of(room, messages, more)
}

pub(super) const UNREADABLE: Refusal =
    Refusal::new(ErrorCode::Overloaded, "the server cannot read this from its disk now: ask again later");
