//! What a connection asks for: checked here, then asked of the room's owner.
//!
//! Invariants: a command that is blocked has changed nothing. Commands of one connection reach each owner in the
//! order they were given. A message is refused before it is routed unless its sender is, or is about to be, a member.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::access::{Action, Standing};
use crate::chat::Handled;
use crate::chat::audience::{Audience, AudienceId, Part};
use crate::chat::exchange::{Draft, JoinRequest, JoinTicket, Refusal, Request, RoomId, RoomRef, Seat};
use crate::chat::log::CursorKind;
use crate::chat::placement;
use crate::chat::publish::Published;
use crate::chat::session::{Kind, MemberState, Membership, Phase, Wait, hint};
use crate::chat::state::State;
use crate::ids::{ConnId, NameError, RoomName, ShardId, UserName};
use crate::limits::{PAGE_MAX, ROOMS_PER_CONNECTION_MAX, UNANSWERED_MAX};
use crate::message::close::ErrorCode;
use crate::message::command::{
    Command, CommandBody, HISTORY_LIMIT_DEFAULT, HistoryFrom, Join, PAGE_LIMIT_DEFAULT, Publish,
};
use crate::message::event::{Event, Reply};

/// A member's place, as one of its commands needs it.
#[derive(Clone, Copy, Debug)]
struct Seated {
    /// Place among the connection's memberships.
    index: usize,
    audience: u32,
    owner: ShardId,
    room: Option<RoomId>,
    seat: Seat,
    state: MemberState,
}

/// How a join came about.
#[derive(Clone, Copy, Debug)]
struct JoinCause {
    id: Option<u64>,
    say_ok: bool,
    switch_from: Option<AudienceId>,
}

impl Seated {
    /// What anything but a join has to wait for: the room's owner may not even know yet what there is of the room.
    fn wait(&self) -> Option<Wait> {
        (self.state == MemberState::Joining).then_some(Wait::Answer)
    }
}

pub(super) type Outcome = Result<Handled, Refusal>;

impl State {
    pub(super) fn on_command(&mut self, conn: ConnId, command: Command<'_>) -> Handled {
        let Command { id, body } = command;
        if let Some(handled) = self.before_command(conn, id, &body) {
            return handled;
        }
        let outcome = match body {
            CommandBody::Message(publish) => self.publish(conn, id, publish),
            CommandBody::Signal { room, content } => self.signal(conn, id, &room, content),
            CommandBody::Join(join) => {
                self.join(conn, &join, JoinCause { id, say_ok: id.is_some(), switch_from: None })
            }
            CommandBody::Leave { room } => self.leave(conn, id, &room),
            CommandBody::Switch { from, to } => self.switch(conn, id, &from, &to),
            CommandBody::Delete { room, seq } => {
                self.about_room(conn, id.is_some(), &room, |room, seat| Some(Request::Delete { room, seat, id, seq }))
            }
            CommandBody::Direct { to, content, key } => self.direct(conn, id, &to, content, key),
            CommandBody::Ack { room, seq } => self.about_room(conn, id.is_some(), &room, |room, seat| {
                Some(Request::Cursor { room, seat, id, kind: CursorKind::Ack, seq })
            }),
            CommandBody::Read { room, seq } => self.about_room(conn, id.is_some(), &room, |room, seat| {
                Some(Request::Cursor { room, seat, id, kind: CursorKind::Read, seq })
            }),
            CommandBody::History { room, from, limit } => self.history(conn, id, &room, from, limit),
            CommandBody::Presence { room, after, limit } => self.presence(conn, id, &room, after, limit),
            CommandBody::Rooms { after, limit } => self.list_rooms(conn, id, after, limit),
            CommandBody::Ping => {
                self.send(conn, Event::Pong { id });
                Ok(Handled::Done)
            }
            CommandBody::Pong => Ok(Handled::Done),
            CommandBody::Connect(connect) => self.refresh(conn, id, &connect),
            CommandBody::Moderate { room, user, measure, for_ms } => {
                self.moderate(conn, id, &room, &user, (measure, for_ms))
            }
            CommandBody::Close { room } => self.ask_to_close(conn, id, &room),
        };
        self.conclude(conn, id, outcome)
    }

    /// What has come of a command: it is refused, or carried out, or comes again.
    #[inline]
    fn conclude(&mut self, conn: ConnId, id: Option<u64>, outcome: Outcome) -> Handled {
        let handled = outcome.unwrap_or_else(|refusal| {
            let is_rate = refusal.code == ErrorCode::RateLimited;
            self.refuse(conn, id, refusal);
            if is_rate {
                self.close_if_relentless(conn);
            }
            Handled::Done
        });
        if handled == Handled::Done {
            self.forget_verdict(conn);
        }
        handled
    }

