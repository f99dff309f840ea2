//! The one thread of an attack: many sockets that never wait, and one epoll.
//!
//! Invariant: a slot holds at most one connection, and events of an earlier one find another generation. What a socket
//! does not take is kept, and nothing is added to it, so memory is bounded by the slots.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use hubbub::codec::websocket::{Decoder, Item, Role};
use hubbub::net::socket;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use super::kind::Renewal;
use super::{Plan, Report};
use crate::clock::{NS_PER_MS, NS_PER_S, now_ns};

/// Carries an attack out.
pub(super) fn run(plan: &Plan) -> io::Result<Report> {
    let begun_ns = now_ns();
    let end_ns = begun_ns + plan.duration.as_nanos() as u64;
    let mut swarm = Swarm::new(plan)?;
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut paced_ns = begun_ns;
    while now_ns() < end_ns {
        swarm.open_more()?;
        if swarm.is_done() {
            break;
        }
        events.clear();
        let wait = Timespec { tv_sec: 0, tv_nsec: WAIT_NS };
        match epoll::wait(&swarm.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            swarm.happened(event.data.u64());
        }
        paced_ns += swarm.send_due(now_ns().saturating_sub(paced_ns));
    }
    let open = swarm.slots.iter().flatten().count() as u64;
    let seconds = (now_ns() - begun_ns) as f64 / NS_PER_S as f64;
    Ok(Report { seconds, open_at_end: open, ..swarm.report })
}

struct Swarm<'p> {
    plan: &'p Plan,
    epoll: OwnedFd,
    slots: Vec<Option<Member>>,
    /// Empty slots.
    free: Vec<u32>,
    /// Connections that TCP has not taken yet.
    connecting: u32,
    serial: u64,
    /// Who sends the next piece.
    cursor: usize,
    buffer: Vec<u8>,
    report: Report,
}

/// One connection.
struct Member {
    socket: OwnedFd,
    serial: u64,
    stage: Stage,
    /// What the socket has not taken yet.
    unsent: Vec<u8>,
    pieces: u64,
}

enum Stage {
    Connecting,
    /// The response's head, as far as it has come.
    Head(Vec<u8>),
    Frames(Decoder),
}

/// What a look at a connection comes to.
enum Fate {
    Stays,
    /// It is over, for this reason.
    Over(Option<&'static str>),
}

impl<'p> Swarm<'p> {
    fn new(plan: &'p Plan) -> io::Result<Self> {
        let report = Report { kind: format!("{:?}", plan.kind), connections: plan.connections, ..Report::default() };
        Ok(Self {
            plan,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: (0..plan.connections).map(|_| None).collect(),
            free: (0..plan.connections).rev().collect(),
            connecting: 0,
            serial: 0,
            cursor: 0,
            buffer: vec![0; 64 * 1024],
            report,
        })
    }

    /// Whether as many connections were tried as are wanted, and all have their answer.
    fn is_done(&self) -> bool {
        self.serial >= self.plan.tries_max && self.free.len() == self.slots.len()
    }

    fn open_more(&mut self) -> io::Result<()> {
        for _ in 0..OPENED_AT_ONCE {
            if self.connecting >= CONNECTING_MAX || self.serial >= self.plan.tries_max {
                return Ok(());
            }
            let Some(slot) = self.free.pop() else { return Ok(()) };
            self.open(slot)?;
        }
        Ok(())
    }

    fn open(&mut self, slot: u32) -> io::Result<()> {
        self.serial += 1;
        self.report.tried += 1;
        let socket = socket::outbound(SocketAddr::new(self.plan.source, 0))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        match rustix::net::connect(&socket, &self.plan.target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => {
                self.count(&format!("connect: {error}"));
                self.free.insert(0, slot);
                return Ok(());
            }
        }
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(self.serial << 32 | u64::from(slot)), flags)?;
        self.connecting += 1;
        let member = Member { socket, serial: self.serial, stage: Stage::Connecting, unsent: Vec::new(), pieces: 0 };
        self.slots[slot as usize] = Some(member);
        let open = (self.slots.len() - self.free.len()) as u64;
        self.report.open_max = self.report.open_max.max(open);
        Ok(())
    }

    /// Something happened on a connection, if it is still the one that is meant.
    fn happened(&mut self, tag: u64) {
        let slot = tag as u32;
        let Some(mut member) = self.slots[slot as usize].take() else { return };
        let is_same = member.serial & u64::from(u32::MAX) == tag >> 32;
        let fate = if is_same { self.look(slot, &mut member) } else { Fate::Stays };
        match fate {
            Fate::Stays => self.slots[slot as usize] = Some(member),
            Fate::Over(why) => {
                if let Some(why) = why {
                    self.count(why);
                }
                if matches!(member.stage, Stage::Connecting) {
                    self.connecting -= 1;
                }
                // No port may wait for a minute: there are few of them.
                socket::reset_on_close(&member.socket);
                self.free.push(slot);
            }
        }
    }

    fn look(&mut self, slot: u32, member: &mut Member) -> Fate {
        if matches!(member.stage, Stage::Connecting) {
            match rustix::net::sockopt::socket_error(&member.socket) {
                Ok(Ok(())) => {}
                _ => return Fate::Over(Some("connect: refused")),
            }
            self.connecting -= 1;
            self.report.connected += 1;
            member.stage = Stage::Head(Vec::new());
            member.unsent = self.plan.kind.opening(slot, member.serial, self.plan.target, self.plan.token.as_deref());
        }
        if !self.flush(member) {
            return Fate::Over(Some("reset"));
        }
        // The answer to the upgrade is read in any case.
        if matches!(member.stage, Stage::Frames(_)) && !self.plan.kind.reads(slot) {
            return Fate::Stays;
        }
        self.read(member)
    }

