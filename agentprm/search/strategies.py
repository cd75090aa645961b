"""Strategies that go down level by level to several answers: best of n, beam, diverse subtrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentprm.search.strategy import Ask, Expansion, Tree, Voting, check_count
from agentprm.state import Step

__all__ = ["DVTS", "Beam", "BestOfN"]


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
            return Ask(expand=tree.unless_running([Expansion(None, self.n)]))
        ends = [step for step in tree.leaves() if not tree.ends(step) and not tree.expanded(step["id"])]
        if not ends and not tree.running:
            return Ask(stop=self.ended(tree))
        return Ask(expand=tree.unless_running([Expansion(step["id"], 1) for step in ends]))


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
            return Ask(expand=tree.unless_running([Expansion(None, self.subtrees * self.candidates)]))
        rejected: list[str] = []
        expand: list[Expansion] = []
        first = tree.children(None)
        for subtree in range(self.subtrees):
            path, out = tree.descent(first[subtree :: self.subtrees])
            rejected += out
            if path and not tree.ends(path[-1]) and not tree.expanded(path[-1]["id"]):
                expand.append(Expansion(path[-1]["id"], self.candidates))
        if self.agreed(tree):
            return Ask(rejected=tuple(rejected), stop="answered")
        if not expand and not tree.running:
            return Ask(rejected=tuple(rejected), stop=self.ended(tree))
        return Ask(expand=tree.unless_running(expand), rejected=tuple(rejected))


def _best(tree: Tree, level: Sequence[Step], width: int) -> list[Step]:
    return sorted(level, key=tree.value, reverse=True)[:width]  # stable: the earlier of equals
