//! Rooms, their members, and the one task that writes for all members.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ahash::HashMap;
use bytes::Bytes;
use fastwebsockets::Frame;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::task::spawn_local;

/// All rooms of the process.
pub struct Hub {
    rooms: RefCell<HashMap<String, Rc<Room>>>,
    /// Members with something in their queue.
    dirty: RefCell<Vec<Rc<Member>>>,
    wake: Notify,
}

struct Room {
    path: String,
    members: RefCell<Vec<Rc<Member>>>,
}

/// One connection in its room.
pub struct Member {
    room: Rc<Room>,
    /// Where it is among the room's members.
    place: Cell<usize>,
    writer: OwnedWriteHalf,
    queue: RefCell<VecDeque<Bytes>>,
    queued_bytes: Cell<usize>,
    /// It is in the dirty list, or a task waits for its socket to take more.
    is_pending: Cell<bool>,
    is_broken: Cell<bool>,
}

impl Hub {
    pub fn new() -> Self {
        Self { rooms: RefCell::default(), dirty: RefCell::default(), wake: Notify::new() }
    }

    pub fn join(&self, path: &str, writer: OwnedWriteHalf) -> Rc<Member> {
        let mut rooms = self.rooms.borrow_mut();
        let room = rooms
            .entry(path.to_owned())
            .or_insert_with(|| Rc::new(Room { path: path.to_owned(), members: RefCell::default() }));
        let mut members = room.members.borrow_mut();
        let member = Rc::new(Member {
            room: room.clone(),
            place: Cell::new(members.len()),
            writer,
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            is_pending: Cell::new(false),
            is_broken: Cell::new(false),
        });
        members.push(member.clone());
        member
    }

    pub fn leave(&self, member: &Rc<Member>) {
        member.is_broken.set(true);
        let mut members = member.room.members.borrow_mut();
        let place = member.place.get();
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            moved.place.set(place);
        }
        if members.is_empty() {
            self.rooms.borrow_mut().remove(&member.room.path);
        }
    }

    /// Encodes the message once and queues it at every member of the sender's room.
    pub fn publish(&self, sender: &Member, frame: Frame<'_>) {
        let frame = encode(frame);
        for member in sender.room.members.borrow().iter() {
            self.queue(member, &frame);
        }
    }

    pub fn queue(&self, member: &Rc<Member>, frame: &Bytes) {
        if member.is_broken.get() {
            return;
        }
        member.queued_bytes.set(member.queued_bytes.get() + frame.len());
        if member.queued_bytes.get() > OUTBOX_BYTES_MAX {
            return member.give_up();
        }
        member.queue.borrow_mut().push_back(frame.clone());
        if !member.is_pending.replace(true) {
            let mut dirty = self.dirty.borrow_mut();
            if dirty.is_empty() {
                self.wake.notify_one();
            }
            dirty.push(member.clone());
        }
    }

    /// Woken by the first message of a turn, this task runs after every other task that was ready then, so that each
    /// queue holds all that the turn has brought.
    pub async fn write_for_all(self: Rc<Self>) {
        let mut batch = Vec::new();
        let mut scratch = Vec::with_capacity(WRITE_BYTES_MAX);
        loop {
            self.wake.notified().await;
            std::mem::swap(&mut batch, &mut *self.dirty.borrow_mut());
            for member in batch.drain(..) {
                member.is_pending.set(false);
                if !member.write(&mut scratch) && !member.is_broken.get() {
                    member.is_pending.set(true);
                    spawn_local(wait_and_write(member));
                }
            }
        }
    }
}

/// Writes for a member whose socket was full.
async fn wait_and_write(member: Rc<Member>) {
    let mut scratch = Vec::new();
    loop {
        if member.writer.writable().await.is_err() || member.is_broken.get() {
            member.is_broken.set(true);
            return;
        }
        if member.write(&mut scratch) {
            member.is_pending.set(false);
            return;
        }
    }
}

impl Member {
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Too slow: its reader finds the end of the stream.
    fn give_up(&self) {
        self.is_broken.set(true);
        // Fails only for sockets that are gone already.
        let _ = socket2::SockRef::from(self.writer.as_ref()).shutdown(std::net::Shutdown::Both);
    }

    /// Writes the queue; false when the socket takes no more now, or none any more.
    fn write(&self, scratch: &mut Vec<u8>) -> bool {
        let mut queue = self.queue.borrow_mut();
        while !queue.is_empty() {
            let written = match self.write_some(&queue, scratch) {
                Ok(written) => written,
                Err(error) => {
                    self.is_broken.set(error.kind() != std::io::ErrorKind::WouldBlock);
                    return false;
                }
            };
            self.queued_bytes.set(self.queued_bytes.get() - written);
            consume(&mut queue, written);
        }
        true
    }

    /// One write: a single frame as it lies, several copied together (frames of a chat are small, and a copy costs less
    /// than the kernel's walk over a vector).
    fn write_some(&self, queue: &VecDeque<Bytes>, scratch: &mut Vec<u8>) -> std::io::Result<usize> {
        if queue.len() == 1 || queue[0].len() >= WRITE_BYTES_MAX {
            return self.writer.try_write(&queue[0]);
        }
        scratch.clear();
        for frame in queue {
            if scratch.len() + frame.len() > WRITE_BYTES_MAX {
                break;
            }
            scratch.extend_from_slice(frame);
        }
        self.writer.try_write(scratch)
    }
}

fn consume(queue: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let front = &mut queue[0];
        if written < front.len() {
            *front = front.slice(written..);
            return;
        }
        written -= front.len();
        queue.pop_front();
    }
}

/// A frame as a server sends it.
pub fn encode(mut frame: Frame<'_>) -> Bytes {
    let mut head = [0; HEAD_BYTES_MAX];
    let len = frame.fmt_head(&mut head);
    let mut bytes = Vec::with_capacity(len + frame.payload.len());
    bytes.extend_from_slice(&head[..len]);
    bytes.extend_from_slice(&frame.payload);
    bytes.into()
}

const HEAD_BYTES_MAX: usize = 16;
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
const WRITE_BYTES_MAX: usize = 64 * 1024;
