"""Asking a judge about items: all at once or side by side, within bounds, whatever it raises."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Any, TypeVar

from langchain_core.documents import Document
from langchain_core.runnables.config import ContextThreadPoolExecutor

from agentprm.errors import ConfigurationError, MissingDependencyError, check_least
from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams
from agentprm.routines import Routine, adrive, drive, wait
from agentprm.text import cut, one_line

__all__ = ["DEFINITION", "Assessor", "Judging", "Missing", "passage_text", "sampling", "scoring", "width_of"]


class Missing(Enum):
    """Stands in the place of a result that does not exist; falsy."""

    FAILED = "failed"
    """The judge raised an exception on this item."""
    UNASKED = "unasked"
    """Budget or deadline ended before it was this item's turn."""

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True)
class Assessor:
    """Who is asked: a function from a list of items to one result each, and its async twin.

    Attributes:
        sync: Judges a list of items in the current thread.
        on_loop: The same in an event loop; without it `sync` runs in a thread.
        width: `None` if one call with many items is the fast way (a local model that batches). A
            number if items are requests of their own (an API): they are sent one by one, at most that
            many at a time, so that the failure of one costs no other.
        cost: Judge calls (prompts) of one item, booked for items on which it raised an exception.
    """

    sync: Callable[[list[Any]], Sequence[Any]]
    on_loop: Callable[[list[Any]], Awaitable[Sequence[Any]]] | None = None
    width: int | None = None
    cost: int = 1

    def __post_init__(self) -> None:
        check_least(1, width=self.width)

    @classmethod
    def by(
        cls, routine: Callable[[list[Any]], Routine[Sequence[Any]]], width: int | None = None, cost: int = 1
    ) -> Assessor:
        """One that asks by a routine, with or without an event loop."""
        return cls(lambda items: drive(routine(items)), lambda items: adrive(routine(items)), width, cost)

    async def ajudge(self, items: list[Any]) -> Sequence[Any]:
        """Judges `items` in an event loop."""
        if self.on_loop is None:
            return await asyncio.to_thread(self.sync, items)
        return await self.on_loop(items)


def width_of(model: LanguageModel) -> int | None:
    """`Assessor.width` for a language model: `None` where prompts that go together share their prefixes.

    Backends without a prefix cache are taken for an API: prompt by prompt, as many at a time as the
    backend's own `max_concurrency` says, else 8.
    """
    if model.capabilities.prefix_cache:
        return None
    return int(getattr(model, "max_concurrency", 8))


