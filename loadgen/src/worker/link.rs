//! A worker's connections: dialled, fed with bytes, and settled when they are over.

use std::io;
use std::net::SocketAddr;

use hubbub::ids::ConnId;
use hubbub::net::{Buffer, Ended, Event, Outgoing, socket};

use super::publish::hear;
use super::{Messages, Worker};
use crate::client::{Client, Happening, Stage};
use crate::clock::now_ns;
use crate::scenario::Kind;
use crate::stats::{Count, record_ns};
use crate::tls::{TlsClient, TlsLink};

/// A connection and its bytes on the way out.
pub(super) struct Link {
    pub client: Client,
    pub conn: Option<ConnId>,
    /// Below the client, where TLS is spoken.
    pub tls: Option<Box<TlsLink>>,
    /// Gathered while a send is in flight.
    pub out: Vec<u8>,
    pub sending: bool,
    /// Messages sent so far.
    pub seq: u32,
    pub course: Course,
    /// Attempts to come back that have failed one after the other.
    pub failures: u32,
    /// Counts its connections, so that the deadline of one is not taken for that of the next.
    pub attempt: u32,
    /// What it must have had before it leaves.
    pub fence: Box<[u32]>,
    /// The room's number for the last message before it was dropped.
    pub seen: Option<u64>,
}

/// What a connection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Course {
    /// Coming up for the first time.
    Ramping,
    /// In its room.
    Steady,
    /// About to go: it sends nothing more.
    Departing,
    /// Gone on purpose.
    Away,
    /// Coming back.
    Returning,
}

impl Link {
    /// What is to be sent now, as it goes over the wire.
    fn wire(&mut self, spare: &mut Vec<Vec<u8>>) -> Vec<u8> {
        let Some(tls) = &mut self.tls else { return std::mem::take(&mut self.out) };
        let mut wire = Vec::new();
        take_buffer(&mut wire, spare);
        if tls.write(&mut self.out, &mut wire).is_err() {
            // It has failed before, when it read; nothing more can be said.
            self.out.clear();
        }
        if self.out.is_empty() {
            keep_buffer(std::mem::take(&mut self.out), spare);
        }
        wire
    }
}

impl Worker {
    pub(super) fn open(&mut self, place: u32, now: u64, due_ns: u64) {
        debug_assert_eq!(place as usize, self.links.len(), "connections are begun in order");
        // Where the connecting itself is what is measured, it counts from when it was to begin.
        let since = if self.job.scenario.kind == Kind::Ramp { due_ns } else { now };
        let client = Client::new(place * self.job.workers + self.job.worker, since);
        self.links.push(Link {
            client,
            conn: None,
            tls: None,
            out: Vec::new(),
            sending: false,
            seq: 0,
            course: Course::Ramping,
            failures: 0,
            attempt: 0,
            fence: Box::default(),
            seen: None,
        });
        if let Err(problem) = self.dial(place) {
            self.ledger.local_fault(problem);
            self.links[place as usize].client.end();
            self.ramp.resolved();
        }
    }

