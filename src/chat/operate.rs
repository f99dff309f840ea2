//! What operators want of a shard, and what they are told.
//!
//! Orders come from outside all rooms and connections. One about a room goes to the room's owner, where it is taken like
//! a request of a member that sits nowhere: its answers are those for [`OPERATOR`], a connection that nobody has.
//!
//! Invariants: every order is answered exactly once, by [`Output::Answered`] with its ticket. A room that an operator
//! reads from the store stays until it is read (`RoomLog::reading`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

use crate::chat::Output;
use crate::chat::exchange::{Draft, Refusal, Request, RoomId};
use crate::chat::journal::{Answer, Waiter};
use crate::chat::log::{LetterOrder, SanctionRecord, Scope};
use crate::chat::publish::{NOT_MEMBER, Published};
use crate::chat::room::Room;
use crate::chat::session::Phase;
use crate::chat::state::State;
use crate::ids::{ConnId, Epoch, Namespace, RoomName, Seq, ShardId, UserName};
use crate::message::close::{CloseReason, ErrorCode};
use crate::message::command::HistoryFrom;
use crate::message::event::{KickNotice, Reply};
use crate::policy::RoomPolicy;

/// What an operator wants of a shard.
#[derive(Debug)]
pub enum Order {
    /// Something about a room that this shard owns.
    Room {
        /// Which.
        room: RoomName,
        /// What.
        order: RoomOrder,
    },
    /// List rooms that live here, in the order of names. Answered by [`OrderReply::Rooms`].
    Rooms {
        /// Begin after this name.
        after: Option<RoomName>,
        /// Only names that begin so. Inboxes are listed only if it begins as theirs do.
        prefix: Box<str>,
        /// Most rooms.
        limit: usize,
    },
    /// List connections, in the order of their slots. Answered by [`OrderReply::Connections`].
    Connections {
        /// Only this user's.
        user: Option<UserName>,
        /// Begin after this one.
        after: Option<ConnId>,
        /// Most connections.
        limit: usize,
    },
    /// Close connections. Answered by [`OrderReply::Count`].
    Disconnect(Target),
    /// Take a sanction into force, or lift it. One of a room goes to the room's owner, others to every shard. Answered by
    /// [`Reply::Done`] once it is stored.
    Sanction(Box<SanctionRecord>),
    /// Say what this shard knows against a user: what is in force in its rooms and, if it is the first shard, in the whole
    /// server. Answered by [`OrderReply::Sanctions`].
    Sanctions(UserName),
    /// List what is in force on the whole server: users, then tokens, in the order of names. The first shard's to answer.
    /// Answered by [`OrderReply::Sanctions`].
    ServerSanctions {
        /// Begin after this one.
        after: Option<Scope>,
        /// Most users and tokens.
        limit: usize,
    },
}

/// What an operator wants of a room.
#[derive(Debug)]
pub enum RoomOrder {
    /// Say something, also where nobody is. Answered by [`Reply::Sent`], as a member is.
    Publish {
        /// Under this name.
        sender: UserName,
        /// What.
        draft: Draft,
    },
    /// Read a page of the past. Answered by [`Reply::History`].
    History {
        /// From where.
        from: HistoryFrom,
        /// Most messages; at most [`crate::limits::PAGE_MAX`].
        limit: usize,
    },
    /// Read a page of the users. Answered by [`Reply::Users`].
    Presence {
        /// Begin after this name.
        after: Option<UserName>,
        /// Most users; at most [`crate::limits::PAGE_MAX`].
        limit: usize,
    },
    /// Say what there is of it. Answered by [`OrderReply::Room`], or `not_found`.
    Look,
    /// Put a user out, who may come back. Answered by [`OrderReply::Count`], or `not_found`.
    Kick(UserName),
    /// Put everyone out. Answered by [`OrderReply::Done`], or `not_found`.
    Close,
    /// Do something with its dead letters. Answered by [`OrderReply::Done`] once it is on its way to the store.
    Letters(LetterOrder),
}

/// Whom to close.
#[derive(Clone, Debug)]
pub enum Target {
    /// All connections of a user.
    User(UserName),
    /// One connection.
    Connection(ConnId),
}

