"""What rewards that a server computes have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

from agentprm.background import arun, run
from agentprm.budget import record
from agentprm.errors import ConfigurationError, ContextLengthError
from agentprm.lm.token_lm import Cost
from agentprm.rewards._steps import StepReward
from agentprm.rewards.base import Trajectory
from agentprm.rewards.step_text import StepWriter

__all__ = ["Overflow", "ServedReward", "Wanted"]

Overflow = Literal["error", "nan"]
Wanted = Sequence[tuple[list[str], list[int]]]


class ServedReward(StepReward):
    """A reward whose new prefixes are scored by requests, all of a call at once."""

    def __init__(
        self, step_text: StepWriter | None, cache_size: int, on_overflow: Overflow, longest: int | None
    ) -> None:
        super().__init__(step_text, cache_size)
        if on_overflow not in ("error", "nan"):
            raise ConfigurationError(f"on_overflow must be 'error' or 'nan', not {on_overflow!r}.")
        self.on_overflow = on_overflow
        self.max_context = longest

    @abstractmethod
    async def _rows(self, question: str, wanted: Wanted, cost: Cost) -> list[list[float]]:
        """Scores of new steps.

        Args:
            question: The question.
            wanted: The step texts of each trajectory, and the indices of those to score, ascending.
            cost: Is told what it costs.
        """

    def score(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """See `ProcessRewardModel.score`.

        Raises:
            ContextLengthError: If a prefix does not fit the context and the policy is `"error"`.
            InputError: If a step has no finding.
            TransientModelError: If the server cannot be reached for now.
            ModelServerError: If it fails for good.
        """
        pending, cost = self._pending(question, trajectories), Cost()
        try:
            found = run(self._rows(question, pending.wanted, cost))
        finally:
            self._account(cost)
        return self._finish(pending, found)

    async def ascore(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[float]]:
        """Async twin of `score`; cancelling it ends its requests."""
        pending, cost = self._pending(question, trajectories), Cost()
        try:
            found = await arun(self._rows(question, pending.wanted, cost))
        finally:
            self._account(cost)
        return self._finish(pending, found)

    def _account(self, cost: Cost) -> None:
        record(model_calls=cost.calls, prompt_tokens=cost.asked, computed_tokens=cost.computed)

    def fits(self, length: int, step: int) -> bool:
        if self.max_context is None or length <= self.max_context:
            return True
        if self.on_overflow == "error":
            raise ContextLengthError(
                f"Up to its step {step + 1} a trajectory has {length} tokens, but the reward model's context "
                f"is {self.max_context}. Shorten what steps show (StepText(max_words=…, passages='cited')), "
                "or let such steps go unscored with on_overflow='nan'."
            )
        return False
