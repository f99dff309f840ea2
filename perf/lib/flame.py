"""Flame graphs: `perf script` output folded into stacks, inlined functions filled in, drawn as one SVG without any script.

After B. Gregg, "The Flame Graph", CACM 59(6), 2016: width is the share of samples, height the depth of the stack, order
alphabetic, and colour tells user code (warm) from the kernel (cool). Hovering over a frame names it with its share.
"""

import collections
import re
import struct
import subprocess
from html import escape
from pathlib import Path

KERNEL_FROM = 0xFFFF_8000_0000_0000
UNKNOWN = 0xFFFF_FFFF_FFFF_FFFF
WIDTH, ROW, TOP = 1200, 17, 56
# Narrower frames are left out: nobody can read or hit them.
WIDTH_MIN = 0.4
CHARACTER = 6.6


def parse(text):
    """Samples of `perf script -F comm,tid,ip,sym`: (thread, [(address, symbol), …]) with the outermost frame first."""
    for block in text.split("\n\n"):
        head, *frames = [line for line in block.splitlines() if line.strip()] or [""]
        found = re.match(r"\s*(.+?)\s+(\d+)\s*$", head)
        if found:
            yield found[1], [frame(line) for line in reversed(frames)]


def frame(line):
    address, _, symbol = line.strip().partition(" ")
    return int(address, 16), symbol.strip()


def fold(samples, names):
    """Counts of stacks: {("thread", "frame", …): samples}. `names(address, symbol)` gives the frames of one address."""
    counts = collections.Counter()
    for thread, frames in samples:
        stack = [thread]
        for address, symbol in frames:
            if address != UNKNOWN:
                stack += names(address, symbol)
        counts[tuple(stack)] += 1
    return counts


def name(symbol, address):
    if not symbol or symbol == "[unknown]":
        return "[unknown]"
    return shortened(symbol) + (KERNEL if address >= KERNEL_FROM else "")


def shortened(symbol):
    """Without type parameters, which are longer than all the rest."""
    previous = None
    while previous != symbol:
        previous, symbol = symbol, re.sub(r"<[^<>]*>", "", symbol)
    return symbol.replace("::{{closure}}", "").replace("::::", "::").strip(":") or previous


class Inlining:
    """Names the functions that the compiler inlined at an address of `program`, outermost first, by way of addr2line."""

    def __init__(self, program, root, samples):
        segments = list(code_segments(Path(program).read_bytes()))
        frames = {one for _, frames in samples for one in frames if one[0] < KERNEL_FROM}
        self.virtual = {address: virtual(segments, address) for address, _ in frames}
        wanted = sorted({address for address in self.virtual.values() if address is not None})
        self.names = resolve(program, root, wanted) if wanted else {}

    def __call__(self, address, symbol):
        found = self.names.get(self.virtual.get(address))
        outer = [name(symbol, address)]
        # The same address may lie in another file, such as libc: then the names differ.
        if not found or found[-1][1] != symbol.split("+")[0]:
            return outer
        # addr2line gives the innermost the name of the symbol around it.
        return outer + [label for label, _ in found[1:-1]]


def code_segments(elf):
    """(offset in the file, length, address) of each loaded segment of a 64-bit little-endian ELF file (elf(5))."""
    start, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    for at in range(start, start + size * count, size):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", elf, at)
        if kind == 1:
            yield offset, length, address


def virtual(segments, offset):
    """perf names a place by where it is in the file, addr2line by where it is in memory."""
    return next((offset - start + address for start, length, address in segments if start <= offset < start + length), None)


def resolve(program, root, wanted):
    command = ["addr2line", "-e", str(program), "-a", "-i", "-f", "-C"]
    text = "\n".join(f"{address:#x}" for address in wanted)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return addr2line_names(done.stdout, root)


def addr2line_names(text, root):
    """{address: [(label, function), …]}, outermost first; addresses without a name are left out."""
    names, current = {}, []
    lines = iter(text.splitlines())
    for line in lines:
        if re.fullmatch(r"0x[0-9a-f]+", line):
            current = names.setdefault(int(line, 16), [])
        else:
            current.insert(0, (place(line, next(lines, "??:0"), root), line))
    return {address: found for address, found in names.items() if all(function != "??" for _, function in found)}


