//! Lists of rooms: each shard gives its part, the asker's shard puts them in order.
//!
//! Bounds: a shard gathers a limited number of lists at a time, one per connection, and keeps no more of each than
//! one page.

use std::borrow::Cow;
use std::ops::Bound;

use crate::chat::Handled;
use crate::chat::commands::{bad_name, page_limit};
use crate::chat::exchange::{Refusal, Request};
use crate::chat::session::Wait;
use crate::chat::state::State;
use crate::ids::{ConnId, Namespace, RoomName, ShardId};
use crate::limits::ROOM_GATHERS_MAX;
use crate::message::close::ErrorCode;
use crate::message::command::PAGE_LIMIT_DEFAULT;
use crate::message::event::{Event, Reply, RoomSummary};

/// Lists that are being gathered.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    open: ahash::HashMap<u64, Gather>,
    asked: u64,
}

#[derive(Debug)]
struct Gather {
    conn: ConnId,
    id: u64,
    limit: usize,
    /// Shards that have not answered.
    missing: u16,
    /// In order, one more than fits the page at most.
    rooms: Vec<RoomSummary>,
}

impl State {
    pub(super) fn list_rooms(
        &mut self,
        conn: ConnId,
        id: Option<u64>,
        after: Option<Cow<'_, str>>,
        limit: Option<u64>,
    ) -> Result<Handled, Refusal> {
        let after = after.map(|name| RoomName::new(Namespace::Chat, &name)).transpose();
        let after = after.map_err(|error| bad_name("after", error))?;
        let limit = page_limit(limit, PAGE_LIMIT_DEFAULT);
        // Without a tag nobody would get the answer.
        let Some(id) = id else {
            return Ok(Handled::Done);
        };
        if self.sessions.get(conn).is_some_and(|session| session.gathering) {
            return Ok(self.block(conn, Wait::Answer));
        }
        if let Some(full) = self.lanes.first_full() {
            return Ok(self.block(conn, Wait::Requests(full)));
        }
        if self.gathers.open.len() >= ROOM_GATHERS_MAX {
            return Err(Refusal::new(ErrorCode::Overloaded, "too many lists of rooms are being made: ask again later"));
        }
        let rooms = self.rooms_here(after.as_ref(), limit);
        let gather = Gather { conn, id, limit, missing: self.config.shards - 1, rooms };
        if gather.missing == 0 {
            self.send_rooms(gather);
            return Ok(Handled::Done);
        }
        let number = self.gathers.asked;
        self.gathers.asked += 1;
        self.gathers.open.insert(number, gather);
        if let Some(session) = self.sessions.get_mut(conn) {
            session.gathering = true;
            session.unanswered += 1;
        }
        for shard in (0..self.config.shards).map(ShardId).filter(|shard| *shard != self.here) {
            self.lanes.push_request(shard, Request::Rooms { gather: number, after: after.clone(), limit });
        }
        Ok(Handled::Done)
    }

    /// The rooms of this shard after that name, one more than `limit` at most.
    pub(super) fn rooms_here(&self, after: Option<&RoomName>, limit: usize) -> Vec<RoomSummary> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rooms = self.room_by_name.range::<RoomName, _>((start, Bound::Unbounded));
        let chat = rooms.take_while(|(name, _)| name.namespace() == Namespace::Chat);
        let summary = |(name, id): (&RoomName, &crate::chat::exchange::RoomId)| {
            let people = self.rooms.get(id.slot, id.generation)?.people.as_ref()?;
            Some(RoomSummary { room: name.clone(), members: people.count() })
        };
        let listed = chat.filter(|(name, _)| name.inbox_of().is_none());
        listed.filter_map(summary).take(limit + 1).collect()
    }

    /// One shard's part has come.
    pub(super) fn on_rooms(&mut self, number: u64, rooms: Vec<RoomSummary>) {
        let Some(gather) = self.gathers.open.get_mut(&number) else {
            debug_assert!(false, "only what was asked is answered");
            return;
        };
        gather.rooms.extend(rooms);
        gather.rooms.sort_unstable_by(|a, b| a.room.cmp(&b.room));
        gather.rooms.truncate(gather.limit + 1);
        gather.missing -= 1;
        if gather.missing > 0 {
            return;
        }
        let Some(gather) = self.gathers.open.remove(&number) else {
            return;
        };
        let conn = gather.conn;
        if let Some(session) = self.sessions.get_mut(conn) {
            session.gathering = false;
            self.send_rooms(gather);
            self.answered(conn);
        }
    }

    fn send_rooms(&mut self, gather: Gather) {
        let mut rooms = gather.rooms;
        let more = rooms.len() > gather.limit;
        rooms.truncate(gather.limit);
        let next = rooms.last().filter(|_| more).map(|last| last.room.clone());
        self.send(gather.conn, Event::Ok { id: Some(gather.id), body: Reply::Rooms { rooms, next } });
    }
}
