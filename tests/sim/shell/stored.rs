//! A shell's line to the store, and what the oracle learns of what a core lets out.

use hubbub::message::event::{Event, Reply};

use super::Shell;
use crate::env::Env;
use crate::wire::Item;

impl Shell {
    /// Gives the store what there is for it.
    pub fn hand_over(&mut self, env: &mut Env) {
        let (shard, now_us) = (self.id.index(), env.now.us);
        while let Some(batch) = self.state.take_log_batch() {
            env.note(|| format!("shard {shard} stores {batch:?}"));
            env.store.take_batch(shard, batch, now_us);
        }
        while let Some((token, read)) = self.state.take_log_read() {
            env.note(|| format!("shard {shard} asks {token} {read:?}"));
            env.store.ask(shard, token, read, now_us, &mut env.fault);
        }
        let worked = env.store.work(now_us, &mut env.fault);
        env.check(worked);
    }

    /// The oracle learns of every message that a core lets out.
    pub(super) fn record(&self, item: &Item, env: &mut Env) {
        match item {
            Item::Event(Event::Message(message) | Event::Redelivered { message, .. }) => {
                let published = env.truth.publish(message);
                env.check(published);
            }
            Item::Event(Event::Ok { body: Reply::Sent { room, seq, durable: true, .. }, .. }) => {
                env.seen.durable_oks += 1;
                if !env.store.has(room, *seq) {
                    env.fail(|| format!("{seq:?} of {room:?} is said to be durable and is not on the disk"));
                }
            }
            _ => {}
        }
    }
}