    /// Sends what it can. False if the connection is broken.
    fn flush(&mut self, member: &mut Member) -> bool {
        while !member.unsent.is_empty() {
            match rustix::net::send(&member.socket, &member.unsent, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.report.bytes_sent += sent as u64;
                    member.unsent.drain(..sent);
                }
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn read(&mut self, member: &mut Member) -> Fate {
        let mut buffer = std::mem::take(&mut self.buffer);
        let fate = loop {
            match rustix::net::recv(&member.socket, buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((0, _)) => break Fate::Over(Some("end")),
                Ok((len, _)) => {
                    self.report.bytes_received += len as u64;
                    if let Fate::Over(why) = self.received(member, &mut buffer[..len]) {
                        break Fate::Over(why);
                    }
                }
                Err(Errno::AGAIN) => break Fate::Stays,
                Err(_) => break Fate::Over(Some("reset")),
            }
        };
        self.buffer = buffer;
        fate
    }

    fn received(&mut self, member: &mut Member, bytes: &mut [u8]) -> Fate {
        match &mut member.stage {
            Stage::Connecting => Fate::Stays,
            Stage::Frames(decoder) => {
                let mut answers = Vec::new();
                let fate = frames(decoder, bytes, &mut answers);
                let has_answer = !answers.is_empty();
                answers.iter().for_each(|answer| self.count(answer));
                let is_enough = has_answer && self.plan.kind.renewal() == Renewal::FirstAnswer;
                if is_enough { Fate::Over(None) } else { fate }
            }
            Stage::Head(head) => {
                head.extend_from_slice(bytes);
                let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else { return Fate::Stays };
                let mut rest = head.split_off(end + 4);
                let status = String::from_utf8_lossy(head.get(9..12).unwrap_or_default()).into_owned();
                self.count(&format!("http: {status}"));
                if status != "101" {
                    return Fate::Over(None);
                }
                self.report.upgraded += 1;
                member.stage = Stage::Frames(Decoder::new(Role::Client));
                if rest.is_empty() { Fate::Stays } else { self.received(member, &mut rest) }
            }
        }
    }

    /// Sends the pieces that have come due in so much time. Returns the time that they were for.
    fn send_due(&mut self, elapsed_ns: u64) -> u64 {
        let rate = u64::from(self.plan.rate);
        let due = u64::try_from(u128::from(elapsed_ns) * u128::from(rate) / u128::from(NS_PER_S)).unwrap_or(u64::MAX);
        for _ in 0..due.min(PIECES_AT_ONCE) {
            self.send_piece();
        }
        // What is late by more than that is left out: an attack does not catch up.
        due.saturating_mul(NS_PER_S).checked_div(rate).unwrap_or(elapsed_ns)
    }

    /// Has the next connection that can send a piece do so. Looks at all of them once, at most.
    fn send_piece(&mut self) {
        for _ in 0..self.slots.len() {
            let slot = self.cursor;
            self.cursor = (self.cursor + 1) % self.slots.len();
            let Some(mut member) = self.slots[slot].take() else { continue };
            let is_ready = match member.stage {
                Stage::Connecting => false,
                Stage::Head(_) => !self.plan.kind.waits_for_upgrade(),
                Stage::Frames(_) => true,
            };
            let piece = if is_ready && member.unsent.is_empty() {
                self.plan.kind.piece(slot as u32, member.pieces)
            } else {
                None
            };
            let was_sent = piece.is_some();
            if let Some(piece) = piece {
                member.unsent = piece;
                member.pieces += 1;
                self.report.pieces_sent += 1;
                // A broken connection is told by its event.
                self.flush(&mut member);
            }
            self.slots[slot] = Some(member);
            if was_sent {
                return;
            }
        }
    }

    fn count(&mut self, answer: &str) {
        if let Some(count) = self.report.answers.get_mut(answer) {
            *count += 1;
        } else if self.report.answers.len() < ANSWERS_MAX {
            self.report.answers.insert(answer.to_owned(), 1);
        }
    }
}

/// Reads frames, and names the answers that matter.
fn frames(decoder: &mut Decoder, mut input: &mut [u8], answers: &mut Vec<String>) -> Fate {
    loop {
        match decoder.decode(&mut input, MESSAGE_BYTES_MAX) {
            Ok(None) => return Fate::Stays,
            Ok(Some(Item::Text(text))) => answers.extend(answer(&text)),
            Ok(Some(Item::Close { code, .. })) => {
                answers.push(format!("close: {}", code.unwrap_or(1005)));
                return Fate::Over(None);
            }
            Ok(Some(_)) => {}
            Err(_) => return Fate::Over(Some("broken frame")),
        }
    }
}

fn answer(text: &[u8]) -> Option<String> {
    let code = |key: &[u8]| {
        let at = memchr::memmem::find(text, key)? + key.len();
        let end = at + memchr::memchr(b'"', &text[at..])?;
        Some(String::from_utf8_lossy(&text[at..end]).into_owned())
    };
    if text.starts_with(br#"{"type":"error""#) {
        return code(br#""code":""#).map(|code| format!("error: {code}"));
    }
    text.starts_with(br#"{"type":"welcome""#).then(|| "welcome".to_owned())
}

const EVENTS_MAX: usize = 1_024;
const WAIT_NS: i64 = NS_PER_MS as i64;
/// Connections that are begun in one go.
const OPENED_AT_ONCE: u32 = 64;
/// Connections that TCP may be taking at the same time: less than a listener's queue.
const CONNECTING_MAX: u32 = 512;
const PIECES_AT_ONCE: u64 = 2_000;
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const ANSWERS_MAX: usize = 64;
