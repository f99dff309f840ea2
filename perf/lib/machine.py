"""Which machine and which code a figure comes from."""

import datetime
import functools
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def describe():
    """The machine as far as it explains a figure."""
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "kernel": f"Linux {platform.release()}"}


def sentence(machine):
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}"


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


@functools.cache
def code():
    """The commit, and whether files that git knows differ from it. Without git, neither is known. Scripts ask when they begin:
    what is committed while they run is not what they measure."""
    commit = first_line(["git", "rev-parse", "--short=12", "HEAD"])
    changed = first_line(["git", "status", "--porcelain", "--untracked-files=no"])
    return {"commit": commit, "dirty": None if commit is None else bool(changed)}


def code_sentence(known):
    if known["commit"] is None:
        return "commit unknown"
    return f"commit {known['commit']}" + (" with changes" if known["dirty"] else "")


def first_line(command):
    """The first line a program prints, None if it cannot be run or fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return None if done.returncode else (lines[0] if lines else "")


def now():
    """The time in UTC to the second, as it is written in results."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def load():
    """How many tasks wanted a core in the last minute: what else the machine was doing."""
    return round(os.getloadavg()[0], 2)
