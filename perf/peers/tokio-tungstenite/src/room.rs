//! Rooms, their members, and the one task that flushes for all members.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ahash::HashMap;
use futures_util::{Sink, Stream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// All rooms of the process.
pub struct Hub {
    rooms: RefCell<HashMap<String, Rc<Room>>>,
    /// Members with something in their write buffer.
    dirty: RefCell<Vec<Rc<Member>>>,
    wake: Notify,
}

struct Room {
    path: String,
    members: RefCell<Vec<Rc<Member>>>,
}

/// One connection in its room. Its socket is borrowed for the length of one poll at most.
pub struct Member {
    room: Rc<Room>,
    /// Where it is among the room's members.
    place: Cell<usize>,
    socket: RefCell<WebSocketStream<TcpStream>>,
    /// It is in the dirty list, or a task waits for its socket to take more.
    is_pending: Cell<bool>,
    is_broken: Cell<bool>,
}

impl Hub {
    pub fn new() -> Self {
        Self { rooms: RefCell::default(), dirty: RefCell::default(), wake: Notify::new() }
    }

    pub fn join(&self, path: &str, socket: WebSocketStream<TcpStream>) -> Rc<Member> {
        let mut rooms = self.rooms.borrow_mut();
        let room = rooms
            .entry(path.to_owned())
            .or_insert_with(|| Rc::new(Room { path: path.to_owned(), members: RefCell::default() }));
        let mut members = room.members.borrow_mut();
        let member = Rc::new(Member {
            room: room.clone(),
            place: Cell::new(members.len()),
            socket: RefCell::new(socket),
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

    /// Puts the message into the write buffer of every member of the sender's room. They share its bytes until then; the
    /// library offers no way to share an encoded frame, so each member costs a header and a copy.
    pub fn publish(&self, sender: &Member, message: &Message) {
        for member in sender.room.members.borrow().iter() {
            if !member.is_broken.get() {
                member.queue(message.clone());
                self.mark_dirty(member);
            }
        }
    }

    fn mark_dirty(&self, member: &Rc<Member>) {
        if !member.is_pending.replace(true) {
            let mut dirty = self.dirty.borrow_mut();
            if dirty.is_empty() {
                self.wake.notify_one();
            }
            dirty.push(member.clone());
        }
    }

    /// Woken by the first message of a turn, this task runs after every other task that was ready then, so that each
    /// buffer holds all that the turn has brought.
    pub async fn flush_for_all(self: Rc<Self>) {
        let mut batch = Vec::new();
        loop {
            self.wake.notified().await;
            std::mem::swap(&mut batch, &mut *self.dirty.borrow_mut());
            for member in batch.drain(..) {
                let flushed = poll_fn(|context| Poll::Ready(member.poll_flush(context))).await;
                if flushed.is_ready() {
                    member.is_pending.set(false);
                } else {
                    spawn_local(wait_and_flush(member));
                }
            }
        }
    }
}

/// Flushes for a member whose socket was full.
async fn wait_and_flush(member: Rc<Member>) {
    poll_fn(|context| member.poll_flush(context)).await;
    member.is_pending.set(false);
}

impl Member {
    pub async fn read(&self) -> Option<Result<Message, Error>> {
        poll_fn(|context| {
            if self.is_broken.get() {
                return Poll::Ready(None);
            }
            Pin::new(&mut *self.socket.borrow_mut()).poll_next(context)
        })
        .await
    }

    /// A full buffer is a reader too slow; any other error is a socket that is gone.
    fn queue(&self, message: Message) {
        if Pin::new(&mut *self.socket.borrow_mut()).start_send(message).is_err() {
            self.give_up();
        }
    }

    fn poll_flush(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_broken.get() {
            return Poll::Ready(());
        }
        let flushed = Pin::new(&mut *self.socket.borrow_mut()).poll_flush(context);
        flushed.map(|result| {
            if result.is_err() {
                self.give_up();
            }
        })
    }

    /// Its reader finds the end of the stream.
    fn give_up(&self) {
        self.is_broken.set(true);
        // Fails only for sockets that are gone already.
        let _ = socket2::SockRef::from(self.socket.borrow().get_ref()).shutdown(std::net::Shutdown::Both);
    }
}