/// An answer to an [`Order`].
#[derive(Debug)]
pub enum OrderReply {
    /// It is done.
    Done,
    /// What a member would be told.
    Said(Reply),
    /// One room.
    Room(Box<RoomView>),
    /// A page of rooms.
    Rooms {
        /// In the order of names.
        rooms: Vec<RoomView>,
        /// Whether there are more after the last one.
        more: bool,
    },
    /// A page of connections.
    Connections {
        /// In the order of slots.
        connections: Vec<ConnectionView>,
        /// Whether there are more after the last one.
        more: bool,
    },
    /// So many.
    Count(u64),
    /// What is in force, in no order.
    Sanctions(Vec<SanctionRecord>),
}

/// A room as operators see it.
#[derive(Clone, Debug)]
pub struct RoomView {
    /// Which.
    pub room: RoomName,
    /// Which life of its log.
    pub epoch: Epoch,
    /// The last position given.
    pub head: Seq,
    /// Users present.
    pub members: u64,
    /// Their connections.
    pub connections: u64,
    /// What is kept of it.
    pub policy: RoomPolicy,
    /// Bans and mutes in force, in no order. Only of one room that is looked at; pages leave them out.
    pub sanctions: Vec<SanctionRecord>,
}

/// A connection as operators see it.
#[derive(Clone, Debug)]
pub struct ConnectionView {
    /// Which.
    pub conn: ConnId,
    /// Who; nobody in the relay, and before `connect`.
    pub user: Option<UserName>,
    /// When its token ends, Unix milliseconds.
    pub expires_unix_ms: Option<u64>,
    /// The rooms it is in.
    pub rooms: Vec<RoomName>,
    /// What the shell knows of it; the core leaves it out.
    pub transport: Option<TransportView>,
}

/// What lies under a connection.
#[derive(Clone, Copy, Debug)]
pub struct TransportView {
    /// What it speaks, as metrics call it.
    pub kind: &'static str,
    /// When it was accepted, in Unix seconds.
    pub since_unix_s: u64,
    /// From where, if anything of the configuration depends on that.
    pub address: Option<IpAddr>,
}

/// The connection to which answers for operators go.
pub(super) const OPERATOR: ConnId = ConnId { slot: u32::MAX, generation: u32::MAX };

impl State {
    pub(super) fn on_order(&mut self, ticket: u64, order: Order) {
        match order {
            Order::Room { room, order } => self.order_about_room(ticket, room, order),
            Order::Rooms { after, prefix, limit } => {
                let (rooms, more) = self.view_rooms(after.as_ref(), &prefix, limit);
                self.answer_order(ticket, Ok(OrderReply::Rooms { rooms, more }));
            }
            Order::Connections { user, after, limit } => {
                let (connections, more) = self.view_connections(user.as_ref(), after, limit);
                self.answer_order(ticket, Ok(OrderReply::Connections { connections, more }));
            }
            Order::Disconnect(target) => {
                let count = self.disconnect(&target);
                self.answer_order(ticket, Ok(OrderReply::Count(count)));
            }
            Order::Sanction(record) => self.order_sanction(ticket, *record),
            Order::Sanctions(user) => {
                let sanctions = self.sanctions_of(&user);
                self.answer_order(ticket, Ok(OrderReply::Sanctions(sanctions)));
            }
            Order::ServerSanctions { after, limit } => {
                let sanctions = self.server_sanctions(after.as_ref(), limit);
                self.answer_order(ticket, Ok(OrderReply::Sanctions(sanctions)));
            }
        }
    }

    /// Answers once the sanction is stored, where this shard is the one that has it stored.
    fn order_sanction(&mut self, ticket: u64, record: SanctionRecord) {
        let stores = matches!(record.scope, Scope::Room(..)) || self.here == ShardId(0);
        match self.sanction(record) {
            Ok(()) if self.config.has_store && stores => {
                self.journal.wait(Waiter { shard: self.here, conn: OPERATOR, id: ticket, answer: Answer::Done });
            }
            outcome => self.answer_order(ticket, outcome.map(|()| OrderReply::Said(Reply::Done))),
        }
    }

