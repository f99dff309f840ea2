"""How many messages become durable in a second: hubbub beside Redis, in turns."""

from dataclasses import dataclass

from lib import bounds, drive, figures, machine, redis
from lib.servers import HUBBUB

REDIS = "redis"
# What hubbub must reach where each publisher waits for its answer, as a share of Redis.
RATIO_MIN = 0.6
# What it should reach with 16 messages of each publisher under way; where it does not, a profile has to say why.
PIPELINED_MIN = 200_000


@dataclass(frozen=True)
class Case:
    name: str
    scenario: str
    server: str


CASES = [
    Case("one at a time", "durable.toml", HUBBUB),
    Case("one at a time", "durable.toml", REDIS),
    Case("16 in flight", "durable-pipelined.toml", HUBBUB),
    Case("16 in flight", "durable-pipelined.toml", REDIS),
]


def measure(server, arguments, say):
    """All rounds: {case: [result]}."""
    runs = {case: [] for case in CASES}
    for number in range(1, arguments.rounds + 1):
        # Every other round in the other order: who follows whom matters to a noisy machine.
        for case in CASES if number % 2 else reversed(CASES):
            result = run(server, case, arguments)
            runs[case].append(result)
            say(f"round {number}/{arguments.rounds}  {case.name:13} {case.server:6} {brief(result)}")
    return runs


def run(server, case, arguments):
    plan = drive.Plan(
        scenario=case.scenario,
        path="tcp",
        server_cores="0",
        load_cores="1",
        server_flags=["--shards", "1", "--cpus", "0"],
        load_flags=["--duration", f"{arguments.seconds}s"],
        port=arguments.port,
        binaries=arguments.binaries,
    )
    if case.server == HUBBUB:
        return drive.run(server, plan)
    plan.target = f"redis://127.0.0.1:{plan.port}"
    # What is on disk is Redis's own setting here, and not said in its answers.
    plan.load_flags += ["--require-durable", "false"]
    with redis.running(plan) as process:
        return drive.load(process.pid, plan)


def of_run(result):
    """The figures of one run."""
    latencies, server = result["latency_us"], result.get("server") or {}
    ack = latencies.get("durable_ack") or latencies.get("ack") or {}
    return {
        "acks_per_s": figures.number(result["measured"]["acks_per_s"]),
        "p50_us": figures.number(ack.get("p50")),
        "p99_us": figures.number(ack.get("p99")),
        "cpu_us": figures.number(server.get("cpu_us_per_ack")),
        "cores": figures.number(server.get("cpu")),
        "load_cores": figures.number(result["generator"]["busiest_worker_cpu"]),
    }


def summary(results):
    """Medians over runs, with the spread of the rate."""
    rows = [of_run(result) for result in results]
    rates = [row["acks_per_s"] for row in rows]
    medians = {key: figures.median(row[key] for row in rows) for key in rows[0]}
    valid = sum(bool(result["valid"]) for result in results)
    return medians | {"least": min(rates), "most": max(rates), "runs": len(rows), "valid": valid}


def faults(runs):
    """What went wrong, by case; a server that answers what is not so counts whoever it is."""
    return [
        f"{case.server}, {case.name}: {fault}"
        for case, results in runs.items()
        for result in results
        if result["exit_code"] == 1
        for fault in result["faults"]
    ]


def all_bounds(runs):
    """One that must be kept, and one that asks for a profile when it is not."""
    rate = {(case.name, case.server): summary(results)["acks_per_s"] for case, results in runs.items() if results}
    pairs = [(rate.get((name, HUBBUB), figures.NAN), rate.get((name, REDIS), figures.NAN)) for name in NAMES]
    return [
        bounds.Bound("durable acks/s one at a time, hubbub to Redis", figures.ratio(*pairs[0]), RATIO_MIN, at_least=True),
        bounds.Bound("durable acks/s with 16 in flight (or a profile)", pairs[1][0], PIPELINED_MIN, at_least=True, advisory=True),
    ]


def table(runs):
    head = ["publishers", "server", "acks/s", "spread", "to Redis", "ack p50", "ack p99", "CPU/ack", "cores", "load cores", "valid"]
    summaries = {case: summary(results) for case, results in runs.items() if results}
    rates = {(case.name, case.server): found["acks_per_s"] for case, found in summaries.items()}
    rows = []
    for case, found in summaries.items():
        other = rates.get((case.name, REDIS), figures.NAN)
        rows.append(
            [
                case.name,
                case.server,
                figures.fixed(found["acks_per_s"], 0),
                f"{figures.fixed(found['least'], 0)} … {figures.fixed(found['most'], 0)}",
                "" if case.server == REDIS else figures.fixed(figures.ratio(found["acks_per_s"], other), 2),
                figures.duration(found["p50_us"]),
                figures.duration(found["p99_us"]),
                figures.fixed(found["cpu_us"], 2, " µs"),
                figures.fixed(found["cores"], 2),
                figures.fixed(found["load_cores"], 2),
                f"{found['valid']}/{found['runs']}",
            ]
        )
    return figures.markdown(head, rows)


def brief(result):
    row = of_run(result)
    doubts = [f"FAULT: {fault}" for fault in result["faults"]] + [f"INVALID: {why}" for why in result["invalid_reasons"]]
    text = f"{row['acks_per_s']:9,.0f} acks/s  p50 {figures.duration(row['p50_us'])}  p99 {figures.duration(row['p99_us'])}"
    return "  ".join([f"{text}  {figures.fixed(row['cores'], 2)} cores", *doubts])


def about(server, arguments):
    what = f"200 publishers over TCP, 256 B, each in a room (a stream) of its own; medians of {arguments.rounds} rounds of {arguments.seconds} s"
    where = f"server and store on core 0, load from core 1; {machine.sentence(machine.describe())}; {machine.now()}"
    return f"{what}; {where}\n- {server.version()}\n- {redis.version()}, appendfsync always, no snapshots, no rewriting meanwhile"


NAMES = ("one at a time", "16 in flight")
