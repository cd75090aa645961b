"""Flowcharts of pages as SVG, drawn while the site is built: no browser fetches mermaid.js (5.5 MB) for them.

Reads the part of Mermaid's flowcharts that the pages use: boxes, rounded and round ones, choices, stores,
chains of solid and dotted arrows with labels. Anything else ends the build.
"""

from __future__ import annotations

import html
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Chart", "on_page_markdown", "parse", "svg"]

_FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)

_NODE = re.compile(
    r"\s*(?P<id>\w+)"
    r"(?:\(\[(?P<round>[^\]]+)\]\)|\[\((?P<store>[^)]+)\)\]|\(\((?P<circle>[^)]+)\)\)"
    r"|\{(?P<choice>[^}]+)\}|\[(?P<box>[^\]]+)\])?\s*"
)
_ARROW = re.compile(r"(?:-->|-\.->|-\. (?P<inner>.+?) \.->)(?:\|(?P<label>[^|]+)\|)?")
_CHARACTER, _LINE, _GAP, _LANE = 7.4, 34.0, 26.0, 22.0
_WIDEST = 720  # of a drawing from left to right; a wider one is drawn from above to below


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the drawings into a page; MkDocs calls this."""
    return _FENCE.sub(lambda match: f"<figure>\n{svg(match[1])}\n</figure>", markdown)


@dataclass
class Chart:
    """Nodes (id to label and shape), and arrows (from, to, label, dotted)."""

    nodes: dict[str, tuple[str, str]] = field(default_factory=dict)
    arrows: list[tuple[str, str, str, bool]] = field(default_factory=list)


def parse(text: str) -> Chart:
    """The chart that a text describes.

    Raises:
        ValueError: If a line is in no form that is read here.
    """
    head, *lines = text.strip().splitlines()
    if not re.fullmatch(r"(?:graph|flowchart) (?:LR|TD)", head.strip()):
        raise ValueError(f"A drawing begins with 'graph LR' or 'graph TD', not {head!r}.")
    chart = Chart()
    for line in filter(None, map(str.strip, lines)):
        before = _node(chart, line, match := _NODE.match(line))
        place = match.end() if match else 0
        while place < len(line):
            arrow = _ARROW.match(line, place)
            if arrow is None:
                raise ValueError(f"This line of a drawing cannot be read at {line[place:]!r}: {line}")
            match = _NODE.match(line, arrow.end())
            after = _node(chart, line, match)
            label = (arrow["label"] or arrow["inner"] or "").strip('"')
            chart.arrows.append((before, after, label, "." in arrow[0].split("|")[0]))
            before, place = after, match.end() if match else 0
    return chart


def _node(chart: Chart, line: str, match: re.Match[str] | None) -> str:
    if match is None:
        raise ValueError(f"This line of a drawing names no node: {line}")
    found = [
        (label.strip('"'), shape) for shape, label in match.groupdict().items() if shape != "id" and label
    ]
    if found or match["id"] not in chart.nodes:
        chart.nodes[match["id"]] = found[0] if found else (match["id"], "box")
    return match["id"]


def svg(text: str) -> str:
    """The drawing as one SVG element without blank lines, in the colours of the page."""
    chart = parse(text)
    across = _Layout(chart, down=False)
    layout = across if across.size[0] <= _WIDEST else _Layout(chart, down=True)
    width, height = layout.size
    name = f"arrow-{zlib.crc32(text.encode()):x}"
    parts = [
        f'<svg class="drawing" role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'style="max-width:100%;height:auto" font-size="13" font-family="inherit" text-anchor="middle" '
        f'fill="none" stroke="currentColor"><title>{html.escape(_told(chart))}</title>',
        f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="currentColor" stroke="none"/></marker>',
    ]
    for arrow in chart.arrows:
        path, place = layout.path(arrow)
        dashes = ' stroke-dasharray="4 3"' if arrow[3] else ""
        parts.append(f'<path d="{path}" marker-end="url(#{name})"{dashes}/>')
        if arrow[2]:
            parts.append(_text(arrow[2], *place, halo=True))
    parts += [_shape(layout, node) for node in chart.nodes]
    return "\n".join([*parts, "</svg>"])


class _Layout:
    """Places of the nodes in layers along the arrows; an arrow that leads back runs beside them all.

    Args:
        chart: What is drawn.
        down: Whether the layers follow one another from above to below instead of from left to right.
    """

    def __init__(self, chart: Chart, *, down: bool) -> None:
        self._chart, self._down = chart, down
        self._back = _leading_back(chart)
        layer = self._layers()
        rows: dict[int, list[str]] = {}
        for node in chart.nodes:
            rows.setdefault(layer[node], []).append(node)
        along = 1 if down else 0
        labels = [len(a[2]) * _CHARACTER for a in chart.arrows if a[:2] not in self._back]
        across = {key: sum(map(self._room, row)) + _GAP * (len(row) - 1) for key, row in rows.items()}
        self._middle = max(*across.values(), *(labels if down else [])) / 2 + _GAP
        self._places: dict[str, tuple[float, float]] = {}
        at = _GAP / 2
        for number in sorted(rows):
            thick = max(self.box(n)[along] for n in rows[number])
            side = self._middle - across[number] / 2
            for node in self._ordered(rows[number]):
                place = (at + thick / 2, side + self._room(node) / 2)
                self._places[node] = (place[1], place[0]) if down else place
                side += self._room(node) + _GAP
            at += thick + self._room_after(number, layer)
        beside = self._beside(layer)
        self._lanes: dict[tuple[str, str, str, bool], float] = {}
        wide = 2 * self._middle - _GAP / 2
        for arrow in sorted(chart.arrows, key=lambda a: abs(layer[a[0]] - layer[a[1]])):
            if arrow[:2] in beside:  # the short ones inside
                self._lanes[arrow] = wide
                wide += _LANE + (len(arrow[2]) * _CHARACTER if down else 0)
        self.size = (wide, at) if down else (at, wide)

    def box(self, node: str) -> tuple[float, float]:
        """Width and height of a node."""
        label, shape = self._chart.nodes[node]
        return len(label) * _CHARACTER + (36 if shape == "choice" else 22), _LINE

    def _room(self, node: str) -> float:
        """What a node takes of its layer: from above to below, labels of arrows to neighbours stand apart."""
        if not self._down:
            return self.box(node)[1]
        label = max(len(a[2]) for a in self._chart.arrows if a[1] == node) if self._branches(node) else 0
        return max(self.box(node)[0], 2 * label * _CHARACTER)

    def _branches(self, node: str) -> bool:
        """Whether an arrow leads to a node from one that others are reached from, too."""
        starts = {a for a, b, *_ in self._chart.arrows if b == node and (a, b) not in self._back}
        return any(a in starts and b != node and (a, b) not in self._back for a, b, *_ in self._chart.arrows)

    def place(self, node: str) -> tuple[float, float]:
        """The middle of a node."""
        return self._places[node]

    def path(self, arrow: tuple[str, str, str, bool]) -> tuple[str, tuple[float, float]]:
        """How an arrow runs, and where its label stands."""
        (x, y), (to_x, to_y) = self.place(arrow[0]), self.place(arrow[1])
        (w, h), (to_w, to_h) = self.box(arrow[0]), self.box(arrow[1])
        if arrow in self._lanes:
            lane = self._lanes[arrow]
            if self._down:
                label = (lane + len(arrow[2]) * _CHARACTER / 2 + 4, (y + to_y) / 2)
                return f"M{x + w / 2:.0f} {y:.0f}H{lane:.0f}V{to_y:.0f}H{to_x + to_w / 2:.0f}", label
            shift = 8 if arrow[:2] in self._back else -8
            path = f"M{x - shift:.0f} {y + h / 2:.0f}V{lane:.0f}H{to_x + shift:.0f}V{to_y + to_h / 2:.0f}"
            return path, ((x + to_x) / 2, lane)
        if self._down:
            y, to_y = y + h / 2, to_y - to_h / 2
            middle = (y + to_y) / 2
            path = f"M{x:.0f} {y:.0f}C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
        else:
            x, to_x = x + w / 2, to_x - to_w / 2
            middle = (x + to_x) / 2
            path = f"M{x:.0f} {y:.0f}C{middle:.0f} {y:.0f} {middle:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"
        return path, ((x + to_x) / 2, (y + to_y) / 2)

    def _layers(self) -> dict[str, int]:
        """The longest way to each node, over the arrows that do not lead back."""
        layer = dict.fromkeys(self._chart.nodes, 0)
        forward = [a[:2] for a in self._chart.arrows if a[:2] not in self._back]
        for _ in layer:
            for start, end in forward:
                layer[end] = max(layer[end], layer[start] + 1)
        return layer

    def _beside(self, layer: dict[str, int]) -> set[tuple[str, str]]:
        """The arrows that run beside the nodes: those back, and those over a node of their own line."""
        cross = 0 if self._down else 1
        over = set()
        for start, end, *_ in self._chart.arrows:
            between = [n for n in layer if layer[start] < layer[n] < layer[end]]
            line = {round(self._places[n][cross]) for n in (start, end)}
            if any(round(self._places[n][cross]) in line for n in between):
                over.add((start, end))
        return over | self._back

    def _ordered(self, row: list[str]) -> list[str]:
        """A layer in the order of what leads to it; what leads back stands at the side of such arrows."""
        cross = 0 if self._down else 1

        def before(node: str) -> tuple[bool, float]:
            places = [
                self._places[a][cross] for a, b, *_ in self._chart.arrows if b == node and a in self._places
            ]
            mean = sum(places) / len(places) if places else self._middle
            return any(a == node for a, _ in self._back), mean

        return sorted(row, key=before)

    def _room_after(self, number: int, layer: dict[str, int]) -> float:
        """Room between a layer and the next one: for the labels of the arrows there."""
        labels = [
            len(a[2])
            for a in self._chart.arrows
            if layer[a[0]] == number and a[:2] not in self._back and a[2]
        ]
        if number == max(layer.values()):
            return _GAP / 2
        if self._down:
            return 42 if labels else 26
        return max(labels, default=0) * _CHARACTER + 34


def _leading_back(chart: Chart) -> set[tuple[str, str]]:
    """The arrows that lead to a node from which their own was reached."""
    after: dict[str, list[str]] = {}
    for start, end, *_ in chart.arrows:
        after.setdefault(start, []).append(end)
    back, done = set(), set()

    def visit(node: str, way: tuple[str, ...]) -> None:
        for end in after.get(node, []):
            if end in (*way, node):
                back.add((node, end))
            elif end not in done:
                visit(end, (*way, node))
        done.add(node)

    for node in chart.nodes:
        if node not in done:
            visit(node, ())
    return back


def _shape(layout: _Layout, node: str) -> str:
    label, shape = layout._chart.nodes[node]
    (x, y), (w, h) = layout.place(node), layout.box(node)
    left, top = x - w / 2, y - h / 2
    fill = 'fill="var(--md-code-bg-color, #eee)"'
    if shape == "choice":
        drawn = (
            f'<path d="M{left:.0f} {y:.0f}l12 {-h / 2:.0f}h{w - 24:.0f}l12 {h / 2:.0f}l-12 {h / 2:.0f}'
            f'h{24 - w:.0f}z" {fill}/>'
        )
    elif shape == "store":
        drawn = (
            f'<path d="M{left:.0f} {top + 5:.0f}a{w / 2:.0f} 5 0 0 1 {w:.0f} 0v{h - 10:.0f}'
            f'a{w / 2:.0f} 5 0 0 1 -{w:.0f} 0zm0 0a{w / 2:.0f} 5 0 0 0 {w:.0f} 0" {fill}/>'
        )
    else:
        radius = 4 if shape == "box" else h / 2
        drawn = (
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{w:.0f}" height="{h:.0f}" rx="{radius:.0f}" {fill}/>'
        )
    return drawn + _text(label, x, y)


def _text(label: str, x: float, y: float, *, halo: bool = False) -> str:
    around = (
        ' style="paint-order:stroke" stroke="var(--md-default-bg-color, #fff)" stroke-width="5"'
        if halo
        else ' stroke="none"'
    )
    return f'<text x="{x:.0f}" y="{y:.0f}" dy=".35em" fill="currentColor"{around}>{html.escape(label)}</text>'


def _told(chart: Chart) -> str:
    """The chart in words, for those who do not see it."""
    return "; ".join(
        f"{chart.nodes[a][0]} → {chart.nodes[b][0]}" + (f" ({label})" if label else "")
        for a, b, label, _ in chart.arrows
    )