    /// Carries out an order about a room of this shard, as soon as the room is open.
    pub(super) fn order_about_room(&mut self, ticket: u64, name: RoomName, order: RoomOrder) {
        let order = match order {
            RoomOrder::Letters(order) => {
                self.on_letters(&name, order);
                return self.answer_order(ticket, Ok(OrderReply::Done));
            }
            RoomOrder::Kick(user) => return self.order_kick(ticket, &name, &user),
            RoomOrder::Close => {
                let outcome = if self.close_room(&name) { Ok(OrderReply::Done) } else { Err(NOBODY) };
                return self.answer_order(ticket, outcome);
            }
            order => order,
        };
        let Some(id) = self.room_to_join(&name) else {
            let text = "this server holds as many rooms as it can: try again later";
            return self.answer_order(ticket, Err(Refusal::new(ErrorCode::Overloaded, text)));
        };
        if self.rooms.get(id.slot, id.generation).is_some_and(Room::is_opening) && !self.unparking {
            return self.park_in(self.here, id, Request::Operate { room: name, ticket, order: Box::new(order) });
        }
        self.obey(ticket, id, order);
        self.settle_room(id);
    }

    fn obey(&mut self, ticket: u64, id: RoomId, order: RoomOrder) {
        let here = self.here;
        let outcome = match order {
            RoomOrder::Publish { sender, draft } => {
                match self.publish_here(id, (here, OPERATOR), Some(ticket), sender, draft) {
                    Published::Answered(outcome) => outcome.map(OrderReply::Said),
                    Published::Waits => return,
                }
            }
            RoomOrder::History { from, limit } => {
                return self.history_here(here, (id, OPERATOR, ticket), from, limit);
            }
            RoomOrder::Presence { after, limit } => self.users_page(id, after.as_ref(), limit).map(OrderReply::Said),
            RoomOrder::Look => self.look_at(id).ok_or(NO_ROOM).map(|view| OrderReply::Room(Box::new(view))),
            // They are carried out whether the room is open or not.
            RoomOrder::Kick(_) | RoomOrder::Close | RoomOrder::Letters(_) => Ok(OrderReply::Done),
        };
        self.answer_order(ticket, outcome);
    }

    fn order_kick(&mut self, ticket: u64, room: &RoomName, user: &UserName) {
        let id = self.room_by_name.get(room).copied();
        let count = id.map_or(0, |id| self.put_out_user(id, user, KickNotice::new("kicked")));
        let outcome = if count > 0 { Ok(OrderReply::Count(count as u64)) } else { Err(NOT_THERE) };
        self.answer_order(ticket, outcome);
    }

    pub(super) fn answer_order(&mut self, ticket: u64, outcome: Result<OrderReply, Refusal>) {
        self.outputs.push_back(Output::Answered { ticket, outcome });
    }

    /// An operator's page of a durable room is being read from the store, or has been.
    pub(super) fn note_reading(&mut self, id: RoomId, conn: ConnId, begins: bool) {
        if conn != OPERATOR {
            return;
        }
        if let Some(log) = self.rooms.get_mut(id.slot, id.generation).and_then(|room| room.log.as_mut()) {
            log.reading = if begins { log.reading + 1 } else { log.reading - 1 };
        }
        if !begins {
            self.settle_room(id);
        }
    }

    /// A page of the users of a room.
    pub(super) fn users_page(&mut self, id: RoomId, after: Option<&UserName>, limit: usize) -> Result<Reply, Refusal> {
        let room = self.rooms.get_mut(id.slot, id.generation).ok_or(NOT_MEMBER)?;
        let people = room.people.as_mut().ok_or(NOT_MEMBER)?;
        let (users, more) = people.page(after, limit);
        let next = users.last().filter(|_| more).map(|last| last.user.clone());
        Ok(Reply::Users { users, count: people.count(), next })
    }

    /// A room with what is in force against users of it; that alone makes it known too.
    fn look_at(&self, id: RoomId) -> Option<RoomView> {
        let name = &self.rooms.get(id.slot, id.generation)?.name;
        let of_room = |record: &&SanctionRecord| matches!(&record.scope, Scope::Room(room, _) if room == name);
        let sanctions: Vec<_> = self.sanctions_in_force().filter(of_room).cloned().collect();
        let known = self.view_room(id, !sanctions.is_empty())?;
        Some(RoomView { sanctions, ..known })
    }

    fn sanctions_of(&self, user: &UserName) -> Vec<SanctionRecord> {
        let is_first = self.here == ShardId(0);
        let of_user = |record: &&SanctionRecord| match &record.scope {
            Scope::Room(_, of) => of == user,
            Scope::User(of) => is_first && of == user,
            Scope::Token(_) => false,
        };
        self.sanctions_in_force().filter(of_user).cloned().collect()
    }

