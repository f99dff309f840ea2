//! How many of a room's members have a message, for senders that want to know.
//!
//! A member has a message once its shard has queued it for the connection; a consumer has it once it has acknowledged.
//! The first receipt goes out when every shard with members has counted, further ones at most once a second, as
//! consumers acknowledge, until everyone has it. Members whose replay still runs are not counted as having it.

use std::collections::VecDeque;

use crate::chat::exchange::{Delivery, RoomId};
use crate::chat::lifecycle::Timer;
use crate::chat::state::State;
use crate::ids::{ConnId, Seq, ShardId, UserName};
use crate::limits::{RECEIPT_INTERVAL_MS, RECEIPTS_PER_ROOM_MAX};

/// The receipts of one room that are not complete.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    open: VecDeque<Receipt>,
    armed: bool,
}

#[derive(Debug)]
struct Receipt {
    seq: Seq,
    to: (ShardId, ConnId),
    members: u64,
    delivered: u64,
    /// Shards that have not counted.
    shards: usize,
    /// Consumers that have not acknowledged.
    consumers: Vec<UserName>,
    /// Something has changed since the sender was told.
    changed: bool,
}

impl State {
    /// A message is on its way whose sender wants a receipt.
    pub(super) fn open_receipt(&mut self, id: RoomId, seq: Seq, to: (ShardId, ConnId)) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let members: u64 = room.listeners.iter().map(|listener| u64::from(listener.members)).sum();
        let own = room.listeners.iter().find(|listener| listener.shard == to.0);
        let own = own.is_some_and(|listener| listener.seated().any(|seat| seat.conn == to.1));
        let receipt = Receipt {
            seq,
            to,
            members: members - u64::from(own),
            delivered: 0,
            shards: room.listeners.len(),
            consumers: room.consuming_users(to),
            changed: true,
        };
        let receipts: &mut Receipts = room.receipts.get_or_insert_default();
        if receipts.open.len() >= RECEIPTS_PER_ROOM_MAX {
            receipts.open.pop_front();
        }
        receipts.open.push_back(receipt);
        self.arm_receipts(id);
    }

    /// A shard has counted its members that got a message.
    pub(super) fn on_received(&mut self, id: RoomId, seq: Seq, count: u32) {
        let room = self.rooms.get_mut(id.slot, id.generation);
        let Some(receipts) = room.and_then(|room| room.receipts.as_mut()) else {
            return;
        };
        let Some(receipt) = receipts.open.iter_mut().find(|receipt| receipt.seq == seq) else {
            return;
        };
        receipt.delivered += u64::from(count);
        receipt.shards = receipt.shards.saturating_sub(1);
        receipt.changed = true;
        if receipt.shards == 0 {
            self.send_receipts(id, Some(seq));
        }
    }

    /// A consumer has acknowledged everything up to a position.
    pub(super) fn acknowledged(&mut self, id: RoomId, user: &UserName, acked: Seq) {
        let room = self.rooms.get_mut(id.slot, id.generation);
        let Some(receipts) = room.and_then(|room| room.receipts.as_mut()) else {
            return;
        };
        for receipt in receipts.open.iter_mut().filter(|receipt| receipt.seq <= acked) {
            let waiting = receipt.consumers.len();
            receipt.consumers.retain(|consumer| consumer != user);
            let now = (waiting - receipt.consumers.len()) as u64;
            receipt.delivered += now;
            receipt.changed |= now > 0;
        }
        self.arm_receipts(id);
    }

    /// Time to tell senders what has changed, also where a shard was not heard from: its members have left.
    pub(super) fn receipts_due(&mut self, id: RoomId) {
        let full = self.lanes.deliveries_full();
        let room = self.rooms.get_mut(id.slot, id.generation);
        let Some(receipts) = room.and_then(|room| room.receipts.as_mut()) else {
            return;
        };
        receipts.armed = false;
        if !full {
            for receipt in &mut receipts.open {
                receipt.shards = 0;
            }
            self.send_receipts(id, None);
        }
        self.arm_receipts(id);
    }

    fn send_receipts(&mut self, id: RoomId, only: Option<Seq>) {
        let Some(room) = self.rooms.get_mut(id.slot, id.generation) else {
            return;
        };
        let Some(receipts) = &mut room.receipts else {
            return;
        };
        let mut due = Vec::new();
        let wanted = |receipt: &Receipt| receipt.shards == 0 && only.is_none_or(|seq| receipt.seq == seq);
        for receipt in receipts.open.iter_mut().filter(|receipt| receipt.changed && wanted(receipt)) {
            receipt.changed = false;
            let (conn, delivered, members) = (receipt.to.1, receipt.delivered.min(receipt.members), receipt.members);
            let (room, seq) = (room.name.clone(), receipt.seq);
            due.push((receipt.to.0, Delivery::Receipt { conn, room, seq, delivered, members }));
        }
        receipts.open.retain(|receipt| receipt.changed || receipt.shards > 0 || !receipt.consumers.is_empty());
        if receipts.open.is_empty() && !receipts.armed {
            room.receipts = None;
        }
        for (shard, delivery) in due {
            self.deliver(shard, delivery);
        }
    }

    fn arm_receipts(&mut self, id: RoomId) {
        let room = self.rooms.get_mut(id.slot, id.generation);
        let Some(receipts) = room.and_then(|room| room.receipts.as_mut()) else {
            return;
        };
        if !receipts.armed && receipts.open.iter().any(|receipt| receipt.changed || receipt.shards > 0) {
            receipts.armed = true;
            self.wheel.schedule(self.now.ms() + RECEIPT_INTERVAL_MS, Timer::Receipts(id));
        }
    }
}
