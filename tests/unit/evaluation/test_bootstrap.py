"""Intervals against scipy's bootstrap and the normal approximation."""

import numpy as np
import pytest
from scipy import stats

from agentprm.errors import InputError
from agentprm.evaluation import bootstrap_difference, bootstrap_interval

VALUES = np.random.default_rng(3).random(80).round(3).tolist()


def test_agrees_with_scipy():
    ours = bootstrap_interval(VALUES)
    theirs = stats.bootstrap(
        (np.array(VALUES),), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(np.mean(VALUES))
    assert ours.low == pytest.approx(theirs.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.high, abs=0.004)


def test_agrees_with_the_normal_approximation_for_shares():
    shares = [1.0] * 120 + [0.0] * 280
    interval = bootstrap_interval(shares)
    half = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert interval.mean == pytest.approx(0.3)
    assert interval.low == pytest.approx(0.3 - half, abs=0.005)
    assert interval.high == pytest.approx(0.3 + half, abs=0.005)


def test_coverage_is_about_the_level():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        interval = bootstrap_interval(generator.normal(1, 1, 50).tolist(), resamples=400, seed=seed)
        hits += interval.low <= 1 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval_and_blocks_change_nothing(monkeypatch):
    whole = bootstrap_interval(VALUES, seed=5)
    assert whole == bootstrap_interval(VALUES, seed=5)
    assert whole != bootstrap_interval(VALUES, seed=6)
    monkeypatch.setattr("agentprm.evaluation.bootstrap._BLOCK", 80 * 7)
    assert bootstrap_interval(VALUES, seed=5) == whole


def test_many_values_are_drawn_like_few(monkeypatch):
    """Twenty thousand questions: equal values are drawn together, and each is still drawn by itself."""
    values = (
        np.random.default_rng(1).choice([0.0, 0.4, 0.5, 1.0], size=20_000, p=[0.5, 0.1, 0.1, 0.3]).tolist()
    )
    together = bootstrap_interval(values, resamples=4000)
    monkeypatch.setattr("agentprm.evaluation.bootstrap._MANY", 10**9)
    monkeypatch.setattr("agentprm.evaluation.bootstrap._BLOCK", 10**7)
    alone = bootstrap_interval(values, resamples=400)
    half = 1.96 * np.std(values) / np.sqrt(20_000)
    for interval, error in ((together, 0.05), (alone, 0.15)):
        assert interval.mean == pytest.approx(np.mean(values))
        assert interval.low == pytest.approx(interval.mean - half, abs=error * half)
        assert interval.high == pytest.approx(interval.mean + half, abs=error * half)


def test_one_value_and_equal_values():
    assert bootstrap_interval([0.5]) == (0.5, 0.5, 0.5)
    assert bootstrap_interval([1.0] * 9) == (1.0, 1.0, 1.0)


def test_pairing_narrows_the_interval():
    better = [value + 0.01 for value in VALUES]
    paired = bootstrap_difference(better, VALUES)
    assert paired.low > 0
    assert paired.mean == pytest.approx(0.01)


@pytest.mark.parametrize("values", [[], [float("nan")], [[1.0, 2.0]]])
def test_unusable_values_are_refused(values):
    with pytest.raises(InputError):
        bootstrap_interval(values)


def test_unusable_arguments_are_refused():
    with pytest.raises(InputError):
        bootstrap_interval([1.0], level=1.0)
    with pytest.raises(InputError):
        bootstrap_interval([1.0], resamples=0)
    with pytest.raises(InputError, match="same questions"):
        bootstrap_difference([1.0], [1.0, 0.0])
