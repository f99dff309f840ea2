"""What the measurements of durable rooms make of their results."""

import math
import socket
import sys
import tempfile
import threading
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from lib import acks, bounds, drive, fsync_delay, history_cost, lines, redis, restart


def result(acks_per_s=60_000.0, durable=True, exit_code=0, faults=(), p99=900):
    latency = {"count": 9, "p50": 300, "p99": p99, "p99_9": p99}
    return {
        "valid": True,
        "invalid_reasons": [],
        "exit_code": exit_code,
        "faults": list(faults),
        "latency_us": {"ack": latency, "durable_ack": latency if durable else None, "deliver": latency},
        "measured": {"acks_per_s": acks_per_s, "received_per_s": 0},
        "generator": {"busiest_worker_cpu": 0.5},
        "server": {"cpu": 0.9, "cpu_us_per_ack": 9.0, "cpu_us_per_delivery": None},
        "scenario": {},
        "counts": {"lost": 0},
    }


def runs(*rates):
    return {case: [result(rate, durable=case.server == acks.HUBBUB)] for case, rate in zip(acks.CASES, rates)}


class Acks(unittest.TestCase):
    def test_hubbub_must_reach_its_share_of_redis_and_a_profile_may_excuse_the_rest(self):
        kept, told = acks.all_bounds(runs(60_000.0, 100_000.0, 150_000.0, 400_000.0))
        self.assertEqual((kept.state, kept.advisory), ("kept", False))
        self.assertEqual((told.state, told.advisory), ("MISSED", True))
        missed, _ = acks.all_bounds(runs(59_000.0, 100_000.0, 150_000.0, 400_000.0))
        self.assertEqual(missed.state, "MISSED")
        self.assertIn("0.590, at least 0.600", missed.line())

    def test_the_table_has_a_line_for_each_and_the_ratio_beside_hubbub(self):
        lines = acks.table(runs(60_000.0, 100_000.0, 150_000.0, 400_000.0)).splitlines()
        self.assertEqual(len(lines), 2 + len(acks.CASES))
        cells = [[cell.strip() for cell in line.split("|")] for line in lines[2:]]
        self.assertEqual([row[5] for row in cells], ["0.60", "", "0.38", ""])
        self.assertEqual([row[7] for row in cells], ["900 µs"] * 4, "Redis does not say durable, and is timed all the same")

    def test_the_rate_is_a_median(self):
        found = acks.summary([result(1.0), result(9.0), result(2.0)])
        self.assertEqual((found["acks_per_s"], found["least"], found["most"], found["valid"]), (2.0, 1.0, 9.0, 3))

    def test_a_wrong_answer_is_a_fault_of_the_whole(self):
        found = runs(1.0, 1.0, 1.0, 1.0)
        found[acks.CASES[2]].append(result(exit_code=1, faults=["7 answered without being on disk"]))
        self.assertEqual(acks.faults(found), ["hubbub, 16 in flight: 7 answered without being on disk"])


class Redis(unittest.TestCase):
    def test_it_writes_every_append_and_nothing_else(self):
        command = redis.command(6_400, "/data")
        options = dict(zip(command[1::2], command[2::2]))
        self.assertEqual((options["--appendfsync"], options["--save"], options["--dir"]), ("always", "", "/data"))
        self.assertEqual((options["--port"], options["--bind"]), ("6400", "127.0.0.1"))


class History(unittest.TestCase):
    def test_p99_may_rise_by_half_and_two_milliseconds(self):
        def bound(with_history):
            found = {"durable": [result(p99=with_history)], "off": [result(p99=4_000)]}
            return history_cost.all_bounds(found)[0]

        self.assertEqual((bound(8_000).state, bound(8_001).state, bound(0).allowed), ("kept", "MISSED", 8_000))

    def test_the_configuration_is_a_rule_for_every_room(self):
        self.assertEqual(history_cost.config("off"), '[[rooms]]\npattern = "*"\nhistory = "off"\n')


class Fsyncs(unittest.TestCase):
    def states(self, **changes):
        found = {"messages": 2, "durable": 2, "ok_us": [200_100, 300_000], "member_us": [90, 400]} | changes
        return [bound.state for bound in fsync_delay.all_bounds(found)]

    def test_every_ok_must_wait_and_no_member_may(self):
        self.assertEqual(self.states(), ["kept"] * 3)
        self.assertEqual(self.states(durable=1), ["MISSED", "kept", "kept"])
        self.assertEqual(self.states(ok_us=[199_900, 300_000]), ["kept", "MISSED", "kept"])
        self.assertEqual(self.states(member_us=[90, 200_000]), ["kept", "kept", "MISSED"])

    def test_all_ways_to_the_disk_are_late(self):
        command = " ".join(fsync_delay.command(7))
        self.assertIn("inject=fsync,fdatasync,sync_file_range,msync:delay_enter=200000", command)


