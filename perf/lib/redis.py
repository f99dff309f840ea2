"""Redis as it is to be compared with: every append on disk before its answer, on the same disk, pinned to the same core."""

import contextlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from lib import drive, machine

PROGRAM = "redis-server"
REMEDY = "apt-get install redis-server"


def missing():
    """Why it cannot be started here; None when it can."""
    return None if shutil.which(PROGRAM) else f"{PROGRAM} missing: {REMEDY}"


def version():
    found = re.search(r"v=(\S+)", machine.first_line([PROGRAM, "--version"]) or "")
    return f"Redis {found[1] if found else '?'}"


def command(port, folder):
    """Nothing but the append-only file is written: no snapshots, and no rewriting of the file while it is measured, which
    would take time from the same core."""
    options = {
        "bind": "127.0.0.1",
        "port": port,
        "dir": folder,
        "daemonize": "no",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "auto-aof-rewrite-percentage": 0,
    }
    return [PROGRAM, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


@contextlib.contextmanager
def running(plan):
    """Starts it at the plan's port, hands out its process once it listens, and ends it."""
    if drive.listens(plan.port):
        raise drive.Failed(f"port {plan.port} is taken: is another run under way?")
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "redis.log", "w+") as log:
        arguments = drive.pinned(command(plan.port, folder), plan.server_cores)
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log)
        try:
            drive.wait_until_it_listens(process, plan.port, log)
            yield process
            if process.poll() is not None:
                raise drive.Failed(f"Redis died in the run ({process.returncode}): {drive.tail(log)}")
        finally:
            drive.stop(process)
