"""What is taken as a reward, what a reward may give, and what a model gets without one."""

import math
import warnings

import numpy as np
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda

from agentprm.budget import SearchBudget, empty_usage, metered
from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.graphs import create_reasoning_graph
from agentprm.nodes import JudgeAnswer, LookAhead, ScoreSteps
from agentprm.rerank import CriticReranker
from agentprm.rewards import (
    Checked,
    FunctionReward,
    Fused,
    Grounding,
    PrefixReward,
    ProcessRewardModel,
    Relevance,
    SelfJudgement,
    VerdictReward,
    as_reward,
    as_trajectory,
    check_scores,
    default_reward,
)
from agentprm.rewards.checkers import ArithmeticChecker
from agentprm.search import PAV
from agentprm.testing import FakeReward, ScriptedLanguageModel, fake_store

TWO = as_trajectory("One.\n\nTwo.")
STATE = {"question": "Who?", "answer": "Brunel", "documents": []}


class Gives(ProcessRewardModel):
    """Gives whatever it was told."""

    def __init__(self, rows, space="probability"):
        self.rows, self.space = rows, space

    def score(self, question, trajectories):
        return self.rows


def length(question, steps):
    return len(steps) / 10


async def alength(question, steps):
    return len(steps) / 10


def test_functions_and_runnables_are_rewards():
    for reward in (length, RunnableLambda(lambda given: len(given["steps"]) / 10), FakeReward(length)):
        assert as_reward(reward).score("Q?", [TWO, TWO[:1]]) == [[0.1, 0.2], [0.1]]


async def test_async_functions_are_rewards_on_the_async_path():
    assert await as_reward(alength).ascore("Q?", [TWO]) == [[0.1, 0.2]]
    assert await as_reward(length).ascore("Q?", [TWO]) == [[0.1, 0.2]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigurationError, match="ainvoke"):
            as_reward(alength).score("Q?", [TWO])


def test_what_is_no_reward_is_refused_with_the_way_out():
    for model in (FakeListChatModel(responses=["x"]), ScriptedLanguageModel({})):
        with pytest.raises(ConfigurationError, match="default_reward"):
            as_reward(model)
    with pytest.raises(ConfigurationError, match=r"FakeReward\(…\)"):
        as_reward(FakeReward)
    with pytest.raises(ConfigurationError, match="function"):
        as_reward(3)


def test_a_function_may_leave_a_step_unscored():
    (row,) = FunctionReward(lambda question, steps: None if len(steps) > 1 else 1).score("Q?", [TWO])
    assert row[0] == 1.0
    assert math.isnan(row[1])


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (None, "one score per step"),
        ([0.5], "one score per step"),
        (0.5, "one score per step"),
        ("ab", "one score per step"),
        ({"score": 1}, "one score per step"),
        ([[0.5], [0.5]], "2 lists of scores for 1"),
        ([[0.5]], "1 scores for 2 steps"),
        ([["high", 0.5]], "number"),
        ([["0.5", 0.5]], "number"),
        ([[[0.5], [0.5]]], "number"),
        ([[5.0, 0.5]], "as a probability"),
        ([[-0.1, 0.5]], "as a probability"),
        ([[math.inf, 0.5]], "finite"),
    ],
)
def test_scores_of_the_wrong_kind_are_named(rows, match):
    with pytest.raises(ConfigurationError, match=match):
        check_scores(Gives(rows), rows, [TWO])


def test_scores_of_the_right_kind_become_floats():
    for rows in (np.array([[0.25, 1]]), [(np.float32(0.25), True)], [[0.25, 1 + 1e-9]]):
        found = check_scores(Gives(rows), rows, [TWO])
        assert found == [[0.25, 1.0]]
        assert {type(score) for score in found[0]} == {float}
    assert check_scores(Gives([], "logit"), [[5, -3.5]], [TWO]) == [[5.0, -3.5]]
    assert math.isnan(check_scores(Gives([]), [[0.5, None]], [TWO])[0][1])


@pytest.mark.parametrize("rows", [None, [0.5], [[5.0]], [[0.5, 0.5]]])
def test_nodes_and_rerankers_say_what_is_wrong_with_a_reward(rows):
    with pytest.raises(ConfigurationError, match="Gives"):
        JudgeAnswer(Gives(rows)).invoke(STATE)
    with pytest.raises(ConfigurationError, match="Gives"):
        CriticReranker(critic=Gives(rows)).compress_documents(fake_store(["a"]).similarity_search("a"), "q")


def test_the_node_takes_a_function():
    assert JudgeAnswer(lambda question, steps: 0.25).invoke(STATE)["score"] == 0.25


@pytest.mark.parametrize("kind", [Grounding, Relevance, SelfJudgement])
def test_a_chat_model_without_likelihoods_is_told_what_to_use(kind):
    with pytest.raises(CapabilityError, match=r"FakeListChatModel.*default_reward"):
        kind(FakeListChatModel(responses=["x"]))
    with pytest.raises(ConfigurationError, match="passages"):
        kind(ScriptedLanguageModel({}, likelihood=lambda p, c: -1.0), passages=0)


