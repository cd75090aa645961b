"""Plots as inline SVG: no library, no network, readable in light and dark.

Colours are the classes `c0` to `c7` and `ink`, which the page that holds the plots defines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from agentprm.evaluation.bootstrap import Interval

__all__ = ["COLOURS", "grouped_bars", "reliability_diagram", "scatter", "short_text", "stacked_bars"]

COLOURS = 8
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 16, 44


def scatter(points: Mapping[str, tuple[float, Interval]], x_label: str, y_label: str) -> str:
    """A point with its interval for each name; the horizontal axis begins at 0.

    Args:
        points: Position and height, a share of 1, by name.
        x_label: Label of the horizontal axis.
        y_label: Label of the vertical axis.
    """
    right = _round_up(max((x for x, _ in points.values()), default=1.0))
    top = _round_up(max((y.high for _, y in points.values()), default=1.0), most=1.0)
    across, up = _scales(right, top)
    marks = []
    names = [(short_text(name), across(x), up(y.mean) - 6) for name, (x, y) in points.items()]
    heights = _apart(names)
    for place, (name, (x, y)) in enumerate(points.items()):
        colour, at = f"c{place % COLOURS}", across(x)
        anchor, shift = ("end", -8) if _on_the_right(at) else ("start", 8)
        told = f"{name}: {_number(x)}, {100 * y.mean:.1f} [{100 * y.low:.1f}, {100 * y.high:.1f}]"
        marks.append(
            f'<g class="{colour}"><title>{escape(told)}</title>'
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{up(y.low):.1f}" y2="{up(y.high):.1f}"/>'
            f'<circle cx="{at:.1f}" cy="{up(y.mean):.1f}" r="5"/>'
            f'<text x="{at + shift:.1f}" y="{heights[place]:.1f}" text-anchor="{anchor}">'
            f"{escape(short_text(name))}</text></g>"
        )
    return _figure(
        f"{y_label} against {x_label}",
        _axes(right, top, across, up, x_label, y_label, _number) + "".join(marks),
    )


def _on_the_right(x: float) -> bool:
    """Whether a name stands on the left of its point."""
    return x > _WIDTH * 0.7


def _apart(names: Sequence[tuple[str, float, float]]) -> list[float]:
    """Heights of the names of points (text, place, height): the nearest where none lies on another.

    Nor does one lie on a point, where there is room.
    """
    line, wide, dot = 13.0, 6.5, 6.0
    placed = [(x - dot, x + dot, y + dot + 4) for _, x, y in names]  # the points, as if they were names
    for text, x, wanted in names:
        left = x - 8 - len(text) * wide if _on_the_right(x) else x + 8
        right = left + len(text) * wide
        beside = [y for low, high, y in placed if low < right and left < high]
        steps = sorted(range(-40, 41), key=lambda step: (abs(step), step))
        free = (
            y
            for y in (wanted + line / 2 * step for step in steps)
            if 10 <= y <= _HEIGHT - _BOTTOM and all(abs(y - other) >= line for other in beside)
        )
        placed.append((left, right, next(free, wanted)))
    return [y for *_, y in placed[len(names) :]]


def grouped_bars(groups: Mapping[str, Mapping[str, float]], y_label: str) -> str:
    """A group of bars for each key, with a bar for each name in it; heights are shares of 1."""
    names = list(dict.fromkeys(name for row in groups.values() for name in row))
    top = _round_up(max((v for row in groups.values() for v in row.values()), default=1.0), most=1.0)
    across, up = _scales(max(len(groups), 1), top)
    width = (across(1) - across(0)) * 0.8 / max(len(names), 1)
    marks = []
    for place, (group, row) in enumerate(groups.items()):
        start = across(place + 0.1)
        for name, value in row.items():
            number = names.index(name)
            marks.append(
                f'<rect class="c{number % COLOURS}" x="{start + number * width:.1f}" y="{up(value):.1f}" '
                f'width="{max(width - 1, 1):.1f}" height="{max(up(0) - up(value), 0):.1f}">'
                f"<title>{escape(f'{group}, {name}: {100 * value:.1f}')}</title></rect>"
            )
        marks.append(_text(across(place + 0.5), _HEIGHT - _BOTTOM + 16, short_text(group, 18), "middle"))
    axes = _axes(0, top, across, up, "", y_label, str)
    return _figure(f"{y_label} by group", axes + "".join(marks)) + _legend(names)


def stacked_bars(rows: Mapping[str, Mapping[str, float]], x_label: str) -> str:
    """A horizontal bar for each row, made of the counts of its parts."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    most = max((sum(row.values()) for row in rows.values()), default=0) or 1
    height = 34 * len(rows) + _TOP + 30
    left = 150
    scale = (_WIDTH - left - _RIGHT) / most
    marks = []
    for place, (name, row) in enumerate(rows.items()):
        y, x = _TOP + 34 * place, float(left)
        marks.append(_text(left - 8, y + 17, short_text(name, 22), "end"))
        for part, count in row.items():
            width = count * scale
            marks.append(
                f'<rect class="c{parts.index(part) % COLOURS}" x="{x:.1f}" y="{y}" width="{width:.1f}" '
                f'height="24"><title>{escape(f"{name}, {part}: {count:g}")}</title></rect>'
            )
            if width > 24:
                marks.append(
                    f'<text class="on" x="{x + width / 2:.1f}" y="{y + 16}" text-anchor="middle">'
                    f"{count:g}</text>"
                )
            x += width
    marks.append(_text(left, height - 8, x_label, "start"))
    return _figure(x_label, "".join(marks), height) + _legend(parts)


