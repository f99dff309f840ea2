//! The two queues of an io_uring, split once for good: a submitter made anew would forget that the ring's
//! descriptor is registered, and pay for looking it up at each call.
#![expect(unsafe_code, reason = "the queues borrow from the ring beside them")]

use std::io;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter};

use super::event::RingConfig;

/// An io_uring with its three handles. The handles point into `ring` and are dropped before it.
pub(super) struct Queues {
    pub(super) submitter: ManuallyDrop<Submitter<'static>>,
    pub(super) submissions: ManuallyDrop<SubmissionQueue<'static>>,
    pub(super) completions: ManuallyDrop<CompletionQueue<'static>>,
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

    /// `io_uring_enter`: submits, runs deferred work, and waits for `wait` completions.
    pub(super) fn enter(&mut self, submit: u32, wait: u32) -> io::Result<usize> {
        // SAFETY: no argument structure is passed.
        unsafe { self.submitter.enter::<()>(submit, wait, ENTER_GETEVENTS, None) }
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
