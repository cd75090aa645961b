"""Ensembles and mixtures of rewards, against the plain formulas."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards import Fused, NearestType, RoutedReward, reliability
from agentprm.testing import FakeEmbeddings, FakeReward

STEP = {"query": "q", "passages": [], "thought": "t", "final_answer": None}
TRAJECTORIES = [[STEP], [STEP, STEP], []]


def fixed(score):
    return FakeReward(lambda question, prefix: score * len(prefix))


def logits(score=-3.0):
    reward = fixed(score)
    reward.space = "logit"
    return reward


@given(
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.01, 5)), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=60)
def test_each_fusion_is_its_formula(parts):
    scores, weights = [s for s, _ in parts], [w for _, w in parts]
    rewards, total = [fixed(s) for s in scores], sum(weights)
    mean = sum(w * s for s, w in parts) / total
    geometric = math.prod(s ** (w / total) for s, w in parts)
    assert Fused(rewards, "mean", weights=weights).score("Q", TRAJECTORIES) == [
        [pytest.approx(mean)],
        [pytest.approx(mean), pytest.approx(2 * mean)],
        [],
    ]
    assert Fused(rewards, weights=weights).score("Q", TRAJECTORIES)[0][0] == pytest.approx(geometric)
    assert Fused(rewards).score("Q", TRAJECTORIES)[0][0] == pytest.approx(
        math.prod(scores) ** (1 / len(scores))
    )
    assert Fused(rewards, "min").score("Q", TRAJECTORIES)[1] == [min(scores), 2 * min(scores)]


def test_logits_can_be_averaged_but_not_multiplied():
    mean = Fused([logits(-3), logits(1)], "mean")
    assert mean.space == "logit"
    assert mean.score("Q", [[STEP]]) == [[-1.0]]
    with pytest.raises(ConfigurationError, match="logit"):
        Fused([logits()])
    with pytest.raises(ConfigurationError, match="one space"):
        Fused([logits(), fixed(0.5)], "mean")


def test_unfit_arguments_are_refused():
    for arguments in (
        {"rewards": []},
        {"rewards": [fixed(1)], "how": "max"},
        {"rewards": [fixed(1)], "weights": [1, 2]},
        {"rewards": [fixed(1)], "weights": [0]},
        {"rewards": [fixed(1)], "weights": [-1]},
        {"rewards": [fixed(1)], "weights": [math.nan]},
        {"rewards": [fixed(1), fixed(0)], "how": "min", "weights": [1, 1]},
    ):
        with pytest.raises(ConfigurationError):
            Fused(**arguments)


def test_reliability_weighs_by_what_is_better_than_chance():
    labels = [True, True, False, False]
    perfect, inverted, half = [0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.8, 0.9], [0.9, 0.2, 0.5, 0.1]
    assert reliability([perfect, inverted, half], labels) == [1.0, 0.0, pytest.approx(0.5)]
    with pytest.raises(InputError, match="chance"):
        reliability([inverted], labels)


def test_weights_by_reliability_beat_equal_ones_where_a_member_is_noise():
    import random

    from agentprm.evaluation.rewards import auc

    rng = random.Random(0)
    labels = [rng.random() < 0.5 for _ in range(400)]
    good = [0.5 * rng.random() + 0.3 * label for label in labels]
    noise = [rng.random() for _ in labels]
    weights = reliability([good[:200], noise[:200]], labels[:200])

    def fuse(w):
        row = iter(zip(good[200:], noise[200:], strict=True))
        pairs = list(row)
        position = {"i": -1}

        def member(index):
            return FakeReward(lambda q, p: pairs[position["i"]][index])

        ensemble = Fused([member(0), member(1)], "mean", weights=w)
        scores = []
        for i in range(len(pairs)):
            position["i"] = i
            scores.append(ensemble.score("Q", [[STEP]])[0][0])
        return auc(scores, labels[200:])

    assert fuse(weights) > fuse(None) + 0.02


def test_questions_go_to_the_expert_of_their_type():
    experts = {"bridge": fixed(0.2), "comparison": fixed(0.4)}
    routed = RoutedReward(lambda q: "comparison" if " or " in q else "bridge", experts)
    assert routed.score("A or B?", [[STEP]]) == [[0.4]]
    assert routed.score("Who?", [[STEP]]) == [[0.2]]
    assert (experts["bridge"].calls, experts["comparison"].calls) == (1, 1)
    with pytest.raises(ConfigurationError, match="'other'"):
        RoutedReward(lambda q: "other", experts).score("Q", [[STEP]])
    assert RoutedReward(lambda q: "other", experts, default="bridge").score("Q", [[STEP]]) == [[0.2]]
    with pytest.raises(ConfigurationError):
        RoutedReward(str, {})
    with pytest.raises(ConfigurationError):
        RoutedReward(str, experts, default="other")
    with pytest.raises(ConfigurationError, match="one space"):
        RoutedReward(str, {"a": fixed(1), "b": logits()})


def test_nearest_type_finds_the_kind_of_question():
    examples = {
        "comparison": ["Which film was released first, Emma or Ran?", "Which river is longer, Po or Ob?"],
        "bridge": ["Who is the mother of the director of Ran?", "Where was the author of Emma born?"],
    }

    class Counting(FakeEmbeddings):
        calls = 0

        def embed_query(self, text):
            self.calls += 1
            return super().embed_query(text)

    embeddings = Counting()
    route = NearestType(embeddings, examples)
    assert embeddings.calls == 4
    assert route("Which film was released first, Alien or Heat?") == "comparison"
    assert route("Who is the father of the director of Alien?") == "bridge"
    calls = embeddings.calls
    assert route("Who is the father of the director of Alien?") == "bridge"
    assert embeddings.calls == calls
    with pytest.raises(ConfigurationError):
        NearestType(embeddings, {"empty": []})


async def test_async_twins_agree():
    rewards = [fixed(0.2), fixed(0.4)]
    for reward in (
        Fused(rewards, "mean", weights=[1, 3]),
        RoutedReward(lambda q: "a", {"a": Fused(rewards)}),
    ):
        assert await reward.ascore("Q", TRAJECTORIES) == reward.score("Q", TRAJECTORIES)