    /// A room of the URL: like `join`, but one after the other, so that the answers come in the URL's order.
    pub(super) fn on_join_from_url(&mut self, conn: ConnId, room: &str) -> Handled {
        let join = Join { room: Cow::Borrowed(room), ..Join::default() };
        let body = CommandBody::Pong;
        if let Some(handled) = self.before_command(conn, None, &body) {
            return handled;
        }
        if self.sessions.get(conn).is_some_and(|session| session.joining > 0) {
            return self.block(conn, Wait::Answer);
        }
        let cause = JoinCause { id: None, say_ok: true, switch_from: None };
        let outcome = self.join(conn, &join, cause);
        self.conclude(conn, None, outcome)
    }

    /// What every command must pass. Some answer means that there is no more to do with it.
    #[inline]
    fn before_command(&mut self, conn: ConnId, id: Option<u64>, body: &CommandBody<'_>) -> Option<Handled> {
        self.stop_waiting(conn);
        let Some(session) = self.sessions.get_mut(conn) else {
            return Some(Handled::Done);
        };
        session.heard_ms = self.now.ms();
        match session.phase {
            Phase::Open if session.kind != Kind::Relay => {}
            // The relay knows no commands.
            Phase::Open | Phase::Closing => return Some(Handled::Done),
            Phase::Connecting if session.awaits_identity() => return Some(self.block(conn, Wait::Answer)),
            Phase::Connecting => {
                self.on_first_command(conn, id, body);
                return Some(Handled::Done);
            }
        }
        let is_held = session.switching || session.awaits_identity();
        if is_held || usize::from(session.unanswered) >= UNANSWERED_MAX {
            return Some(self.block(conn, Wait::Answer));
        }
        if self.drain.is_some() {
            let text = "the server stops: reconnect after `retry_after_ms` and ask again";
            self.refuse(conn, id, Refusal::new(ErrorCode::Overloaded, text));
            return Some(Handled::Done);
        }
        None
    }

    fn publish(&mut self, conn: ConnId, id: Option<u64>, publish: Publish<'_>) -> Outcome {
        let seated = self.seated(conn, &publish.room)?;
        if let Some(wait) = seated.wait().or_else(|| self.full(seated.owner)) {
            return Ok(self.block(conn, wait));
        }
        let label = |text: Option<Cow<'_, str>>| text.map(|text| Arc::from(text.as_ref()));
        let draft = Draft {
            content: owned(publish.content),
            key: label(publish.key),
            tag: label(publish.tag),
            echo: publish.echo,
            receipt: publish.receipt,
        };
        if self.is_guarded() {
            let name = self.audiences.at(seated.audience).map(|audience| audience.name.clone());
            if let Some(handled) = self.admit_message(conn, name, &draft)? {
                return Ok(handled);
            }
        }
        if seated.owner == self.here
            && let Some(room) = seated.room
        {
            let (room, sender) = self.allowed(self.here, &RoomRef::Id(room), seated.seat, Action::Send)?;
            if let Some(sender) = sender
                && let Published::Answered(outcome) = self.publish_here(room, (self.here, conn), id, sender, draft)
            {
                self.reply(self.here, conn, id, outcome);
            }
            return Ok(Handled::Done);
        }
        let room = self.room_ref(&seated);
        let request = Request::Publish { room, seat: seated.seat, id, draft };
        self.ask(conn, seated.owner, id.is_some(), request);
        Ok(Handled::Done)
    }

    /// Says something in another user's inbox.
    fn direct(
        &mut self,
        conn: ConnId,
        id: Option<u64>,
        to: &str,
        content: Cow<'_, [u8]>,
        key: Option<Cow<'_, str>>,
    ) -> Outcome {
        let to = UserName::new(to).map_err(|error| bad_name("to", error))?;
        let room = RoomName::inbox(&to);
        self.may_write_to(conn, &room)?;
        let owner = placement::owner(room.placement_hash(), self.config.shards);
        if let Some(wait) = self.full(owner) {
            return Ok(self.block(conn, wait));
        }
        if let Some(user) = self.sessions.get(conn).and_then(|session| session.user().cloned()) {
            let key = key.map(|key| Arc::from(key.as_ref()));
            let draft = Draft { content: owned(content), key, tag: None, echo: true, receipt: false };
            if self.is_guarded()
                && let Some(handled) = self.admit_message(conn, Some(room.clone()), &draft)?
            {
                return Ok(handled);
            }
            self.ask(conn, owner, id.is_some(), Request::Direct { room, conn, user, id, draft });
        }
        Ok(Handled::Done)
    }

