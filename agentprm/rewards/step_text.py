"""Steps as text for reward models: sub-question, evidence and finding, or the finding alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards.base import RewardStep
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
        if self.passages not in ("all", "cited", "none"):
            raise ConfigurationError(f"passages must be 'all', 'cited' or 'none', not {self.passages!r}.")
        for name in ("max_passages", "max_words"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1 or None, not {value}.")

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
