//! One io_uring and everything in it: listeners, sockets, the doorbell, the timer.
//!
//! The owner calls [`Ring::enter`] once a turn, which submits what was asked for and may sleep, then
//! [`Ring::next_event`] until it has had enough. Received bytes are lent out and must be given back in the same
//! turn. At most one send per socket is in flight, for two might be reordered.
#![expect(unsafe_code, reason = "the kernel reads and writes memory that entries point to")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use io_uring::types::Fd;
use io_uring::{cqueue, opcode, squeue};
use libc::{EAGAIN, EBUSY, EINTR};
use rustix::net::Shutdown;
use socket2::SockAddr;

use super::buffers::{Buffer, Buffers};
use super::event::{Event, ListenerId, RingConfig, RingError};
use super::queues::{Kernel, Queues};
use super::slots::Slots;
use super::tag::{Op, conn_data, split_user_data, user_data};
use super::timers::Timers;
use crate::ids::ConnId;

/// The ring of one thread.
#[derive(Debug)]
pub struct Ring<K = Queues> {
    kernel: K,
    pub(super) buffers: Buffers,
    pub(super) slots: Slots,
    listeners: Vec<Listener>,
    /// Events that come from us rather than from the kernel.
    pub(super) ready: VecDeque<Event>,
    /// Connections whose receive ended because there were no buffers.
    pub(super) starved: Vec<ConnId>,
    /// Sends for the next `enter` that will tell only of failure.
    pub(super) quiet: Vec<ConnId>,
    /// Those of the last `enter`. When its completions are worked off, what has not failed has succeeded.
    pub(super) quiet_submitted: Vec<ConnId>,
    /// Counts up each time that quiet sends were submitted. A connection may be on the list above for a send that is
    /// over, while its next one is not submitted yet: the round tells them apart.
    pub(super) quiet_round: u64,
    /// Whether one of those is of a connection that was closed meanwhile.
    quiet_closing: bool,
    timers: Timers,
    doorbell: Option<Fd>,
    /// Calls of `io_uring_enter` so far.
    enters: u64,
    /// Times that a receive found no buffer so far.
    pub(super) starvations: u64,
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
}

impl Ring {
    /// Sets the ring up for the calling thread, which alone may use it.
    pub fn new(config: &RingConfig) -> Result<Self, RingError> {
        let mut queues = Queues::new(config).map_err(RingError::Setup)?;
        queues.register_descriptor().map_err(RingError::Register)?;
        Self::over(queues, config)
    }
}

impl<K: Kernel> Ring<K> {
    pub(super) fn over(mut kernel: K, config: &RingConfig) -> Result<Self, RingError> {
        let buffers =
            Buffers::register(&mut kernel, config.buffers, config.buffer_bytes).map_err(RingError::Buffers)?;
        Ok(Self {
            kernel,
            buffers,
            slots: Slots::default(),
            listeners: Vec::new(),
            ready: VecDeque::new(),
            starved: Vec::new(),
            quiet: Vec::new(),
            quiet_submitted: Vec::new(),
            quiet_round: 0,
            quiet_closing: false,
            timers: Timers::default(),
            doorbell: None,
            enters: 0,
            starvations: 0,
        })
    }

    /// Takes a listening socket and starts accepting.
    pub fn listen(&mut self, socket: OwnedFd) -> ListenerId {
        let listener = ListenerId(self.listeners.len() as u32);
        self.listeners.push(Listener { socket });
        self.accept(listener);
        listener
    }

    /// Starts accepting again after [`Event::AcceptEnded`].
    pub fn accept(&mut self, listener: ListenerId) {
        let fd = Fd(self.listeners[listener.0 as usize].socket.as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd).flags(SOCK_CLOEXEC).build();
        self.push(&entry.user_data(user_data(Op::Accept, listener.0, 0)));
    }

    /// Says once when a peer waits on a listener that does not accept at present.
    pub fn watch(&mut self, listener: ListenerId) {
        let fd = Fd(self.listeners[listener.0 as usize].socket.as_raw_fd());
        let entry = opcode::PollAdd::new(fd, POLLIN).build();
        self.push(&entry.user_data(user_data(Op::Watch, listener.0, 0)));
    }

