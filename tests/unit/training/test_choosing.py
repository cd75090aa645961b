"""Balance, annotators, questions and domains, against cases computed by hand."""

import math

import pytest

from agentprm.errors import ConfigurationError, InputError
from agentprm.training import StepCounts, StepLabelRecord
from agentprm.training.choosing import (
    annotator,
    balanced,
    choose_questions,
    domain_weights,
    value_and_depth,
)


def record(*labels):
    return StepLabelRecord(question="Q?", steps=["s"] * len(labels), labels=list(labels), labeller="hand")


def test_classes_are_balanced_by_dropping_labels():
    rows = [record(1, 1, 0.9), record(1, 0.2, None), record(1), record(0, 1)]
    kept = balanced(rows, seed=3)
    labels = [label for row in kept for label in row.labels if label is not None]
    assert sorted(label > 0.5 for label in labels) == [False, False, True, True]
    assert all(any(label is not None for label in row.labels) for row in kept)
    assert kept == balanced(rows, seed=3)
    assert {str(balanced(rows, seed=seed)) for seed in range(8)} != {str(kept)}
    assert balanced([record(None)]) == []


def test_values_and_depths_are_balanced():
    rows = [record(1, 0.5), record(1, 0.5), record(0, 0.5), record(1, 0.5)]
    kept = balanced(rows, by=value_and_depth)
    found = sorted(
        (place, label) for row in kept for place, label in enumerate(row.labels) if label is not None
    )
    assert found == [(0, 0.0), (0, 1.0), (1, 0.5)]


def test_hard_questions_go_to_the_stronger_annotator():
    def tried(correct, rollouts=5):
        return StepCounts(rollouts=rollouts, correct=correct)

    assert annotator(tried(2)) == "weak"
    assert annotator(tried(5)) == "none"
    assert annotator(tried(0)) == "stronger"
    assert annotator(tried(0), tried(3)) == "strong"
    assert annotator(tried(0), tried(0)) == "none"
    assert annotator(tried(0), tried(5)) == "none"
    with pytest.raises(InputError):
        annotator(StepCounts())


def test_questions_of_high_or_unknown_risk_are_chosen():
    results = {"easy": (8, 8), "new": (0, 0), "hard": (0, 8), "even": (4, 8)}
    # mean and deviation of Beta(1 + wrong, 1 + right):
    # hard .9 + .090, new .5 + .289, even .5 + .151, easy .1 + .090
    assert choose_questions(results, 4) == ["hard", "new", "even", "easy"]
    assert choose_questions(results, 1, mean=0.0) == ["new"]
    assert choose_questions(results, 2, deviation=0.0) == ["hard", "new"]  # new and even tie
    score = 0.9 + math.sqrt(9 * 1 / (100 * 11))
    assert choose_questions({"a": (0, 8), "b": (0, 0)}, 1, deviation=(score - 0.5) / 0.2) == ["b"]
    with pytest.raises(InputError):
        choose_questions({"a": (2, 1)}, 1)
    with pytest.raises(ConfigurationError):
        choose_questions(results, 1, prior=(0, 1))


def test_domains_that_help_the_meta_loss_gain():
    # products with the meta gradient: 2, -1, 0; weights 1.2, .9, 1.0 of a sum of 3.1
    gradients = {"near": [2.0, 5.0], "against": [-1.0, 0.0], "beside": [0.0, 3.0]}
    weights = domain_weights(dict.fromkeys(gradients, 1.0), gradients, [1.0, 0.0], rate=0.1)
    assert weights == pytest.approx({"near": 3.6 / 3.1, "against": 2.7 / 3.1, "beside": 3 / 3.1})
    assert domain_weights({"a": 1.0, "b": 1.0}, {"a": [1], "b": [-1]}, [5], rate=1.0) == {"a": 2.0, "b": 0.0}
    with pytest.raises(InputError):
        domain_weights({"a": 1.0}, {"a": [1, 2]}, [1], rate=1.0)
    with pytest.raises(InputError):
        domain_weights({"a": 1.0}, {"b": [1]}, [1], rate=1.0)
    with pytest.raises(InputError):
        domain_weights({"a": 1.0}, {"a": [-9]}, [1], rate=1.0)
