"""Proof that a durable ok waits for the disk and members do not: strace makes every fsync of the server late.

Messages leave at a steady pace, whatever is unanswered, so that some come just after an fsync began: that one may have
left without them, and they must wait for the next.
"""

import contextlib
import select
import shutil
import subprocess
import time

from lib import bounds, drive, figures, lines

DELAY_US = 200_000
MESSAGES, APART_S = 60, 0.037
# What "at once" means to a member, on a machine that others use and with a server under strace.
MEMBER_US_MAX = 50_000
PATIENCE_S = 30


def missing():
    """Why it cannot be shown here; None when it can."""
    return None if shutil.which("strace") else "strace missing: apt-get install strace"


def command(pid):
    calls = "fsync,fdatasync,sync_file_range,msync"
    return ["strace", "-f", "-q", "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={calls}:delay_enter={DELAY_US}"]


def measure(server, arguments):
    """Microseconds from each message to its ok and to its arrival at another member, and how many oks were durable."""
    plan = drive.Plan(scenario="", server_flags=["--shards", "1"], port=arguments.port, binaries=arguments.binaries)
    with drive.running(server, plan) as process, late(process.pid):
        with lines.Client(plan.port + 1, "writer") as writer, lines.Client(plan.port + 1, "reader") as reader:
            for client in (reader, writer):
                client.ask({"type": "join", "room": "proof"})
            return exchange(writer, reader)


@contextlib.contextmanager
def late(pid):
    """While it lasts, every fsync of the process waits before it begins."""
    tracer = subprocess.Popen(command(pid), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until_traced(pid, tracer)
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def wait_until_traced(pid, tracer):
    for _ in range(200):
        if tracer.poll() is not None:
            raise drive.Failed(f"strace ended with {tracer.returncode}: {tracer.stderr.read().strip()}")
        with open(f"/proc/{pid}/status") as status:
            if f"TracerPid:\t{tracer.pid}\n" in status.read():
                # The other threads are attached right after the first.
                time.sleep(0.5)
                return
        time.sleep(0.05)
    raise drive.Failed("strace did not attach")


def exchange(writer, reader):
    sent, answered, arrived, durable = {}, {}, {}, 0
    start = time.monotonic()
    end = start + MESSAGES * APART_S + PATIENCE_S
    while len(answered) < MESSAGES or len(arrived) < MESSAGES:
        now = time.monotonic()
        if now > end:
            raise drive.Failed(f"{len(answered)} of {MESSAGES} messages were answered, {len(arrived)} arrived")
        if len(sent) < MESSAGES and now >= start + len(sent) * APART_S:
            content = len(sent)
            # The time is taken before the message leaves, so that no ok can seem later than it was.
            before = time.monotonic()
            number = writer.send({"type": "message", "room": "proof", "content": content, "echo": False})
            sent[number] = before
            continue
        due = start + len(sent) * APART_S - now if len(sent) < MESSAGES else 1.0
        for client in select.select([writer, reader], [], [], max(due, 0.0))[0]:
            events, now = client.arrived(), time.monotonic()
            for event in events:
                if client is writer and event.get("id") in sent:
                    if event["type"] != "ok":
                        raise drive.Failed(f"a message was refused: {event}")
                    answered[event["id"]] = now
                    durable += bool(event["durable"])
                elif client is reader and event["type"] == "message":
                    arrived[event["content"]] = now
    times = list(sent.values())
    return {
        "messages": MESSAGES,
        "durable": durable,
        "ok_us": sorted(round((answered[number] - before) * 1e6) for number, before in sent.items()),
        "member_us": sorted(round((arrived[at] - before) * 1e6) for at, before in enumerate(times)),
    }


def all_bounds(found):
    return [
        bounds.Bound("oks that say durable", found["durable"], found["messages"], at_least=True),
        bounds.Bound("µs from a message to its ok, the soonest", found["ok_us"][0], DELAY_US, at_least=True),
        bounds.Bound("µs from a message to another member, the latest", found["member_us"][-1], MEMBER_US_MAX),
    ]


def text(found):
    def spread(times):
        return f"{figures.duration(times[0])} … {figures.duration(figures.median(times))} … {figures.duration(times[-1])}"

    delay = figures.duration(DELAY_US)
    return (
        f"Every fsync {delay} late, {found['messages']} messages {APART_S * 1e3:.0f} ms apart (least … median … most):\n"
        f"- to its ok: {spread(found['ok_us'])}\n- to another member: {spread(found['member_us'])}"
    )
