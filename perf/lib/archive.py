"""Where results are kept: a line of history for each run, and a folder with everything for each set of runs."""

import json
import re
from pathlib import Path

from lib import charts, figures, machine

HISTORY = machine.ROOT / "perf/history.ndjson"
RUNS = machine.ROOT / "perf/runs"
PERCENTILES = ["p50", "p90", "p99", "p99_9", "p99_99", "max"]
SCENARIO_KEYS = ["kind", "connections", "room_size", "senders", "rate", "payload_bytes", "arrivals", "seed", "warm_up", "duration"]


def folder(slug, out=None):
    """A new folder DATE-slug, or `out` as it is."""
    if out:
        path = Path(out).resolve()
    else:
        base = f"{machine.now()[:10]}-{re.sub(r'[^a-z0-9.]+', '-', slug.lower()).strip('-')}"
        taken = lambda at: (RUNS / (base if at == 1 else f"{base}-{at}")).exists()
        at = next(at for at in range(1, 1_000) if not taken(at))
        path = RUNS / (base if at == 1 else f"{base}-{at}")
    path.mkdir(parents=True, exist_ok=True)
    return path


def entry(name, result, setting):
    """One run as history keeps it."""
    scenario = result.get("scenario") or {}
    return {
        "schema": "hubbub-history/1",
        "date": machine.now(),
        "name": name,
        **machine.code(),
        "machine": machine.describe(),
        "scenario": {key: scenario.get(key) for key in SCENARIO_KEYS} | setting,
        "valid": result["valid"],
        "exit_code": result["exit_code"],
        "results": results(result),
    }


def results(result):
    counts = result["counts"]
    latency = (result.get("latency_us") or {}).get("deliver") or {}
    lag = result.get("lag_us") or {}
    row = figures.of_run(result)
    kept = {key: row[key] for key in ("cpu_us", "cores", "memory_bytes", "delivered_per_s")}
    kept |= {f"deliver_{key}_us": latency.get(key) for key in PERCENTILES}
    kept |= {key: counts.get(key, 0) for key in ("connected", "received", "lost", "duplicate", "disordered", "refused", "closed")}
    return kept | {"lag_p99_us": lag.get("p99")}


def append(entries, file=HISTORY):
    with open(file, "a") as history:
        for one in entries:
            history.write(json.dumps(figures.plain(one)) + "\n")


def history(file=HISTORY):
    """All entries, oldest first; empty when there are none."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def write_run(path, name, result):
    """Everything about one run: JSON and, when seconds were kept, how latency went."""
    (path / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    seconds = [second for second in result.get("seconds") or [] if second.get("deliver_us")]
    if seconds:
        series = {key: [(second["second"], second["deliver_us"][key]) for second in seconds] for key in ("p50", "p99", "max")}
        drawn = charts.lines(f"{name}: delivery latency from the planned time", series, "second", "µs", log=True)
        (path / f"{name}.svg").write_text(drawn)


def write_overview(path, entries):
    """Bars over the runs of this folder."""
    cpu = {one["name"]: figures.number(one["results"]["cpu_us"]) for one in entries}
    p99 = {one["name"]: figures.number(one["results"]["deliver_p99_us"]) / 1_000 for one in entries}
    (path / "cpu.svg").write_text(charts.bars("CPU per delivery", cpu, "µs"))
    (path / "p99.svg").write_text(charts.bars("p99 of delivery, from the planned time", p99, "ms"))


def write_trend(path, entries):
    """CPU per delivery from run to run, on this machine only: times of two machines do not compare."""
    here = machine.describe()
    lines = {}
    for one in entries:
        if one["machine"]["cpu"] == here["cpu"] and one["machine"]["cores"] == here["cores"] and one["results"].get("cpu_us"):
            line = lines.setdefault(one["name"], [])
            line.append((len(line) + 1, one["results"]["cpu_us"]))
    if any(len(line) > 1 for line in lines.values()):
        lines = {name: line for name, line in lines.items() if len(line) > 1}
        title = f"CPU per delivery over the runs in history.ndjson ({here['cpu']}, {here['cores']} cores)"
        (path / "trend.svg").write_text(charts.lines(title, lines, "run", "µs"))


def write_summary(path, title, entries, notes):
    """summary.md: the index of the folder."""
    head = ["run", "report", "CPU/delivery", "cores", "p50", "p99", "p99.9", "max", "memory/conn.", "lost", "valid"]
    rows = [summary_row(path, one) for one in entries]
    machines, code = entries[0]["machine"], {key: entries[0][key] for key in ("commit", "dirty")}
    parts = [f"# {title}", f"{machine.sentence(machines)}; {machine.code_sentence(code)}; {entries[0]['date']}"]
    parts += [figures.markdown(head, rows), *notes]
    parts += [f"![{name}]({name})" for name in ("cpu.svg", "p99.svg", "trend.svg", "scaling.svg") if (path / name).exists()]
    (path / "summary.md").write_text("\n\n".join(parts) + "\n")


def summary_row(path, one):
    row, name = one["results"], one["name"]
    result = f"[json]({name}.json)" if (path / f"{name}.json").exists() else ""
    times = [figures.duration(figures.number(row[f"deliver_{key}_us"])) for key in ("p50", "p99", "p99_9", "max")]
    memory = figures.number(row["memory_bytes"]) if (row["connected"] or 0) >= 5_000 else figures.NAN
    return [
        name,
        result,
        figures.fixed(figures.number(row["cpu_us"]), 3, " µs"),
        figures.fixed(figures.number(row["cores"]), 3),
        *times,
        figures.memory(memory),
        f"{row['lost']:,}",
        "yes" if one["valid"] else "INVALID",
    ]
