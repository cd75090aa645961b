"""A trace as Mermaid text, for Markdown pages and README files; nothing is sent anywhere."""

from __future__ import annotations

import textwrap

from agentprm.state import Step
from agentprm.trace.schema import Trace, answer_path, drawn_steps
from agentprm.trace.terminal import GLYPHS, step_lines
from agentprm.trace.text import shown_line

__all__ = ["to_mermaid"]

_CLIP = 120
_WIDTH = 42
_SAFE = frozenset(" ,?!'/")
_CLASSES = {
    "committed": "stroke-width:3px",
    "rejected": "stroke-dasharray:4 3,opacity:0.6",
    "simulated": "stroke-dasharray:1 3,opacity:0.6",
    "unparsed": "stroke-dasharray:4 3,opacity:0.6",
}


def to_mermaid(trace: Trace) -> str:
    """The search tree as a Mermaid flowchart.

    Committed steps have a thick frame, rejected ones a dashed one, look-aheads a dotted one. Text of
    models and passages is escaped character by character, so that it cannot end a label or add markup.

    Args:
        trace: The trace to draw.

    Returns:
        The text of the diagram, ending in a newline; put it between ```` ```mermaid ```` fences.
    """
    steps = drawn_steps(trace)
    titles = {document["id"]: document["title"] for document in trace["documents"]}
    names: dict[str | None, str] = {None: "q"}
    names.update((step["id"], f"s{i}") for i, step in enumerate(steps, start=1))
    lines = ["flowchart TD", f'  q(["{_label("Question", trace["question"])}"])']
    used: dict[str, list[str]] = {}
    for step in steps:
        name = names[step["id"]]
        lines.append(f'  {name}["{_step_label(step, titles)}"]')
        arrow = "-.->" if step["status"] == "simulated" else "-->"
        lines.append(f"  {names[step['parent_id']]} {arrow} {name}")
        used.setdefault(step["status"], []).append(name)
    if not steps:
        for i, document in enumerate(trace["documents"], start=1):
            lines += [f'  d{i}["{_label("read", document["title"])}"]', f"  q --> d{i}"]
    for status, style in _CLASSES.items():
        if status in used:
            lines += [f"  classDef {status} {style}", f"  class {','.join(used[status])} {status}"]
    if trace["answer"]:
        path = answer_path(steps)
        lines.append(f'  a(["{_label("Answer", trace["answer"])}"])')
        lines.append(f"  {names[path[-1]['id'] if path else None]} ==> a")
    return "\n".join(lines) + "\n"


def _step_label(step: Step, titles: dict[str, str]) -> str:
    head = f"{GLYPHS.get(step['status'], '·')} {step['id']}"
    rows = [_label(head, step["query"] or "(conclusion)")]
    rows += [_label(word, text) for word, text in step_lines(step, titles)]
    return "<br/>".join(rows)


def _label(word: str, text: str) -> str:
    rows = textwrap.wrap(
        f"{shown_line(word, _CLIP)} {shown_line(text, _CLIP)}".strip(), _WIDTH, break_on_hyphens=False
    )
    return "<br/>".join(_escaped(row) for row in rows)


def _escaped(text: str) -> str:
    """`text` with everything that Mermaid, Markdown or HTML could read as syntax as an entity."""
    return "".join(c if c.isalnum() or c in _SAFE or ord(c) > 127 else f"#{ord(c)};" for c in text)
