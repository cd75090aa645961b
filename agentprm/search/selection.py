"""Which fresh candidates are weak, and what becomes of a step and its refinement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from agentprm.state import Step

__all__ = ["Accept", "replaced", "weak_steps"]

Accept = Literal["if_better", "always"]


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
    return float("-inf") if step["value"] is None else step["value"]
