"""Measures of rewards, against plain versions of the published definitions on random predictions."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import InputError
from agentprm.evaluation import rewards as measures


def random_solutions(seed, count=300):
    rng = random.Random(seed)
    scores = [[rng.random() for _ in range(rng.randint(1, 9))] for _ in range(count)]
    labels = [rng.choice([-1, rng.randrange(len(row))]) for row in scores]
    return scores, labels


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5])
def test_processbench_f1(seed, threshold):
    scores, labels = random_solutions(seed)
    predictions = measures.processbench_predictions(scores, threshold)
    assert predictions == [([i for i, s in enumerate(row) if s < threshold] or [-1])[0] for row in scores]
    match = np.array(predictions) == np.array(labels)
    broken = np.array(labels) != -1
    acc1, acc2 = np.mean(match[broken]) * 100, np.mean(match[~broken]) * 100
    result = measures.processbench_f1(predictions, labels)
    assert result.f1 * 100 == pytest.approx(2 * acc1 * acc2 / (acc1 + acc2))
    assert (result.error_accuracy * 100, result.correct_accuracy * 100) == pytest.approx((acc1, acc2))
    assert result.errors + result.correct == len(labels)


def test_processbench_extremes():
    assert measures.processbench_f1([-1, -1], [0, -1]).f1 == 0  # "always right"
    assert measures.processbench_f1([0, -1], [0, -1]).f1 == 1
    with pytest.raises(InputError, match="without"):
        measures.processbench_f1([0], [0])
    with pytest.raises(InputError):
        measures.processbench_f1([0], [0, -1])
    whole = [measures.processbench_f1([0, -1], [0, -1]), measures.processbench_f1([1, -1, 0], [0, -1, 0])]
    assert measures.average_processbench_f1(whole) == pytest.approx((1 + 2 / 3) / 2)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(-1, 3)),
        min_size=2,
        max_size=8,
    )
)
@settings(deadline=None, max_examples=80)
def test_best_threshold_is_the_best_of_all(rows):
    scores = [[value / 6 for value in values] for values, _ in rows]
    labels = [min(label, len(values) - 1) for values, label in rows]
    if len({label == -1 for label in labels}) < 2:
        with pytest.raises(InputError):
            measures.best_threshold(scores, labels)
        return
    threshold, best = measures.best_threshold(scores, labels)
    tried = [
        measures.processbench_f1(measures.processbench_predictions(scores, t / 12 - 0.01), labels).f1
        for t in range(15)
    ]
    assert best == pytest.approx(max(tried))
    reached = measures.processbench_f1(measures.processbench_predictions(scores, threshold), labels).f1
    assert reached == best


def test_best_threshold_scales():
    scores, labels = random_solutions(1, 5000)
    start = time.process_time()
    measures.best_threshold(scores, labels)
    assert time.process_time() - start < 10


def official_agent_process_bench(predictions, labels):
    """Micro accuracy, and agreement of the first -1, over string keys."""
    hits = total = first = 0
    for predicted, wanted in zip(predictions, labels, strict=True):
        for key, value in wanted.items():
            total += 1
            if predicted.get(key) == value:
                hits += 1
        ends = [sorted(int(k) for k, v in side.items() if v == -1)[:1] for side in (predicted, wanted)]
        first += ends[0] == ends[1]
    return hits / total, first / len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_agent_process_bench(seed):
    rng = random.Random(seed)
    labels, predictions = [], []
    for _ in range(120):
        keys = sorted(rng.sample(range(1, 30), rng.randint(1, 8)))
        labels.append({str(k): rng.choice([1, 1, 0, -1]) for k in keys})
        predictions.append({str(k): rng.choice([1, 1, 0, -1]) for k in keys if rng.random() < 0.9})
    expected = official_agent_process_bench(predictions, labels)
    assert measures.step_accuracy(predictions, labels) == pytest.approx(expected[0])
    assert measures.first_error_accuracy(predictions, labels) == pytest.approx(expected[1])


def test_agent_process_bench_takes_lists_and_numbers_too():
    assert measures.step_accuracy([[1, -1]], [{"0": 1, "1": 1}]) == 0.5
    assert measures.first_error_accuracy([[1, -1], [1]], [{1: -1, 0: 1}, [0]]) == 1
    # As numbers, not as strings: "10" comes after "9".
    assert measures.first_error_accuracy([{"10": -1, "9": -1}], [{"9": -1}]) == 1
    with pytest.raises(InputError):
        measures.step_accuracy([{}], [{}])
    with pytest.raises(InputError):
        measures.first_error_accuracy([], [])


@pytest.mark.parametrize("seed", range(5))
def test_prm_score_is_that_of_scikit_learn_and_of_the_confusion_matrix(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = random.Random(seed)
    labels = [[rng.random() < 0.7 for _ in range(rng.randint(1, 12))] for _ in range(200)]
    predictions = [[rng.random() < 0.6 for _ in row] for row in labels]
    result = measures.prm_score(predictions, labels)
    p, t = np.concatenate(predictions), np.concatenate(labels)
    assert result.f1 == pytest.approx(sklearn.f1_score(t, p))
    assert result.negative_f1 == pytest.approx(sklearn.f1_score(~t, ~p))
    tp, tn, fp, fn = (p & t).sum(), (~p & ~t).sum(), (p & ~t).sum(), (~p & t).sum()
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    npv, specificity = tn / (tn + fn), tn / (tn + fp)
    f1 = 2 * precision * recall / (precision + recall)
    negative = 2 * npv * specificity / (npv + specificity)
    assert result.score == pytest.approx(0.5 * f1 + 0.5 * negative)


def test_prm_score_without_wrong_steps_is_the_f1_alone():
    assert measures.prm_score([[True, False]], [[True, True]]).score == pytest.approx(2 / 3)
    assert measures.prm_score([[True, True]], [[True, False]]).score == pytest.approx(1 / 3)
    assert measures.prm_score([[False]], [[True]]) == (0, 0, 0)
    with pytest.raises(InputError):
        measures.prm_score([[]], [[]])
    with pytest.raises(InputError):
        measures.prm_score([[True]], [[True, False]])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_brier_are_those_of_scikit_learn(seed, ties):
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    scores = rng.random(400).round(1 if ties else 12)
    labels = rng.random(400) < 0.3 + 0.4 * scores
    assert measures.auc(scores, labels) == pytest.approx(sklearn.roc_auc_score(labels, scores))
    assert measures.brier_score(scores, labels) == pytest.approx(sklearn.brier_score_loss(labels, scores))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=20))
@settings(deadline=None, max_examples=60)
def test_auc_is_the_share_of_ordered_pairs(steps):
    good, bad = [s for s, right in steps if right], [s for s, right in steps if not right]
    if not good or not bad:
        with pytest.raises(InputError):
            measures.auc([s for s, _ in steps], [r for _, r in steps])
        return
    share = sum((g > b) + 0.5 * (g == b) for g in good for b in bad) / (len(good) * len(bad))
    assert measures.auc([s for s, _ in steps], [r for _, r in steps]) == pytest.approx(share)


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_calibration_error_is_the_weighted_gap_of_bins(bins):
    rng = np.random.default_rng(bins)
    scores, labels = rng.random(500), rng.random(500) < 0.6
    total = 0.0
    for b in range(bins):
        inside = [(s, y) for s, y in zip(scores, labels, strict=True) if min(int(s * bins), bins - 1) == b]
        if inside:
            gap = abs(sum(s for s, _ in inside) / len(inside) - sum(y for _, y in inside) / len(inside))
            total += gap * len(inside) / 500
    assert measures.expected_calibration_error(scores, labels, bins) == pytest.approx(total)


def test_calibration_error_extremes():
    assert measures.expected_calibration_error([0.0, 1.0], [False, True]) == 0
    assert measures.expected_calibration_error([1.0, 0.0], [False, True]) == 1
    with pytest.raises(InputError, match="calibrate"):
        measures.expected_calibration_error([2.0], [True])
    with pytest.raises(InputError):
        measures.brier_score([], [])
    with pytest.raises(InputError):
        measures.expected_calibration_error([0.1], [True], bins=0)


def test_best_of_n_beside_majority_and_oracle():
    scores = [[[0.9, 0.2], [0.6, 0.7], [0.1]], [[0.3], [0.2], [0.9]]]
    correct = [[False, True, False], [True, True, False]]
    answers = [["3", "4", "3"], ["7", "7", "8"]]
    result = measures.best_of_n_accuracy(scores, correct, answers, "last")
    assert result.best == [1.0, 0.0]
    assert result.majority == [0.0, 1.0]
    assert result.weighted_majority == [1.0, 0.0]
    assert result.oracle == [1.0, 1.0]
    assert result.random == pytest.approx([1 / 3, 2 / 3])
    # Where candidates are equally good, chance decides, not their order.
    tied = [[[0.5], [0.5], [0.1]]]
    shares = measures.best_of_n_accuracy(tied, correct[:1], [["3", "4", "5"]], "last")
    assert (shares.best, shares.majority) == ([0.5], [pytest.approx(1 / 3)])
    assert shares.weighted_majority == [0.5]
    silent = measures.best_of_n_accuracy(tied, correct[:1], [[None, None, "5"]], "last")
    assert (silent.majority, silent.weighted_majority) == ([0.0], [0.0])
    nobody = measures.best_of_n_accuracy(tied, correct[:1], [[None, None, None]], "last")
    assert nobody.weighted_majority == [0.5]
    with pytest.raises(InputError):
        measures.best_of_n_accuracy([[]], [[]], [[]], "last")
    logits = [[[-1.0], [2.0], [0.5]]]
    assert measures.best_of_n_accuracy(logits, correct[:1], answers[:1], "sum").best == [1.0]
    with pytest.raises(InputError):
        measures.best_of_n_accuracy(scores, correct, answers[:1], "last")


def test_minimum_on_the_final_step():
    rows = [[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.2], [0.3, 0.2, 0.1]]
    assert measures.final_minimum_share(rows) == 2 / 4
    with pytest.raises(InputError):
        measures.final_minimum_share([[0.1]])


@pytest.mark.parametrize("how", ["min", "last", "mean", "product"])
def test_best_of_n_is_the_accuracy_of_the_choices(how):
    from agentprm.rewards import aggregate, best_of_n, majority, weighted_majority

    rng = random.Random(how)
    scores = [[[rng.random() for _ in range(rng.randint(1, 4))] for _ in range(5)] for _ in range(80)]
    answers = [[rng.choice("aab") for _ in range(5)] for _ in range(80)]
    correct = [[answer == "b" for answer in row] for row in answers]
    result = measures.best_of_n_accuracy(scores, correct, answers, how)
    for i, row in enumerate(scores):
        weights = [aggregate(s, how) for s in row]
        assert result.best[i] == correct[i][best_of_n(row, how)]
        assert result.majority[i] == correct[i][majority(answers[i])]
        assert result.weighted_majority[i] == correct[i][weighted_majority(answers[i], weights)]
