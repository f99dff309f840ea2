//! From registers and a piece of a stack to the chain of calls, by the unwind tables of the loaded files.
//!
//! The program is built without frame pointers; its tables, which it has anyway, say the same. Nothing of the process is
//! touched: files are read from disk, and the stack is a copy.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, UnwindRegsNative, Unwinder, UnwinderNative,
};
use object::{Object, ObjectSection, ReadCache};

use super::sample::{Registers, Seen};

type Bytes = Arc<[u8]>;

/// The unwind tables of this process.
pub(super) struct Stacks {
    unwinder: UnwinderNative<Bytes, MayAllocateDuringUnwind>,
    cache: RefCell<CacheNative<MayAllocateDuringUnwind>>,
}

impl Stacks {
    /// Reads the tables of every file that is mapped for execution. A file without tables is left out: chains end there.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let mut unwinder = UnwinderNative::new();
        for mapping in fs::read_to_string("/proc/self/maps")?.lines().filter_map(Mapping::read) {
            if let Some(module) = mapping.module() {
                unwinder.add_module(module);
            }
        }
        Ok(Self { unwinder, cache: RefCell::new(CacheNative::new()) })
    }

    /// Addresses to look up, the innermost first: those of the kernel, then the thread's own.
    pub(super) fn walk(&self, seen: &Seen) -> Vec<u64> {
        let mut addresses = seen.kernel.clone();
        let bottom = seen.registers.stack;
        let mut read = |address: u64| {
            let at = address.checked_sub(bottom).and_then(|at| usize::try_from(at).ok()).ok_or(())?;
            let word = seen.stack.get(at..).and_then(|from| from.first_chunk()).ok_or(())?;
            Ok(u64::from_ne_bytes(*word))
        };
        let mut cache = self.cache.borrow_mut();
        let registers = registers(seen.registers);
        let mut frames = self.unwinder.iter_frames(seen.registers.program, registers, &mut cache, &mut read);
        while let Ok(Some(frame)) = frames.next() {
            addresses.push(frame.address_for_lookup());
            if addresses.len() >= FRAMES_MAX {
                break;
            }
        }
        addresses
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(seen: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(seen.program, seen.stack, seen.frame)
}

#[cfg(target_arch = "aarch64")]
fn registers(seen: Registers) -> UnwindRegsNative {
    UnwindRegsNative::new(seen.link, seen.stack, seen.frame)
}

/// A line of `/proc/self/maps` that is code of a file.
struct Mapping<'l> {
    addresses: Range<u64>,
    offset: u64,
    path: &'l str,
}

impl<'l> Mapping<'l> {
    fn read(line: &'l str) -> Option<Self> {
        // The path comes last, and may have spaces in it.
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
        let path = fields.nth(2)?.trim_start();
        let addresses = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        (permissions.contains('x') && path.starts_with('/')).then_some(Self { addresses, offset, path })
    }

    fn module(&self) -> Option<Module<Bytes>> {
        // The program's own file may have been replaced since: this link leads to the one that runs.
        let own = std::env::current_exe().ok().is_some_and(|own| own.to_str() == Some(self.path));
        let cache = ReadCache::new(fs::File::open(if own { "/proc/self/exe" } else { self.path }).ok()?);
        let file = object::File::parse(&cache).ok()?;
        // How far the code's place in memory is from its place in the file, and from the address that the file says.
        let text = file.section_by_name(".text")?;
        let shift = text.address().wrapping_sub(text.file_range()?.0);
        let base = self.addresses.start.wrapping_sub(self.offset).wrapping_sub(shift);
        let range = |name| {
            let section = file.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let data = |name| Some(file.section_by_name(name)?.data().ok()?.into());
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(".text"),
            text: data(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: data(".eh_frame"),
            eh_frame_hdr_svma: range(".eh_frame_hdr"),
            eh_frame_hdr: data(".eh_frame_hdr"),
            ..ExplicitModuleSectionInfo::default()
        };
        Some(Module::new(self.path.to_string(), self.addresses.clone(), base, sections))
    }
}

/// Longer chains are cut at the root.
const FRAMES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_taken_from_the_map() {
        let code = Mapping::read("7f00-7f10 r-xp 00001000 fe:00 12345    /usr/lib/a file.so").unwrap();
        assert_eq!((code.addresses, code.offset, code.path), (0x7f00..0x7f10, 0x1000, "/usr/lib/a file.so"));
        for other in [
            "7f00-7f10 r--p 00001000 fe:00 12345    /usr/lib/a.so",
            "7f00-7f10 r-xp 00000000 00:00 0        [vdso]",
            "7f00-7f10 rwxp 00000000 00:00 0",
            "",
        ] {
            assert!(Mapping::read(other).is_none(), "{other}");
        }
    }
}
