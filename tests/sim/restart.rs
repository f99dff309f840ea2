//! The server dies, or stops in peace, and starts again on the store as it was left. Clients find their connections
//! gone and come back by themselves.

use crate::truth::Dead;
use crate::world::World;

impl World {
    /// Ends this life of the server and begins the next one, with any number of shards.
    pub fn restart(&mut self, crash: bool) {
        self.env.note(|| format!("the server {}", if crash { "dies" } else { "stops" }));
        if crash {
            self.env.seen.crashes += 1;
            match self.env.store.crash() {
                Ok(passed_over) => self.pass_over(passed_over),
                Err(what) => self.env.fail(|| what),
            }
        } else {
            self.env.seen.clean_stops += 1;
            for shell in &mut self.shells {
                shell.hand_over(&mut self.env);
            }
            let stopped = self.env.store.stop();
            self.env.check(stopped);
        }
        for client in &mut self.clients {
            client.restarted(crash, &mut self.env);
        }
        for consumed in self.env.consumed.values_mut() {
            consumed.sent.clear();
        }
        self.env.restraints.restarted();
        self.env.life += 1;
        self.env.plan.shards = self.env.rng.range(1, 5) as u16;
        self.check_acknowledged();
        self.env.store.spoil(&mut self.env.fault);
        self.start();
    }

    /// What is passed over is known to nobody, or was seen and is lost.
    fn pass_over(&mut self, passed_over: Vec<Dead>) {
        for dead in passed_over {
            self.env.note(|| format!("passed over: {dead:?}"));
            self.env.seen.positions_passed_over += 1;
            if let Some(room) = self.env.room(&dead.0) {
                self.env.truth.dead.entry((room, dead.1.0)).or_default().insert(dead.2, dead.3);
            }
        }
    }

    /// What was said to be durable is there.
    pub fn check_acknowledged(&mut self) {
        let env = &mut self.env;
        let lost = (env.truth.durable.iter()).find(|(room, epoch, seq)| {
            let log = env.store.log_of(&env.plan.rooms[*room]);
            !log.is_some_and(|(now, log)| now.0 == *epoch && log.had(hubbub::ids::Seq(*seq)))
        });
        for ((room, user), consumed) in env.consumed.clone() {
            let Some((epoch, _)) = env.store.log_of(&env.plan.rooms[room]) else { continue };
            let cursor = env.store.acked(epoch, &user).map_or(0, |cursor| cursor.0);
            // What retention has taken is acknowledged by itself.
            let cursor = cursor.max(env.store.trimmed(epoch).0);
            let acked = consumed.acked.get(&epoch.0).copied().unwrap_or_default();
            if cursor < acked {
                return env.fail(|| format!("{user:?} has acknowledged {acked} in {room}, the disk says {cursor}"));
            }
        }
        if let Some(lost) = lost.copied() {
            env.fail(|| format!("{lost:?} was durable and is gone"));
        }
    }
}
