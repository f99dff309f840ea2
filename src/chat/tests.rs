//! How the core behaves, by what its clients see. Each test drives several shards through [`super::driver`].

mod guard;
mod limits;
mod lives;
mod moderation;
mod orders;
mod recovery;
mod review;
mod rooms;
mod talk;
mod walk;

use crate::chat::placement;
use crate::ids::{Namespace, RoomName, ShardId};

/// A room that this shard owns.
fn owned_by(shard: u16, shards: u16) -> String {
    owned(Namespace::Chat, shard, shards, 0)
}

/// Another room that this shard owns, for each `n`.
fn owned(namespace: Namespace, shard: u16, shards: u16, n: usize) -> String {
    let names = (0..).map(|number| format!("room-{number}"));
    let owner = |name: &String| {
        placement::owner(RoomName::new(namespace, name).unwrap().placement_hash(), shards) == ShardId(shard)
    };
    names.filter(owner).nth(n).unwrap()
}

/// The lines that begin with one of these words.
fn only(log: &[String], words: &[&str]) -> Vec<String> {
    log.iter().filter(|line| words.iter().any(|word| line.starts_with(word))).cloned().collect()
}
