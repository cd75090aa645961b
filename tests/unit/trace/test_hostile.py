"""Traces of strangers: a sentence or a quick picture, never a crash or a long wait."""

from __future__ import annotations

import io
import json
import random
import time
from datetime import date

import pytest

from agentprm.budget import empty_usage
from agentprm.errors import InputError
from agentprm.trace import load_trace, save_trace, search_tree, to_html, to_mermaid, trace_of
from tests.unit.trace.test_schema import damage, step

console = pytest.importorskip("rich.console")


def views(trace):
    out = console.Console(file=io.StringIO(), width=80)
    out.print(search_tree(trace))
    return out.file.getvalue(), to_mermaid(trace), to_html(trace)


def chain(count):
    return [step(str(i), str(i - 1) if i else None) for i in range(count)]


def written(tmp_path, steps, **rest):
    trace = {**trace_of({"question": "Who?"}), "steps": steps, **rest}
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    return path


@pytest.mark.parametrize("order", ["straight", "reversed", "shuffled", "star"])
def test_many_steps_are_read_and_drawn(tmp_path, order):
    steps = chain(20_000)
    if order == "reversed":
        steps.reverse()
    elif order == "shuffled":
        random.Random(0).shuffle(steps)
    elif order == "star":
        steps = [step(str(i), status="rejected") for i in range(20_000)]
    path = written(tmp_path, steps)
    start = time.process_time()
    terminal, mermaid, _ = views(load_trace(path))
    assert time.process_time() - start < 30  # quadratic time takes minutes
    assert "19,000 more steps" in terminal
    assert mermaid.count("-->") == 20_000
    assert len(terminal) < 3_000_000


def test_the_chosen_path_is_drawn_behind_many_other_steps():
    steps = [step(f"n{i}", status="rejected") for i in range(5000)]
    steps += [step("yes", query="the chosen one", final_answer="Ada")]
    terminal, _, _ = views({**trace_of({"question": "Who?"}), "steps": steps})
    assert "the chosen one" in terminal
    assert "4,000 more steps" in terminal


def test_what_many_steps_refer_to_does_not_multiply():
    """One long title, named by many steps many times; one long passage, cited by all."""
    document = {"id": "d", "title": "t" * 200_000, "source": "", "text": "word. " * 50_000}
    steps = [
        step(f"s{i}", doc_ids=["d"] * 2000, cited_ids=["d"] * (i % 2 * 2000), query="word")
        for i in range(200)
    ]
    steps += [step(f"c{i}", cited_ids=["d"], query="word") for i in range(3000)]
    start = time.process_time()
    terminal, mermaid, _ = views({**trace_of({"question": "Who?"}), "steps": steps, "documents": [document]})
    assert time.process_time() - start < 60
    assert len(terminal) < 3_000_000
    assert len(mermaid) < 10_000_000


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["steps"][0].update(score=10**400),
        lambda t: t["steps"][0].update(depth=10**400),
        lambda t: t["usage"].update(model_calls=10**400),
        lambda t: t.update(settings={"n": 10**400}),
        lambda t: t.update(settings={"n": [float("nan")]}),
        lambda t: t.update(settings=nested(500)),
        lambda t: t["steps"][0].update(extra=nested(500)),
        lambda t: t["steps"][0].update(id="x" * 100_000, parent_id="x" * 100_000),
        lambda t: t["steps"][0].update(status="x" * 100_000),
    ],
)
def test_numbers_and_nests_without_bounds_are_refused_in_a_sentence(tmp_path, change):
    path = tmp_path / "trace.json"
    path.write_text(damage(change))
    with pytest.raises(InputError) as caught:
        load_trace(path)
    assert len(str(caught.value)) < 1000


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"in": value}
    return value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), date(2020, 1, 1)])
def test_settings_that_json_cannot_hold_are_refused_before_the_trace_is_saved(value):
    with pytest.raises(InputError, match="JSON"):
        trace_of({"question": "Who?"}, {"value": [value]})


def test_settings_that_hold_themselves(tmp_path):
    settings = {}
    settings["self"] = settings
    with pytest.raises(InputError, match="contains itself"):
        trace_of({"question": "Who?"}, settings)
    with pytest.raises(InputError, match="JSON-plain"):
        save_trace({**trace_of({"question": "Who?"}), "settings": settings}, tmp_path / "t.json")
    with pytest.raises(InputError, match="JSON-plain"):
        save_trace({**trace_of({"question": "Who?"}), "settings": nested(100_000)}, tmp_path / "t.json")


def test_a_file_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("agentprm.trace.schema._LARGEST", 1000)
    (tmp_path / "t.json").write_text("[" + "1," * 1000)
    with pytest.raises(InputError, match="more than"):
        load_trace(tmp_path / "t.json")


def test_half_a_surrogate_is_cleaned():
    trace = trace_of({"question": "Who\ud83d?", "answer": "\udc00", "prm_usage": empty_usage()})
    assert (trace["question"], trace["answer"]) == ("Who\ufffd?", "\ufffd")
