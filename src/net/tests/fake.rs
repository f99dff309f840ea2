//! A kernel for tests: it takes the entries that a [`Ring`](super::Ring) submits and completes them late, short, out of
//! order, or with an error, as an io_uring may, from one seed.
//!
//! What an entry points to is read when it is submitted and again when it completes, and must be the same; received
//! bytes are written to the provided buffers, and all buffers that the kernel owns are scribbled over. All of it is
//! compiled with the tests, so AddressSanitizer sees each access, which it cannot inside a kernel.
//!
//! Sockets are one end of a socket pair, for the ring shuts down and closes descriptors by itself: the other end shows
//! it. What peers say and hear is kept here. Absent: a completion queue that overflows, and operations that a ring does
//! not use.
#![expect(unsafe_code, reason = "it stands for the kernel, which goes by addresses")]

mod chance;
mod memory;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;

use io_uring::{cqueue, opcode, squeue};
use libc::{EAGAIN, EBUSY, ECANCELED, ECONNREFUSED, EINTR, EMFILE, ENOBUFS, ENOENT, EPIPE, ETIME};
use rustix::event::{PollFd, PollFlags};

use memory::{Fields, Provided};

use crate::net::buffers::GROUP;
use crate::net::queues::Kernel;

pub(super) use chance::Chance;

/// One ring's view of the machine.
#[derive(Debug)]
pub(super) struct Fake {
    machine: Rc<RefCell<Machine>>,
    pushed: VecDeque<squeue::Entry>,
    known: VecDeque<cqueue::Entry>,
}

/// The kernel and the world behind it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) chance: Chance,
    /// No errors and no delay any more.
    pub(super) calm: bool,
    /// Peers that wait to be accepted.
    pub(super) arriving: usize,
    /// How often the doorbell was rung.
    pub(super) rings: usize,
    requests: Vec<Request>,
    posted: VecDeque<cqueue::Entry>,
    peers: Vec<Peer>,
    by_fd: BTreeMap<RawFd, usize>,
    buffers: Option<Provided>,
}

/// The far end of a socket.
#[derive(Debug)]
struct Peer {
    far: OwnedFd,
    /// Of the ring's end, which keeps its number only as long as it is open.
    near: (RawFd, u64),
    spoken: Vec<u8>,
    received: usize,
    heard: Vec<u8>,
    reads: bool,
    /// It says no more: 0, or the error that it leaves.
    end: Option<i32>,
}

/// Something the kernel is at.
#[derive(Debug)]
struct Request {
    what: What,
    data: u64,
    cancelled: bool,
    /// Where what was submitted points to, and what was there.
    memory: (NonNull<u8>, Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
enum What {
    Accept,
    Watch,
    Doorbell,
    Timeout,
    Connect { peer: usize },
    Receive { peer: usize },
    Send { peer: usize, done: usize },
}

impl Fake {
    pub(super) fn new(seed: u64) -> (Self, Rc<RefCell<Machine>>) {
        let machine = Machine {
            chance: Chance(seed),
            calm: false,
            arriving: 0,
            rings: 0,
            requests: Vec::new(),
            posted: VecDeque::new(),
            peers: Vec::new(),
            by_fd: BTreeMap::new(),
            buffers: None,
        };
        let machine = Rc::new(RefCell::new(machine));
        (Self { machine: machine.clone(), pushed: VecDeque::new(), known: VecDeque::new() }, machine)
    }
}

impl Kernel for Fake {
    unsafe fn provide_buffers(&mut self, entries: NonNull<u8>, count: u16) -> io::Result<()> {
        self.machine.borrow_mut().buffers = Some(Provided::new(entries, count));
        Ok(())
    }

    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        let has_room = self.pushed.len() < SUBMISSIONS;
        if has_room {
            self.pushed.push_back(entry.clone());
        }
        has_room
    }

    fn sync_submissions(&mut self) {}

    fn sync_completions(&mut self) {
        self.known.append(&mut self.machine.borrow_mut().posted);
    }

    fn unsubmitted(&self) -> usize {
        self.pushed.len()
    }

    fn has_deferred_work(&mut self) -> bool {
        self.machine.borrow_mut().chance.one_in(2)
    }

    fn enter(&mut self, submit: u32, wait: u32) -> io::Result<usize> {
        let mut machine = self.machine.borrow_mut();
        if machine.misbehaves(16) {
            let errno = if machine.chance.one_in(2) { EAGAIN } else { EBUSY };
            return Err(io::Error::from_raw_os_error(errno));
        }
        let mut taken = submit as usize;
        if machine.misbehaves(16) {
            taken = machine.chance.below(taken + 1);
        }
        for entry in self.pushed.drain(..taken) {
            machine.submit(&entry);
        }
        machine.work();
        for _ in 0..if wait > 0 { WAIT_ROUNDS } else { 0 } {
            if !machine.posted.is_empty() {
                break;
            }
            machine.work();
        }
        machine.scribble();
        if wait > 0 && taken == 0 && machine.posted.is_empty() {
            return Err(io::Error::from_raw_os_error(EINTR));
        }
        Ok(taken)
    }

    fn has_completion(&self) -> bool {
        !self.known.is_empty()
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.known.pop_front()
    }
}

/// What the peers do.
impl Machine {
    /// A socket, and the peer at its other end.
    pub(super) fn socket(&mut self) -> OwnedFd {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        self.by_fd.insert(near.as_raw_fd(), self.peers.len());
        let inode = rustix::fs::fstat(&near).unwrap().st_ino;
        self.peers.push(Peer {
            far,
            near: (near.as_raw_fd(), inode),
            spoken: Vec::new(),
            received: 0,
            heard: Vec::new(),
            reads: true,
            end: None,
        });
        near
    }

