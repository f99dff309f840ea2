//! A model of the store: it does what the contract of `chat::log` says, as late and in as odd an order as that allows.
//!
//! Invariants: batches of a shard are applied in the order of their tickets and synced in that order. `disk` is what
//! survives a crash, `live` what reads see; a batch is in `disk` only after it is in `live`.

mod image;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hubbub::chat::log::{
    CursorKind, DeadLetter, LogAnswer, LogBatch, LogEvent, LogFailure, LogHealth, LogRead, LogWrite, SessionRecord,
};
use hubbub::ids::{Epoch, RoomName, Seq, SessionId, UserName};
use hubbub::limits::SEQ_JUMP;
use hubbub::message::event::Message;

use crate::faults::{Fault, FaultKind};
use crate::plan::StorePlan;
use crate::rng::Rng;
use image::{Image, Log};

/// The store and its lines to the shards.
#[derive(Debug)]
pub struct Store {
    plan: StorePlan,
    rng: Rng,
    live: Image,
    disk: Image,
    /// Unclean stops so far.
    crashes: u64,
    lines: Vec<Line>,
    ill_until_us: Option<u64>,
    /// How far retention ever went, by epoch.
    trimmed: BTreeMap<u64, Seq>,
    /// Rooms of which a question could not be answered.
    unreadable: Vec<RoomName>,
    /// Questions asked and answered from what the disk had, for the record.
    pub pages: u64,
    pub trims: u64,
    /// What the core did that no core may.
    wrong: Option<String>,
}

/// The line to one shard.
#[derive(Debug, Default)]
struct Line {
    /// Handed over; each is applied at its time.
    queued: VecDeque<(u64, LogBatch)>,
    /// Applied and not synced.
    unsynced: VecDeque<LogBatch>,
    last_ticket: u64,
    applied: u64,
    synced: u64,
    told: (u64, u64),
    sync_us: Option<u64>,
    tell_us: Option<u64>,
    questions: Vec<Question>,
    events: VecDeque<LogEvent>,
    /// What is said at its time.
    later: Vec<(u64, LogEvent)>,
    /// Nothing is taken from the shard until then.
    busy_until_us: u64,
}

/// A question that is not answered.
#[derive(Debug)]
struct Question {
    due_us: u64,
    token: u64,
    read: LogRead,
    /// The answer, where it was looked up at once and is only told late.
    found: Option<Result<LogAnswer, LogFailure>>,
}

impl Store {
    pub fn new(plan: StorePlan, seed: u64) -> Self {
        Self {
            plan,
            rng: Rng::new(seed ^ 0x5704e),
            live: Image::default(),
            disk: Image::default(),
            crashes: 0,
            lines: Vec::new(),
            ill_until_us: None,
            trimmed: BTreeMap::new(),
            unreadable: Vec::new(),
            pages: 0,
            trims: 0,
            wrong: None,
        }
    }

    /// The server starts with so many shards.
    pub fn start(&mut self, shards: u16) {
        let line = |shard| {
            let sessions = self.live.sessions(shard, shards);
            let sessions = (!sessions.is_empty()).then_some(LogEvent::Sessions(sessions));
            let events = [LogEvent::Sanctions(self.live.sanctions())].into_iter().chain(sessions).collect();
            Line { events, ..Line::default() }
        };
        self.lines = (0..shards).map(line).collect();
    }

    /// Whether a batch can be handed over.
    pub fn takes(&self, shard: usize, now_us: u64) -> bool {
        self.lines[shard].busy_until_us <= now_us
    }

    pub fn take_batch(&mut self, shard: usize, mut batch: LogBatch, now_us: u64, fault: &mut Option<Fault>) {
        // Giving up moves the cursor too.
        let gives_up = batch.writes.iter().any(|write| matches!(write, LogWrite::AddLetter(_)));
        batch.writes.retain(|write| match write {
            LogWrite::Cursor { kind: CursorKind::Ack, seq, .. } => {
                let forgets = fault.as_ref().is_some_and(|fault| fault.goes_on(FaultKind::ForgetAck));
                seq.0 == 0 || !(forgets || !gives_up && commit(fault, FaultKind::ForgetAck))
            }
            LogWrite::Sanction(record) => {
                let forgets = fault.as_ref().is_some_and(|fault| fault.goes_on(FaultKind::ForgetSanction));
                record.lifted || !(forgets || commit(fault, FaultKind::ForgetSanction))
            }
            LogWrite::AddLetter(letter) => letter.replay || !commit(fault, FaultKind::ForgetLetter),
            _ => true,
        });
        let due_us = now_us + self.rng.range(0, self.plan.apply_us_max);
        let line = &mut self.lines[shard];
        line.last_ticket += 1;
        if batch.ticket != line.last_ticket {
            self.wrong = Some(format!("ticket {} instead of {}", batch.ticket, line.last_ticket));
        }
        let due_us = line.queued.back().map_or(due_us, |(before_us, _)| due_us.max(*before_us));
        line.queued.push_back((due_us, batch));
    }

