//! The ring of provided buffers that the kernel receives into (`io_uring_register_buf_ring`, Linux 5.19).
//!
//! Invariant: each buffer is either the kernel's (published in the ring) or lent out as one [`Buffer`], never
//! both. A `Buffer` is not `Clone`, and giving it back consumes it.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::queues::Kernel;

/// Bytes that were received, on loan until [`super::Ring::give_back`].
#[derive(Debug)]
#[must_use = "a buffer that is not given back is lost to every connection"]
pub struct Buffer {
    pub(super) id: u16,
    pub(super) len: u32,
}

/// The buffers of one ring.
#[derive(Debug)]
pub(super) struct Buffers {
    entries: PageMemory,
    data: PageMemory,
    count: u16,
    buffer_bytes: usize,
    tail: u16,
}

impl Buffers {
    /// `count` buffers, a power of two of at most 32,768, of `buffer_bytes` each, all touched so that their
    /// memory is accounted for from the start, and registered as the group [`GROUP`].
    pub(super) fn register(kernel: &mut impl Kernel, count: u16, buffer_bytes: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 32_768, "the kernel wants a power of two");
        let entries = PageMemory::new(usize::from(count) * size_of::<BufRingEntry>());
        let data = PageMemory::new(usize::from(count) * buffer_bytes);
        // SAFETY: `entries` is page-aligned, holds `count` entries, and lives as long as the ring: `Ring` drops
        // its io_uring before its buffers.
        unsafe { kernel.provide_buffers(entries.start, count)? };
        let mut buffers = Self { entries, data, count, buffer_bytes, tail: 0 };
        for id in 0..count {
            buffers.publish(id);
        }
        Ok(buffers)
    }

    /// The received bytes; the caller may change them in place.
    pub(super) fn bytes(&mut self, buffer: &Buffer) -> &mut [u8] {
        let len = buffer.len as usize;
        assert!(buffer.id < self.count && len <= self.buffer_bytes, "a buffer of this ring");
        // SAFETY: the range lies within `data`, and the kernel does not write to a buffer that is lent out.
        // `&mut self` and the borrow of the only `Buffer` with this id exclude every other reference to it.
        unsafe {
            let start = self.data.start.as_ptr().add(usize::from(buffer.id) * self.buffer_bytes);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Hands a buffer to the kernel again.
    #[expect(clippy::needless_pass_by_value, reason = "the loan ends here")]
    pub(super) fn give_back(&mut self, buffer: Buffer) {
        self.publish(buffer.id);
    }

    fn publish(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        let base = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `index` is below `count`, so the entry lies within `entries`; the kernel reads it only after
        // the tail has moved past it, which is stored below with release ordering. The tail overlays bytes of
        // the first entry that `set_addr`, `set_len` and `set_bid` do not touch.
        unsafe {
            let entry = &mut *base.add(index);
            entry.set_addr(self.data.start.as_ptr().add(usize::from(id) * self.buffer_bytes) as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Zeroed memory that begins on a page.
#[derive(Debug)]
struct PageMemory {
    start: NonNull<u8>,
    layout: Layout,
}

impl PageMemory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).expect("sizes here are small constants");
        assert!(bytes > 0);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        for offset in (0..bytes).step_by(PAGE_BYTES) {
            // SAFETY: `offset` is below `bytes`. A volatile write makes the page present.
            unsafe { start.as_ptr().add(offset).write_volatile(0) };
        }
        Self { start, layout }
    }
}

impl Drop for PageMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this very layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// The one group of provided buffers that a ring has.
pub(super) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;
