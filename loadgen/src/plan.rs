//! When each message is to be sent and by whom, laid out before the run from nothing but the scenario and its seed.
//!
//! Every worker walks the same plan and keeps the entries of its own senders, so the plan does not depend on how many
//! workers there are. The times do not depend on the server: that is what makes the load open loop.

use serde::{Deserialize, Serialize};

use crate::clock::NS_PER_S;

/// How send times follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Evenly spaced, each sender in its turn.
    #[default]
    Constant,
    /// Independent of each other: exponential gaps, a sender drawn for each message.
    Poisson,
    /// Each sender waits for its own message to come back before its pace goes on: a closed loop. It is there only to
    /// show what such a loop hides: while a server stalls, nothing is sent, so nothing is late.
    Closed,
}

/// One message to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Nanoseconds after the start of the load.
    pub at_ns: u64,
    /// Which of the scenario's senders.
    pub sender: u32,
}

/// The messages of a run in the order of their times: an iterator that computes each when asked.
#[derive(Clone, Debug)]
pub struct Plan {
    arrivals: Arrivals,
    gap_ns: f64,
    end_ns: u64,
    senders: u32,
    /// Coprime to `senders`, so that stepping by it visits each sender once per round while neighbours in time are
    /// far apart in number (members of one room do not all speak at once).
    stride: u64,
    offset: u64,
    index: u64,
    clock_ns: f64,
    random: Random,
}

impl Plan {
    /// `rate` messages per second in all from `senders` senders, from time 0 until `end_ns`, exclusive.
    #[must_use]
    pub fn new(arrivals: Arrivals, rate: f64, senders: u32, end_ns: u64, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let idle = senders == 0 || rate <= 0.0;
        Self {
            arrivals,
            gap_ns: if idle { f64::INFINITY } else { NS_PER_S as f64 / rate },
            end_ns: if idle { 0 } else { end_ns },
            senders: senders.max(1),
            stride: coprime_stride(u64::from(senders.max(1))),
            offset: random.below(u64::from(senders.max(1))),
            index: 0,
            clock_ns: 0.0,
            random,
        }
    }

    fn constant(&self) -> Planned {
        let senders = u64::from(self.senders);
        let sender = (self.index % senders * self.stride + self.offset) % senders;
        Planned { at_ns: (self.index as f64 * self.gap_ns) as u64, sender: sender as u32 }
    }

    fn poisson(&mut self) -> Planned {
        self.clock_ns += self.random.exponential() * self.gap_ns;
        Planned { at_ns: self.clock_ns as u64, sender: self.random.below(u64::from(self.senders)) as u32 }
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let planned = match self.arrivals {
            Arrivals::Constant | Arrivals::Closed => self.constant(),
            Arrivals::Poisson => self.poisson(),
        };
        self.index += 1;
        (planned.at_ns < self.end_ns).then_some(planned)
    }
}

/// A small seeded generator (SplitMix64, Steele, Lea and Flood 2014): good enough for load, the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator whose numbers follow from `seed` alone.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, by multiplication instead of division (its bias is below 2^-32 for our bounds).
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Exponentially distributed with mean 1.
    fn exponential(&mut self) -> f64 {
        let uniform = (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        -(1.0 - uniform).ln()
    }
}

/// A step near the golden section of `n` that shares no divisor with it.
fn coprime_stride(n: u64) -> u64 {
    let near = (n as f64 * 0.618_033_988_75) as u64;
    (near.max(1)..).find(|&step| gcd(step, n) == 1).expect("some number above any other is coprime to it")
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arrivals: Arrivals, rate: f64, senders: u32, seed: u64) -> Vec<Planned> {
        Plan::new(arrivals, rate, senders, 2 * NS_PER_S, seed).collect()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_exact_in_number() {
        let planned = plan(Arrivals::Constant, 1_000.0, 7, 1);
        assert_eq!(planned.len(), 2_000);
        for pair in planned.windows(2) {
            assert_eq!(pair[1].at_ns - pair[0].at_ns, 1_000_000);
        }
    }

    #[test]
    fn constant_arrivals_give_every_sender_its_turn() {
        for senders in [1, 2, 5, 6, 97, 1_000] {
            let planned = plan(Arrivals::Constant, f64::from(senders), senders, 9);
            let mut turns = vec![0; senders as usize];
            for entry in &planned {
                turns[entry.sender as usize] += 1;
            }
            assert!(turns.iter().all(|&n| n == 2), "{senders} senders: {turns:?}");
        }
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary() {
        let planned = plan(Arrivals::Poisson, 5_000.0, 50, 3);
        assert!((9_500..10_500).contains(&planned.len()), "{}", planned.len());
        let gaps: Vec<f64> = planned.windows(2).map(|p| (p[1].at_ns - p[0].at_ns) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!(
            (0.9..1.1).contains(&(deviation / mean)),
            "an exponential deviates by its mean, not {deviation}/{mean}"
        );
        assert!((0..50).all(|sender| planned.iter().any(|p| p.sender == sender)));
    }

    #[test]
    fn the_seed_alone_decides_the_plan() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            assert_eq!(plan(arrivals, 100.0, 10, 4), plan(arrivals, 100.0, 10, 4));
            assert_ne!(plan(arrivals, 100.0, 10, 4), plan(arrivals, 100.0, 10, 5));
        }
    }

    #[test]
    fn nothing_is_planned_without_rate_or_senders() {
        assert!(plan(Arrivals::Constant, 0.0, 10, 1).is_empty());
        assert!(plan(Arrivals::Poisson, 0.0, 10, 1).is_empty());
        assert!(plan(Arrivals::Poisson, 10.0, 0, 1).is_empty());
    }
}
