"""What TLS costs, beside the same in the clear; and what becomes of connections when the certificate is replaced."""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from lib import bounds, drive, figures

PLAIN, TLS = "plain", "TLS"
# CPU per delivery with TLS, as a multiple of that without.
CPU_RATIO_MAX = 1.5
# What a connection may need more, in bytes.
MEMORY_MORE_MAX = 12 * 1024


@dataclass
class Found:
    table: str
    about: str
    bounds: list
    faults: list
    results: object = field(default_factory=list)


def missing():
    """Why certificates cannot be made here; None when they can."""
    return None if shutil.which("openssl") else "openssl missing: apt-get install openssl"


def make_certificate(folder):
    """A certificate and its key in `folder`, put in place of those that are there."""
    paths = [Path(folder) / name for name in ("key.pem", "cert.pem")]
    fresh = [path.with_suffix(".new") for path in paths]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(fresh[0]), "-out", str(fresh[1])]
    subprocess.run(command, check=True, capture_output=True)
    for new, old in zip(fresh, paths):
        new.replace(old)


def plan_of(kind, scenario, load_flags, arguments, folder, history="off"):
    server_flags = ["--shards", "1", "--cpus", "0", "--history", history]
    target = f"ws://127.0.0.1:{arguments.port}/ws"
    if kind == TLS:
        certificate = [str(Path(folder) / name) for name in ("cert.pem", "key.pem")]
        server_flags += ["--tls-certificate-file", certificate[0], "--tls-key-file", certificate[1]]
        target = f"wss://127.0.0.1:{arguments.port}/ws"
        load_flags = ["--tls-insecure", "true", *load_flags]
    return drive.Plan(
        scenario=scenario,
        server_cores="0",
        load_cores="1",
        server_flags=server_flags,
        load_flags=load_flags,
        port=arguments.port,
        binaries=arguments.binaries,
        target=target,
    )


def cost(server, arguments, say):
    """Pairs of runs, one with TLS and one without."""
    runs = {PLAIN: [], TLS: []}
    flags = ["--duration", f"{arguments.seconds}s", "--rate", str(arguments.rate), "--payload-bytes", "256"]
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(folder)
        for number in range(1, arguments.rounds + 1):
            # Every other pair in the other order: who follows whom matters to a noisy machine.
            for kind in (PLAIN, TLS) if number % 2 else (TLS, PLAIN):
                result = drive.run(server, plan_of(kind, "rooms.toml", flags, arguments, folder))
                runs[kind].append(result)
                say(f"pair {number}/{arguments.rounds}  {kind:5} {brief(result)}")
    return judge_cost(runs, arguments)


def judge_cost(runs, arguments):
    cpu = {kind: [figures.of_run(result)["cpu_us"] for result in results] for kind, results in runs.items()}
    ratios = [figures.ratio(*pair) for pair in zip(cpu[TLS], cpu[PLAIN])]
    rows = []
    for kind, results in runs.items():
        found = figures.summary(results)
        spread = f"{figures.fixed(found['cpu_us_min'], 2)} … {figures.fixed(found['cpu_us_max'], 2)}"
        times = [figures.duration(found[name]) for name in ("p50_us", "p99_us")]
        share = figures.fixed(figures.median(ratios), 2) if kind == TLS else ""
        valid = f"{found['valid']}/{found['runs']}"
        cells = [figures.fixed(found["cpu_us"], 3, " µs"), spread, share, figures.fixed(found["cores"], 2)]
        rows.append([kind, *cells, *times, f"{found['lost']:,}", valid])
    head = ["", "CPU/delivery", "spread", "to plain", "cores", "p50", "p99", "lost", "valid"]
    what = f"200 rooms of 5, {arguments.rate:,} messages/s of 256 B; medians of {arguments.rounds} pairs of {arguments.seconds} s"
    bound = bounds.Bound("CPU per delivery with TLS, median of the pairs' ratios", figures.median(ratios), CPU_RATIO_MAX)
    faults = [f"{kind}: {fault}" for kind, results in runs.items() for fault in figures.faults(results)]
    return Found(figures.markdown(head, rows, texts=(0,)), what, [bound], faults, runs)


def connections(server, arguments, say):
    """Many connections at once, then half of them dropped, who come back by their tickets."""
    memory, handshakes, results, faults = {}, {}, {}, []
    flags = ["--connections", str(arguments.clients), "--duration", "8s", "--rate", "100", "--connect-rate", "100000"]
    flags += ["--drop-share", "0.5", "--drop-at", "1s", "--backoff", "1s", "--drain", "60s"]
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(folder)
        for kind in (PLAIN, TLS):
            plan = plan_of(kind, "reconnect-storm.toml", flags, arguments, folder, history="memory")
            with drive.running(server, plan) as process:
                result = drive.load(process.pid, plan)
                handshakes[kind] = read_metrics(arguments.port + 2)
            results[kind] = result
            memory[kind] = figures.of_run(result)["memory_bytes"]
            faults += [f"{kind}: {fault}" for fault in figures.faults([result])]
            say(f"{kind:5} {brief(result)}")
        full = handshake_cost(server, arguments, folder)
        resumed = handshake_cost(server, arguments, folder, full)
    more = memory[TLS] - memory[PLAIN]
    rows = [
        [kind, figures.memory(memory[kind]), *(rate(results[kind], name) for name in ("connect", "upgrade", "resume"))]
        for kind in (PLAIN, TLS)
    ]
    table = figures.markdown(["", "memory/conn.", "connect p99", "upgrade p99", "resume p99"], rows, texts=(0,))
    costs = [["full", *costs_of(full)], ["resumed", *costs_of(resumed)]]
    table += "\n\n" + figures.markdown(["handshake", "time of the shard", "per second of a core"], costs, texts=(0,))
    outcome = handshakes[TLS]
    what = f"{arguments.clients:,} connections, half of them dropped and back by ticket ({outcome['full']:,.0f} full and {outcome['resumed']:,.0f} resumed handshakes)"
    bound = bounds.Bound("memory of a TLS connection beyond that of a plain one, in bytes", more, MEMORY_MORE_MAX)
    return Found(table, what, [bound], faults, results)


