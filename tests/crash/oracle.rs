//! What must hold of all that any client was ever told, over all lives of the server.
//!
//! The rules, each with a test below that breaks it:
//! 1. a (room, epoch, seq) names one message, whoever saw it and however;
//! 2. what was answered `durable: true` is in the history, with its position and content;
//! 3. a key is in the history once at most; and once, if it was promised;
//! 4. a client gets no message twice, and misses none between two that it got, over reconnects that were `recovered`,
//!    but for what retention took and a `gap` told of;
//! 5. a position that was in the log for certain is recovered;
//! 6. a history is in order: positions grow, each tells the one before it, time does not go back;
//! 7. nothing is there that nobody said, and nothing says other than it was said.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::HashMap;

use crate::observation::{Message, Observation, Position};
use crate::reader::History;

/// What a room promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every `ok` says `durable: true`.
    Durable,
    /// The log is kept, and an `ok` says so only of what was said before.
    Interval,
    /// As durable, and only the latest messages are kept.
    Trimmed,
    /// The log is gone with the process.
    Memory,
}

/// How much was put to the test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    pub acked: u64,
    pub durable: u64,
    pub duplicates: u64,
    pub refused: u64,
    pub recovered: u64,
    pub not_recovered: u64,
    pub resumed: u64,
    pub not_resumed: u64,
    pub passed_over: u64,
}

/// All that was ever told.
#[derive(Debug, Default)]
pub struct Oracle {
    modes: HashMap<Arc<str>, Mode>,
    said: HashMap<Arc<str>, Said>,
    logs: BTreeMap<(Arc<str>, u64), Log>,
    chains: BTreeMap<(Arc<str>, Arc<str>), Chain>,
    tally: Tally,
    violations: Vec<String>,
}

#[derive(Debug)]
struct Said {
    sender: Arc<str>,
    room: Arc<str>,
    content: Arc<str>,
    /// Where it was found in a history.
    kept: Option<Position>,
    /// The disk may have lost it.
    forgiven: bool,
}

/// One life of a room's log.
#[derive(Debug, Default)]
struct Log {
    /// The key of each position that anyone saw.
    names: HashMap<u64, Arc<str>>,
    /// What was answered `durable: true`.
    promised: BTreeMap<u64, Arc<str>>,
    /// Positions of the history as far as it was read.
    kept: Vec<u64>,
    last_timestamp: u64,
}

/// What one client got of one room, as long as nothing was missing.
#[derive(Debug)]
struct Chain {
    at: Position,
    /// Messages that follow each other, with other positions between them.
    leaps: Vec<(Position, u64)>,
}

impl Oracle {
    pub fn new(modes: impl IntoIterator<Item = (Arc<str>, Mode)>) -> Self {
        Self { modes: modes.into_iter().collect(), ..Self::default() }
    }

    /// How much was put to the test.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// What did not hold, as far as it showed by now.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Where the history of a room was read up to.
    pub fn read_up_to(&self, room: &Arc<str>) -> u64 {
        let logs = self.logs.iter().filter(|((of, _), _)| of == room);
        logs.filter_map(|(_, log)| log.kept.last()).max().copied().unwrap_or_default()
    }

    /// Forgets what was read, so that all of it is read and compared again.
    pub fn forget_what_was_read(&mut self) {
        for log in self.logs.values_mut() {
            log.kept.clear();
            log.last_timestamp = 0;
        }
        self.said.values_mut().for_each(|said| said.kept = None);
    }

    /// Forgets what was promised: the disk has lost some of it. What was seen stays seen.
    pub fn forgive_losses(&mut self) {
        self.forget_what_was_read();
        self.logs.values_mut().for_each(|log| log.promised.clear());
        self.said.values_mut().for_each(|said| said.forgiven = true);
    }