class Restart(unittest.TestCase):
    FOUND = {
        "faults": [],
        "stored": 1_000_000,
        "missing": 0,
        "ready_s": 2.9,
        "page_us": [1_000, 2_000, 90_000],
        "bytes_after": 512_000_000,
    }

    def test_the_median_page_counts_and_the_payload_twice(self):
        self.assertEqual([bound.state for bound in restart.all_bounds(self.FOUND)], ["kept"] * 3)
        worse = self.FOUND | {"ready_s": 3.1, "page_us": [6_000], "bytes_after": 512_000_001}
        self.assertEqual([bound.state for bound in restart.all_bounds(worse)], ["MISSED"] * 3)

    def test_what_is_not_there_is_a_fault(self):
        self.assertEqual(restart.faults(self.FOUND), [])
        found = restart.faults(self.FOUND | {"stored": 999_998, "missing": 3, "faults": ["1 sent and never answered"]})
        self.assertEqual(len(found), 3)
        self.assertIn("2 messages were not acknowledged", found)

    def test_the_size_of_a_directory_is_what_it_takes_on_the_disk(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "inner").mkdir()
            (Path(folder) / "inner/full").write_bytes(b"x" * 10_000)
            with open(Path(folder) / "sparse", "wb") as sparse:
                sparse.truncate(1 << 30)
            self.assertTrue(10_000 <= restart.size(folder) < 1 << 20)

    def test_the_fill_says_how_much(self):
        flags = restart.fill_flags()
        self.assertEqual(flags[flags.index("--connections") + 1], "1000")
        self.assertEqual(flags[flags.index("--messages-each") + 1], "1000")


class Lines(unittest.TestCase):
    def serve(self, answers):
        """A server that welcomes whoever comes and gives these bytes for the next line."""
        listener = socket.create_server(("127.0.0.1", 0))

        def answer():
            stream, _ = listener.accept()
            with stream, stream.makefile("rb") as commands:
                for text in (b'{"type":"welcome","id":1}\n', *answers):
                    commands.readline()
                    for at in range(0, len(text), 7):
                        stream.sendall(text[at : at + 7])
            listener.close()

        threading.Thread(target=answer, daemon=True).start()
        return listener.getsockname()[1]

    def test_an_answer_is_found_among_pushes_however_it_comes(self):
        port = self.serve([b'{"type":"message","seq":1}\n{"type":"ok","id":2,"seq":9}\n'])
        with lines.Client(port, "Ann") as client:
            self.assertEqual(client.ask({"type": "join", "room": "r"})["seq"], 9)

    def test_a_refusal_and_a_hang_up_are_told(self):
        refusal = b'{"type":"error","id":2,"code":"forbidden"}\n'
        with lines.Client(self.serve([refusal]), "Ann") as client:
            self.assertRaisesRegex(lines.Silence, "forbidden", client.ask, {"type": "join"})
            self.assertRaisesRegex(lines.Silence, "hung up", client.ask, {"type": "join"})


class Plans(unittest.TestCase):
    def test_a_target_of_its_own_wins_and_the_data_may_outlive_the_run(self):
        plan = drive.Plan(scenario="durable.toml", path="tcp", port=7, target="redis://127.0.0.1:9", data_dir="/data")
        command = drive.load_command(1, plan, "result.json")
        self.assertEqual(command[command.index("--target") + 1], "redis://127.0.0.1:9")
        plan.target = None
        command = drive.load_command(1, plan, "result.json")
        self.assertEqual(command[command.index("--target") + 1], "tcp://127.0.0.1:8")
        flags = drive.hubbub_flags(plan, "/folder")
        self.assertEqual(flags[flags.index("--data-dir") + 1], "/data")

    def test_at_least_is_a_bound_from_below(self):
        states = [bounds.Bound("x", value, 2.0, at_least=True).state for value in (1.9, 2.0, math.nan)]
        self.assertEqual(states, ["MISSED", "kept", "not checked"])


if __name__ == "__main__":
    unittest.main()
