//! The model of a shard's shell: it hands inputs to the core and does what the core asks, as the real one does, but
//! with a socket that is a function call and a clock that is a number.

mod ending;
mod stored;

use std::sync::Arc;

use bytes::{Buf, Bytes};
use hubbub::chat::outbox::{Batch, Gap, Kind, OutboxLimits, Pushed};
use hubbub::chat::{AudienceId, ConnKind, Delivery, Handled, Input, Output, Request, State};
use hubbub::ids::{ConnId, ShardId};
use hubbub::message::close::CloseReason;
use hubbub::message::event::{Event, Reply};

use crate::client::Inbound;
use crate::env::Env;
use crate::faults::Deed;
use crate::link::Link;
use crate::mailbox::Mailbox;
use crate::outsiders;
use crate::truth::Author;
use crate::wire::Item;

/// One shard.
#[derive(Debug)]
pub struct Shell {
    pub id: ShardId,
    pub state: State,
    slots: Vec<Slot>,
    scratch: Vec<u8>,
    /// Who is to be identified, by token and name.
    strangers: Vec<Stranger>,
}

/// A connection, the token that it shows, and the name that it gives.
type Stranger = (ConnId, Option<Box<str>>, Option<Box<str>>);

/// A place for a connection.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    link: Option<Link>,
}

/// Something that a shell could do now.
#[derive(Clone, Copy, Debug)]
pub enum Chore {
    /// Hand the next thing that the peer sent to the core.
    Read(u32),
    /// Read a connection again.
    Resume(u32),
    /// Let the peer read some bytes.
    Write(u32),
    /// Say that an outbox has room for the next chunk of a replay.
    Replay(u32),
    /// Notice that the peer has vanished.
    Gone(u32),
    /// Tell the core that a connection is closed.
    Tell(u32),
    /// Forget a connection that is flushed or out of time.
    Free(u32),
    /// Close a connection whose outbox made no progress.
    Stalled(u32),
    /// Time has come for the core.
    Tick,
    /// Move what waits for another shard into its mailboxes.
    Flush(ShardId),
    /// Hand what is to be stored and asked to the store.
    Store,
    /// Say who somebody is.
    Identify,
}

/// What a chore means to the client at the other end.
#[derive(Debug)]
pub enum Effect {
    None,
    /// There was nothing to do after all.
    Idle,
    /// It reads these bytes.
    Bytes(Author, Bytes),
    /// Its connection is over without another word.
    Over(Author),
}

/// The two queues from one shard to another.
#[derive(Debug)]
pub struct Lane {
    pub deliveries: Mailbox<Delivery>,
    pub requests: Mailbox<Request>,
}

impl Shell {
    pub fn new(id: ShardId, env: &Env) -> Self {
        let state = State::new(env.plan.core_config(id, env.life));
        Self { id, state, slots: Vec::new(), scratch: Vec::new(), strangers: Vec::new() }
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.slots.iter().filter_map(|slot| slot.link.as_ref())
    }

    fn link(&self, slot: u32) -> Option<&Link> {
        self.slots.get(slot as usize)?.link.as_ref()
    }

    pub fn link_mut(&mut self, slot: u32) -> Option<&mut Link> {
        self.slots.get_mut(slot as usize)?.link.as_mut()
    }

    /// Accepts a connection. Slots are used again as soon as they are free, so stale names would be found out.
    pub fn open(&mut self, who: (Author, bool), limits: OutboxLimits, kind: ConnKind, env: &mut Env) -> u32 {
        let free = self.slots.iter().position(|slot| slot.link.is_none());
        let slot = free.unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let entry = &mut self.slots[slot];
        entry.generation += 1;
        let conn = ConnId { slot: slot as u32, generation: entry.generation };
        entry.link = Some(Link::new(who, limits, conn, env.now.ms()));
        let entropy = env.rng.next_u128();
        self.give(Input::Opened { conn, kind, entropy }, env);
        slot as u32
    }

    /// What could be done now.
    pub fn chores(&self, lanes: &[Lane], env: &Env, list: &mut Vec<Chore>) {
        for (slot, link) in self.slots.iter().enumerate() {
            if let Some(link) = &link.link {
                link.chores(slot as u32, env, list);
            }
        }
        if self.state.next_deadline_ms().is_some_and(|deadline| deadline <= env.now.ms()) {
            list.push(Chore::Tick);
        }
        for to in self.state.outgoing() {
            let lane = &lanes[to.index()];
            if lane.deliveries.has_room() || lane.requests.has_room() {
                list.push(Chore::Flush(*to));
            }
        }
        if (self.state.has_log_batch() || self.state.has_log_reads()) && env.store.takes(self.id.index(), env.now.us) {
            list.push(Chore::Store);
        }
        if !self.strangers.is_empty() {
            list.push(Chore::Identify);
        }
    }

