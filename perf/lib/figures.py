"""Figures from results: what is read out of a run, medians over runs, tables."""

import math
import statistics

NAN = float("nan")
# A run that delivered less than this share of what was planned did not keep up.
KEPT_UP = 0.98
# A server at this much of a core has nothing left to give.
BUSY = 0.90


def of_run(result):
    """The figures of one run that comparisons use: microseconds, cores, bytes."""
    deliver = (result.get("latency_us") or {}).get("deliver") or {}
    server = result.get("server") or {}
    return {
        "cpu_us": number(server.get("cpu_us_per_delivery")),
        "cores": number(server.get("cpu")),
        "p50_us": number(deliver.get("p50")),
        "p99_us": number(deliver.get("p99")),
        "p99_9_us": number(deliver.get("p99_9")),
        "memory_bytes": number(server.get("rss_bytes_per_connection")),
        "delivered_per_s": number((result.get("measured") or {}).get("received_per_s")),
        "planned_per_s": planned_per_s(result.get("scenario") or {}),
        "lost": result["counts"]["lost"],
    }


def number(value):
    return NAN if value is None else float(value)


def planned_per_s(scenario):
    """Deliveries per second when everyone in a room hears everything said there."""
    return number(scenario.get("rate")) * number(scenario.get("room_size"))


def is_saturated(figures):
    """Whether the server, with its core full, delivered less than was planned."""
    return figures["delivered_per_s"] < KEPT_UP * figures["planned_per_s"] and figures["cores"] > BUSY


def summary(results):
    """Medians over runs of one server in one case, with the spread of CPU per delivery."""
    rows = [of_run(result) for result in results]
    medians = {key: median(row[key] for row in rows) for key in rows[0]}
    cpu = [row["cpu_us"] for row in rows if not math.isnan(row["cpu_us"])]
    return medians | {
        "cpu_us_min": min(cpu, default=NAN),
        "cpu_us_max": max(cpu, default=NAN),
        "lost": sum(row["lost"] for row in rows),
        "runs": len(rows),
        "valid": sum(bool(result["valid"]) for result in results),
        "saturated": sum(map(is_saturated, rows)),
        "faults": faults(results),
    }


def faults(results):
    """What the servers did wrong, without what follows from not keeping up."""
    return [
        fault
        for result in results
        if result["exit_code"] == 1 and not is_saturated(of_run(result))
        for fault in result["faults"]
    ]


def median(values):
    """Of the values there are; NaN of none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else NAN


def ratio(one, other):
    return NAN if math.isnan(one) or math.isnan(other) or other == 0 else one / other


def plain(value):
    """A structure for JSON, which knows no NaN."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def duration(us):
    """Microseconds for people, three digits."""
    if math.isnan(us):
        return "–"
    if us < 1_000:
        return f"{us:.0f} µs"
    return f"{us / 1_000:.3g} ms" if us < 999_500 else f"{us / 1e6:.3g} s"


def fixed(value, digits, unit=""):
    return "–" if math.isnan(value) else f"{value:,.{digits}f}{unit}"


def memory(value):
    return "–" if math.isnan(value) else f"{value / 1024:.1f} KiB"


def markdown(head, rows, texts=(0, 1)):
    """A Markdown table whose columns also line up as plain text. Columns are numbers but for those in `texts`."""
    widths = [max(3, *(len(row[at]) for row in [head, *rows])) for at in range(len(head))]
    rules = ["-" * (width + 2) if at in texts else "-" * (width + 1) + ":" for at, width in enumerate(widths)]

    def line(row):
        cells = [cell.ljust(width) if at in texts else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))]
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(head), f"|{'|'.join(rules)}|", *map(line, rows)])
