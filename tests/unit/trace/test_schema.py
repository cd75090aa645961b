"""The trace: made from a state, written, read back, and refused where it is damaged."""

import copy
import json
import os
from importlib.resources import files

import numpy as np
import pytest
from langchain_core.documents import Document

from agentprm.budget import empty_usage
from agentprm.errors import InputError
from agentprm.trace import (
    TRACE_FORMAT,
    TRACE_VERSION,
    answer_path,
    load_trace,
    save_trace,
    to_html,
    to_mermaid,
    trace_of,
    trace_schema,
)
from agentprm.trace.schema import drawn_steps


def step(key, parent=None, status="committed", **rest):
    return {
        "id": key, "parent_id": parent, "depth": 1, "query": f"query {key}", "retrieve": True,
        "doc_ids": ["d1"], "thought": "a thought", "final_answer": None, "score": 0.5, "value": 0.5,
        "status": status, "usage": empty_usage(), **rest,
    }  # fmt: skip


def state(**rest):
    return {
        "question": "Who?",
        "answer": "Ada",
        "citations": [{"doc_id": "d1", "title": "T", "source": "s", "text": "x"}],
        "documents": [Document(id="d1", page_content="x", metadata={"title": "T", "source": "s"})],
        "prm_documents": [Document(id="d2", page_content="y"), Document(page_content="no id")],
        "prm_steps": [step("1"), step("1.1", "1"), step("2", status="rejected")],
        "prm_stop_reason": "final_answer",
        "prm_usage": {**empty_usage(), "model_calls": 3},
        **rest,
    }


def test_trace_of_a_state():
    trace = trace_of(state(), {"graph": "reasoning", "seed": np.int64(3)})
    assert (trace["format"], trace["version"]) == (TRACE_FORMAT, TRACE_VERSION)
    assert (trace["question"], trace["answer"], trace["stop_reason"]) == ("Who?", "Ada", "final_answer")
    assert [document["title"] for document in trace["documents"]] == [
        "d2", trace["documents"][1]["id"], "T"
    ]  # fmt: skip
    assert trace["settings"] == {"graph": "reasoning", "seed": 3}
    json.dumps(trace, allow_nan=False)


def test_trace_is_a_copy_and_numpy_scalars_become_plain():
    source = state(prm_steps=[step("1", score=np.float32(0.25), value=np.float64(1))])
    trace = trace_of(source)
    assert trace["steps"][0]["score"] == 0.25
    assert type(trace["steps"][0]["score"]) is float
    trace["steps"][0]["thought"] = "changed"
    trace["citations"][0]["title"] = "changed"
    assert source["prm_steps"][0]["thought"] == "a thought"
    assert source["citations"][0]["title"] == "T"


def test_a_bare_state_is_enough_and_a_state_without_question_is_not():
    assert trace_of({"question": "Who?"})["steps"] == []
    with pytest.raises(InputError, match="no question"):
        trace_of({"answer": "Ada"})
    with pytest.raises(InputError, match="settings"):
        trace_of({"question": "Who?"}, {"model": object()})
    with pytest.raises(InputError, match="finite"):
        trace_of(state(prm_steps=[step("1", score=float("nan"))]))


