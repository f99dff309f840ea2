//! One membership as its client sees it.

use std::collections::{BTreeMap, BTreeSet};

use hubbub::ids::{Epoch, UserName};
use hubbub::message::event::Role;

use crate::truth::Author;
use crate::witness::{Fed, JoinAsked};

/// One membership.
#[derive(Clone, Debug)]
pub struct View {
    /// Tells memberships of this connection apart.
    pub membership: u64,
    pub epoch: Epoch,
    /// The head when it joined, and how many users there were.
    pub head: u64,
    pub members: u64,
    /// The next position to come.
    pub next: u64,
    /// The first message may be any up to the head, because the oracle cannot know what was kept.
    pub loose_start: bool,
    /// It began with a replay.
    pub replayed: bool,
    pub role: Role,
    pub tags: Vec<String>,
    /// The fields of its join that a session keeps.
    pub asked: JoinAsked,
    /// Positions that were passed over without a word; each must have been filtered out.
    pub jumps: Vec<(u64, u64)>,
    /// Messages read in full whose deletion would have to be told.
    pub readable: BTreeSet<u64>,
    pub told_deleted: BTreeSet<u64>,
    pub signals: BTreeSet<usize>,
    pub last_signal: Option<usize>,
    /// Since which step the client knows that it is in.
    pub since_step: u64,
    /// `leave` was sent without `id`, so its end cannot be seen.
    pub leaving: bool,
    /// Whom the client believes to be here, if it wanted to know.
    pub people: Option<People>,
    /// Only of a consumer.
    pub fed: Option<Fed>,
    pub last_timestamp: u64,
    pub last_numbers: BTreeMap<Author, usize>,
}

/// A membership, to be judged when everything is known.
#[derive(Clone, Debug)]
pub struct Memory {
    pub author: Author,
    /// The connection may have been spared some messages of its own.
    pub no_echo: bool,
    pub room: usize,
    pub view: View,
}

/// Presence as a client puts it together.
#[derive(Clone, Debug, Default)]
pub struct People {
    pub users: BTreeSet<UserName>,
    /// All pages have come.
    pub complete: bool,
    pub count: Option<u64>,
}

impl View {
    /// The stretch `from..=to` was delivered or accounted for; `before` is the last position before it that is not
    /// passed over by the whole room.
    pub fn advance(&mut self, before: u64, from: u64, to: u64, may_jump: bool) -> Result<(), String> {
        if from < self.next || to < from {
            return Err(format!("{from} after {}", self.next - 1));
        }
        let next = if self.loose_start { from.min(self.head + 1).max(self.next) } else { self.next };
        if before >= next {
            if !may_jump {
                return Err(format!("{from} after {before}, instead of {next}"));
            }
            self.jumps.push((next, before));
        }
        self.loose_start = false;
        self.next = to + 1;
        Ok(())
    }

    pub fn wants(&self, tag: &str) -> bool {
        self.tags.is_empty() || self.tags.iter().any(|wanted| wanted == tag)
    }
}
