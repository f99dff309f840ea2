//! A shell's line to the store, and what the oracle learns of what a core lets out.

use hubbub::message::event::{Event, Reply};

use super::Shell;
use crate::env::Env;
use crate::link::Link;
use crate::outsiders;
use crate::wire::Item;

impl Shell {
    /// Gives the store what there is for it.
    pub fn hand_over(&mut self, env: &mut Env) {
        let (shard, now_us) = (self.id.index(), env.now.us);
        while let Some(batch) = self.state.take_log_batch() {
            env.note(|| format!("shard {shard} stores {batch:?}"));
            env.store.take_batch(shard, batch, now_us, &mut env.fault);
        }
        while let Some((token, read)) = self.state.take_log_read() {
            env.note(|| format!("shard {shard} asks {token} {read:?}"));
            env.store.ask(shard, token, read, now_us, &mut env.fault);
        }
        let worked = env.store.work(now_us, &mut env.fault);
        env.check(worked);
    }

    pub fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.slots.iter_mut().filter_map(|slot| slot.link.as_mut())
    }

    /// The oracle learns of every message that a core lets out.
    pub(super) fn record(&self, item: &Item, env: &mut Env) {
        match item {
            Item::Event(Event::Message(message) | Event::Redelivered { message, .. }) => {
                outsiders::judge_sender(message, env);
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