def test_round_trip_keeps_every_character(tmp_path):
    noise = 'tab\t nul\x00 esc\x1b half\udc80 "quotes" \u2028 日本 🙂'
    trace = trace_of(state(answer=noise, question="Où?"))
    path = tmp_path / "trace.json"
    save_trace(trace, path)
    assert load_trace(path) == trace
    assert "Où?" in path.read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["trace.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "trace.json"
    save_trace(trace_of({"question": "old"}), path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_trace(trace_of({"question": "new"}), path)
    assert load_trace(path)["question"] == "old"
    assert os.listdir(tmp_path) == ["trace.json"]


def test_unwritable_places(tmp_path):
    trace = trace_of({"question": "x"})
    with pytest.raises(InputError, match="existing folder"):
        save_trace(trace, tmp_path / "no" / "trace.json")
    with pytest.raises(InputError, match="cannot be written"):
        save_trace(trace, tmp_path)
    with pytest.raises(InputError, match="JSON-plain"):
        save_trace({**trace, "settings": {"x": float("nan")}}, tmp_path / "t.json")
    save_trace(trace, os.devnull)
    assert not os.path.isfile(os.devnull)


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real.json")
    save_trace(trace_of({"question": "x"}), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert load_trace(tmp_path / "real.json")["question"] == "x"


def damage(change):
    trace = copy.deepcopy(dict(trace_of(state())))
    change(trace)
    return json.dumps(trace)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{oops", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", "not a trace"),
        ('{"question": "x"}', "not a trace"),
        ('{"format": "other", "version": 1}', "not a trace"),
        (damage(lambda t: t.update(version=99)), "pip install -U agentprm"),
        (damage(lambda t: t.update(version="1")), "names no version"),
        (damage(lambda t: t.pop("steps")), "lacks 'steps'"),
        (damage(lambda t: t.update(steps={})), "wrong type dict"),
        (damage(lambda t: t["steps"].append(3)), "not an object"),
        (damage(lambda t: t["steps"][1].pop("status")), r"steps\[1\] is damaged: it lacks 'status'"),
        (damage(lambda t: t["steps"][1].update(status="[bold]")), "unknown"),
        (damage(lambda t: t["steps"][1].update(doc_ids=[1])), "list of strings"),
        (damage(lambda t: t["steps"][1].update(critique=1)), "'critique' has the wrong type"),
        (damage(lambda t: t["steps"][1].update(score=float("inf"))), "finite"),
        (damage(lambda t: t["steps"][1].update(parent_id="9")), "back to the root"),
        (damage(lambda t: t["steps"][0].update(parent_id="1.1")), "back to the root"),
        (damage(lambda t: t["steps"][1].update(id="1")), "occurs twice"),
        (damage(lambda t: t["usage"].update(seconds="long")), "finite numbers"),
        (damage(lambda t: t["citations"][0].pop("title")), r"citations\[0\] is damaged"),
    ],
)
def test_damaged_files_are_refused_with_the_place(tmp_path, content, message):
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_trace(path)
    assert str(path) in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_trace(tmp_path / "none.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_trace(tmp_path)
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a JSON file"):
        load_trace(tmp_path / "b")


def test_answer_path():
    def ids(*steps):
        return [found["id"] for found in answer_path(steps)]

    assert ids() == []
    assert ids(step("1", status="rejected")) == []
    assert ids(step("1"), step("2", status="rejected"), step("1.1", "1")) == ["1", "1.1"]
    beam = [step("1", value=0.2), step("2", value=0.9), step("1.1", "1", value=0.3)]
    assert ids(*beam) == ["2"]
    assert ids(*beam, step("1.1.1", "1.1", value=0.1, final_answer="Ada")) == ["1", "1.1", "1.1.1"]
    assert ids(step("1", value=None, score=None), step("2", value=None, score=0.1)) == ["2"]


@pytest.mark.parametrize(
    "reranking",
    [
        {"method": "m", "before": ["d1"]},
        {"method": "m", "before": [1], "scores": []},
        {"method": "m", "before": ["d1"], "scores": ["high"]},
        {"method": None, "before": [], "scores": []},
        [],
    ],
)
def test_damaged_rerankings_are_refused(reranking, tmp_path):
    whole = {"method": "m", "before": ["d2", "d1"], "scores": [0.5, None]}
    path = tmp_path / "t.json"
    save_trace(trace_of(state(prm_steps=[step("1", reranking=whole)])), path)
    assert load_trace(path)["steps"][0]["reranking"] == whole
    for place in ("step", "trace"):
        trace = load_trace(path)
        (trace["steps"][0] if place == "step" else trace)["reranking"] = reranking
        path.write_text(json.dumps(trace))
        with pytest.raises(InputError, match="reranking"):
            load_trace(path)
        save_trace(trace_of(state(prm_steps=[step("1", reranking=whole)])), path)


def test_the_schema_that_is_shipped_describes_traces():
    jsonschema = pytest.importorskip("jsonschema")
    shipped = json.loads(files("agentprm.trace").joinpath("trace.schema.json").read_text(encoding="utf-8"))
    assert shipped == trace_schema()  # `agentprm trace schema > agentprm/trace/trace.schema.json` renews it
    check = jsonschema.Draft202012Validator(shipped)
    check.validate(json.loads(json.dumps(trace_of({"question": "Why?", "answer": "So."}))))
    for change in ({"version": 99}, {"format": "other"}, {"steps": [{"id": "1"}]}, {"question": 1}):
        assert not check.is_valid({**trace_of({"question": "Why?"}), **change})


def one_round(key, **rest):
    return {
        "id": key, "goal": "", "queries": [f"query {key}"], "doc_ids": ["d1"], "note": "", "facts": [],
        "kept": True, "score": 0.5, "answer": None, "status": "done", **rest,
    }  # fmt: skip


ROUNDS = [
    one_round("1", goal="a place", note="It is Rome."),
    one_round("2", facts=[{"text": "Ada was born.", "doc_id": "d2"}], kept=False),
    one_round("3", answer="Ada", score=None),
]


def test_rounds_of_a_loop_are_kept_and_drawn_as_a_chain(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    trace = trace_of(state(prm_steps=[], prm_rounds=ROUNDS))
    save_trace(trace, tmp_path / "t.json")
    assert load_trace(tmp_path / "t.json")["rounds"] == ROUNDS
    jsonschema.validate(trace, trace_schema())
    drawn = drawn_steps(trace)
    assert [(s["id"], s["parent_id"], s["status"]) for s in drawn] == [
        ("1", None, "committed"), ("2", "1", "rejected"), ("3", "2", "committed")
    ]  # fmt: skip
    assert [s["query"] for s in drawn] == ["a place: query 1", "query 2", "query 3"]
    assert [s["thought"] for s in drawn] == ["It is Rome.", "Ada was born.", ""]
    assert drawn[1]["cited_ids"] == ["d2"]
    assert drawn[2]["final_answer"] == "Ada"
    assert "rounds" not in trace_of(state())
    mermaid = to_mermaid(trace)
    assert "It is Rome" in mermaid
    assert '"path": ["1", "2", "3"]' in to_html(trace)


@pytest.mark.parametrize(
    "rounds",
    [
        "none",
        [{"id": "1"}],
        [one_round("1", queries=[1])],
        [one_round("1", facts=["text"])],
        [one_round("1", score=float("inf"))],
        [one_round("1"), one_round("1")],
    ],
)
def test_damaged_rounds_are_refused(rounds, tmp_path):
    trace = {**trace_of(state()), "rounds": rounds}
    (tmp_path / "t.json").write_text(json.dumps(trace))
    with pytest.raises(InputError, match="rounds"):
        load_trace(tmp_path / "t.json")
