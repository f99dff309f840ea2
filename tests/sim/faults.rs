//! Faults that the harness itself commits, to show that the oracle would see the server commit them.

use bytes::Bytes;
use hubbub::chat::Delivery;
use hubbub::ids::ConnId;
use hubbub::message::event::{Event, Reply};

use crate::wire::Item;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A message to one member is lost.
    DropMessage,
    /// A message to one member comes twice.
    RepeatMessage,
    /// Two messages of a room change places on the way to one member.
    SwapMessages,
    /// A relayed frame to one member is lost.
    DropRelayed,
    /// A reply is lost.
    DropReply,
    /// A reply comes twice.
    RepeatReply,
    /// A signal to one member is lost.
    DropSignal,
    /// A push of presence to one member is lost.
    DropPresence,
    /// A tombstone's notice to one member is lost.
    DropDeleted,
    /// A message's envelope between two shards is lost.
    DropDelivery,
    /// Two messages of a room change places on the way to another shard.
    SwapDeliveries,
    /// A gap is not told.
    DropGap,
    /// The store says that something is on the disk that is not.
    AckUnsynced,
    /// A crash takes a message that was on the disk.
    LoseStored,
    /// The store forgets that there was a crash: positions are given again.
    ForgetCrash,
    /// The store forgets keys.
    ForgetKeys,
    /// A page from the store lacks a message.
    LoseFromPage,
    /// Two messages of a page from the store change places.
    SwapInPage,
    /// From some moment on the store forgets what consumers acknowledge.
    ForgetAck,
    /// The store forgets a dead letter.
    ForgetLetter,
    /// A session comes back without one of its rooms, or a room of the URL is not entered.
    ForgetRoom,
    /// The store forgets a ban or mute.
    ForgetSanction,
}

impl FaultKind {
    pub const ALL: [Self; 22] = [
        Self::DropMessage,
        Self::RepeatMessage,
        Self::SwapMessages,
        Self::DropRelayed,
        Self::DropReply,
        Self::RepeatReply,
        Self::DropSignal,
        Self::DropPresence,
        Self::DropDeleted,
        Self::DropDelivery,
        Self::SwapDeliveries,
        Self::DropGap,
        Self::AckUnsynced,
        Self::LoseStored,
        Self::ForgetCrash,
        Self::ForgetKeys,
        Self::LoseFromPage,
        Self::SwapInPage,
        Self::ForgetAck,
        Self::ForgetLetter,
        Self::ForgetRoom,
        Self::ForgetSanction,
    ];

    /// Whether it is the model of the store that commits it.
    pub fn is_of_the_store(self) -> bool {
        let of_the_store = [
            Self::AckUnsynced,
            Self::LoseStored,
            Self::ForgetCrash,
            Self::ForgetKeys,
            Self::LoseFromPage,
            Self::SwapInPage,
            Self::ForgetAck,
            Self::ForgetLetter,
        ];
        of_the_store.contains(&self)
    }

    fn strikes(self, item: &Item) -> bool {
        let Item::Event(event) = item else { return false };
        match self {
            Self::DropMessage | Self::RepeatMessage | Self::SwapMessages => matches!(event, Event::Message(_)),
            Self::DropRelayed => matches!(event, Event::Relay(_)),
            Self::DropReply | Self::RepeatReply => {
                matches!(event, Event::Ok { id: Some(_), body: Reply::Sent { .. } | Reply::Done })
            }
            Self::DropSignal => matches!(event, Event::Signal(_)),
            // Who has come is on the pages of those who came later, too.
            Self::DropPresence => matches!(event, Event::Presence(presence) if !presence.left.is_empty()),
            Self::DropDeleted => matches!(event, Event::Deleted { .. }),
            Self::ForgetRoom => matches!(event, Event::Ok { id: None, body: Reply::Joined(_) }),
            Self::DropGap => matches!(event, Event::Gap { .. }),
            _ => false,
        }
    }
}

/// One fault, committed once.
#[derive(Debug)]
pub struct Fault {
    pub kind: FaultKind,
    /// How many chances are let pass before.
    pub patience: usize,
    pub done: bool,
    held: Option<(ConnId, Bytes, Item)>,
}

/// What becomes of a frame.
#[derive(Debug)]
pub enum Deed {
    Pass,
    Drop,
    Twice,
    /// This one goes after it.
    ThenHeld(Bytes, Item),
}

impl Fault {
    pub fn new(kind: FaultKind, patience: usize) -> Self {
        Self { kind, patience, done: false, held: None }
    }

    /// Decides about a frame to a connection.
    pub fn on_frame(&mut self, conn: ConnId, frame: &Bytes, item: &Item) -> Deed {
        if !self.kind.strikes(item) || self.done {
            return Deed::Pass;
        }
        if let Some((held_for, held, held_item)) = self.held.take() {
            if held_for == conn && same_room(&held_item, item) {
                self.done = true;
                return Deed::ThenHeld(held, held_item);
            }
            self.held = Some((held_for, held, held_item));
            return Deed::Pass;
        }
        if self.patience > 0 {
            self.patience -= 1;
            return Deed::Pass;
        }
        match self.kind {
            FaultKind::SwapMessages => {
                self.held = Some((conn, frame.clone(), item.clone()));
                Deed::Drop
            }
            FaultKind::RepeatMessage | FaultKind::RepeatReply => {
                self.done = true;
                Deed::Twice
            }
            _ => {
                self.done = true;
                Deed::Drop
            }
        }
    }

    /// Whether the fault is committed at this chance, if it is of this kind.
    pub fn commit(&mut self, kind: FaultKind) -> bool {
        if self.kind != kind || self.done {
            return false;
        }
        if self.patience > 0 {
            self.patience -= 1;
            return false;
        }
        self.done = true;
        true
    }

    /// Whether a fault that goes on is, once it was committed.
    pub fn goes_on(&self, kind: FaultKind) -> bool {
        self.kind == kind && self.done
    }

    /// Commits the fault on a batch of deliveries to another shard, if it falls there.
    pub fn on_batch(&mut self, batch: &mut Vec<Delivery>) {
        let at = match self.kind {
            FaultKind::DropDelivery => batch.iter().position(|delivery| matches!(delivery, Delivery::Message { .. })),
            FaultKind::SwapDeliveries => batch.windows(2).position(|pair| same_audience(&pair[0], &pair[1])),
            _ => None,
        };
        let Some(at) = at.filter(|_| !self.done) else { return };
        if self.patience > 0 {
            self.patience -= 1;
            return;
        }
        self.done = true;
        if self.kind == FaultKind::DropDelivery {
            batch.remove(at);
        } else {
            batch.swap(at, at + 1);
        }
    }
}

fn same_audience(a: &Delivery, b: &Delivery) -> bool {
    match (a, b) {
        (Delivery::Message { audience: a, .. }, Delivery::Message { audience: b, .. }) => a == b,
        _ => false,
    }
}

fn same_room(a: &Item, b: &Item) -> bool {
    match (a, b) {
        (Item::Event(Event::Message(a)), Item::Event(Event::Message(b))) => a.room == b.room,
        _ => false,
    }
}
