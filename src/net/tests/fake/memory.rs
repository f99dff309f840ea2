//! What a ring and a kernel have in common: entries, and the ring of buffers.
#![expect(unsafe_code, reason = "it stands for the kernel, which goes by addresses")]

use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use io_uring::{opcode, squeue};

/// The fields of an entry that these operations use (`struct io_uring_sqe`).
pub(super) struct Fields([u8; 64]);

/// The buffers that a ring has provided.
#[derive(Debug)]
pub(super) struct Provided {
    entries: NonNull<BufRingEntry>,
    count: u16,
    /// How many were taken.
    head: u16,
}

impl Fields {
    pub(super) fn of(entry: &squeue::Entry) -> Self {
        // SAFETY: an entry is 64 bytes without padding, all of them set.
        Self(unsafe { std::mem::transmute::<squeue::Entry, [u8; 64]>(entry.clone()) })
    }

    pub(super) fn opcode(&self) -> u8 {
        self.0[0]
    }

    pub(super) fn flags(&self) -> u8 {
        self.0[1]
    }

    pub(super) fn fd(&self) -> RawFd {
        self.word(4) as RawFd
    }

    /// Of a connect: how long its address is.
    fn offset(&self) -> u64 {
        self.long(8)
    }

    pub(super) fn address(&self) -> u64 {
        self.long(16)
    }

    pub(super) fn len(&self) -> u32 {
        self.word(24)
    }

    pub(super) fn operation_flags(&self) -> u32 {
        self.word(28)
    }

    pub(super) fn data(&self) -> u64 {
        self.long(32)
    }

    pub(super) fn group(&self) -> u16 {
        u16::from_le_bytes([self.0[40], self.0[41]])
    }

    /// What the entry points to.
    pub(super) fn memory(&self) -> (NonNull<u8>, Vec<u8>) {
        let len = match self.opcode() {
            opcode::Send::CODE => self.len() as usize,
            opcode::Connect::CODE => self.offset() as usize,
            opcode::Timeout::CODE => size_of::<io_uring::types::Timespec>(),
            _ => 0,
        };
        let start = NonNull::new(self.address() as *mut u8).unwrap_or(NonNull::dangling());
        // SAFETY: the ring promised that it is there.
        (start, unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }.to_vec())
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }
}

impl Provided {
    pub(super) fn new(entries: NonNull<u8>, count: u16) -> Self {
        Self { entries: entries.cast(), count, head: 0 }
    }

    pub(super) fn published(&self) -> impl Iterator<Item = &BufRingEntry> {
        // SAFETY: the entries live as long as the ring, which shares the tail in the first of them.
        let tail = unsafe { (*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>()).load(Ordering::Acquire) };
        let waiting = tail.wrapping_sub(self.head);
        assert!(waiting <= self.count, "more buffers are published than there are");
        // SAFETY: the index is below the number of entries.
        (0..waiting).map(|n| unsafe { self.entries.add(self.index(n)).as_ref() })
    }

    pub(super) fn take(&mut self) -> Option<(u16, NonNull<u8>, u32)> {
        let (id, address, len) = self.published().next().map(|entry| (entry.bid(), entry.addr(), entry.len()))?;
        self.head = self.head.wrapping_add(1);
        Some((id, NonNull::new(address as *mut u8).unwrap(), len))
    }

    fn index(&self, n: u16) -> usize {
        usize::from(self.head.wrapping_add(n) & (self.count - 1))
    }
}
