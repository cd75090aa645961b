"""Steps as text for reward models, and what rewards share that score such texts, each prefix once.

`StepText` writes sub-question, evidence and finding, or the finding alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agentprm.budget import record
from agentprm.errors import ContextLengthError, InputError, check_choice, check_least
from agentprm.forking import ForkSafeLock
from agentprm.rewards.base import (
    PrefixMemory,
    ProcessRewardModel,
    Recall,
    RewardStep,
    Trajectory,
    check_trajectories,
)
from agentprm.text import cut_words, one_line

__all__ = [
    "StepText",
    "StepWriter",
    "as_trajectory",
]

StepWriter = Callable[[RewardStep], str]
"""From a step to the text that a reward model reads."""


@dataclass(frozen=True)
class StepText:
    """Writes a step: what it asked, the evidence it was given, what it found.

    A step that has only a finding, such as a line of a mathematical solution, is written as it is.
    The question itself is not part of a step; the template of the reward model writes it once.

    Args:
        passages: `all` of the step's passages, only the `cited` ones (all, if the step does not say
            which it cites), or `none`.
        max_passages: Most passages of a step, best first.
        max_words: Most words of a passage; what is cut shows as `[…]`.
        query: Label of the sub-question.
        evidence: Heading of the passages.
        finding: Label of the finding.
        answer: Label of the answer to the whole question, written if the finding does not hold it.
    """

    passages: Literal["all", "cited", "none"] = "all"
    max_passages: int | None = None
    max_words: int | None = None
    query: str = "Sub-question: "
    evidence: str = "Evidence:"
    finding: str = "Finding: "
    answer: str = "Final answer: "

    def __post_init__(self) -> None:
        check_choice("passages", self.passages, "all", "cited", "none")
        check_least(1, max_passages=self.max_passages, max_words=self.max_words)

    def __call__(self, step: RewardStep) -> str:
        """The text of `step`, without white space at its ends.

        Raises:
            InputError: If there is nothing to write: such a step is not finished and has no score.
        """
        thought = step["thought"].strip()
        answer = (step["final_answer"] or "").strip()
        shown = self._shown(step)
        lines = [self.query + one_line(step["query"])] if step["query"].strip() else []
        if shown:
            lines += [self.evidence, *shown]
        if thought:
            lines.append(self.finding + thought if lines else thought)
        if answer and answer not in thought:
            lines.append(self.answer + answer)
        if not (thought or answer):
            raise InputError("A step without a finding cannot be scored; leave unfinished steps out.")
        return "\n".join(lines)

    def _shown(self, step: RewardStep) -> list[str]:
        if self.passages == "none":
            return []
        passages = step["passages"]
        if self.passages == "cited" and "cited" in step:
            passages = [passages[i] for i in step["cited"] if 0 <= i < len(passages)]
        return [self._cut(one_line(text)) for text in passages[: self.max_passages]]

    def _cut(self, text: str) -> str:
        kept = text if self.max_words is None else cut_words(text, self.max_words)
        return text if kept == text else f"{kept} […]"


def as_trajectory(solution: str | Sequence[str], separator: str = r"\n\s*\n") -> list[RewardStep]:
    r"""A written solution as a trajectory: one step per paragraph, none for blank ones.

    Args:
        solution: The text, or its steps.
        separator: Regular expression between steps; by default blank lines.

    Example:
        >>> [step["thought"] for step in as_trajectory("1 + 1 = 2\n\nSo it is 2.\n\n")]
        ['1 + 1 = 2', 'So it is 2.']
    """
    parts = re.split(separator, solution) if isinstance(solution, str) else solution
    return [
        RewardStep(query="", passages=[], thought=part.strip(), final_answer=None)
        for part in parts
        if part.strip()
    ]


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
        check_choice("on_overflow", on_overflow, "error", "nan")
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
