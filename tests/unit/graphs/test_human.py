"""A human chooses between candidates; proposals are rejected before they are searched for."""

import asyncio

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_reasoning_graph
from agentprm.nodes import RejectEarly
from agentprm.testing import FakeReward
from tests.unit.world import QUESTION, good_reward, language_model, store

CONFIG = {"configurable": {"thread_id": "1"}}


def graph(**settings):
    settings = {"max_steps": 3, "threshold": None, **settings}
    builder = create_reasoning_graph(language_model(), store(), good_reward(), **settings)
    return builder.compile(checkpointer=InMemorySaver())


def request(result):
    return result["__interrupt__"][0].value


def test_a_human_chooses_against_the_reward_and_the_search_goes_on_from_there():
    compiled = graph(human=True)
    asked = request(compiled.invoke({"question": QUESTION}, CONFIG))
    assert asked["type"] == "agentprm.choose_steps"
    assert [c["thought"] for c in asked["candidates"]] == ["Brunel", "the Seine"]
    assert asked["candidates"][0]["score"] > asked["candidates"][1]["score"]
    result = compiled.invoke(Command(resume="2"), CONFIG)
    assert {c["parent_id"] for c in request(result)["candidates"]} == {"2"}
    while "__interrupt__" in result:
        result = compiled.invoke(Command(resume=[request(result)["candidates"][0]["id"]]), CONFIG)
    statuses = {s["id"]: s["status"] for s in result["prm_steps"]}
    assert (statuses["1"], statuses["2"]) == ("rejected", "committed")
    assert result["prm_stop_reason"]


@pytest.mark.parametrize("wrong", ["9", [], ["1", "9"], 3, None, {"id": "1"}])
def test_a_choice_that_is_none_is_asked_again(wrong):
    compiled = graph(human=True)
    compiled.invoke({"question": QUESTION}, CONFIG)
    again = request(compiled.invoke(Command(resume=wrong if wrong is not None else "none"), CONFIG))
    assert "['1', '2']" in again["error"]
    result = compiled.invoke(Command(resume="1"), CONFIG)
    assert {c["parent_id"] for c in request(result)["candidates"]} == {"1"}


def test_a_human_chooses_in_async_runs_too():
    async def run():
        compiled = graph(human=True)
        result = await compiled.ainvoke({"question": QUESTION}, CONFIG)
        return await compiled.ainvoke(Command(resume="2"), CONFIG), request(result)

    result, asked = asyncio.run(run())
    assert len(asked["candidates"]) == 2
    assert {c["parent_id"] for c in request(result)["candidates"]} == {"2"}


def test_a_human_cannot_choose_where_nothing_is_kept_to_go_on_from():
    builder = create_reasoning_graph(language_model(), store(), good_reward(), human=True, threshold=None)
    with pytest.raises(ConfigurationError, match="checkpointer"):
        builder.compile().invoke({"question": QUESTION})
    with pytest.raises(ConfigurationError, match="checkpointer"):
        asyncio.run(builder.compile().ainvoke({"question": QUESTION}))


def test_proposals_are_rejected_before_they_are_searched_for_and_survivors_are_scored_again():
    judged = []

    def by_query(question, prefix):
        if not prefix[-1]["thought"]:  # else it is a finished step before the proposal
            judged.append((prefix[-1]["query"], prefix[-1]["passages"]))
        return 0.9 if "Clifton" in prefix[-1]["query"] else 0.1

    result = graph(query_reward=FakeReward(by_query), keep=1).invoke({"question": QUESTION}, CONFIG)
    first = {s["query"]: s for s in result["prm_steps"] if s["depth"] == 1 and s["query"]}
    lost, kept = first["Which river flows through Paris?"], first["Who designed the Clifton Bridge?"]
    assert (lost["status"], lost["doc_ids"], lost["thought"], lost["score"]) == ("rejected", [], "", None)
    assert (lost["early_score"], kept["early_score"]) == (0.1, 0.9)
    assert kept["score"] == 0.7
    assert judged[:2] == [(kept["query"], []), (lost["query"], [])]
    assert result["answer"] == "Portsmouth"
    dear = graph().invoke({"question": QUESTION}, CONFIG)["prm_usage"]
    assert result["prm_usage"]["retrievals"] < dear["retrievals"]


def test_nothing_is_judged_where_all_survive_or_the_budget_does_not_reach():
    judged = []
    reward = FakeReward(lambda q, p: judged.append(p) or 0.5)
    graph(query_reward=reward, keep=9).invoke({"question": QUESTION}, CONFIG)
    assert judged == []
    bounded = graph(query_reward=reward, keep=1, budget={"reward_calls": 1})
    assert bounded.invoke({"question": QUESTION}, CONFIG)["prm_stop_reason"] == "budget: reward_calls"
    assert judged == []
    with pytest.raises(ConfigurationError, match="keep"):
        RejectEarly(reward, keep=0)
