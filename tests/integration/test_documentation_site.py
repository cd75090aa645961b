"""The documentation site loads nothing from elsewhere: its drawings are made while it is built.

`make docs` builds the whole site, strictly, and the last hook reads every page of it.
"""

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def hook(name):
    spec = importlib.util.spec_from_file_location(f"docs_site_{name}", ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


drawings, offline = hook("drawings"), hook("offline")
DRAWN = [
    pytest.param(match[1], id=f"{page.name}-{number}")
    for page in sorted((ROOT / "docs").glob("**/*.md"))
    for number, match in enumerate(drawings._FENCE.finditer(page.read_text("utf-8")))
]


def parsed(text):
    return ElementTree.fromstring(drawings.svg(text).replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))


@pytest.mark.parametrize("text", DRAWN)
def test_a_drawing_of_a_page_has_every_node_and_arrow_within_its_frame(text):
    drawn = parsed(text)
    width, height = map(float, drawn.get("viewBox").split()[2:])
    boxes, labels = [], [element.text for element in drawn.iter(f"{SVG}text")]
    chart = drawings.parse(text)
    for label, _ in chart.nodes.values():
        assert label in labels
    assert [label for *_, label, _ in chart.arrows if label and label not in labels] == []
    arrows = [path for path in drawn.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(arrows) == len(chart.arrows) == len(re.findall(r"-->|-\.->|\.->", text))
    for element in drawn.iter(f"{SVG}text"):
        x, y, half = float(element.get("x")), float(element.get("y")), 3.2 * len(element.text)
        assert x - half >= 0
        assert x + half <= width
        assert 0 <= y <= height
        boxes.append((x - half, x + half, y - 7, y + 7))
    for place, (left, right, top, bottom) in enumerate(boxes):  # no text lies on another
        for other in boxes[place + 1 :]:
            assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top


def test_what_a_chart_says():
    chart = drawings.parse(
        'graph LR\n  a --> b["a box"] -->|"if so, on"| c{choice}\n'
        "  c -. raw .-> d[(store)]\n  c --> a\n  e([end])"
    )
    assert chart.nodes == {
        "a": ("a", "box"),
        "b": ("a box", "box"),
        "c": ("choice", "choice"),
        "d": ("store", "store"),
        "e": ("end", "round"),
    }
    assert chart.arrows == [
        ("a", "b", "", False),
        ("b", "c", "if so, on", False),
        ("c", "d", "raw", True),
        ("c", "a", "", False),
    ]


def test_text_stays_text():
    text = 'graph LR\n  a["<script>alert(1)</script> & more"] -->|"<b>"| b'
    assert "<script" not in drawings.svg(text)
    assert "<script>alert(1)</script> & more" in [element.text for element in parsed(text).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    "text", ["pie\n a", "graph LR\n  a ==> b", "graph LR\n  subgraph x", "graph LR\n  a -->"]
)
def test_what_is_not_read_ends_the_build(text):
    with pytest.raises(ValueError, match="drawing"):
        drawings.svg(text)


def test_a_page_has_its_drawings_and_the_rest_as_it_was():
    page = drawings.on_page_markdown("# A\n\n```mermaid\ngraph LR\n  a --> b\n```\n\n```python\nx = 1\n```\n")
    assert page.startswith("# A\n\n<figure>\n<svg ")
    assert page.endswith("</figure>\n\n```python\nx = 1\n```\n")
    assert "\n\n" not in page[5 : page.index("</figure>")]  # the block of HTML is one


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://cdn.example/x.js"></script>',
        "<script src=//cdn.example/x.js></script>",
        '<LINK REL="stylesheet" HREF="HTTPS://fonts.example/css">',
        '<img src="a.png" srcset="a.png 1x, https://img.example/b.png 2x">',
        '<iframe src="http://example.org"></iframe>',
        "<style>@import 'https://fonts.example/css';</style>",
        '<p style="background: url(//img.example/a.png)">x</p>',
        '<svg><use href="https://img.example/a.svg#b"/></svg>',
        '<pre class="mermaid">graph LR</pre>',
    ],
)
def test_what_would_be_loaded_from_elsewhere_is_found(tag):
    assert len(offline.foreign(f"<html><body>{tag}</body></html>")) == 1


def test_links_and_own_files_are_no_matter():
    page = (
        '<link href="assets/a.css"><script src="../b.js"></script><a href="https://example.org">there</a>'
        '<img src="data:image/png;base64,//8="><code>&lt;img src="https://x.example/y"&gt;</code>'
    )
    assert offline.foreign(page) == []
    assert offline.foreign('a{background:url("data:image/svg+xml;utf8,<svg/>")}', css=True) == []
    assert offline.foreign("@import url(https://fonts.example/css)", css=True) == [
        "https://fonts.example/css"
    ]


def test_a_build_that_loads_from_elsewhere_ends(tmp_path):
    (tmp_path / "page.html").write_text('<img src="https://img.example/a.png">', encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.html: https://img\.example/a\.png"):
        offline.on_post_build({"site_dir": tmp_path})