@dataclass
class Judging:
    """The account of one run of a reranker; routines ask through it.

    Attributes:
        max_judgements: Most items that may be judged; `None` for no bound.
        deadline: Seconds from the start after which nothing more is asked; `None` for no bound.
        judgements: Items that the judge was asked about.
        calls: Prompts, or what else the judge counts, that this took.
        failures: Calls without a usable answer.
        rounds: Batches of items that were asked together.
        stopped: Why the routine could not finish, `max_judgements` or `deadline`; else `None`.
        errors: The first few exceptions of the judge, as text.
    """

    max_judgements: int | None = None
    deadline: float | None = None
    judgements: int = 0
    calls: int = 0
    failures: int = 0
    rounds: int = 0
    stopped: str | None = None
    errors: list[str] = field(default_factory=list)
    _start: float = field(default_factory=time.monotonic)

    @property
    def seconds_left(self) -> float:
        """Time until the deadline; infinite without one."""
        if self.deadline is None:
            return math.inf
        return self._start + self.deadline - time.monotonic()

    @property
    def judgements_left(self) -> float:
        """Items that may still be judged; infinite without a bound."""
        return math.inf if self.max_judgements is None else self.max_judgements - self.judgements

    def ask(self, judge: Assessor, items: Sequence[Any]) -> Routine[list[Any]]:
        """Asks `judge` about `items`, together as far as it can; use with `yield from`.

        The judge's failures do not come through: an item on which it raises is `Missing.FAILED`, is
        booked and noted in `errors`. Where it takes many items at once, a batch that fails is halved
        until the items that fail stand alone. Once the budget or the deadline ends, `stopped` says
        which and the rest is `Missing.UNASKED`.

        Plans book the calls of items that were judged with `book`; those of failed items are booked here.

        Returns:
            One result per item: what the judge said, or a `Missing`.

        Raises:
            ConfigurationError: If the judge is not usable at all (its own `ConfigurationError`, a
                missing package), or if it does not give one result per item.
        """
        results: list[Any] = [Missing.UNASKED] * len(items)
        if not items or self.stopped:
            return results
        places = list(range(len(items)))
        if self.judgements_left < len(places):
            self.stopped = "max_judgements"
            places = places[: max(0, int(self.judgements_left))]
        if not places:
            return results
        self.rounds += self.seconds_left > 0
        if judge.width is not None:
            parts, size = deque([[place] for place in places]), len(places)
        else:
            # With a deadline the first batch is small: it shows how long an item takes.
            size = len(places) if self.deadline is None else min(len(places), _FIRST_BATCH)
            parts = deque([places])
        while parts:
            if self.seconds_left <= 0:
                self.stopped = "deadline"
                break
            if judge.width is not None:
                now = list(parts)
                parts.clear()
            else:
                head = parts.popleft()
                if head[size:]:
                    parts.appendleft(head[size:])
                now = [head[:size]]
            began = time.monotonic()
            batches = [[items[place] for place in part] for part in now]
            left = None if math.isinf(self.seconds_left) else self.seconds_left
            replies = yield from wait(_judge_all, _ajudge_all, judge, batches, left)
            for part, reply in zip(now, replies, strict=True):
                self._take(part, reply, judge, results, parts)
            if judge.width is None and self.deadline is not None:
                seconds = max(1e-9, time.monotonic() - began) / len(now[0])
                size = max(1, min(len(places), int(self.seconds_left / _BATCHES_LEFT / seconds)))
        return results

    def _take(
        self, part: list[int], reply: Any, judge: Assessor, results: list[Any], parts: deque[list[int]]
    ) -> None:
        """Books the reply to one call: results, a failure, or a batch to be asked again in halves."""
        if isinstance(reply, BaseException):
            if len(part) > 1:
                half = len(part) // 2
                parts.extendleft([part[half:], part[:half]])
                return
            self.fail(reply, judge.cost)
            self.judgements += 1
            results[part[0]] = Missing.FAILED
        elif reply is Missing.UNASKED:
            self.stopped = "deadline"
        else:
            answers = list(reply)
            if len(answers) != len(part):
                raise ConfigurationError(
                    f"The judge gave {len(answers)} results for {len(part)} items; give one for each."
                )
            self.judgements += len(part)
            for place, answer in zip(part, answers, strict=True):
                results[place] = answer

    def book(self, calls: int, failures: int = 0) -> None:
        """Adds judge calls, and those of them that gave no usable answer."""
        self.calls += int(calls)
        self.failures += int(failures)

    def fail(self, error: BaseException, calls: int = 1) -> None:
        """Books an exception of the judge that cost `calls` calls."""
        self.book(calls, calls)
        if len(self.errors) < _ERRORS_KEPT:
            self.errors.append(f"{type(error).__name__}: {error}")


# Items of the first batch under a deadline, and how many more batches the time left is planned for.
_FIRST_BATCH, _BATCHES_LEFT = 4, 4
_ERRORS_KEPT = 5


def _passes(error: BaseException) -> bool:
    """Whether an exception is none of the judge's failures: settings, cancellation, a graph's interrupt."""
    if not isinstance(error, Exception) or isinstance(error, ConfigurationError | MissingDependencyError):
        return True
    # Without LangGraph in the process there is no such signal; the core does not import it.
    signals = sys.modules.get("langgraph.errors")
    return signals is not None and isinstance(error, signals.GraphBubbleUp)