    fn server_sanctions(&self, after: Option<&Scope>, limit: usize) -> Vec<SanctionRecord> {
        let mut page: BTreeMap<&Scope, Vec<&SanctionRecord>> = BTreeMap::new();
        for record in self.sanctions_in_force() {
            if matches!(record.scope, Scope::Room(..)) || after.is_some_and(|after| record.scope <= *after) {
                continue;
            }
            page.entry(&record.scope).or_default().push(record);
            if page.len() > limit {
                page.pop_last();
            }
        }
        page.into_values().flatten().cloned().collect()
    }

    fn sanctions_in_force(&self) -> impl Iterator<Item = &SanctionRecord> {
        let now = self.now.unix_ms;
        self.sanctions().filter(move |record| record.until_unix_ms.is_none_or(|until| until > now))
    }

    /// A room in which someone is, or of which something was ever said, or of which more is `known`.
    fn view_room(&self, id: RoomId, known: bool) -> Option<RoomView> {
        let room = self.rooms.get(id.slot, id.generation)?;
        let people = room.people.as_ref()?;
        let connections = room.listeners.iter().map(|listener| u64::from(listener.members)).sum();
        let exists = known || room.head > Seq(0) || connections > 0 || people.count() > 0;
        exists.then(|| RoomView {
            room: room.name.clone(),
            epoch: room.epoch,
            head: room.head,
            members: people.count(),
            connections,
            policy: self.config.policies.of(&room.name),
            sanctions: Vec::new(),
        })
    }

    fn view_rooms(&self, after: Option<&RoomName>, prefix: &str, limit: usize) -> (Vec<RoomView>, bool) {
        let first = RoomName::new(Namespace::Chat, prefix).ok();
        let start = match (after, &first) {
            (Some(after), Some(first)) if after < first => Bound::Included(first),
            (None, Some(first)) => Bound::Included(first),
            (Some(after), _) => Bound::Excluded(after),
            (None, None) => Bound::Unbounded,
        };
        let rooms = self.room_by_name.range::<RoomName, _>((start, Bound::Unbounded));
        let chat = rooms.take_while(|(name, _)| name.namespace() == Namespace::Chat);
        let fitting = chat
            .skip_while(|(name, _)| !name.as_str().starts_with(prefix))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter(|(name, _)| name.inbox_of().is_none() || prefix.starts_with('@'));
        let mut views = fitting.filter_map(|(_, id)| self.view_room(*id, false)).take(limit + 1).collect::<Vec<_>>();
        let more = views.len() > limit;
        views.truncate(limit);
        (views, more)
    }

    fn view_connections(
        &self,
        user: Option<&UserName>,
        after: Option<ConnId>,
        limit: usize,
    ) -> (Vec<ConnectionView>, bool) {
        let first = after.map_or(0, |after| after.slot as usize + 1);
        let sessions = (first..self.sessions.slots()).filter_map(|slot| self.sessions.at(slot));
        let open = sessions.filter_map(|conn| Some((conn, self.sessions.get(conn)?)));
        let fitting = open.filter(|(_, session)| {
            session.phase != Phase::Closing && user.is_none_or(|user| session.user() == Some(user))
        });
        let view = |(conn, session): (ConnId, &crate::chat::session::Session)| {
            let audiences = session.memberships.iter().filter_map(|member| self.audiences.at(member.audience));
            let rooms = audiences.map(|audience| audience.name.clone()).collect();
            ConnectionView {
                conn,
                user: session.user().cloned(),
                expires_unix_ms: session.identity().and_then(|identity| identity.expires_unix_ms),
                rooms,
                transport: None,
            }
        };
        let mut views: Vec<_> = fitting.map(view).take(limit + 1).collect();
        let more = views.len() > limit;
        views.truncate(limit);
        (views, more)
    }

    /// Closes connections; how many that were.
    fn disconnect(&mut self, target: &Target) -> u64 {
        match target {
            Target::User(user) => self.disconnect_user(user, CloseReason::Disconnected) as u64,
            Target::Connection(conn) => {
                let is_open = self.sessions.get(*conn).is_some_and(|session| session.phase != Phase::Closing);
                self.close(*conn, CloseReason::Disconnected);
                u64::from(is_open)
            }
        }
    }
}

const NO_ROOM: Refusal =
    Refusal::new(ErrorCode::NotFound, "there is no such room: nobody is in it, and nothing was ever said in it");
const NOBODY: Refusal = Refusal::new(ErrorCode::NotFound, "nobody is in this room");
const NOT_THERE: Refusal = Refusal::new(ErrorCode::NotFound, "this user is not in the room");
