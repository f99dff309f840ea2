//! What is measured: every operation of the core and of the codecs that stands on the path of a message or of a
//! connection, each in the file of the module that it belongs to.
//!
//! An operation is defined once. `benches/timing.rs` times it, `benches/instructions.rs` counts its instructions,
//! and `tests/operations.rs` runs it a few times from the start and compares what came out with
//! `outcomes.txt`, so that none can rot or be optimised away. Inputs are fixed; nothing reads a clock or draws at random.

mod chat;
mod codec;
mod token;

/// One operation.
pub struct Operation {
    /// The module, as in the path of its source: `chat/outbox`.
    pub module: &'static str,
    /// What is done, once per run.
    pub what: String,
    /// How much that is.
    pub work: Work,
    /// Makes a fresh run.
    pub prepare: Box<dyn Fn() -> Run>,
}

/// Does the operation once and says what came out.
pub type Run = Box<dyn FnMut() -> u64>;

/// What one run amounts to.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// So many things of the kind that the operation names.
    Elements(u64),
    /// So many bytes.
    Bytes(u64),
}

impl Operation {
    fn new<R: FnMut() -> u64 + 'static>(
        module: &'static str,
        what: impl Into<String>,
        work: Work,
        prepare: impl Fn() -> R + 'static,
    ) -> Self {
        Self { module, what: what.into(), work, prepare: Box::new(move || Box::new(prepare())) }
    }
}

/// All of them, by module.
pub fn all() -> Vec<Operation> {
    [chat::operations(), codec::operations(), token::operations()].into_iter().flatten().collect()
}

/// Folds what came out of one run into what came out of those before.
pub fn fold(sum: u64, outcome: u64) -> u64 {
    (sum.rotate_left(5) ^ outcome).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// Folds bytes.
fn fold_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        fold(sum, u64::from_le_bytes(word))
    })
}