def reliability_diagram(bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> str:
    """Share of right items against their score, for each name; a calibrated reward lies on the diagonal.

    Args:
        bins: Mean score, share of right items and count, by name.
    """
    across, up = _scales(1.0, 1.0)
    marks = [f'<line class="ink dash" x1="{across(0)}" y1="{up(0)}" x2="{across(1):.1f}" y2="{up(1):.1f}"/>']
    for place, (name, points) in enumerate(bins.items()):
        line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in points)
        most = max((count for *_, count in points), default=1)
        dots = "".join(
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="{3 + 6 * math.sqrt(count / most):.1f}">'
            f"<title>{escape(f'{name}: score {x:.2f}, right {y:.2f}, {count} items')}</title></circle>"
            for x, y, count in points
        )
        marks.append(f'<g class="c{place % COLOURS}"><polyline points="{line}"/>{dots}</g>')
    axes = _axes(1.0, 1.0, across, up, "score", "share that is right", lambda x: f"{x:.1f}")
    return _figure("calibration", axes + "".join(marks)) + _legend(list(bins))


_Scale = Callable[[float], float]


def _scales(right: float, top: float) -> tuple[_Scale, _Scale]:
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    return (
        lambda x: _LEFT + wide * x / (right or 1),
        lambda y: _HEIGHT - _BOTTOM - high * y / (top or 1),
    )


def _axes(
    right: float,
    top: float,
    across: _Scale,
    up: _Scale,
    x_label: str,
    y_label: str,
    shown: Callable[[float], str],
) -> str:
    """Lines, ticks and labels; without ticks below where `right` is 0."""
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = up(top * share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{100 * top * share:.0f}", "end"))
        if right:
            parts.append(_text(across(right * share), _HEIGHT - _BOTTOM + 16, shown(right * share), "middle"))
    parts.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 8, x_label, "middle"))
    middle = (_HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="ink" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _figure(title: str, body: str, height: float = _HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{body}</svg>'
    )


def _legend(names: Sequence[str]) -> str:
    items = "".join(
        f'<span><i class="c{place % COLOURS}"></i>{escape(name)}</span>' for place, name in enumerate(names)
    )
    return f'<div class="legend">{items}</div>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="ink" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def short_text(text: str, most: int = 28) -> str:
    """The text, or its beginning with an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}"


def _round_up(value: float, most: float = math.inf) -> float:
    """The next round number: 1, 2, 2.5, 4, 5, 8 or 10 times a power of ten."""
    if not value > 0:
        return min(1.0, most)
    power = 10.0 ** math.floor(math.log10(value))
    return min(most, next(step * power for step in (1, 2, 2.5, 4, 5, 8, 10) if step * power >= value - 1e-12))