    /// The listening socket itself.
    #[must_use]
    pub fn listener(&self, listener: ListenerId) -> BorrowedFd<'_> {
        self.listeners[listener.0 as usize].socket.as_fd()
    }

    /// Makes the bell's ringing arrive as [`Event::Doorbell`]. It must stay open as long as the ring.
    pub fn set_doorbell(&mut self, bell: &impl AsFd) {
        self.doorbell = Some(Fd(bell.as_fd().as_raw_fd()));
        self.arm_doorbell();
    }

    /// Takes a connected socket and starts reading it.
    pub fn adopt(&mut self, socket: OwnedFd) -> ConnId {
        let conn = self.slots.insert(socket);
        self.resume(conn);
        conn
    }

    /// Connects a socket; ends in [`Event::Connected`] or [`Event::ConnectFailed`].
    pub fn connect(&mut self, socket: OwnedFd, address: SockAddr) -> ConnId {
        let fd = Fd(socket.as_raw_fd());
        let conn = self.slots.insert(socket);
        let slot = self.slots.get(conn).expect("just inserted");
        slot.in_flight += 1;
        let address = &**slot.connecting.insert(Box::new(address));
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        self.push(&entry.user_data(conn_data(Op::Connect, conn)));
        conn
    }

    /// The bytes of a buffer, to be read and changed in place.
    pub fn bytes(&mut self, buffer: &Buffer) -> &mut [u8] {
        self.buffers.bytes(buffer)
    }

    /// Ends the loan of a buffer.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.buffers.give_back(buffer);
    }

    /// Tells the peer that nothing more will be sent (FIN), and goes on reading.
    pub fn finish_sending(&mut self, conn: ConnId) {
        if let Some(fd) = self.slots.get(conn).and_then(|slot| slot.fd.as_ref()) {
            // Fails only for sockets that are gone already.
            let _ = rustix::net::shutdown(fd, Shutdown::Write);
        }
    }

    /// Makes the close drop what the peer has not read, with a reset.
    pub fn reset_on_close(&mut self, conn: ConnId) {
        if let Some(fd) = self.slots.get(conn).and_then(|slot| slot.fd.as_ref()) {
            super::socket::reset_on_close(fd);
        }
    }

    /// Closes a connection; no event but [`Event::Released`] comes of it any more.
    pub fn close(&mut self, conn: ConnId) {
        let Some(slot) = self.slots.get(conn) else { return };
        if std::mem::replace(&mut slot.closing, true) {
            return;
        }
        if slot.in_flight == 0 {
            self.release(conn);
            return;
        }
        self.quiet_closing |= slot.sending.as_ref().is_some_and(|sending| sending.quiet.is_some());
        // A close alone neither ends an armed receive nor a waiting send: a shutdown ends both.
        if let Some(fd) = &slot.fd {
            let _ = rustix::net::shutdown(fd, Shutdown::Both);
        }
        if slot.connecting.is_some() {
            slot.in_flight += 1;
            let entry = opcode::AsyncCancel::new(conn_data(Op::Connect, conn)).build();
            self.push(&entry.user_data(conn_data(Op::Cancel, conn)));
        }
    }

    /// Asks for an [`Event::Timer`] once the clock that shows `now_us` shows `deadline_us`. More may come than
    /// were asked for.
    pub fn wake_at(&mut self, deadline_us: u64, now_us: u64) {
        if let Some((timer, timespec)) = self.timers.arm(deadline_us, now_us) {
            let entry = opcode::Timeout::new(timespec).build();
            self.push(&entry.user_data(user_data(Op::Timer, timer, 0)));
        }
    }

    /// Submits what was asked for; with `sleep`, waits until there is an event.
    pub fn enter(&mut self, sleep: bool) -> io::Result<()> {
        self.feed_starved();
        self.kernel.sync_submissions();
        // Tells the kernel what was worked off; what it does not know of would end the wait at once.
        self.kernel.sync_completions();
        let submit = self.kernel.unsubmitted() as u32;
        let wait = sleep && self.ready.is_empty() && !self.kernel.has_completion();
        if submit == 0 && !wait && !self.kernel.has_deferred_work() {
            return Ok(());
        }
        self.enters += 1;
        let result = self.kernel.enter(submit, u32::from(wait));
        self.kernel.sync_submissions();
        self.kernel.sync_completions();
        if self.kernel.unsubmitted() == 0 {
            self.quiet_submitted.append(&mut self.quiet);
            self.quiet_round += 1;
        }
        match result {
            Ok(_) => Ok(()),
            // A signal, or a full completion queue: there is something to do first.
            Err(error) if matches!(error.raw_os_error(), Some(EINTR | EAGAIN | EBUSY)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether there is more to do before sleeping. Deferred work in the kernel does not count: a sleeping
    /// [`Ring::enter`] runs it first, while the flag for it may be left over from work that is done.
    pub fn has_work(&mut self) -> bool {
        !self.ready.is_empty() || self.quiet_closing || self.kernel.has_completion()
    }

    /// The next thing that happened, if it is known already.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let Some(completion) = self.kernel.next_completion() else {
                self.quiet_closing &= !self.quiet.is_empty();
                return self.next_quiet();
            };
            if let Some(event) = self.dispatch(&completion) {
                return Some(event);
            }
        }
    }

    /// How many sockets the ring holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.slots.len()
    }

    /// Calls of `io_uring_enter` so far.
    #[must_use]
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Times that a receive found no buffer so far.
    #[must_use]
    pub fn starvations(&self) -> u64 {
        self.starvations
    }

    fn dispatch(&mut self, completion: &cqueue::Entry) -> Option<Event> {
        let (op, index, generation) = split_user_data(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        let conn = ConnId { slot: index, generation };
        match op {
            Op::Receive => self.on_receive(conn, result, flags),
            Op::Send => self.on_send(conn, result),
            Op::SendRest => self.on_send_rest(conn, result),
            Op::Accept => self.on_accept(ListenerId(index), result, flags),
            Op::Watch => Some(Event::AcceptReady { listener: ListenerId(index) }),
            Op::Connect => self.on_connect(conn, result),
            Op::Cancel => self.completed(conn),
            Op::Doorbell => {
                if !cqueue::more(flags) {
                    self.arm_doorbell();
                }
                Some(Event::Doorbell)
            }
            Op::Timer => {
                self.timers.fired(index);
                Some(Event::Timer)
            }
        }
    }

    fn on_accept(&mut self, listener: ListenerId, result: i32, flags: u32) -> Option<Event> {
        if result < 0 {
            return Some(Event::AcceptEnded { listener, errno: -result });
        }
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(result) };
        if !cqueue::more(flags) {
            self.accept(listener);
        }
        Some(Event::Accepted { listener, socket })
    }

    fn on_connect(&mut self, conn: ConnId, result: i32) -> Option<Event> {
        let slot = self.slots.get(conn)?;
        slot.connecting = None;
        slot.in_flight -= 1;
        if slot.closing {
            self.release_when_idle(conn);
            return None;
        }
        if result < 0 {
            return Some(Event::ConnectFailed { conn, errno: -result });
        }
        self.resume(conn);
        Some(Event::Connected { conn })
    }

    fn completed(&mut self, conn: ConnId) -> Option<Event> {
        let slot = self.slots.get(conn)?;
        slot.in_flight -= 1;
        if slot.closing {
            self.release_when_idle(conn);
        }
        None
    }

    pub(super) fn release_when_idle(&mut self, conn: ConnId) {
        if self.slots.get(conn).is_some_and(|slot| slot.in_flight == 0) {
            self.release(conn);
        }
    }

    fn release(&mut self, conn: ConnId) {
        self.slots.remove(conn);
        self.ready.push_back(Event::Released { conn });
    }

    fn arm_doorbell(&mut self) {
        if let Some(fd) = self.doorbell {
            let entry = opcode::PollAdd::new(fd, POLLIN).multi(true).build();
            self.push(&entry.user_data(user_data(Op::Doorbell, 0, 0)));
        }
    }

    pub(super) fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what entries point to stays in place until their completion: outgoing bytes and addresses in
        // their slot, which is not freed before; timespecs in `timers` until they fire; received bytes go to
        // registered buffers.
        while !unsafe { self.kernel.push(entry) } {
            self.enters += 1;
            self.kernel.sync_submissions();
            let submit = self.kernel.unsubmitted() as u32;
            // A failure here is seen again, and reported, by the `enter` that ends the turn.
            let _ = self.kernel.enter(submit, 0);
            self.kernel.sync_submissions();
        }
    }
}

