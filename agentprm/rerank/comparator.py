"""The contract of a comparator: which of two passages fits a query better?"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

from langchain_core.documents import Document
from langchain_core.runnables import Runnable

from agentprm.errors import ConfigurationError, check_choice, check_least
from agentprm.forking import ForkSafeLock
from agentprm.rewards.function import takes
from agentprm.routines import Routine, adrive, drive

__all__ = ["Comparator", "Comparison", "FunctionComparator", "Policy", "comparison_of"]

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


class FunctionComparator(Comparator):
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
        if isinstance(function, Runnable):
            function, afunction = _as_functions(function)
        elif inspect.iscoroutinefunction(function):
            function, afunction = _only_async(function), function
        if not callable(function) or not takes(function, "", None, None):
            raise ConfigurationError(
                f"A {type(function).__name__} is no function of a query and two documents."
                if not callable(function)
                else f"{function!r:.200} must take three arguments: a query and two documents."
            )
        check_least(1, width=width)
        self._function, self._afunction = function, afunction
        self.width, self.policy = width, checked_policy(policy)
        self._both_orders = both_orders
        self.calls = 2 if both_orders else 1

    def compare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.compare`."""
        return [
            self._verdict([self._function(query, *some) for some in self._orders(a, b)]) for a, b in pairs
        ]

    async def acompare(self, query: str, pairs: Sequence[DocumentPair]) -> list[Comparison]:
        """See `Comparator.acompare`."""
        if self._afunction is None:
            return await asyncio.to_thread(self.compare, query, pairs)
        verdicts = []
        for a, b in pairs:
            answers = await asyncio.gather(
                *(self._afunction(query, *some) for some in self._orders(a, b)), return_exceptions=False
            )
            verdicts.append(self._verdict(list(answers)))
        return verdicts

    def _orders(self, a: Document, b: Document) -> list[DocumentPair]:
        return [(a, b), (b, a)] if self._both_orders else [(a, b)]

    def _verdict(self, answers: list[float | None]) -> Comparison:
        answers = [usable(answer) for answer in answers]
        if self._both_orders:
            return comparison_of(answers[0], answers[1], self.policy)
        return Comparison(0.5, 1, 1) if answers[0] is None else Comparison(answers[0], 1)


def _as_functions(judge: Runnable[Any, Any]) -> tuple[Callable[..., Any], Callable[..., Awaitable[Any]]]:
    def sync(query: str, first: Document, second: Document) -> Any:
        return judge.invoke({"query": query, "first": first, "second": second})

    async def on_loop(query: str, first: Document, second: Document) -> Any:
        return await judge.ainvoke({"query": query, "first": first, "second": second})

    return sync, on_loop


def _only_async(function: Callable[..., Any]) -> Callable[..., Any]:
    def refuse(query: str, first: Document, second: Document) -> Any:
        raise ConfigurationError(
            f"{function.__name__} is async. Rank with acompress_documents (ainvoke of a graph), or pass a "
            "function that is not."
        )

    return refuse


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
