"""What a strategy sees of the steps of a search, what it is, and the simplest one.

A strategy says which steps to go on from, and which one to answer from. It is a pure function of the tree. It
keeps nothing, so it goes on from any checkpoint, takes results in any order, and gives the same tree under
the same seed. `ask` says what may be expanded side by side; telling it the outcome is nothing but putting the
new steps into the tree.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

from agentprm.errors import ConfigurationError, check_count
from agentprm.rewards.aggregation import Aggregation, aggregate, majority, weighted_majority
from agentprm.state import Step, merge_steps
from agentprm.text import normalize_unicode

__all__ = [
    "Ask",
    "Expansion",
    "Greedy",
    "Strategy",
    "Tree",
    "Vote",
    "Voting",
    "explore",
    "step_value",
]

Vote = Literal["best", "majority", "weighted"]

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
        return step_value(step)

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

    def descent(self, level: Sequence[Step]) -> tuple[list[Step], list[str]]:
        """The path of the best siblings from these on, and the ids of those that lost on the way."""
        path: list[Step] = []
        rejected: list[str] = []
        while level:
            best = max(level, key=self.value)
            rejected += [step["id"] for step in level if step is not best]
            path.append(best)
            level = self.children(best["id"])
        return path, rejected

    def unless_running(self, expansions: Sequence[Expansion]) -> tuple[Expansion, ...]:
        """Those of the expansions that were not asked for before."""
        return tuple(e for e in expansions if e.parent not in self.running)

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


def step_value(step: Step) -> float:
    """The value of a step; below all others if it has none."""
    return -math.inf if step["value"] is None else step["value"]


@dataclass(frozen=True)
class Ask:
    """What a strategy wants next.

    Attributes:
        expand: Steps to go on from, side by side. Empty without `stop`: what is running must come first.
        rejected: Ids of candidates that are out.
        committed: Ids of the steps on the way to the answer, as far as that is settled.
        stop: Why the search is over; empty while it goes on.
    """

    expand: tuple[Expansion, ...] = ()
    rejected: tuple[str, ...] = ()
    committed: tuple[str, ...] = ()
    stop: str = ""


class Strategy(Protocol):
    """Decides where a search goes on. Implementations are small frozen objects without state."""

    def ask(self, tree: Tree) -> Ask:
        """What to expand next; a pure function of the tree."""
        ...

    def answer(self, tree: Tree) -> Step | None:
        """The step that the answer is taken from, best so far; `None` while there is no candidate."""
        ...


@dataclass(frozen=True)
class Greedy:
    """Commits the best of the siblings at each step and drops the others (step-level best of M, ReARTeR).

    The cheapest of the searches: as many steps are worked on as candidates are proposed per step of one path.
    """

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        path, _ = tree.descent(tree.children(None))
        end = path[-1] if path else None
        committed = tuple(step["id"] for step in path)
        # Of a plan several steps may be done at once, one below the other, also below one that lost.
        rejected = tuple(step["id"] for step in tree.candidates if step["id"] not in committed)
        place = end["id"] if end else None
        stop = ""
        expand: tuple[Expansion, ...] = ()
        if end is not None and tree.ends(end):
            stop = "answered" if end["final_answer"] is not None else "max_steps"
        elif tree.expanded(place):
            stop = "no candidate"
        else:
            expand = tree.unless_running([Expansion(place)])
        return Ask(expand=expand, rejected=rejected, committed=committed, stop=stop)

    def answer(self, tree: Tree) -> Step | None:
        """The end of the path."""
        path, _ = tree.descent(tree.children(None))
        return path[-1] if path else None


@dataclass(frozen=True, kw_only=True)
class Voting(ABC):
    """Base of the strategies that find several answers.

    Args:
        vote: `best` takes the answer of the best path; `majority` the one that most paths give, `weighted`
            the one of the greatest total weight. Answers are compared without case, accents, punctuation
            and articles. However it is, only finished paths have a say, as long as there is one.
        agree: Stop as soon as so many answers agree: 1 stops at the first answer, more at a consensus.
            `None` never stops early.
    """

    vote: Vote = "best"
    agree: int | None = None

    def __post_init__(self) -> None:
        if self.vote not in get_args(Vote):
            raise ConfigurationError(f"vote must be one of {list(get_args(Vote))}, not {self.vote!r}.")
        if self.agree is not None:
            check_count("agree", self.agree)

    @abstractmethod
    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""

    def agreed(self, tree: Tree) -> bool:
        """Whether enough answers agree to stop."""
        if self.agree is None:
            return False
        votes = Counter(normalize_unicode(step["final_answer"] or "") for step in tree.answers())
        return max(votes.values(), default=0) >= self.agree

    def answer(self, tree: Tree) -> Step | None:
        """See `Strategy.answer`."""
        answers = tree.answers()
        if not answers:
            # A path that was cut short is gone on from; what it found sums up best at its end.
            return max(tree.leaves(), key=tree.value, default=None)
        if self.vote == "best":
            return max(answers, key=tree.quality)
        said = [step["final_answer"] for step in answers]
        if self.vote == "majority":
            first = answers[majority(said, normalize=normalize_unicode)]
            alike = normalize_unicode(first["final_answer"] or "")
            same = [s for s in answers if normalize_unicode(s["final_answer"] or "") == alike]
            return max(same, key=tree.quality)
        weights = [tree.weight(step) for step in answers]
        return answers[weighted_majority(said, weights, normalize=normalize_unicode)]

    def wanted(self, parent: str | None) -> int | None:
        """How many children the strategy asks for at a step, or at the root; `None` leaves it open."""
        return None

    def order(self, tree: Tree, siblings: Sequence[Step]) -> Sequence[Step]:
        """Siblings in the order in which a first path tries them: the best one first."""
        return sorted(siblings, key=tree.value, reverse=True)  # stable: the earlier of equals

    def ended(self, tree: Tree) -> str:
        """Why a search that has nothing to expand is over."""
        if tree.answers():
            return "answered"
        return "max_steps" if any(map(tree.ends, tree.candidates)) else "no candidate"


def explore(
    strategy: Strategy,
    expand: Callable[[Tree, Expansion], Iterable[Step]],
    *,
    steps: Sequence[Step] = (),
    most: int = 1000,
    **view: Any,
) -> tuple[list[Step], Step | None]:
    """Runs a strategy without a graph: what it asks for is expanded, until it stops.

    Args:
        strategy: The strategy.
        expand: Gives the new children of a step, scored and with values.
        steps: A tree to go on from.
        most: Steps after which the search is broken off.
        view: Settings of `Tree`.

    Returns:
        The tree, and the step that the answer is taken from.
    """
    grown = list(steps)
    while True:
        tree = Tree(grown, **view)
        asked = strategy.ask(tree)
        out = set(asked.rejected)
        grown = [{**s, "status": "rejected"} if s["id"] in out else s for s in grown]
        if asked.stop or not asked.expand or len(grown) >= most:
            return grown, strategy.answer(Tree(grown, **view))
        for expansion in asked.expand:
            grown = merge_steps(grown, list(expand(tree, expansion)))
        if Tree(grown).size == tree.size:  # an expansion that gives nothing would be asked for for ever
            return grown, strategy.answer(Tree(grown, **view))
