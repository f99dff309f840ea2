//! What a connection hears in its rooms, and whether it may: messages, gaps, signals, presence and pages of them.

use std::sync::Arc;

use hubbub::ids::{Epoch, Seq, UserName};
use hubbub::message::command::HistoryFrom;
use hubbub::message::event::{Message, Presence, PresentUser, Signal};

use super::{Reaction, Witness};
use crate::env::Env;

impl Witness {
    pub(super) fn on_message(&mut self, message: &Message, env: &mut Env) {
        env.seen.messages += 1;
        let author = self.author;
        let Some(room) = env.room(&message.room) else {
            return env.fail(|| format!("message of {:?}", message.room));
        };
        let Some(view) = self.views.get_mut(&room) else {
            return env.fail(|| format!("{author:?} is not in {room} and got {message:?}"));
        };
        if view.fed.is_some() {
            return self.on_fed(room, message, 1, env);
        }
        let seq = message.seq.0;
        let early = env.plan.is_durable(room) && !env.store.has(&message.room, message.seq);
        env.seen.heard_before_the_disk += u64::from(early);
        let may_jump = !view.tags.is_empty() || self.no_echo.contains(&room);
        let before = env.truth.alive_before(room, view.epoch.0, seq);
        if let Err(what) = view.advance(before, seq, seq, may_jump) {
            return env.fail(|| format!("{author:?} in {room}: {what}"));
        }
        if message.timestamp < view.last_timestamp {
            env.fail(|| format!("{author:?} in {room}: time goes back at {seq}"));
        }
        view.last_timestamp = message.timestamp;
        let placed = env.truth.place(room, view.epoch, message);
        let number = placed.unwrap_or_else(|what| {
            env.fail(|| what);
            None
        });
        if message.deleted {
            return;
        }
        view.readable.insert(seq);
        let Some(number) = number else { return };
        let sent = &env.truth.sent[number];
        if view.last_numbers.insert(sent.author, number).is_some_and(|last| last >= number) {
            env.fail(|| format!("{author:?} in {room}: {number} is out of its sender's order"));
            return;
        }
        let unwanted = sent.tag.as_ref().is_some_and(|tag| !view.wants(tag));
        // A replay gives the log as it is, with what is published while it runs.
        let own = sent.author == author && !sent.echo && seq > view.head && !view.replayed;
        if unwanted || own {
            env.fail(|| format!("{author:?} in {room} did not want {message:?}"));
        }
    }

    pub(super) fn on_redelivered(&mut self, message: &Message, attempt: u32, env: &mut Env) {
        let room = env.room(&message.room);
        let consumes = |room: &usize| self.views.get(room).is_some_and(|view| view.fed.is_some());
        match room.filter(consumes) {
            Some(room) if attempt > 1 => self.on_fed(room, message, attempt, env),
            _ => env.fail(|| format!("{:?} got {message:?} for the {attempt}th time", self.author)),
        }
    }

    pub(super) fn on_gap(&mut self, room: Option<usize>, from: u64, to: u64, env: &mut Env) {
        let author = self.author;
        let Some((room, view)) = room.and_then(|room| Some((room, self.views.get_mut(&room)?))) else {
            return env.fail(|| format!("{author:?} got a gap of room {room:?}, where it is not"));
        };
        if env.truth.was_told((author, room, from, to)) {
            env.seen.outbox_gaps += 1;
            if view.fed.is_some() {
                // It comes again.
                return;
            }
        } else {
            env.seen.retention_gaps += 1;
            let name = &env.plan.rooms[room];
            let fair = to <= env.store.trimmed(view.epoch).0 || env.store.was_unreadable(name);
            if !env.plan.is_durable(room) {
                env.truth.lost.insert((room, view.epoch.0, to));
            } else if !fair {
                env.fail(|| format!("{author:?} in {room}: gap {from}..={to} in a durable log"));
            }
        }
        let may_jump = !view.tags.is_empty() || self.no_echo.contains(&room);
        let before = env.truth.alive_before(room, view.epoch.0, from);
        if let Err(what) = view.advance(before, from, to, may_jump) {
            env.fail(|| format!("{author:?} in {room}: gap {from}..={to}: {what}"));
        }
    }

    pub(super) fn on_signal(&mut self, signal: &Signal, env: &mut Env) {
        env.seen.signals += 1;
        let author = self.author;
        let number = match env.truth.number(&signal.content) {
            Ok(number) => number,
            Err(what) => return env.fail(|| what),
        };
        let room = env.room(&signal.room);
        let Some(view) = room.and_then(|room| self.views.get_mut(&room)) else {
            return env.fail(|| format!("{author:?} is not in {room:?} and got signal {number}"));
        };
        let sender = env.truth.sent[number].author;
        let in_order = view.signals.iter().rev().find(|n| env.truth.sent[**n].author == sender) < Some(&number);
        if Some(env.truth.sent[number].room) != room || !in_order || !view.signals.insert(number) {
            env.fail(|| format!("{author:?} in {room:?}: signal {number} twice, late or from elsewhere"));
        }
        if let Some(last) = view.last_signal.replace(number).filter(|_| !env.plan.skips()) {
            let follows = env.truth.follow(last, number);
            env.check(follows);
        }
    }