    pub fn ask(&mut self, shard: usize, token: u64, read: LogRead, now_us: u64, fault: &mut Option<Fault>) {
        let due_us = now_us + self.rng.range(0, self.plan.read_us_max);
        let found = self.rng.chance(1, 3).then(|| self.answer(&read, fault));
        self.lines[shard].questions.push(Question { due_us, token, read, found });
    }

    /// The next thing that the store says to a shard.
    pub fn take_event(&mut self, shard: usize) -> Option<LogEvent> {
        self.lines[shard].events.pop_front()
    }

    pub fn has_event(&self, shard: usize) -> bool {
        !self.lines[shard].events.is_empty()
    }

    /// When there is something to do.
    pub fn next_us(&self) -> Option<u64> {
        let well = self.ill_until_us.is_none();
        let of_line = |line: &Line| {
            let apply = line.queued.front().map(|(due_us, _)| *due_us).filter(|_| well);
            let sync = line.sync_us.filter(|_| well);
            let answer = line.questions.iter().map(|question| question.due_us).min();
            let later = line.later.iter().map(|(due_us, _)| *due_us).min();
            let ready = (line.busy_until_us > 0).then_some(line.busy_until_us);
            [apply, sync, line.tell_us, answer, later, ready].into_iter().flatten().min()
        };
        self.lines.iter().filter_map(of_line).chain(self.ill_until_us).min()
    }

    /// Does what is due.
    pub fn work(&mut self, now_us: u64, fault: &mut Option<Fault>) -> Result<(), String> {
        if self.ill_until_us.is_some_and(|until_us| until_us <= now_us) {
            self.ill_until_us = None;
            self.tell_all(LogHealth::Writable);
        }
        for shard in 0..self.lines.len() {
            let line = &mut self.lines[shard];
            line.busy_until_us = if line.busy_until_us <= now_us { 0 } else { line.busy_until_us };
            while let Some(at) = line.later.iter().position(|(due_us, _)| *due_us <= now_us) {
                line.events.push_back(line.later.remove(at).1);
            }
            while self.ill_until_us.is_none() && self.apply_next(shard, now_us)? {}
            while self.ill_until_us.is_none() && self.lines[shard].sync_us.is_some_and(|due_us| due_us <= now_us) {
                self.sync(shard, now_us)?;
            }
            self.answer_next(shard, now_us, fault);
            self.tell(shard, now_us, fault);
        }
        self.wrong.take().map_or(Ok(()), Err)
    }

    fn apply_next(&mut self, shard: usize, now_us: u64) -> Result<bool, String> {
        let line = &mut self.lines[shard];
        if line.queued.front().is_none_or(|(due_us, _)| *due_us > now_us) {
            return Ok(false);
        }
        let Some((_, batch)) = line.queued.pop_front() else { return Ok(false) };
        self.live.apply(&batch, self.crashes)?;
        line.applied = batch.ticket;
        let longest_us = if batch.sync { self.plan.sync_us_max } else { self.plan.interval_us_max };
        let sync_us = now_us + self.rng.range(0, longest_us);
        line.sync_us = Some(line.sync_us.map_or(sync_us, |before_us| before_us.min(sync_us)));
        line.unsynced.push_back(batch);
        self.tell_soon(shard, now_us);
        Ok(true)
    }

    /// Writes some of what was applied to the disk, or all of it.
    fn sync(&mut self, shard: usize, now_us: u64) -> Result<(), String> {
        let line = &mut self.lines[shard];
        let count = if self.rng.chance(1, 4) { self.rng.below(line.unsynced.len() + 1) } else { line.unsynced.len() };
        for batch in line.unsynced.drain(..count) {
            self.disk.apply(&batch, self.crashes)?;
            line.synced = batch.ticket;
        }
        line.sync_us = (!line.unsynced.is_empty()).then(|| now_us + self.rng.range(0, self.plan.sync_us_max));
        self.tell_soon(shard, now_us);
        Ok(())
    }

    fn tell_soon(&mut self, shard: usize, now_us: u64) {
        let due_us = now_us + self.rng.range(0, self.plan.tell_us_max);
        self.lines[shard].tell_us.get_or_insert(due_us);
    }

