"""Decision models as rewards, rewards as decision models."""

from __future__ import annotations

import asyncio
import math

import pytest
from langchain_core import decisions
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage

from agentprm.budget import metered
from agentprm.errors import CapabilityError, ConfigurationError, InputError, ParseError
from agentprm.integrations import DecisionReward, RewardDecisionModel, RewardGuidedActions
from agentprm.rerank import DecisionComparator
from agentprm.rewards import as_trajectory
from agentprm.testing import FakeReward, ScriptedAgentModel, ScriptedChatModel, calls


class Classifier(decisions.BaseDecisionModel):
    """Says yes to what holds the word "right"; remembers its states."""

    model: str = "scripted"
    states: list = []
    answers: bool = True

    @property
    def _provider(self):
        return "scripted"

    def _classify(self, state, questions):
        self.states.append(state)
        ((name, question),) = questions.items()
        if not self.answers:
            return decisions.ClassifierResponse(model="m", answers={})
        good = "right" in state["step"]
        if question.type == "noul":
            answer = decisions.NoulAnswer(type="noul", noul=0.9 if good else 0.2)
        else:
            answer = decisions.ScoreAnswer(
                type="score", score=3.0 if good else 1.0, legend={}, probabilities={}, confidence=1.0
            )
        usage = {"input_tokens": 10, "output_tokens": 1}
        return decisions.ClassifierResponse(model="m", answers={name: answer}, usage=usage)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_decision_model_scores_every_step(how):
    classifier = Classifier(states=[])
    reward = DecisionReward(classifier)
    both = [as_trajectory("All right.\n\nWrong.")]
    with metered() as meter:
        scores = reward.score("Why?", both) if how == "sync" else asyncio.run(reward.ascore("Why?", both))
    assert scores == [[0.9, 0.2]]
    assert {"question": "Why?", "earlier_steps": ["All right."], "step": "Wrong."} in classifier.states
    assert (meter.usage["model_calls"], meter.usage["prompt_tokens"], meter.usage["reward_calls"]) == (
        2,
        20,
        2,
    )
    reward.score("Why?", [as_trajectory("All right.\n\nWrong.\n\nNew.")])
    assert len(classifier.states) == 3  # only the new step is asked about


def test_its_questions():
    rubric = decisions.Score(instructions="How good?", criteria=["bad", "poor", "fair", "good"])
    right, wrong = [as_trajectory("right")], [as_trajectory("x")]
    assert DecisionReward(Classifier(), rubric).score("q", right) == [[1.0]]
    assert DecisionReward(Classifier(), rubric).score("q", wrong) == [[pytest.approx(1 / 3)]]
    assert DecisionReward(Classifier(), "Is it right?").score("q", right) == [[0.9]]
    assert math.isnan(DecisionReward(Classifier(answers=False)).score("q", right)[0][0])
    with pytest.raises(ConfigurationError, match="a Noul or a Score"):
        DecisionReward(Classifier(), decisions.Choice(instructions="Which?", criteria={"a": None}))
    with pytest.raises(ConfigurationError, match="VerdictReward"):
        DecisionReward(ScriptedChatModel(script={}))
    with pytest.raises(ConfigurationError, match="width"):
        DecisionReward(Classifier(), width=0)


def right(space="probability"):
    reward = FakeReward(lambda question, steps: 0.8 if "Portsmouth" in steps[-1]["thought"] else 0.2)
    reward.space = space
    return reward


BOTH = calls(("go", {"to": "Paris"}), ("go", {"to": "Portsmouth"}))
NOUL = decisions.Noul(instructions="Where was Brunel born?")


def ask(model, state, question=NOUL, how="sync"):
    request = {"state": state, "questions": {"it": question}}
    response = model.invoke(request) if how == "sync" else asyncio.run(model.ainvoke(request))
    return response.answers["it"]


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(
    "state",
    [
        "Portsmouth",
        [HumanMessage("Where?"), AIMessage("Portsmouth")],
        {"messages": [HumanMessage("Where?"), AIMessage("Portsmouth")]},
        {"question": "Where?", "answer": "Portsmouth", "documents": [Document("x", id="d")]},
        {
            "messages": [
                HumanMessage("Where?"),
                calls(("go", {"to": "Paris"}), ("go", {"to": "Portsmouth"})),
            ],
            "tool_call": {"name": "go", "args": {"to": "Portsmouth"}, "id": "2"},
        },
    ],
)
def test_a_reward_answers_yes_or_no(state, how):
    model = RewardDecisionModel(right())
    assert model.model == "FakeReward"
    assert ask(model, state, how=how).noul == 0.8
    assert ask(RewardDecisionModel(right(), yes="bad"), state, how=how).noul == pytest.approx(0.2)


def test_a_logit_becomes_a_probability():
    assert ask(RewardDecisionModel(right("logit")), "Portsmouth").noul == pytest.approx(
        1 / (1 + math.exp(-0.8))
    )


def test_a_reward_chooses():
    which = decisions.Choice(instructions="Where?", criteria={"Paris": None, "Portsmouth": "on the coast"})
    answer = ask(RewardDecisionModel(right()), "Brunel was born there.", which)
    assert (answer.choice, answer.confidence) == ("Portsmouth", pytest.approx(0.8))
    assert answer.probabilities == {"Paris": pytest.approx(0.2), "Portsmouth": pytest.approx(0.8)}
    never = RewardDecisionModel(FakeReward(lambda question, steps: 0.0))
    assert ask(never, "x", which).probabilities == {"Paris": 0.5, "Portsmouth": 0.5}


def test_what_it_cannot_answer():
    model = RewardDecisionModel(right())
    with pytest.raises(CapabilityError, match="Score"):
        ask(model, "x", decisions.Score(instructions="How?", criteria=["a", "b"]))
    for state in ({"question": "Where?"}, [HumanMessage("Where?")]):
        with pytest.raises(InputError, match="nothing to score"):
            ask(model, state)
    with pytest.raises(ParseError, match="no score"):
        ask(RewardDecisionModel(FakeReward(lambda question, steps: math.nan)), "x")
    with pytest.raises(ConfigurationError, match="default_reward"):
        RewardDecisionModel(ScriptedChatModel(script={}))


def test_a_reward_stops_bad_tool_calls_in_an_agent():
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.middleware import AutoModeMiddleware
    from langchain_core.tools import tool

    @tool
    def go(to: str) -> str:
        """Goes."""
        return f"Went to {to}."

    stop = AutoModeMiddleware(tools=[go], classifier=RewardDecisionModel(right(), yes="bad"))
    model = ScriptedAgentModel(replies=[BOTH, "Done."])
    result = agents.create_agent(model, [go], middleware=[stop]).invoke({"messages": "Go."})
    texts = [m.text for m in result["messages"] if m.type == "tool"]
    assert "blocked" in texts[0]
    assert texts[1] == "Went to Portsmouth."


def test_a_decision_model_guides_an_agent():
    agents = pytest.importorskip("langchain.agents")
    guide = RewardGuidedActions(DecisionReward(Classifier()), n=2)
    model = ScriptedAgentModel(replies=["a guess", "the right answer"])
    result = agents.create_agent(model, middleware=[guide]).invoke({"messages": "Why?"})
    assert result["messages"][-1].text == "the right answer"


def test_a_reward_compares_passages():
    """Two adapters in a row: `DecisionComparator` around a reward."""
    a, b = Document("Portsmouth", id="a"), Document("Paris", id="b")
    model = RewardDecisionModel(FakeReward(lambda question, steps: 0.5))
    assert DecisionComparator(model).compare("Where?", [(a, b)]) == [(0.5, 2, 0)]
