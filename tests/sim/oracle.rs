//! The last judgement: a world at rest must look the same to everybody in it.

use std::collections::{BTreeMap, BTreeSet};

use hubbub::ids::{Seq, UserName};
use hubbub::message::command::HistoryFrom;

use crate::client::{Client, Session};
use crate::env::Env;
use crate::truth::What;
use crate::view::{Memory, View};
use crate::witness::{Asked, JoinAsked, Witness};
use crate::world::World;

/// Judges a world at rest: nothing is left to do, and what each client knows of presence is true.
pub fn judge(world: &mut World) {
    if let Some(unrest) = world.unrest() {
        world.env.fail(|| unrest);
    }
    let present = present(world);
    let World { env, clients, .. } = world;
    for witness in clients.iter().filter_map(Client::chat) {
        witness.check_answered(env);
        check_memberships(witness, env);
        for (room, view) in members(witness) {
            witness.check_fed(room, view, env);
            check_people(witness, room, view, &present, env);
            check_signals(witness, room, view, env);
            check_deletions(witness, room, view, env);
        }
        check_publications(witness, env);
    }
    let logs = env.truth.check_logs();
    env.check(logs);
    check_consumers(world);
    world.check_acknowledged();
}

/// A user has at most one consumer in a room.
fn check_consumers(world: &mut World) {
    let mut consumers = BTreeSet::new();
    let World { env, clients, .. } = world;
    for witness in clients.iter().filter_map(Client::chat) {
        for (room, _) in members(witness).filter(|(_, view)| view.fed.is_some()) {
            if !consumers.insert((room, witness.user.clone())) {
                env.fail(|| format!("{:?} is not the only one of its user to consume {room}", witness.author));
            }
        }
    }
}

/// A newcomer asks for everything and says one word in each room: everybody must hear it, and nobody may have
/// missed anything before. Each relay room gets a word from one of its own.
pub fn call_the_roll(world: &mut World) {
    let present = present(world);
    let probe = world.clients.len();
    world.clients.push(Client::named(probe, PROBE.into(), None, false, false));
    let shard = world.env.rng.below(world.shells.len());
    let kind = hubbub::chat::ConnKind::Chat { connect: None, ping_as_event: true };
    world.clients[probe].connect_plainly();
    world.connect(probe, shard, kind, Vec::new());
    ask(world, probe, Asked::Connect);
    ask(world, probe, Asked::Rooms { after: None, limit: 1_000 });
    world.rest();
    check_rooms(world, probe, &present);
    for room in 0..world.env.plan.rooms.len() {
        ask(world, probe, Asked::Join(JoinAsked { room, presence: true, ..JoinAsked::default() }));
        ask(world, probe, Asked::History { room, from: HistoryFrom::Latest, limit: 1_000 });
    }
    world.rest();
    check_heads(world, probe);
    check_counts(world, probe, &present);
    if world.env.violation().is_some() {
        return;
    }
    for room in 0..world.env.plan.rooms.len() {
        let word = world.clients[probe].say(room, &mut world.env);
        world.send(probe, vec![word]);
    }
    speak_in_relay_rooms(world);
    world.let_time_pass(PRESENCE_SETTLE_MS);
    check_heads(world, probe);
    check_relay_rooms(world);
    check_stored(world, probe);
    judge(world);
}

/// A durable room's log can be read from its beginning, or from where retention has left it, to its head.
fn check_stored(world: &mut World, probe: usize) {
    for room in (0..world.env.plan.rooms.len()).filter(|room| world.env.plan.is_durable(*room)).collect::<Vec<_>>() {
        let mut seqs: Vec<u64> = Vec::new();
        loop {
            let from = HistoryFrom::After(Seq(seqs.last().copied().unwrap_or_default()));
            ask(world, probe, Asked::History { room, from, limit: 1_000 });
            world.rest();
            let page = world.clients[probe].chat_mut().and_then(|newcomer| newcomer.page.take());
            let Some((page, more)) = page else { return };
            seqs.extend(page);
            if !more {
                break;
            }
        }
        let World { env, clients, .. } = world;
        let Some(view) = clients[probe].chat().and_then(|newcomer| newcomer.views.get(&room)) else { return };
        let epoch = view.epoch;
        let follows = |pair: &[u64]| env.truth.alive_before(room, epoch.0, pair[1]) == pair[0];
        let whole = seqs.windows(2).all(follows) && seqs.last() == Some(&(view.next - 1));
        let first = seqs.first().map_or(0, |first| env.truth.alive_before(room, epoch.0, *first));
        if !whole || first > env.store.trimmed(epoch).0 {
            env.fail(|| format!("the log of {room} is {seqs:?}"));
        }
        let spot = |seq| (room, epoch.0, seq);
        let (from, to) = (spot(seqs.first().copied().unwrap_or_default()), spot(u64::MAX));
        let lost = env.truth.durable.range(from..=to).find(|(_, _, seq)| seqs.binary_search(seq).is_err());
        if let Some(lost) = lost.copied() {
            env.fail(|| format!("{lost:?} was durable and cannot be read"));
        }
    }
}

