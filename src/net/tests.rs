//! Walks through everything that the owner of a ring may do, against a kernel that does everything it may do
//! (`fake`): no byte is lost, said twice or out of order, every buffer and every slot comes back, nothing is reused
//! while the kernel has it, and the ring never sleeps while something is due.

mod fake;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use super::{Buffer, Doorbell, Ended, Event, Outgoing, Ring, RingConfig};
use crate::ids::ConnId;
use fake::{Chance, Fake, Machine};

/// An owner with its ring, and the machine below.
struct Walk {
    ring: Ring<Fake>,
    machine: Rc<RefCell<Machine>>,
    chance: Chance,
    _bell: Doorbell,
    conns: BTreeMap<ConnId, Conn>,
    lent: Vec<Buffer>,
    /// It never takes all events before it does something else.
    busy: bool,
    seen: Seen,
}

/// What the owner knows of a connection.
#[derive(Default)]
struct Conn {
    peer: usize,
    connecting: bool,
    said: Vec<u8>,
    heard: usize,
    paused: bool,
    ended: Option<Ended>,
    /// It may send no more.
    mute: bool,
    closed: bool,
}

/// How often each thing happened, so that a walk that goes nowhere is noticed.
#[derive(Default)]
struct Seen {
    sent: usize,
    waited: usize,
    failed: usize,
    received: usize,
    ended: usize,
    released: usize,
    refused: usize,
    starved: u64,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let (fake, machine) = Fake::new(seed);
        let config = RingConfig { buffers: BUFFERS, buffer_bytes: BUFFER_BYTES, ..RingConfig::default() };
        let mut ring = Ring::over(fake, &config).unwrap();
        let bell = Doorbell::new().unwrap();
        ring.set_doorbell(&bell);
        ring.listen(machine.borrow_mut().socket());
        Self {
            ring,
            machine,
            chance: Chance(!seed),
            _bell: bell,
            conns: BTreeMap::new(),
            lent: Vec::new(),
            busy: seed % 2 == 1,
            seen: Seen::default(),
        }
    }

    fn step(&mut self) {
        match self.chance.below(16) {
            0 => self.machine.borrow_mut().arriving += 1,
            1 if self.chance.one_in(4) => self.connect(),
            1 => self.machine.borrow_mut().rings += 1,
            2 => self.ring.wake_at(self.chance.below(1_000) as u64, 0),
            3..=5 => self.peer_acts(),
            6..=9 => self.owner_acts(),
            10 | 11 if self.busy => {
                self.next_event();
            }
            10..=12 => {
                for _ in 0..self.chance.below(6) {
                    self.next_event();
                }
            }
            13 if !self.busy => while self.next_event() {},
            _ => self.enter(),
        }
    }

    fn any(&mut self) -> Option<ConnId> {
        let n = self.chance.below(self.conns.len().max(1));
        self.conns.keys().nth(n).copied()
    }

    fn connect(&mut self) {
        let socket = self.machine.borrow_mut().socket();
        let peer = self.machine.borrow().peer_of(socket.as_raw_fd());
        let address: std::net::SocketAddr = "[2001:db8::1]:7".parse().unwrap();
        let conn = self.ring.connect(socket, address.into());
        self.insert(conn, Conn { peer, connecting: true, ..Conn::default() });
    }

    fn insert(&mut self, conn: ConnId, state: Conn) {
        assert!(self.conns.insert(conn, state).is_none(), "a slot is another connection each time");
    }

    fn peer_acts(&mut self) {
        let Some(conn) = self.any() else { return };
        let peer = self.conns[&conn].peer;
        let mut machine = self.machine.borrow_mut();
        match self.chance.below(12) {
            0..=6 => {
                let len = 1 + self.chance.below(4 * BUFFER_BYTES);
                let bytes: Vec<u8> = (0..len).map(|_| self.chance.next() as u8).collect();
                machine.say(peer, &bytes);
            }
            7 | 8 => machine.set_reads(peer, false),
            9 | 10 => machine.set_reads(peer, true),
            _ if self.chance.one_in(2) => machine.end(peer, 0),
            _ => machine.end(peer, libc::ECONNRESET),
        }
    }

    fn owner_acts(&mut self) {
        let Some(conn) = self.any() else { return };
        let state = self.conns.get_mut(&conn).unwrap();
        match self.chance.below(16) {
            0 => {
                state.paused = true;
                self.ring.pause(conn);
            }
            1..=3 if !state.connecting => {
                state.paused = false;
                self.ring.resume(conn);
            }
            4 if !state.connecting => {
                state.mute = true;
                self.ring.finish_sending(conn);
            }
            5 => self.close(conn),
            _ => self.send(conn),
        }
    }

    fn send(&mut self, conn: ConnId) {
        let state = self.conns.get_mut(&conn).unwrap();
        if state.connecting || state.mute || state.closed || self.ring.is_sending(conn) {
            return;
        }
        let len = 1 + self.chance.below(200);
        let bytes: Vec<u8> = (0..len).map(|_| self.chance.next() as u8).collect();
        state.said.extend_from_slice(&bytes);
        let bytes = if self.chance.one_in(2) { Outgoing::Gathered(bytes) } else { Outgoing::Frame(bytes.into()) };
        self.ring.send(conn, bytes, self.chance.one_in(2));
    }

    fn close(&mut self, conn: ConnId) {
        self.conns.get_mut(&conn).unwrap().closed = true;
        if self.chance.one_in(2) {
            self.ring.reset_on_close(conn);
        }
        self.ring.close(conn);
    }

    fn enter(&mut self) {
        for buffer in self.lent.drain(..) {
            self.ring.give_back(buffer);
        }
        let sleep = !self.ring.has_work() && self.chance.one_in(2);
        self.ring.enter(sleep).unwrap();
    }

    /// Takes the next event; false if there was none.
    fn next_event(&mut self) -> bool {
        let Some(event) = self.ring.next_event() else { return false };
        self.on_event(event);
        let published = self.machine.borrow().published();
        assert!(self.lent.iter().all(|buffer| !published.contains(&buffer.id)), "a buffer has one owner");
        true
    }

    fn on_event(&mut self, event: Event) {
        let about = match &event {
            Event::Connected { conn }
            | Event::ConnectFailed { conn, .. }
            | Event::Received { conn, .. }
            | Event::ReceiveEnded { conn, .. }
            | Event::SendWaits { conn }
            | Event::Sent { conn, .. }
            | Event::SendFailed { conn, .. } => Some(*conn),
            _ => None,
        };
        assert!(about.is_none_or(|conn| !self.conns[&conn].closed), "{event:?} of a closed connection");
        match event {
            Event::Accepted { socket, .. } => {
                let peer = self.machine.borrow().peer_of(socket.as_raw_fd());
                let conn = self.ring.adopt(socket);
                self.insert(conn, Conn { peer, ..Conn::default() });
            }
            Event::AcceptEnded { listener, .. } if self.chance.one_in(2) => self.ring.watch(listener),
            Event::AcceptEnded { listener, .. } | Event::AcceptReady { listener } => self.ring.accept(listener),
            Event::Connected { conn } => self.conns.get_mut(&conn).unwrap().connecting = false,
            Event::ConnectFailed { conn, .. } => {
                self.seen.refused += 1;
                self.close(conn);
            }
            Event::Received { conn, buffer } => self.received(conn, buffer),
            Event::ReceiveEnded { conn, why } => {
                self.seen.ended += 1;
                let before = self.conns.get_mut(&conn).unwrap().ended.replace(why);
                assert_eq!(before, None, "a receive ends once");
            }
            Event::SendWaits { .. } => self.seen.waited += 1,
            Event::Sent { conn, bytes } => {
                self.seen.sent += 1;
                let state = &self.conns[&conn];
                assert!(state.said.ends_with(bytes.as_slice()));
                assert!(self.machine.borrow().heard(state.peer) == state.said, "what is sent has arrived");
            }
            Event::SendFailed { conn, .. } => {
                self.seen.failed += 1;
                self.conns.get_mut(&conn).unwrap().mute = true;
            }
            Event::Released { conn } => {
                self.seen.released += 1;
                assert!(self.conns.remove(&conn).is_some_and(|state| state.closed), "only the closed are released");
            }
            Event::Doorbell | Event::Timer => {}
        }
    }

    fn received(&mut self, conn: ConnId, buffer: Buffer) {
        self.seen.received += 1;
        let state = self.conns.get_mut(&conn).unwrap();
        assert_eq!(state.ended, None, "nothing comes after the end");
        let machine = self.machine.borrow();
        let bytes = self.ring.bytes(&buffer);
        assert!(machine.spoken(state.peer)[state.heard..].starts_with(bytes), "bytes come once and in order");
        state.heard += bytes.len();
        bytes.fill(0);
        if self.chance.one_in(2) {
            self.ring.give_back(buffer);
        } else {
            self.lent.push(buffer);
        }
    }

    /// Everyone reads, nothing fails any more: what was said must arrive.
    fn settle(&mut self) {
        self.machine.borrow_mut().calm = true;
        for (conn, state) in &mut self.conns {
            self.machine.borrow_mut().set_reads(state.peer, true);
            state.paused = false;
            if !state.connecting {
                self.ring.resume(*conn);
            }
        }
        self.turns(|_| false);
        let machine = self.machine.borrow();
        for (conn, state) in self.conns.iter().filter(|(_, state)| !state.closed) {
            assert!(!state.connecting && !self.ring.is_sending(*conn), "{conn:?} is stuck");
            let reset = machine.ended(state.peer).is_some_and(|errno| errno != 0);
            assert!(state.heard == machine.spoken(state.peer).len(), "{conn:?} misses bytes");
            assert!(state.mute || reset || machine.heard(state.peer) == state.said, "{conn:?} is not heard");
            assert_eq!(state.ended.is_some(), machine.ended(state.peer).is_some());
        }
    }

    fn finish(&mut self) {
        let open: Vec<ConnId> = self.conns.iter().filter(|(_, state)| !state.closed).map(|(conn, _)| *conn).collect();
        for conn in open {
            self.close(conn);
        }
        self.turns(|walk| walk.conns.is_empty());
        assert_eq!((self.ring.connections(), self.conns.len()), (0, 0), "every slot comes back");
        let mut published = self.machine.borrow().published();
        published.sort_unstable();
        assert_eq!(published, (0..BUFFERS).collect::<Vec<_>>(), "every buffer comes back");
        self.seen.starved += self.ring.starvations();
    }

    /// Turns as a shard makes them, which sleeps when it has no work.
    fn turns(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..TURNS {
            for buffer in self.lent.drain(..) {
                self.ring.give_back(buffer);
            }
            let sleep = !self.ring.has_work();
            self.ring.enter(sleep).unwrap();
            while self.next_event() {}
            if done(self) {
                return;
            }
        }
    }
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.waited += other.waited;
        self.failed += other.failed;
        self.received += other.received;
        self.ended += other.ended;
        self.released += other.released;
        self.refused += other.refused;
        self.starved += other.starved;
    }
}