def handshake_cost(server, arguments, folder, full=None):
    """Time that the steps of a handshake take, in seconds: of a full one, or once that is known, of one by a ticket."""
    # Of those who come for the first time, most find the ticket of someone who was there before.
    flags = ["--connections", "2000", "--duration", "3s", "--rate", "10", "--connect-in-flight", "64"]
    flags += ["--tls-resume", "false" if full is None else "true"]
    plan = plan_of(TLS, "hold.toml", flags, arguments, folder)
    with drive.running(server, plan) as process:
        drive.load(process.pid, plan)
        found = read_metrics(arguments.port + 2)
    if full is None:
        return found["seconds"] / max(1, found["full"])
    return (found["seconds"] - found["full"] * full) / max(1, found["resumed"])


def costs_of(seconds):
    return [figures.fixed(seconds * 1e6, 0, " µs"), figures.fixed(1 / seconds, 0) if seconds > 0 else "–"]


def rate(result, name):
    latency = (result.get("latency_us") or {}).get(name) or {}
    return figures.duration(figures.number(latency.get("p99")))


def read_metrics(port):
    """Handshakes by their outcome, and the seconds that their steps took."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    outcome = r'^hubbub_tls_handshakes_total\{shard="\d+",outcome="(\w+)"\} (\S+)$'
    found = {name: float(count) for name, count in re.findall(outcome, text, re.MULTILINE)}
    seconds = re.findall(r"^hubbub_tls_handshake_step_seconds_sum\{\S+ (\S+)$", text, re.MULTILINE)
    return found | {"seconds": sum(map(float, seconds))}


def renewal(server, arguments, say):
    """A new certificate every second, while everyone talks and some come and go."""
    flags = ["--connections", str(arguments.clients), "--duration", f"{arguments.seconds}s", "--rate", "500"]
    flags += ["--churn-per-s", "0.01", "--churn-by", "connection"]
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(folder)
        plan = plan_of(TLS, "churn.toml", flags, arguments, folder)
        with drive.running(server, plan) as process:
            renewals, done = [], threading.Event()
            renewer = threading.Thread(target=renew, args=(process.pid, folder, arguments.port, renewals, done))
            renewer.start()
            try:
                result = drive.load(process.pid, plan)
            finally:
                done.set()
                renewer.join()
            handshakes = read_metrics(arguments.port + 2)
    say(f"{len(renewals)} renewals  {brief(result)}")
    counts = result["counts"]
    faults = figures.faults([result]) + [problem for problem in renewals if problem]
    dropped = counts.get("closed", 0) + counts.get("refused", 0)
    names = ["connected", "received", "lost", "closed", "refused"]
    row = [f"{len(renewals)}", *(f"{counts.get(name, 0):,}" for name in names), f"{handshakes['resumed']:,.0f}"]
    table = figures.markdown(["renewals", *names, "resumed"], [row], texts=())
    what = f"{arguments.clients:,} connections, 500 messages/s, one in a hundred leaves in a second and comes back"
    checks = [
        bounds.Bound("connections dropped or refused", float(dropped), 0.0),
        bounds.Bound("renewals that new connections saw", float(sum(not problem for problem in renewals)), 3.0, at_least=True),
    ]
    return Found(table, what, checks, faults, result)


def renew(pid, folder, port, renewals, done):
    """Replaces the certificate and has the server reload, then looks whether a new connection gets it."""
    while not done.wait(1.0):
        make_certificate(folder)
        os.kill(pid, signal.SIGHUP)
        wanted = ssl.PEM_cert_to_DER_cert((Path(folder) / "cert.pem").read_text())
        seen = any(served(port) == wanted or done.wait(0.05) for _ in range(100))
        renewals.append(None if seen else "a new connection got an old certificate 5 s after the reload")


def served(port):
    """The certificate that a new connection gets, in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain) as stream:
            return stream.getpeercert(binary_form=True)
    except OSError:
        return None


def brief(result):
    row = figures.of_run(result)
    doubts = [f"FAULT: {fault}" for fault in result["faults"]] + [f"INVALID: {why}" for why in result["invalid_reasons"]]
    times = f"p50 {figures.duration(row['p50_us'])}  p99 {figures.duration(row['p99_us'])}"
    return "  ".join([f"{figures.fixed(row['cpu_us'], 3)} µs/delivery  {times}  {figures.fixed(row['cores'], 2)} cores", *doubts])
