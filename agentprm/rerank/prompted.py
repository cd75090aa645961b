"""Comparators that ask a language model: by likelihoods of labels or of the query, or by what it writes."""

from __future__ import annotations

import hashlib
import math
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, check_least
from agentprm.lm import ChatLM, Prompt, SamplingParams, as_language_model, require
from agentprm.prompts import PROMPTS, ChatTemplate, Prompts
from agentprm.replies import without_thought
from agentprm.rerank.comparator import (
    Comparison,
    DocumentPair,
    Policy,
    RoutineComparator,
    checked_policy,
    comparisons_of,
    token_of,
)
from agentprm.rerank.judging import DEFINITION, passage_text, width_of
from agentprm.rewards.base import Memory, sigmoid
from agentprm.routines import Routine, drive, wait
from agentprm.text import one_line

__all__ = [
    "GenerationComparator",
    "PromptComparator",
    "QueryLikelihoodComparator",
    "ScoringComparator",
    "parse_label",
]


_LABELS = ("Passage A", "Passage B")
_Question = tuple[str, Document, Document]


class _ShownComparator(RoutineComparator):
    """Base of the comparators that show passages to a language model, cut to some characters."""

    def __init__(self, model: Any, max_chars: int) -> None:
        check_least(1, max_chars=max_chars)
        self.model, self.max_chars = as_language_model(model), max_chars

    @property
    def fingerprint(self) -> str:
        """See `Comparator.fingerprint`."""
        digest = hashlib.sha256(repr(self._settings()).encode()).hexdigest()
        # A chat model is wrapped anew by each comparator; the model itself is what counts.
        model = self.model.model if isinstance(self.model, ChatLM) else self.model
        return f"{type(self).__name__}/{token_of(model)}/{digest}"

    @abstractmethod
    def _settings(self) -> tuple[Any, ...]:
        """All settings that a verdict depends on."""

    def view(self, document: Document) -> str:
        """See `Comparator.view`; here the passage as it stands in the prompt."""
        return passage_text(document, self.max_chars)