    /// Takes what a client tells.
    pub fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Sent { sender, room, key, content } => {
                self.tally.sent += 1;
                self.said.insert(key, Said { sender, room, content, kept: None, forgiven: false });
            }
            Observation::Acked { client, room, epoch, seq, key, durable, duplicate } => {
                self.tally.acked += 1;
                self.tally.duplicates += u64::from(duplicate);
                self.name(&room, epoch, seq, &key, &client);
                self.promise(&room, epoch, seq, &key, (durable, duplicate));
            }
            Observation::Refused { client, code } => {
                self.tally.refused += 1;
                if code != "overloaded" {
                    self.violate(format!("{client} was refused as {code}"));
                }
            }
            Observation::Resumed { resumed, .. } => {
                *if resumed { &mut self.tally.resumed } else { &mut self.tally.not_resumed } += 1;
            }
            Observation::Joined { client, room, epoch, head, since, recovered } => {
                self.join(client, room, Position { epoch, seq: head }, since, recovered);
            }
            Observation::Pushed { client, room, epoch, message } => {
                self.check_message(&room, epoch, &message, &client);
                self.follow(client, room, epoch, &message);
            }
            Observation::Gap { client, room, epoch, to } => self.skip(client, room, Position { epoch, seq: to }),
            Observation::Strange { client, what } => self.violate(format!("{client}: {what}")),
        }
    }

    /// Compares what is kept of a room, while nobody says anything, with all that was told.
    pub fn compare(&mut self, history: &History) {
        let History { room, epoch, head, after, messages } = history;
        let mut prev = *after;
        if self.modes.get(room) == Some(&Mode::Trimmed) {
            // What was kept the last time may be gone, so all of it is read again.
            prev = messages.first().map_or(*after, |message| message.prev);
            self.log(room, *epoch).kept.clear();
            self.log(room, *epoch).last_timestamp = 0;
            for message in messages {
                if let Some(said) = self.said.get_mut(message.key.as_str()) {
                    said.kept = None;
                }
            }
        }
        for message in messages {
            self.check_message(room, *epoch, message, "the history");
            if message.seq <= prev || message.prev != prev {
                self.violate(format!(
                    "in {room} {} tells {} before it, and there is {prev}",
                    message.seq, message.prev
                ));
            }
            self.tally.passed_over += (message.seq - 1).saturating_sub(message.prev);
            prev = message.seq;
            self.keep(room, *epoch, message);
        }
        if *head < prev {
            self.violate(format!("the head of {room} is {head}, and {prev} is kept"));
        }
        let first = match self.modes.get(room) {
            Some(Mode::Trimmed) => messages.first().map_or(0, |message| message.seq),
            _ => after + 1,
        };
        self.check_promises(room, *epoch, first);
    }

    /// Looks for what clients never got, once all histories were read from the start.
    pub fn check_leaps(&mut self) {
        let mut missing = Vec::new();
        for ((client, room), chain) in &self.chains {
            for (from, to) in &chain.leaps {
                let Some(log) = self.logs.get(&(Arc::clone(room), from.epoch)) else { continue };
                let between = log.kept.iter().filter(|seq| (from.seq + 1..*to).contains(*seq));
                missing.extend(
                    between.map(|seq| format!("{client} went from {} to {to} in {room}, past {seq}", from.seq)),
                );
            }
        }
        missing.into_iter().for_each(|what| self.violate(what));
    }

    /// Looks for what was said in durable rooms and is nowhere, once all was answered and all histories were read.
    pub fn check_keys(&mut self) {
        let lost = self.said.iter().filter(|(_, said)| {
            self.modes.get(&said.room) == Some(&Mode::Durable) && said.kept.is_none() && !said.forgiven
        });
        let lost: Vec<String> = lost.map(|(key, said)| format!("{key} is nowhere in {}", said.room)).collect();
        lost.into_iter().for_each(|what| self.violate(what));
    }

    fn check_promises(&mut self, room: &Arc<str>, epoch: u64, first: u64) {
        let mut broken = Vec::new();
        for ((of, life), log) in &self.logs {
            if of != room {
                continue;
            }
            let kept = |seq: &u64| *life == epoch && log.kept.binary_search(seq).is_ok();
            let from = if *life == epoch { first } else { 0 };
            let promises = log.promised.range(from..).filter(|(seq, _)| !kept(seq));
            broken.extend(promises.map(|(seq, key)| format!("{key} was durable as {seq} of {room}, and is not there")));
        }
        broken.into_iter().for_each(|what| self.violate(what));
    }

    fn violate(&mut self, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    fn log(&mut self, room: &Arc<str>, epoch: u64) -> &mut Log {
        self.logs.entry((Arc::clone(room), epoch)).or_default()
    }

    fn name(&mut self, room: &Arc<str>, epoch: u64, seq: u64, key: &Arc<str>, witness: &str) {
        let known = Arc::clone(self.log(room, epoch).names.entry(seq).or_insert_with(|| Arc::clone(key)));
        if known != *key {
            self.violate(format!("{seq} of {room} ({epoch:016x}) was {known}, and for {witness} it is {key}"));
        }
    }

    fn promise(&mut self, room: &Arc<str>, epoch: u64, seq: u64, key: &Arc<str>, (durable, duplicate): (bool, bool)) {
        let is_right = match self.modes.get(room) {
            Some(Mode::Durable | Mode::Trimmed) => durable,
            Some(Mode::Interval) => !durable || duplicate,
            Some(Mode::Memory) | None => !durable,
        };
        if !is_right {
            self.violate(format!("{key} in {room} was answered durable: {durable}"));
        }
        if durable {
            self.tally.durable += 1;
            self.log(room, epoch).promised.insert(seq, Arc::clone(key));
        }
    }

    fn check_message(&mut self, room: &Arc<str>, epoch: u64, message: &Message, witness: &str) {
        let Some((key, said)) = self.said.get_key_value(message.key.as_str()) else {
            return self.violate(format!("nobody said {} that {witness} saw in {room}", message.key));
        };
        let key = Arc::clone(key);
        if said.room != *room || *said.sender != message.sender || *said.content != message.content {
            self.violate(format!("{key} was seen by {witness} in {room} other than it was said"));
        }
        self.name(room, epoch, message.seq, &key, witness);
    }

    fn keep(&mut self, room: &Arc<str>, epoch: u64, message: &Message) {
        let position = Position { epoch, seq: message.seq };
        let twice = self.said.get_mut(message.key.as_str()).and_then(|said| said.kept.replace(position));
        if let Some(other) = twice {
            self.violate(format!("{} is in {room} twice: {} and {}", message.key, other.seq, message.seq));
        }
        let log = self.log(room, epoch);
        log.kept.push(message.seq);
        let before = std::mem::replace(&mut log.last_timestamp, message.timestamp);
        if message.timestamp < before {
            self.violate(format!("in {room} time goes back at {}", message.seq));
        }
    }

    fn join(
        &mut self,
        client: Arc<str>,
        room: Arc<str>,
        head: Position,
        since: Option<Position>,
        recovered: Option<bool>,
    ) {
        let name = (Arc::clone(&client), Arc::clone(&room));
        if recovered.is_some() != since.is_some() {
            return self.violate(format!("{client} entered {room} from {since:?} with recovered: {recovered:?}"));
        }
        if recovered == Some(true) {
            self.tally.recovered += 1;
            let at = self.chains.get(&name).map(|chain| chain.at);
            if at != since || at.is_none_or(|at| at.epoch != head.epoch) {
                self.violate(format!("{client} was at {at:?} in {room} and recovered from {since:?} to {head:?}"));
            }
            return;
        }
        if let Some(since) = since {
            self.tally.not_recovered += 1;
            let log = self.logs.get(&(Arc::clone(&room), since.epoch));
            let is_kept = matches!(self.modes.get(&room), Some(Mode::Durable | Mode::Interval));
            if is_kept && log.is_some_and(|log| log.is_certain(since.seq)) {
                self.violate(format!("{client} was not recovered from {since:?} of {room}, which is in the log"));
            }
        }
        let leaps = self.chains.remove(&name).map(|chain| chain.leaps).unwrap_or_default();
        self.chains.insert(name, Chain { at: head, leaps });
    }

    fn follow(&mut self, client: Arc<str>, room: Arc<str>, epoch: u64, message: &Message) {
        let Some(chain) = self.chains.get_mut(&(Arc::clone(&client), Arc::clone(&room))) else {
            return self.violate(format!("{client} never entered {room}"));
        };
        let at = std::mem::replace(&mut chain.at, Position { epoch, seq: message.seq });
        if message.seq > at.seq + 1 {
            chain.leaps.push((at, message.seq));
        }
        if at.epoch != epoch || message.seq <= at.seq {
            self.violate(format!("{client} was at {at:?} in {room} and got {} of {epoch:016x}", message.seq));
        } else if message.prev > at.seq {
            self.violate(format!("{client} was at {} in {room} and missed {}", at.seq, message.prev));
        }
    }

    fn skip(&mut self, client: Arc<str>, room: Arc<str>, to: Position) {
        let trims = self.modes.get(&room) == Some(&Mode::Trimmed);
        let chain = self.chains.get_mut(&(Arc::clone(&client), Arc::clone(&room)));
        match chain.filter(|chain| trims && chain.at.epoch == to.epoch && chain.at.seq < to.seq) {
            Some(chain) => chain.at = to,
            None => self.violate(format!("{client} was told of a gap up to {} in {room}", to.seq)),
        }
    }
}

