"""Grades instead of a yes or no: by a principle in words, and by a rubric of statements."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentprm.errors import ConfigurationError
from agentprm.lm.base import Role
from agentprm.replies import without_thought
from agentprm.rewards.verdict_templates import Found, VerdictTemplate, only_last

__all__ = ["Principled", "Rubric"]

_PRINCIPLED = (
    "You evaluate a response by a given principle. The principle comes before what you would prefer "
    "otherwise. Think briefly, then score the response from 1 (contradicts the principle) to 5 (follows it "
    "perfectly, and is excellent). Output only JSON of this form:\n"
    '{"scores": {"model-1": 3}, "best-to-worst": ["model-1"]}'
)


@dataclass(frozen=True)
class Principled(VerdictTemplate):
    """A principle in words and a score from 1 to 5: RewardAnything (arXiv 2506.03637).

    The published model compares several responses; here each is scored on its own, so that the
    others never change a score.

    Args:
        opening: As in `VerdictTemplate`.
        closing: As in `VerdictTemplate`.
        principle: What to reward.
        system: System message.
    """

    principle: str = "Prefer steps that are right and that bring the solution closer to its end."
    system: str = _PRINCIPLED

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        before = "\n\n".join(steps[:-1])
        prompt = f"{question}\n\nSolution so far:\n{before}" if before else question
        content = {"principle": self.principle, "prompt": prompt, "responses": {"model-1": steps[-1]}}
        return [("system", self.system), ("user", json.dumps(content, ensure_ascii=False))]

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        answer = without_thought(text)
        for match in reversed(list(re.finditer(r'"scores"\s*:\s*(\{[^{}]*\})', answer))):
            try:
                scores = json.loads(match.group(1))
            except json.JSONDecodeError:
                continue
            grade = scores.get("model-1")
            if isinstance(grade, int | float) and not isinstance(grade, bool) and 1 <= grade <= 5:
                return only_last(Found((float(grade) - 1) / 4), count)
        return only_last(None, count)


_RUBRIC = (
    "You are given a question, a text and {count} statements. For each statement decide from the text "
    "alone, not from what you know, whether the text supports it: 'support' if it says all of it, "
    "'partial_support' if it says some of it, 'not_support' otherwise. Output only a JSON list of the "
    "{count} labels, in the order of the statements."
)
_LABELS = {"support": 1.0, "partial_support": 0.5, "not_support": 0.0}


@dataclass(frozen=True)
class Rubric(VerdictTemplate):
    """How much of a rubric a step fulfils, statement by statement: Search-Gen-V (arXiv 2510.14660).

    The score is the weighted mean of 1 (support), .5 (partial) and 0. A reply with another number of
    labels than statements is no verdict.

    Args:
        opening: As in `VerdictTemplate`.
        closing: As in `VerdictTemplate`.
        rubrics: The statements, for every question or by question.
        weights: One per statement; equal by default.
        whole: Judge all steps so far together, not the last one alone.
    """

    rubrics: Sequence[str] | Mapping[str, Sequence[str]] = ()
    weights: Sequence[float] = field(default_factory=tuple)
    whole: bool = True

    def __post_init__(self) -> None:
        if not self.rubrics or isinstance(self.rubrics, str):
            raise ConfigurationError("Rubric needs statements: rubrics=['…', …], or a mapping by question.")
        if self.weights and (min(self.weights) < 0 or not sum(self.weights)):
            raise ConfigurationError("The weights of a rubric must be positive.")
        if self.weights and not isinstance(self.rubrics, Mapping) and len(self.weights) != len(self.rubrics):
            raise ConfigurationError(f"{len(self.rubrics)} statements, but {len(self.weights)} weights.")

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        statements = self._statements(question)
        text = "\n\n".join(steps if self.whole else steps[-1:])
        listed = "\n".join(f"{k}. {statement}" for k, statement in enumerate(statements, 1))
        system = _RUBRIC.replace("{count}", str(len(statements)))
        return [
            ("system", system),
            ("user", f"Question: {question}\n\nText:\n{text}\n\nStatements:\n{listed}"),
        ]

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        answer = without_thought(text)
        lists = re.findall(r"\[[^\[\]]*\]", answer)
        written = re.findall(r"\b(not_support|partial_support|support)\b", lists[-1] if lists else answer)
        if len(written) != len(self._statements(question)):
            return only_last(None, count)
        weights = list(self.weights) or [1.0] * len(written)
        if len(weights) != len(written):
            raise ConfigurationError(f"{len(written)} statements, but {len(weights)} weights.")
        total = sum(weight * _LABELS[label] for weight, label in zip(weights, written, strict=True))
        return only_last(Found(total / sum(weights)), count)

    def _statements(self, question: str) -> Sequence[str]:
        if not isinstance(self.rubrics, Mapping):
            return self.rubrics
        if question not in self.rubrics:
            raise ConfigurationError(f"The rubrics hold no statements for the question {question!r}.")
        return self.rubrics[question]
