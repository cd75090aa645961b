"""What a search is doing right now, in one line per event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentprm.trace.text import counted, shown_line

__all__ = ["event_line"]


def event_line(event: Mapping[str, Any], width: int = 100) -> str | None:
    """A streamed event in one line without control characters.

    Args:
        event: What `graph.stream(..., stream_mode="custom")` gave.
        width: Most characters of the line.

    Returns:
        The line, or `None` for events of other libraries and events with nothing to tell.
    """
    kind = str(event.get("type", ""))
    if not kind.startswith("agentprm."):
        return None
    step = event.get("step_id")
    tell = _TEXTS.get(kind.removeprefix("agentprm."))
    text = tell(event) if tell else ""
    return shown_line(f"{step or '·'}  {text}", width) if text else None


def _proposed(event: Mapping[str, Any]) -> str:
    if event.get("status") == "unparsed":
        return "proposal without a usable form"
    if event.get("query"):
        return f"asks: {event['query']}"
    return f"concludes: {event['final_answer']}" if event.get("final_answer") else "concludes"


def _scored(event: Mapping[str, Any]) -> str:
    score, value = event.get("score"), event.get("value")
    numbers = [("score", score), ("value", value if value != score else None)]
    return ", ".join(f"{name} {number:.2f}" for name, number in numbers if number is not None)


def _selected(event: Mapping[str, Any]) -> str:
    places = [place or "the question" for place in event.get("frontier", [])]
    return f"goes on from {', '.join(places)}" if len(places) > 1 else ""


def _judged(event: Mapping[str, Any]) -> str:
    score = event.get("score")
    return f"answer not judged: {event.get('reason', '')}" if score is None else f"answer judged: {score:.2f}"


def _acted(event: Mapping[str, Any]) -> str:
    candidates = event.get("candidates", [])
    chosen: Mapping[str, Any] = next((candidate for candidate in candidates if candidate.get("chosen")), {})
    called = ", ".join(str(call.get("name", "")) for call in chosen.get("tool_calls", []))
    what = f"calls {called}" if called else f"says: {chosen.get('text', '')}"
    score = chosen.get("score")
    return f"best of {len(candidates)}{'' if score is None else f', score {score:.2f}'}: {what}"


_TEXTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "action_chosen": _acted,
    "answer_judged": _judged,
    "question_condensed": lambda e: "" if e.get("reason") else f"understood as: {e.get('question', '')}",
    "question_planned": lambda e: (
        "plan: " + " ".join(f"{n}. {step}" for n, step in enumerate(e.get("plan", []), 1))
    ),
    "step_proposed": _proposed,
    "documents_retrieved": lambda e: f"reads {counted(len(e.get('doc_ids', [])), 'passage')}",
    "step_completed": lambda e: f"found: {e['thought']}" if e.get("thought") else "",
    "step_scored": _scored,
    "step_committed": lambda e: "chosen",
    "step_rejected": lambda e: "rejected before it is searched for",
    "steps_selected": _selected,
    "search_stopped": lambda e: f"search ends: {e.get('reason', '')}",
    "answered": lambda e: f"answer: {e.get('answer', '')}",
}
