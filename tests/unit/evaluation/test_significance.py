"""Paired tests, beside scipy's on simulated data and by hand."""

import numpy as np
import pytest

from agentprm.errors import InputError
from agentprm.evaluation import compare_paired, randomisation_test

stats = pytest.importorskip("scipy.stats")


def simulated(size, shift, seed, binary=False):
    generator = np.random.default_rng(seed)
    if binary:
        return (generator.random(size) < 0.5 + shift).astype(float), (generator.random(size) < 0.5).astype(
            float
        )
    base = generator.random(size)
    return base + shift + 0.3 * generator.standard_normal(size), base + 0.3 * generator.standard_normal(size)


def of_scipy(first, second, resamples=20_000):
    found = stats.permutation_test(
        (first - second,), lambda d, axis: d.mean(axis=axis), permutation_type="samples",
        n_resamples=resamples, vectorized=True, rng=np.random.default_rng(1),
    )  # fmt: skip
    return float(found.pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_exact_test_is_that_of_scipy(shift, seed):
    first, second = simulated(11, shift, seed)
    assert randomisation_test(first, second) == pytest.approx(of_scipy(first, second), abs=1e-12)


@pytest.mark.parametrize(("shift", "binary"), [(0.0, False), (0.05, False), (0.0, True), (0.1, True)])
def test_the_sampled_test_is_near_that_of_scipy(shift, binary):
    first, second = simulated(150, shift, 7, binary)
    ours = randomisation_test(first, second, resamples=20_000)
    # both sample: three standard errors of the difference
    assert ours == pytest.approx(of_scipy(first, second), abs=3 * np.sqrt(2 * 0.25 / 20_000))


@pytest.mark.parametrize("gains", [4100, 4160, 4220])
def test_many_pairs_are_exchanged_like_few(gains):
    """Of pairs that differ by one each, that many gains or more among 8,000 have a binomial probability."""
    first = np.repeat([1.0, 0.0, 1.0], [gains, 8000 - gains, 2000])
    second = np.repeat([0.0, 1.0, 1.0], [gains, 8000 - gains, 2000])
    exact = stats.binomtest(gains, 8000).pvalue
    ours = compare_paired(first, second, resamples=20_000)
    assert ours.randomisation_p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)
    assert ours.bootstrap_p == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("shift", [0.0, 0.04, 0.1])
def test_the_bootstrap_is_near_that_of_scipy(shift):
    first, second = simulated(120, shift, 3)
    ours = compare_paired(first, second, resamples=20_000)
    theirs = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    )
    spread = (first - second).std() / np.sqrt(120)
    assert ours.difference.mean == pytest.approx((first - second).mean())
    assert ours.difference.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * spread)
    assert ours.difference.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * spread)
    share = np.mean(theirs.bootstrap_distribution <= 0)
    assert ours.bootstrap_p == pytest.approx(2 * min(share, 1 - share), abs=0.02)


def test_p_values_of_equal_systems_are_spread_evenly():
    found = [randomisation_test(*simulated(40, 0.0, seed), resamples=500) for seed in range(200)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_by_hand():
    # of the eight ways to give 1, 1, 1 signs, two have a sum of 3 or -3
    assert randomisation_test([1, 1, 1, 0], [0, 0, 0, 0]) == 0.25
    assert randomisation_test([1, 0], [0, 1]) == 1.0
    assert randomisation_test([0.5], [0.5]) == 1.0
    same = compare_paired([1, 0, 1], [1, 0, 1])
    assert same.difference == (0, 0, 0)
    assert (same.bootstrap_p, same.randomisation_p) == (1.0, 1.0)


def test_values_that_differ_by_rounding_are_ties():
    first, second = [0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]
    assert randomisation_test(first, second) == 1.0


def test_the_same_seed_gives_the_same_result():
    first, second = simulated(60, 0.1, 5)
    assert compare_paired(first, second, seed=3) == compare_paired(first, second, seed=3)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], []), ([float("nan")], [1.0])])
def test_what_is_no_pair_is_refused(first, second):
    with pytest.raises(InputError):
        compare_paired(first, second)
