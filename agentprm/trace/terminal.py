"""A trace in the terminal, drawn with rich.

Everything that a model or a passage wrote goes through `shown_line` into `rich.text.Text`, which knows no
markup, so neither markup nor escape sequences in it have any effect. Without colour the glyphs and
words still tell the same story.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agentprm.errors import MissingDependencyError
from agentprm.state import Step
from agentprm.trace.schema import Trace, answer_path, drawn_steps, guess_warning
from agentprm.trace.text import cost_line, counted, shown_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.panel import Panel
    from rich.table import Table
    from rich.tree import Tree

__all__ = ["GLYPHS", "answer_panel", "search_tree", "sources_table"]

GLYPHS: dict[str, str] = {
    "proposed": "·",
    "completed": "○",
    "scored": "○",
    "open": "◦",
    "committed": "●",
    "rejected": "✗",
    "simulated": "»",
    "unparsed": "?",
}
_WORDS = {"simulated": "look-ahead"}
_STYLES = {"committed": "bold", "rejected": "dim", "simulated": "dim", "unparsed": "dim"}
_CLIP = 160
# How much of a tree is shown: what lies deeper stands beside its parent, further steps are counted.
_DEEPEST = 40
_MOST_STEPS = 1000
# Passages that are named for a step.
_MOST_TITLES = 20
_LONGEST_TITLE = 200


def _need_rich() -> None:
    try:
        import rich  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError.for_extra("rich", "cli") from error


def search_tree(trace: Trace, *, full: bool = False) -> Tree:
    """The search tree: each step with its query, finding, passages, scores and cost.

    Committed steps are bold; rejected ones, look-aheads and unparsed ones are dim. Steps that refine
    another one name it. A loop shows its rounds one below the other, a run without either its passages.

    Args:
        trace: The trace to draw.
        full: Show long texts whole; otherwise they are clipped to about two lines.

    Raises:
        MissingDependencyError: If rich is not installed.
    """
    _need_rich()
    from rich.text import Text
    from rich.tree import Tree

    clip = None if full else _CLIP
    tree = Tree(Text(shown_line(trace["question"], clip), style="bold"), guide_style="dim")
    titles = {document["id"]: document["title"] for document in trace["documents"]}
    steps = drawn_steps(trace)
    if not steps:
        cited = {citation["doc_id"] for citation in trace["citations"]}
        for document in trace["documents"]:
            chosen = document["id"] in cited
            mark = "●" if chosen else "○"
            word = "cited" if chosen else "read"
            line = f"{mark} {word}  {shown_line(document['title'], clip)}"
            tree.add(Text(line, style="bold" if chosen else ""))
        return tree
    children: dict[str | None, list[Step]] = {}
    for step in steps:
        children.setdefault(step["parent_id"], []).append(step)
    chosen_ids = {step["id"] for step in answer_path(steps)[:_MOST_STEPS]}
    shown = left_out = 0
    waiting = [(step, [tree]) for step in reversed(children.get(None, []))]
    while waiting:
        step, branches = waiting.pop()
        if shown < _MOST_STEPS or step["id"] in chosen_ids:
            shown += 1
            branch = branches[-1].add(_label(step, titles, clip))
            below = [*branches, branch] if len(branches) < _DEEPEST else branches
        else:
            left_out += 1
            below = branches
        waiting += [(child, below) for child in reversed(children.get(step["id"], []))]
    if left_out:
        tree.add(Text(f"… and {counted(left_out, 'more step')}", style="dim"))
    return tree


def _label(step: Step, titles: Mapping[str, str], clip: int | None) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    style = _STYLES.get(step["status"], "")
    query = shown_line(step["query"], clip) or "(conclusion)"
    grid.add_row(
        Text(f"{GLYPHS.get(step['status'], '·')} {shown_line(step['id'])}", style=style),
        Text(query, style=style),
    )
    for word, text in step_lines(step, titles):
        line = Text(f"{word} " if word else "", style="dim")
        line.append(shown_line(text, clip), style="bold" if word == "answer" and style == "bold" else style)
        grid.add_row("", line)
    return grid


def step_lines(step: Step, titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """What there is to say about a step besides its query, as (word, text) pairs; empty ones left out.

    Args:
        step: The step.
        titles: Title of each passage by its id.
    """
    score, value = step["score"], step["value"]
    status = _WORDS.get(step["status"], step["status"])
    if "refines" in step:
        status += f", refines {step['refines']}"
    if score is not None:
        status += f", score {score:.2f}"
    if value is not None and value != score:
        status += f", value {value:.2f}"
    cited = step.get("cited_ids", [])
    passages = cited or step["doc_ids"]
    named = [titles.get(key, key)[:_LONGEST_TITLE] for key in passages[:_MOST_TITLES]]
    if len(passages) > _MOST_TITLES:
        named.append(f"{len(passages) - _MOST_TITLES} more")
    lines = [
        ("found", step["thought"] if step["thought"] != step["final_answer"] else ""),
        ("answer", step["final_answer"] or ""),
        ("cites" if cited else "read", "; ".join(named)),
        ("remarks", step.get("remarks", "")),
        ("critique", ": ".join(filter(None, [step.get("fault", ""), step.get("critique", "")]))),
        ("output", step.get("output", "") if step["status"] == "unparsed" else ""),
        ("", "; ".join(filter(None, [status, cost_line(step["usage"])]))),
    ]
    return [(word, text) for word, text in lines if text.strip()]


def answer_panel(trace: Trace) -> Panel:
    """The answer in a box, with the reason why the search stopped and what it cost.

    An answer that a reader is hardly sure of is called a guess.

    Raises:
        MissingDependencyError: If rich is not installed.
    """
    _need_rich()
    from rich.panel import Panel
    from rich.text import Text

    answer = Text(shown_line(trace["answer"]) or "(no answer)", style="bold")
    foot = [
        guess_warning(trace["steps"]) if trace["answer"] else "",
        f"stopped: {shown_line(trace['stop_reason'], 60)}" if trace["stop_reason"] else "",
        cost_line(trace["usage"], full=True),
    ]
    answer.append("\n" + "; ".join(filter(None, foot)), style="not bold dim")
    return Panel(answer, title="Answer", title_align="left")


def sources_table(trace: Trace, *, full: bool = False) -> Table:
    """The cited passages, numbered: title, where it comes from, and how it begins.

    Args:
        trace: The trace whose citations are listed.
        full: Show the passages whole.

    Raises:
        MissingDependencyError: If rich is not installed.
    """
    _need_rich()
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    clip = None if full else _CLIP
    for number, citation in enumerate(trace["citations"], start=1):
        head = Text(shown_line(citation["title"], clip), style="bold")
        if citation["source"] and citation["source"] != citation["title"]:
            head.append(f"  {shown_line(citation['source'], clip)}", style="not bold dim")
        body = Text(shown_line(citation["text"], clip), style="dim")
        grid.add_row(Text(f"[{number}]"), head.append("\n").append_text(body))
    return grid
