"""What executors share: the contract, the outcome of an item, how one item is tried, and the backlog."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias

from agentprm.budget import Usage, metered
from agentprm.errors import AgentPRMError, ConfigurationError, check_least

__all__ = ["Assignment", "Backlog", "Executor", "Failure", "LocalExecutor", "Outcome", "WorkerFactory"]


WorkerFactory: TypeAlias = Callable[[], Callable[[Any], Any]] | str
"""Makes the function that is applied to every item, or is the import path of what does.

Each process calls it once, so models and indexes are opened in it and not sent to the workers. A path
is written `package.module:function`.
"""


@dataclass(frozen=True)
class Failure:
    """Why an item has no result.

    Attributes:
        kind: Name of the exception's class.
        message: Its text.
        trace: The traceback on the machine where it happened; empty if the worker died.
    """

    kind: str
    message: str
    trace: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception means."""
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Outcome:
    """What came of one item.

    Attributes:
        index: Its place among the items, from 0.
        value: What the worker returned; `None` if it failed.
        failure: Why it failed, or `None`.
        usage: What the attempt cost that led here. Attempts that died with their worker are unknown.
        lost: Attempts that died with their worker.
    """

    index: int
    value: Any
    failure: Failure | None
    usage: Usage
    lost: int = 0


class Executor(Protocol):
    """Applies a worker to items, somewhere.

    An item may be tried more than once, where a machine dies under it; its outcome appears once. An item
    that raises has a `Failure`; the others go on. What the attempts record (`agentprm.budget`) also
    reaches the meters of the caller.
    """

    def stream(
        self, make_worker: WorkerFactory, items: Iterable[Any], *, ordered: bool = False
    ) -> Generator[Outcome, None, None]:
        """Outcomes as they come, or in the order of the items.

        Items are taken from the iterable only when there is room for them, in the caller's thread. So
        neither the items nor the outcomes need to fit into memory. Closing the generator stops the work.

        Args:
            make_worker: See `WorkerFactory`.
            items: What to work on.
            ordered: Whether outcomes keep the order of the items; those that are early wait, and no
                further items are taken while too many of them do.

        Raises:
            ConfigurationError: The worker cannot be made.
        """


def check_factory(make_worker: WorkerFactory) -> None:
    """Refuses what can be no factory before any process starts."""
    if isinstance(make_worker, str):
        module, colon, name = make_worker.partition(":")
        if not (colon and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])):
            raise ConfigurationError(
                f"{make_worker!r} is not the import path of a function; write it 'package.module:function'."
            )
    elif not callable(make_worker):
        raise ConfigurationError(
            f"A worker factory is a function without arguments or its import path, not {make_worker!r}."
        )


def built(make_worker: WorkerFactory) -> Callable[[Any], Any]:
    """The worker that a factory makes."""
    check_factory(make_worker)
    if isinstance(make_worker, str):
        module, _, name = make_worker.partition(":")
        try:
            factory: Any = import_module(module)
            for part in name.split("."):
                factory = getattr(factory, part)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"{make_worker!r} cannot be imported: {error}.") from error
    else:
        factory = make_worker
    try:
        worker = factory()
    except AgentPRMError:
        raise
    except Exception as error:
        raise ConfigurationError(f"The worker cannot be made: {type(error).__name__}: {error}.") from error
    if not callable(worker):
        raise ConfigurationError(
            f"A worker factory returns the function that is applied to each item, not {worker!r}."
        )
    return worker  # type: ignore[no-any-return]


def attempt(worker: Callable[[Any], Any], item: Any) -> tuple[Any, Failure | None, Usage]:
    """Tries one item: its result or its failure, and the cost."""
    value, failure = None, None
    with metered() as meter:
        try:
            value = worker(item)
        except Exception as error:
            failure = Failure.of(error)
    return value, failure, meter.usage


@dataclass
class Assignment:
    """One item, its place, and how many workers have died under it."""

    index: int
    item: Any
    lost: int = 0


class Backlog:
    """Numbers items, takes lost ones back, and holds early outcomes until their turn.

    Args:
        items: The items; taken one by one.
        window: How far the items taken may be ahead of the first one without an outcome, or `None`
            where outcomes may leave in any order.
    """

    def __init__(self, items: Iterable[Any], window: int | None) -> None:
        self._items = enumerate(items)
        self._window = window
        self._returned: deque[Assignment] = deque()
        self._early: dict[int, Outcome] = {}
        self._next = 0  # the first item whose outcome has not left, if they leave in order
        self._taken = 0
        self._ended = False

    def take(self) -> Assignment | None:
        """The next item to work on, or `None` if there is none or it has to wait."""
        if self._returned:
            return self._returned.popleft()
        if self._ended or (self._window is not None and self._taken >= self._next + self._window):
            return None
        for index, item in self._items:
            self._taken = index + 1
            return Assignment(index, item)
        self._ended = True
        return None

    def give_back(self, job: Assignment) -> None:
        """Takes an item back whose worker is gone; it goes before all others."""
        self._returned.appendleft(job)

    def finish(self, outcome: Outcome) -> Iterator[Outcome]:
        """Outcomes that may leave now that this one is known."""
        if self._window is None:
            yield outcome
            return
        self._early[outcome.index] = outcome
        while self._next in self._early:
            self._next += 1
            yield self._early.pop(self._next - 1)


_WINDOW = 8  # outcomes per thread that may wait for an earlier one


class LocalExecutor:
    """Works in this process, with one worker that all threads share.

    Several threads pay where the work waits for a service, such as a vLLM server; a local model
    computes in one process anyway.

    Args:
        threads: Items under way at once; 1 works in the caller's thread.

    Raises:
        ConfigurationError: `threads` is not positive.
    """

    def __init__(self, threads: int = 1) -> None:
        check_least(1, threads=threads)
        self._threads = threads

    def stream(
        self, make_worker: WorkerFactory, items: Iterable[Any], *, ordered: bool = False
    ) -> Generator[Outcome, None, None]:
        """See `Executor.stream`."""
        check_factory(make_worker)
        if self._threads == 1:
            return _one_by_one(make_worker, items)
        return self._threaded(make_worker, Backlog(items, _WINDOW * self._threads if ordered else None))

    def _threaded(self, make_worker: WorkerFactory, backlog: Backlog) -> Generator[Outcome, None, None]:
        worker: Callable[[Any], Any] | None = None
        busy: dict[Future[Any], Assignment] = {}
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="agentprm")
        try:
            while True:
                while len(busy) < self._threads and (job := backlog.take()) is not None:
                    worker = worker or built(make_worker)
                    # the caller's meters count what the threads spend
                    busy[pool.submit(copy_context().run, attempt, worker, job.item)] = job
                if not busy:
                    return
                for future in wait(busy, return_when=FIRST_COMPLETED).done:
                    yield from backlog.finish(Outcome(busy.pop(future).index, *future.result()))
        finally:
            pool.shutdown(cancel_futures=True)


def _one_by_one(make_worker: WorkerFactory, items: Iterable[Any]) -> Generator[Outcome, None, None]:
    worker: Callable[[Any], Any] | None = None
    for index, item in enumerate(items):
        worker = worker or built(make_worker)
        yield Outcome(index, *attempt(worker, item))