class PromptComparator(_ShownComparator):
    """Base of the comparators that show a language model two passages and ask which is better.

    Args:
        model: A language model, any LangChain chat model, or the name or folder of a local model.
        policy: How the answers in both orders become one verdict, see `comparison_of`.
        definition: What makes a passage relevant in this task, a sentence for the prompt (per-task
            definitions: Retro*, arXiv 2509.24869).
        labels: What the prompt calls the passages and the model answers.
        prompts: Templates; `compare` is used. The passage shown first stands before the other, so that
            all comparisons with the same first passage share their beginning.
        max_chars: Where a passage is cut.
    """

    def __init__(
        self,
        model: Any,
        *,
        policy: Policy = "mean",
        definition: str = DEFINITION,
        labels: tuple[str, str] = _LABELS,
        prompts: Prompts = PROMPTS,
        max_chars: int = 1200,
    ) -> None:
        if not all(label.strip() for label in labels) or labels[0] == labels[1]:
            raise ConfigurationError(f"labels must be two different texts, not {labels}.")
        super().__init__(model, max_chars)
        self.policy, self.definition = checked_policy(policy), one_line(definition)
        self.labels = labels
        self.template: ChatTemplate = _labelled(prompts.compare, labels)
        width = width_of(self.model)
        self.width = None if width is None else max(1, width // self.calls)

    def _settings(self) -> tuple[Any, ...]:
        return self.policy, self.definition, self.labels, astuple(self.template), self.max_chars

    def verdicts(self, query: str, pairs: Sequence[DocumentPair]) -> Routine[list[Comparison]]:
        """See `RoutineComparator.verdicts`."""
        questions = [question for a, b in pairs for question in ((query, a, b), (query, b, a))]
        return comparisons_of((yield from self.answers(questions)), self.policy)

    @abstractmethod
    def answers(self, questions: Sequence[_Question]) -> Routine[list[float | None]]:
        """For each (query, first, second) in this one order the probability that the first is better.

        `None` is an unusable answer.
        """

    def first_wins(self, questions: Sequence[_Question]) -> list[float | None]:
        """Runs `answers`."""
        return drive(self.answers(questions))

    def _prompt(self, question: _Question, *, prefill: bool) -> Prompt:
        query, first, second = question
        return self.template.render(
            prefill=prefill,
            definition=self.definition,
            query=one_line(query),
            first=passage_text(first, self.max_chars),
            second=passage_text(second, self.max_chars),
        )


class ScoringComparator(PromptComparator):
    """Compares by the likelihood of the two labels (arXiv 2306.17563, scoring mode).

    P(first) = P(label A) / (P(label A) + P(label B)). Where the backend continues a prefix, what the
    labels have in common is given and only the last token is scored, one pass for all prompts.

    Args:
        model: See `PromptComparator`; it needs log-likelihoods.
        **settings: See `PromptComparator`.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    def __init__(self, model: Any, **settings: Any) -> None:
        super().__init__(model, **settings)
        require(self.model, "loglikelihood", "ScoringComparator")

    def answers(self, questions: Sequence[_Question]) -> Routine[list[float | None]]:
        """See `PromptComparator.answers`; `None` where likelihoods are no numbers."""
        asked = self._scored(questions)
        rows = yield from wait(self.model.loglikelihood, self.model.aloglikelihood, *asked)
        gaps = [first - second for first, second in rows]
        return [None if math.isnan(gap) else sigmoid(gap) for gap in gaps]

    def _scored(self, questions: Sequence[_Question]) -> tuple[list[Prompt], list[list[str]]]:
        begin = self.template.prefix
        prefill = (
            self.model.capabilities.prefill
            and bool(begin)
            and all(label.startswith(begin) and label != begin for label in self.labels)
        )
        texts = [label.removeprefix(begin) if prefill else label for label in self.labels]
        return [self._prompt(q, prefill=prefill) for q in questions], [texts] * len(questions)


class GenerationComparator(PromptComparator):
    """Compares by the label that the model writes (arXiv 2306.17563, generation mode).

    Works with every model that answers. An answer that is no clear decision, see `parse_label`, makes
    the pair a tie and is counted, whatever the other order said.

    Args:
        model: See `PromptComparator`.
        max_tokens: Most tokens of an answer. Models that think before they answer need more.
        **settings: See `PromptComparator`.
    """

    def __init__(self, model: Any, *, max_tokens: int = 16, **settings: Any) -> None:
        super().__init__(model, **settings)
        self._params = SamplingParams(max_tokens=max_tokens, temperature=0.0, seed=0)

    def _settings(self) -> tuple[Any, ...]:
        return *super()._settings(), self._params.max_tokens

    def answers(self, questions: Sequence[_Question]) -> Routine[list[float | None]]:
        """See `PromptComparator.answers`."""
        prompts = [self._prompt(question, prefill=False) for question in questions]
        rows = yield from wait(self.model.sample, self.model.asample, prompts, 1, self._params)
        chosen = [parse_label(row[0].text, self.labels) for row in rows]
        return [None if label is None else 1.0 - label for label in chosen]


def _labelled(template: ChatTemplate, labels: tuple[str, str]) -> ChatTemplate:
    """The template with these labels where it says "Passage A" and "Passage B"."""
    names = dict(zip(_LABELS, labels, strict=True))

    def named(text: str) -> str:
        return re.sub("|".join(_LABELS), lambda match: names[match.group()], text)

    # Braces of a label are no placeholders.
    escaped = {name: label.replace("{", "{{").replace("}", "}}") for name, label in names.items()}
    user = re.sub("|".join(_LABELS), lambda match: escaped[match.group()], template.user)
    return replace(template, system=named(template.system), user=user)


# Before the label: markup and "The answer is:". After it: markup, then the end of the line or a reason.
# The bound keeps the time linear: without it "answer****…" is tried in every way of cutting it up.
_MARK = r"[\s*_#`\"'\u2018\u2019\u201c\u201d()\[\]{}<>.!-]{0,20}"
_LEAD = (
    rf"{_MARK}(?:(?:the|my)\s+)?(?:final\s+)?"
    rf"(?:(?:answer|output|verdict|choice|decision){_MARK}(?:is\b)?:?{_MARK})?"
)
_TAIL = rf"(?:{_MARK}(?:\n|$)|\s+(?:is|answers)\s+(?:the\s+)?(?:more|better|best)\b)"


def parse_label(text: str, labels: tuple[str, str]) -> int | None:
    """Which of two labels a model chose: 0, 1, or `None` if that is not beyond doubt.

    The answer must begin with the label (after markup or "The answer is:") and be over then, or go on
    with "is more", "is better", "answers better" and the like. The last word of a label ("A") may
    stand alone, in its own case. Text that names both labels, that quotes one, repeats the prompt's
    "Passage A: ..." or begins with the article "A" decides nothing.

    Args:
        text: What the model wrote.
        labels: The two labels, for instance `("Passage A", "Passage B")`.
    """
    text = without_thought(text).strip()
    if all(_mentions(label, text) for label in labels):
        return None
    found = [i for i, label in enumerate(labels) if _chosen(label, text)]
    return found[0] if len(found) == 1 else None


def _mentions(label: str, text: str) -> bool:
    """Whether the label occurs anywhere, even with letters stuck to it."""
    head, last = _words(label)
    return re.search(rf"(?<!\w){head}(?:{last}|(?i:{last})(?!\w))", text) is not None


def _chosen(label: str, text: str) -> bool:
    """Whether the text begins with the whole label, or is its last word alone."""
    head, last = _words(label)
    return (
        re.match(rf"(?i:{_LEAD}){head}{last}(?i:{_TAIL})", text) is not None
        or re.fullmatch(rf"(?i:{_LEAD}){last}{_MARK}", text) is not None
    )


def _words(label: str) -> tuple[str, str]:
    """Patterns of a label's words but the last, in any case, and of the last in its own."""
    *head, last = label.split()
    return "".join(rf"(?i:{re.escape(word)})\s+" for word in head), re.escape(last)


class QueryLikelihoodComparator(_ShownComparator):
    """Compares by which passage makes the query likelier; for models too small to judge on request.

    P(a better) = sigmoid((log P(query | a) - log P(query | b)) / sqrt(n)) with n tokens in the query:
    the sum's spread grows with the square root of its terms. There is no position that it could be
    biased to. Each passage is scored once per query, however many comparisons it takes part in: pairs
    go to the model together, in one call.

    Args:
        model: A language model with log-likelihoods, or the name or folder of one.
        prompts: Templates; `relate` is used.
        max_chars: Where a passage is cut.
        cache_size: Likelihoods that are remembered; the least recently used go first.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    def __init__(
        self, model: Any, *, prompts: Prompts = PROMPTS, max_chars: int = 1200, cache_size: int = 10_000
    ) -> None:
        super().__init__(model, max_chars)
        require(self.model, "loglikelihood", "QueryLikelihoodComparator")
        self.template = prompts.relate
        self._known = Memory[tuple[str, str], float](cache_size)

    def _settings(self) -> tuple[Any, ...]:
        return astuple(self.template), self.max_chars

    def verdicts(self, query: str, pairs: Sequence[DocumentPair]) -> Routine[list[Comparison]]:
        """See `RoutineComparator.verdicts`."""
        views = [(self.view(a), self.view(b)) for a, b in pairs]
        wanted = dict.fromkeys(view for both in views for view in both)
        kept = self._known.known((query, view) for view in wanted)
        known = {view: value for (_, view), value in kept.items()}
        unpaid = {view for view in wanted if view not in known}
        if unpaid:
            missing = [view for view in wanted if view in unpaid]
            asked = self._scored(query, missing)
            rows = yield from wait(self.model.loglikelihood, self.model.aloglikelihood, *asked)
            known |= {view: float(row[0]) for view, row in zip(missing, rows, strict=True)}
            self._known.keep({(query, view): known[view] for view in missing})
        spread = math.sqrt(max(1, self.model.count_tokens([one_line(query)])[0]))
        verdicts = []
        for a, b in views:
            calls = len({a, b} & unpaid)
            unpaid -= {a, b}
            gap = known[a] - known[b]
            if math.isfinite(gap):
                verdicts.append(Comparison(round(sigmoid(gap / spread), 12), calls))
            else:
                verdicts.append(Comparison(0.5, calls, calls))
        return verdicts

    def _scored(self, query: str, views: Sequence[str]) -> tuple[list[Prompt], list[list[str]]]:
        prefill = self.model.capabilities.prefill
        prompts = [self.template.render(prefill=prefill, passages=view) for view in views]
        # After a prefix that ends in a word the query begins with a blank.
        return prompts, [[(" " if prompt.prefix else "") + one_line(query)] for prompt in prompts]
