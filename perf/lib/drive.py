"""One run: a fresh server, the load generator against it, the result.

Everything listens on loopback. The server is always ended before a run returns, whatever happened.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from lib import machine
from lib.servers import HUBBUB, release_folder

SCENARIOS = machine.ROOT / "perf/scenarios"


# Whoever ends us by a signal ends what we started too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Failed(Exception):
    """A run that has no result, and why."""


@dataclass
class Plan:
    """What to run. Cores are lists as `taskset -c` takes them; None leaves the choice to the kernel."""

    scenario: str
    path: str = "/relay/{room}"
    server_cores: str | None = None
    load_cores: str | None = None
    # More arguments for the server (hubbub only) and for loadgen.
    server_flags: list = field(default_factory=list)
    load_flags: list = field(default_factory=list)
    port: int = 19000
    binaries: str | None = None
    html: Path | None = None
    # Another URL than the one that path and port say.
    target: str | None = None
    # Where hubbub keeps its data; a directory of the run's own when not given.
    data_dir: str | None = None


@contextlib.contextmanager
def running(server, plan):
    """Starts the server, hands out its process once it listens, and ends it."""
    with launched(server, plan) as (process, log):
        wait_until_it_listens(process, plan.port, log)
        yield process
        if process.poll() is not None:
            raise Failed(f"{server.name} died in the run ({process.returncode}): {tail(log)}")


@contextlib.contextmanager
def launched(server, plan):
    """Starts the server, hands out its process and its log at once, and ends it."""
    if listens(plan.port):
        raise Failed(f"port {plan.port} is taken: is another run under way?")
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "server.log", "w+") as log:
        command = server.started_at(f"127.0.0.1:{plan.port}")
        if server.name == HUBBUB:
            command += hubbub_flags(plan, folder)
        process = subprocess.Popen(pinned(command, plan.server_cores), cwd=machine.ROOT, stdout=log, stderr=log)
        try:
            yield process, log
        finally:
            stop(process)


def stop(process):
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def hubbub_flags(plan, folder):
    others = ["--tcp-listen", f"127.0.0.1:{plan.port + 1}", "--admin-listen", f"127.0.0.1:{plan.port + 2}"]
    return [*others, "--data-dir", plan.data_dir or folder, *plan.server_flags]


def run(server, plan):
    """The generator's JSON. Raises Failed when there is none."""
    with running(server, plan) as process:
        return load(process.pid, plan)


def load(pid, plan):
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = pinned(load_command(pid, plan, result), plan.load_cores)
        done = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if not result.exists():
            raise Failed(f"loadgen ended with {done.returncode}: {done.stdout.strip()}")
        return json.loads(result.read_text())


def load_command(pid, plan, result):
    scheme, port = ("tcp", plan.port + 1) if plan.path == "tcp" else ("ws", plan.port)
    target = plan.target or f"{scheme}://127.0.0.1:{port}{'' if plan.path == 'tcp' else plan.path}"
    command = [str(release_folder(plan.binaries) / "loadgen"), "run", str(SCENARIOS / plan.scenario)]
    command += ["--target", target, "--server-pid", str(pid), "--json", str(result), "--quiet"]
    if plan.load_cores is not None:
        command += ["--cpus", plan.load_cores, "--workers", str(plan.load_cores.count(",") + 1)]
    if plan.html is not None:
        command += ["--html", str(plan.html)]
    return command + plan.load_flags


def writes_html(binaries=None):
    """Whether this loadgen can write a report."""
    command = [str(release_folder(binaries) / "loadgen"), "run", "--help"]
    return "--html" in subprocess.run(command, capture_output=True, text=True).stdout


def pinned(command, cores):
    """Run it in ROOT: results keep the command, and where the checkout lies is nobody's business."""
    command = [part.removeprefix(f"{machine.ROOT}/") for part in command]
    return command if cores is None else ["taskset", "-c", cores, *command]


def wait_until_it_listens(process, port, log):
    for _ in range(400):
        if process.poll() is not None:
            raise Failed(f"the server ended with {process.returncode}: {tail(log)}")
        if listens(port):
            return
        time.sleep(0.05)
    raise Failed("the server does not listen")


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tail(log):
    log.flush()
    log.seek(0)
    return log.read()[-2000:].strip()
