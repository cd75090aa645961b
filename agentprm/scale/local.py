"""Maps over the threads of this process."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any

from agentprm.errors import check_least
from agentprm.scale.base import Assignment, Backlog, Outcome, WorkerFactory, attempt, built, check_factory

__all__ = ["LocalExecutor"]

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