    /// Says how far it has come, for everything that happened meanwhile at once.
    fn tell(&mut self, shard: usize, now_us: u64, fault: &mut Option<Fault>) {
        let line = &mut self.lines[shard];
        if line.tell_us.is_none_or(|due_us| due_us > now_us) {
            return;
        }
        line.tell_us = None;
        let awaited = line.unsynced.iter().any(|batch| batch.sync);
        let lies = awaited && commit(fault, FaultKind::AckUnsynced);
        let progress = (line.applied, if lies { line.applied } else { line.synced.max(line.told.1) });
        if progress != line.told {
            line.told = progress;
            line.events.push_back(LogEvent::Committed { applied: progress.0, synced: progress.1 });
        }
    }

    fn answer_next(&mut self, shard: usize, now_us: u64, fault: &mut Option<Fault>) {
        while let Some(at) = self.lines[shard].questions.iter().position(|question| question.due_us <= now_us) {
            let Question { token, read, found, .. } = self.lines[shard].questions.swap_remove(at);
            let outcome = found.unwrap_or_else(|| self.answer(&read, fault));
            self.lines[shard].events.push_back(LogEvent::Read { token, outcome });
        }
    }

    fn answer(&mut self, read: &LogRead, fault: &mut Option<Fault>) -> Result<LogAnswer, LogFailure> {
        let (LogRead::Open { room, .. }
        | LogRead::After { room, .. }
        | LogRead::Before { room, .. }
        | LogRead::User { room, .. }) = read;
        if self.plan.unreadable > 0 && self.rng.chance(self.plan.unreadable, 100) {
            self.unreadable.push(room.clone());
            return Err(LogFailure::Unreadable);
        }
        self.pages += u64::from(matches!(read, LogRead::After { .. } | LogRead::Before { .. }));
        Ok(match read {
            LogRead::Open { room, keys_since_ms } => {
                let mut state = self.live.open(room, *keys_since_ms, self.crashes);
                if let Some(state) = &mut state {
                    if state.crashes > 0 && commit(fault, FaultKind::ForgetCrash) {
                        state.crashes = 0;
                    }
                    if !state.keys.is_empty() && commit(fault, FaultKind::ForgetKeys) {
                        state.keys.clear();
                    }
                }
                LogAnswer::Opened(state)
            }
            LogRead::After { epoch, seq, messages_max, bytes_max, .. } => {
                spoilt(self.live.after(*epoch, *seq, *messages_max, *bytes_max), fault)
            }
            LogRead::Before { epoch, seq, messages_max, bytes_max, .. } => {
                spoilt(self.live.before(*epoch, *seq, *messages_max, *bytes_max), fault)
            }
            LogRead::User { epoch, user, .. } => self.live.user(*epoch, user),
        })
    }

    /// Does what a store may do by itself at any time: forgets the past, fails for a while, takes nothing for a while.
    pub fn misbehave(&mut self, now_us: u64) {
        if self.rng.chance(1, 60) {
            self.trim(now_us);
        }
        if self.plan.ill && self.ill_until_us.is_none() && self.rng.chance(1, 250) {
            self.ill_until_us = Some(now_us + self.rng.range(1_000, 3_000_000));
            let health = *self.rng.pick(&[LogHealth::Full, LogHealth::Failed]);
            self.tell_all(health);
        }
        if self.plan.busy && self.rng.chance(1, 100) {
            let shard = self.rng.below(self.lines.len());
            self.lines[shard].busy_until_us = now_us + self.rng.range(1, 2_000_000);
        }
    }

    fn tell_all(&mut self, health: LogHealth) {
        for line in &mut self.lines {
            line.events.push_back(LogEvent::Health(health));
        }
    }

    /// Retention takes a prefix of a room's log that is on the disk; the disk itself may forget that it did.
    fn trim(&mut self, now_us: u64) {
        let kept = |(_, log): &(Epoch, &Log)| !self.plan.kept.contains(&log.room) && !log.messages.is_empty();
        let choice: Vec<(Epoch, RoomName, Vec<Seq>)> = (self.disk.logs().filter(kept))
            .map(|(epoch, log)| (epoch, log.room.clone(), log.messages.keys().copied().collect()))
            .collect();
        if choice.is_empty() {
            return;
        }
        let (epoch, room, seqs) = self.rng.pick(&choice).clone();
        let upto = *self.rng.pick(&seqs);
        self.trims += 1;
        let trimmed = self.trimmed.entry(epoch.0).or_default();
        *trimmed = upto.max(*trimmed);
        self.live.trim(epoch, upto);
        if self.rng.chance(1, 2) {
            self.disk.trim(epoch, upto);
        }
        for line in &mut self.lines {
            let due_us = now_us + self.rng.range(0, self.plan.tell_us_max);
            line.later.push((due_us, LogEvent::Trimmed { room: room.clone(), epoch, upto }));
        }
    }

