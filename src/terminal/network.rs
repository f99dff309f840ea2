//! The thread that has the connection. It is told to dial, send and hang up, and tells what it hears.
//!
//! It sleeps until the socket or an order wakes it. When nobody takes what it hears, it stops reading, and the server sees a
//! slow reader; whoever gives orders never waits for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustls::ClientConfig;

use super::ending::Ending;
use super::happening::Happening;
use super::link::{Link, Received};
use super::options::{Target, TokenSource};
use super::session::Heard;

/// What connections are made of.
#[derive(Clone, Debug)]
pub struct Dialler {
    /// Where to.
    pub target: Target,
    /// Read for each connection.
    pub token: TokenSource,
    /// For targets that want it.
    pub tls: Option<Arc<ClientConfig>>,
}

/// The thread, as others see it.
#[derive(Debug)]
pub struct Network {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Order {
    Dial(u64),
    Send(String),
    HangUp,
}

impl Network {
    /// Starts the thread, which tells `happenings`.
    pub fn start(dialler: Dialler, happenings: Sender<Happening>) -> std::io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (orders, taken) = flume::bounded(ORDERS_MAX);
        let (end, ended) = flume::bounded(1);
        let worker =
            Worker { dialler, orders: taken, bell: Arc::clone(&bell), happenings, link: None, dial: 0, _end: end };
        std::thread::Builder::new().name("network".to_owned()).spawn(move || worker.run())?;
        Ok(Self { orders, bell, ended })
    }

    /// Opens a connection under this number.
    pub fn dial(&self, number: u64) {
        self.order(Order::Dial(number));
    }

    /// Sends a text. What does not fit the queue is lost with the connection: the session keeps few unanswered.
    pub fn send(&self, text: String) {
        self.order(Order::Send(text));
    }

    /// Closes the connection.
    pub fn hang_up(&self) {
        self.order(Order::HangUp);
    }

    /// Waits until the last order is carried out, but not for long. `happenings` must not be full.
    pub fn end(self) {
        drop(self.orders);
        ring(&self.bell);
        match self.ended.recv_timeout(END) {
            Ok(()) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout) => {}
        }
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_ok() {
            ring(&self.bell);
        }
    }
}

struct Worker {
    dialler: Dialler,
    orders: Receiver<Order>,
    bell: Arc<OwnedFd>,
    happenings: Sender<Happening>,
    link: Option<Link>,
    /// The number of the last connection.
    dial: u64,
    /// Dropped with the thread.
    _end: Sender<()>,
}

impl Worker {
    fn run(mut self) {
        loop {
            // Before the orders are looked at, so that no ring is missed.
            let _ = rustix::io::read(&*self.bell, &mut [0; 8]);
            loop {
                match self.orders.try_recv() {
                    Ok(order) => self.carry_out(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return self.close(),
                }
            }
            let (all_sent, more) = self.work();
            let mut waits = vec![PollFd::new(&*self.bell, PollFlags::IN)];
            if let Some(link) = &self.link {
                let out = if all_sent { PollFlags::empty() } else { PollFlags::OUT };
                waits.push(PollFd::new(link.socket(), PollFlags::IN | out));
            }
            match poll(&mut waits, more.then_some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => panic!("poll of two open descriptors failed: {error}"),
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Dial(number) => {
                self.close();
                self.dial = number;
                match self.open() {
                    Ok((link, token)) => {
                        self.link = Some(link);
                        self.tell(Heard::Opened(token));
                    }
                    Err(ending) => self.tell(Heard::Lost(ending)),
                }
            }
            Order::Send(text) => {
                if let Some(Err(ending)) = self.link.as_mut().map(|link| link.send(text)) {
                    self.lost(ending);
                }
            }
            Order::HangUp => self.close(),
        }
    }

    fn open(&self) -> Result<(Link, Option<String>), Ending> {
        let Dialler { target, token, tls } = &self.dialler;
        let token = token.read().map_err(|why| Ending { code: None, why, is_final: true })?;
        Ok((Link::open(target, tls.as_ref().filter(|_| target.is_secure()))?, token))
    }

    /// Sends and receives what there is. Says whether all was sent, and whether there may be more to receive at once.
    fn work(&mut self) -> (bool, bool) {
        let mut more = true;
        for _ in 0..TEXTS_PER_TURN {
            let Some(link) = &mut self.link else { return (true, false) };
            match link.receive() {
                Ok(Some(Received::Text(text))) => self.tell(Heard::Text(text)),
                Ok(Some(Received::Alive)) => self.tell(Heard::Alive),
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(ending) => self.lost(ending),
            }
        }
        match self.link.as_mut().map(Link::flush) {
            Some(Ok(all_sent)) => (all_sent, more),
            Some(Err(ending)) => {
                self.lost(ending);
                (true, false)
            }
            None => (true, false),
        }
    }

    fn lost(&mut self, ending: Ending) {
        self.link = None;
        self.tell(Heard::Lost(ending));
    }

    fn close(&mut self) {
        if let Some(link) = self.link.take() {
            link.close();
        }
    }

    fn tell(&self, heard: Heard) {
        // Nobody listens at the end.
        let _ = self.happenings.send(Happening::Heard(self.dial, heard));
    }
}

fn ring(bell: &OwnedFd) {
    // It fails only when it has been rung very often, and then it rings.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// After so many, orders come first.
const TEXTS_PER_TURN: usize = 256;
const ORDERS_MAX: usize = 1_024;
const END: Duration = Duration::from_secs(1);
