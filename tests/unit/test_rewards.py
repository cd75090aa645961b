"""Training-free rewards: one score per step, remembered, batch-invariant, equal to the plain formula."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.budget import metered
from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.lm import Capabilities
from agentprm.prompts import PROMPTS
from agentprm.rewards import Fused, Grounding, PrefixReward, Relevance, SelfJudgement
from agentprm.testing import FakeReward, ScriptedLanguageModel

KINDS = {"self": SelfJudgement, "grounding": Grounding, "relevance": Relevance}


def step(query, thought, *passages, final_answer=None):
    return {"query": query, "passages": list(passages), "thought": thought, "final_answer": final_answer}


FIRST = step("Who designed it?", "Brunel", "Bridge: designed by Brunel.")
SECOND = step("Where was Brunel born?", "Portsmouth", "Brunel: born in Portsmouth.")
LAST = step("", "Portsmouth", final_answer="Portsmouth")


def likelihood(prompt, continuation):
    """Depends on every character of both, so that any mix-up shows."""
    return -((sum(map(ord, prompt)) * 31 + sum(map(ord, continuation)) * 7) % 997) / 50


def model():
    return ScriptedLanguageModel({}, likelihood=likelihood)


@pytest.mark.parametrize("kind", KINDS)
def test_one_score_per_step_whatever_the_batch(kind):
    trajectories = [[FIRST], [FIRST, SECOND], [FIRST, SECOND, LAST], []]
    rows = KINDS[kind](model()).score("Q?", trajectories)
    assert [len(row) for row in rows] == [1, 2, 3, 0]
    assert rows[0][0] == rows[1][0] == rows[2][0]
    assert all(0 <= score <= 1 for row in rows for score in row)
    for trajectory, row in zip(trajectories, rows, strict=True):
        assert KINDS[kind](model()).score("Q?", [trajectory]) == [row]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_that_grows_pays_for_the_new_step_only(kind):
    reward = KINDS[kind](model())
    with metered() as first:
        reward.score("Q?", [[FIRST]])
    with metered() as second:
        reward.score("Q?", [[FIRST, SECOND], [FIRST, SECOND]])
    with metered() as third:
        reward.score("Q?", [[FIRST, SECOND]])
    costs = [meter.usage["reward_calls"] for meter in (first, second, third)]
    assert costs == [1, 1, 0]
    assert third.usage["model_calls"] == 0


def test_grounding_is_the_sigmoid_of_the_scaled_log_ratio():
    lm = model()
    (score,) = Grounding(lm).score("Q?", [[FIRST]])[0]
    with_passage = PROMPTS.complete.render(
        prefill=True, passages="Bridge: designed by Brunel.", known="(nothing yet)", query=FIRST["query"]
    )
    without = PROMPTS.complete.render(
        prefill=True, passages="(none)", known="(nothing yet)", query=FIRST["query"]
    )
    (a,), (b,) = lm.loglikelihood([with_passage, without], [[" Brunel"], [" Brunel"]])
    ratio = (a - b) / math.sqrt(lm.count_tokens(["Brunel"])[0])
    assert score == pytest.approx(1 / (1 + math.exp(-ratio)))


def test_self_judgement_is_the_share_of_yes():
    lm = ScriptedLanguageModel({}, likelihood=lambda p, c: math.log(0.3) if c == "Yes" else math.log(0.1))
    assert SelfJudgement(lm).score("Q?", [[FIRST]])[0][0] == pytest.approx(0.75)


def test_evidence_raises_and_irrelevance_lowers():
    def reads(prompt, continuation):
        return -1.0 if continuation.strip() in prompt else -8.0

    lm = ScriptedLanguageModel({}, likelihood=reads)
    supported, invented = Grounding(lm).score("Q?", [[FIRST], [{**FIRST, "thought": "Telford"}]])
    assert supported[0] > 0.5 >= invented[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(deadline=None)
def test_fused_is_the_geometric_mean(scores):
    parts = [FakeReward(lambda q, p, s=s: s) for s in scores]
    (fused,) = Fused(parts).score("Q?", [[FIRST]])[0]
    assert fused == pytest.approx(math.prod(scores) ** (1 / len(scores)))


async def test_async_twins_agree():
    for kind in KINDS.values():
        assert await kind(model()).ascore("Q?", [[FIRST, SECOND]]) == kind(model()).score(
            "Q?", [[FIRST, SECOND]]
        )
    fused = Fused([Grounding(model()), Relevance(model())])
    assert await fused.ascore("Q?", [[FIRST]]) == fused.score("Q?", [[FIRST]])


def test_construction_refuses_what_cannot_work():
    blind = ScriptedLanguageModel({}, capabilities=Capabilities())
    for kind in KINDS.values():
        with pytest.raises(CapabilityError, match="loglikelihood"):
            kind(blind)
    with pytest.raises(ConfigurationError):
        Fused([])
    logits = FakeReward()
    logits.space = "logit"
    with pytest.raises(ConfigurationError, match="logit"):
        Fused([logits])


def test_the_memory_is_bounded():
    class Counting(PrefixReward):
        seen = 0

        def score_prefixes(self, question, prefixes):
            self.seen += len(prefixes)
            return [0.5] * len(prefixes)

    reward = Counting(cache_size=2)
    for name in "abcab":
        reward.score(name, [[FIRST]])
    assert reward.seen == 5


@pytest.mark.models
def test_the_packaged_model_finds_evidence_in_a_passage():
    from agentprm import default_language_model

    lm = default_language_model()
    brunel = step(
        "In which city was Isambard Kingdom Brunel born?",
        "Portsmouth",
        "Isambard Kingdom Brunel: Brunel was an engineer who was born in Portsmouth in 1806.",
    )
    wrong = {**brunel, "thought": "Edinburgh"}
    beside = {**brunel, "passages": ["Seine: The Seine is a river that runs through Paris."]}
    question = "In which city was the engineer of the Clifton Suspension Bridge born?"
    right, invented, unread = Grounding(lm).score(question, [[brunel], [wrong], [beside]])
    assert right[0] > invented[0]
    assert right[0] > unread[0]
    near, far = Relevance(lm).score(question, [[brunel], [beside]])
    assert near[0] > far[0]
    # Neither the batch nor what was scored before changes a score.
    assert Grounding(lm).score(question, [[beside]])[0][0] == pytest.approx(unread[0], abs=1e-4)