    /// The server is gone, and with it what was on its way. After a crash some of what was not synced may be there
    /// nevertheless; what was told to be there is. Returns what will be passed over: room, log, last position before,
    /// last position passed over.
    pub fn crash(&mut self) -> Result<Vec<(RoomName, Epoch, u64, u64)>, String> {
        for line in &self.lines {
            let survive = self.rng.below(line.unsynced.len() + 1);
            line.unsynced.iter().take(survive).try_for_each(|batch| self.disk.apply(batch, self.crashes))?;
        }
        self.live = self.disk.clone();
        self.crashes += 1;
        self.ill_until_us = None;
        Ok(self.disk.dead(self.crashes, SEQ_JUMP))
    }

    /// Loses a message that was on the disk, if the harness wants that.
    pub fn spoil(&mut self, fault: &mut Option<Fault>) {
        let lost = self.disk.logs().find_map(|(epoch, log)| {
            let seq = *log.messages.keys().nth(log.messages.len() / 2)?;
            (log.messages.len() > 2).then_some((epoch, seq))
        });
        if let Some((epoch, seq)) = lost
            && commit(fault, FaultKind::LoseStored)
        {
            self.disk.lose(epoch, seq);
            self.live.lose(epoch, seq);
        }
    }

    /// The server stops in peace: all that it handed over is on the disk.
    pub fn stop(&mut self) -> Result<(), String> {
        for line in &mut self.lines {
            for batch in line.queued.drain(..).map(|(_, batch)| batch) {
                self.live.apply(&batch, self.crashes)?;
                line.unsynced.push_back(batch);
            }
            line.unsynced.drain(..).try_for_each(|batch| self.disk.apply(&batch, self.crashes))?;
        }
        self.live = self.disk.clone();
        self.ill_until_us = None;
        Ok(())
    }

    /// Nothing more goes wrong by itself.
    pub fn calm(&mut self, now_us: u64) {
        self.plan.unreadable = 0;
        if self.ill_until_us.is_some() {
            self.ill_until_us = Some(now_us);
        }
    }

    /// What is still to be done; none at rest.
    pub fn unrest(&self) -> Option<String> {
        let busy = |line: &&Line| {
            let waits = !line.queued.is_empty() || !line.unsynced.is_empty() || !line.questions.is_empty();
            waits
                || !line.later.is_empty()
                || !line.events.is_empty()
                || line.told != (line.last_ticket, line.last_ticket)
        };
        self.lines.iter().find(busy).map(|line| format!("the store has work: {line:?}"))
    }

    /// What is on the disk of a room, if it has a log there.
    pub fn log_of(&self, room: &RoomName) -> Option<(Epoch, &Log)> {
        self.disk.log_of(room)
    }

    /// Dead letters of a room, as an operator reads them.
    pub fn letters(&self, room: &RoomName) -> Vec<DeadLetter> {
        self.live.letters(room)
    }

    /// Whether a message ever was a dead letter of this user, as far as a crash has not undone it.
    pub fn was_letter(&self, epoch: Epoch, user: &UserName, seq: u64) -> bool {
        self.live.was_letter(epoch, user, Seq(seq))
    }

    /// What a user has acknowledged for certain.
    pub fn acked(&self, epoch: Epoch, user: &UserName) -> Option<Seq> {
        self.disk.acked(epoch, user)
    }

    /// A session that is on the disk.
    pub fn session(&self, id: SessionId) -> Option<SessionRecord> {
        self.disk.session(id)
    }

    /// A message that is on the disk, or was until retention took it.
    pub fn has(&self, room: &RoomName, seq: Seq) -> bool {
        self.disk.log_of(room).is_some_and(|(_, log)| log.had(seq))
    }

    /// Everything of a log up to here is gone from what reads see, or was gone before a crash brought it back.
    pub fn trimmed(&self, epoch: Epoch) -> Seq {
        self.trimmed.get(&epoch.0).copied().unwrap_or_default()
    }

    pub fn was_unreadable(&self, room: &RoomName) -> bool {
        self.unreadable.contains(room)
    }
}

/// Whether the harness commits this fault of the store here.
fn commit(fault: &mut Option<Fault>, kind: FaultKind) -> bool {
    fault.as_mut().is_some_and(|fault| fault.commit(kind))
}

/// A page, unless the harness makes it lack a message or show one that was deleted.
fn spoilt(answer: LogAnswer, fault: &mut Option<Fault>) -> LogAnswer {
    let LogAnswer::Page { mut messages, more } = answer else { return answer };
    if messages.len() > 2 && commit(fault, FaultKind::LoseFromPage) {
        messages.remove(1);
    }
    if messages.len() > 1 && commit(fault, FaultKind::SwapInPage) {
        let message = |at: usize, seq: Seq| Arc::new(Message { seq, ..(*messages[at]).clone() });
        let (first, second) = (messages[0].seq, messages[1].seq);
        (messages[0], messages[1]) = (message(1, first), message(0, second));
    }
    LogAnswer::Page { messages, more }
}
