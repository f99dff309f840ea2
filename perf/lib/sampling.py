"""Where the server's CPU goes under a load: perf samples all its threads by the CPU clock, for machines without hardware counters."""

import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from lib import drive, flame, machine

NEEDS = {"perf": "apt-get install linux-perf", "addr2line": "apt-get install binutils"}
# How much of each stack is copied for unwinding. The deepest stacks of a shard need less.
STACK_BYTES = 8192
# Frames of what only exists because there are several shards: envelopes, their queues, and the bell that wakes a sleeper.
CROSSING = r"^\[flume\]|^flume::|shard/mailbox|shard::mailbox|net/doorbell|net::doorbell|^eventfd_"


def is_possible():
    return all(map(shutil.which, NEEDS))


def record(server, plan, seconds, frequency):
    """Counts of stacks as flame.fold gives them, and loadgen's result. The plan's load must outlast `seconds` by some."""
    with drive.running(server, plan) as process, tempfile.TemporaryDirectory() as folder:
        outcome = {}
        load = threading.Thread(target=lambda: outcome.update(result=drive.load(process.pid, plan)))
        load.start()
        data = str(Path(folder) / "perf.data")
        try:
            wait_for_work(process.pid, load)
            sample(process.pid, data, seconds, frequency, plan.load_cores)
        finally:
            load.join()
        if "result" not in outcome:
            raise drive.Failed("the load generator gave no result")
        command = ["perf", "script", "-i", data, "--no-inline", "-F", "comm,tid,ip,sym"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    samples = list(flame.parse(text))
    if not samples:
        raise drive.Failed("perf took no samples: was the server idle?")
    return flame.fold(samples, flame.Inlining(server.command[0], machine.ROOT, samples)), outcome["result"]


def wait_for_work(pid, load):
    """Until the server has used half a second of CPU from now on, or some seconds have gone by."""
    end, start = time.monotonic() + WAIT_S, cpu_ns(pid)
    while load.is_alive() and time.monotonic() < end and cpu_ns(pid) - start < 5e8:
        time.sleep(0.1)


def cpu_ns(pid):
    """Time on a core of all threads of a process (Documentation/scheduler/sched-stats.rst)."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def sample(pid, data, seconds, frequency, cores):
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(frequency), "--call-graph", f"dwarf,{STACK_BYTES}"]
    # On the generator's cores, so as not to be in the server's way.
    command = drive.pinned([*command, "-p", str(pid), "-o", data, "--", "sleep", str(seconds)], cores)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise drive.Failed(f"perf record failed: {done.stderr.strip()}")


WAIT_S = 4
