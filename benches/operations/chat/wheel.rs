//! `chat/wheel`: the deadlines of a shard.

use std::hint::black_box;

use hubbub::chat::wheel::Wheel;

use super::super::{Operation, Work, fold};

pub(super) fn operations() -> Vec<Operation> {
    vec![heartbeats(), near()]
}

/// 10,000 connections, each with a deadline 30 s ahead that is set anew when it fires: one second of it per run.
fn heartbeats() -> Operation {
    let prepare = || {
        let mut wheel = Wheel::new();
        for key in 0..10_000_u64 {
            wheel.schedule(key * 3, key);
        }
        let mut now = 0;
        move || {
            now += 1_000;
            wheel.advance(now);
            let mut sum = 0;
            while let Some(key) = wheel.pop() {
                wheel.schedule(now + 30_000, key);
                sum = fold(sum, key);
            }
            sum
        }
    };
    Operation::new("chat/wheel", "a second of 10,000 heartbeats", Work::Elements(333), prepare)
}

/// Deadlines a few ticks ahead, as write coalescing and presence have them.
fn near() -> Operation {
    let prepare = || {
        let mut wheel = Wheel::new();
        let mut now = 0;
        move || {
            for key in 0..64_u64 {
                wheel.schedule(now + key, black_box(key));
            }
            now += 80;
            wheel.advance(now);
            let mut sum = 0;
            while let Some(key) = wheel.pop() {
                sum = fold(sum, key);
            }
            sum
        }
    };
    Operation::new("chat/wheel", "64 deadlines within 80 ms", Work::Elements(64), prepare)
}
