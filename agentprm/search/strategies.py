"""Strategies that go down level by level to several answers: best of n, beam, diverse subtrees.

`FirstPath` has a strategy that looks for several answers finish one path first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentprm.errors import check_count
from agentprm.search.strategy import Ask, Expansion, Tree, Voting
from agentprm.state import Step

__all__ = ["DVTS", "Beam", "BestOfN", "FirstPath"]


@dataclass(frozen=True)
class BestOfN(Voting):
    """Grows `n` paths independently of one another and chooses among their answers (self-consistency).

    The baseline that every search must beat at equal cost. With `vote="majority"` the reward has no say
    but in the choice of the path that is shown; with `"best"` or `"weighted"` it judges what is finished.

    Args:
        n: Paths.
        vote: See `Voting`.
        agree: See `Voting`.
    """

    n: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n", self.n)

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        if self.agreed(tree):
            return Ask(stop="answered")
        if not tree.expanded(None):
            return Ask(expand=tree.unless_running([Expansion(None, self.wanted(None))]))
        ends = [step for step in tree.leaves() if not tree.ends(step) and not tree.expanded(step["id"])]
        if not ends and not tree.running:
            return Ask(stop=self.ended(tree))
        expand = [Expansion(step["id"], self.wanted(step["id"])) for step in ends]
        return Ask(expand=tree.unless_running(expand))

    def wanted(self, parent: str | None) -> int:
        """See `Voting.wanted`."""
        return self.n if parent is None else 1

    def order(self, tree: Tree, siblings: Sequence[Step]) -> Sequence[Step]:
        """As they were proposed: the reward has no say in which of the paths comes first."""
        return siblings


@dataclass(frozen=True)
class Beam(Voting):
    """Keeps the `width` best steps of each depth, whoever their parents are, and goes on from all of them.

    A finished path keeps its place in the beam of its depth, and is never lost: every answer that was found
    is chosen among at the end.

    Args:
        width: Steps that are kept.
        vote: See `Voting`.
        agree: See `Voting`.
    """

    width: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("width", self.width)

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        rejected: list[str] = []
        level: Sequence[Step] = tree.children(None)
        if not tree.expanded(None):
            return Ask(expand=tree.unless_running([Expansion(None)]))
        if self.agreed(tree):
            return Ask(stop="answered")
        while True:
            kept = _best(tree, level, self.width)
            rejected += [s["id"] for s in level if s not in kept and s["final_answer"] is None]
            growing = [step for step in kept if not tree.ends(step)]
            missing = [step for step in growing if not tree.expanded(step["id"])]
            if missing or any(step["id"] in tree.running for step in growing):
                asked = tree.unless_running([Expansion(step["id"]) for step in missing])
                return Ask(expand=asked, rejected=tuple(rejected))
            level = [child for step in growing for child in tree.children(step["id"])]
            if not level:
                return Ask(rejected=tuple(rejected), stop=self.ended(tree))


@dataclass(frozen=True)
class DVTS(Voting):
    """Diverse verifier tree search: independent greedy searches from first steps that differ.

    The first steps are dealt out to the subtrees, `candidates` to each, so that no two subtrees begin alike;
    where fewer different ones were proposed there are fewer subtrees. After that a subtree never sees the
    others, which keeps many paths alive where a beam lets one parent take all places.

    Args:
        subtrees: Independent searches.
        candidates: Steps that each chooses from at each step.
        vote: See `Voting`.
        agree: See `Voting`.
    """

    subtrees: int = 4
    candidates: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("subtrees", self.subtrees)
        check_count("candidates", self.candidates)

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        if not tree.expanded(None):
            return Ask(expand=tree.unless_running([Expansion(None, self.wanted(None))]))
        rejected: list[str] = []
        expand: list[Expansion] = []
        first = tree.children(None)
        for subtree in range(self.subtrees):
            path, out = tree.descent(first[subtree :: self.subtrees])
            rejected += out
            if path and not tree.ends(path[-1]) and not tree.expanded(path[-1]["id"]):
                expand.append(Expansion(path[-1]["id"], self.wanted(path[-1]["id"])))
        if self.agreed(tree):
            return Ask(rejected=tuple(rejected), stop="answered")
        if not expand and not tree.running:
            return Ask(rejected=tuple(rejected), stop=self.ended(tree))
        return Ask(expand=tree.unless_running(expand), rejected=tuple(rejected))

    def wanted(self, parent: str | None) -> int:
        """See `Voting.wanted`."""
        return self.candidates * (self.subtrees if parent is None else 1)


@dataclass(frozen=True)
class FirstPath:
    """Finishes one path before it lets a strategy spread, for a search that a budget may cut off.

    Strategies that grow paths side by side have none that is finished when the budget ends them early. So
    until there is one, only the end of the best path so far is gone on from, with as many children as the
    strategy asks for there, as a greedy search would; where it is dead, the next best. From then on the
    strategy alone decides, and finds the path in its tree. With enough left to spend, strategies of
    independent paths, `BestOfN` and `DVTS`, come to the same tree as without; a beam has the path besides,
    and tree searches have it as a first simulation that was played out to its end.

    Args:
        strategy: The strategy.
    """

    strategy: Voting

    def ask(self, tree: Tree) -> Ask:
        """See `Strategy.ask`."""
        asked = self.strategy.ask(tree)
        if asked.stop or any(map(tree.ends, tree.candidates)):
            return asked
        end = self._end(tree)
        if end is None:
            return asked
        expansion = Expansion(end["id"], self.strategy.wanted(end["id"]))
        return Ask(expand=tree.unless_running([expansion]))

    def answer(self, tree: Tree) -> Step | None:
        """See `Strategy.answer`."""
        return self.strategy.answer(tree)

    def _end(self, tree: Tree) -> Step | None:
        """The step that was not gone on from which is best, going down from the root."""
        waiting = list(reversed(self.strategy.order(tree, tree.children(None))))
        while waiting:
            step = waiting.pop()
            if not tree.expanded(step["id"]):
                return step
            waiting += reversed(self.strategy.order(tree, tree.children(step["id"])))
        return None


def _best(tree: Tree, level: Sequence[Step], width: int) -> list[Step]:
    return sorted(level, key=tree.value, reverse=True)[:width]  # stable: the earlier of equals
