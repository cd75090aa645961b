"""Aggregation and voting, against straightforward sums and published rules."""

import math
from collections import Counter
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError, InputError
from agentprm.evaluation import normalize_answer
from agentprm.rewards import aggregation
from agentprm.rewards.aggregation import (
    DEFAULT_AGGREGATION,
    aggregate,
    best_of_n,
    first_error,
    majority,
    weighted_majority,
)

rows = st.lists(st.floats(0, 1), min_size=1, max_size=8)


@given(rows)
@settings(deadline=None, max_examples=60)
def test_each_aggregation_is_what_its_name_says(scores):
    assert aggregate(scores, "min") == sorted(scores)[0]
    assert aggregate(scores, "max") == sorted(scores)[-1]
    assert aggregate(scores, "last") == scores[-1]
    assert aggregate(scores, "mean") == pytest.approx(sum(scores) / len(scores))
    assert aggregate(scores, "sum") == pytest.approx(sum(scores))
    floored = [max(score, 1e-12) for score in scores]
    assert aggregate(scores, "product") == pytest.approx(math.prod(floored), rel=1e-9)
    assert aggregate(scores, "geometric_mean") == pytest.approx(math.prod(floored) ** (1 / len(scores)))
    wrong = [i for i, score in enumerate(scores) if score < 0.5]
    assert first_error(scores) == (wrong[0] if wrong else -1)
    assert aggregate(scores, "first_error") == (wrong[0] / len(scores) if wrong else 1.0)


def test_a_product_of_many_steps_neither_underflows_nor_forgets_the_order():
    long, longer = [0.01] * 150, [0.01] * 149 + [0.02]
    assert 0 < aggregate(long, "product") < aggregate(longer, "product")
    assert aggregate([0.0, 0.9], "product") > aggregate([0.0, 0.1], "product")
    assert best_of_n([[0.0, 0.1], [0.0, 0.9]], "product") == 1


def test_length_bias_of_the_product_and_none_of_the_geometric_mean():
    short, long = [0.9] * 2, [0.9] * 9
    assert aggregate(short, "product") > aggregate(long, "product")
    assert aggregate(short, "geometric_mean") == pytest.approx(aggregate(long, "geometric_mean"))


def test_every_training_type_has_a_known_default():
    assert set(DEFAULT_AGGREGATION) == set(get_args(aggregation.TrainingType))
    for how in DEFAULT_AGGREGATION.values():
        aggregate([0.5], how)
    assert DEFAULT_AGGREGATION["monte_carlo"] == "last"
    assert DEFAULT_AGGREGATION["human"] == "product"
    with pytest.raises(TypeError):
        DEFAULT_AGGREGATION["human"] = "min"


@pytest.mark.parametrize("bad", [[], [math.nan], [math.inf, 0.1]])
def test_no_score_and_no_number_are_errors(bad):
    with pytest.raises(InputError):
        aggregate(bad, "min")


def test_unfit_requests_name_the_remedy():
    with pytest.raises(ConfigurationError, match="geometric_mean"):
        aggregate([0.5], "harmonic")
    with pytest.raises(InputError, match="logits"):
        aggregate([-1.0, 0.5], "product")
    assert aggregate([-1.0, 0.5], "sum") == -0.5
    with pytest.raises(InputError):
        best_of_n([], "min")
    with pytest.raises(InputError):
        majority([])
    with pytest.raises(InputError, match="sigmoid"):
        weighted_majority(["a", "b"], [1.0, -0.5])
    with pytest.raises(InputError):
        weighted_majority(["a", "b"], [1.0])


def test_best_of_n_prefers_the_first_of_equals_and_any_step_to_none():
    assert best_of_n([[0.2], [0.7], [0.7]], "last") == 1
    assert best_of_n([[], [0.01]], "mean") == 1
    assert best_of_n([[], []], "mean") == 0
    assert best_of_n([[], [-5.0]], "sum") == 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1)), min_size=1, max_size=9))
@settings(deadline=None, max_examples=80)
def test_votes_agree_with_counting(ballots):
    answers, weights = [a for a, _ in ballots], [w for _, w in ballots]
    counts = Counter(answers)
    assert counts[answers[majority(answers)]] == max(counts.values())
    totals = {a: sum(w for b, w in ballots if b == a) for a in answers}
    chosen = weighted_majority(answers, weights)
    assert totals[answers[chosen]] == pytest.approx(max(totals.values()))
    # The index is one of the whole list, and of the winning group its best.
    assert weights[chosen] == max(w for a, w in ballots if a == answers[chosen])
    assert weighted_majority(answers, [1.0] * len(answers)) == majority(answers)


def test_answers_are_compared_normalised():
    answers = ["The Thames", "Severn", "thames.", "Severn!", "THAMES"]
    assert majority(answers) == 0
    assert answers[majority(answers, normalize=normalize_answer)] == "The Thames"
    picked = weighted_majority(answers, [0.1, 0.9, 0.2, 0.9, 0.3], normalize=normalize_answer)
    assert answers[picked] == "Severn"


def test_candidates_without_an_answer_do_not_vote():
    assert majority([None, None, "a"]) == 2
    assert weighted_majority([None, "a", None], [0.9, 0.1, 0.9]) == 1
    assert weighted_majority([None, None], [0.1, 0.2]) == 1
