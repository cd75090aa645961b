"""Scores of prefixes that are computed once and remembered, whatever computes them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from agentprm.budget import record
from agentprm.forking import ForkSafeLock
from agentprm.memory import Memory
from agentprm.rewards.base import ProcessRewardModel, Trajectory, check_trajectories
from agentprm.rewards.step_text import StepText, StepWriter

__all__ = ["Pending", "StepReward", "key_chain"]


def key_chain(question: str, steps: Sequence[str]) -> list[str]:
    """A key for every prefix of `steps`, each made of the one before it."""
    key, keys = hashlib.sha256(question.encode()).hexdigest(), []
    for step in steps:
        key = hashlib.sha256(f"{key}\n{step}".encode()).hexdigest()
        keys.append(key)
    return keys


@dataclass(frozen=True)
class Pending:
    """A call's trajectories as text, and which of their prefixes have no score yet.

    Attributes:
        keys: A key per step of each trajectory.
        known: Scores by key.
        wanted: The step texts of trajectories with new prefixes, and the new steps' indices.
        owners: The keys of these steps.
    """

    keys: list[list[str]]
    known: dict[str, float]
    wanted: list[tuple[list[str], list[int]]]
    owners: list[list[str]]


class StepReward(ProcessRewardModel):
    """A reward of steps that are written as text, each prefix scored once and remembered.

    Args:
        step_text: Writes a step; by default `StepText()`.
        cache_size: Number of prefixes whose scores are kept; the least recently used go first.

    Attributes:
        unscored: Steps that got NaN instead of a score so far.
    """

    def __init__(self, step_text: StepWriter | None = None, cache_size: int = 10_000) -> None:
        self.step_text: StepWriter = step_text or StepText()
        self.unscored = 0
        self._kept = Memory[str, float](cache_size)
        self._lock = ForkSafeLock()

    def _pending(self, question: str, trajectories: Sequence[Trajectory]) -> Pending:
        """What of a call has to be scored; each new prefix belongs to the first that has it."""
        check_trajectories(trajectories)
        texts = [[self.step_text(step) for step in trajectory] for trajectory in trajectories]
        keys = [key_chain(question, steps) for steps in texts]
        known = self._kept.known(key for row in keys for key in row)
        wanted: list[tuple[list[str], list[int]]] = []
        owners: list[list[str]] = []
        claimed = set(known)
        for steps, row in zip(texts, keys, strict=True):
            new = [k for k, key in enumerate(row) if key not in claimed]
            if new:
                claimed.update(row)
                wanted.append((steps, new))
                owners.append([row[k] for k in new])
        return Pending(keys, known, wanted, owners)

    def _finish(self, pending: Pending, found: Sequence[Sequence[float]]) -> list[list[float]]:
        """Remembers the new scores, one row per wanted trajectory, and gives those of the call."""
        known = dict(pending.known)
        for some, scores in zip(pending.owners, found, strict=True):
            known.update(zip(some, map(float, scores), strict=True))
        fresh = [known[key] for some in pending.owners for key in some]
        record(reward_calls=len(fresh))
        with self._lock:
            self.unscored += sum(map(math.isnan, fresh))
        self._kept.keep({key: known[key] for row in pending.keys for key in row})
        return [[known[key] for key in row] for row in pending.keys]
