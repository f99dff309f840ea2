//! `chat/outbox`: what one connection has yet to be written.

use std::hint::black_box;

use bytes::Bytes;
use hubbub::chat::outbox::{Batch, Kind, Outbox, OutboxLimits, Pushed};
use hubbub::ids::{Namespace, RoomName, Seq};
use hubbub::limits::{Limits, SlowConsumerPolicy};

use super::super::{Operation, Work, fold};
use super::CONTENT;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        push_and_write("push and write 1 frame", 1),
        push_and_write("push and write 16 frames", 16),
        fan_out("push 1 frame to 100 members, and write", 100),
        skip(),
    ]
}

fn room() -> RoomName {
    RoomName::new(Namespace::Chat, "lobby").expect("a legal name")
}

fn push_and_write(what: &'static str, frames: u64) -> Operation {
    let prepare = move || {
        let limits = OutboxLimits::from(&Limits::default());
        let (room, frame) = (room(), Bytes::from_static(CONTENT));
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        move || {
            for seq in 0..frames {
                let kind = Kind::Message { room: &room, seq: Seq(seq) };
                assert_eq!(black_box(&mut outbox).push(frame.clone(), kind, &limits, 1), Pushed::Queued);
            }
            let mut sum = 0;
            while let Some(batch) = outbox.take_batch(&mut scratch) {
                let bytes = match batch {
                    Batch::Frame(frame) => frame.len(),
                    Batch::Gathered => scratch.len(),
                };
                outbox.written(bytes, 2);
                sum = fold(sum, bytes as u64);
            }
            sum
        }
    };
    Operation::new("chat/outbox", what, Work::Elements(frames), prepare)
}

/// What a message to a room costs beyond the core: the same frame into each member's outbox.
fn fan_out(what: &'static str, members: usize) -> Operation {
    let prepare = move || {
        let limits = OutboxLimits::from(&Limits::default());
        let (room, frame) = (room(), Bytes::from(CONTENT.to_vec()));
        let mut outboxes: Vec<Outbox> = (0..members).map(|_| Outbox::default()).collect();
        let mut scratch = Vec::new();
        move || {
            for outbox in &mut outboxes {
                let kind = Kind::Message { room: &room, seq: Seq(1) };
                assert_eq!(outbox.push(frame.clone(), kind, &limits, 1), Pushed::Queued);
            }
            let mut sum = 0;
            for outbox in &mut outboxes {
                while let Some(Batch::Frame(frame)) = outbox.take_batch(&mut scratch) {
                    sum = fold(sum, outbox.written(black_box(frame).len(), 2) as u64);
                }
            }
            sum
        }
    };
    Operation::new("chat/outbox", what, Work::Elements(members as u64), prepare)
}

/// A reader that takes nothing: its outbox fills, messages are skipped, and the gap is told when it has caught up.
fn skip() -> Operation {
    let prepare = || {
        let limits = OutboxLimits { bytes_max: 4_096, stall_ms: 10_000, policy: SlowConsumerPolicy::Skip };
        let (room, frame) = (room(), Bytes::from_static(CONTENT));
        let mut outbox = Outbox::default();
        let mut scratch = Vec::new();
        move || {
            let mut skipped = 0;
            for seq in 1..=100 {
                let pushed = outbox.push(frame.clone(), Kind::Message { room: &room, seq: Seq(seq) }, &limits, 1);
                skipped += u64::from(pushed == Pushed::Skipped);
            }
            while let Some(batch) = outbox.take_batch(&mut scratch) {
                let bytes = match batch {
                    Batch::Frame(frame) => frame.len(),
                    Batch::Gathered => scratch.len(),
                };
                outbox.written(bytes, 2);
            }
            let gap = outbox.next_gap(&limits).expect("some were skipped");
            fold(skipped, gap.to.0 - gap.from.0)
        }
    };
    Operation::new("chat/outbox", "push 100, skip most, tell the gap", Work::Elements(100), prepare)
}
