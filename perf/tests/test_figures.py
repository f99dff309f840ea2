"""Medians, verdicts and tables."""

import math
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib import bounds, charts, figures, scaling


def result(cpu_us=2.0, cores=0.5, received=1_000.0, rate=100, room_size=10, lost=0, valid=True):
    return {
        "valid": valid,
        "exit_code": 1 if lost else 0,
        "faults": [f"{lost} lost"] if lost else [],
        "latency_us": {"deliver": {"p50": 100, "p99": 900, "p99_9": 1_500}},
        "server": {"cpu_us_per_delivery": cpu_us, "cpu": cores, "rss_bytes_per_connection": 2_048},
        "measured": {"received_per_s": received},
        "scenario": {"rate": rate, "room_size": room_size},
        "counts": {"lost": lost},
    }


class Summaries(unittest.TestCase):
    def test_a_summary_has_medians_and_the_spread(self):
        summary = figures.summary([result(3.0), result(1.0), result(2.5, valid=False)])
        self.assertEqual((summary["cpu_us"], summary["cpu_us_min"], summary["cpu_us_max"]), (2.5, 1.0, 3.0))
        self.assertEqual((summary["valid"], summary["runs"], summary["faults"]), (2, 3, []))

    def test_loss_of_a_server_that_keeps_up_is_a_fault(self):
        self.assertEqual(figures.summary([result(lost=7)])["faults"], ["7 lost"])

    def test_a_saturated_server_is_shown_as_such_and_not_as_faulty(self):
        summary = figures.summary([result(lost=7, received=500.0, cores=0.99)])
        self.assertEqual((summary["saturated"], summary["faults"], summary["lost"]), (1, [], 7))

    def test_a_slow_delivery_by_an_idle_server_is_not_saturation(self):
        self.assertFalse(figures.is_saturated(figures.of_run(result(received=500.0, cores=0.2))))

    def test_a_run_without_figures_does_not_spoil_the_median(self):
        broken = {"valid": False, "exit_code": 1, "faults": ["died"], "counts": {"lost": 0}}
        summary = figures.summary([result(2.0), broken, result(4.0)])
        self.assertEqual((summary["cpu_us"], summary["faults"]), (3.0, ["died"]))

    def test_what_is_no_number_is_null_in_json(self):
        self.assertEqual(figures.plain({"a": [math.nan, 1.5], "b": (math.inf,)}), {"a": [None, 1.5], "b": [None]})


class Texts(unittest.TestCase):
    def test_times_have_three_digits_and_a_unit(self):
        texts = [figures.duration(us) for us in (17, 999.4, 6_300, 123_456, 2_500_000, math.nan)]
        self.assertEqual(texts, ["17 µs", "999 µs", "6.3 ms", "123 ms", "2.5 s", "–"])

    def test_columns_of_a_table_line_up(self):
        table = figures.markdown(["name", "why", "n"], [["a", "b", "1,000"], ["longer", "", "2"]]).splitlines()
        self.assertEqual(len({len(line) for line in table}), 1)
        self.assertEqual(table[1], "|--------|-----|------:|")
        self.assertEqual(table[3], "| longer |     |     2 |")


class Bounds(unittest.TestCase):
    def test_a_bound_is_kept_missed_or_not_checked(self):
        self.assertEqual(bounds.Bound("x", 0.85, 0.85).state, "kept")
        self.assertEqual(bounds.Bound("x", 0.86, 0.85).state, "MISSED")
        self.assertEqual(bounds.Bound("x", 1.0, 1.0, strict=True).state, "MISSED")
        self.assertEqual(bounds.Bound("x", math.nan, 0.85).state, "not checked")

    def test_every_peer_has_its_bound_in_every_case(self):
        pair = (figures.summary([result(1.0)]), figures.summary([result(2.0)]))
        ratios = {peer: bounds.cpu(pair, "fanout", peer) for peer in ("tokio-fastwebsockets", "node-ws")}
        self.assertEqual([bound.allowed for bound in ratios.values()], [0.85, 1.0])
        self.assertEqual({bound.measured for bound in ratios.values()}, {0.5})
        self.assertEqual(bounds.cpu(pair, "echo", "node-ws").allowed, 1.05)

    def test_p99_may_be_as_high_as_the_greater_of_two(self):
        self.assertEqual(bounds.p99((figures.summary([result()]),) * 2, "fanout").allowed, 4_000)
        slow = {"p99_us": 10_000.0}
        self.assertEqual(bounds.p99((slow, slow), "fanout").allowed, 13_000.0)


class Charts(unittest.TestCase):
    def test_ticks_reach_past_the_greatest_value(self):
        for most in (0.7, 1, 9.9, 123_456):
            ticks = charts.linear([most])
            self.assertGreaterEqual(ticks[-1], most)
            self.assertLessEqual(len(ticks), 8)
        self.assertEqual(charts.logarithmic([20, 5_000]), [10, 100, 1_000, 10_000])

    def test_names_cannot_break_out_of_a_chart(self):
        self.assertNotIn("<b>", charts.bars("<b>", {"<b>": 1.0}, "<b>"))
        grouped = charts.grouped("<b>", {"<b>": {"a": 1.0, "<b>": 2.0}, "c": {"<b>": math.nan}}, "µs")
        self.assertNotIn("<b>", grouped)
        self.assertEqual(grouped.count("µs"), 2)
        self.assertIn("nothing was measured", charts.lines("x", {"a": [(1, math.nan)]}, "x", "y"))


class Scaling(unittest.TestCase):
    def test_metrics_are_summed_over_shards(self):
        text = '# TYPE a counter\na_total{shard="0"} 2\na_total{shard="1"} 3.5\nb 1e3\n'
        self.assertEqual(scaling.summed(text), {"a_total": 5.5, "b": 1_000.0})

    def test_server_and_load_never_share_a_core_where_there_are_two(self):
        self.assertEqual(scaling.cores_for(4, {0, 1}), ("0", "1", 1))
        self.assertEqual(scaling.cores_for(2, set(range(8))), ("0,1", "2,3,4,5", 2))

    def test_envelopes_go_to_the_owner_and_to_every_other_shard_reached(self):
        point = scaling.Point(4, 100, [{"shards_reached": 4.0}])
        self.assertAlmostEqual(point.envelopes, 0.75 * 5 / 100)


if __name__ == "__main__":
    unittest.main()
