"""Plots of a report."""

import re

import pytest

from agentprm.evaluation.bootstrap import Interval
from agentprm.evaluation.plots import scatter


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0.0)] * 5,
        [(0, 0.01), (100, 0.0), (500, 0.02), (9000, 0.5), (9100, 0.5), (9200, 0.52)],
        [(x, 0.3 + x / 50_000) for x in range(0, 4000, 400)],
    ],
)
def test_names_of_points_do_not_lie_on_one_another(points):
    plot = scatter(
        {f"set-up number {i}": (x, Interval(y, y, y)) for i, (x, y) in enumerate(points)},
        "tokens",
        "F1",
    )
    texts = re.findall(
        r'<text x="([-\d.]+)" y="([-\d.]+)" text-anchor="(\w+)">(set-up number \d+)</text>', plot
    )
    assert len(texts) == len(points)
    boxes = []
    for x, y, anchor, text in texts:
        left = float(x) - (6 * len(text) if anchor == "end" else 0)
        boxes.append((left, left + 6 * len(text), float(y)))
        assert 0 <= float(y) <= 300
    for place, (left, right, y) in enumerate(boxes):
        for low, high, other in boxes[place + 1 :]:
            assert right <= low or high <= left or abs(y - other) >= 12


def test_a_name_does_not_lie_on_another_point():
    points = {"rag-1, reader": (148, 0.154), "rag-1, model": (224, 0.19), "search": (1969, 0.67)}
    plot = scatter({name: (x, Interval(y, y, y)) for name, (x, y) in points.items()}, "tokens", "F1")
    dots = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', plot)
    texts = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="start">(rag[^<]+)<', plot)
    assert (len(dots), len(texts)) == (3, 2)
    for left, y, text in texts:
        for cx, cy in dots:
            beside = not float(left) <= float(cx) <= float(left) + 6 * len(text)
            assert beside or float(cy) + 5 <= float(y) - 8 or float(cy) - 5 >= float(y)
