//! Lists of rooms: each shard gives its part, the asker's shard puts them in order.
//!
//! Bounds: a shard gathers a limited number of lists at a time, one per connection, and keeps no more of each than
//! one page.

use std::borrow::Cow;
use std::ops::Bound;
use std::sync::Arc;

use crate::access::Identity;
use crate::chat::Handled;
use crate::chat::commands::{bad_name, page_limit};
use crate::chat::exchange::{Refusal, Request};
use crate::chat::lifecycle::Timer;
use crate::chat::session::Wait;
use crate::chat::state::State;
use crate::ids::{ConnId, Namespace, RoomName, ShardId};
use crate::limits::{ROOM_GATHERS_MAX, ROOMS_LISTED_PER_MS, ROOMS_LISTED_PER_STEP, ROOMS_LISTED_WHEN_BUSY};
use crate::message::close::ErrorCode;
use crate::message::command::PAGE_LIMIT_DEFAULT;
use crate::message::event::{Event, Reply, RoomSummary};

/// Lists that are being gathered.
#[derive(Debug, Default)]
pub(super) struct Gathers {
    open: ahash::HashMap<u64, Gather>,
    asked: u64,
    /// The millisecond in which rooms were last looked at, and how many were in it.
    looked: (u64, usize),
}

#[derive(Debug)]
struct Gather {
    conn: ConnId,
    id: u64,
    /// For whom: only rooms that it may enter.
    identity: Arc<Identity>,
    limit: usize,
    /// Up to where this shard has looked, while it has not looked at all of its rooms.
    own: Option<RoomName>,
    /// Shards that have not answered.
    missing: u16,
    /// In order, one more than fits the page at most.
    rooms: Vec<RoomSummary>,
}

impl Gathers {
    /// How many rooms the next step may look at: few once this millisecond has seen many.
    fn step(&mut self, now_ms: u64) -> usize {
        if self.looked.0 != now_ms {
            self.looked = (now_ms, 0);
        }
        let step = if self.looked.1 < ROOMS_LISTED_PER_MS { ROOMS_LISTED_PER_STEP } else { ROOMS_LISTED_WHEN_BUSY };
        self.looked.1 += step;
        step
    }
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
        let Some(identity) = self.sessions.get(conn).and_then(|session| session.identity().cloned()) else {
            return Ok(Handled::Done);
        };
        let (rooms, own) = self.rooms_here(&identity, after.as_ref(), limit);
        let others = (0..self.config.shards).map(ShardId).filter(|shard| *shard != self.here);
        let missing = self.config.shards - 1 + u16::from(own.is_some());
        let gather = Gather { conn, id, identity: Arc::clone(&identity), limit, own, missing, rooms };
        if gather.missing == 0 {
            self.send_rooms(gather);
            return Ok(Handled::Done);
        }
        let number = self.gathers.asked;
        self.gathers.asked += 1;
        if gather.own.is_some() {
            self.wheel.schedule(self.now.ms() + 1, Timer::Rooms(number));
        }
        self.gathers.open.insert(number, gather);
        if let Some(session) = self.sessions.get_mut(conn) {
            session.gathering = true;
            session.unanswered += 1;
        }
        for shard in others {
            let (identity, after) = (Arc::clone(&identity), after.clone());
            self.lanes.push_request(shard, Request::Rooms { gather: number, identity, again: false, after, limit });
        }
        Ok(Handled::Done)
    }

    /// The rooms of this shard after that name, one more than `limit` at most; and where it stopped if it has not looked
    /// at all that there are: so many may be hidden from one user, and so many users may ask, that a shard would stand
    /// still.
    pub(super) fn rooms_here(
        &mut self,
        identity: &Identity,
        after: Option<&RoomName>,
        limit: usize,
    ) -> (Vec<RoomSummary>, Option<RoomName>) {
        let step = self.gathers.step(self.now.ms());
        // Inboxes are in no list.
        let inboxes = RoomName::inboxes();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let before = after.is_none_or(|after| *after < inboxes.start);
        let before = before.then(|| self.room_by_name.range((start, Bound::Excluded(&inboxes.start))));
        let beyond =
            after.filter(|after| **after >= inboxes.end).map_or(Bound::Included(&inboxes.end), Bound::Excluded);
        let beyond = self.room_by_name.range((beyond, Bound::Unbounded));
        let mut listed = Vec::new();
        for (looked_at, (name, id)) in before.into_iter().flatten().chain(beyond).enumerate() {
            if name.namespace() != Namespace::Chat || listed.len() > limit {
                break;
            }
            let people = self.rooms.get(id.slot, id.generation).and_then(|room| room.people.as_ref());
            if let Some(people) = people
                && self.config.permissions.standing(identity, name).may_join()
            {
                listed.push(RoomSummary { room: name.clone(), members: people.count() });
            }
            if looked_at + 1 == step {
                return (listed, Some(name.clone()));
            }
        }
        (listed, None)
    }

    /// This shard goes on with its own part of a list.
    pub(super) fn go_on_listing(&mut self, number: u64) {
        let Some(gather) = self.gathers.open.get(&number) else {
            return;
        };
        let (identity, own, limit) = (Arc::clone(&gather.identity), gather.own.clone(), gather.limit);
        let (rooms, reached) = self.rooms_here(&identity, own.as_ref(), limit);
        self.on_rooms(number, self.here, rooms, reached);
    }

    /// One shard's part has come, or some of it.
    pub(super) fn on_rooms(&mut self, number: u64, shard: ShardId, rooms: Vec<RoomSummary>, reached: Option<RoomName>) {
        let Some(gather) = self.gathers.open.get_mut(&number) else {
            debug_assert!(false, "only what was asked is answered");
            return;
        };
        gather.rooms.extend(rooms);
        gather.rooms.sort_unstable_by(|a, b| a.room.cmp(&b.room));
        gather.rooms.truncate(gather.limit + 1);
        // What lies beyond a full page is of no interest.
        let last = gather.rooms.get(gather.limit).map(|summary| &summary.room);
        if let Some(reached) = reached.filter(|reached| last.is_none_or(|last| last > reached)) {
            let (identity, limit) = (Arc::clone(&gather.identity), gather.limit);
            if shard == self.here {
                gather.own = Some(reached);
                return self.wheel.schedule(self.now.ms() + 1, Timer::Rooms(number));
            }
            let request = Request::Rooms { gather: number, identity, again: true, after: Some(reached), limit };
            return self.lanes.push_request(shard, request);
        }
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