    fn signal(&mut self, conn: ConnId, id: Option<u64>, room: &str, content: Cow<'_, [u8]>) -> Outcome {
        let seated = self.seated(conn, room)?;
        if let Some(wait) = seated.wait().or_else(|| self.full(seated.owner)) {
            return Ok(self.block(conn, wait));
        }
        if self.is_guarded() {
            self.admit_signal(conn, content.len())?;
        }
        let (room, seat) = (self.room_ref(&seated), seated.seat);
        let request = Request::Signal { room, seat, id, content: owned(content) };
        self.ask(conn, seated.owner, id.is_some(), request);
        Ok(Handled::Done)
    }

    fn history(&mut self, conn: ConnId, id: Option<u64>, room: &str, from: HistoryFrom, limit: Option<u64>) -> Outcome {
        let limit = page_limit(limit, HISTORY_LIMIT_DEFAULT);
        self.about_room(conn, true, room, |room, seat| id.map(|id| Request::History { room, seat, id, from, limit }))
    }

    fn presence(
        &mut self,
        conn: ConnId,
        id: Option<u64>,
        room: &str,
        after: Option<Cow<'_, str>>,
        limit: Option<u64>,
    ) -> Outcome {
        let after = after.map(|name| UserName::new(&name)).transpose().map_err(|error| bad_name("after", error))?;
        let limit = page_limit(limit, PAGE_LIMIT_DEFAULT);
        self.about_room(conn, true, room, |room, seat| id.map(|id| Request::Presence { room, seat, id, after, limit }))
    }

    /// Asks a room's owner something that only members may. A request that is not made, because nobody would read
    /// its answer, is still refused to others.
    pub(super) fn about_room(
        &mut self,
        conn: ConnId,
        answered: bool,
        room: &str,
        request: impl FnOnce(RoomRef, Seat) -> Option<Request>,
    ) -> Outcome {
        let seated = self.seated(conn, room)?;
        if let Some(wait) = seated.wait().or_else(|| self.full(seated.owner)) {
            return Ok(self.block(conn, wait));
        }
        if let Some(request) = request(self.room_ref(&seated), seated.seat) {
            self.ask(conn, seated.owner, answered, request);
        }
        Ok(Handled::Done)
    }