    pub(super) fn on_deleted(&mut self, room: Option<usize>, seq: u64, env: &mut Env) {
        let author = self.author;
        let Some(view) = room.and_then(|room| self.views.get_mut(&room)) else {
            return env.fail(|| format!("{author:?} is not in {room:?} and was told of a deletion"));
        };
        view.readable.remove(&seq);
        if !view.told_deleted.insert(seq) {
            env.fail(|| format!("{author:?} in {room:?}: {seq} was deleted twice"));
        }
    }

    pub(super) fn on_presence(&mut self, presence: &Presence, env: &mut Env) {
        env.seen.presence_pushes += 1;
        let author = self.author;
        let room = env.room(&presence.room);
        let Some(people) = room.and_then(|r| self.views.get_mut(&r)).and_then(|view| view.people.as_mut()) else {
            return env.fail(|| format!("{author:?} did not ask for the presence of {room:?}"));
        };
        if presence.joined.iter().any(|user| presence.left.contains(user)) {
            env.fail(|| format!("came and went: {presence:?}"));
        }
        people.users.extend(presence.joined.iter().cloned());
        people.users.retain(|user| !presence.left.contains(user));
        people.count = Some(presence.count);
    }

    pub(super) fn on_page_of_users(
        &mut self,
        room: usize,
        membership: u64,
        after: Option<&UserName>,
        users: &[PresentUser],
        next: Option<&UserName>,
        env: &mut Env,
    ) -> Reaction {
        let sorted = users.is_sorted_by(|a, b| a.user < b.user);
        let first = users.first().map(|first| &first.user);
        if !sorted || first.is_some_and(|first| after.is_some_and(|after| first <= after)) {
            env.fail(|| format!("page of presence after {after:?}: {users:?}"));
        }
        let Some(view) = self.views.get_mut(&room).filter(|view| view.membership == membership) else {
            return Reaction::None;
        };
        let Some(people) = view.people.as_mut() else { return Reaction::None };
        people.users.extend(users.iter().map(|present| present.user.clone()));
        people.complete = next.is_none();
        match next {
            Some(next) => Reaction::PresencePage { room, after: Some(next.clone()) },
            None => Reaction::None,
        }
    }

    pub(super) fn on_page_of_history(
        &mut self,
        room: usize,
        from: HistoryFrom,
        limit: usize,
        (epoch, messages, more): (Epoch, &[Arc<Message>], bool),
        env: &mut Env,
    ) {
        for message in messages {
            let placed = env.truth.place(room, epoch, message).map(|_| ());
            env.check(placed);
        }
        let first = messages.first().map_or(0, |first| first.seq.0);
        let last = messages.last().map_or(0, |last| last.seq.0);
        let follows = |pair: &[Arc<Message>]| env.truth.alive_before(room, epoch.0, pair[1].seq.0) == pair[0].seq.0;
        let dense = messages.windows(2).all(follows);
        let in_range = match from {
            HistoryFrom::Latest => true,
            HistoryFrom::Before(Seq(before)) => messages.is_empty() || last < before,
            HistoryFrom::After(Seq(after)) => messages.is_empty() || first > after,
        };
        let whole = if env.plan.is_durable(room) {
            let trimmed = env.store.trimmed(epoch).0;
            let before = env.truth.alive_before(room, epoch.0, first);
            match from {
                _ if messages.is_empty() => !more,
                HistoryFrom::After(Seq(after)) => before <= after.max(trimmed),
                HistoryFrom::Before(_) | HistoryFrom::Latest => more || before <= trimmed,
            }
        } else {
            is_whole(from, (first, last), (messages.len(), limit), more, env)
        };
        if !dense || !in_range || messages.len() > limit || !whole {
            env.fail(|| format!("page of history of {room} {from:?} {limit}: {first}..={last}, more {more}"));
        }
        self.page = Some((messages.iter().map(|message| message.seq.0).collect(), more));
    }
}

/// Whether a page of a memory room has all that there is of what was asked for.
fn is_whole(from: HistoryFrom, (first, last): (u64, u64), (len, limit): (usize, usize), more: bool, env: &Env) -> bool {
    let kept = last.min(env.plan.history_size as u64);
    match from {
        _ if env.plan.history_bytes_tight => !more || len > 0,
        HistoryFrom::Latest => len as u64 == kept.min(limit as u64) && more == (first > last - kept + 1),
        HistoryFrom::After(Seq(after)) if len > 0 && !more => first == (after + 1).max(last - kept + 1),
        _ => !more || len > 0,
    }
}