    pub(super) fn peer_of(&self, fd: RawFd) -> usize {
        self.by_fd[&fd]
    }

    pub(super) fn say(&mut self, peer: usize, bytes: &[u8]) {
        if self.peers[peer].end.is_none() {
            self.peers[peer].spoken.extend_from_slice(bytes);
        }
    }

    /// It says no more, and with an error takes no more either.
    pub(super) fn end(&mut self, peer: usize, errno: i32) {
        self.peers[peer].end.get_or_insert(errno);
    }

    pub(super) fn set_reads(&mut self, peer: usize, reads: bool) {
        self.peers[peer].reads = reads;
    }

    pub(super) fn spoken(&self, peer: usize) -> &[u8] {
        &self.peers[peer].spoken
    }

    pub(super) fn heard(&self, peer: usize) -> &[u8] {
        &self.peers[peer].heard
    }

    /// How the peer has ended, if it has.
    pub(super) fn ended(&self, peer: usize) -> Option<i32> {
        self.peers[peer].end
    }

    /// The buffers that are the kernel's.
    pub(super) fn published(&self) -> Vec<u16> {
        let Some(buffers) = &self.buffers else { return Vec::new() };
        buffers.published().map(|entry| entry.bid()).collect()
    }
}

/// What the kernel does.
impl Machine {
    fn misbehaves(&mut self, one_in: usize) -> bool {
        !self.calm && self.chance.one_in(one_in)
    }

    fn submit(&mut self, entry: &squeue::Entry) {
        let fields = Fields::of(entry);
        let peer = self.by_fd.get(&fields.fd()).copied();
        let peer = || peer.expect("an entry names a socket");
        let what = match fields.opcode() {
            opcode::AcceptMulti::CODE => What::Accept,
            opcode::PollAdd::CODE if fields.len() & POLL_MULTISHOT == 0 => What::Watch,
            opcode::PollAdd::CODE => What::Doorbell,
            opcode::Timeout::CODE => What::Timeout,
            opcode::Connect::CODE => What::Connect { peer: peer() },
            opcode::RecvMulti::CODE => {
                assert!(fields.flags() & SELECTS_BUFFER != 0 && fields.group() == GROUP);
                What::Receive { peer: peer() }
            }
            opcode::Send::CODE => What::Send { peer: peer(), done: 0 },
            opcode::AsyncCancel::CODE => return self.cancel(&fields),
            other => panic!("operation {other} is not a ring's"),
        };
        let request = Request { what, data: fields.data(), cancelled: false, memory: fields.memory() };
        if let What::Send { peer, .. } = what
            && fields.operation_flags() & libc::MSG_DONTWAIT as u32 != 0
        {
            return self.send_now(&request, peer, fields.flags() & SKIPS_SUCCESS != 0);
        }
        self.requests.push(request);
    }

