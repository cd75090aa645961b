"""What a strategy is: which steps to go on from, and which one to answer from.

A strategy is a pure function of the tree. It keeps nothing, so it goes on from any checkpoint, takes results
in any order, and gives the same tree under the same seed. `ask` says what may be expanded side by side;
telling it the outcome is nothing but putting the new steps into the tree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from agentprm.errors import ConfigurationError
from agentprm.rewards.aggregation import majority, weighted_majority
from agentprm.search.tree import Expansion, Tree
from agentprm.state import Step, merge_steps
from agentprm.text import normalize_unicode

__all__ = ["Ask", "Strategy", "Vote", "Voting", "check_count", "explore"]

Vote = Literal["best", "majority", "weighted"]


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


@dataclass(frozen=True, kw_only=True)
class Voting:
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

    def ended(self, tree: Tree) -> str:
        """Why a search that has nothing to expand is over."""
        if tree.answers():
            return "answered"
        return "max_steps" if any(map(tree.ends, tree.candidates)) else "no candidate"


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuses a setting that is no whole number of at least `least`.

    Raises:
        ConfigurationError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(f"{name} must be an integer of at least {least}, not {value!r}.")


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