impl Log {
    /// Whether a position is in the log whatever the disk has lost: it, or a later one, was promised or found there.
    fn is_certain(&self, seq: u64) -> bool {
        let promised = self.promised.last_key_value().map(|(seq, _)| *seq);
        let kept = self.kept.last().copied();
        self.names.contains_key(&seq) && promised.max(kept).is_some_and(|last| seq <= last && !self.was_lost(seq))
    }

    /// Whether a position was read past and not found.
    fn was_lost(&self, seq: u64) -> bool {
        self.kept.last().is_some_and(|last| seq < *last) && self.kept.binary_search(&seq).is_err()
    }
}

/// More would say no more.
const VIOLATIONS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A room of each mode, and what `ann` has said in each.
    fn oracle() -> Oracle {
        let rooms = [("d", Mode::Durable), ("i", Mode::Interval), ("m", Mode::Memory), ("t", Mode::Trimmed)];
        let mut oracle = Oracle::new(rooms.map(|(room, mode)| (room.into(), mode)));
        for (room, key) in [
            ("d", "a-1"),
            ("d", "a-2"),
            ("d", "a-3"),
            ("i", "a-4"),
            ("i", "a-5"),
            ("m", "a-6"),
            ("m", "a-7"),
            ("t", "a-8"),
            ("t", "a-9"),
        ] {
            let (sender, content) = ("ann".into(), format!("content of {key}").into());
            oracle.observe(Observation::Sent { sender, room: room.into(), key: key.into(), content });
        }
        oracle
    }

    fn message(seq: u64, key: &str) -> Message {
        let content = format!("content of {key}");
        Message { seq, prev: seq - 1, sender: "ann".into(), key: key.into(), content, timestamp: 1_000 + seq }
    }

    fn acked(room: &str, seq: u64, key: &str) -> Observation {
        let (client, room) = ("ann".into(), Arc::<str>::from(room));
        Observation::Acked {
            client,
            durable: matches!(&*room, "d" | "t"),
            room,
            epoch: 1,
            seq,
            key: key.into(),
            duplicate: false,
        }
    }

    fn joined(room: &str, head: u64, since: Option<u64>, recovered: Option<bool>) -> Observation {
        let since = since.map(|seq| Position { epoch: 1, seq });
        Observation::Joined { client: "bob".into(), room: room.into(), epoch: 1, head, since, recovered }
    }

    fn pushed(room: &str, message: Message) -> Observation {
        Observation::Pushed { client: "bob".into(), room: room.into(), epoch: 1, message }
    }

    fn history(room: &str, after: u64, messages: &[Message]) -> History {
        let head = messages.last().map_or(after, |message| message.seq);
        History { room: room.into(), epoch: 1, head, after, messages: messages.to_vec() }
    }

    fn told(observations: impl IntoIterator<Item = Observation>, histories: &[History]) -> Vec<String> {
        let mut oracle = oracle();
        observations.into_iter().for_each(|observation| oracle.observe(observation));
        histories.iter().for_each(|history| oracle.compare(history));
        oracle.check_leaps();
        oracle.violations().to_vec()
    }

    fn holds(observations: impl IntoIterator<Item = Observation>, histories: &[History]) {
        assert_eq!(told(observations, histories), Vec::<String>::new());
    }

    /// Exactly one thing is wrong, and it is this.
    fn breaks(what: &str, observations: impl IntoIterator<Item = Observation>, histories: &[History]) {
        let violations = told(observations, histories);
        assert!(violations.len() == 1 && violations[0].contains(what), "{what}: {violations:?}");
    }

    #[test]
    fn a_life_without_incident_holds() {
        let kept = [message(1, "a-1"), message(2, "a-2")];
        let observations = [
            joined("d", 0, None, None),
            pushed("d", message(1, "a-1")),
            acked("d", 1, "a-1"),
            acked("d", 2, "a-2"),
            joined("d", 2, Some(1), Some(true)),
            pushed("d", message(2, "a-2")),
            acked("i", 1, "a-4"),
        ];
        holds(observations, &[history("d", 0, &kept), history("i", 0, &[])]);
    }

    #[test]
    fn a_crash_passes_positions_over() {
        // The second was seen and lost, and is said again behind the jump.
        let again = Message { prev: 1, ..message(4_098, "a-2") };
        let observations = [
            joined("d", 0, None, None),
            pushed("d", message(1, "a-1")),
            acked("d", 1, "a-1"),
            pushed("d", message(2, "a-2")),
            joined("d", 1, Some(2), Some(true)),
            pushed("d", again.clone()),
            acked("d", 4_098, "a-2"),
        ];
        holds(observations, &[history("d", 0, &[message(1, "a-1"), again])]);
    }

    #[test]
    fn a_position_names_one_message() {
        let pushed = [joined("d", 1, None, None), pushed("d", message(2, "a-2"))];
        breaks("2 of d", pushed.clone().into_iter().chain([acked("d", 2, "a-3")]), &[]);
        breaks("2 of d", pushed, &[history("d", 1, &[message(2, "a-3")])]);
        // In another life of the log it may be another one.
        let other_life = History { epoch: 2, ..history("i", 0, &[message(1, "a-5")]) };
        holds([acked("i", 1, "a-4")], &[other_life]);
    }

    #[test]
    fn a_position_that_was_pushed_and_lost_is_not_given_again() {
        let seen = [joined("i", 1, None, None), pushed("i", message(2, "a-4"))];
        breaks("2 of i", seen, &[history("i", 1, &[message(2, "a-5")])]);
    }

    #[test]
    fn what_was_durable_is_there() {
        breaks("was durable", [acked("d", 1, "a-1")], &[history("d", 0, &[])]);
        breaks("was durable", [acked("d", 1, "a-1"), acked("d", 2, "a-2")], &[history("d", 0, &[message(1, "a-1")])]);
        let other_life = History { epoch: 2, ..history("d", 0, &[]) };
        breaks("was durable", [acked("d", 1, "a-1")], &[other_life]);
        // What was read before is not asked for again.
        holds([acked("d", 1, "a-1")], &[history("d", 1, &[])]);
    }

    #[test]
    fn durable_is_said_where_it_is_so_and_nowhere_else() {
        let lie = |room: &str, key: &str, durable| {
            let (client, room) = ("ann".into(), room.into());
            Observation::Acked { client, room, epoch: 1, seq: 1, key: key.into(), durable, duplicate: false }
        };
        breaks("durable: false", [lie("d", "a-1", false)], &[]);
        breaks("durable: true", [lie("m", "a-6", true)], &[]);
        breaks("durable: true", [lie("i", "a-4", true)], &[]);
        breaks("durable: false", [lie("t", "a-8", false)], &[]);
        let (client, room, key) = ("ann".into(), "i".into(), "a-4".into());
        let again = Observation::Acked { client, room, epoch: 1, seq: 1, key, durable: true, duplicate: true };
        holds([again.clone()], &[history("i", 0, &[message(1, "a-4")])]);
        breaks("was durable", [again], &[history("i", 0, &[])]);
    }

    #[test]
    fn retention_takes_the_oldest_and_nothing_else() {
        let acks = [acked("t", 1, "a-8"), acked("t", 2, "a-9")];
        let latest = history("t", 0, &[message(2, "a-9")]);
        holds(acks.clone(), &[history("t", 0, &[message(1, "a-8"), message(2, "a-9")]), latest]);
        breaks("was durable as 2", acks.clone(), &[history("t", 0, &[message(1, "a-8")])]);
        let violations = told(acks, &[history("t", 0, &[])]);
        assert_eq!(violations.len(), 2, "{violations:?}");
    }

    #[test]
    fn a_gap_is_told_where_retention_may_take() {
        let gap = |room: &str| Observation::Gap { client: "bob".into(), room: room.into(), epoch: 1, to: 1 };
        holds([joined("t", 0, None, None), gap("t"), pushed("t", message(2, "a-9"))], &[]);
        breaks("gap", [joined("d", 0, None, None), gap("d")], &[]);
        breaks("gap", [joined("t", 1, None, None), gap("t")], &[]);
    }

    #[test]
    fn a_key_is_kept_once() {
        breaks("twice", [], &[history("i", 0, &[message(1, "a-4"), message(2, "a-4")])]);
        // Also when only a later look finds it again.
        breaks("twice", [], &[history("i", 0, &[message(1, "a-4")]), history("i", 1, &[message(2, "a-4")])]);
    }

    #[test]
    fn every_key_is_somewhere_in_the_end() {
        let mut oracle = oracle();
        oracle.compare(&history("d", 0, &[message(1, "a-1"), message(2, "a-2")]));
        oracle.check_keys();
        assert_eq!(oracle.violations(), ["a-3 is nowhere in d"]);
    }

    #[test]
    fn what_the_disk_lost_is_forgiven_and_nothing_else() {
        let mut oracle = oracle();
        [acked("d", 1, "a-1"), acked("d", 2, "a-2")].into_iter().for_each(|told| oracle.observe(told));
        oracle.forgive_losses();
        oracle.compare(&history("d", 0, &[message(1, "a-1")]));
        oracle.check_keys();
        assert_eq!(oracle.violations(), [""; 0]);
        oracle.compare(&history("d", 1, &[message(2, "a-3")]));
        assert!(oracle.violations()[0].contains("2 of d"), "{:?}", oracle.violations());
    }

    #[test]
    fn nothing_comes_twice() {
        let first = [joined("d", 0, None, None), pushed("d", message(1, "a-1"))];
        let again = [joined("d", 1, Some(1), Some(true)), pushed("d", message(1, "a-1"))];
        breaks("got 1", first.into_iter().chain(again), &[]);
    }

    #[test]
    fn nothing_is_missing_between_two_messages() {
        breaks("missed 1", [joined("d", 0, None, None), pushed("d", message(2, "a-2"))], &[]);
        let first = [joined("d", 0, None, None), pushed("d", message(1, "a-1"))];
        let later = [joined("d", 3, Some(1), Some(true)), pushed("d", message(3, "a-3"))];
        breaks("missed 2", first.into_iter().chain(later), &[]);
    }

    #[test]
    fn a_leap_over_what_is_kept_is_found_though_the_message_denies_it() {
        let denies = Message { prev: 1, ..message(3, "a-3") };
        let seen = [joined("d", 0, None, None), pushed("d", message(1, "a-1")), pushed("d", denies)];
        breaks("past 2", seen, &[history("d", 0, &[message(1, "a-1"), message(2, "a-2"), message(3, "a-3")])]);
    }

    #[test]
    fn a_client_that_is_not_recovered_begins_again() {
        let seen = [
            joined("m", 0, None, None),
            pushed("m", message(1, "a-6")),
            joined("m", 5, Some(1), Some(false)),
            pushed("m", message(6, "a-7")),
        ];
        holds(seen, &[]);
    }

    #[test]
    fn what_is_in_the_log_is_recovered() {
        let seen = [joined("d", 0, None, None), pushed("d", message(1, "a-1")), acked("d", 1, "a-1")];
        breaks("not recovered", seen.clone().into_iter().chain([joined("d", 1, Some(1), Some(false))]), &[]);
        // What was never promised may be lost, and then need not be.
        holds(seen[..2].iter().cloned().chain([joined("d", 0, Some(1), Some(false))]), &[]);
        breaks("recovered: None", seen.into_iter().chain([joined("d", 1, Some(1), None)]), &[]);
    }

    #[test]
    fn a_recovery_goes_on_where_the_client_was() {
        let elsewhere = [joined("d", 0, None, None), joined("d", 2, Some(1), Some(true))];
        breaks("recovered from", elsewhere, &[]);
        let first = [joined("d", 0, None, None), pushed("d", message(1, "a-1"))];
        let since = Some(Position { epoch: 1, seq: 1 });
        let other = Observation::Joined {
            client: "bob".into(),
            room: "d".into(),
            epoch: 2,
            head: 1,
            since,
            recovered: Some(true),
        };
        breaks("recovered from", first.into_iter().chain([other]), &[]);
    }

    #[test]
    fn a_history_is_in_order() {
        let wrong = Message { prev: 0, ..message(2, "a-2") };
        breaks("tells 0", [], &[history("d", 0, &[message(1, "a-1"), wrong])]);
        breaks("there is 1", [], &[history("d", 0, &[message(1, "a-1"), message(3, "a-3")])]);
        let early = Message { timestamp: 1, ..message(2, "a-2") };
        breaks("time goes back", [], &[history("d", 0, &[message(1, "a-1"), early])]);
        breaks("the head", [], &[History { head: 0, ..history("d", 0, &[message(1, "a-1")]) }]);
    }

    #[test]
    fn nothing_is_invented() {
        breaks("nobody said", [], &[history("d", 0, &[message(1, "b-1")])]);
        let changed = Message { content: "other".into(), ..message(1, "a-1") };
        breaks("other than", [], &[history("d", 0, &[changed])]);
        let claimed = Message { sender: "eve".into(), ..message(1, "a-1") };
        breaks("other than", [joined("d", 0, None, None), pushed("d", claimed)], &[]);
        breaks("other than", [joined("i", 0, None, None), pushed("i", message(1, "a-1"))], &[]);
    }

    #[test]
    fn what_has_no_place_is_a_violation() {
        breaks("gap", [Observation::Strange { client: "bob".into(), what: "a gap".into() }], &[]);
        breaks("never entered", [pushed("d", message(1, "a-1"))], &[]);
        breaks("refused", [Observation::Refused { client: "ann".into(), code: "rate_limited".into() }], &[]);
    }
}
