//! `chat/placement`: which shard owns a room.

use std::hint::black_box;

use hubbub::chat::placement;
use hubbub::ids::{Namespace, RoomName};

use super::super::{Operation, Work, fold};

pub(super) fn operations() -> Vec<Operation> {
    vec![owner(2), owner(64)]
}

fn owner(shards: u16) -> Operation {
    let prepare = move || {
        let room = |n| RoomName::new(Namespace::Chat, &format!("room-{n}")).expect("the name is good");
        let rooms: Vec<RoomName> = (0..64).map(room).collect();
        move || {
            let owner = |room: &RoomName| u64::from(placement::owner(room.placement_hash(), black_box(shards)).0);
            rooms.iter().map(owner).fold(0, fold)
        }
    };
    Operation::new("chat/placement", format!("64 rooms among {shards} shards"), Work::Elements(64), prepare)
}
