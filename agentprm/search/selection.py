"""Choosing among candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentprm.state import Step

__all__ = ["Accept", "Choice", "select_greedy"]

Accept = Literal["if_better", "always"]


@dataclass(frozen=True)
class Choice:
    """Outcome of a selection.

    Attributes:
        best: The chosen step; `None` if there was no candidate.
        weak: Whether it should be refined before it is committed.
    """

    best: Step | None
    weak: bool = False


def _value(step: Step) -> float:
    return float("-inf") if step["value"] is None else step["value"]


def select_greedy(
    candidates: Sequence[Step], *, threshold: float | None = None, accept: Accept = "if_better"
) -> Choice:
    """The candidate of the highest value; the earlier one among equals (ReARTeR, section 1.2 of the loop).

    Args:
        candidates: Valued siblings, refinements of one another included.
        threshold: A best value of at most this much is weak; `None` switches refinement off.
        accept: `if_better` takes a refinement only if its value is higher; `always` takes it
            whatever its value, as the paper does.
    """
    if not candidates:
        return Choice(None)
    best = max(candidates, key=_value)
    refined = [step for step in candidates if "refines" in step]
    if refined and accept == "always":
        return Choice(max(refined, key=_value))
    return Choice(best, threshold is not None and _value(best) <= threshold)
