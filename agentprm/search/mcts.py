"""Strategies that spend where it seems to pay: Monte Carlo tree search, and adaptive branching.

Visits and means are counted in the tree each time, nothing is kept: every candidate is a simulation whose
result is its value, and it counts for all steps on its path. Steps that are being expanded count as visits
too, without a result, so that expansions chosen side by side spread out (Liu et al., "Watch the
Unobserved").
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from agentprm.errors import ConfigurationError, check_count
from agentprm.search.strategy import Ask, Expansion, Tree, Voting
from agentprm.state import Step

__all__ = ["ABMCTS", "MCTS", "Statistics"]

Rule = Literal["uct", "puct"]
Backup = Literal["mean", "max"]


class Statistics:
    """What the simulations so far say of every candidate; the root is `None`.

    Args:
        tree: The tree.

    Attributes:
        results: Simulations through a step, its own included.
        total: Sum of their values.
        best: The highest of them.
        running: Expansions at or below a step that have no result yet.
        grows: Whether something at or below a step can be expanded.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.results: Counter[str | None] = Counter()
        self.total: dict[str | None, float] = {None: 0.0}
        self.best: dict[str | None, float] = {None: -math.inf}
        self.running: Counter[str | None] = Counter()
        self.grows: dict[str | None, bool] = {None: not tree.expanded(None)}
        for step in sorted(tree.candidates, key=lambda s: -s["depth"]):  # children before their parents
            here, above, value = step["id"], step["parent_id"], tree.unit(step)
            self.results[here] += 1
            self.total[here] = self.total.get(here, 0.0) + value
            self.best[here] = max(self.best.get(here, -math.inf), value)
            leaf = not tree.ends(step) and not tree.expanded(here)
            self.grows[here] = self.grows.get(here, False) or leaf
            self.results[above] += self.results[here]
            self.total[above] = self.total.get(above, 0.0) + self.total[here]
            self.best[above] = max(self.best.get(above, -math.inf), self.best[here])
            self.grows[above] = self.grows.get(above, False) or self.grows[here]
        for place in tree.running:
            self.occupy(place)

    def visits(self, place: str | None) -> int:
        """Simulations through a step, those included that are running."""
        return self.results[place] + self.running[place]

    def mean(self, place: str | None) -> float:
        """Mean value of the simulations through a step that have ended."""
        return self.total[place] / self.results[place]

    def occupy(self, place: str | None) -> None:
        """Counts an expansion that begins: a visit more on the whole path, and no second one at its end."""
        self.grows[place] = False
        self.running[place] += 1
        while place is not None:
            place = self.tree[place]["parent_id"]
            self.running[place] += 1
            self.grows[place] = any(self.grows[child["id"]] for child in self.tree.children(place))


@dataclass(frozen=True)
class MCTS(Voting):
    """Monte Carlo tree search: down to the child of the highest bound, until a step can be expanded.

    `uct`: `Q + c * sqrt(ln N(parent) / N)` (Kocsis and Szepesvári, 2006). `puct`:
    `Q + c * P * sqrt(N(parent)) / (1 + N)` (Silver et al., 2017), where the prior `P` is the share of the
    proposed samples that said the same as the step. `Q` is the mean of the values at and below the step, or
    their maximum. Steps are valued when they are made, so there are no random playouts; a finished
    part of the tree is never visited again, since its values are known.

    Args:
        nodes: Steps after which the search ends, duplicates included.
        rule: `uct` or `puct`.
        c: Weight of exploration; 0 always follows the best `Q`.
        backup: `mean` or `max`.
        batch: Steps that are expanded side by side.
        vote: See `Voting`.
        agree: See `Voting`.
    """

    nodes: int = 40
    rule: Rule = "uct"
    c: float = math.sqrt(2)
    backup: Backup = "mean"
    batch: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("nodes", self.nodes)
        check_count("batch", self.batch)
        if self.rule not in get_args(Rule):
            raise ConfigurationError(f"rule must be 'uct' or 'puct', not {self.rule!r}.")
        if self.backup not in get_args(Backup):
            raise ConfigurationError(f"backup must be 'mean' or 'max', not {self.backup!r}.")
        if not 0 <= self.c < math.inf:
            raise ConfigurationError(f"c must be a finite number of at least 0, not {self.c!r}.")

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        if self.agreed(tree):
            return Ask(stop="answered")
        if tree.size >= self.nodes and not tree.running:
            return Ask(stop="answered" if tree.answers() else "nodes")
        statistics = Statistics(tree)
        if not statistics.grows[None]:
            return Ask(stop="" if tree.running else self.ended(tree))
        expand: list[Expansion] = []
        while len(expand) + len(tree.running) < self.batch and statistics.grows[None]:
            place = self._leaf(statistics)
            statistics.occupy(place)
            expand.append(Expansion(place))
        return Ask(expand=tuple(expand))

    def bounds(self, statistics: Statistics, parent: str | None) -> Mapping[str, float]:
        """What the children of a step are compared by."""
        children = statistics.tree.children(parent)
        above = statistics.visits(parent)
        sampled = sum(step.get("samples", 1) for step in children)
        bounds = {}
        for step in children:
            place = step["id"]
            visits = statistics.visits(place)
            q = statistics.mean(place) if self.backup == "mean" else statistics.best[place]
            if self.rule == "uct":
                bonus = math.sqrt(math.log(above) / visits)
            else:
                bonus = step.get("samples", 1) / sampled * math.sqrt(above) / (1 + visits)
            bounds[place] = q + self.c * bonus
        return bounds

    def _leaf(self, statistics: Statistics) -> str | None:
        place: str | None = None
        while statistics.tree.expanded(place):
            bounds = self.bounds(statistics, place)
            growing = [key for key in bounds if statistics.grows[key]]
            place = max(growing, key=bounds.__getitem__)
        return place