    /// Done within the submission, however it goes.
    fn send_now(&mut self, request: &Request, peer: usize, skips_success: bool) {
        let len = request.memory.1.len();
        let fits = match () {
            () if self.misbehaves(4) => self.chance.below(len),
            () if self.peers[peer].reads => len,
            () => 0,
        };
        let result = if self.is_broken(peer) {
            -EPIPE
        } else if fits == 0 {
            -EAGAIN
        } else {
            self.peers[peer].heard.extend_from_slice(&request.memory()[..fits]);
            fits as i32
        };
        if result != len as i32 || !skips_success {
            self.post(request.data, result, 0);
        }
    }

    fn cancel(&mut self, fields: &Fields) {
        let wanted = fields.address();
        let place = self.requests.iter().position(|request| request.data == wanted && !request.cancelled);
        let Some(place) = place else { return self.post(fields.data(), -ENOENT, 0) };
        // It may have been quicker.
        if self.misbehaves(3) && self.advance(place) {
            self.requests.remove(place);
            return self.post(fields.data(), -ENOENT, 0);
        }
        self.requests[place].cancelled = true;
        if self.chance.one_in(2) && self.advance(place) {
            self.requests.remove(place);
        }
        self.post(fields.data(), 0, 0);
    }

    /// Goes on with some of what is to be done, in any order.
    fn work(&mut self) {
        let mut place = 0;
        let len = self.requests.len();
        self.requests.rotate_left(if len > 0 { self.chance.below(len) } else { 0 });
        while place < self.requests.len() {
            if !self.misbehaves(3) && self.advance(place) {
                self.requests.remove(place);
            } else {
                place += 1;
            }
        }
    }

    /// Goes on with one request; true if it is over.
    fn advance(&mut self, place: usize) -> bool {
        let request = &self.requests[place];
        let (what, data, cancelled) = (request.what, request.data, request.cancelled);
        assert!(*request.memory() == *request.memory.1, "memory changes while the kernel has it: {what:?}");
        if let What::Connect { peer } | What::Receive { peer } | What::Send { peer, .. } = what
            && self.chance.one_in(8)
        {
            self.peers[peer].check_is_open();
        }
        if cancelled {
            self.post(data, -ECANCELED, 0);
            return true;
        }
        match what {
            What::Accept => self.accept(data),
            What::Watch => self.arriving > 0 && self.finish(data, 1),
            What::Timeout => !self.calm && self.chance.one_in(8) && self.finish(data, -ETIME),
            What::Doorbell if self.rings == 0 => false,
            What::Doorbell => {
                self.rings -= 1;
                let more = !self.misbehaves(4);
                self.post(data, 1, if more { MORE } else { 0 });
                !more
            }
            What::Connect { peer } if self.is_broken(peer) => self.finish(data, -ECONNREFUSED),
            What::Connect { .. } => {
                let result = if self.misbehaves(4) { -ECONNREFUSED } else { 0 };
                self.finish(data, result)
            }
            What::Receive { peer } => self.receive(data, peer),
            What::Send { peer, done } => self.send_on(place, peer, done),
        }
    }

    fn accept(&mut self, data: u64) -> bool {
        if self.misbehaves(32) {
            return self.finish(data, -EMFILE);
        }
        if self.arriving == 0 {
            return false;
        }
        self.arriving -= 1;
        let socket = self.socket().into_raw_fd();
        let more = !self.misbehaves(8);
        self.post(data, socket, if more { MORE } else { 0 });
        !more
    }

