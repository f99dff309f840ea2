"""What the measurements of attacks make of their results."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib import attacks


def result(p99=900, **counts):
    everything = {name: 0 for name in attacks.FAULTS} | {"received": 100, "expected": 100} | counts
    latency = {"p50": 300, "p99": p99, "max": 2 * p99}
    return {"latency_us": {"deliver": latency}, "counts": everything, "faults": [], "valid": True}


def pair(alone=900, attacked=900, **counts):
    report = {"tried": 1_000, "pieces_sent": 0, "answers": {"http: 429": 990, "http: 200": 10}}
    return {
        "alone": attacks.summary(result(alone)) | {"report": None},
        "attacked": attacks.summary(result(attacked, **counts)) | {"report": report},
    }


class Attacks(unittest.TestCase):
    def test_twice_as_late_and_5_ms_is_allowed_and_more_is_not(self):
        for attacked, state in ((6_800, "kept"), (6_801, "MISSED")):
            (bound,) = attacks.bounds_of("slowloris", [pair(900, attacked)])
            self.assertEqual(bound.state, state)

    def test_the_median_pair_decides(self):
        pairs = [pair(900, 900), pair(900, 1_000), pair(900, 60_000)]
        self.assertEqual(attacks.bounds_of("slowloris", pairs)[0].state, "kept")

    def test_whatever_a_good_client_lost_is_a_fault(self):
        self.assertEqual(attacks.faults_of("x", [pair()]), [])
        faults = attacks.faults_of("x", [pair(), pair(closed=3, received=99)])
        self.assertEqual(faults, ["x, pair 2, attacked: closed: 3", "x, pair 2, attacked: 99 of 100 received"])

    def test_the_table_has_what_the_attack_was_answered(self):
        table = attacks.table({"connect-flood": [pair()]})
        self.assertIn("1,000 connections, 0 pieces; 990 × http: 429; 10 × http: 200", table)


if __name__ == "__main__":
    unittest.main()
