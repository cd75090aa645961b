"""RetrievalControl: passages where they are needed, once a turn."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.decisions import BaseDecisionModel, ClassifierResponse, NoulAnswer
from langchain_core.messages import SystemMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agentprm.errors import ConfigurationError
from agentprm.integrations import RetrievalControl, RewardGuidedActions
from agentprm.testing import FakeReward, ScriptedAgentModel, calls, fake_store

CONFIG: Any = {"configurable": {"thread_id": "1"}}
STORE = fake_store(["Brunel was born in Portsmouth.", "Paris lies on the Seine."])

both = pytest.mark.parametrize("how", ["sync", "async"])


@tool
def note(text: str) -> str:
    """Notes."""
    return "Noted."


def reply(messages: list[Any]) -> str:
    return "good: Portsmouth" if "Portsmouth" in messages[0].text else "a guess"


def agent_of(replies: Any = reply, *middleware: Any, **rest: Any) -> tuple[Any, ScriptedAgentModel]:
    model = ScriptedAgentModel(replies=replies)
    return create_agent(model, [note], middleware=middleware, checkpointer=InMemorySaver(), **rest), model


async def run(agent: Any, how: str, said: str = "Where was Brunel born?") -> str:
    given = {"messages": said}
    result = agent.invoke(given, CONFIG) if how == "sync" else await agent.ainvoke(given, CONFIG)
    assert "prm_lookup" not in result
    return result["messages"][-1].text


def lookup(agent: Any) -> Any:
    return agent.get_state(CONFIG).values["prm_lookup"]


liking = FakeReward(lambda question, steps: 0.9 if "good" in steps[-1]["thought"] else 0.1)


@both
@pytest.mark.parametrize(
    "system", [None, "Be brief.", SystemMessage([{"type": "text", "text": "Be brief."}])]
)
async def test_by_default_it_looks_up_once_a_turn(how, system):
    replies = [calls(("note", {"text": "x"})), "Portsmouth", "Hello"]
    agent, model = agent_of(replies, RetrievalControl(STORE, k=1, condense=False), system_prompt=system)
    assert await run(agent, how) == "Portsmouth"
    for request in model.requests:
        assert request[0].type == "system"
        assert request[0].text.count("Brunel was born in Portsmouth.") == 1
        assert request[0].text.startswith("Be brief.") == (system is not None)
    assert [d.id for d in lookup(agent)["documents"]] == ["d1"]
    assert await run(agent, how, "What lies on the Seine?") == "Hello"
    assert "Portsmouth" not in model.requests[-1][0].text


@both
async def test_a_function_decides(how):
    agent, _ = agent_of(reply, RetrievalControl(STORE, lambda question: "born" in question))
    assert await run(agent, how, "Hello!") == "a guess"
    assert lookup(agent) == {"documents": [], "need": 0.0, "score": None}
    assert await run(agent, how) == "good: Portsmouth"
    assert lookup(agent)["need"] == 1.0


class Classifier(BaseDecisionModel):
    model: str = "scripted"

    @property
    def _provider(self):
        return "scripted"

    def _classify(self, state, questions):
        need = 0.9 if "born" in state[-1].text else 0.1
        return ClassifierResponse(model="m", answers={"needed": NoulAnswer(type="noul", noul=need)})


@both
async def test_a_decision_model_decides(how):
    agent, _ = agent_of(reply, RetrievalControl(STORE, Classifier()))
    assert await run(agent, how, "Hello!") == "a guess"
    assert await run(agent, how) == "good: Portsmouth"
    assert lookup(agent)["need"] == 0.9


@both
async def test_a_weak_answer_makes_it_look_up_after_all(how):
    agent, model = agent_of(reply, RetrievalControl(STORE, reward=liking))
    given = {"messages": "Where was Brunel born?"}
    if how == "sync":
        parts = list(agent.stream(given, CONFIG, stream_mode="messages"))
    else:
        parts = [part async for part in agent.astream(given, CONFIG, stream_mode="messages")]
    assert [chunk.text for chunk, _ in parts] == ["good: Portsmouth"]
    assert lookup(agent)["score"] == 0.1
    assert len(model.requests) == 2


@both
async def test_a_good_answer_needs_no_passages(how):
    agent, model = agent_of(["good: known by heart"], RetrievalControl(STORE, reward=liking))
    assert await run(agent, how) == "good: known by heart"
    assert lookup(agent) == {"documents": [], "need": None, "score": 0.9}
    assert len(model.requests) == 1


@both
async def test_a_follow_up_is_made_a_question_of_its_own(how):
    def chat(messages: list[Any]) -> str:
        text = "\n".join(message.text for message in messages)
        if "User: Where was Brunel born?" in text:  # asked for a question that stands alone
            return "What lies on the Seine?"
        return "Paris." if "Paris lies" in text else "Portsmouth."

    agent, _ = agent_of(chat, RetrievalControl(STORE, k=1))
    assert await run(agent, how) == "Portsmouth."
    assert await run(agent, how, "And what lies on it?") == "Paris."
    assert [d.id for d in lookup(agent)["documents"]] == ["d2"]
    agent, _ = agent_of(["a", "b"], RetrievalControl(STORE, k=1, condense=False))
    await run(agent, how)
    assert await run(agent, how, "And then?") == "b"


def test_a_worse_second_answer_does_not_stay():
    falling = FakeReward(lambda question, steps: 0.4 if steps[-1]["thought"] == "first" else 0.3)
    agent, _ = agent_of(["first", "second"], RetrievalControl(STORE, reward=falling))
    assert agent.invoke({"messages": "Where?"}, CONFIG)["messages"][-1].text == "first"


def test_the_reward_sees_the_passages():
    seen: list[Any] = []

    def judge(question: str, steps: Any) -> float:
        seen.append(steps[-1]["passages"])
        return 0.1

    agent, _ = agent_of(reply, RetrievalControl(STORE, reward=judge, k=1))
    agent.invoke({"messages": "Where was Brunel born?"}, CONFIG)
    assert seen == [[], ["d1: Brunel was born in Portsmouth."]]


@both
async def test_beside_reward_guided_actions(how):
    agent, _ = agent_of(
        reply, RetrievalControl(STORE, reward=liking), RewardGuidedActions(liking, n=2, refine=0)
    )
    assert await run(agent, how) == "good: Portsmouth"


def test_mistakes():
    with pytest.raises(ConfigurationError, match="a function from the question"):
        RetrievalControl(STORE, decide=3)
    with pytest.raises(ConfigurationError, match="below"):
        RetrievalControl(STORE, below=float("nan"))
    with pytest.raises(ConfigurationError):
        RetrievalControl(object())
