"""The contract of a comparator: which of two passages fits a query better?"""

from __future__ import annotations

import asyncio
import itertools
import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from agentprm.budget import record
from agentprm.errors import CapabilityError, ConfigurationError, check_choice, check_least
from agentprm.forking import ForkSafeLock
from agentprm.rerank.judging import DEFINITION, passage_text
from agentprm.rewards.function import takes, twins
from agentprm.routines import Routine, adrive, all_of, drive, wait
from agentprm.text import one_line

__all__ = [
    "Comparator",
    "Comparison",
    "DecisionComparator",
    "FunctionComparator",
    "Policy",
    "comparison_of",
    "is_decision_model",
]


Policy = Literal["mean", "strict"]
"""How the answers in both orders become one: `mean`, the position-debiased mean of both; or `strict`,
the paper's rule, by which a passage wins only if it wins in both orders."""

DocumentPair = tuple[Document, Document]


class Comparison(NamedTuple):
    """A comparison of two passages.

    Attributes:
        p: Probability that the first passage is the better one; .5 is a tie.
        calls: Model calls that it took.
        failures: Those of them without a usable answer.
    """

    p: float
    calls: int = 2
    failures: int = 0


def comparison_of(
    straight: float | None, swapped: float | None, policy: Policy = "mean", *, calls: int = 2
) -> Comparison:
    """The verdict of two answers to the same question, in both orders.

    Args:
        straight: Probability that the passage shown first is better, first passage first; `None` if
            the answer was unusable.
        swapped: The same with the second passage first.
        policy: How they become one. An unusable answer is a tie either way.
        calls: Model calls that they took.
    """
    failures = [straight, swapped].count(None)
    if straight is None or swapped is None:
        return Comparison(0.5, calls, failures)
    if policy == "strict":
        wins = (straight > 0.5) and (swapped < 0.5)
        loses = (straight < 0.5) and (swapped > 0.5)
        return Comparison(0.5 + 0.5 * (wins - loses), calls)
    # Rounded: what differs by less than a float's last digits is a tie.
    return Comparison(round((straight + 1 - swapped) / 2, 12), calls)


def comparisons_of(answers: Sequence[float | None], policy: Policy) -> list[Comparison]:
    """The verdicts of answers of which two at a time are those to a pair, straight and swapped."""
    return [comparison_of(*both, policy) for both in zip(answers[::2], answers[1::2], strict=True)]


class Comparator(ABC):
    """Judges pairs of passages. Both orders of a pair are its own business.

    A verdict must be fair to positions: comparing (b, a) must give 1 - p of (a, b). Implementations
    are safe to call from several threads.

    Attributes:
        calls: Most model calls of one pair.
        width: Pairs that are compared at a time, each in a call of its own; `None` where one call with
            many pairs is the fast way. See `agentprm.rerank.Assessor`.
    """

    calls: int = 2
    width: int | None = None

    @property
    def fingerprint(self) -> str:
        """Names everything but query and passages that a verdict depends on: model, prompt, policy.

        Comparators with equal fingerprints share cached verdicts. By default each is on its own.
        """
        return f"{type(self).__name__}/{token_of(self)}"

    def view(self, document: Document) -> str:
        """All of a document that verdicts may depend on; equal views are a tie without a question."""
        metadata = {key: value for key, value in document.metadata.items() if key != "rerank"}
        return json.dumps([document.id, document.page_content, metadata], default=str, sort_keys=True)

    @abstractmethod
    def compare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """One verdict per pair."""

    async def acompare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """Async twin of `compare`; by default it runs in a thread."""
        return await asyncio.to_thread(self.compare, query, pairs)


