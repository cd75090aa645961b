"""Streamed events in one line each."""

import pytest

from agentprm.trace.live import event_line


def event(kind, **rest):
    return {"type": f"agentprm.{kind}", **rest}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (event("step_proposed", step_id="1.2", query="Who?", status="proposed"), "1.2 asks: Who?"),
        (
            event("step_proposed", step_id="1", query="", status="unparsed"),
            "1 proposal without a usable form",
        ),
        (event("step_proposed", step_id="1", query="", final_answer="Ada"), "1 concludes: Ada"),
        (event("step_proposed", step_id="1", query=""), "1 concludes"),
        (event("documents_retrieved", step_id=None, query="q", doc_ids=["a"]), "· reads 1 passage"),
        (event("step_completed", step_id="1", thought="x\x1b[2Jy"), "1 found: x[2Jy"),
        (event("step_completed", step_id="1", thought=""), None),
        (event("step_scored", step_id="1", score=0.5, value=None), "1 score 0.50"),
        (event("step_scored", step_id="1", score=0.5, value=0.25), "1 score 0.50, value 0.25"),
        (event("step_scored", step_id="1", score=0.5, value=0.5), "1 score 0.50"),
        (event("step_committed", step_id="1", value=0.5), "1 chosen"),
        (event("search_stopped", reason="max_steps"), "· search ends: max_steps"),
        (event("answered", answer="Ada", cited_ids=[]), "· answer: Ada"),
        (event("of_a_later_version", step_id="1"), None),
        ({"type": "other.library"}, None),
        ({}, None),
    ],
)
def test_event_line(given, line):
    assert event_line(given) == line


def test_long_events_are_clipped():
    line = event_line(event("step_completed", step_id="1", thought="word " * 100), width=40)
    assert len(line) <= 40
    assert line.endswith("…")


def test_an_agents_choice_in_one_line():
    call = {"text": "", "tool_calls": [{"name": "search", "args": {}}], "score": 0.9, "chosen": True}
    other = {"text": "Paris", "tool_calls": [], "score": None, "chosen": False}
    event = {"type": "agentprm.action_chosen", "candidates": [other, call]}
    assert event_line(event) == "· best of 2, score 0.90: calls search"
    event = {"type": "agentprm.action_chosen", "candidates": [{**other, "chosen": True}]}
    assert event_line(event) == "· best of 1: says: Paris"
