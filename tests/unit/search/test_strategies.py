"""Strategies against brute force on trees that can be enumerated."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError
from agentprm.search import (
    ABMCTS,
    DVTS,
    MCTS,
    STRATEGIES,
    Ask,
    Beam,
    BestOfN,
    Expansion,
    FirstPath,
    Greedy,
    Tree,
    explore,
    strategy_called,
)
from tests.unit.search.toy import Toy, step

SEEDS = range(8)
EVERY = sorted(STRATEGIES)


def ids(steps, *statuses):
    return {s["id"] for s in steps if not statuses or s["status"] in statuses}


def greedy_leaf(toy, first):
    """The end of the path of the best siblings."""
    level = first
    while level:
        best = max(level, key=lambda s: s["value"])
        level = toy.children(best["id"])
    return best


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_is_the_path_of_the_best_siblings(seed):
    toy = Toy(seed=seed)
    steps, end = explore(Greedy(), toy.expand)
    assert end["id"] == greedy_leaf(toy, toy.children(""))["id"]
    assert len(steps) == 9
    assert len(ids(steps, "rejected")) == 6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [1, 2, 4, 100])
def test_beam_keeps_the_best_of_each_depth(seed, width):
    toy = Toy(seed=seed, depth=4)
    kept, seen = toy.children(""), []
    while kept:  # brute force: sort each level
        seen += kept
        answers = [s for s in kept if s["final_answer"]]
        kept = sorted(kept, key=lambda s: -s["value"])[:width]
        kept = [c for s in kept for c in toy.children(s["id"])]
    steps, end = explore(Beam(width=width), toy.expand)
    assert ids(steps) == ids(seen)
    assert end["id"] == max(answers, key=lambda s: s["score"])["id"]
    if width == 1:
        assert end["id"] == greedy_leaf(toy, toy.children(""))["id"]
    if width == 100:
        assert end["id"] == toy.best()["id"]


def test_a_finished_path_outside_the_beam_is_not_lost():
    tree = [
        step("1", value=0.9),
        step("2", value=0.8, score=0.95, answer="early"),
        step("1.1", value=0.3, answer="late"),
    ]
    strategy = Beam(width=1)
    asked = strategy.ask(Tree(tree))
    assert asked.stop == "answered"
    assert asked.rejected == ()
    assert strategy.answer(Tree(tree))["id"] == "2"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("vote", ["best", "majority", "weighted"])
def test_best_of_n_grows_n_paths_and_votes(seed, vote):
    toy = Toy(branching=6, depth=2, seed=seed)
    steps, end = explore(BestOfN(n=6, vote=vote), toy.expand)
    assert ids(steps) == {f"{n}" for n in range(1, 7)} | {f"{n}.1" for n in range(1, 7)}
    answers = [toy.steps[f"{n}.1"] for n in range(1, 7)]
    if vote == "best":
        assert end["id"] == max(answers, key=lambda s: s["score"])["id"]
        return
    votes = Counter()
    for answer in answers:
        votes[answer["final_answer"]] += 1 if vote == "majority" else answer["score"]
    assert votes[end["final_answer"]] == pytest.approx(max(votes.values()))
    same = [s for s in answers if s["final_answer"] == end["final_answer"]]
    assert end["id"] == max(same, key=lambda s: s["score"])["id"]


def test_votes_compare_answers_without_case_articles_and_punctuation():
    tree = [
        step("1", value=0.9, answer="Rome"),
        step("2", value=0.2, answer="The Eiffel Tower."),
        step("3", value=0.3, answer="eiffel tower"),
    ]
    assert BestOfN(vote="best").answer(Tree(tree))["id"] == "1"
    assert BestOfN(vote="majority").answer(Tree(tree))["id"] == "3"
    assert BestOfN(vote="weighted").answer(Tree(tree))["id"] == "1"


def test_weights_of_logits_are_probabilities():
    tree = [
        step("1", value=2.0, answer="a"),
        step("2", value=-3.0, answer="b"),
        step("3", value=-4.0, answer="b"),
    ]
    assert BestOfN(vote="weighted").answer(Tree(tree, space="logit"))["final_answer"] == "a"


@pytest.mark.parametrize("seed", SEEDS)
def test_dvts_subtrees_are_greedy_and_begin_differently(seed):
    toy = Toy(branching=6, seed=seed)
    steps, end = explore(DVTS(subtrees=3, candidates=2), toy.expand)
    ends = []
    for subtree in range(3):
        path = max(toy.children("")[subtree::3], key=lambda s: s["value"])
        for _ in range(2):  # two candidates of each step are proposed
            path = max(toy.children(path["id"])[:2], key=lambda s: s["value"])
        ends.append(path)
    assert end["id"] == max(ends, key=lambda s: s["score"])["id"]
    assert len({s["id"].split(".")[0] for s in ends}) == 3
    assert len(steps) == 6 + 3 * 2 * 2


def test_dvts_with_fewer_first_steps_than_subtrees_has_fewer_subtrees():
    toy = Toy(branching=2)
    steps, end = explore(DVTS(subtrees=4, candidates=2), toy.expand)
    assert end["final_answer"]
    assert len({s["id"].split(".")[0] for s in steps if s["final_answer"]}) == 2


@pytest.mark.parametrize("name", EVERY)
def test_an_unfinished_path_is_never_answered_from_beside_a_finished_one(name):
    tree = [step("1", value=0.99), step("2", value=0.1, answer="finished")]
    if name != "greedy":  # which follows its one path
        assert strategy_called(name).answer(Tree(tree))["id"] == "2"
    assert strategy_called(name).answer(Tree([])) is None


@pytest.mark.parametrize("name", EVERY)
def test_every_strategy_ends_where_all_is_dead(name):
    dead = [step("1", value=None, status="unparsed"), step("2", value=None, status="unparsed")]
    asked = strategy_called(name).ask(Tree(dead))
    assert (asked.stop, asked.expand) == ("no candidate", ())


@pytest.mark.parametrize("name", EVERY)
def test_paths_end_at_max_steps(name):
    toy = Toy(depth=4)
    steps, _ = explore(strategy_called(name), toy.expand, max_steps=2)
    assert max(s["depth"] for s in steps) == 2


class Player:
    """A node of a tree search that keeps its counts, to compare the stateless one with."""

    def __init__(self, step_id, value, parent, ends):
        self.id, self.value, self.parent, self.ends = step_id, value, parent, ends
        self.children, self.visits, self.total, self.best = [], 0, 0.0, -1.0

    def done(self):
        return self.ends if not self.children else all(child.done() for child in self.children)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rule", "backup"), [("uct", "mean"), ("puct", "mean"), ("uct", "max")])
def test_mcts_expands_what_a_search_with_counters_expands(seed, rule, backup):
    toy = Toy(seed=seed)
    strategy = MCTS(nodes=27, rule=rule, c=0.7, backup=backup)
    root, order = Player("", 0.0, None, False), []
    while True:
        node = root
        while node.children:

            def bound(child):
                q = child.total / child.visits if backup == "mean" else child.best
                above = child.parent.visits
                if rule == "uct":
                    return q + 0.7 * (math.log(above) / child.visits) ** 0.5
                return q + 0.7 * (1 / 3) * above**0.5 / (1 + child.visits)

            node = max((c for c in node.children if not c.done()), key=bound)
        order.append(node.id or None)
        for found in toy.children(node.id):
            child = Player(found["id"], found["value"], node, bool(found["final_answer"]))
            node.children.append(child)
            up = child
            while up is not None:
                up.visits, up.total = up.visits + 1, up.total + child.value
                up.best = max(up.best, child.value)
                up = up.parent
        if root.visits >= 27:
            break
    asked = []

    def expand(tree, expansion):
        asked.append(expansion.parent)
        return toy.expand(tree, expansion)

    explore(strategy, expand)
    assert asked == order


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["uct", "puct"])
def test_mcts_with_enough_nodes_finds_the_best_answer(seed, name):
    toy = Toy(seed=seed)
    steps, end = explore(MCTS(nodes=1000, rule=name, batch=4), toy.expand)
    assert len(steps) == len(toy.steps)
    assert end["id"] == toy.best()["id"]


def test_expansions_side_by_side_differ_and_count_as_visits():
    toy = Toy(branching=4)
    steps, _ = explore(MCTS(nodes=4), toy.expand)
    asked = MCTS(batch=3).ask(Tree(steps)).expand
    assert len({e.parent for e in asked}) == 3
    running = asked[:2]
    again = MCTS(batch=3).ask(Tree(steps, running=running)).expand
    assert again == asked[2:]
    assert MCTS(batch=2).ask(Tree(steps, running=running)).expand == ()


def test_the_prior_is_the_share_of_the_samples_that_said_so():
    from agentprm.search.mcts import Statistics

    tree = [step("1", value=0.5, samples=3), step("2", value=0.5)]
    bounds = MCTS(rule="puct", c=1.0).bounds(Statistics(Tree(tree)), None)
    half = 2**0.5 / 2
    assert bounds == {"1": pytest.approx(0.5 + 0.75 * half), "2": pytest.approx(0.5 + 0.25 * half)}


@pytest.mark.parametrize("seed", SEEDS)
def test_ab_mcts_draws_as_one_with_posteriors_kept_in_nodes(seed):
    toy = Toy(branching=4, seed=seed)

    class Arms:
        def __init__(self, step_id, parent=None, ends=False):
            self.id, self.parent, self.ends, self.children = step_id, parent, ends, []
            self.wide, self.deep, self.own = [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]  # Jeffreys' prior

    def tell(posterior, value):
        posterior[0] += value
        posterior[1] += 1 - value

    root, order, samples = Arms(""), [], 0
    while samples < 30:
        chance = random.Random(f"5 {samples}")
        node = root
        while deeper := [child for child in node.children if not child.ends]:
            if chance.betavariate(*node.wide) >= chance.betavariate(*node.deep):
                break
            draws = [chance.betavariate(*child.own) for child in deeper]
            node = deeper[draws.index(max(draws))]
        order.append(node.id or None)
        samples += 1
        if len(node.children) == 4:
            continue  # nothing new: the sample is merged with a step that is there
        found = toy.children(node.id)[len(node.children)]
        child = Arms(found["id"], node, bool(found["final_answer"]))
        node.children.append(child)
        tell(node.wide, found["value"])
        while node.parent is not None:
            tell(node.own, found["value"])
            tell(node.parent.deep, found["value"])
            node = node.parent
    asked = []

    def expand(tree, expansion):
        asked.append(expansion.parent)
        assert expansion.children == 1
        return toy.expand(tree, expansion)

    explore(ABMCTS(nodes=30, seed=5), expand)
    assert asked == order


@pytest.mark.parametrize("name", EVERY)
@given(seed=st.integers(0, 10**6), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_any_order_of_results_gives_the_same_tree(name, seed, shuffle):
    toy = Toy(seed=seed)

    def shuffled(tree, expansion):
        children = toy.expand(tree, expansion)
        shuffle.shuffle(children)
        return children

    one, end = explore(strategy_called(name), toy.expand)
    other, other_end = explore(strategy_called(name), shuffled)
    assert {s["id"]: s for s in one} == {s["id"]: s for s in other}
    assert end == other_end
    cut = [s for s in one if s["depth"] < 3]
    mixed = shuffle.sample(cut, len(cut))
    assert strategy_called(name).ask(Tree(cut)) == strategy_called(name).ask(Tree(mixed))


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("majority", "weighted")])
@given(seed=st.integers(0, 10**6), most=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_more_budget_never_lowers_the_best_answer_under_an_exact_reward(name, seed, most):
    toy = Toy(seed=seed, exact=True)
    found = []
    for budget in (most, most + 1, most + 9, 1000):
        _, end = explore(strategy_called(name), toy.expand, most=budget)
        found.append(end["score"] if end and end["final_answer"] else -1)
    assert found == sorted(found)


@pytest.mark.parametrize("name", ["greedy", "beam", "dvts"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_exact_reward_leads_to_the_best_answer(name, seed):
    toy = Toy(seed=seed, exact=True)
    _, end = explore(strategy_called(name), toy.expand)
    assert end["score"] == toy.best()["score"]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("cut", [1, 4, 9, 13])
def test_a_search_goes_on_from_any_tree(name, cut):
    toy = Toy(seed=3)
    whole, end = explore(strategy_called(name), toy.expand)
    part, _ = explore(strategy_called(name), toy.expand, most=cut)
    again, again_end = explore(strategy_called(name), toy.expand, steps=part)
    assert (again, again_end) == (whole, end)


@pytest.mark.parametrize("name", ["beam", "dvts", "uct", "puct"])
@given(seed=st.integers(0, 10**6), most=st.integers(1, 39), exact=st.booleans())
@settings(max_examples=25, deadline=None)
def test_cut_anywhere_a_first_path_answers_as_well_as_the_best_siblings_do(name, seed, most, exact):
    toy = Toy(seed=seed, exact=exact)
    _, end = explore(FirstPath(strategy_called(name)), toy.expand, most=most)
    if most <= 6:  # two of the three choices on the way are made
        assert end["final_answer"] is None
        return
    assert end["final_answer"] is not None
    assert end["score"] >= greedy_leaf(toy, toy.children(""))["score"]
    if exact:
        assert end["score"] == toy.best()["score"]


@pytest.mark.parametrize(
    ("strategy", "before"),
    [
        (BestOfN(n=3, vote="majority"), 5),
        (BestOfN(n=3), 5),
        (DVTS(subtrees=3, candidates=1), 5),
        (ABMCTS(), 3),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_first_path_is_finished_with_the_children_that_the_strategy_asks_for(strategy, before, seed):
    toy = Toy(seed=seed)
    steps, end = explore(FirstPath(strategy), toy.expand, most=before)
    assert len(steps) == before
    assert end["final_answer"] is not None
    if not isinstance(strategy, DVTS):  # whose first steps compete; those of independent samples do not
        assert end["id"] == "1.1.1"


@pytest.mark.parametrize("seed", SEEDS)
def test_where_all_may_be_spent_the_first_path_is_what_the_strategy_grows_or_comes_on_top(seed):
    toy = Toy(branching=4, seed=seed)
    for strategy in (BestOfN(n=4), DVTS(subtrees=2, candidates=2), MCTS(nodes=1000)):
        plain, end = explore(strategy, toy.expand)
        steps, first_end = explore(FirstPath(strategy), toy.expand)
        assert ids(steps) == ids(plain)
        assert first_end["id"] == end["id"]
    for width in (1, 2, 3):
        plain, end = explore(Beam(width=width), toy.expand)
        steps, first_end = explore(FirstPath(Beam(width=width)), toy.expand)
        assert ids(steps) >= ids(plain)
        assert len(steps) <= len(plain) + 4 * 3
        assert first_end["score"] >= max(end["score"], greedy_leaf(toy, toy.children(""))["score"])


@pytest.mark.parametrize("name", [name for name in EVERY if name != "greedy"])
@pytest.mark.parametrize("cut", range(1, 14, 3))
def test_a_search_with_a_first_path_goes_on_from_any_tree(name, cut):
    toy, strategy = Toy(seed=3), FirstPath(strategy_called(name))
    whole, end = explore(strategy, toy.expand)
    part, _ = explore(strategy, toy.expand, most=cut)
    assert explore(strategy, toy.expand, steps=part) == (whole, end)


def test_a_first_path_avoids_dead_ends_and_waits_for_what_runs():
    tree = [
        step("1", value=0.9),
        step("2", value=0.5),
        step("3", value=0.7),
        step("1.1", value=None, status="unparsed"),
        step("3.1", value=0.6),
        step("3.2", value=0.8),
    ]
    strategy = FirstPath(Beam(width=3))
    assert strategy.ask(Tree(tree)).expand == (Expansion("3.2"),)
    assert strategy.ask(Tree(tree, running=[Expansion("3.2")])) == Ask()
    finished = [*tree, step("3.2.1", value=0.1, answer="a")]
    assert strategy.ask(Tree(finished)) == Beam(width=3).ask(Tree(finished))
    dead = [*tree[:2], tree[3], step("2.1", value=None, status="unparsed")]
    assert strategy.ask(Tree(dead)).stop == "no candidate"


@pytest.mark.parametrize(("agree", "paths"), [(1, 1), (2, 2), (3, 4)])
def test_a_search_stops_when_enough_answers_agree(agree, paths):
    answers = ["a", "b", "The A!", "a", "a"]
    strategy = BestOfN(n=5, agree=agree)
    tree = [step(str(n), value=0.5, answer=answers[[0, 2, 1, 3, 4][n - 1]]) for n in range(1, paths + 1)]
    tree += [step(str(n), value=0.5) for n in range(paths + 1, 6)]
    assert strategy.ask(Tree(tree)).stop == "answered"
    tree[paths - 1] = step(str(paths), value=0.5)
    assert strategy.ask(Tree(tree)).stop == ""


def test_nothing_is_asked_twice_while_it_runs():
    for name in EVERY:
        strategy = strategy_called(name)
        first = strategy.ask(Tree([])).expand
        assert [e.parent for e in first] == [None]
        if name != "ab-mcts":
            assert strategy.ask(Tree([], running=first)).expand == ()
            assert strategy.ask(Tree([], running=first)).stop == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: strategy_called("bean"), "Did you mean 'beam'"),
        (lambda: strategy_called(Beam), r"Beam\(\)"),
        (lambda: strategy_called(3), "ask and answer"),
        (lambda: Beam(width=0), "width"),
        (lambda: BestOfN(n=True), "n must"),
        (lambda: DVTS(subtrees=0), "subtrees"),
        (lambda: MCTS(rule="ucb"), "rule"),
        (lambda: MCTS(c=float("nan")), "c must"),
        (lambda: ABMCTS(prior=0), "prior"),
        (lambda: Beam(vote="all"), "vote"),
        (lambda: Beam(agree=0), "agree"),
    ],
)
def test_wrong_settings_are_refused(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_ids_are_ordered_by_their_numbers():
    tree = Tree([step(str(n), value=0.5) for n in (10, 9, 2)])
    assert [s["id"] for s in tree.children(None)] == ["2", "9", "10"]
    assert Tree([step("1", value=1.0)], running=[Expansion("1", 2)]).size == 3