@dataclass(frozen=True)
class ABMCTS(Voting):
    """Adaptive branching by Thompson sampling (AB-MCTS-A of Inoue et al., "Wider or Deeper?").

    At each step down from the root two arms are drawn from: to widen, whose results are the values of the
    step's own children when they were made, and to go deeper, whose results are those of everything
    below these children. Going deeper draws among the children, each with the results below it. A draw is
    one of a Beta posterior over fractional successes. Each expansion adds one child.

    Args:
        nodes: Steps after which the search ends, duplicates included.
        prior: Both parameters of the Beta prior; .5, Jeffreys', is the authors' code's.
        batch: Expansions drawn side by side.
        seed: Same seed and tree: same draws.
        vote: See `Voting`.
        agree: See `Voting`.
    """

    nodes: int = 40
    prior: float = 0.5
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("nodes", self.nodes)
        check_count("batch", self.batch)
        if not 0 < self.prior < math.inf:
            raise ConfigurationError(f"prior must be a positive number, not {self.prior!r}.")

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        if self.agreed(tree):
            return Ask(stop="answered")
        if tree.size >= self.nodes and not tree.running:
            return Ask(stop="answered" if tree.answers() else "nodes")
        if not tree.candidates and tree.expanded(None) and not tree.running:
            return Ask(stop="no candidate")
        statistics = Statistics(tree)
        # The state alone seeds the draws: they are the same after a resumption.
        chance = random.Random(f"{self.seed} {tree.size}")
        places: Counter[str | None] = Counter()
        for _ in range(self.batch - sum(e.children or 1 for e in tree.running.values())):
            places[self._place(statistics, chance)] += 1
        return Ask(expand=tuple(Expansion(place, count) for place, count in places.items()))

    def wanted(self, parent: str | None) -> int:
        """See `Voting.wanted`."""
        return 1

    def arms(self, statistics: Statistics, place: str | None) -> tuple[Sequence[float], Sequence[float]]:
        """The results of widening at a step, and those of going deeper."""
        tree = statistics.tree
        children = tree.children(place)
        return [_clipped(tree, c) for c in children], [r for c in children for r in self.results(tree, c)]

    @staticmethod
    def results(tree: Tree, step: Step) -> Sequence[float]:
        """The values of all candidates below a step."""
        found: list[float] = []
        waiting = list(tree.children(step["id"]))
        while waiting:
            child = waiting.pop()
            found.append(_clipped(tree, child))
            waiting += tree.children(child["id"])
        return found

    def draw(self, results: Sequence[float], chance: random.Random) -> float:
        """A draw from the posterior of an arm."""
        won = math.fsum(results)
        return chance.betavariate(self.prior + won, self.prior + len(results) - won)

    def _place(self, statistics: Statistics, chance: random.Random) -> str | None:
        tree = statistics.tree
        place: str | None = None
        while deeper := [step for step in tree.children(place) if not tree.ends(step)]:
            wide, deep = self.arms(statistics, place)
            if self.draw(wide, chance) >= self.draw(deep, chance):
                break
            drawn = {step["id"]: self.draw(self.results(tree, step), chance) for step in deeper}
            place = max(drawn, key=drawn.__getitem__)
        return place


def _clipped(tree: Tree, step: Step) -> float:
    return min(max(tree.unit(step), 0.0), 1.0)  # PAV's values may lie a little outside