    pub fn carry_out(&mut self, chore: Chore, lanes: &mut [Lane], env: &mut Env) -> Effect {
        match chore {
            Chore::Read(slot) => self.read(slot, env),
            Chore::Resume(slot) => {
                let Some(link) = self.link_mut(slot) else { return Effect::None };
                (link.paused, link.heard_ms) = (false, env.now.ms());
                let conn = link.conn;
                self.state.reading_resumed(conn, env.now);
            }
            Chore::Write(slot) => return self.write(slot, env),
            Chore::Replay(slot) => {
                let Some(link) = self.link_mut(slot) else { return Effect::None };
                let which = env.rng.below(link.replays_owed.len());
                let (conn, audience) = (link.conn, link.replays_owed.swap_remove(which));
                self.give(Input::ReplayReady { conn, audience }, env);
            }
            Chore::Gone(slot) => {
                let Some(link) = self.slots[slot as usize].link.take() else { return Effect::None };
                if !link.closing.is_some_and(|closing| closing.told) {
                    self.give(Input::Closed { conn: link.conn, reason: CloseReason::PeerGone }, env);
                }
            }
            Chore::Tell(slot) => {
                let Some(link) = self.link_mut(slot) else { return Effect::None };
                let Some(closing) = &mut link.closing else { return Effect::None };
                closing.told = true;
                let (conn, reason) = (link.conn, closing.reason);
                link.replays_owed.clear();
                self.give(Input::Closed { conn, reason }, env);
            }
            Chore::Free(slot) => {
                let link = self.slots[slot as usize].link.take();
                return link.map_or(Effect::None, |link| Effect::Over(link.author));
            }
            Chore::Stalled(slot) => {
                env.seen.stalls += 1;
                self.close_slow(slot, env);
            }
            Chore::Tick => self.tick(env),
            Chore::Flush(to) => return self.flush(to, &mut lanes[to.index()], env),
            Chore::Store => self.hand_over(env),
            Chore::Identify => {
                let which = env.rng.below(self.strangers.len());
                let (conn, token, name) = self.strangers.swap_remove(which);
                let identity = outsiders::identity(token.as_deref(), name.as_deref(), env.rng.next_u128());
                self.give(Input::Identified { conn, outcome: Ok(Arc::new(identity)) }, env);
            }
        }
        Effect::None
    }

    /// Hands one input to the core, which must take it, and does what it wants.
    pub fn give(&mut self, input: Input<'_>, env: &mut Env) {
        if self.offer(input, env) == Handled::Blocked {
            env.fail(|| "an input was blocked that never may be".into());
        }
    }

    fn offer(&mut self, input: Input<'_>, env: &mut Env) -> Handled {
        let id = self.id.0;
        env.note(|| format!("shard {id} takes {input:?}"));
        let handled = self.state.handle(input, env.now);
        let outputs = self.do_outputs(env);
        if handled == Handled::Blocked {
            env.note(|| format!("shard {id} is blocked"));
            env.seen.blocked += 1;
            if outputs > 0 {
                env.fail(|| "an input that was blocked had effects".into());
            }
        }
        handled
    }

    fn tick(&mut self, env: &mut Env) {
        self.give(Input::Tick, env);
        if self.state.next_deadline_ms().is_some_and(|deadline| deadline <= env.now.ms()) {
            env.fail(|| "a tick left its deadline where it was".into());
        }
    }

    fn read(&mut self, slot: u32, env: &mut Env) {
        let now_ms = env.now.ms();
        let Some(link) = self.link_mut(slot) else { return };
        let Some(inbound) = link.inbound.front().cloned() else { return };
        let conn = link.conn;
        if env.rng.chance(1, 64) {
            link.paused = true;
            return self.state.reading_paused(conn);
        }
        if !matches!(inbound, Inbound::HalfClose) {
            link.heard_ms = now_ms;
            self.state.alive(conn, env.now);
        }
        let handled = match inbound {
            Inbound::Command(command) => self.offer(Input::Command { conn, command }, env),
            Inbound::JoinFromUrl(room) => self.offer(Input::JoinFromUrl { conn, room: &room }, env),
            Inbound::Relay(frame) => self.offer(Input::Relay { conn, frame }, env),
            Inbound::Bad { id, code } => {
                self.give(Input::BadCommand { conn, id, code, message: "no such command".into() }, env);
                Handled::Done
            }
            Inbound::HalfClose => {
                self.give(Input::Finished { conn, reason: CloseReason::Normal, reads_on: true }, env);
                Handled::Done
            }
            Inbound::Pong => Handled::Done,
        };
        if let Some(link) = self.link_mut(slot) {
            match handled {
                Handled::Done => _ = link.inbound.pop_front(),
                Handled::Blocked => link.blocked = true,
            }
        }
    }

