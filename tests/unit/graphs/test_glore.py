"""GLoRe: where the first error is, local and global refinement, and the choice among the three."""

import asyncio
import itertools

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentprm.graphs import create_glore_graph
from agentprm.lm import Capabilities
from agentprm.nodes.drafts import locate_error
from agentprm.testing import FakeReward, ScriptedLanguageModel
from tests.unit.world import QUESTION, store


def policy(text):
    """A draft that goes wrong in its second step; the local fix says L, the new draft G."""
    if "You review one step" in text:
        return "Fault: finding. Look again."
    if "Begin it anew" in text:
        return "Search: global start?"
    if "Replace a weak step" in text:
        return "Search: local fix?"
    if "Find out one thing" in text:
        return "Search: first?"
    if "Ask the question again" in text:
        known = text.rpartition("Known:")[2]
        for mark, answer in (("global", "G"), ("local", "L"), ("second", "D")):
            if mark in known:
                return f"Final answer: {answer}"
        return "Search: second?"
    return f"found {text.rpartition('Question:')[2].strip()}"


SCORES = {"first?": 0.9, "second?": 0.2, "local fix?": 0.8, "global start?": 0.7}


def steps_critic(question, path):
    return SCORES.get(path[-1]["query"], 0.9)


def glore(outcome=None, model=None, **kwargs):
    kwargs.setdefault("threshold", 0.5)
    model = model or ScriptedLanguageModel(policy, capabilities=Capabilities(n=True))
    judge = None if outcome is None else FakeReward(lambda q, p: outcome.get(p[-1]["final_answer"], 0.0))
    return create_glore_graph(model, store(), FakeReward(steps_critic), outcome=judge, candidates=1, **kwargs)


def run(*args, **kwargs):
    return glore(*args, **kwargs).compile().invoke({"question": QUESTION})


def tree(result):
    return [{k: v for k, v in s.items() if k != "usage"} for s in result["prm_steps"]]


@pytest.mark.parametrize("length", range(1, 5))
def test_the_first_step_below_the_threshold_is_the_error_else_the_lowest(length):
    for scores in itertools.product((0.1, 0.4, 0.6, 0.9), repeat=length):
        below = [i for i, score in enumerate(scores) if score < 0.5]
        assert locate_error(scores, 0.5) == (below[0] if below else scores.index(min(scores)))


@pytest.mark.parametrize("values", list(itertools.permutations((0.1, 0.2, 0.4))))
def test_the_best_of_draft_local_and_global_is_taken(values):
    outcome = dict(zip("DLG", values, strict=True))
    result = run(outcome)
    assert result["answer"] == max(outcome, key=outcome.__getitem__)
    assert result["prm_stop_reason"] == "answered"
    leaves = {s["final_answer"]: s["value"] for s in result["prm_steps"] if s["final_answer"]}
    assert leaves == outcome


def test_among_equals_the_draft_stays():
    assert run({"D": 0.3, "L": 0.3, "G": 0.3})["answer"] == "D"


def test_a_draft_above_the_threshold_is_not_refined():
    for kwargs in ({"outcome": {"D": 0.6, "L": 0.9, "G": 0.9}}, {"outcome": {"L": 1.0}, "threshold": None}):
        result = run(**kwargs)
        assert result["answer"] == "D"
        assert not any("refines" in s for s in result["prm_steps"])


def test_the_local_refinement_keeps_what_stands_before_the_first_error():
    result = run({"D": 0.1, "L": 0.9, "G": 0.2})
    steps = {s["id"]: s for s in result["prm_steps"]}
    local, anew = steps["1.1r"], steps["1g"]
    assert (local["refines"], local["parent_id"], local["query"]) == ("1.1", "1", "local fix?")
    assert (anew["refines"], anew["parent_id"], anew["query"]) == ("1", None, "global start?")
    assert local["critique"] == anew["critique"] == "Look again."
    path = [s["id"] for s in result["prm_steps"] if s["status"] == "committed"]
    assert path == ["1", "1.1r", "1.1r.1"]


def test_without_an_outcome_reward_the_steps_decide():
    result = run()  # minima: draft .2, local .8, global .7
    assert result["answer"] == "L"
    values = {s["final_answer"]: s["value"] for s in result["prm_steps"] if s["final_answer"]}
    assert values == pytest.approx({"D": 0.2, "L": 0.8, "G": 0.7})


def test_refinements_that_do_not_parse_leave_the_draft():
    def script(text):
        return "???" if "Replace a weak" in text or "Begin it anew" in text else policy(text)

    model = ScriptedLanguageModel(script, capabilities=Capabilities(n=True))
    result = run({"D": 0.1}, model)
    assert result["answer"] == "D"
    assert {s["id"] for s in result["prm_steps"] if s["status"] == "unparsed"} == {"1.1r", "1g"}


@pytest.mark.parametrize("calls", range(14))
def test_budgets_are_kept_and_end_with_the_best_so_far(calls):
    for name in ("model_calls", "reward_calls", "retrievals"):
        result = run({"D": 0.1, "L": 0.9, "G": 0.2}, budget={name: calls})
        assert result["prm_usage"][name] <= calls
        assert isinstance(result["answer"], str)
        assert result["prm_stop_reason"]


def test_killed_at_every_step_it_resumes_to_the_same_tree_without_repeating_a_call():
    outcome = {"D": 0.1, "L": 0.2, "G": 0.9}
    wanted = run(outcome)
    model = ScriptedLanguageModel(policy, capabilities=Capabilities(n=True))
    builder = glore(outcome, model)
    graph = builder.compile(
        checkpointer=InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None)),
        interrupt_before=list(builder.nodes),
    )
    config = {"configurable": {"thread_id": "1"}}
    result = graph.invoke({"question": QUESTION}, config)
    while graph.get_state(config).next:
        result = graph.invoke(None, config)
    assert tree(result) == tree(wanted)
    assert len(model.prompts) == wanted["prm_usage"]["model_calls"]


def test_async_and_events():
    graph = glore({"D": 0.1, "L": 0.2, "G": 0.9}).compile()
    events = list(graph.stream({"question": QUESTION}, stream_mode="custom"))
    reviewed = [(e["kind"], e["value"]) for e in events if e["type"] == "agentprm.draft_reviewed"]
    assert reviewed == [("draft", 0.1), ("local", 0.2), ("global", 0.9)]
    assert tree(asyncio.run(graph.ainvoke({"question": QUESTION}))) == tree(
        run({"D": 0.1, "L": 0.2, "G": 0.9})
    )
