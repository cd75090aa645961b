"""Templates beyond a yes or no: grades by a principle or a rubric, and GenPRM's conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agentprm.errors import ConfigurationError
from agentprm.lm.base import Role
from agentprm.replies import without_thought
from agentprm.rewards.verdict_templates import (
    Continuation,
    Found,
    VerdictTemplate,
    Writing,
    at_word,
    only_last,
)

__all__ = ["GenPRM", "Principled", "Rubric"]


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


_GEN_SYSTEM = (
    "You are a math teacher. Your task is to review and critique the paragraphs in solution step by step."
)
_FENCE = "```"
_VERIFY = f"<verify>\nLet's use python code to find any potential error:\n{_FENCE}python\n"


@dataclass(frozen=True)
class GenPRM(VerdictTemplate):
    r"""A conversation of paragraphs and critiques, with analysis, code and a boxed verdict: GenPRM.

    Each step is a user turn and the critique of it an assistant turn, so steps are judged in order
    and sample i of a step continues sample i of the step before. With `execute` the model also
    writes Python, whose output it is shown, for at most `rounds` rounds; after that it must decide.

    Args:
        opening: How every critique begins.
        closing: As in `VerdictTemplate`.
        execute: Runs a program and gives what it printed, or an error message. It gets code that a
            model wrote: hand it to a sandbox, never to `exec`.
        rounds: Most programs per step (3 in the paper).
        system: System message.
    """

    opening: str = "<analyze>\nLet's analyze the Paragraph {number} step by step: "
    closing: str = ""
    execute: Callable[[str], str] | None = None
    rounds: int = 3
    system: str = _GEN_SYSTEM

    history = True
    staged = True
    thinks = True

    @property
    def stages(self) -> int:
        """See `VerdictTemplate.stages`: analysis, programs, verdict."""
        return 2 if self.execute is None else self.rounds + 2

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        turns: list[tuple[Role, str]] = [("system", self.system)]
        for k, step in enumerate(steps):
            turns.append(("user", step if k else f"{question}\n{step}"))
            if k < len(steps) - 1:
                turns.append(("assistant", earlier[k]))
        return turns

    def write(self, opening: str, number: int) -> Writing:
        """See `VerdictTemplate.write`."""
        decide = "<output>\n**Judgement**: $\\boxed"
        head = opening.replace("{number}", str(number))
        completion = yield Continuation(head, ("</analyze>",))
        analysis = head + completion.text.split("</analyze>")[0].rstrip("\n") + "\n</analyze>\n"
        if self.execute is not None:
            text = analysis + _VERIFY
            for _ in range(self.rounds):
                completion = yield Continuation(text, (f"\n{_FENCE}\n", "</output>"))
                if "<output>" in completion.text:
                    return text + completion.text + "</output>\n"
                if completion.finish_reason == "length":
                    break
                text += completion.text + f"\n{_FENCE}\n"
                code = _last_program(text)
                output = "No code found." if code is None else self.execute(code)
                text += f"[Code Output]\n\n{_FENCE}\n{output}\n{_FENCE}\n"
        # Without code, or with the rounds used up: decide from the analysis.
        completion = yield Continuation(analysis + decide, ("</output>",), 20)
        return analysis + decide + completion.text + "</output>\n"

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        matches = list(re.finditer(r"\\boxed\{\s*(?:\\text\{\s*)?(Yes|No)\s*\}", text, re.IGNORECASE))
        if not matches:
            return only_last(None, count)
        at = matches[-1].start(1)
        return only_last(at_word(text, at, self.words), count)


def _last_program(text: str) -> str | None:
    """The last fenced block of Python that is closed."""
    for block in reversed(text.split(f"{_FENCE}python\n")[1:]):
        body, closed, _ = block.partition(f"\n{_FENCE}")
        if closed:
            return body
    return None
