"""What rewards that a server computes have in common."""

from __future__ import annotations

from collections.abc import Sequence

from agentprm.budget import record
from agentprm.lm.token_lm import Cost
from agentprm.rewards.base import RoutineReward, Trajectory
from agentprm.rewards.step_text import Overflow, StepReward, StepWriter, Wanted, fits_context
from agentprm.routines import Routine, all_of, wait_on_loop

__all__ = ["ServedReward"]


class ServedReward(StepReward, RoutineReward):
    """A reward whose new prefixes are scored by requests, all of a call at once.

    Subclasses implement `_row`, or `_rows` where requests hold steps of several trajectories. Cancelling
    `ascore` ends its requests.

    `score` raises `ContextLengthError` if a prefix does not fit the context and the policy is `"error"`,
    `InputError` if a step has no finding, `TransientModelError` if the server cannot be reached for now, and
    `ModelServerError` if it fails for good.

    Args:
        step_text: As in `StepReward`.
        cache_size: As in `StepReward`.
        on_overflow: As in `StepReward`.
        longest: Most tokens of a prefix; `None` where that is not known.
    """

    def __init__(
        self, step_text: StepWriter | None, cache_size: int, on_overflow: Overflow, longest: int | None
    ) -> None:
        super().__init__(step_text, cache_size, on_overflow)
        self.max_context = longest

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        """Scores of a trajectory's new steps; `cost` is told what they cost."""
        raise NotImplementedError

    async def _rows(self, question: str, wanted: Wanted, cost: Cost) -> list[list[float]]:
        """Scores of new steps, a row per trajectory."""

        async def row(steps: list[str], new: list[int]) -> list[float]:
            return await self._row(question, steps, new, cost)

        return await all_of(row, *zip(*wanted, strict=True)) if wanted else []

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        (recall, wanted), cost = self._recall(question, trajectories), Cost()
        try:
            found = yield from wait_on_loop(self._rows(question, wanted, cost))
        finally:
            record(model_calls=cost.calls, prompt_tokens=cost.asked, computed_tokens=cost.computed)
        return self._settle(recall, found)

    def _fits(self, length: int, step: int) -> bool:
        return fits_context(length, self.max_context, self.on_overflow, step)