const SOCK_CLOEXEC: i32 = libc::SOCK_CLOEXEC;
const POLLIN: u32 = libc::POLLIN as u32;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};

    use super::*;
    use crate::net::event::Ended;
    use crate::net::slots::Outgoing;
    use crate::net::{Doorbell, socket};

    fn ring(buffers: u16, buffer_bytes: usize) -> Ring {
        Ring::new(&RingConfig { submissions: 8, completions: 64, buffers, buffer_bytes }).unwrap()
    }

    fn listening(ring: &mut Ring) -> (ListenerId, SocketAddr) {
        let listener = socket::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket::local_address(&listener).unwrap();
        (ring.listen(listener), address)
    }

    fn wait(ring: &mut Ring) -> Event {
        loop {
            if let Some(event) = ring.next_event() {
                return event;
            }
            let sleep = !ring.has_work();
            ring.enter(sleep).unwrap();
        }
    }

    fn accepted(ring: &mut Ring) -> ConnId {
        match wait(ring) {
            Event::Accepted { socket, .. } => ring.adopt(socket),
            other => panic!("{other:?}"),
        }
    }

    fn received(ring: &mut Ring) -> Vec<u8> {
        match wait(ring) {
            Event::Received { buffer, .. } => {
                let bytes = ring.bytes(&buffer).to_vec();
                ring.give_back(buffer);
                bytes
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bytes_go_both_ways_and_the_slot_comes_back() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        peer.write_all(b"hello").unwrap();
        assert_eq!(received(&mut ring), b"hello");
        ring.send(conn, Outgoing::Gathered(b"world".to_vec()), false);
        assert!(matches!(wait(&mut ring), Event::Sent { bytes: Outgoing::Gathered(_), .. }));
        let mut answer = [0; 5];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"world");
        ring.close(conn);
        assert!(matches!(wait(&mut ring), Event::Released { conn: gone } if gone == conn));
        assert_eq!(peer.read(&mut answer).unwrap(), 0);
        assert_eq!(ring.connections(), 0);
    }

    #[test]
    fn more_bytes_than_buffers_all_arrive_in_order() {
        let mut ring = ring(2, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        accepted(&mut ring);
        let sent: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        peer.write_all(&sent).unwrap();
        let mut got = Vec::new();
        while got.len() < sent.len() {
            got.extend(received(&mut ring));
        }
        assert_eq!(got, sent);
        assert!(ring.starvations() > 0);
    }

    #[test]
    fn a_paused_connection_is_read_again_after_resume() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        ring.enter(false).unwrap();
        ring.pause(conn);
        ring.enter(true).unwrap();
        assert!(ring.next_event().is_none());
        peer.write_all(b"later").unwrap();
        ring.resume(conn);
        assert_eq!(received(&mut ring), b"later");
    }

    #[test]
    fn resume_right_after_pause_loses_nothing() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        ring.enter(false).unwrap();
        ring.pause(conn);
        ring.resume(conn);
        peer.write_all(b"x").unwrap();
        assert_eq!(received(&mut ring), b"x");
    }

    #[test]
    fn a_large_send_waits_for_its_reader_and_stays_whole() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        let frame = bytes::Bytes::from(vec![7; 4 * 1024 * 1024]);
        ring.send(conn, Outgoing::Frame(frame.clone()), true);
        ring.enter(false).unwrap();
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 4 * 1024 * 1024];
            peer.read_exact(&mut got).unwrap();
            (got, peer)
        });
        assert!(matches!(wait(&mut ring), Event::SendWaits { .. }));
        assert!(matches!(wait(&mut ring), Event::Sent { .. }));
        assert_eq!(reader.join().unwrap().0, frame);
    }

    #[test]
    fn a_quiet_send_is_told_with_the_next_event() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        ring.send(conn, Outgoing::Gathered(b"ping".to_vec()), true);
        let echo = std::thread::spawn(move || {
            let mut word = [0; 4];
            peer.read_exact(&mut word).unwrap();
            peer.write_all(&word).unwrap();
            peer
        });
        // Sleeps through the send's success, until the peer has answered.
        ring.enter(true).unwrap();
        assert_eq!(received(&mut ring), b"ping");
        assert!(matches!(wait(&mut ring), Event::Sent { conn: done, .. } if done == conn));
        assert!(!ring.is_sending(conn));
        drop(echo.join().unwrap());
    }

    #[test]
    fn a_quiet_send_to_a_peer_that_is_gone_is_told() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        socket::reset_on_close(&peer);
        drop(peer);
        assert!(matches!(wait(&mut ring), Event::ReceiveEnded { .. }));
        ring.send(conn, Outgoing::Gathered(b"ping".to_vec()), true);
        assert!(matches!(wait(&mut ring), Event::SendFailed { .. }));
    }

    #[test]
    fn closing_right_after_a_quiet_send_releases() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let _peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        ring.enter(false).unwrap();
        ring.send(conn, Outgoing::Gathered(b"bye".to_vec()), true);
        ring.close(conn);
        assert!(matches!(wait(&mut ring), Event::Released { .. }));
    }

    #[test]
    fn closing_with_a_send_stuck_still_releases() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let _peer = TcpStream::connect(address).unwrap();
        let conn = accepted(&mut ring);
        ring.send(conn, Outgoing::Gathered(vec![0; 16 * 1024 * 1024]), true);
        ring.enter(false).unwrap();
        ring.reset_on_close(conn);
        ring.close(conn);
        assert!(matches!(wait(&mut ring), Event::Released { .. }));
    }

    #[test]
    fn the_peers_end_is_told_after_its_last_bytes() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let mut peer = TcpStream::connect(address).unwrap();
        accepted(&mut ring);
        peer.write_all(b"bye").unwrap();
        drop(peer);
        assert_eq!(received(&mut ring), b"bye");
        assert!(matches!(wait(&mut ring), Event::ReceiveEnded { why: Ended::Finished, .. }));
    }

    #[test]
    fn another_threads_bell_wakes_a_sleeper() {
        let mut ring = ring(4, 64);
        let bell = std::sync::Arc::new(Doorbell::new().unwrap());
        ring.set_doorbell(&*bell);
        ring.enter(false).unwrap();
        for _ in 0..3 {
            bell.prepare_sleep();
            let other = bell.clone();
            let thread = std::thread::spawn(move || assert!(other.ring()));
            assert!(matches!(wait(&mut ring), Event::Doorbell));
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_timer_wakes_a_sleeper() {
        let mut ring = ring(4, 64);
        ring.wake_at(10_000_000, 0);
        ring.wake_at(2_000, 0);
        assert!(matches!(wait(&mut ring), Event::Timer));
        assert!(!ring.has_work());
    }

    #[test]
    fn a_stopped_listener_ends_accepting() {
        let mut ring = ring(4, 64);
        let (listener, address) = listening(&mut ring);
        ring.enter(false).unwrap();
        socket::stop_listening(&ring.listener(listener));
        assert!(matches!(wait(&mut ring), Event::AcceptEnded { .. }));
        assert!(TcpStream::connect(address).is_err());
    }

    #[test]
    fn a_connect_ends_in_success_or_failure() {
        let mut ring = ring(4, 64);
        let (_, address) = listening(&mut ring);
        let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap().into();
        let conn = ring.connect(new(), address.into());
        let mut connected = false;
        while !connected {
            connected = matches!(wait(&mut ring), Event::Connected { conn: done } if done == conn);
        }
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        ring.connect(new(), closed.into());
        let mut failed = false;
        while !failed {
            failed = matches!(wait(&mut ring), Event::ConnectFailed { errno: libc::ECONNREFUSED, .. });
        }
    }
}