fn ask(world: &mut World, client: usize, asked: Asked) {
    if world.env.violation().is_none() {
        let inbound = world.clients[client].request(asked, &mut world.env);
        world.send(client, vec![inbound]);
    }
}

/// Who is in each room, as the clients know of themselves.
fn present(world: &World) -> BTreeMap<usize, BTreeSet<UserName>> {
    let mut present: BTreeMap<usize, BTreeSet<UserName>> = BTreeMap::new();
    for witness in world.clients.iter().filter_map(Client::chat) {
        for (room, _) in members(witness) {
            present.entry(room).or_default().extend(witness.user.clone());
        }
    }
    present
}

/// The views that last.
fn members(witness: &Witness) -> impl Iterator<Item = (usize, &View)> {
    witness.views.iter().filter(|(_, view)| !view.leaving).map(|(room, view)| (*room, view))
}

/// Being in a room is what came of the commands in the order they were sent.
fn check_memberships(witness: &Witness, env: &mut Env) {
    let is_in: BTreeSet<usize> = members(witness).map(|(room, _)| room).collect();
    if is_in != witness.member_of {
        env.fail(|| format!("{:?} is in {is_in:?} and should be in {:?}", witness.author, witness.member_of));
    }
}

fn check_people(
    witness: &Witness,
    room: usize,
    view: &View,
    present: &BTreeMap<usize, BTreeSet<UserName>>,
    env: &mut Env,
) {
    let Some(people) = &view.people else { return };
    let truth = &present[&room];
    let count_is_right = people.count.is_none_or(|count| count == truth.len() as u64);
    if !people.complete || people.users != *truth || !count_is_right {
        env.fail(|| format!("{:?} believes of {room}: {people:?}, the truth is {truth:?}", witness.author));
    }
}

/// A signal that was accepted reaches everyone who was in for long enough, unless frames may be skipped.
fn check_signals(witness: &Witness, room: usize, view: &View, env: &mut Env) {
    if env.plan.skips() {
        return;
    }
    let sent = env.truth.sent.iter().enumerate();
    let due = sent.filter(|(_, sent)| sent.what == What::Signal && sent.room == room && sent.accepted);
    let missed = due.filter(|(_, sent)| sent.step > view.since_step).find(|(n, _)| !view.signals.contains(n));
    if let Some((number, sent)) = missed.map(|(number, sent)| (number, sent.clone())) {
        env.fail(|| format!("{:?} in {room} missed signal {number} {sent:?}", witness.author));
    }
}

/// Whoever read a message that was deleted knows of it.
fn check_deletions(witness: &Witness, room: usize, view: &View, env: &mut Env) {
    let unaware = view.readable.iter().find(|seq| env.truth.buried.contains(&(room, view.epoch.0, **seq)));
    if let Some(seq) = unaware.copied() {
        env.fail(|| format!("{:?} in {room} was not told that {seq} is deleted", witness.author));
    }
}

/// Everything that a member sent was published, with or without a reply.
fn check_publications(witness: &Witness, env: &mut Env) {
    let lost = env.truth.sent.iter().enumerate().find(|(_, sent)| {
        let view = witness.views.get(&sent.room).filter(|view| !view.leaving && view.since_step < sent.step);
        // What its own sender does not get may have been shown to nobody.
        let comes_back = view
            .is_some_and(|view| view.fed.is_none() && sent.echo && sent.tag.as_ref().is_none_or(|tag| view.wants(tag)));
        if sent.what != What::Message || (env.plan.is_durable(sent.room) && env.plan.store.fails()) {
            return false;
        }
        sent.author == witness.author && comes_back && !sent.accepted && !sent.again
    });
    if let Some((number, sent)) = lost.map(|(number, sent)| (number, sent.clone())) {
        env.fail(|| format!("{number} {sent:?} was never published"));
    }
}

/// Everybody has everything up to the head that the newcomer was told.
fn check_heads(world: &mut World, probe: usize) {
    let World { env, clients, .. } = world;
    let Some(newcomer) = clients[probe].chat() else { return env.fail(|| "the newcomer was closed".into()) };
    let heads: BTreeMap<usize, (u64, u64)> =
        newcomer.views.iter().map(|(room, view)| (*room, (view.epoch.0, view.next - 1))).collect();
    for witness in clients.iter().filter_map(Client::chat) {
        for (room, view) in members(witness) {
            let Some((epoch, _)) = heads.get(&room).copied() else {
                env.fail(|| format!("the newcomer could not enter {room}"));
                continue;
            };
            if view.epoch.0 != epoch {
                env.fail(|| format!("{:?} lives in another epoch of {room}", witness.author));
            }
        }
        for memory in witness.memories().filter(|memory| !memory.view.leaving) {
            let head = heads.get(&memory.room).map_or(0, |(_, head)| *head);
            check_stretch(&memory, head, env);
        }
    }
    let kept = env.plan.history_size as u64;
    for (room, epoch, to) in env.truth.lost.clone() {
        let head = heads.get(&room).filter(|(now, _)| *now == epoch).map(|(_, head)| *head);
        if head.is_some_and(|head| to + kept > head) && !env.plan.history_bytes_tight {
            env.fail(|| format!("gap up to {to} in {room}, the head is {head:?}, {kept} are kept"));
        }
    }
    for memory in std::mem::take(&mut env.past) {
        check_stretch(&memory, 0, env);
    }
}

