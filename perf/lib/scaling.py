"""The same load at one shard, two, three …: does a delivery cost the same, and what does crossing between shards cost?

Rooms are placed by the hash of their name and connections by the kernel (SO_REUSEPORT), neither of which a client can choose. So
with n shards rooms are spread over all: sender and room are on different shards for a share of (n − 1) / n of the messages, and
so are room and receiver. With one shard, every member of every room sits on it, and nothing crosses.

- Deliveries per CPU-second, and what of those at one shard is kept: everything that more shards cost is in it, on a core that
  they share also the switches between their threads.
- The cross-shard share of CPU: the samples of a run of its own in which the stack is inside mailboxes, their queues or
  doorbells (lib/sampling.py, CROSSING). The work that a message needs wherever its room is, is not in it.
- Envelopes per delivery: (n − 1) / n for the way to the owner, and as many times (n − 1) / n as a message reaches shards, which
  is measured: `hubbub_fanout_size` counts once per message and shard reached.

CPU is what all threads of the server used over the whole run, connects included, by everything that was delivered.
"""

import dataclasses
import os
import re
import urllib.request
from dataclasses import dataclass

from lib import charts, drive, figures, flame, sampling

# Members of a room, rooms, messages per second and room. All connections send.
SHAPES = [(1, 200, 100.0), (5, 240, 25.0), (100, 12, 25.0)]
FREQUENCY = 999


@dataclass
class Point:
    """So many shards and rooms of one size, over the rounds."""

    shards: int
    room_size: int
    samples: list = dataclasses.field(default_factory=list)
    # The part of CPU that crossing takes; NaN where perf is missing.
    cross_share: float = figures.NAN

    def median(self, figure):
        return figures.median(sample[figure] for sample in self.samples)

    @property
    def per_cpu_second(self):
        return figures.ratio(1e6, self.median("cpu_us"))

    @property
    def envelopes(self):
        """Per delivery."""
        apart = (self.shards - 1) / self.shards
        return apart * (1 + self.median("shards_reached")) / self.room_size


def cores_for(shards, available):
    """Cores of server and load: at most half for the server, as many as it has shards."""
    ours = sorted(available)
    servers = ours[: max(1, min(shards, len(ours) // 2))]
    loads = [core for core in ours if core not in servers][: max(1, len(ours) // 2)] or ours
    return ",".join(map(str, servers)), ",".join(map(str, loads)), len(servers)


def measure(server, shard_counts, rounds, seconds, base, say):
    """All points: interleaved rounds, then one sampled run for each."""
    points = [Point(n, size) for size, _, _ in SHAPES for n in shard_counts]
    shapes = {shape[0]: shape for shape in SHAPES}
    for number in range(1, rounds + 1):
        for point in points if number % 2 else reversed(points):
            plan = plan_for(base, point.shards, seconds, shapes[point.room_size])
            sample = run(server, plan)
            point.samples.append(sample)
            say(f"round {number}/{rounds}  {point.shards} shards, rooms of {point.room_size:3}  {sample['cpu_us']:.3f} µs per delivery")
    if sampling.is_possible():
        for point in points:
            plan = plan_for(base, point.shards, seconds + 2, shapes[point.room_size])
            counts, _ = sampling.record(server, plan, seconds, FREQUENCY)
            point.cross_share = flame.share(counts, sampling.CROSSING)
            say(f"sampled  {point.shards} shards, rooms of {point.room_size:3}  {100 * point.cross_share:.1f} % crossing")
    return points


def plan_for(base, shards, seconds, shape):
    size, rooms, rate = shape
    server_cores, load_cores, _ = cores_for(shards, os.sched_getaffinity(0))
    flags = ["--duration", f"{seconds}s", "--warm-up", "1s", "--connections", str(size * rooms)]
    flags += ["--room-size", str(size), "--rate", str(rate * rooms)]
    return dataclasses.replace(
        base, server_cores=server_cores, load_cores=load_cores, server_flags=["--shards", str(shards)], load_flags=flags
    )


def run(server, plan):
    """One sample."""
    with drive.running(server, plan) as process:
        before = sampling.cpu_ns(process.pid)
        result = drive.load(process.pid, plan)
        used_ns = sampling.cpu_ns(process.pid) - before
        totals = metrics(plan.port + 2)
    reached = figures.ratio(totals.get("hubbub_fanout_size_count", 0), totals.get("hubbub_messages_in_total", 0))
    return {
        "cpu_us": figures.ratio(used_ns / 1_000, result["counts"]["received"]),
        "p99_us": figures.of_run(result)["p99_us"],
        "shards_reached": reached,
        "lost": result["counts"]["lost"],
        "valid": result["valid"],
        "faults": result["faults"] if result["exit_code"] == 1 else [],
    }


def metrics(port):
    """The server's metrics, each summed over its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return summed(answer.read().decode())


def summed(text):
    totals = {}
    for line in text.splitlines():
        found = re.match(r"([a-zA-Z_:][\w:]*)(?:\{[^}]*\})? ([0-9.eE+-]+)", line)
        if found:
            totals[found[1]] = totals.get(found[1], 0.0) + float(found[2])
    return totals


def table(points):
    alone = {point.room_size: point for point in points if point.shards == 1}
    head = ["rooms of", "shards", "deliveries per CPU-second", "to one shard", "cross-shard share", "envelopes per delivery"]
    rows = []
    for point in points:
        single = alone.get(point.room_size)
        rows.append([
            str(point.room_size),
            str(point.shards),
            figures.fixed(point.per_cpu_second, 0),
            figures.fixed(figures.ratio(point.per_cpu_second, single.per_cpu_second), 2) if single else "–",
            figures.fixed(100 * point.cross_share, 1, " %"),
            figures.fixed(point.envelopes, 3),
            figures.duration(point.median("p99_us")),
            str(sum(sample["lost"] for sample in point.samples)),
            f"{sum(sample['valid'] for sample in point.samples)}/{len(point.samples)}",
        ])
    return figures.markdown([*head, "p99", "lost", "valid"], rows, texts=())


def chart(points):
    series = {}
    for point in points:
        series.setdefault(f"rooms of {point.room_size}", []).append((point.shards, point.per_cpu_second))
    return charts.lines("Deliveries per CPU-second", series, "shards", "deliveries")


def caveat(shard_counts):
    """Says when shards had to share cores."""
    most = max(shard_counts)
    server_cores, load_cores, count = cores_for(most, os.sched_getaffinity(0))
    where = f"Server on core {server_cores} at {most} shards, load from core {load_cores}."
    if most <= count:
        return f"{where} Each shard had a core of its own."
    cores = "one core" if count == 1 else f"{count} cores"
    return (
        f"{where} **Oversubscribed**: all shards share {cores}. What is shown is the cost of the work in CPU time, switches between"
        " the shards' threads included; what parallel cores do to caches and queues is not."
    )
