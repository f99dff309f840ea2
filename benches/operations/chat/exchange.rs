//! `chat/exchange`: from one shard to a room of another and back. The queues between real shards (`shard/mailbox`) carry
//! the same batches; here they are handed over at once.

use hubbub::chat::{Input, State, placement};
use hubbub::ids::{Namespace, RoomName, ShardId};

use super::super::{Operation, Work, fold};
use super::{chat, conn, drive, message, now, shard};

pub(super) fn operations() -> Vec<Operation> {
    vec![across("1 message", 1), across("32 messages in a batch", 32)]
}

/// Messages from one shard to a room of the other, with a member on both, from the command to both fan-outs.
fn across(what: &'static str, batch: u64) -> Operation {
    let prepare = move || {
        let owned = |name: &String| {
            let name = RoomName::new(Namespace::Chat, name).expect("the name is good");
            placement::owner(name.placement_hash(), 2) == ShardId(1)
        };
        let room = (0..).map(|n| format!("room-{n}")).find(owned).expect("some room lives there");
        let mut shards = [shard(0, 2), shard(1, 2)];
        for (index, state) in shards.iter_mut().enumerate() {
            drive(state, Input::Opened { conn: conn(0), kind: chat(format!("user-{index}")), entropy: 1 }, now(0));
            drive(state, Input::JoinFromUrl { conn: conn(0), room: &room }, now(0));
        }
        exchange(&mut shards);
        move || {
            for id in 0..batch {
                let command = message(&room, Some(id));
                drive(&mut shards[0], Input::Command { conn: conn(0), command }, now(5));
            }
            exchange(&mut shards)
        }
    };
    Operation::new("chat/exchange", what, Work::Elements(batch), prepare)
}

/// Moves everything between two shards.
fn exchange(shards: &mut [State; 2]) -> u64 {
    let mut sum = 0;
    while shards.iter().any(State::has_outgoing) {
        for from in 0..2 {
            let to = 1 - from;
            let deliveries = shards[from].take_deliveries(ShardId(to as u16));
            let requests = shards[from].take_requests(ShardId(to as u16));
            let from = ShardId(from as u16);
            for delivery in deliveries {
                sum = fold(sum, drive(&mut shards[to], Input::Delivery { from, delivery }, now(5)));
            }
            for request in requests {
                sum = fold(sum, drive(&mut shards[to], Input::Request { from, request }, now(5)));
            }
        }
    }
    sum
}
