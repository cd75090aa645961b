"""Runs as training examples: paths with labels, refinements as preferences, rollouts from steps."""

import pytest
from langchain_core.documents import Document
from langgraph.checkpoint.memory import InMemorySaver

from agentprm.budget import empty_usage
from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.scale import LocalExecutor
from agentprm.search import Plain
from agentprm.testing import ScriptedLanguageModel
from agentprm.trace import trace_of
from agentprm.training.rollouts import AnsweredTrace, rollout_records, rollout_worker
from agentprm.training.traces import is_right, label_records, preference_records, saved_traces
from tests.unit import world


def step(name, parent=None, thought="found", score=0.5, **rest):
    return {
        "id": name, "parent_id": parent, "depth": 1, "query": f"q{name}", "retrieve": True, "doc_ids": ["d1"],
        "thought": thought, "final_answer": None, "score": score, "value": score, "status": "scored",
        "usage": empty_usage(), **rest,
    }  # fmt: skip


def trace(*steps, answer=""):
    documents = [Document(id="d1", page_content="Text.", metadata={"title": "Title"})]
    return trace_of(
        {"question": "Q?", "answer": answer, "prm_steps": list(steps), "prm_documents": documents}
    )


TREE = trace(
    step("1", score=0.9, status="committed"),
    step("2", score=0.2, status="rejected"),
    step("3", thought="", status="proposed", score=None),
    step("1.1", "1", "Lyon", 0.8, status="committed", final_answer="Lyon", query=""),
    step("1.2", "1", "Ulm", 0.4, final_answer="Ulm", query=""),
)


def test_every_path_is_a_record_with_its_scores():
    records = label_records(TREE)
    assert [(r.labels, [s.thought for s in r.steps]) for r in records] == [
        ([0.2], ["found"]),
        ([0.9, 0.8], ["found", "Lyon"]),
        ([0.9, 0.4], ["found", "Ulm"]),
    ]
    assert records[0].steps[0].passages == ["Title: Text."]
    assert records[0].steps[0].query == "q2"


def test_labels_by_outcome_and_by_evidence():
    outcome = label_records(TREE, by="outcome", answers=["Lyon"])
    assert [(r.labels, r.correct) for r in outcome] == [([None, 1.0], True), ([None, 0.0], False)]
    facts = [["q2", "r", "found"], ["x", "r", "Lyon"]]
    evidence = label_records(TREE, by="evidence", answers=["Lyon"], facts=facts)
    assert [r.labels for r in evidence] == [[1.0], [1.0, 1.0], [1.0, 0.0]]
    assert {r.labeller for r in evidence} == {"evidence"}
    for by in ("outcome", "evidence"):
        with pytest.raises(InputError):
            label_records(TREE, by=by)
    with pytest.raises(InputError, match="no probability"):
        label_records(trace(step("1", score=-3.0)))


def test_refinements_are_preferences_whichever_is_better():
    weak = step("1", score=0.3, thought="weak")
    better = step("1r", score=0.6, thought="better", refines="1", critique="Look again.")
    (pair,) = preference_records(trace(weak, better), answers=["x"])
    assert (pair.rejected.thought, pair.chosen.thought) == ("weak", "better")
    assert (pair.rejected_score, pair.chosen_score, pair.helped) == (0.3, 0.6, True)
    assert pair.critique == "Look again."
    assert pair.steps == []
    (pair,) = preference_records(trace(weak, {**better, "score": 0.1}))
    assert (pair.rejected.thought, pair.helped) == ("better", False)
    assert preference_records(trace(weak, {**better, "score": 0.3})) == []
    assert preference_records(trace(weak, {**better, "thought": ""})) == []


def test_siblings_are_paired_if_they_are_far_apart():
    pairs = preference_records(TREE, siblings=0.3)
    assert [(p.rejected.query or p.rejected.thought, p.chosen.query or p.chosen.thought) for p in pairs] == [
        ("q2", "q1"),
        ("Ulm", "Lyon"),
    ]
    assert [s.query for s in pairs[1].steps] == ["q1"]
    assert pairs[0].helped is None
    assert preference_records(TREE, siblings=0.8) == []


def test_right_answers():
    assert is_right("It was Lyon, France.", ["Lyon"])
    assert is_right("Ann Lee Fox", ["Ann M. Lee Fox"])
    assert not is_right("", ["Lyon"])
    assert not is_right("Lyon", [])
    assert not is_right("Ulm", ["Lyon"])


def make_graph(**settings):
    return create_reasoning_graph(
        world.language_model(), world.store(), world.good_reward(), value=Plain(), **settings
    )


def test_checkpoints_are_traces():
    saver = InMemorySaver()
    graph = make_graph().compile(checkpointer=saver)
    for thread in ("a", "b"):
        graph.invoke({"question": world.QUESTION}, {"configurable": {"thread_id": thread}})
    traces = list(saved_traces(saver))
    assert [t["answer"] for t in traces] == ["Portsmouth", "Portsmouth"]
    assert label_records(traces[0])


def test_rollouts_give_steps_their_values_and_go_on_after_a_stop(tmp_path):
    first = trace_of(make_graph().compile().invoke({"question": world.QUESTION}))
    runs = [AnsweredTrace(first, ["Portsmouth"]), AnsweredTrace(first, ["Berlin"]), AnsweredTrace(first, [])]
    seen = []

    def stop(key, outcome):
        seen.append(key)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout_records(make_graph, runs, tmp_path / "journal", rollouts=2, on_step=stop)
    more = []
    right, wrong = rollout_records(
        make_graph, runs, tmp_path / "journal", rollouts=2, on_step=lambda key, _: more.append(key)
    )
    assert not set(seen) & set(more)
    assert right.labels == [1.0] * len(right.steps)
    assert wrong.labels == [0.0] * len(wrong.steps)
    assert right.correct is True
    assert wrong.correct is False
    assert {(c.rollouts, c.correct) for c in right.counts} == {(2, 2)}
    assert len(seen) + len(more) == len(right.steps) + len(wrong.steps)
    threads = rollout_records(make_graph, runs, tmp_path / "threads", rollouts=2, executor=LocalExecutor(2))
    assert threads == [right, wrong]


def test_rollouts_go_on_from_the_step_and_not_from_the_question(tmp_path):
    shown = []

    def reply(text):
        shown.append(text)
        return world.reply(text)

    def graph():
        model = ScriptedLanguageModel(reply, likelihood=world.likelihood)
        return create_reasoning_graph(model, world.store(), world.good_reward(), value=Plain())

    run = trace_of(graph().compile().invoke({"question": world.QUESTION}))
    shown.clear()
    rollout_records(graph, [AnsweredTrace(run, ["Portsmouth"])], tmp_path / "journal", rollouts=1)
    assert shown
    assert not any("Find out one thing" in text for text in shown)
    assert all("Brunel" in text for text in shown)


def test_rollouts_refuse_what_they_cannot_go_on_with(tmp_path):
    with pytest.raises(ConfigurationError, match="select"):
        rollout_worker(lambda: create_rag_graph(world.language_model(), world.store()))
    with pytest.raises(ConfigurationError):
        rollout_records(make_graph, [], tmp_path / "journal", rollouts=0)
    with pytest.raises(ConfigurationError, match="cannot be imported"):
        rollout_worker("agentprm.nothing:graph")
    with pytest.raises(InputError, match="import path"):
        rollout_worker("nothing")