#[test]
fn a_ring_loses_and_reuses_nothing_whatever_the_kernel_does() {
    let mut seen = Seen::default();
    for seed in 0..WALKS {
        // The thread's name is in the message when it panics.
        let walk = std::thread::Builder::new().name(format!("walk of seed {seed}")).spawn(move || {
            let mut walk = Walk::new(seed);
            walk.machine.borrow_mut().arriving = 3;
            for _ in 0..STEPS {
                walk.step();
            }
            walk.settle();
            walk.finish();
            walk.seen
        });
        seen.add(&walk.unwrap().join().unwrap());
    }
    let least = [seen.sent, seen.waited, seen.failed, seen.received, seen.ended, seen.released, seen.refused];
    assert!(least.iter().all(|times| *times > WALKS as usize / 4), "{least:?}");
    assert!(seen.starved > 0);
}

#[test]
fn a_quiet_send_is_not_over_before_it_is_submitted() {
    let (fake, machine) = Fake::new(1);
    let mut ring = Ring::over(fake, &RingConfig::default()).unwrap();
    machine.borrow_mut().calm = true;
    let socket = machine.borrow_mut().socket();
    let peer = machine.borrow().peer_of(socket.as_raw_fd());
    let conn = ring.adopt(socket);
    machine.borrow_mut().set_reads(peer, false);
    ring.send(conn, Outgoing::Gathered(b"first".to_vec()), true);
    ring.enter(false).unwrap();
    assert!(matches!(ring.next_event(), Some(Event::SendWaits { .. })));
    machine.borrow_mut().set_reads(peer, true);
    ring.enter(false).unwrap();
    assert!(matches!(ring.next_event(), Some(Event::Sent { .. })));
    // Not all events of the first were asked for by now.
    ring.send(conn, Outgoing::Gathered(b"second".to_vec()), true);
    assert!(ring.next_event().is_none());
    ring.enter(false).unwrap();
    assert!(matches!(ring.next_event(), Some(Event::Sent { .. })));
    assert_eq!(machine.borrow().heard(peer), b"firstsecond");
}

const WALKS: u64 = 48;
const STEPS: usize = 600;
/// Enough for everything that waits, in buffers' worth.
const TURNS: usize = 400;
const BUFFERS: u16 = 8;
const BUFFER_BYTES: usize = 32;
