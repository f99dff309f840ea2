"""What attacks cost well-behaved clients: pairs of runs, without and with the attack, and the bounds on their difference."""

import json
import secrets
import subprocess
import tempfile
from pathlib import Path

from lib import drive, figures
from lib.bounds import Bound

SCENARIO = "good-1k.toml"
# Of each attack the limits that an operator sets against it, in both halves of a pair. Well-behaved clients do not meet them: they
# come from several addresses, join once, and send less than four messages a second each.
ATTACKS = {
    "slowloris": [],
    "slow-commands": [],
    "connect-flood": ["--limits-connects-per-second-per-ip=250"],
    "huge-frame": [],
    "bad-tokens": [],
    "join-storm": ["--limits-joins-per-second=200"],
    "publisher": ["--limits-messages-per-second=200"],
    "deep-json": [],
    "odd-names": [],
    "never-read": [],
}
# Attacks on a server that lets in by token alone.
BY_TOKEN = {"bad-tokens"}
# What a well-behaved client never meets, as results count it.
FAULTS = ("closed", "refused", "lost", "duplicate", "disordered", "room_seq_faults", "rooms_disagreeing", "misrouted", "gaps_told", "errors")
P99_FACTOR, P99_MORE_US = 2, 5_000
# The attack lasts longer than the measured window on both sides.
WARM_UP_S, AFTER_S = 4, 5


def measure(server, name, arguments, say):
    """The pairs of one attack: each has the well-behaved clients' figures without and with it, and the attack's report."""
    pairs = []
    for number in range(1, arguments.pairs + 1):
        order = ("alone", "attacked") if number % 2 else ("attacked", "alone")
        pair = {side: one(server, name, side == "attacked", arguments) for side in order}
        pairs.append(pair)
        alone, attacked = (figures.duration(pair[side]["p99_us"]) for side in ("alone", "attacked"))
        say(f"{name} {number}/{arguments.pairs}: p99 {alone} alone, {attacked} attacked")
    return pairs


def one(server, attack, is_attacked, arguments):
    with tempfile.TemporaryDirectory() as folder:
        return run(server, plan_of(attack, arguments, Path(folder)), attack, is_attacked, arguments)


def plan_of(attack, arguments, folder):
    plan = drive.Plan(
        scenario=SCENARIO,
        path="/ws",
        server_cores="0",
        load_cores="1",
        server_flags=["--shards", "1", "--cpus", "0", *ATTACKS[attack]],
        load_flags=["--warm-up", f"{WARM_UP_S}s", "--duration", f"{arguments.seconds}s"],
        port=arguments.port,
        binaries=arguments.binaries,
    )
    if attack in BY_TOKEN:
        key = folder / "key"
        key.write_text(secrets.token_hex(32))
        plan.server_flags += ["--auth", "token", "--token-secret-file", str(key)]
        plan.load_flags += ["--token-key", str(key)]
    return plan


def run(server, plan, attack, is_attacked, arguments):
    with drive.running(server, plan) as process:
        attacker = start(attack, plan, arguments) if is_attacked else None
        try:
            found = summary(drive.load(process.pid, plan))
        finally:
            report = end(attacker) if attacker else None
    return found | {"report": report}


def start(attack, plan, arguments):
    seconds = WARM_UP_S + arguments.seconds + AFTER_S
    command = [str(drive.release_folder(plan.binaries) / "loadgen"), "attack", attack]
    command += ["--target", f"127.0.0.1:{plan.port}", "--duration", f"{seconds}s"]
    command = drive.pinned(["nice", "-n", "19", *command], plan.load_cores)
    return subprocess.Popen(command, cwd=drive.machine.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(attacker):
    try:
        said, complaints = attacker.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        attacker.kill()
        attacker.communicate()
        raise drive.Failed("the attack did not end") from None
    if attacker.returncode:
        raise drive.Failed(f"the attack ended with {attacker.returncode}: {complaints.strip()}")
    return json.loads(said)


def summary(result):
    """What of a result tells whether the well-behaved clients suffered."""
    deliver = result["latency_us"]["deliver"] or {}
    counts = result["counts"]
    lost = {name: counts[name] for name in FAULTS if counts.get(name)}
    return {
        "p50_us": deliver.get("p50", figures.NAN),
        "p99_us": deliver.get("p99", figures.NAN),
        "max_us": deliver.get("max", figures.NAN),
        "received": counts["received"],
        "expected": counts["expected"],
        "lost": lost,
        "faults": list(result["faults"]),
        "valid": result["valid"],
    }


def bounds_of(name, pairs):
    """One bound: the median over the pairs of how far p99 is from what it may be, as a share of that."""
    shares = [pair["attacked"]["p99_us"] / allowed(pair["alone"]["p99_us"]) for pair in pairs]
    return [Bound(f"{name}: p99 with the attack, as a share of {P99_FACTOR} × without and 5 ms", figures.median(shares), 1.0)]


def allowed(p99_us):
    return P99_FACTOR * p99_us + P99_MORE_US


def faults_of(name, pairs):
    """What a well-behaved client met that it should not have, in either half of a pair."""
    found = []
    for number, pair in enumerate(pairs, 1):
        for side in ("alone", "attacked"):
            half = pair[side]
            for fault in [f"{key}: {count}" for key, count in half["lost"].items()] + half["faults"]:
                found.append(f"{name}, pair {number}, {side}: {fault}")
            if half["received"] != half["expected"]:
                found.append(f"{name}, pair {number}, {side}: {half['received']} of {half['expected']} received")
    return found


def table(results):
    lines = ["| attack | p99 alone | p99 attacked | max attacked | what the attack was answered |", "|---|---:|---:|---:|---|"]
    for name, pairs in results.items():
        median = {
            (side, figure): figures.duration(figures.median([pair[side][figure] for pair in pairs]))
            for side in ("alone", "attacked")
            for figure in ("p99_us", "max_us")
        }
        report = pairs[-1]["attacked"]["report"]
        cells = [name, median["alone", "p99_us"], median["attacked", "p99_us"], median["attacked", "max_us"]]
        lines.append(f"| {' | '.join(cells)} | {answers(report)} |")
    return "\n".join(lines)


def answers(report):
    told = [f"{count:,} × {answer}" for answer, count in sorted(report["answers"].items(), key=lambda item: -item[1])]
    sent = f"{report['tried']:,} connections, {report['pieces_sent']:,} pieces"
    return "; ".join([sent, *told[:4]])