    /// The kernel takes a batch, the peer reads some bytes of it.
    fn write(&mut self, slot: u32, env: &mut Env) -> Effect {
        let Some(link) = self.slots.get_mut(slot as usize).and_then(|slot| slot.link.as_mut()) else {
            return Effect::None;
        };
        if link.flying.is_empty() {
            match link.outbox.take_batch(&mut self.scratch) {
                None => return Effect::None,
                Some(Batch::Frame(frame)) => link.flying = frame,
                Some(Batch::Gathered) => link.flying = Bytes::copy_from_slice(&self.scratch),
            }
        }
        let len = link.flying.len();
        let n = if env.rng.chance(1, 2) { len } else { env.rng.range(1, len as u64) as usize };
        let bytes = link.flying.split_to(n);
        let left = link.outbox.written(n, env.now.ms());
        if left != link.flying.remaining() {
            env.fail(|| format!("{left} bytes left, says the outbox"));
        }
        link.outbox.check_invariants();
        let (author, limits) = (link.author, link.limits);
        while let Some(gap) = self.link_mut(slot).and_then(|link| link.outbox.next_gap(&limits)) {
            self.tell_gap(slot, gap, env);
        }
        if let Some(link) = self.link_mut(slot).filter(|link| link.outbox.is_empty()) {
            link.outbox.release();
        }
        Effect::Bytes(author, bytes)
    }

    /// Moves what waits for another shard into the mailboxes that have room.
    fn flush(&mut self, to: ShardId, lane: &mut Lane, env: &mut Env) -> Effect {
        let ready_us = env.now.us + env.rng.range(0, env.plan.delay_us_max);
        let mut moved = 0;
        if lane.deliveries.has_room() {
            let mut deliveries = self.state.take_deliveries(to);
            moved += deliveries.len();
            if let Some(fault) = &mut env.fault {
                fault.on_batch(&mut deliveries);
            }
            lane.deliveries.send(deliveries, ready_us);
        }
        if lane.requests.has_room() {
            let requests = self.state.take_requests(to);
            moved += requests.len();
            lane.requests.send(requests, ready_us);
        }
        self.do_outputs(env);
        if moved == 0 {
            env.seen.mailboxes_full += 1;
            return Effect::Idle;
        }
        Effect::None
    }

    /// Does what the core wants; returns how much that was, but for who was unblocked.
    fn do_outputs(&mut self, env: &mut Env) -> usize {
        let mut count = 0;
        while let Some(output) = self.state.poll_output() {
            // Whoever waits may be woken at any time.
            count += usize::from(!matches!(output, Output::Unblocked { .. }));
            let id = self.id.0;
            env.note(|| format!("shard {id} wants {output:?}"));
            match output {
                Output::Send { conn, event } => self.send(conn, Item::Event(event), env),
                Output::Fanout { audience, event, except } => self.fan_out(audience, event, except, env),
                Output::ReplayChunk { conn, audience, messages, attempt } => {
                    for message in messages {
                        if let (Some(link), Some(room)) = (self.link(conn.slot), env.room(&message.room)) {
                            env.note_sent(link.author, room, message.seq.0, attempt);
                        }
                        let event = match attempt {
                            1 => Event::Message(message),
                            _ => Event::Redelivered { message, attempt },
                        };
                        self.send(conn, Item::Event(event), env);
                    }
                    if let Some(link) = self.live_link(conn, env) {
                        link.replays_owed.push(audience);
                    }
                }
                Output::Ping { conn } => self.send(conn, Item::Ping, env),
                Output::Close { conn, reason } => self.close(conn, reason, env),
                Output::Answered { outcome: Ok(_), .. } => {}
                Output::Answered { ticket, outcome } => env.fail(|| format!("order {ticket} got {outcome:?}")),
                Output::Identify { conn, token, name, .. } => self.strangers.push((conn, token, name)),
                Output::Consult { .. } => env.fail(|| "nobody is to be asked".into()),
                Output::Noted(_) => {}
                Output::Unblocked { conn } => match self.live_link(conn, env) {
                    Some(link) if !link.blocked => env.fail(|| format!("{conn:?} was not blocked")),
                    Some(link) => link.blocked = false,
                    None => {}
                },
            }
        }
        // What is broken stays broken; looking at everything every time takes too long.
        if env.rng.chance(1, 4) {
            self.state.check_invariants();
        }
        count
    }

    fn fan_out(&mut self, audience: AudienceId, event: Event, except: Option<ConnId>, env: &mut Env) {
        let members = self.state.audience(audience).to_vec();
        let item = Item::Event(event);
        self.record(&item, env);
        let frame = env.wire.encode(item.clone());
        for conn in members.into_iter().filter(|conn| Some(*conn) != except) {
            self.push_spoilt(conn, frame.clone(), &item, env);
        }
    }