def test_the_default_reward_suits_the_model():
    fused = default_reward(ScriptedLanguageModel({}, likelihood=lambda p, c: -1.0), passages=2)
    assert isinstance(fused, Fused)
    assert [type(part) for part in fused.rewards] == [Grounding, Relevance]
    assert [part.passages for part in fused.rewards] == [2, 2]
    judge = default_reward(FakeListChatModel(responses=["Fine.\nVerdict: Yes", "Bad.\nVerdict: No"]))
    assert isinstance(judge, VerdictReward)
    assert judge.score("Q?", [TWO]) == [[1.0, 0.0]]


def test_a_chat_model_needs_no_reward_in_the_graph():
    replies = ["Final answer: Brunel", "It follows.\nVerdict: Yes", "Brunel"]
    graph = create_reasoning_graph(FakeListChatModel(responses=replies), fake_store(["x"]), candidates=1)
    result = graph.compile().invoke({"question": "Who designed it?"})
    assert result["answer"] == "Brunel"
    assert [step["score"] for step in result["prm_steps"]] == [1.0]


def test_the_gate_is_the_reward_s():
    reward = FakeReward()
    assert reward.gate == 0.5
    reward.space = "logit"
    assert reward.gate == 0.0
    reward.threshold = -1.5
    assert reward.gate == -1.5


def test_logits_are_not_all_weak_by_default():
    """A log-ratio of .1 speaks for a step, though it is below .5."""
    model = ScriptedLanguageModel({"": ["Final answer: Brunel"] * 9})
    reward = FunctionReward(lambda question, steps: 0.1, space="logit")
    result = create_reasoning_graph(model, fake_store(["x"]), reward).compile().invoke({"question": "Who?"})
    assert not any("refines" in step for step in result["prm_steps"])


def test_pav_refuses_logits_at_construction():
    reward = FunctionReward(length, space="logit")
    model = ScriptedLanguageModel({}, likelihood=lambda p, c: -1.0)
    with pytest.raises(ConfigurationError, match="PAV"):
        LookAhead([ScoreSteps(reward)], value=PAV())
    with pytest.raises(ConfigurationError, match="PAV"):
        create_reasoning_graph(model, fake_store(["x"]), reward, value=PAV())


def test_reprs_are_short():
    model = ScriptedLanguageModel({}, likelihood=lambda p, c: -1.0)
    assert repr(Grounding(model)) == "Grounding(ScriptedLanguageModel)"
    assert repr(default_reward(model)) == (
        "Fused([Grounding(ScriptedLanguageModel), Relevance(ScriptedLanguageModel)], 'geometric_mean')"
    )
    assert repr(as_reward(length)) == "FunctionReward(length)"


def test_keys_of_prefixes_cost_linear_time():
    """A trajectory of n steps is hashed once, not once a prefix; and only new prefixes are built."""

    class Text(str):
        read = 0

        def __repr__(self):
            Text.read += 1
            return super().__repr__()

    class Half(PrefixReward):
        def score_prefixes(self, question, prefixes):
            return [0.5] * len(prefixes)

    steps = [dict(step, thought=Text(f"step {i}")) for i, step in enumerate(TWO * 100)]
    with metered() as meter:
        assert Half().score("Q?", [steps, steps]) == [[0.5] * 200] * 2
    assert Text.read == 400
    assert meter.usage["reward_calls"] == 200


def test_half_a_surrogate_in_a_step_is_scored():
    assert FunctionReward(length).score("Q\ud83d?", [as_trajectory("\ud83d")]) == [[0.1]]


@pytest.mark.parametrize("most", range(1, 9))
def test_a_judge_in_words_stays_within_the_budget(most):
    replies = ["Search: Who is Brunel?", "Search: Where is it?", "An engineer.", "Fine.\nVerdict: Yes"]
    graph = create_reasoning_graph(
        FakeListChatModel(responses=replies),
        fake_store(["Brunel: an engineer."]),
        candidates=2,
        budget=SearchBudget(model_calls=most),
    )
    usage = graph.compile().invoke({"question": "Who designed the bridge?"})["prm_usage"]
    assert usage["model_calls"] <= most


def test_rewards_say_how_many_calls_they_take():
    model = ScriptedLanguageModel({"": ["Fine.\nVerdict: Yes"]}, likelihood=lambda p, c: -1.0)
    rewards = [Grounding(model), Relevance(model), SelfJudgement(model), default_reward(model)]
    rewards += [VerdictReward(model, k=2, soft=soft) for soft in (True, False)]
    for reward in [*rewards, Checked(Grounding(model), [ArithmeticChecker()])]:
        with metered() as meter:
            reward.score("Q?", [TWO])
        assert meter.usage["model_calls"] <= reward.model_calls(2) <= meter.usage["model_calls"] + 2
    assert as_reward(length).model_calls(2) == 0


def test_judging_an_answer_stays_within_the_budget():
    judge = JudgeAnswer(default_reward(FakeListChatModel(responses=["x"])), budget={"model_calls": 1})
    spent = {"prm_usage": {**empty_usage(), "model_calls": 1}}
    assert judge.invoke(STATE | spent)["score"] is None
