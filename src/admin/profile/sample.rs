//! Samples of the threads of this process, taken by the kernel (`perf_event_open(2)`).
//!
//! One event per thread, by its CPU clock: a thread that sleeps costs nothing. Each sample is what the thread did in the
//! kernel, its registers, and the top of its stack.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::sync::Arc;

use perf_event::events::Software;
use perf_event::{Builder, SampleFlag, Sampler};

/// A thread under observation.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) name: Arc<str>,
    sampler: RingOfSamples,
}

/// What the kernel says.
#[derive(Debug)]
pub(super) enum Sampled {
    /// Where the thread was.
    Stack(Seen),
    /// So many samples found no room.
    Lost(u64),
}

/// Where a thread was at one moment.
#[derive(Debug)]
pub(super) struct Seen {
    /// Code addresses in the kernel, innermost first. Empty when it was not in there, or when that may not be seen.
    pub(super) kernel: Vec<u64>,
    pub(super) registers: Registers,
    /// What lies at the stack pointer and above.
    pub(super) stack: Vec<u8>,
}

/// The registers that unwinding needs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Registers {
    pub(super) frame: u64,
    pub(super) stack: u64,
    #[cfg(target_arch = "aarch64")]
    pub(super) link: u64,
    pub(super) program: u64,
}

struct RingOfSamples(Sampler);

impl std::fmt::Debug for RingOfSamples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RingOfSamples")
    }
}

/// Begins to sample every thread that there is, but for the calling one. What the kernel does for a thread is in its
/// samples where the system allows that to be seen, and is left out otherwise.
pub(super) fn start(hz: u64) -> io::Result<Vec<Thread>> {
    let own = rustix::thread::gettid().as_raw_nonzero().get();
    let mut threads = Vec::new();
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(own);
        if id == own {
            continue;
        }
        // A thread that has ended meanwhile is no error.
        let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
        let sampler = match observe(id, hz, true) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => observe(id, hz, false)?,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            other => other?,
        };
        threads.push(Thread { name: name.trim_end().into(), sampler: RingOfSamples(sampler) });
    }
    Ok(threads)
}

fn observe(thread: i32, hz: u64, kernel: bool) -> io::Result<Sampler> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder
        .observe_pid(thread)
        .any_cpu()
        .sample_frequency(hz)
        .sample(SampleFlag::CALLCHAIN | SampleFlag::REGS_USER | SampleFlag::STACK_USER)
        .exclude_callchain_user(true)
        .sample_regs_user(REGISTERS.iter().fold(0, |mask, register| mask | 1 << register))
        .sample_stack_user(STACK_BYTES)
        .exclude_hv(true)
        .exclude_kernel(!kernel);
    let mut sampler = builder.build()?.sampled(RING_BYTES)?;
    sampler.enable()?;
    Ok(sampler)
}

impl Thread {
    /// The next sample, if there is one already.
    pub(super) fn next(&mut self) -> Option<Sampled> {
        loop {
            let record = self.sampler.0.next_record()?;
            let bytes: Cow<'_, [u8]> = record.to_contiguous();
            let read = match record.ty() {
                SAMPLE => read_sample(&bytes).map(Sampled::Stack),
                // An id, then how many.
                LOST => Fields(&bytes).skip_then_take(1).map(Sampled::Lost),
                _ => None,
            };
            if read.is_some() {
                return read;
            }
        }
    }
}

/// Fields follow each other in the order of the bits that ask for them.
fn read_sample(bytes: &[u8]) -> Option<Seen> {
    let mut fields = Fields(bytes);
    let addresses = fields.take()?;
    let mut kernel = Vec::new();
    for _ in 0..addresses {
        let address = fields.take()?;
        // Among them are marks that say whose addresses follow.
        if address < FIRST_MARK {
            kernel.push(address);
        }
    }
    let mut registers = Registers::default();
    // A thread of the kernel has no registers of its own to show.
    if fields.take()? != 0 {
        let mut values = [0; REGISTERS.len()];
        for value in &mut values {
            *value = fields.take()?;
        }
        registers = named(values);
    }
    let copied = fields.take()?;
    let stack = fields.bytes(usize::try_from(copied).ok()?)?;
    let filled = if copied == 0 { 0 } else { fields.take()? };
    let stack = stack.get(..usize::try_from(filled).ok()?)?.to_vec();
    Some(Seen { kernel, registers, stack })
}

/// Words of the machine, one after another.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn take(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*word))
    }

    fn skip_then_take(mut self, skip: usize) -> Option<u64> {
        (0..skip).try_for_each(|_| self.take().map(drop))?;
        self.take()
    }

    fn bytes(&mut self, len: usize) -> Option<&'b [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Of `asm/perf_regs.h`: rbp, rsp, rip.
#[cfg(target_arch = "x86_64")]
const REGISTERS: [u32; 3] = [6, 7, 8];

#[cfg(target_arch = "x86_64")]
fn named([frame, stack, program]: [u64; 3]) -> Registers {
    Registers { frame, stack, program }
}

/// Of `asm/perf_regs.h`: x29, lr, sp, pc.
#[cfg(target_arch = "aarch64")]
const REGISTERS: [u32; 4] = [29, 30, 31, 32];

#[cfg(target_arch = "aarch64")]
fn named([frame, link, stack, program]: [u64; 4]) -> Registers {
    Registers { frame, stack, link, program }
}

/// `PERF_RECORD_LOST` and `PERF_RECORD_SAMPLE`.
const LOST: u32 = 2;
const SAMPLE: u32 = 9;
/// `PERF_CONTEXT_MAX`: what is above is a mark.
const FIRST_MARK: u64 = (-4_095_i64) as u64;
/// How much of a stack is copied: what the shards use is well below.
const STACK_BYTES: u32 = 16 * 1024;
/// Seven samples per thread.
const RING_BYTES: usize = 128 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_read_field_by_field() {
        let mut words = vec![3, u64::MAX - 127, 0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000, 2];
        words.extend((0..REGISTERS.len() as u64).map(|n| 0x1000 + n));
        words.extend([16, 7, 8, 8]);
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        let seen = read_sample(&bytes).unwrap();
        assert_eq!(seen.kernel, [0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000]);
        assert_eq!(seen.registers.program, 0x1000 + REGISTERS.len() as u64 - 1);
        assert_eq!(seen.stack, 7_u64.to_ne_bytes());
        for len in 0..bytes.len() {
            assert!(read_sample(&bytes[..len]).is_none(), "{len}");
        }
    }
}
