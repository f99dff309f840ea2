//! Positions of users in a durable room: what they have acknowledged, and what they have read.
//!
//! Invariants: a cursor never goes back. While a user has a member here, the cursors that it has are in memory; they
//! stay until what was written of them can be read from the store again.

use crate::chat::exchange::{Delivery, JoinRequest, Refusal, RoomId, RoomRef, Seat};
use crate::chat::journal::{Answer, Waiter};
use crate::chat::log::{CursorKind, LogAnswer, LogFailure, LogRead, LogWrite};
use crate::chat::publish::NOT_MEMBER;
use crate::chat::recall::{Asked, UNREADABLE};
use crate::chat::room::Room;
use crate::chat::state::State;
use crate::ids::{Seq, ShardId, UserName};
use crate::message::close::ErrorCode;

/// One user's positions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reader {
    pub(super) ack: Option<Seq>,
    pub(super) read: Option<Seq>,
    /// The batch with what was written last.
    pub(super) ticket: u64,
}

impl State {
    /// Whether a member's cursors have to be read before it enters; if so, they are asked for.
    pub(super) fn ask_for_cursors(
        &mut self,
        from: ShardId,
        id: RoomId,
        join: Box<JoinRequest>,
    ) -> Option<Box<JoinRequest>> {
        let room = self.rooms.get_mut(id.slot, id.generation)?;
        let (Some(log), Some(user)) = (&mut room.log, &join.user) else {
            return Some(join);
        };
        // Nothing was ever said here, so nobody has cursors.
        if room.head == Seq(0) || (log.readers.contains_key(user) && !join.ack) {
            return Some(join);
        }
        let read = LogRead::User { room: room.name.clone(), epoch: room.epoch, user: user.clone() };
        let seat = join.seat;
        let token = self.journal.ask(Asked::Enter { room: id, from, join }, read);
        log.entering.push((from, seat, token));
        None
    }

