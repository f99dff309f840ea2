"""What hubbub promises in comparison with other servers, and whether a set of results keeps it.

Each bound looks at medians. One whose figures are missing (a server left out, a case not run) is not checked, and says so.
"""

import math
from dataclasses import dataclass

from lib import figures
from lib.servers import FASTWEBSOCKETS, HUBBUB

# CPU per delivery of hubbub, as a multiple of the peer's.
RATIO_MAX = {("fanout", FASTWEBSOCKETS): 0.85, ("rooms", FASTWEBSOCKETS): 0.95, ("hot-room", FASTWEBSOCKETS): 0.55}
RATIO_MAX_ECHO = 1.05
# Cores that hubbub may use at the rate of the case.
CORES_MAX = {"hot-room-2k": 0.45}
# p99 never above the greater of these.
P99_US_MAX, P99_RATIO_MAX = 4_000, 1.3
# Chat protocol in JSON, as a multiple of hubbub's own relay.
CHAT_RATIO_MAX = 1.3


@dataclass
class Bound:
    name: str
    measured: float
    allowed: float
    # A peer leaves no room at its own figure: hubbub must need less, not as much.
    strict: bool = False
    # More is better: `allowed` is the least.
    at_least: bool = False
    # One that is told and fails nothing.
    advisory: bool = False

    @property
    def state(self):
        if math.isnan(self.measured) or math.isnan(self.allowed):
            return "not checked"
        if self.at_least:
            kept = self.measured >= self.allowed
        else:
            kept = self.measured < self.allowed if self.strict else self.measured <= self.allowed
        return "kept" if kept else "MISSED"

    def line(self):
        measured, allowed = (figures.fixed(value, 3 if value < 100 else 0) for value in (self.measured, self.allowed))
        relation = "at least" if self.at_least else "below" if self.strict else "at most"
        return f"{self.state}: {self.name}: {measured}, {relation} {allowed}"


def all_bounds(compared, cases, peers):
    """`compared(case, server)` is hubbub's and the server's summary over the rounds they share, or None."""
    bounds = []
    for case in cases:
        if case.is_chat:
            bounds.append(chat(compared, case))
            continue
        bounds += [cpu(compared(case.name, peer), case.name, peer) for peer in peers if case.is_compared]
        if case.is_compared and FASTWEBSOCKETS in peers:
            bounds.append(p99(compared(case.name, FASTWEBSOCKETS), case.name))
        if case.name in CORES_MAX:
            bounds.append(cores(compared(case.name, HUBBUB), case.name))
    return bounds


def cpu(pair, case, peer):
    name = f"{case}: CPU per delivery, hubbub to {peer}"
    allowed = RATIO_MAX_ECHO if case == "echo" else RATIO_MAX.get((case, peer), 1.0)
    measured = figures.ratio(pair[0]["cpu_us"], pair[1]["cpu_us"]) if pair else figures.NAN
    return Bound(name, measured, allowed, strict=allowed == 1.0)


def p99(pair, case):
    name = f"{case}: p99 in µs, the greater of {P99_US_MAX:,} and {P99_RATIO_MAX} × {FASTWEBSOCKETS}"
    if not pair:
        return Bound(name, figures.NAN, figures.NAN)
    return Bound(name, pair[0]["p99_us"], max(P99_US_MAX, P99_RATIO_MAX * pair[1]["p99_us"]))


def cores(pair, case):
    return Bound(f"{case}: cores", pair[0]["cores"] if pair else figures.NAN, CORES_MAX[case])


def chat(compared, case):
    """Chat and relay of one scenario, both on hubbub."""
    relay, talk = compared(case.relay_name, HUBBUB), compared(case.name, HUBBUB)
    measured = figures.ratio(talk[0]["cpu_us"], relay[0]["cpu_us"]) if relay and talk else figures.NAN
    return Bound(f"{case.name}: CPU per delivery, chat to relay", measured, CHAT_RATIO_MAX)