    fn receive(&mut self, data: u64, peer: usize) -> bool {
        let is_shut = self.peers[peer].is_shut();
        for _ in 0..1 + self.chance.below(3) {
            let waiting = self.peers[peer].spoken.len() - self.peers[peer].received;
            if waiting == 0 || is_shut && self.chance.one_in(2) {
                break;
            }
            let Some((id, start, len)) = self.buffers.as_mut().and_then(Provided::take) else {
                return self.finish(data, -ENOBUFS);
            };
            let part = waiting.min(len as usize);
            let part = if self.misbehaves(3) { 1 + self.chance.below(part) } else { part };
            let from = self.peers[peer].received;
            self.peers[peer].received += part;
            let bytes = &self.peers[peer].spoken[from..from + part];
            // SAFETY: the ring promised that its buffers stay where they are, and `part` is at most the length.
            unsafe { start.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), part) };
            let more = !self.misbehaves(8);
            self.post(data, part as i32, HAS_BUFFER | u32::from(id) << 16 | if more { MORE } else { 0 });
            if !more {
                return true;
            }
        }
        let is_drained = self.peers[peer].received == self.peers[peer].spoken.len();
        match self.peers[peer].end {
            _ if is_shut => self.finish(data, 0),
            Some(errno) if is_drained => self.finish(data, -errno),
            _ => false,
        }
    }

    fn send_on(&mut self, place: usize, peer: usize, done: usize) -> bool {
        let len = self.requests[place].memory.1.len();
        if self.is_broken(peer) {
            let result = if done > 0 { done as i32 } else { -EPIPE };
            return self.finish(self.requests[place].data, result);
        }
        if !self.peers[peer].reads {
            return false;
        }
        let part = if self.calm { len - done } else { self.chance.below(len - done + 1) };
        let bytes = self.requests[place].memory()[done..done + part].to_vec();
        self.peers[peer].heard.extend_from_slice(&bytes);
        let done = done + part;
        self.requests[place].what = What::Send { peer, done };
        if done == len || done > 0 && self.misbehaves(8) {
            return self.finish(self.requests[place].data, done as i32);
        }
        false
    }

    /// Whether the peer takes nothing any more.
    fn is_broken(&self, peer: usize) -> bool {
        self.peers[peer].is_shut() || self.peers[peer].end.is_some_and(|errno| errno != 0)
    }

    fn finish(&mut self, data: u64, result: i32) -> bool {
        self.post(data, result, 0);
        true
    }

    fn post(&mut self, data: u64, result: i32, flags: u32) {
        #[repr(C)]
        struct Completion(u64, i32, u32);
        // SAFETY: these are the fields of `struct io_uring_cqe`, in order, and all bits are valid.
        let entry = unsafe { std::mem::transmute::<Completion, cqueue::Entry>(Completion(data, result, flags)) };
        self.posted.push_back(entry);
    }

    /// Nobody else may be using a buffer that the kernel has.
    fn scribble(&mut self) {
        let Some(buffers) = &self.buffers else { return };
        let mut ids = Vec::new();
        for entry in buffers.published() {
            assert!(!ids.contains(&entry.bid()), "buffer {} is given back twice", entry.bid());
            ids.push(entry.bid());
            // SAFETY: the ring promised that its buffers stay where they are.
            unsafe { (entry.addr() as *mut u8).write_bytes(SCRIBBLE, entry.len() as usize) };
        }
    }
}

impl Peer {
    /// Whether the ring has shut its end down in both directions, or closed it.
    fn is_shut(&self) -> bool {
        let mut polled = [PollFd::new(&self.far, PollFlags::empty())];
        rustix::event::poll(&mut polled, Some(&rustix::time::Timespec::default())).unwrap();
        polled[0].revents().contains(PollFlags::HUP)
    }

    fn check_is_open(&self) {
        let (fd, inode) = self.near;
        // SAFETY: the descriptor is only asked what it is, and may be closed by now, which is what is looked for.
        let found = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) });
        assert!(
            found.is_ok_and(|found| found.st_ino == inode),
            "a socket stays open while the kernel has an entry of it"
        );
    }
}

impl Request {
    /// What is in memory now where the entry points to.
    fn memory(&self) -> &[u8] {
        // SAFETY: the ring promised that it stays there until the last completion. AddressSanitizer tells otherwise.
        unsafe { std::slice::from_raw_parts(self.memory.0.as_ptr(), self.memory.1.len()) }
    }
}

/// Short, so that it is often full.
const SUBMISSIONS: usize = 8;
const WAIT_ROUNDS: usize = 8;
const SCRIBBLE: u8 = 0xee;

// From `linux/io_uring.h`.
const SELECTS_BUFFER: u8 = 1 << 5;
const SKIPS_SUCCESS: u8 = 1 << 6;
const POLL_MULTISHOT: u32 = 1;
const HAS_BUFFER: u32 = 1;
const MORE: u32 = 2;