/// What a member passed over was not meant for it, nor was what it has not got up to `head`.
fn check_stretch(memory: &Memory, head: u64, env: &mut Env) {
    let Memory { author, no_echo, room, view } = memory;
    if view.fed.is_some() {
        return;
    }
    // Where a replay found nothing left, what comes is what is said from then on.
    let next = if view.loose_start { view.next.max(view.head + 1) } else { view.next };
    let tail = (next <= head).then_some((next, head));
    for (from, to) in view.jumps.iter().copied().chain(tail) {
        let alive = (from..=to).filter(|seq| env.truth.alive_from(*room, view.epoch.0, *seq) == *seq);
        for seq in alive.collect::<Vec<u64>>() {
            let number = env.truth.places.get(&(*room, view.epoch.0, seq)).and_then(|place| place.number);
            let candidates = match number {
                Some(number) => vec![number],
                None => env.truth.published.get(&(*room, seq)).cloned().unwrap_or_default(),
            };
            let unwanted = candidates.iter().any(|number| {
                let sent = &env.truth.sent[*number];
                let filtered = sent.tag.as_ref().is_some_and(|tag| !view.wants(tag));
                filtered || (sent.author == *author && !sent.echo)
            });
            env.seen.filtered += u64::from(unwanted);
            // What nobody was shown was filtered by all, or was this client's own without echo. Without history a room
            // begins anew whenever it was empty, or after a crash, and the candidates may be of another epoch.
            let begins_anew = env.plan.history_size == 0 || env.life > 0;
            let unseen = number.is_none() && (candidates.is_empty() || begins_anew);
            let may_be_unseen = unseen && (*no_echo || !view.tags.is_empty());
            if !unwanted && !may_be_unseen {
                return env.fail(|| format!("{author:?} in {room} missed {seq}: {view:?}, head {head}"));
            }
        }
    }
}

/// The list of rooms is complete and its counts are true.
fn check_rooms(world: &mut World, probe: usize, present: &BTreeMap<usize, BTreeSet<UserName>>) {
    let World { env, clients, .. } = world;
    let Some(newcomer) = clients[probe].chat() else { return env.fail(|| "the newcomer was closed".into()) };
    let listed: BTreeMap<usize, u64> = newcomer.rooms.iter().copied().collect();
    for room in 0..env.plan.rooms.len() {
        let truth = present.get(&room).map_or(0, |users| users.len() as u64);
        let listed = listed.get(&room).copied().unwrap_or_default();
        if truth != listed {
            env.fail(|| format!("{room} is listed with {listed} members and has {truth}"));
        }
    }
}

/// The newcomer was told how many users there are, itself included.
fn check_counts(world: &mut World, probe: usize, present: &BTreeMap<usize, BTreeSet<UserName>>) {
    let World { env, clients, .. } = world;
    for (room, view) in clients[probe].chat().into_iter().flat_map(members) {
        let truth = present.get(&room).map_or(0, |users| users.len() as u64) + 1;
        if view.members != truth {
            env.fail(|| format!("{room} has {truth} users and says {}", view.members));
        }
    }
}

/// In each relay room one member sends a last frame.
fn speak_in_relay_rooms(world: &mut World) {
    for room in 0..world.env.plan.relay_rooms.len() {
        let is_in = |client: &Client| matches!(&client.session, Session::Relay(witness) if witness.room == room);
        let Some(client) = world.clients.iter().position(is_in) else { continue };
        let frame = world.clients[client].say_in_relay(&mut world.env);
        world.send(client, vec![frame]);
    }
}

/// All members of a relay room have read the same last frame, and got back whatever they sent.
fn check_relay_rooms(world: &mut World) {
    let mut lasts: BTreeMap<usize, usize> = BTreeMap::new();
    let World { env, clients, .. } = world;
    for client in clients.iter() {
        let Session::Relay(witness) = &client.session else { continue };
        let Some(last) = witness.last.filter(|_| witness.awaited.is_empty()) else {
            env.fail(|| format!("{witness:?} misses frames"));
            continue;
        };
        let first = *lasts.entry(witness.room).or_insert(last);
        if first != last {
            env.fail(|| format!("{witness:?} has read {last}, another member {first}"));
        }
    }
}

/// The newcomer's name.
const PROBE: &str = "probe";
/// Longer than the time between two pushes of presence.
const PRESENCE_SETTLE_MS: u64 = 2_500;
