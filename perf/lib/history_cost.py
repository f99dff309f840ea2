"""What durable history costs those who listen: delivery with it and without, in pairs."""

import tempfile
from pathlib import Path

from lib import bounds, drive, figures, machine

SCENARIO = "rooms.toml"
MODES = ("durable", "off")
# p99 with history may be so many times that without, and so much more.
RATIO_MAX, MORE_US = 1.5, 2_000


def config(mode):
    """A configuration that keeps the history of every room so."""
    return f'[[rooms]]\npattern = "*"\nhistory = "{mode}"\n'


def measure(server, arguments, say):
    """All pairs: {mode: [result]}."""
    runs = {mode: [] for mode in MODES}
    for number in range(1, arguments.rounds + 1):
        for mode in MODES if number % 2 else reversed(MODES):
            result = run(server, mode, arguments)
            runs[mode].append(result)
            row = figures.of_run(result)
            times = f"p50 {figures.duration(row['p50_us'])}  p99 {figures.duration(row['p99_us'])}"
            doubts = [f"FAULT: {fault}" for fault in result["faults"]] + [f"INVALID: {why}" for why in result["invalid_reasons"]]
            say("  ".join([f"pair {number}/{arguments.rounds}  {mode:7} {times}  {figures.fixed(row['cores'], 2)} cores", *doubts]))
    return runs


def run(server, mode, arguments):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hubbub.toml"
        file.write_text(config(mode))
        plan = drive.Plan(
            scenario=SCENARIO,
            path="/ws",
            server_cores="0",
            load_cores="1",
            server_flags=["--shards", "1", "--cpus", "0", "--config", str(file)],
            load_flags=["--duration", f"{arguments.seconds}s", "--rate", str(arguments.rate)],
            port=arguments.port,
            binaries=arguments.binaries,
        )
        return drive.run(server, plan)


def faults(runs):
    return [f"history {mode}: {fault}" for mode, results in runs.items() for fault in figures.faults(results)]


def all_bounds(runs):
    p99 = {mode: figures.summary(results)["p99_us"] for mode, results in runs.items()}
    name = f"p99 in µs with durable history, {RATIO_MAX} × without + {MORE_US:,}"
    return [bounds.Bound(name, p99["durable"], RATIO_MAX * p99["off"] + MORE_US)]


def table(runs):
    head = ["history", "p50", "p99", "p99.9", "CPU/delivery", "cores", "lost", "valid"]
    rows = []
    for mode, results in runs.items():
        found = figures.summary(results)
        times = [figures.duration(found[name]) for name in ("p50_us", "p99_us", "p99_9_us")]
        valid = f"{found['valid']}/{found['runs']}"
        cpu = figures.fixed(found["cpu_us"], 3, " µs")
        rows.append([mode, *times, cpu, figures.fixed(found["cores"], 2), f"{found['lost']:,}", valid])
    return figures.markdown(head, rows, texts=(0,))


def about(server, arguments):
    what = f"rooms, {arguments.rate:,} messages/s, five deliveries each; medians of {arguments.rounds} pairs of {arguments.seconds} s"
    where = f"server and store on core 0, load from core 1; {machine.sentence(machine.describe())}; {machine.now()}"
    return f"{what}; {where}\n- {server.version()}"
