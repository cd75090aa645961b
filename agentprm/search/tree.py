"""The steps of a search as a tree, in an order that no arrival changes, and which fresh ones are weak.

`Tree` is what a strategy sees of the flat list. Before it sees fresh candidates, `weak_steps` says which of
them are to be refined, and `replaced` which their refinements take the place of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from agentprm.rewards.aggregation import Aggregation, aggregate
from agentprm.state import Step

__all__ = ["Accept", "Expansion", "Tree", "replaced", "weak_steps"]

Accept = Literal["if_better", "always"]

_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Expansion:
    """A step that is to get children.

    Attributes:
        parent: Its id; `None` for the root, the question itself.
        children: How many; `None` leaves it to whoever proposes them.
    """

    parent: str | None
    children: int | None = None


class Tree:
    """A read-only view of the steps of a search.

    Candidates are the steps that have a value and were not rejected; what was simulated, could not be parsed
    or waits for its score is no candidate. All orders are those of the ids, so that a strategy sees the same
    tree whatever the order in which results came.

    Args:
        steps: The flat list, in any order.
        max_steps: Depth from which steps are not gone on from.
        space: Of the values: probabilities, or logits.
        aggregation: How the scores of a path make one, for the choice among answers.
        running: Expansions that were asked for and whose children are still to come.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        *,
        max_steps: int = 5,
        space: Literal["probability", "logit"] = "probability",
        aggregation: Aggregation = "last",
        running: Sequence[Expansion] = (),
    ) -> None:
        self.max_steps, self.space, self.aggregation = max_steps, space, aggregation
        self.running = {expansion.parent: expansion for expansion in running}
        grown = sorted((s for s in steps if s["status"] != "simulated"), key=lambda s: _order(s["id"]))
        self._by_id = {step["id"]: step for step in grown}
        self._expanded = {step["parent_id"] for step in grown}
        self.candidates = [s for s in grown if s["value"] is not None and s["status"] != "rejected"]
        self._children: dict[str | None, list[Step]] = {}
        for step in self.candidates:
            self._children.setdefault(step["parent_id"], []).append(step)
        asked = sum(e.children or 1 for e in running)
        #: Steps that were sampled so far, merged duplicates counted, and those that are running.
        self.size = sum(step.get("samples", 1) for step in grown) + asked

    def __getitem__(self, step_id: str) -> Step:
        return self._by_id[step_id]

    def children(self, parent: str | None) -> list[Step]:
        """The candidates after a step, or for `None` the first ones."""
        return self._children.get(parent, [])

    def expanded(self, step_id: str | None) -> bool:
        """Whether children of the step were proposed already, usable or not."""
        return step_id in self._expanded

    def ends(self, step: Step) -> bool:
        """Whether nothing comes after the step: it answers, or the path is as long as it may be."""
        return step["final_answer"] is not None or step["depth"] >= self.max_steps

    def path(self, step: Step) -> list[Step]:
        """The steps from the root down to this one."""
        path = [step]
        while (parent := path[-1]["parent_id"]) is not None:
            path.append(self._by_id[parent])
        return path[::-1]

    def value(self, step: Step) -> float:
        """What the value function made of the step's scores, in the reward's space."""
        return _value(step)

    def unit(self, step: Step) -> float:
        """The value in the units of a probability: logits go through the logistic function."""
        return _unit(self.value(step), self.space)

    def quality(self, step: Step) -> float:
        """One score of the whole path to the step, from the scores of the reward alone.

        Values that look at progress or ahead, as PAV's, guide the search; an answer is judged by what
        the reward says of it.
        """
        scores = [s["score"] for s in self.path(step) if s["score"] is not None]
        return aggregate(scores, self.aggregation) if scores else -math.inf

    def weight(self, step: Step) -> float:
        """The quality as the weight of a vote, at least 0."""
        return max(_unit(self.quality(step), self.space), 0.0)

    def answers(self) -> list[Step]:
        """The candidates that answer the question."""
        return [step for step in self.candidates if step["final_answer"] is not None]

    def leaves(self) -> list[Step]:
        """The candidates without candidates after them."""
        return [step for step in self.candidates if not self._children.get(step["id"])]


def _unit(value: float, space: Literal["probability", "logit"]) -> float:
    if space == "probability":
        return value
    return 0.5 * (1 + math.tanh(value / 2))  # the logistic function, without overflow


@lru_cache(maxsize=4096)  # a growing tree is looked at again and again
def _order(step_id: str) -> tuple[str | int, ...]:
    """Ids by their numbers, so that 1.10 comes after 1.9; texts and numbers alternate, and so compare."""
    return tuple(int(part) if part.isdecimal() else part for part in _NUMBERS.split(step_id))


def weak_steps(fresh: Sequence[Step], steps: Iterable[Step], threshold: float | None) -> list[Step]:
    """The best of each group of siblings, where even that is weak and none was refined yet (ReARTeR).

    Args:
        fresh: Valued candidates that no strategy has seen.
        steps: The whole tree: a choice is refined once, also if nothing usable came of it.
        threshold: A best value of at most this much is weak; `None` switches refinement off.
    """
    if threshold is None:
        return []
    settled = {step["parent_id"] for step in steps if "refines" in step}
    # Of a plan several steps may be done at once, one below the other.
    settled |= {step["id"] for step in fresh}
    groups: dict[str | None, list[Step]] = {}
    for step in fresh:
        groups.setdefault(step["parent_id"], []).append(step)
    best = [max(group, key=_value) for parent, group in groups.items() if parent not in settled]
    return [step for step in best if _value(step) <= threshold]


def replaced(fresh: Sequence[Step], accept: Accept) -> set[str]:
    """Ids of the candidates that a refinement takes the place of.

    Args:
        fresh: Valued candidates, refinements of one another included.
        accept: `if_better` lets both stand, and their values decide; with `always` the refinement is
            taken whatever its value, as the paper does.
    """
    if accept == "if_better":
        return set()
    refined = {step["parent_id"] for step in fresh if "refines" in step}
    return {step["id"] for step in fresh if step["parent_id"] in refined and "refines" not in step}


def _value(step: Step) -> float:
    return -math.inf if step["value"] is None else step["value"]
