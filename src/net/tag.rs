//! The tag that each entry carries to the kernel and its completion brings back.

use super::slots::GENERATION_MASK;
use crate::ids::ConnId;

/// What a completion belongs to. Travels as `op:8 | generation:24 | slot:32` in `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    Accept,
    Watch,
    Connect,
    Receive,
    /// The first attempt of a send, which never waits.
    Send,
    /// The rest of a send, which waits for the peer to read.
    SendRest,
    Cancel,
    Doorbell,
    Timer,
}

impl Op {
    const ALL: [Self; 9] = [
        Self::Accept,
        Self::Watch,
        Self::Connect,
        Self::Receive,
        Self::Send,
        Self::SendRest,
        Self::Cancel,
        Self::Doorbell,
        Self::Timer,
    ];
}

pub(super) fn user_data(op: Op, slot: u32, generation: u32) -> u64 {
    (op as u64) << 56 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(slot)
}

pub(super) fn conn_data(op: Op, conn: ConnId) -> u64 {
    user_data(op, conn.slot, conn.generation)
}

pub(super) fn split_user_data(data: u64) -> (Op, u32, u32) {
    let op = Op::ALL[(data >> 56) as usize];
    (op, data as u32, (data >> 32) as u32 & GENERATION_MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_back_as_they_went() {
        for (number, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, number);
            let data = user_data(op, u32::MAX, GENERATION_MASK);
            assert_eq!(split_user_data(data), (op, u32::MAX, GENERATION_MASK));
        }
    }
}