def _judge_all(judge: Assessor, batches: list[list[Any]], left: float | None) -> list[Any]:
    """Judges batches side by side, as many at a time as the judge takes.

    Returns:
        For each batch what the judge said, the exception that it raised, or `Missing.UNASKED` if `left`
        seconds passed before it was done.
    """
    width = judge.width or 1
    until = None if left is None else time.monotonic() + left

    def one(batch: list[Any]) -> Any:
        if until is not None and time.monotonic() >= until:
            return Missing.UNASKED
        try:
            return judge.sync(batch)
        except Exception as error:
            if _passes(error):
                raise
            return error

    if len(batches) == 1 and (width == 1 or left is None):
        return [one(batches[0])]
    executor = ContextThreadPoolExecutor(max_workers=min(width, len(batches)))
    try:
        work = [executor.submit(one, batch) for batch in batches]
        futures.wait(work, timeout=left)
        return [future.result() if future.done() else Missing.UNASKED for future in work]
    finally:
        # Requests that hang are left alone: waiting for them would break the deadline.
        executor.shutdown(wait=False, cancel_futures=True)


async def _ajudge_all(judge: Assessor, batches: list[list[Any]], left: float | None) -> list[Any]:
    """Async twin of `_judge_all`; if a failure is none of the judge's, the other batches are cancelled."""
    free = asyncio.Semaphore(judge.width or 1)
    until = None if left is None else asyncio.get_running_loop().time() + left

    async def one(batch: list[Any]) -> Any:
        try:
            async with asyncio.timeout_at(until) as limit, free:
                return await judge.ajudge(batch)
        except TimeoutError as error:
            return Missing.UNASKED if limit.expired() else error
        except Exception as error:
            if _passes(error):
                raise
            return error

    tasks = [asyncio.ensure_future(one(batch)) for batch in batches]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


#: What "relevant" means unless a reranker is told otherwise.
DEFINITION = "A passage is relevant if it helps to answer the query."

T = TypeVar("T")


def passage_text(document: Document, max_chars: int) -> str:
    """The passage as one line, its title first if it has one, cut at a word with a visible mark."""
    text = one_line(document.page_content)
    if len(text) > max_chars:
        text = cut(text, max_chars) + " […]"
    title = one_line(str(document.metadata.get("title") or ""))
    return f"{title}: {text}" if title else text


def scoring(
    model: LanguageModel,
    ask: Callable[[Any], tuple[list[Prompt], list[list[str]]]],
    read: Callable[[Any, list[list[float]]], Any],
    cost: int = 1,
) -> Assessor:
    """A judge that compares log-likelihoods.

    Args:
        model: A model with log-likelihoods.
        ask: From an item to its prompts and the continuations of each.
        read: From an item and the log-likelihoods of its prompts to its result.
        cost: Prompts of one item.
    """

    def judged(items: list[Any]) -> Routine[list[Any]]:
        asked = [ask(item) for item in items]
        prompts = [prompt for some, _ in asked for prompt in some]
        continuations = [texts for _, rows in asked for texts in rows]
        rows = yield from wait(model.loglikelihood, model.aloglikelihood, prompts, continuations)
        return _results(read, items, [some for some, _ in asked], rows)

    return Assessor.by(judged, width_of(model), cost)


def sampling(
    model: LanguageModel,
    ask: Callable[[Any], list[Prompt]],
    read: Callable[[Any, list[list[Completion]]], Any],
    params: SamplingParams,
    n: int = 1,
    cost: int = 1,
) -> Assessor:
    """A judge that reads generated text.

    Args:
        model: Any language model.
        ask: From an item to its prompts.
        read: From an item and the completions of its prompts to its result.
        params: How to sample.
        n: Samples of each prompt.
        cost: Samples of one item.
    """

    def judged(items: list[Any]) -> Routine[list[Any]]:
        asked = [ask(item) for item in items]
        prompts = [prompt for some in asked for prompt in some]
        return _results(
            read, items, asked, (yield from wait(model.sample, model.asample, prompts, n, params))
        )

    width = width_of(model)
    # The samples of one item are requests that the backend runs side by side on its own.
    return Assessor.by(judged, None if width is None else max(1, width // max(1, cost)), cost)


def _results(
    read: Callable[[Any, list[T]], Any], items: list[Any], asked: list[list[Prompt]], rows: list[T]
) -> list[Any]:
    left = iter(rows)
    return [read(item, list(islice(left, len(some)))) for item, some in zip(items, asked, strict=True)]
