"""Tournaments against brute force, on random verdicts with ties and cycles; no judge, no model."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError
from agentprm.rerank import active, all_pairs, heapsort, play, sliding
from agentprm.rerank.tournaments import Scoreboard, _Strengths, round_robin

MOST = 14


@st.composite
def tournaments(draw, values=(0.0, 0.5, 1.0), most=MOST):
    """Antisymmetric verdicts on all pairs: nothing makes them transitive."""
    n = draw(st.integers(0, most))
    p = {}
    for a in range(n):
        for b in range(a + 1, n):
            p[a, b] = draw(st.sampled_from(values))
            p[b, a] = 1 - p[a, b]
    return n, p


SOFT = tuple(i / 10 for i in range(11))


class Asked:
    """Answers from a table, and writes down what was asked, batch by batch."""

    def __init__(self, p, bound=math.inf):
        self.p, self.bound, self.batches, self.seen = p, bound, [], set()

    def left(self):
        return self.bound - len(self.seen)

    def run(self, tournament):
        try:
            pairs = next(tournament)
            while True:
                self.batches.append(list(pairs))
                pairs = tournament.send([self._verdict(*pair) for pair in pairs])
        except StopIteration as done:
            return done.value

    def _verdict(self, a, b):
        pair = frozenset((a, b))
        if pair not in self.seen and len(self.seen) >= self.bound:
            return None
        self.seen.add(pair)
        return self.p[a, b]


def naive_all_pairs(n, p):
    scores = [sum(p[i, j] for j in range(n) if j != i) for i in range(n)]
    return sorted(range(n), key=lambda i: (-round(scores[i], 9), i)), scores


def naive_sliding(n, p, k, bound=math.inf):
    """One comparison after the other; `bound` counts different pairs."""
    order, seen, count = list(range(n)), set(), 0
    for done in range(min(k, n - 1)):
        for low in range(n - 1, done, -1):
            a, b = order[low - 1], order[low]
            if frozenset((a, b)) not in seen:
                if len(seen) >= bound:
                    return order, count
                seen.add(frozenset((a, b)))
            count += 1
            if p[a, b] < 0.5:
                order[low - 1 : low + 1] = [b, a]
    return order, count


def naive_heapsort(n, p, k, stable):
    """Recursive, one comparison after the other."""

    def better(a, b):
        return p[a, b] > 0.5 or (p[a, b] == 0.5 and stable and a < b)

    def sink(heap, i):
        children = [c for c in (2 * i + 1, 2 * i + 2) if c < len(heap)]
        if not children:
            return
        best = children[0]
        if len(children) == 2 and better(heap[children[1]], heap[best]):
            best = children[1]
        if better(heap[best], heap[i]):
            heap[i], heap[best] = heap[best], heap[i]
            sink(heap, best)

    heap = list(range(n))
    for i in range(n - 1, -1, -1):
        sink(heap, i)
    top = []
    while heap and len(top) < k:
        top.append(heap[0])
        last = heap.pop()
        if heap:
            heap[0] = last
            sink(heap, 0)
    return top + [i for i in range(n) if i not in top]


@settings(deadline=None, max_examples=100)
@given(tournaments())
def test_all_pairs_is_wins_plus_half_the_ties(case):
    n, p = case
    asked = Asked(p)
    ranked = asked.run(all_pairs(n))
    order, wins = naive_all_pairs(n, p)
    assert ranked.order == order
    assert ranked.scores == pytest.approx([w / (n - 1) if n > 1 else 0.5 for w in wins])
    assert len(asked.batches) == (n > 1)
    assert len(asked.seen) == sum(map(len, asked.batches)) == n * (n - 1) // 2


@settings(deadline=None, max_examples=100)
@given(tournaments(SOFT), st.randoms(use_true_random=False))
def test_all_pairs_does_not_depend_on_the_incoming_order(case, rng):
    n, p = case
    shuffled = list(range(n))
    rng.shuffle(shuffled)  # shuffled[place] is the document at that place
    turned = {(a, b): p[shuffled[a], shuffled[b]] for a in range(n) for b in range(n) if a != b}
    scores = play(all_pairs(n), lambda a, b: p[a, b]).scores
    again = play(all_pairs(n), lambda a, b: turned[a, b]).scores
    assert [again[shuffled.index(i)] for i in range(n)] == scores


@settings(deadline=None, max_examples=120)
@given(tournaments(), st.integers(1, MOST))
def test_the_wavefront_of_sliding_equals_one_by_one(case, k):
    n, p = case
    asked = Asked(p)
    ranked = asked.run(sliding(n, k))
    order, count = naive_sliding(n, p, k)
    assert ranked.order == order
    assert sum(map(len, asked.batches)) == count
    passes = min(k, n - 1)
    assert len(asked.batches) == (n - 1 + passes - 1 if n > 1 else 0)
    for batch in asked.batches:  # nobody takes part twice in what is asked together
        members = [place for pair in batch for place in pair]
        assert len(members) == len(set(members))


@settings(deadline=None, max_examples=120)
@given(tournaments(), st.integers(1, MOST), st.integers(0, 60))
def test_sliding_under_a_bound_spends_it_as_one_by_one_would(case, k, bound):
    n, p = case
    asked = Asked(p, bound)
    ranked = asked.run(sliding(n, k, asked.left))
    assert ranked.order == naive_sliding(n, p, k, bound)[0]
    assert len(asked.seen) <= bound


@settings(deadline=None, max_examples=120)
@given(tournaments(), st.integers(1, MOST), st.booleans())
def test_heapsort_equals_the_recursive_one(case, k, stable):
    n, p = case
    asked = Asked(p)
    ranked = asked.run(heapsort(n, k, stable=stable))
    assert ranked.order == naive_heapsort(n, p, k, stable)
    for batch in asked.batches:
        members = [place for pair in batch for place in pair]
        assert len(members) == len(set(members))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 3), max_size=24), st.integers(1, 24))
def test_a_consistent_judge_gets_the_stable_sort(grades, k):
    n = len(grades)
    best = sorted(range(n), key=lambda i: (-grades[i], i))

    def verdict(a, b):
        return 0.5 + 0.5 * ((grades[a] > grades[b]) - (grades[a] < grades[b]))

    assert play(all_pairs(n), verdict).order == best
    assert play(heapsort(n, k), verdict).order[:k] == best[:k]
    assert play(sliding(n, k), verdict).order[:k] == best[:k]
    assert play(sliding(n, n or 1), verdict).order == best


def test_the_published_counts_of_sliding():
    asked = Asked({(a, b): float((a * 7919 + b) % 2) for a in range(100) for b in range(100)})
    asked.run(sliding(100, 10))
    assert (sum(map(len, asked.batches)), len(asked.batches)) == (945, 108)


@pytest.mark.parametrize("make", [all_pairs, heapsort, sliding, active])
@settings(deadline=None, max_examples=60)
@given(case=tournaments(SOFT), k=st.integers(1, MOST), bound=st.integers(0, 40))
def test_whatever_the_bound_nobody_is_lost(make, case, k, bound):
    n, p = case
    asked = Asked(p, bound)
    ranked = asked.run(make(n, k, asked.left))
    assert sorted(ranked.order) == list(range(n))
    assert all(type(i) is int for i in ranked.order)
    assert len(ranked.scores) == n
    assert all(type(s) is float and 0 <= s <= 1 for s in ranked.scores)
    assert len(asked.seen) <= bound
    if bound == 0:
        assert list(ranked.order) == list(range(n))


@pytest.mark.parametrize("make", [heapsort, sliding, active])
def test_no_rank_is_no_number_of_ranks(make):
    with pytest.raises(ConfigurationError, match="k must be at least 1"):
        next(make(3, 0))


def test_rounds_of_the_round_robin():
    for n in range(12):
        rounds = round_robin(n)
        pairs = [pair for some in rounds for pair in some]
        assert sorted(pairs) == [(a, b) for a in range(n) for b in range(a + 1, n)]
        for some in rounds:
            members = [place for pair in some for place in pair]
            assert len(members) == len(set(members))


def test_a_pair_that_comes_again_counts_once():
    board = Scoreboard(2)
    assert board.add([(0, 1), (1, 0)], [1.0, 0.0])
    assert not board.add([(0, 1)], [None])
    assert board.shares() == [1.0, 0.0]


@settings(deadline=None, max_examples=40)
@given(tournaments(SOFT, most=9), st.integers(1, 9), st.integers(1, 30))
def test_active_asks_no_pair_twice_and_nobody_twice_a_round(case, k, bound):
    n, p = case
    asked = Asked(p, bound)
    first = asked.run(active(n, k, asked.left))
    pairs = [frozenset(pair) for batch in asked.batches for pair in batch]
    assert len(pairs) == len(set(pairs))
    for batch in asked.batches:
        members = [place for pair in batch for place in pair]
        assert len(members) == len(set(members))
    again = Asked(p, bound)
    assert again.run(active(n, k, again.left)) == first


def test_active_without_a_bound_asks_three_pairs_per_document():
    asked = Asked({(a, b): float(a < b) for a in range(40) for b in range(40)})
    asked.run(active(40, 5))
    assert 120 <= len(asked.seen) < 130


def test_active_takes_what_is_known_already_for_free():
    asked = Asked({(a, b): float(a > b) for a in range(12) for b in range(12)}, bound=66)
    full = asked.run(active(12, 3, asked.left))
    again = Asked(asked.p, bound=0)
    again.seen = set(asked.seen)
    again.left = lambda: 0
    assert again.run(active(12, 3, again.left)).order[:3] == full.order[:3] == [11, 10, 9]


@settings(deadline=None, max_examples=30)
@given(tournaments(SOFT, most=8), st.randoms(use_true_random=False), st.integers(1, 8))
def test_the_strengths_are_the_most_probable_ones(case, rng, k):
    """Against the definition, written with loops: gradient zero, and the pair with the largest value."""
    n, p = case
    pairs = [pair for pair in p if pair[0] < pair[1] and rng.random() < 0.5]
    if n < 2 or not pairs:
        return
    model = _Strengths(n)
    model.learn(pairs, [p[pair] for pair in pairs])
    logs = [math.log(1 + i) for i in range(n)]
    prior = [-0.5 * (x - sum(logs) / n) for x in logs]
    precision = [[0.0] * n for _ in range(n)]
    for i in range(n):
        gradient = -(model.mean[i] - prior[i]) / 1.5**2
        precision[i][i] += 1 / 1.5**2
        for a, b in pairs:
            q = 1 / (1 + math.exp(model.mean[b] - model.mean[a]))
            if i == a:
                gradient += p[a, b] - q
            if i == b:
                gradient -= p[a, b] - q
            if i in (a, b):
                precision[i][i] += q * (1 - q)
                precision[i][a + b - i] -= q * (1 - q)
        assert abs(gradient) < 1e-4
    covariance = np.linalg.inv(np.array(precision))
    ranked = sorted(model.mean, reverse=True)
    cut = min(k, n - 1)
    bar = (ranked[cut - 1] + ranked[cut]) / 2

    def value(a, b):
        q = 1 / (1 + math.exp(model.mean[b] - model.mean[a]))
        told = math.log(1 + q * (1 - q) * (covariance[a][a] + covariance[b][b] - 2 * covariance[a][b]))
        inside = [1 / (1 + math.exp(-1.7 * (model.mean[i] - bar) / covariance[i][i] ** 0.5)) for i in (a, b)]
        return told * inside[0] * inside[1]

    open_pairs = [pair for pair in p if pair[0] < pair[1] and pair not in pairs]
    chosen = model.most_telling(k, 1)
    assert bool(chosen) == bool(open_pairs)
    if chosen:
        assert value(*chosen[0]) == pytest.approx(max(value(*pair) for pair in open_pairs), rel=1e-4)


def discounted(order, grades, k=10):
    gain = sum(grades[i] / math.log2(place + 2) for place, i in enumerate(order[:k]))
    best = sum(g / math.log2(place + 2) for place, g in enumerate(sorted(grades, reverse=True)[:k]))
    return gain / best


def test_active_makes_more_of_few_verdicts_of_a_noisy_judge_than_the_others():
    """Sixty documents, 150 comparisons, a fifth of the verdicts wrong: planted truth, fixed seeds."""
    n, bound, results = 60, 150, {}
    for seed in range(12):
        rng = random.Random(seed)
        grades = [max(0.0, rng.gauss(1.0 - place / n, 1.0)) for place in range(n)]
        p = {}
        for a in range(n):
            for b in range(a + 1, n):
                p[a, b] = float((grades[a] > grades[b]) == (rng.random() > 0.2))
                p[b, a] = 1 - p[a, b]
        for make in (active, all_pairs, heapsort, sliding):
            asked = Asked(p, bound)
            order = asked.run(make(n, 10, asked.left)).order
            results.setdefault(make.__name__, []).append(discounted(order, grades))
    means = {name: sum(values) / len(values) for name, values in results.items()}
    assert means["active"] > max(means["all_pairs"], means["heapsort"], means["sliding"]) + 0.03, means
