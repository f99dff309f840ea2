"""A million messages in a thousand rooms: how long a restart takes, a page from the middle, and room on the disk."""

import contextlib
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from lib import bounds, drive, figures, lines

ROOMS, EACH, BYTES = 1_000, 1_000, 256
SAMPLED, PAGE = 100, 50
PREFIX = "fill"
READY_S_MAX, PAGE_US_MAX, SIZE_RATIO_MAX = 3.0, 5_000, 2.0
FILL_LIMIT_S = 300


def measure(server, arguments, say):
    with tempfile.TemporaryDirectory() as folder:
        plan = drive.Plan(
            scenario="durable-pipelined.toml",
            path="tcp",
            load_flags=fill_flags(),
            server_flags=["--shards", "1"],
            port=arguments.port,
            binaries=arguments.binaries,
            data_dir=folder,
        )
        with drive.running(server, plan) as process:
            filled = drive.load(process.pid, plan)
        found = {"faults": list(filled["faults"]), "stored": filled["counts"]["acks"]}
        found["acks_per_s"] = filled["counts"]["acks"] / filled["elapsed_s"]
        say(f"{found['stored']:,} messages stored, {found['acks_per_s']:,.0f}/s")
        found["bytes_before"] = size(folder)
        say(f"{found['bytes_before'] / 1e6:,.0f} MB before compaction")
        with started(server, plan) as ready_s:
            found["ready_s"] = ready_s
            say(f"ready after {ready_s:.2f} s")
            found["page_us"] = pages(plan.port + 1)
            say(f"a page from the middle: {figures.duration(figures.median(found['page_us']))}")
        compact(server, folder)
        found["bytes_after"] = size(folder)
        with started(server, plan) as ready_s:
            found["ready_compacted_s"] = ready_s
            found["missing"] = missing(plan.port + 1)
    return found


def fill_flags():
    flags = {"connections": ROOMS, "messages-each": EACH, "payload-bytes": BYTES, "room-prefix": PREFIX}
    flags |= {"warm-up": "0s", "duration": f"{FILL_LIMIT_S}s", "drain": "60s"}
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


def size(folder):
    """Bytes on the disk of everything under a directory."""
    return sum(file.stat().st_blocks * 512 for file in Path(folder).rglob("*") if file.is_file())


@contextlib.contextmanager
def started(server, plan):
    """Starts the server again; hands out the seconds until it said that it is ready."""
    begun = time.monotonic()
    with drive.launched(server, plan) as (process, log):
        while not is_ready(plan.port + 2):
            if process.poll() is not None:
                raise drive.Failed(f"the server ended with {process.returncode}: {drive.tail(log)}")
            if time.monotonic() > begun + 60:
                raise drive.Failed(f"the server is not ready after a minute: {drive.tail(log)}")
            time.sleep(0.005)
        yield time.monotonic() - begun


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def pages(port):
    """Microseconds for a page from the middle of some rooms, each the first read of its room."""
    times = []
    with lines.Client(port, "reader") as client:
        for at in range(SAMPLED):
            room = f"{PREFIX}-{at * (ROOMS // SAMPLED)}"
            client.ask({"type": "join", "room": room})
            before = time.monotonic()
            page = client.ask({"type": "history", "room": room, "before": EACH // 2, "limit": PAGE})
            times.append(round((time.monotonic() - before) * 1e6))
            wanted = list(range(EACH // 2 - PAGE, EACH // 2))
            if [message["seq"] for message in page["messages"]] != wanted:
                raise drive.Failed(f"{room}: the page before {EACH // 2} is not {wanted[0]} to {wanted[-1]}")
            client.ask({"type": "leave", "room": room})
    return sorted(times)


def missing(port):
    """Messages of some rooms that are not there any more."""
    gone = 0
    with lines.Client(port, "reader") as client:
        for at in range(0, SAMPLED, 10):
            room = f"{PREFIX}-{at * (ROOMS // SAMPLED)}"
            client.ask({"type": "join", "room": room})
            after, seen = 0, set()
            while True:
                page = client.ask({"type": "history", "room": room, "after": after, "limit": 500})
                seen |= {message["seq"] for message in page["messages"]}
                if not page["more"]:
                    break
                after = page["messages"][-1]["seq"]
            gone += len(set(range(1, EACH + 1)) - seen)
    return gone


def compact(server, folder):
    command = [server.command[0], "store", "compact", "--data-dir", folder]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise drive.Failed(f"`hubbub store compact` ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")


def faults(found):
    lost = [f"{found['missing']:,} messages are gone after compaction"] if found["missing"] else []
    short = ROOMS * EACH - found["stored"]
    return found["faults"] + lost + ([f"{short:,} messages were not acknowledged"] if short else [])


def all_bounds(found):
    payload = ROOMS * EACH * BYTES
    return [
        bounds.Bound("seconds from start to ready", found["ready_s"], READY_S_MAX),
        bounds.Bound("µs for a page from the middle, the median of first reads", figures.median(found["page_us"]), PAGE_US_MAX),
        bounds.Bound("directory to payload after compaction", found["bytes_after"] / payload, SIZE_RATIO_MAX),
    ]


def text(found):
    page = found["page_us"]
    megabytes = {name: found[f"bytes_{name}"] / 1e6 for name in ("before", "after")}
    return (
        f"{found['stored']:,} messages of {BYTES} B in {ROOMS:,} rooms, stored at {found['acks_per_s']:,.0f}/s:\n"
        f"- start to ready: {found['ready_s']:.2f} s (after compaction {found['ready_compacted_s']:.2f} s)\n"
        f"- a page of {PAGE} from the middle, first read, {SAMPLED} rooms: median {figures.duration(figures.median(page))}, "
        f"slowest {figures.duration(page[-1])}\n"
        f"- directory: {megabytes['before']:,.0f} MB, after compaction {megabytes['after']:,.0f} MB; payload "
        f"{ROOMS * EACH * BYTES / 1e6:,.0f} MB"
    )