    /// A member's cursors have come: it enters, unless it has left meanwhile.
    pub(super) fn on_cursors(
        &mut self,
        token: u64,
        id: RoomId,
        from: ShardId,
        join: Box<JoinRequest>,
        outcome: Result<LogAnswer, LogFailure>,
    ) {
        let Some(log) = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut()) else {
            return;
        };
        let Some(index) = log.entering.iter().position(|(_, _, asked)| *asked == token) else {
            return self.settle_room(id);
        };
        log.entering.swap_remove(index);
        let Ok(LogAnswer::User { ack, read, letters }) = outcome else {
            let (audience, conn, ticket) = (join.audience, join.seat.conn, join.ticket);
            self.deliver(from, Delivery::JoinRefused { audience, conn, ticket, refusal: UNREADABLE });
            return self.settle_room(id);
        };
        if let Err(refusal) = self.admits(id, &join) {
            self.refuse_request(from, crate::chat::exchange::Request::Join(join), refusal);
            return self.settle_room(id);
        }
        let Some(log) = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut()) else {
            return;
        };
        if let Some(user) = &join.user
            && (ack.is_some() || read.is_some())
        {
            // What is in memory is newer.
            log.readers.entry(user.clone()).or_insert(Reader { ack, read, ticket: 0 });
        }
        self.enter_here(from, id, &join, letters);
    }

    /// A member has left that may not have entered yet.
    pub(super) fn forget_entering(&mut self, id: RoomId, from: ShardId, seat: Seat) -> bool {
        let log = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut());
        let Some(log) = log else {
            return false;
        };
        let waiting = log.entering.len();
        log.entering.retain(|(shard, entering, _)| (*shard, *entering) != (from, seat));
        log.entering.len() < waiting
    }

    /// A member has left: the cursors of users that are gone are forgotten once the store has them.
    pub(super) fn forget_cursors(&mut self, id: RoomId, user: &UserName) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let (Some(log), Some(people)) = (&mut room.log, &room.people) else {
            return;
        };
        // What was asked for someone who is about to enter may be older than what was written since.
        if !log.entering.is_empty() {
            return;
        }
        let applied = self.journal.applied;
        let stays = |user: &UserName, reader: &Reader| reader.ticket > applied || people.is_connected(user);
        if log.readers.get(user).is_some_and(|reader| !stays(user, reader)) {
            log.readers.remove(user);
        }
        if log.readers.len() > READERS_SWEPT && log.readers.len().is_power_of_two() {
            log.readers.retain(|user, reader| stays(user, reader));
        }
    }

    pub(super) fn cursor_here(
        &mut self,
        from: ShardId,
        room: &RoomRef,
        (seat, tag): (Seat, Option<u64>),
        kind: CursorKind,
        seq: Seq,
    ) {
        let outcome = self.member(from, room, seat).and_then(|(id, user)| {
            let user = user.ok_or(NOT_MEMBER)?;
            match kind {
                CursorKind::Ack => self.acknowledge(id, (from, seat), &user, seq)?,
                CursorKind::Read => self.mark_read(id, &user, seq)?,
            }
            Ok(id)
        });
        let id = match outcome {
            Ok(id) => id,
            Err(refusal) => return self.reply(from, seat.conn, tag, Err(refusal)),
        };
        if let Some(tag) = tag {
            self.journal.wait(Waiter { shard: from, conn: seat.conn, id: tag, answer: Answer::Done });
            self.owe(from, seat.conn);
        }
        if kind == CursorKind::Ack {
            self.feed(id, from, seat);
        }
    }

    fn acknowledge(
        &mut self,
        id: RoomId,
        (from, seat): (ShardId, Seat),
        user: &UserName,
        seq: Seq,
    ) -> Result<(), Refusal> {
        let room = self.rooms.get_mut(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let epoch = room.epoch;
        let Some((consumer, sent)) = room.consumer_mut(from, seat) else {
            let text = "this member does not acknowledge: `join` with `ack` first";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        };
        if let Some(refusal) = self.journal.refusal(false) {
            return Err(refusal);
        }
        if seq > sent {
            return Err(Refusal::new(ErrorCode::BadRequest, "`seq` has not been sent to this member yet"));
        }
        if let Some(letter) = consumer.acknowledge(seq) {
            let seq = letter.message.seq;
            self.journal.write(LogWrite::DropLetter { epoch: letter.epoch, seq, user: user.clone() });
            return Ok(());
        }
        let acked = consumer.acked;
        // The consumer may have come here without the store being told: retention overtook it.
        if let Some(reader) = room.log.as_mut().and_then(|log| log.readers.get_mut(user))
            && reader.ack.is_none_or(|written| written < acked)
        {
            self.journal.write(LogWrite::Cursor { epoch, user: user.clone(), kind: CursorKind::Ack, seq: acked });
            reader.ack = Some(acked);
            reader.ticket = self.journal.ticket();
        }
        self.acknowledged(id, user, acked);
        Ok(())
    }

    fn mark_read(&mut self, id: RoomId, user: &UserName, seq: Seq) -> Result<(), Refusal> {
        let room = self.rooms.get_mut(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let (epoch, head) = (room.epoch, room.head);
        let Some(log) = &mut room.log else {
            let text = "this room keeps no log, so it knows no read cursors";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        };
        if let Some(refusal) = self.journal.refusal(false) {
            return Err(refusal);
        }
        let reader = log.readers.entry(user.clone()).or_default();
        let seq = seq.min(head);
        if reader.read.is_none_or(|read| read < seq) {
            reader.read = Some(seq);
            reader.ticket = self.journal.ticket();
            self.journal.write(LogWrite::Cursor { epoch, user: user.clone(), kind: CursorKind::Read, seq });
        }
        Ok(())
    }
}

impl Room {
    /// Messages after the user's read cursor, if it has one.
    pub(super) fn unread(&self, user: &UserName) -> Option<u64> {
        let log = self.log.as_ref()?;
        let read = log.readers.get(user)?.read?;
        Some(log.count_after(read, self.history.last()))
    }
}

/// Readers past which those whose users are gone are looked for.
const READERS_SWEPT: usize = 1_023;
