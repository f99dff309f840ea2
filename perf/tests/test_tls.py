"""What the measurements of TLS make of their results."""

import math
import ssl
import sys
import tempfile
import types
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib import tls


def result(cpu_us, exit_code=0, faults=()):
    return {
        "valid": True,
        "invalid_reasons": [],
        "exit_code": exit_code,
        "faults": list(faults),
        "latency_us": {"deliver": {"p50": 300, "p99": 900, "p99_9": 900}},
        "measured": {"received_per_s": 20_000},
        "server": {"cpu": 0.1, "cpu_us_per_delivery": cpu_us, "rss_bytes_per_connection": 3_000},
        "scenario": {"rate": 4_000, "room_size": 5},
        "counts": {"lost": 0},
    }


ARGUMENTS = types.SimpleNamespace(rate=4_000, rounds=3, seconds=8)


class Cost(unittest.TestCase):
    def test_the_bound_looks_at_the_median_of_the_pairs_ratios(self):
        runs = {tls.PLAIN: [result(1.0), result(2.0), result(4.0)], tls.TLS: [result(1.2), result(4.0), result(5.6)]}
        found = tls.judge_cost(runs, ARGUMENTS)
        self.assertAlmostEqual(found.bounds[0].measured, 1.4)
        self.assertEqual((found.bounds[0].state, found.faults), ("kept", []))
        runs[tls.TLS][2] = result(6.4)
        self.assertEqual(tls.judge_cost(runs, ARGUMENTS).bounds[0].state, "MISSED")

    def test_something_lost_is_a_fault_of_the_whole(self):
        runs = {tls.PLAIN: [result(1.0)], tls.TLS: [result(1.0, exit_code=1, faults=["1 lost"])]}
        self.assertEqual(tls.judge_cost(runs, ARGUMENTS).faults, ["TLS: 1 lost"])

    def test_a_figure_that_is_not_there_keeps_no_bound(self):
        found = tls.judge_cost({tls.PLAIN: [result(None)], tls.TLS: [result(1.0)]}, ARGUMENTS)
        self.assertTrue(math.isnan(found.bounds[0].measured))
        self.assertEqual(found.bounds[0].state, "not checked")


@unittest.skipIf(tls.missing(), "openssl is not here")
class Certificates(unittest.TestCase):
    def test_each_one_is_another_and_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            seen = set()
            for _ in range(2):
                tls.make_certificate(folder)
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
                seen.add((Path(folder) / "cert.pem").read_text())
            self.assertEqual(len(seen), 2)


if __name__ == "__main__":
    unittest.main()
