"""Prompts for generated verdicts, and how the verdict is found in what the model wrote.

A verdict template writes the prompt for a prefix, may lead the model through several stages, and
finds the verdict. What it cannot find is no verdict: nothing is guessed from half a critique.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from agentprm.lm.base import Completion, Role
from agentprm.replies import answer_span

__all__ = [
    "Continuation",
    "Found",
    "Grounded",
    "Judge",
    "SolutionCheck",
    "StepChecks",
    "VerdictTemplate",
    "Writing",
    "at_word",
    "only_last",
]


@dataclass(frozen=True)
class Found:
    """A verdict in a text.

    Attributes:
        value: 1 for good, 0 for bad, or a grade between.
        at: Where its word begins, so that both words' probabilities can be read there; `None` for a
            grade.
        words: The good and the bad word as written there.
    """

    value: float
    at: int | None = None
    words: tuple[str, str] = ("Yes", "No")


@dataclass(frozen=True)
class Continuation:
    """A wish for more text of the assistant's turn.

    Attributes:
        text: The turn so far; the model continues it.
        stop: Strings that end the stage, in addition to the end of the turn.
        max_tokens: Most tokens, or the reward's own bound.
    """

    text: str
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


Writing = Generator[Continuation, Completion, str]
"""Asks for stages, gets completions, returns the whole turn."""


@dataclass(frozen=True)
class VerdictTemplate(ABC):
    """How to ask for a verdict on the last step of a prefix.

    Args:
        opening: How the assistant's turn begins, for models that continue one.
        closing: Written after a turn without verdict, so that the verdict can be read off the model's
            probabilities all the same; empty for not.
    """

    opening: str = ""
    closing: str = ""

    #: Earlier steps are shown together with what was written about them.
    history = False
    #: The stages need a model that continues a prefix.
    staged = False
    #: One turn holds a verdict for every step.
    per_step = False
    #: The model is trained to judge in its thought, where its chat template opens one.
    thinks = False

    @property
    def stages(self) -> int:
        """Most stages of a turn, each a request."""
        return 1

    @property
    def words(self) -> tuple[str, str]:
        """The good and the bad word."""
        return getattr(self, "good", "Yes"), getattr(self, "bad", "No")

    @abstractmethod
    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """The conversation up to the verdict on `steps[-1]`.

        Args:
            question: The question.
            steps: The steps so far.
            earlier: What was written about each earlier step, if `history`.
        """

    @abstractmethod
    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """The verdicts in an assistant's turn.

        Args:
            text: The turn, its opening included.
            question: The question.
            count: Number of steps that were shown.

        Returns:
            One verdict per step, the last for the step that was asked about; `None` where there is
            none.
        """

    def write(self, opening: str, number: int) -> Writing:
        """Leads the model through the turn; by default in one go.

        Args:
            opening: How the turn begins; empty for a model that continues nothing.
            number: The step, from 1.
        """
        completion = yield Continuation(opening)
        return opening + completion.text


def at_word(text: str, at: int, words: tuple[str, str]) -> Found:
    """A verdict word at `at`: in the case it is written in, the blank before it as part of it."""
    value = float(text[at : at + len(words[0])].lower() == words[0].lower())
    if words[0].isalpha() and words[1].isalpha():
        upper = text[at].isupper()
        words = tuple(w[:1].upper() + w[1:] if upper else w[:1].lower() + w[1:] for w in words)  # type: ignore[assignment]
    if at and text[at - 1] == " ":
        return Found(value, at - 1, (" " + words[0], " " + words[1]))
    return Found(value, at, words)


def only_last(found: Found | None, count: int) -> list[Found | None]:
    """No verdict but on the last of `count` steps."""
    return [*([None] * (count - 1)), found]


def _after(text: str, mark: str, words: tuple[str, str], span: tuple[int, int]) -> Found | None:
    """The verdict word after the last occurrence of `mark` in a part of the text."""
    pattern = re.compile(rf"{mark}\s*\W{{0,4}}({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    matches = list(pattern.finditer(text, *span))
    return at_word(text, matches[-1].start(1), words) if matches else None


def _alone(text: str, words: tuple[str, str], span: tuple[int, int]) -> Found | None:
    """A verdict word that is the whole last line of a part of the text, or else the whole first one."""
    either, part = "|".join(map(re.escape, words)), text[slice(*span)]
    last = rf"(?:\A|\n)[^\w\n]{{0,20}}({either})\W{{0,20}}\Z"
    match = re.search(last, part.rstrip(), re.IGNORECASE)
    if match is None:
        first = rf"\s*[^\w\n]{{0,20}}({either})[^\w\n]{{0,20}}(?:\n|\Z)"
        match = re.match(first, part, re.IGNORECASE)
    return None if match is None else at_word(text, span[0] + match.start(1), words)


_JUDGE = (
    "You check one step of the solution to a problem. The steps before it are given; take them as they "
    "are. Say in a few sentences what speaks for and against the step: is it right, does it follow, do "
    "the passages it was given support it? Then finish with a line 'Verdict: {good}' or "
    "'Verdict: {bad}'."
)
_SELF = (
    "You are solving a problem step by step. Look at the last step of your own solution once more, as "
    "critically as if someone else had written it. Say what could be wrong with it, then finish with a "
    "line 'Verdict: {good}' if you stand by the step or 'Verdict: {bad}' if you would take it back."
)


@dataclass(frozen=True)
class Judge(VerdictTemplate):
    """A language model asked in plain words, with principles if there are any.

    Args:
        opening: As in `VerdictTemplate`.
        closing: As in `VerdictTemplate`.
        principles: What a good step is, a sentence each.
        own: Ask the model about its own step, for the policy as its own reward model (Self-PRM).
        good: The good word.
        bad: The bad word.
        instruction: Replaces the system message; `{good}` and `{bad}` are filled in.
    """

    principles: Sequence[str] = ()
    own: bool = False
    good: str = "Yes"
    bad: str = "No"
    instruction: str = ""

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        system = self.instruction or (_SELF if self.own else _JUDGE)
        system = system.replace("{good}", self.good).replace("{bad}", self.bad)
        if self.principles:
            system += "\n\nJudge by these principles:\n" + "\n".join(f"- {p}" for p in self.principles)
        before = "\n\n".join(f"Step {k}: {step}" for k, step in enumerate(steps[:-1], 1)) or "(none)"
        user = f"Problem: {question}\n\nEarlier steps:\n{before}\n\nStep to judge:\n{steps[-1]}"
        return [("system", system), ("user", user)]

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        span = answer_span(text)
        words = self.words
        # The label may stand in quotes, as in JSON.
        found = _after(text, r"Verdict[\"'\s]{0,4}(?:[:\uff1a]|\bis\b)", words, span)
        return only_last(found or _alone(text, words, span), count)


_REVIEW = (
    "Review and critique each step in the proposed solution to determine whether each step is correct. "
    "If the solution is incomplete, only verify the provided steps."
)


@dataclass(frozen=True)
class StepChecks(VerdictTemplate):
    r"""A critique of a whole solution with a boxed verdict per step: ThinkPRM.

    A verdict belongs to the last `Step k` named before it, or without any to the next step in order;
    of several for a step the last counts, as long thinking repeats itself. The critique may end at
    the first wrong step: the steps after it then share that verdict.

    Args:
        opening: As in `VerdictTemplate`.
        closing: As in `VerdictTemplate`.
        kind: What the problem is called.
        good: The good word.
        bad: The bad word.
    """

    opening: str = "Let's verify step by step:"
    kind: str = "math"
    good: str = "correct"
    bad: str = "incorrect"

    per_step = True
    thinks = True

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        solution = "\n\n".join(f"Step {k}: {step}" for k, step in enumerate(steps, 1))
        user = (
            f"You are given a {self.kind} problem and a proposed step-by-step solution:\n\n"
            f"[{self.kind.capitalize()} Problem]\n\n{question}\n\n[Solution]\n\n{solution}\n\n" + _REVIEW
        )
        return [("user", user)]

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        words = self.words
        found: dict[int, Found] = {}
        marks = [(m.start(), int(m.group(1))) for m in re.finditer(r"\bStep\s+(\d{1,9})\b", text)]
        pattern = rf"\\boxed\{{\s*({re.escape(words[0])}|{re.escape(words[1])})\s*\}}"
        for order, match in enumerate(re.finditer(pattern, text, re.IGNORECASE), 1):
            before = bisect_left(marks, (match.start(),))
            number = marks[before - 1][1] if before else order
            if 1 <= number <= count:
                found[number] = at_word(text, match.start(1), words)
        wrong = min((k for k, verdict in found.items() if verdict.value == 0), default=count)
        verdicts: list[Found | None] = []
        for k in range(1, count + 1):
            verdicts.append(found.get(k) or (found.get(wrong) if wrong < k else None))
        return verdicts


@dataclass(frozen=True)
class SolutionCheck(VerdictTemplate):
    """A critique that closes with one question about all of the steps: gORM and gPRM.

    Args:
        opening: As in `VerdictTemplate`.
        closing: The question; it is put to the model where its critique did not come to it.
        kind: What the problem is called.
        whole: Ask about the answer (gORM) instead of the steps (gPRM).
        good: The good word.
        bad: The bad word.
    """

    closing: str = "\nIs the solution correct?"
    kind: str = ""
    whole: bool = False
    good: str = "Yes"
    bad: str = "No"

    thinks = True

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        kind = f"{self.kind} " if self.kind else ""
        title = f"[{kind.capitalize()}Problem]"
        if self.whole:
            user = (
                f"You are a {kind}teacher. Grade the solution, verifying correctness step by step.\n"
                "At the end of Solution verification, when you give your final grade, write it in the form "
                f'"{self.closing.strip()} X", where X is either {self.good} or {self.bad}.\n\n'
                f"{title}\n{question}\n\n[Solution]\n" + "\n\n".join(steps) + "\n"
            )
        else:
            numbered = "\n".join(f"Step {k}: {step}" for k, step in enumerate(steps, 1))
            user = (
                f"You are given a {kind}problem and a proposed step-by-step solution:\n\n"
                f"{title}\n{question}\n\n[Solution]\n{numbered}\n\n" + _REVIEW
            )
        return [("user", user)]

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        whole = (0, len(text))  # these models are trained to write their verdict into their thinking
        return only_last(_after(text, re.escape(self.closing.strip()), self.words, whole), count)


_GROUNDED = (
    "Analyse and criticise one step of the solution to a problem. First check what the step computes "
    "against the result of a tool or of your own calculation, between <verify> and </verify>. Then judge "
    "its logic, and its calculation by that result, between <judge> and </judge>. Give the label "
    "'{good}' or '{bad}' as <output>\\boxed{{label}}</output>."
)


@dataclass(frozen=True)
class Grounded(VerdictTemplate):
    r"""A verified critique with a boxed label: GroundedPRM.

    The label words differ between the authors' files (`Right`/`Wrong` in the released scorer,
    `correct`/`incorrect` in the training data), so they are arguments. The last label counts, boxed
    or in brackets; a bare word does not, as critiques are full of them.

    Args:
        opening: As in `VerdictTemplate`.
        closing: As in `VerdictTemplate`.
        good: The good word.
        bad: The bad word.
        instruction: The checkpoint's own instruction; `{good}` and `{bad}` are filled in.
    """

    good: str = "Right"
    bad: str = "Wrong"
    instruction: str = ""

    def messages(self, question: str, steps: Sequence[str], earlier: Sequence[str]) -> list[tuple[Role, str]]:
        """See `VerdictTemplate.messages`."""
        form = self.instruction or _GROUNDED.replace("{{", "{").replace("}}", "}")
        asked = form.replace("{good}", self.good).replace("{bad}", self.bad)
        before = "\n\n".join(steps[:-1])
        current = f"Current Step: {steps[-1]}"
        return [
            ("user", f"{asked}\n\n Question: {question}"),
            ("user", f"{before}\n\n{current}" if before else current),
        ]

    def find(self, text: str, question: str, count: int) -> list[Found | None]:
        """See `VerdictTemplate.find`."""
        words = f"({re.escape(self.good)}|{re.escape(self.bad)})"
        forms = rf"\\boxed\{{\s*{words}\s*\}}|\[{words}\]|<{words}>"
        matches = list(re.finditer(forms, text, re.IGNORECASE))
        if not matches:
            return only_last(None, count)
        last = matches[-1]
        at = next(last.start(i) for i in (1, 2, 3) if last.group(i) is not None)
        return only_last(at_word(text, at, self.words), count)