    fn join(&mut self, conn: ConnId, join: &Join<'_>, cause: JoinCause) -> Outcome {
        if join.ack && !join.tags.is_empty() {
            let text = "who acknowledges gets everything: leave out `tags`, or `ack`";
            return Err(Refusal::new(ErrorCode::BadRequest, text));
        }
        if let Ok(seated) = self.seated(conn, &join.room) {
            if seated.state == MemberState::Joining {
                return Ok(self.block(conn, Wait::Answer));
            }
            return Err(Refusal::new(ErrorCode::BadRequest, "already joined: leave the room first"));
        }
        let name = RoomName::chat(&join.room).map_err(|error| bad_name("room", error))?;
        let user = self.sessions.get(conn).and_then(|session| session.user());
        if name.inbox_of().is_some_and(|owner| user.is_none_or(|user| user.as_str() != owner)) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "only its own user reads an inbox: use `direct` to write to it",
            ));
        }
        let rooms = self.sessions.get(conn).map_or(0, |session| session.memberships.len());
        if rooms >= ROOMS_PER_CONNECTION_MAX && cause.switch_from.is_none() {
            return Err(Refusal {
                code: ErrorCode::RoomFull,
                message: format!("a connection may be in {ROOMS_PER_CONNECTION_MAX} rooms: leave one first").into(),
            });
        }
        let standing = self.standing_to_join(conn, &name)?;
        let owner = placement::owner(name.placement_hash(), self.config.shards);
        if let Some(wait) = self.full(owner) {
            return Ok(self.block(conn, wait));
        }
        if let Some(handled) = self.admit_join(conn, &name)? {
            return Ok(handled);
        }
        if cause.switch_from.is_some()
            && let Some(session) = self.sessions.get_mut(conn)
        {
            session.switching = true;
        }
        let ticket = JoinTicket {
            id: cause.id,
            say_ok: cause.say_ok,
            switch_from: cause.switch_from,
            resumed: false,
            rules: self.rules,
        };
        self.ask_to_join(conn, name, owner, join, (standing, ticket));
        Ok(Handled::Done)
    }

    /// Registers a membership that has yet to be answered, and asks for it.
    pub(super) fn ask_to_join(
        &mut self,
        conn: ConnId,
        name: RoomName,
        owner: ShardId,
        join: &Join<'_>,
        (standing, ticket): (Standing, JoinTicket),
    ) {
        let id = self.audience_of(name, owner);
        let (Some(audience), Some(session)) = (self.audiences.at_mut(id.slot), self.sessions.get_mut(conn)) else {
            return;
        };
        let seat = Seat { number: audience.take_seat(), conn };
        // Who may not see presence joins without it.
        let presence = join.presence && standing.settle(false).1.has(Action::Presence);
        let tags: Box<[Arc<str>]> = join.tags.iter().map(|tag| Arc::from(tag.as_ref())).collect();
        session.memberships.push(Membership {
            audience: id.slot,
            seat: seat.number,
            hint: hint(audience.name.as_str()),
            place: 0,
            presence_place: 0,
            state: MemberState::Joining,
            presence,
            ack: join.ack,
            tags: (!tags.is_empty()).then_some(tags),
        });
        session.joining += 1;
        session.unanswered += 1;
        let request = JoinRequest {
            room: audience.name.clone(),
            audience: id,
            seat,
            user: session.user().filter(|_| session.kind != Kind::Relay).cloned(),
            standing,
            since: join.since,
            history: join.history,
            presence,
            ack: join.ack,
            ticket,
        };
        self.ask(conn, owner, false, Request::Join(Box::new(request)));
    }

    fn leave(&mut self, conn: ConnId, id: Option<u64>, room: &str) -> Outcome {
        let seated = self.seated(conn, room)?;
        if seated.state == MemberState::Joining {
            return Ok(self.block(conn, Wait::Answer));
        }
        self.drop_membership(conn, seated.index, false);
        if id.is_some() {
            self.send(conn, Event::Ok { id, body: Reply::Done });
        }
        Ok(Handled::Done)
    }

    /// Joins one room and, when that has succeeded, leaves another before the answer is sent.
    fn switch(&mut self, conn: ConnId, id: Option<u64>, from: &str, to: &Join<'_>) -> Outcome {
        let seated = self.seated(conn, from)?;
        if seated.state == MemberState::Joining {
            return Ok(self.block(conn, Wait::Answer));
        }
        let generation = self.audiences.generation(seated.audience);
        let switch_from = Some(AudienceId { slot: seated.audience, generation, part: Part::Live });
        self.join(conn, to, JoinCause { id, say_ok: id.is_some(), switch_from })
    }

    /// The connection's membership in the room of that name.
    #[inline]
    fn seated(&self, conn: ConnId, room: &str) -> Result<Seated, Refusal> {
        const NOT_MEMBER: Refusal = Refusal::new(ErrorCode::NotMember, "join the room first");
        let session = self.sessions.get(conn).ok_or(NOT_MEMBER)?;
        let hint = hint(room);
        for (index, membership) in session.memberships.iter().enumerate() {
            if membership.hint != hint {
                continue;
            }
            if let Some(audience) = self.audiences.at(membership.audience)
                && audience.name.as_str() == room
            {
                return Ok(Seated {
                    index,
                    audience: membership.audience,
                    owner: audience.owner,
                    room: audience.room,
                    seat: Seat { number: membership.seat, conn },
                    state: membership.state,
                });
            }
        }
        Err(NOT_MEMBER)
    }

    /// What a command that needs `owner` has to wait for.
    #[inline]
    pub(super) fn full(&self, owner: ShardId) -> Option<Wait> {
        if owner == self.here {
            return self.lanes.deliveries_full().then_some(Wait::Deliveries);
        }
        self.lanes.requests_full(owner).then_some(Wait::Requests(owner))
    }

    /// Asks a room's owner, which may be this shard. `answered`: the connection waits for the answer of another.
    pub(super) fn ask(&mut self, conn: ConnId, owner: ShardId, answered: bool, request: Request) {
        if owner == self.here {
            self.on_request(owner, request);
            return;
        }
        if let Some(session) = self.sessions.get_mut(conn) {
            session.unanswered += u16::from(answered);
            session.unsettled |= !answered && !matches!(request, Request::Join(_));
        }
        self.lanes.push_request(owner, request);
    }

    fn room_ref(&self, seated: &Seated) -> RoomRef {
        match (seated.room, self.audiences.at(seated.audience)) {
            (Some(room), _) => RoomRef::Id(room),
            (None, Some(audience)) => RoomRef::Name(audience.name.clone()),
            (None, None) => unreachable!("a membership's audience lives"),
        }
    }

    fn audience_of(&mut self, name: RoomName, owner: ShardId) -> AudienceId {
        if let Some(id) = self.audience_by_name.get(&name) {
            return *id;
        }
        let (slot, generation) = self.audiences.insert(Audience::new(name.clone(), owner));
        let id = AudienceId { slot, generation, part: Part::Live };
        self.audience_by_name.insert(name, id);
        id
    }
}

/// A name that a client gave is against the rules.
pub(super) fn bad_name(field: &str, error: NameError) -> Refusal {
    Refusal { code: ErrorCode::BadRequest, message: format!("`{field}` is no good: {error}").into() }
}

/// Entries in a page.
pub(super) fn page_limit(limit: Option<u64>, default: usize) -> usize {
    limit.map_or(default, |limit| limit.min(PAGE_MAX as u64) as usize)
}

fn owned(content: Cow<'_, [u8]>) -> Bytes {
    match content {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => bytes.into(),
    }
}
