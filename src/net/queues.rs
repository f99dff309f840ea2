//! What a ring asks of the kernel, and the two queues of an io_uring that answer it.
//!
//! The queues are split once for good: a submitter made anew would forget that the ring's descriptor is registered,
//! and pay for looking it up at each call.
#![expect(unsafe_code, reason = "the queues borrow from the ring beside them")]

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

use super::buffers::GROUP;
use super::event::RingConfig;

/// The kernel as one ring sees it: an io_uring, or in tests something that behaves as badly as one may.
pub trait Kernel {
    /// Lets receives take buffers from the ring of `count` entries at `entries`, as the group [`GROUP`].
    ///
    /// # Safety
    /// The entries, and every buffer that they name, stay in place until this is dropped.
    unsafe fn provide_buffers(&mut self, entries: NonNull<u8>, count: u16) -> io::Result<()>;

    /// Queues an entry for the next [`Kernel::enter`]; false when the queue is full.
    ///
    /// # Safety
    /// What the entry points to stays in place until its last completion.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool;

    /// Learns what the kernel has taken, and lets it see what was pushed.
    fn sync_submissions(&mut self);

    /// Learns what has completed, and tells the kernel what was worked off.
    fn sync_completions(&mut self);

    /// Entries that the kernel has not taken, as of the last sync.
    fn unsubmitted(&self) -> usize;

    /// Whether the kernel has work for the next [`Kernel::enter`] to do.
    fn has_deferred_work(&mut self) -> bool;

    /// Submits, runs deferred work, and waits for `wait` completions.
    fn enter(&mut self, submit: u32, wait: u32) -> io::Result<usize>;

    /// Whether a completion is known that was not worked off.
    fn has_completion(&self) -> bool;

    /// The next completion that is known.
    fn next_completion(&mut self) -> Option<cqueue::Entry>;
}

/// An io_uring with its three handles. The handles point into `ring` and are dropped before it.
pub struct Queues {
    submitter: ManuallyDrop<Submitter<'static>>,
    submissions: ManuallyDrop<SubmissionQueue<'static>>,
    completions: ManuallyDrop<CompletionQueue<'static>>,
    ring: NonNull<IoUring>,
}

impl Queues {
    /// A ring for the calling thread alone, whose completions are worked off only while it is in the kernel.
    pub(super) fn new(config: &RingConfig) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(config.completions)
            .build(config.submissions)?;
        let ring = NonNull::from(Box::leak(Box::new(ring)));
        // SAFETY: the box stays where it is until `drop`, which drops the three handles first; nothing else
        // refers to it.
        let (submitter, submissions, completions) = unsafe { (*ring.as_ptr()).split() };
        Ok(Self {
            submitter: ManuallyDrop::new(submitter),
            submissions: ManuallyDrop::new(submissions),
            completions: ManuallyDrop::new(completions),
            ring,
        })
    }

    /// Spares each `io_uring_enter` the look-up of the ring's descriptor.
    pub(super) fn register_descriptor(&mut self) -> io::Result<()> {
        self.submitter.register_ring_fd().map(|_| ())
    }
}

impl Kernel for Queues {
    unsafe fn provide_buffers(&mut self, entries: NonNull<u8>, count: u16) -> io::Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, GROUP, 0) }
    }

    #[inline]
    unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.submissions.push(entry) }.is_ok()
    }

    #[inline]
    fn sync_submissions(&mut self) {
        self.submissions.sync();
    }

    #[inline]
    fn sync_completions(&mut self) {
        self.completions.sync();
    }

    #[inline]
    fn unsubmitted(&self) -> usize {
        self.submissions.len()
    }

    #[inline]
    fn has_deferred_work(&mut self) -> bool {
        self.submissions.taskrun()
    }

    #[inline]
    fn enter(&mut self, submit: u32, wait: u32) -> io::Result<usize> {
        // SAFETY: no argument structure is passed.
        unsafe { self.submitter.enter::<()>(submit, wait, ENTER_GETEVENTS, None) }
    }

    #[inline]
    fn has_completion(&self) -> bool {
        !self.completions.is_empty()
    }

    #[inline]
    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.completions.next()
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        // SAFETY: each is dropped once, the handles before the ring they point into, which came from a box.
        unsafe {
            ManuallyDrop::drop(&mut self.completions);
            ManuallyDrop::drop(&mut self.submissions);
            ManuallyDrop::drop(&mut self.submitter);
            drop(Box::from_raw(self.ring.as_ptr()));
        }
    }
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

/// `IORING_ENTER_GETEVENTS`: without it a ring with deferred work never gets any done.
const ENTER_GETEVENTS: u32 = 1;
