"""Folding of stacks and the graph drawn from them."""

import sys
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib import flame, sampling

SCRIPT = """hubbub-shard-1 12407
\tffffffff81e2f65d sock_sendmsg
\t          16f18a hubbub::shard::turn::write<alloc::vec::Vec<u8>>
\tffffffffffffffff [unknown]

hubbub-shard-1 12407
\t          16f18a hubbub::shard::turn::write<alloc::vec::Vec<u8>>

web admin 99
\t          000010 [unknown]
"""

ADDR2LINE = """0x0000000000001010
glommio::run
/root/.cargo/registry/src/x/io-uring-0.7.15/src/submit.rs:160
enter
/home/me/hubbub/src/net/ring.rs:201 (discriminator 3)
glommio::run
/rustc/abc/library/core/src/mem/mod.rs:1
0x0000000000002020
??
??:0
"""


def plain(address, symbol):
    return [flame.name(symbol, address)]


class Folding(unittest.TestCase):
    def test_stacks_are_counted_by_thread_from_the_outside_in(self):
        counts = flame.fold(flame.parse(SCRIPT), plain)
        write = "hubbub::shard::turn::write"
        self.assertEqual(counts["hubbub-shard-1", write, "sock_sendmsg [k]"], 1)
        self.assertEqual(counts["hubbub-shard-1", write], 1)
        self.assertEqual(counts["web admin", "[unknown]"], 1)
        self.assertEqual(sum(counts.values()), 3)

    def test_inlined_functions_stand_in_order_with_their_module(self):
        names = flame.addr2line_names(ADDR2LINE, "/home/me/hubbub")
        self.assertEqual([label for label, _ in names[0x1010]], ["[core] glommio::run", "net/ring: enter", "[io-uring] glommio::run"])
        self.assertNotIn(0x2020, names)

    def test_a_place_in_the_file_becomes_one_in_memory(self):
        segments = [(0, 0x1000, 0), (0x1000, 0x500, 0x3000)]
        self.assertEqual(flame.virtual(segments, 0x1010), 0x3010)
        self.assertIsNone(flame.virtual(segments, 0x1500))

    def test_type_parameters_go(self):
        self.assertEqual(flame.shortened("a::B<C<D>, E>::f::{{closure}}"), "a::B::f")

    def test_a_share_counts_a_stack_once(self):
        counts = {("t", "shard/mailbox: push", "flume::send"): 3, ("t", "write"): 1}
        self.assertEqual(flame.share(counts, sampling.CROSSING), 0.75)
        self.assertEqual(flame.share({}, "x"), 0.0)

    def test_folded_stacks_are_one_a_line(self):
        self.assertEqual(flame.folded({("t", "a;b", "c"): 2}), "t;a:b;c 2\n")


class Drawing(unittest.TestCase):
    def test_widths_follow_the_samples(self):
        drawn = xml.fromstring(flame.svg({("t", "a"): 3, ("t", "b & <c>"): 1}, "title <1>"))
        space = "{http://www.w3.org/2000/svg}"
        titles = {group.find(f"{space}title").text: group.find(f"{space}rect") for group in drawn.iter(f"{space}g")}
        self.assertEqual(set(titles), {"t: 100.00 % (4 samples)", "a: 75.00 % (3 samples)", "b & <c>: 25.00 % (1 samples)"})
        self.assertAlmostEqual(float(titles["a: 75.00 % (3 samples)"].get("width")), 900, delta=1)

    def test_frames_too_narrow_to_see_are_left_out(self):
        drawn = flame.svg({("t", "a"): 100_000, ("t", "b"): 1}, "x")
        self.assertNotIn(">b:", drawn)


if __name__ == "__main__":
    unittest.main()
