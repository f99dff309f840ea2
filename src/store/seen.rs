//! Which shard was last heard of a log, for those logs that retention may shorten: it is told when it does.
#![expect(clippy::disallowed_types, reason = "the store's own threads share it; shards never see it")]

use std::sync::{Arc, Mutex, PoisonError};

use ahash::HashMap;

use crate::ids::{Epoch, RoomName, ShardId};
use crate::policy::RoomPolicies;

/// Logs heard of in this life.
pub(super) struct Seen {
    policies: Mutex<Arc<RoomPolicies>>,
    logs: Mutex<HashMap<Epoch, ShardId>>,
}

impl Seen {
    pub(super) fn new(policies: RoomPolicies) -> Self {
        Self { policies: Mutex::new(Arc::new(policies)), logs: Mutex::default() }
    }

    pub(super) fn policies(&self) -> Arc<RoomPolicies> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on with other policies. A log that gets a limit only now is told of from its next opening on.
    pub(super) fn set_policies(&self, policies: Arc<RoomPolicies>) {
        *self.policies.lock().unwrap_or_else(PoisonError::into_inner) = policies;
    }

    /// A shard opened a log or registered it.
    pub(super) fn note(&self, epoch: Epoch, shard: ShardId, room: &RoomName) {
        if self.policies().of(room).has_retention() {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            logs.insert(epoch, shard);
        }
    }

    /// Who is to be told of a log.
    pub(super) fn shard_of(&self, epoch: Epoch) -> Option<ShardId> {
        let logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        logs.get(&epoch).copied()
    }
}
