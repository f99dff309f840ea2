"""Small charts as self-contained SVG: lines over a number, bars over names."""

import math
from html import escape

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 86, 20, 44, 46
COLOURS = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a"]
STYLE = "text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-size:15px;font-weight:600}.g{stroke:#d0d7de}"


def lines(title, series, x_label, y_label, log=False):
    """A line for each of `series`, {name: [(x, y), …]}. Points that are no numbers are left out."""
    series = {name: [point for point in points if drawable(point, log)] for name, points in series.items()}
    points = [point for line in series.values() for point in line]
    if not points:
        return frame(title, ['<text x="90" y="160">nothing was measured</text>'])
    x_of = scale([x for x, _ in points], LEFT, WIDTH - RIGHT)
    ticks = logarithmic([y for _, y in points]) if log else linear([y for _, y in points])
    transform = math.log10 if log else float
    y_of = scale([transform(tick) for tick in ticks], HEIGHT - BOTTOM, TOP)
    parts = [horizontal(y_of(transform(tick)), label(tick)) for tick in ticks]
    parts += [vertical(x_of(x), label(x)) for x in spaced(sorted({x for x, _ in points}))]
    for colour, (name, line) in zip(cycle(), series.items()):
        path = " ".join(f"{x_of(x):.1f},{y_of(transform(y)):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_of(x):.1f}" cy="{y_of(transform(y)):.1f}" r="2.5" fill="{colour}"/>' for x, y in line]
    return frame(title, parts + legend(series) + axes(x_label, y_label))


def bars(title, values, unit):
    """A bar for each of `values`, {name: number}."""
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    most = max(known.values(), default=0) or 1
    left, step = 190, 26
    parts = []
    for at, (name, value) in enumerate(known.items()):
        y, length = TOP + at * step, (WIDTH - left - 110) * value / most
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="18" fill="{COLOURS[0]}"/>')
        parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 14}">{value:,.4g} {escape(unit)}</text>')
    return frame(title, parts, TOP + max(1, len(known)) * step + 12)


def grouped(title, groups, unit):
    """For each of `groups`, {name: {member: number}}, a bar for each member, in the member's colour."""
    members = list(dict.fromkeys(member for group in groups.values() for member in group))
    colours = dict(zip(members, cycle()))
    most = max((value for group in groups.values() for value in group.values() if math.isfinite(value)), default=0) or 1
    left, step, gap = 110, 17, 14
    parts, y = [], TOP + 20
    for name, group in groups.items():
        parts.append(f'<text x="{left - 10}" y="{y + len(group) * step / 2 + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        for member, value in group.items():
            if math.isfinite(value):
                length = (WIDTH - left - 110) * value / most
                parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{step - 3}" fill="{colours[member]}"/>')
                parts.append(f'<text x="{left + length + 6:.1f}" y="{y + 11}">{value:,.3g} {escape(unit)}</text>')
            y += step
        y += gap
    return frame(title, parts + legend(members), y)


def drawable(point, log):
    return all(map(math.isfinite, point)) and (point[1] > 0 or not log)


def scale(values, start, end):
    """From values to pixels; a single value lies in the middle."""
    low, high = min(values), max(values)
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) * (end - start) / (high - low)


def linear(values):
    """Round ticks from zero to above the greatest value."""
    most = max(max(values), 1e-9)
    power = 10 ** math.floor(math.log10(most))
    step = next(power * factor for factor in (0.2, 0.5, 1, 2, 5) if power * factor * 6 >= most)
    return [step * at for at in range(math.ceil(most / step) + 1)]


def logarithmic(values):
    """Powers of ten around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**at for at in range(low, max(high, low + 1) + 1)]


def spaced(values, most=10):
    return values[:: math.ceil(len(values) / most)]


def label(value):
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}"


def horizontal(y, text):
    line = f'<line class="g" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def vertical(x, text):
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'


def legend(series):
    parts, x = [], LEFT
    for colour, name in zip(cycle(), series):
        parts.append(f'<rect x="{x}" y="{TOP - 14}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="{TOP - 5}">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return parts


def axes(x_label, y_label):
    middle = (HEIGHT - BOTTOM + TOP) / 2
    return [
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]


def cycle():
    while True:
        yield from COLOURS


def frame(title, parts, height=HEIGHT):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    back = f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([head, back, f'<text class="t" x="12" y="20">{escape(title)}</text>', *parts, "</svg>", ""])
