"""RewardGuidedActions in LangChain's agents: chosen before it is done, unseen until then, within bounds."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest

pytest.importorskip("langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware, ModelCallLimitMiddleware
from langchain.agents.structured_output import StructuredOutputError, ToolStrategy
from langchain_core.messages import AIMessage, SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError, InputError, TransientModelError
from agentprm.integrations import RewardGuidedActions, action_trace
from agentprm.rewards import ProcessRewardModel, VerdictReward
from agentprm.testing import FakeReward, ScriptedAgentModel, ScriptedLanguageModel, calls
from agentprm.trace import search_tree

CONFIG: Any = {"configurable": {"thread_id": "1"}}


@tool
def search(query: str) -> str:
    """Searches."""
    ran.append(query)
    return f"Found: {query}."


ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran():
    ran.clear()


def looks(query: str) -> AIMessage:
    return calls(("search", {"query": query}))


def liking(word: str = "good") -> FakeReward:
    return FakeReward(lambda question, steps: 0.9 if word in steps[-1]["thought"] else 0.1)


def agent_of(replies: Any, *middleware: Any, **rest: Any) -> Any:
    return create_agent(
        ScriptedAgentModel(replies=replies),
        [search],
        middleware=middleware,
        checkpointer=InMemorySaver(),
        **rest,
    )


async def run(agent: Any, how: str, given: Any = "Where?") -> dict[str, Any]:
    state = given if isinstance(given, Command) else {"messages": given}
    return agent.invoke(state, CONFIG) if how == "sync" else await agent.ainvoke(state, CONFIG)


def rounds_of(agent: Any) -> list[Any]:
    return agent.get_state(CONFIG).values["prm_actions"]


both = pytest.mark.parametrize("how", ["sync", "async"])


@both
async def test_the_best_of_several_tool_calls_is_done_and_no_other(how):
    agent = agent_of(
        [looks("bad"), looks("bad"), looks("good"), looks("poor"), "all good"], RewardGuidedActions(liking())
    )
    result = await run(agent, how)
    assert ran == ["good"]
    assert [m.text for m in result["messages"]] == ["Where?", "", "Found: good.", "all good"]
    assert "prm_actions" not in result
    first, second = rounds_of(agent)
    summary = [
        (c["tool_calls"][0]["args"]["query"], c["score"], c["count"], c["chosen"])
        for c in first["candidates"]
    ]
    assert summary == [("bad", 0.1, 2, False), ("good", 0.9, 1, True), ("poor", 0.1, 1, False)]
    assert [c["text"] for c in second["candidates"]] == ["all good"]
    assert (first["usage"]["model_calls"], first["usage"]["reward_calls"]) == (4, 3)
    assert first["usage"]["completion_tokens"] == 20


@both
async def test_an_action_that_scores_well_is_not_sampled_again(how):
    agent = agent_of([looks("good"), "all good"], RewardGuidedActions(liking()))
    await run(agent, how)
    assert [len(entry["candidates"]) for entry in rounds_of(agent)] == [1, 1]
    assert sum(entry["usage"]["model_calls"] for entry in rounds_of(agent)) == 2


def test_below_none_always_samples():
    agent = agent_of(["good 1", "good 2"], RewardGuidedActions(liking(), n=2, below=None))
    agent.invoke({"messages": "Where?"}, CONFIG)
    assert len(rounds_of(agent)[0]["candidates"]) == 2


@both
async def test_a_weak_action_is_reconsidered_with_the_critique(how):
    judge = ScriptedLanguageModel(
        lambda text: "Fine. Verdict: Yes" if "Step to judge:\nBy ship" in text else "It guesses. Verdict: No"
    )
    agent = agent_of(["By air", "By ship"], RewardGuidedActions(VerdictReward(judge, soft=False), n=1))
    result = await run(agent, how)
    assert result["messages"][-1].text == "By ship"
    assert [m.type for m in result["messages"]] == ["human", "ai"]  # the critique is no part of it
    candidates = rounds_of(agent)[0]["candidates"]
    assert [(c["text"], c["score"], c["refined"], c["chosen"]) for c in candidates] == [
        ("By air", 0.0, False, False),
        ("By ship", 1.0, True, True),
    ]


def test_what_the_model_is_shown_when_it_reconsiders():
    model = ScriptedAgentModel(replies=["By air", "By ship"])
    create_agent(model, middleware=[RewardGuidedActions(liking("ship"), n=1)]).invoke({"messages": "How?"})
    shown = model.requests[1][-1]
    assert shown.type == "human"
    assert "By air" in shown.text
    assert "It scored 0.10." in shown.text


def test_a_worse_second_thought_is_not_done():
    reward = FakeReward(lambda question, steps: {"first": 0.2, "second": 0.1}[steps[-1]["thought"]])
    agent = agent_of(["first", "second"], RewardGuidedActions(reward, n=1))
    assert agent.invoke({"messages": "Where?"}, CONFIG)["messages"][-1].text == "first"


@both
async def test_parallel_tool_calls_are_one_action_in_any_order(how):
    two = [("search", {"query": "a"}), ("search", {"query": "b"})]
    agent = agent_of(
        [calls(*two), calls(*two[::-1]), calls(("search", {"query": "good"}), two[0]), "good"],
        RewardGuidedActions(liking(), n=3),
    )
    await run(agent, how)
    assert sorted(ran) == ["a", "good"]
    assert [c["count"] for c in rounds_of(agent)[0]["candidates"]] == [2, 1]


class City(BaseModel):
    """Where something is."""

    name: str


@both
async def test_structured_output(how):
    replies = [
        calls(("City", {"name": "bad"})),
        calls(("City", {"nome": "x"})),
        calls(("City", {"name": "good"})),
    ]
    agent = agent_of(replies, RewardGuidedActions(liking(), n=3), response_format=ToolStrategy(City))
    result = await run(agent, how)
    assert result["structured_response"] == City(name="good")
    entry = rounds_of(agent)[0]
    # Threads take the replies in any order.
    assert {(c["final"], c["score"]) for c in entry["candidates"]} == {
        (True, 0.1),
        (False, None),
        (True, 0.9),
    }
    assert entry["failures"] == 1


@both
async def test_structured_output_that_raises(how):
    strict = ToolStrategy(City, handle_errors=False)
    wrong = calls(("City", {"nome": "x"}))
    agent = agent_of(
        [wrong, calls(("City", {"name": "good"}))], RewardGuidedActions(liking(), n=2), response_format=strict
    )
    assert (await run(agent, how))["structured_response"] == City(name="good")
    agent = agent_of([wrong] * 3, RewardGuidedActions(liking(), n=2), response_format=strict)
    with pytest.raises(StructuredOutputError):
        await run(agent, how)


@both
@pytest.mark.parametrize("first", [True, False])
async def test_a_human_approves_only_what_was_chosen(how, first):
    ours, human = RewardGuidedActions(liking(), n=2), HumanInTheLoopMiddleware({"search": True})
    agent = agent_of([looks("bad"), looks("good"), "good"], *((ours, human) if first else (human, ours)))
    result = await run(agent, how)
    (request,) = result["__interrupt__"][0].value["action_requests"]
    assert request["args"] == {"query": "good"}
    assert ran == []
    assert len(rounds_of(agent)) == 1
    result = await run(agent, how, Command(resume={"decisions": [{"type": "approve"}]}))
    assert ran == ["good"]
    assert result["messages"][-1].text == "good"
    assert len(rounds_of(agent)) == 2  # the approval has repeated no call


@both
async def test_candidates_are_not_streamed(how):
    agent = agent_of(
        [looks("bad"), looks("good"), "so bad a guess", "a good guess"], RewardGuidedActions(liking(), n=2)
    )
    given = {"messages": "Where?"}
    if how == "sync":
        parts = list(agent.stream(given, CONFIG, stream_mode=["messages", "custom"]))
    else:
        parts = [part async for part in agent.astream(given, CONFIG, stream_mode=["messages", "custom"])]
    seen = [chunk[0].text for mode, chunk in parts if mode == "messages"]
    assert seen == ["", "Found: good.", "a good guess"]
    events = [chunk for mode, chunk in parts if mode == "custom"]
    assert events == [{"type": "agentprm.action_chosen", **entry} for entry in rounds_of(agent)]


def test_candidates_are_not_in_the_event_stream():
    agent = agent_of(["so bad a guess", "a good guess"], RewardGuidedActions(liking(), n=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the interface is a beta of LangGraph
        stream = agent.stream_events({"messages": "Where?"}, CONFIG, version="v3")
        assert [str(message.text) for message in stream.messages] == ["a good guess"]


def test_the_next_turn_starts_afresh_and_the_reward_sees_the_conversation():
    seen: list[Any] = []

    def judge(question: str, steps: Any) -> float:
        seen.append((question, [dict(step) for step in steps]))
        return 0.9

    agent = agent_of([looks("Brunel"), "Portsmouth.", "A bridge."], RewardGuidedActions(FakeReward(judge)))
    agent.invoke({"messages": [SystemMessage("Be brief."), ("human", "Where was Brunel born?")]}, CONFIG)
    assert seen[-1][0] == "Where was Brunel born?"
    assert seen[-1][1][-1] == {
        "query": 'search(query="Brunel")', "passages": ["Found: Brunel."], "thought": "Portsmouth.",
        "final_answer": "Portsmouth.",
    }  # fmt: skip
    agent.invoke({"messages": "And what did he build?"}, CONFIG)
    assert "Where was Brunel born?" in seen[-1][0]
    assert seen[-1][0].endswith("And what did he build?")
    assert len(rounds_of(agent)) == 1


@both
@pytest.mark.parametrize(
    ("budget", "sampled", "note"),
    [
        (SearchBudget(model_calls=3), 3, "budget: model_calls"),
        ({"model_calls": 3}, 3, "budget: model_calls"),
        (SearchBudget(model_calls=0), 1, "budget: model_calls"),
        (SearchBudget(reward_calls=1), 1, "budget: reward_calls"),
        (SearchBudget(reward_calls=2), 4, "budget: reward_calls"),
        (SearchBudget(tokens=10), 1, "budget: tokens"),
        (SearchBudget(deadline_s=0), 1, "budget: deadline_s"),
    ],
)
async def test_a_budget_ends_the_choosing_not_the_agent(how, budget, sampled, note):
    agent = agent_of(
        ["bad", "bad 1", "bad 2", "bad 3", "bad 4"], RewardGuidedActions(liking(), budget=budget)
    )
    result = await run(agent, how)
    assert result["messages"][-1].text == "bad"
    (entry,) = rounds_of(agent)
    assert (entry["usage"]["model_calls"], entry["note"]) == (sampled, note)


def test_the_budget_is_that_of_a_turn():
    agent = agent_of(
        ["bad", "good", "bad again", "good again"],
        RewardGuidedActions(liking(), n=2, budget=SearchBudget(model_calls=2)),
    )
    for expected in ("good", "good again"):
        assert agent.invoke({"messages": "Where?"}, CONFIG)["messages"][-1].text == expected


class Broken(ProcessRewardModel):
    def score(self, question: str, trajectories: Any) -> list[list[float]]:
        raise TransientModelError("The judge is overloaded.")


@both
async def test_without_its_judge_the_agent_goes_on(how):
    agent = agent_of(["an answer"], RewardGuidedActions(Broken()))
    assert (await run(agent, how))["messages"][-1].text == "an answer"
    assert rounds_of(agent)[0]["note"] == "reward: The judge is overloaded."


def test_an_action_without_a_score_is_done():
    agent = agent_of(["an answer"], RewardGuidedActions(FakeReward(lambda question, steps: math.nan)))
    assert agent.invoke({"messages": "Where?"}, CONFIG)["messages"][-1].text == "an answer"
    assert rounds_of(agent)[0]["candidates"][0]["score"] is None


@both
async def test_a_sample_that_fails_does_not_end_the_agent(how):
    agent = agent_of(["bad", TimeoutError("slow"), "good"], RewardGuidedActions(liking(), n=3))
    assert (await run(agent, how))["messages"][-1].text == "good"
    assert rounds_of(agent)[0]["failures"] == 1
    agent = agent_of([TimeoutError("slow")], RewardGuidedActions(liking()))
    with pytest.raises(TimeoutError):
        await run(agent, how)


def test_an_empty_reply_is_no_action():
    agent = agent_of(["", "", "good"], RewardGuidedActions(liking(), n=3))
    assert agent.invoke({"messages": "Where?"}, CONFIG)["messages"][-1].text == "good"


def test_further_samples_have_settings_of_their_own():
    model = ScriptedAgentModel(replies=["bad", "good"])
    middleware = RewardGuidedActions(liking(), n=2, settings={"temperature": 1.0})
    create_agent(model, [search], middleware=[middleware]).invoke({"messages": "Where?"})
    assert [settings.get("temperature") for settings in model.settings] == [None, 1.0]


def test_without_a_question_nothing_is_judged():
    agent = agent_of(["Hello."], RewardGuidedActions(liking()))
    agent.invoke({"messages": [AIMessage("I am here.")]}, CONFIG)
    assert "no human message" in rounds_of(agent)[0]["note"]


def test_beside_a_limit_on_model_calls():
    limit = ModelCallLimitMiddleware(run_limit=1)
    agent = agent_of(["bad", "good"], limit, RewardGuidedActions(liking(), n=2))
    assert agent.invoke({"messages": "Where?"}, CONFIG)["messages"][-1].text == "good"


def test_the_choices_can_be_drawn(capsys):
    agent = agent_of([looks("bad"), looks("good"), "all good"], RewardGuidedActions(liking(), n=2))
    agent.invoke({"messages": "Where?"}, CONFIG)
    trace = action_trace(agent.get_state(CONFIG).values)
    assert (trace["question"], trace["answer"]) == ("Where?", "all good")
    assert [(s["id"], s["status"], s["score"]) for s in trace["steps"]] == [
        ("1", "rejected", 0.1), ("2", "committed", 0.9), ("2.1", "committed", 0.9),
    ]  # fmt: skip
    assert trace["usage"]["model_calls"] == 3
    from rich.console import Console

    Console().print(search_tree(trace))
    assert 'search(query="good")' in capsys.readouterr().out
    with pytest.raises(InputError, match="get_state"):
        action_trace({"messages": []})


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": "4"},
        {"below": "low"},
        {"refine": True},
        {"n": 0},
        {"refine": -1},
        {"below": math.nan},
        {"budget": {"bugdet": 1}},
    ],
)
def test_unusable_settings(wrong):
    with pytest.raises(ConfigurationError):
        RewardGuidedActions(liking(), **wrong)
    with pytest.raises(ConfigurationError, match="default_reward"):
        RewardGuidedActions(ScriptedAgentModel(replies=[]))


def test_a_function_is_a_reward_and_thinking_is_no_part_of_an_action():
    seen: list[str] = []

    def judge(question: str, steps: Any) -> float:
        seen.append(steps[-1]["thought"])
        return 0.9

    agent = agent_of(["<think>Paris, I guess.</think>Portsmouth"], RewardGuidedActions(judge))
    agent.invoke({"messages": "Where?"}, CONFIG)
    assert seen == ["Portsmouth"]