class RoutineComparator(Comparator):
    """Base of the comparators that judge by a routine, with or without an event loop."""

    @abstractmethod
    def verdicts(self, query: str, pairs: Sequence[DocumentPair]) -> Routine[list[Comparison]]:
        """One verdict per pair."""

    def compare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.compare`."""
        return drive(self.verdicts(query, pairs))

    async def acompare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.acompare`."""
        return await adrive(self.verdicts(query, pairs))


class FunctionComparator(RoutineComparator):
    """A comparator made of a function.

    Args:
        function: From query and two documents to the probability that the first is better, which lies
            in [0, 1]; `None` is an unusable answer. It may be async, or a runnable, which gets
            `{"query": …, "first": …, "second": …}`.
        afunction: Async twin; without it `function` runs in a thread.
        width: Calls at a time.
        both_orders: The function depends on the order of its documents: it is asked in both.
        policy: How the answers in both orders become one.

    Example:
        >>> longer = FunctionComparator(lambda query, a, b: float(len(a.page_content) > len(b.page_content)))
        >>> longer.compare("q", [(Document("long text"), Document("text"))])[0].p
        1.0
    """

    def __init__(
        self,
        function: Callable[[str, Document, Document], Any] | Runnable[Any, Any],
        *,
        afunction: Callable[[str, Document, Document], Awaitable[float | None]] | None = None,
        width: int = 8,
        both_orders: bool = False,
        policy: Policy = "mean",
    ) -> None:
        sync, on_loop = twins(function, "query", "first", "second")
        function = sync if isinstance(function, Runnable) else function
        if not callable(function) or not takes(function, "", None, None):
            raise ConfigurationError(
                f"A {type(function).__name__} is no function of a query and two documents."
                if not callable(function)
                else f"{function!r:.200} must take three arguments: a query and two documents."
            )
        check_least(1, width=width)
        self._function, self._afunction = sync, afunction or on_loop
        self.width, self.policy = width, checked_policy(policy)
        self._both_orders = both_orders
        self.calls = 2 if both_orders else 1

    def verdicts(self, query: str, pairs: Sequence[DocumentPair]) -> Routine[list[Comparison]]:
        """See `RoutineComparator.verdicts`."""
        verdicts: list[Comparison] = []
        for a, b in pairs:
            orders = [(a, b), (b, a)] if self._both_orders else [(a, b)]
            found = yield from wait(self._answers, self._aanswers, query, orders)
            answers = [usable(answer) for answer in found]
            if self._both_orders:
                verdicts += comparisons_of(answers, self.policy)
            else:
                verdicts += [Comparison(0.5, 1, 1) if p is None else Comparison(p, 1) for p in answers]
        return verdicts

    def _answers(self, query: str, orders: Sequence[DocumentPair]) -> list[Any]:
        return [self._function(query, *some) for some in orders]

    async def _aanswers(self, query: str, orders: Sequence[DocumentPair]) -> list[Any]:
        return await all_of(partial(self._afunction, query), *zip(*orders, strict=True))


def usable(answer: Any) -> float | None:
    """A probability as a plain float; `None` if it is none."""
    try:
        p = float(answer)
    except (TypeError, ValueError):
        return None
    return p if 0 <= p <= 1 else None


def checked_policy(policy: Policy) -> Policy:
    """The policy, if there is such a one."""
    check_choice("policy", policy, "mean", "strict")
    return policy


_tokens: dict[int, tuple[weakref.ref[Any], int]] = {}
_numbers = itertools.count(1)
_tokens_lock = ForkSafeLock()


def token_of(thing: Any) -> int:
    """A number for a live object: the same as long as it lives, and never given to another."""
    with _tokens_lock:
        held = _tokens.get(id(thing))
        if held is not None and held[0]() is thing:
            return held[1]
        number = next(_numbers)
        _tokens[id(thing)] = (weakref.ref(thing), number)
        for key in [key for key, (reference, _) in _tokens.items() if reference() is None]:
            del _tokens[key]
        return number


_LABELS = ("Passage A", "Passage B")


def is_decision_model(model: Any) -> bool:
    """Whether `model` is a LangChain decision model; false where LangChain has none yet."""
    try:
        from langchain_core.decisions import BaseDecisionModel  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return False
    return isinstance(model, BaseDecisionModel)


class DecisionComparator(Comparator):
    """Compares by the probabilities that a decision model gives to two labels, in both orders.

    Args:
        model: A `langchain_core.decisions.BaseDecisionModel` (langchain-core 1.8 or newer).
        policy: How the answers in both orders become one verdict, see `comparison_of`.
        definition: What makes a passage relevant in this task.
        max_chars: Where a passage is cut.
        width: Pairs that are compared at a time, two requests each.

    Raises:
        CapabilityError: If the installed LangChain has no decision models.
    """

    def __init__(
        self,
        model: Any,
        *,
        policy: Policy = "mean",
        definition: str = DEFINITION,
        max_chars: int = 1200,
        width: int = 4,
    ) -> None:
        try:
            from langchain_core.decisions import Choice  # type: ignore[import-not-found,unused-ignore]
        except ImportError as error:
            raise CapabilityError(
                "The installed langchain-core has no decision models. Use langchain-core 1.8 or newer, or "
                "pass a chat model."
            ) from error
        if not is_decision_model(model):
            raise ConfigurationError(
                f"A {type(model).__name__} is no decision model. Pass a langchain_core.decisions."
                "BaseDecisionModel."
            )
        check_least(1, max_chars=max_chars, width=width)
        self.model, self.policy = model, checked_policy(policy)
        self.definition, self.max_chars, self.width = one_line(definition), max_chars, width
        self._question = Choice(
            instructions=f"{self.definition} Which of the two passages answers the question better?",
            criteria={_LABELS[0]: "passage_a answers better", _LABELS[1]: "passage_b answers better"},
        )

    @property
    def fingerprint(self) -> str:
        """See `Comparator.fingerprint`."""
        return f"DecisionComparator/{token_of(self.model)}/{self.policy}/{self.max_chars}/{self.definition}"

    def view(self, document: Document) -> str:
        """See `Comparator.view`; here the passage as it is shown."""
        return passage_text(document, self.max_chars)

    def compare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.compare`."""
        return self._verdicts(self.model.batch(self._requests(query, pairs)))

    async def acompare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.acompare`."""
        requests = self._requests(query, pairs)
        return self._verdicts(await asyncio.gather(*(self.model.ainvoke(one) for one in requests)))

    def _requests(self, query: str, pairs: Sequence[DocumentPair]) -> list[dict[str, Any]]:
        orders = [order for a, b in pairs for order in ((a, b), (b, a))]
        return [
            {
                "state": {
                    "question": one_line(query),
                    "passage_a": passage_text(first, self.max_chars),
                    "passage_b": passage_text(second, self.max_chars),
                },
                "questions": {"better": self._question},
            }
            for first, second in orders
        ]

    def _verdicts(self, responses: Sequence[Any]) -> list[Comparison]:
        answers = [self._first_wins(response) for response in responses]
        return comparisons_of(answers, self.policy)

    @staticmethod
    def _first_wins(response: Any) -> float | None:
        """P(first label) of a response; `None` if it holds no such choice."""
        used = response.usage or {}
        asked, new = int(used.get("input_tokens", 0)), int(used.get("output_tokens", 0))
        record(model_calls=1, prompt_tokens=asked, computed_tokens=asked + new, completion_tokens=new)
        answer = response.choices.get("better")
        if answer is None:
            return None
        first, second = (usable(answer.probabilities.get(label)) for label in _LABELS)
        if first is None or second is None or first + second == 0:
            return None
        return first / (first + second)
