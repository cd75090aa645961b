"""What rewards share that write steps as text: each prefix is scored once, within the model's context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from agentprm.budget import record
from agentprm.errors import ConfigurationError, ContextLengthError
from agentprm.forking import ForkSafeLock
from agentprm.memory import PrefixMemory, Recall
from agentprm.rewards.base import ProcessRewardModel, Trajectory, check_trajectories
from agentprm.rewards.step_text import StepText, StepWriter

__all__ = ["Overflow", "StepReward", "Wanted", "fits_context"]

Overflow = Literal["error", "nan"]

Wanted = Sequence[tuple[list[str], list[int]]]
"""The step texts of trajectories with new prefixes, and the numbers of the steps to score, ascending."""


class StepReward(ProcessRewardModel):
    """A reward of steps that are written as text, each prefix scored once and remembered.

    Args:
        step_text: Writes a step; by default `StepText()`.
        cache_size: Number of prefixes whose scores are kept; the least recently used go first.
        on_overflow: What to do with a step whose prefix exceeds the model's context: `"error"` raises
            `ContextLengthError`; `"nan"` gives it NaN and counts it in `unscored`. Nothing is ever
            cut; to send less, shorten the passages (`StepText(max_words=…, passages="cited")`).

    Attributes:
        unscored: Steps that got NaN instead of a score so far.
    """

    def __init__(
        self,
        step_text: StepWriter | None = None,
        cache_size: int = 10_000,
        on_overflow: Overflow = "error",
    ) -> None:
        if on_overflow not in ("error", "nan"):
            raise ConfigurationError(f"on_overflow must be 'error' or 'nan', not {on_overflow!r}.")
        self.step_text: StepWriter = step_text or StepText()
        self.on_overflow = on_overflow
        self.unscored = 0
        self._known = PrefixMemory[float](cache_size)
        self._lock = ForkSafeLock()

    def _recall(self, question: str, trajectories: Sequence[Trajectory]) -> tuple[Recall[float], Wanted]:
        """What of a call is known, and what has to be scored."""
        check_trajectories(trajectories)
        texts = [[self.step_text(step) for step in trajectory] for trajectory in trajectories]
        recall = self._known.recall(question, texts)
        return recall, [(texts[row], new) for row, new in recall.new_steps()]

    def _settle(self, recall: Recall[float], found: Sequence[Sequence[float]]) -> list[list[float]]:
        """Remembers the new scores, a row per wanted trajectory, and gives those of the call."""
        fresh = [float(score) for row in found for score in row]
        record(reward_calls=len(fresh))
        with self._lock:
            self.unscored += sum(map(math.isnan, fresh))
        return self._known.settle(recall, fresh)


def fits_context(length: int, longest: int | None, on_overflow: Overflow, step: int) -> bool:
    """Whether a prefix fits; raises `ContextLengthError` if not and the policy is `"error"`."""
    if longest is None or length <= longest:
        return True
    if on_overflow == "error":
        raise ContextLengthError(
            f"Up to its step {step + 1} a trajectory has {length} tokens, but the reward model's "
            f"context is {longest}. Show less of a step with StepText(max_words=…, max_passages=…, "
            "passages='cited'), or let such steps go unscored with on_overflow='nan'."
        )
    return False
