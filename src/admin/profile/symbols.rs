//! Names for code addresses: of this program by its debug information, of the kernel by `/proc/kallsyms`.

use std::ffi::c_void;
use std::fs;

/// The names of the kernel; those of the program are looked up when asked for.
#[derive(Debug)]
pub(super) struct Symbols {
    /// By address. Empty when the system hides them.
    kernel: Vec<(u64, String)>,
}

/// One function at an address. Where functions were inlined, several share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    pub(super) function: String,
    pub(super) file: String,
    pub(super) line: u32,
}

impl Symbols {
    /// Reads the kernel's names.
    pub(super) fn for_process() -> Self {
        let text = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let mut kernel: Vec<(u64, String)> = text.lines().filter_map(kernel_symbol).collect();
        kernel.sort_unstable();
        Self { kernel }
    }

    /// The functions at an address, the innermost first; at least one.
    pub(super) fn lines(&self, address: u64) -> Vec<Line> {
        if is_kernel(address) {
            let at = self.kernel.partition_point(|(start, _)| *start <= address);
            let name = at.checked_sub(1).map_or("kernel", |at| &self.kernel[at].1);
            return vec![Line { function: format!("[k] {name}"), file: String::new(), line: 0 }];
        }
        let mut lines = Vec::new();
        // It looks up the byte before what it is given, as for a return address.
        let asked = (address as usize).wrapping_add(1) as *mut c_void;
        backtrace::resolve(asked, |symbol| {
            if let Some(name) = symbol.name() {
                // Without the hash at its end.
                let mut function = format!("{name:#}");
                let file = symbol.filename().map_or_else(String::new, |file| file.display().to_string());
                // Of what was inlined the debug information may say the bare name only.
                if !function.contains("::") && !file.is_empty() {
                    function = format!("{function} ({})", tail(&file));
                }
                lines.push(Line { function, file, line: symbol.lineno().unwrap_or(0) });
            }
        });
        if lines.is_empty() {
            lines.push(Line { function: format!("{address:#x}"), file: String::new(), line: 0 });
        }
        lines
    }
}

impl Drop for Symbols {
    fn drop(&mut self) {
        // The debug information would stay in memory until the next profile.
        backtrace::clear_symbol_cache();
    }
}

/// The last two parts of a path: `net/ring.rs`.
fn tail(path: &str) -> &str {
    path.rmatch_indices('/').nth(1).map_or(path, |(at, _)| &path[at + 1..])
}

/// Whether an address lies in the kernel's half.
pub(super) fn is_kernel(address: u64) -> bool {
    address >> 63 != 0
}

/// From `ffffffff81000000 T _stext`, with a module's name in brackets behind it for some.
fn kernel_symbol(line: &str) -> Option<(u64, String)> {
    let mut fields = line.split_whitespace();
    let address = u64::from_str_radix(fields.next()?, 16).ok().filter(|address| *address != 0)?;
    fields.next().filter(|kind| matches!(*kind, "t" | "T" | "w" | "W"))?;
    Some((address, fields.next()?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_of_ours_has_its_name() {
        let lines = Symbols { kernel: Vec::new() }.lines(is_kernel as fn(u64) -> bool as usize as u64);
        assert!(lines.iter().any(|line| line.function.ends_with("symbols::is_kernel")), "{lines:?}");
    }

    #[test]
    fn a_path_is_cut_to_its_end() {
        assert_eq!(
            ["/a/src/net/ring.rs", "net/ring.rs", "ring.rs"].map(tail),
            ["net/ring.rs", "net/ring.rs", "ring.rs"]
        );
    }

    #[test]
    fn an_address_of_the_kernel_belongs_to_the_symbol_before_it() {
        let text = "ffffffff81000100 T second\nffffffff81000000 t first [module]\nffffffff81000050 d data\n0 T hidden";
        let mut kernel: Vec<_> = text.lines().filter_map(kernel_symbol).collect();
        kernel.sort_unstable();
        let symbols = Symbols { kernel };
        let name = |address| symbols.lines(address).remove(0).function;
        assert_eq!(name(0xffff_ffff_8100_00ff), "[k] first");
        assert_eq!(name(0xffff_ffff_8100_0100), "[k] second");
        assert_eq!(name(0xffff_ffff_8000_0000), "[k] kernel");
    }
}
