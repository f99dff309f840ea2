//! The descriptor table: each shard has one of its own.
#![expect(unsafe_code, reason = "unshare(2) changes what descriptors mean for the calling thread")]

use std::io;

/// Gives the calling thread a descriptor table of its own, a copy of what is open now (`unshare(CLONE_FILES)`).
/// From then on `RLIMIT_NOFILE` counts this thread's descriptors alone, and its sockets share no lock.
///
/// Descriptors made by other threads after the call do not exist here, and the other way round.
pub fn own_descriptor_table() -> io::Result<()> {
    // SAFETY: the copy holds every descriptor that is open now, under the same number, so each owner in this
    // process stays valid in its own thread. Descriptors opened later stay with the thread that opened them:
    // rings, listeners and connections are never sent to another thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }.map_err(io::Error::from)
}
