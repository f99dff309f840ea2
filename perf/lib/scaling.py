"""The same load at one shard, two, three …: does a delivery cost the same, and what does crossing between shards cost?

Two settings for each number n of shards, on the same cores:

- *spread*: one server with n shards. Rooms are placed by the hash of their name and connections by the kernel, so a room's
  members sit on all shards, and for a share of (n − 1) / n of the messages sender and room are on different ones.
- *local*: n servers with one shard each, and the rooms shared out among them. As many threads, connections, rooms and
  messages, but nothing ever crosses.

The cross-shard share of CPU is what spread needs beyond local, as a part of spread. How far messages travel follows from the
server's own metrics: `hubbub_fanout_size` counts once per message and shard that it reaches, so its count divided by
`hubbub_messages_in_total` is the number of shards a message reaches.
"""

import contextlib
import dataclasses
import os
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lib import charts, drive, figures

# Members of a room, rooms, messages per second and room: 30,000 deliveries/s each.
SHAPES = [(5, 240, 25.0), (100, 12, 25.0)]
CONNECT_RATE = 2_000
PORTS_PER_SERVER = 3


@dataclass
class Point:
    """One setting, over its rounds."""

    shards: int
    room_size: int
    spread: list = dataclasses.field(default_factory=list)
    local: list = dataclasses.field(default_factory=list)

    def cpu_us(self, setting):
        """CPU per delivery, median over the rounds."""
        return figures.median(sample["cpu_us"] for sample in getattr(self, setting))

    def per_cpu_second(self, setting):
        return figures.ratio(1e6, self.cpu_us(setting))

    @property
    def cross_share(self):
        return 1 - figures.ratio(self.cpu_us("local"), self.cpu_us("spread"))


def cores_for(shards, available):
    """Cores of server and load: at most half for the server, as many as it has shards."""
    ours = sorted(available)
    servers = ours[: max(1, min(shards, len(ours) // 2))]
    loads = [core for core in ours if core not in servers][: max(1, len(ours) // 2)] or ours
    return ",".join(map(str, servers)), ",".join(map(str, loads)), len(servers)


def measure(server, shard_counts, rounds, seconds, base, say):
    """All points, in interleaved rounds."""
    points = {(n, size): Point(n, size) for size, _, _ in SHAPES for n in shard_counts}
    for number in range(1, rounds + 1):
        for size, rooms, rate in SHAPES:
            for n in shard_counts:
                point = points[n, size]
                settings = [("spread", 1, n)] + ([("local", n, 1)] if n > 1 else [])
                for name, servers, shards in settings if number % 2 else reversed(settings):
                    sample = run(server, plan_for(base, n, shards, seconds), servers, size, rooms_for(rooms, n), rate)
                    getattr(point, name).append(sample)
                    say(f"round {number}/{rounds}  {n} shards, rooms of {size:3}, {name:6} {sample['cpu_us']:.3f} µs per delivery")
                if n == 1:
                    # One shard has nothing to cross: both settings are the same run.
                    point.local.append(point.spread[-1])
    return list(points.values())


def rooms_for(rooms, servers):
    """At least so many, the same number for each server."""
    return -(-rooms // servers) * servers


def plan_for(base, n, shards, seconds):
    server_cores, load_cores, _ = cores_for(n, os.sched_getaffinity(0))
    flags = ["--duration", f"{seconds}s", "--warm-up", "1s"]
    return dataclasses.replace(
        base, server_cores=server_cores, load_cores=load_cores, server_flags=["--shards", str(shards)], load_flags=flags
    )


def run(server, plan, servers, size, rooms, rate):
    """One sample: `servers` servers at once, each with its part of the rooms and a generator of its own."""
    share = rooms // servers
    shape = ["--connections", str(share * size), "--room-size", str(size), "--rate", str(share * rate)]
    shape += ["--connect-rate", str(CONNECT_RATE / servers)]
    plans = [
        dataclasses.replace(plan, port=plan.port + at * PORTS_PER_SERVER, load_flags=plan.load_flags + shape)
        for at in range(servers)
    ]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(drive.running(server, one)) for one in plans]
        with ThreadPoolExecutor(servers) as pool:
            results = list(pool.map(lambda pair: drive.load(pair[0].pid, pair[1]), zip(processes, plans)))
        totals = [metrics(one.port + 2) for one in plans]
    return sample(results, totals)


def sample(results, totals):
    """Several servers as if they were one."""
    delivered = sum(result["measured"]["received"] for result in results)
    seconds = sum(result["server"]["cpu"] * result["measured"]["seconds"] for result in results)
    messages = sum(total.get("hubbub_messages_in_total", 0) for total in totals)
    reached = sum(total.get("hubbub_fanout_size_count", 0) for total in totals)
    rows = [figures.of_run(result) for result in results]
    return {
        "cpu_us": figures.ratio(seconds * 1e6, delivered),
        "cores": sum(row["cores"] for row in rows),
        "p99_us": max(row["p99_us"] for row in rows),
        "shards_reached": figures.ratio(reached, messages),
        "lost": sum(row["lost"] for row in rows),
        "valid": all(result["valid"] for result in results),
        "faults": figures.faults(results),
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
    head = ["rooms of", "shards", "deliveries per CPU-second, spread", "local", "cross-shard share", "shards reached", "p99 spread"]
    rows = []
    for point in points:
        valid = sum(sample["valid"] for sample in point.spread + point.local)
        rows.append([
            str(point.room_size),
            str(point.shards),
            figures.fixed(point.per_cpu_second("spread"), 0),
            figures.fixed(point.per_cpu_second("local"), 0),
            figures.fixed(100 * point.cross_share, 1, " %"),
            figures.fixed(figures.median(sample["shards_reached"] for sample in point.spread), 2),
            figures.duration(figures.median(sample["p99_us"] for sample in point.spread)),
            str(sum(sample["lost"] for sample in point.spread + point.local)),
            f"{valid}/{len(point.spread + point.local)}",
        ])
    return figures.markdown([*head, "lost", "valid"], rows)


def chart(points):
    series = {}
    for point in points:
        for setting in ("spread", "local"):
            line = series.setdefault(f"rooms of {point.room_size}, {setting}", [])
            line.append((point.shards, point.per_cpu_second(setting)))
    return charts.lines("Deliveries per CPU-second", series, "shards", "deliveries")


def caveat(shard_counts):
    """Says when shards had to share cores."""
    most = max(shard_counts)
    server_cores, load_cores, count = cores_for(most, os.sched_getaffinity(0))
    where = f"Server on core {server_cores} at {most} shards, load from core {load_cores}."
    if most <= count:
        return where + " Each shard had a core of its own."
    return where + (
        f" **Oversubscribed**: above {count} shard{'s share' if count == 1 else 's they share'} cores. What is shown is the cost"
        " of the work in CPU time, context switches between shards included; what parallel cores do to caches and queues is not."
    )