    fn send(&mut self, conn: ConnId, item: Item, env: &mut Env) {
        self.record(&item, env);
        if let (Item::Event(Event::Welcome { body, .. }), Some(link)) = (&item, self.link(conn.slot)) {
            env.users.insert(link.author, body.user.clone());
        }
        if let (Item::Event(Event::Ok { body: Reply::Joined(joined), .. }), Some(link)) = (&item, self.link(conn.slot))
        {
            env.note_joined(link.author, env.room(&joined.room));
        }
        let frame = env.wire.encode(item.clone());
        self.push_spoilt(conn, frame, &item, env);
    }

    /// Pushes, unless the harness commits its fault on this very frame.
    fn push_spoilt(&mut self, conn: ConnId, frame: Bytes, item: &Item, env: &mut Env) {
        let deed = env.fault.as_mut().map_or(Deed::Pass, |fault| fault.on_frame(conn, &frame, item));
        match deed {
            Deed::Pass => self.push(conn, frame, item, env),
            Deed::Drop => env.note(|| format!("FAULT {conn:?} loses {item:?}")),
            Deed::Twice => {
                self.push(conn, frame.clone(), item, env);
                self.push(conn, frame, item, env);
            }
            Deed::ThenHeld(held, held_item) => {
                self.push(conn, frame, item, env);
                self.push(conn, held, &held_item, env);
            }
        }
    }

    fn push(&mut self, conn: ConnId, frame: Bytes, item: &Item, env: &mut Env) {
        let Some(link) = self.live_link(conn, env) else { return };
        if link.closing.is_some() {
            return;
        }
        if let Item::Event(event) = item {
            let author = link.author;
            outsiders::judge_receiver(author, event, env);
        }
        if tells_gaps_first(item) {
            while let Some(gap) = self.live_link(conn, env).and_then(|link| link.outbox.take_gap()) {
                self.tell_gap(conn.slot, gap, env);
            }
        }
        self.enqueue(conn.slot, frame, item, env);
    }

    fn enqueue(&mut self, slot: u32, frame: Bytes, item: &Item, env: &mut Env) {
        let Some(link) = self.link_mut(slot) else { return };
        if link.closing.is_some() {
            return;
        }
        let pushed = link.outbox.push(frame, kind_of(item), &link.limits, env.now.ms());
        link.outbox.check_invariants();
        if pushed == Pushed::Overflow {
            self.close_slow(slot, env);
        }
    }

    fn tell_gap(&mut self, slot: u32, gap: Gap, env: &mut Env) {
        let Some(author) = self.link(slot).map(|link| link.author) else { return };
        let Some(room) = env.room(&gap.room) else { return env.fail(|| format!("gap in {:?}", gap.room)) };
        env.truth.gaps.push((author, room, gap.from.0, gap.to.0));
        let item = Item::Event(Event::Gap { room: gap.room, from: gap.from, to: gap.to });
        let frame = env.wire.encode(item.clone());
        let conn = self.slots[slot as usize].link.as_ref().expect("it was just there").conn;
        match env.fault.as_mut().map_or(Deed::Pass, |fault| fault.on_frame(conn, &frame, &item)) {
            Deed::Drop => env.note(|| format!("FAULT {conn:?} loses {item:?}")),
            _ => self.enqueue(slot, frame, &item, env),
        }
    }

    /// The connection that the core means; it may not mean one of which it was told that it is closed.
    fn live_link(&mut self, conn: ConnId, env: &mut Env) -> Option<&mut Link> {
        let link = self.slots.get_mut(conn.slot as usize).and_then(|slot| slot.link.as_mut());
        let link = link.filter(|link| link.conn == conn && !link.closing.is_some_and(|closing| closing.told));
        if link.is_none() {
            env.fail(|| format!("output for {conn:?}, which is closed"));
        }
        link
    }
}

fn kind_of(item: &Item) -> Kind<'_> {
    match item {
        Item::Event(Event::Message(message) | Event::Redelivered { message, .. }) => {
            Kind::Message { room: &message.room, seq: message.seq }
        }
        Item::Event(Event::Signal(_)) => Kind::Signal,
        Item::Event(_) | Item::Ping => Kind::Control,
        Item::Goodbye(_) => Kind::Goodbye,
    }
}

/// Replies that may end or renew a membership come after what was skipped of the membership before.
fn tells_gaps_first(item: &Item) -> bool {
    matches!(
        item,
        Item::Event(Event::Gap { .. } | Event::Kicked { .. } | Event::Ok { body: Reply::Done | Reply::Joined(_), .. })
    )
}