def place(function, position, root):
    """A function with its module, which addr2line gives as a file: `shard/turn: write`, `[bytes] advance`."""
    short = re.sub(r"\{(async_fn|async_block|closure|impl)[^}]*\}", r"{\1}", shortened(function))
    file = position.split(" ")[0].rsplit(":", 1)[0]
    ours = re.search(r"(?:^|/)src/([\w/]+)\.rs$", file.removeprefix(str(root))) if file.startswith(str(root)) else None
    crate = re.search(r"/([A-Za-z][\w-]*?)-\d[^/]*/src/|/library/(\w+)/src/", file)
    if ours:
        return f"{ours[1]}: {short}"
    return f"[{crate[1] or crate[2]}] {short}" if crate else short


def folded(counts):
    """The stacks as text, one a line, as other tools read them."""
    return "".join(f"{';'.join(frame.replace(';', ':') for frame in stack)} {count}\n" for stack, count in sorted(counts.items()))


def share(counts, pattern):
    """The part of all samples with a frame that matches."""
    total = sum(counts.values())
    hits = sum(count for stack, count in counts.items() if any(re.search(pattern, frame) for frame in stack))
    return hits / total if total else 0.0


def svg(counts, title):
    """The graph. The root is at the bottom, a column for each thread above it."""
    total = sum(counts.values())
    boxes = list(layout(tree(counts), total))
    depth = max((level for level, *_ in boxes), default=0) + 1
    height = TOP + depth * ROW + 12
    parts = [box(level, start, count, label, total, height) for level, start, count, label in boxes]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    words = f'<text x="10" y="22" style="font-size:16px">{escape(title)}</text>'
    words += f'<text x="10" y="42">{total:,} samples; warm: user code, cool: kernel; hover over a frame for its share</text>'
    return "\n".join([head, f"<style>{STYLE}</style>", '<rect width="100%" height="100%" fill="#fff"/>', words, *parts, "</svg>", ""])


def tree(counts):
    """{frame: [samples, {frame: …}]}"""
    root = {}
    for stack, count in counts.items():
        level = root
        for one in stack:
            node = level.setdefault(one, [0, {}])
            node[0] += count
            level = node[1]
    return root


def layout(level, total, depth=0, start=0):
    """(depth, first sample, samples, frame) of each frame wide enough to be seen."""
    for one, (count, inner) in sorted(level.items()):
        if count * WIDTH / total >= WIDTH_MIN:
            yield depth, start, count, one
            yield from layout(inner, total, depth + 1, start)
        start += count


def box(level, start, count, label, total, height):
    x, width = start * WIDTH / total, count * WIDTH / total
    y = height - 12 - (level + 1) * ROW
    shown = escape(fitting(label.removesuffix(KERNEL), width))
    hint = escape(f"{label}: {100 * count / total:.2f} % ({count:,} samples)")
    text = f'<text x="{x + 3:.2f}" y="{y + 12}">{shown}</text>' if shown else ""
    rectangle = f'<rect x="{x:.2f}" y="{y}" width="{max(width - 0.3, 0.3):.2f}" height="{ROW - 1}" rx="1" fill="{colour(label)}"/>'
    return f"<g><title>{hint}</title>{rectangle}{text}</g>"


def fitting(label, width):
    most = int((width - 6) / CHARACTER)
    return label if len(label) <= most else label[: most - 1] + "…" if most >= 3 else ""


def colour(label):
    """Fixed by the name, so that two graphs compare."""
    shade = sum(map(ord, label)) % 40
    return f"rgb({130 + shade},{180 + shade},{215 + shade // 2})" if label.endswith(KERNEL) else f"rgb({225 + shade // 2},{140 + shade},{70 + shade})"


KERNEL = " [k]"
STYLE = "text{font:11px ui-monospace,monospace;fill:#1f2328}g:hover rect{stroke:#000}"
