//! What a fake kernel and its owner leave to chance, from one seed.

/// Numbers from a seed (SplitMix64).
#[derive(Debug)]
pub(in crate::net) struct Chance(pub(in crate::net) u64);

impl Chance {
    pub(in crate::net) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Below `n`, which is not 0.
    pub(in crate::net) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(in crate::net) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}