    /// Begins to connect.
    pub(super) fn dial(&mut self, place: u32) -> Result<(), String> {
        let index = place * self.job.workers + self.job.worker;
        let tls = self.job.tls.as_ref().map(TlsClient::begin).transpose()?;
        let source = self.job.sources[index as usize % self.job.sources.len()];
        let socket = socket::outbound(SocketAddr::new(source, 0));
        let socket = socket.map_err(|error| format!("a socket at {source}: {error}"))?;
        let conn = self.ring.connect(socket, self.job.target.address.into());
        let slot = conn.slot as usize;
        if self.by_slot.len() <= slot {
            self.by_slot.resize(slot + 1, u32::MAX);
        }
        self.by_slot[slot] = place;
        let link = &mut self.links[place as usize];
        (link.conn, link.tls) = (Some(conn), tls.map(Box::new));
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        for place in self.ready.drain(..) {
            let link = &mut self.links[place as usize];
            let Some(conn) = link.conn.filter(|_| !link.sending) else { continue };
            let wire = link.wire(&mut self.spare);
            if wire.is_empty() {
                continue;
            }
            link.sending = true;
            self.ledger.counts.add(Count::BytesSent, wire.len() as u64);
            // Whoever is over waits for the end of its farewell; nobody else needs a wake-up for a send.
            let quiet = link.client.stage() < Stage::Ended;
            self.ring.send(conn, Outgoing::Gathered(wire), quiet);
        }
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Received { conn, buffer } => {
                self.receive(conn, &buffer);
                self.ring.give_back(buffer);
            }
            Event::Sent { conn, bytes } => {
                if let Outgoing::Gathered(buffer) = bytes {
                    keep_buffer(buffer, &mut self.spare);
                }
                let Some(place) = self.place(conn) else { return };
                self.links[place as usize].sending = false;
                self.settle(place);
            }
            Event::Connected { conn } => {
                let Some(place) = self.place(conn) else { return };
                let link = &mut self.links[place as usize];
                take_buffer(&mut link.out, &mut self.spare);
                let took_ns = link.client.connected(&mut self.dialect, now_ns(), &mut link.out);
                record_ns(&mut self.ledger.handshakes.connect, took_ns);
                self.ledger.counts.bump(Count::Connected);
                self.ready.push(place);
                if self.links[place as usize].client.stage() == Stage::Joined {
                    let joined = Happening::Joined { took_ns: None, head: None, recovered: false };
                    self.ledger.enter(place, joined, now_ns());
                    self.arrived(place, Stage::Joined);
                }
            }
            Event::ConnectFailed { conn, errno } => {
                let Some(place) = self.place(conn) else { return };
                self.connect_failed(place, errno);
            }
            Event::ReceiveEnded { conn, why } => {
                let Some(place) = self.place(conn) else { return };
                let why = match why {
                    Ended::Finished => "the stream ended without a farewell".to_owned(),
                    Ended::Failed(errno) => io::Error::from_raw_os_error(errno).to_string(),
                };
                self.lose(place, why);
            }
            Event::SendFailed { conn, errno } => {
                let Some(place) = self.place(conn) else { return };
                self.links[place as usize].sending = false;
                self.lose(place, io::Error::from_raw_os_error(errno).to_string());
            }
            Event::Released { conn } => {
                if let Some(place) = self.place(conn) {
                    self.links[place as usize].conn = None;
                }
            }
            Event::SendWaits { .. } | Event::Timer | Event::Doorbell => {}
            Event::Accepted { .. } | Event::AcceptEnded { .. } | Event::AcceptReady { .. } => {
                debug_assert!(false, "nothing listens here");
            }
        }
    }

    fn receive(&mut self, conn: ConnId, buffer: &Buffer) {
        let Some(place) = self.place(conn) else { return };
        let link = &mut self.links[place as usize];
        let bytes = self.ring.bytes(buffer);
        self.ledger.counts.add(Count::BytesReceived, bytes.len() as u64);
        let Some(tls) = &mut link.tls else { return self.understand(place, Some(buffer), &mut []) };
        let mut plain = std::mem::take(&mut self.plain);
        let outcome = tls.read(bytes, &mut plain);
        self.ready.push(place);
        if !plain.is_empty() {
            self.understand(place, None, &mut plain);
            plain.clear();
        }
        self.plain = plain;
        if let Err(why) = outcome {
            self.lose(place, why);
        }
    }

    /// Takes what came for a client: what lies in a buffer of the ring, or else `plain`.
    fn understand(&mut self, place: u32, buffer: Option<&Buffer>, plain: &mut [u8]) {
        let Self { ring, links, dialect, ledger, messages, job, start_ns, .. } = self;
        let link = &mut links[place as usize];
        let now = now_ns();
        let bytes = buffer.map_or(plain, |buffer| ring.bytes(buffer));
        let (before, is_returning) = (link.client.stage(), link.course == Course::Returning);
        let index = place * job.workers + job.worker;
        let mut failed = None;
        let mut tell = |happening| match happening {
            Happening::Ended(why) if is_returning => failed = Some(why),
            happening => {
                if let Messages::Publish(publishers) = messages {
                    return hear(publishers, ledger, place, happening, now);
                }
                if let (Messages::Closed(closed), Happening::Message { stamp, .. }) = (&mut *messages, &happening)
                    && stamp.sender < job.scenario.layout.senders()
                    && job.scenario.layout.connection_of(stamp.sender) == index
                {
                    closed.returned(stamp.sender, now.saturating_sub(*start_ns));
                }
                ledger.enter(place, happening, now);
            }
        };
        link.client.received(bytes, dialect, now, &mut link.out, &mut tell);
        let after = link.client.stage();
        if before < Stage::Joined && after >= Stage::Joined {
            self.arrived(place, after);
        }
        if before == Stage::Leaving && after == Stage::Outside {
            self.has_left(place, now);
        }
        if self.start_ns > 0 {
            self.publish(place, now);
        }
        let link = &self.links[place as usize];
        if let Some(why) = failed {
            self.try_again(place, why, now);
        } else if !link.out.is_empty() || after == Stage::Ended {
            self.settle(place);
        }
    }

    /// The handshake is over, well or not.
    fn arrived(&mut self, place: u32, stage: Stage) {
        let link = &mut self.links[place as usize];
        if link.course == Course::Ramping {
            self.ramp.resolved();
        }
        if stage == Stage::Joined {
            link.course = Course::Steady;
            link.failures = 0;
        }
    }

    fn connect_failed(&mut self, place: u32, errno: i32) {
        let error = io::Error::from_raw_os_error(errno);
        let link = &mut self.links[place as usize];
        if error.kind() == io::ErrorKind::AddrNotAvailable && link.course == Course::Ramping {
            link.client.end();
            self.ledger.local_fault(format!("connect: {error} (no local port is free)"));
            self.ramp.resolved();
            self.settle(place);
        } else {
            self.lose(place, format!("connect: {error}"));
        }
    }

    /// The connection is gone for a reason that is the server's, unless it was over already.
    pub(super) fn lose(&mut self, place: u32, why: String) {
        let link = &mut self.links[place as usize];
        if link.course == Course::Returning {
            return self.try_again(place, why, now_ns());
        }
        let stage = link.client.stage();
        link.out = Vec::new();
        if stage != Stage::Ended {
            link.client.end();
            self.ledger.ended(place, why);
            if stage < Stage::Joined && link.course == Course::Ramping {
                self.ramp.resolved();
            }
        }
        self.settle(place);
    }

    /// What is to be sent is sent; a connection that is over is closed once nothing is.
    pub(super) fn settle(&mut self, place: u32) {
        let link = &mut self.links[place as usize];
        if link.sending {
            return;
        }
        if !link.out.is_empty() {
            self.ready.push(place);
        } else if let Some(conn) = link.conn.filter(|_| link.client.stage() == Stage::Ended) {
            if link.tls.as_mut().is_some_and(|tls| tls.say_goodbye()) {
                return self.ready.push(place);
            }
            self.ring.close(conn);
        }
    }

    /// The link that has this connection now; it may have another one since.
    fn place(&self, conn: ConnId) -> Option<u32> {
        let place = self.by_slot[conn.slot as usize];
        (self.links[place as usize].conn == Some(conn)).then_some(place)
    }
}

pub(super) fn take_buffer(out: &mut Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if out.capacity() == 0
        && let Some(buffer) = spare.pop()
    {
        *out = buffer;
    }
}

fn keep_buffer(mut buffer: Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
        buffer.clear();
        spare.push(buffer);
    }
}

const SPARE_BUFFERS_MAX: usize = 1_024;
const SPARE_BYTES_MAX: usize = 64 << 10;
