"""Maps over a Ray cluster."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from agentprm.budget import Usage, empty_usage
from agentprm.budget import record as record_usage
from agentprm.errors import AgentPRMError, ConfigurationError, MissingDependencyError, check_least
from agentprm.scale.base import (
    Assignment,
    Backlog,
    Failure,
    Outcome,
    WorkerFactory,
    attempt,
    built,
    check_factory,
)

__all__ = ["RayExecutor"]

_logger = logging.getLogger(__name__)

_WINDOW = 8  # outcomes per item under way that may wait for an earlier one
_SHORT_S = 0.2  # items shorter than this are sent ahead, so that no worker waits for the next one
_AHEAD = 4
_BUILD_LOSSES = 3  # per worker; more in a row mean that building itself kills it


class RayExecutor:
    """Works in processes of a Ray cluster, one worker each.

    A worker that dies, alone or with its machine, gives its items back; they go to other workers, and a
    new worker starts wherever there is room. So the run goes on while machines come and go. Every machine
    needs the same version of Python, Ray and agentprm, and sees the files that the workers open.

    Uses the connection of `ray.init` if there is one. Otherwise it connects for the length of the run.

    Args:
        address: Address of a cluster; `"local"` starts one on this machine for the length of the run.
            `None` is Ray's own rule: `RAY_ADDRESS` if that is set, else `"local"`.
        workers: Processes; by default as many as the cluster has room for when the run begins. Those
            without room wait for machines that join.
        threads: Items under way at once in each process, for workers that wait for a service.
        num_cpus: Cores that each worker asks Ray for.
        num_gpus: GPUs likewise; Ray hides from a worker those it did not ask for.
        resources: Custom resources likewise, for instance `{"index": 1}`.
        max_losses: An item under which this many workers have died is given up as a failure: it may be
            what kills them.
        start_timeout_s: Seconds after which the run ends with an error if no worker is ready. Loading the
            models counts.

    Raises:
        ConfigurationError: A number is out of range.
        MissingDependencyError: Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        resources: Mapping[str, float] | None = None,
        max_losses: int = 3,
        start_timeout_s: float = 600.0,
    ) -> None:
        _ray()
        check_least(1, workers=workers, threads=threads, max_losses=max_losses)
        wants = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
        if any(amount < 0 for amount in wants.values()):
            raise ConfigurationError(f"A worker cannot ask for less than nothing: {wants}.")
        self._wants = {name: amount for name, amount in wants.items() if amount}
        if workers is None and not self._wants:
            raise ConfigurationError("Workers that ask for no resources need a number: pass workers=.")
        self._options = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "resources": dict(resources or {}),
            "max_concurrency": threads,
            # Ray's own restarts would wait for room with items in hand that others could do.
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        self._address = address
        self._workers = workers
        self._threads = threads
        self._max_losses = max_losses
        self._start_timeout_s = start_timeout_s

    def stream(
        self, make_worker: WorkerFactory, items: Iterable[Any], *, ordered: bool = False
    ) -> Generator[Outcome, None, None]:
        """See `Executor.stream`.

        The factory and the items travel by Ray's serialisation, results as well. It trusts the cluster:
        use one of your own.

        Raises:
            ConfigurationError: The factory cannot be sent or its worker cannot be made.
            AgentPRMError: No worker got ready in time, or they die whenever they are made.
        """
        check_factory(make_worker)
        return self._stream(make_worker, items, ordered)

    def _stream(
        self, make_worker: WorkerFactory, items: Iterable[Any], ordered: bool
    ) -> Generator[Outcome, None, None]:
        with _connected(self._address):
            count = self._workers or max(1, _room(self._wants))
            window = _WINDOW * count * self._threads if ordered else None
            backlog = Backlog(items, window)
            pool = _Pool(make_worker, self._options, count, self._threads, self._start_timeout_s)
            try:
                while pool.feed(backlog):
                    for result in pool.collect():
                        job, value, failure, usage = result
                        if failure is _LOST:
                            job.lost += 1
                            if job.lost < self._max_losses:
                                backlog.give_back(job)
                                continue
                            failure = Failure("WorkerDied", f"{job.lost} workers died while working on it.")
                        record_usage(**{name: usage[name] for name in _COUNTS})  # type: ignore[literal-required]
                        yield from backlog.finish(Outcome(job.index, value, failure, usage, job.lost))
            finally:
                pool.close()


_LOST = Failure("Lost", "")
_COUNTS = [name for name in empty_usage() if name != "seconds"]
_Result = tuple[Assignment, Any, Failure | None, Usage]


class _Worker:
    """Lives in a process of the cluster."""

    def build(self, make_worker: WorkerFactory) -> None:
        self._work: Callable[[Any], Any] = built(make_worker)

    def run(self, item: Any) -> tuple[Any, Failure | None, Usage]:
        return attempt(self._work, item)


@dataclass(eq=False)
class _Handle:
    """The driver's side of a worker."""

    actor: Any
    ready: bool = False
    jobs: list[Any] = field(default_factory=list)  # references to results, oldest first


@dataclass(eq=False)
class _Pool:
    """Workers, and what each has in hand."""

    make_worker: WorkerFactory
    options: Mapping[str, Any]
    count: int
    threads: int
    start_timeout_s: float

    def __post_init__(self) -> None:
        self._ray = _ray()
        self._class = self._ray.remote(_Worker).options(**self.options)
        self._workers: list[_Handle] = []
        self._waiting: list[Assignment] = []
        # No job: the worker is being built.
        self._under_way: dict[Any, tuple[_Handle, Assignment | None]] = {}
        self._seconds = _SHORT_S  # running mean of an item's time
        self._build_losses = 0
        self._last_ready = time.monotonic()
        self._unsent: list[_Result] = []

    def feed(self, backlog: Backlog) -> bool:
        """Gives items to workers, and starts workers for items; `False` when nothing is left to wait for."""
        while True:
            free = self._free()
            # No more items are taken than there are places, now or once the missing workers are there.
            places = max(len(free), self.count - sum(worker.ready for worker in self._workers))
            while len(self._waiting) < places and (job := backlog.take()) is not None:
                self._waiting.append(job)
            if not (free and self._waiting):
                break
            for worker in free:
                if self._waiting:
                    self._send(worker, self._waiting.pop(0))
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.count - len(self._workers), len(self._waiting) - starting)):
            self._start()
        return bool(self._waiting or self._unsent or any(job for _, job in self._under_way.values()))

    def collect(self) -> list[_Result]:
        """Waits a moment for results; those of items that were lost carry `_LOST`."""
        results, self._unsent = self._unsent, []
        if self._under_way and not results:
            first, _ = self._ray.wait(list(self._under_way), timeout=1.0)
            if first:
                ready, _ = self._ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=0)
                results = self._settle(ready or first)
        if any(worker.ready for worker in self._workers):
            self._last_ready = time.monotonic()
        elif time.monotonic() - self._last_ready > self.start_timeout_s:
            raise AgentPRMError(
                f"No worker got ready within {self.start_timeout_s:g} s. The cluster has "
                f"{_plain(self._ray.cluster_resources())}, with {_plain(self._ray.available_resources())} "
                "free: ask for less per worker, add machines, or raise start_timeout_s if the models take "
                "longer to load."
            )
        return results

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers:
            self._ray.kill(worker.actor)
        self._workers.clear()

    def _free(self) -> list[_Handle]:
        """Workers with room, the idlest first."""
        room = self.threads + (_AHEAD if self._seconds < _SHORT_S else 0)
        free = [worker for worker in self._workers if worker.ready and len(worker.jobs) < room]
        return sorted(free, key=lambda worker: len(worker.jobs))

    def _start(self) -> None:
        actor = self._class.remote()
        worker = _Handle(actor)
        self._workers.append(worker)
        try:
            self._under_way[actor.build.remote(self.make_worker)] = (worker, None)
        except TypeError as error:  # Ray's word for what it cannot serialise
            raise ConfigurationError(
                f"The worker factory cannot be sent to other machines: {error}. Open models, clients and "
                "indexes inside it instead of passing them in."
            ) from error

    def _send(self, worker: _Handle, job: Assignment) -> None:
        try:
            reference = worker.actor.run.remote(job.item)
        except TypeError as error:
            self._unsent.append((job, None, Failure.of(error), empty_usage()))
            return
        worker.jobs.append(reference)
        self._under_way[reference] = (worker, job)

    def _settle(self, references: list[Any]) -> list[_Result]:
        results: list[_Result] = []
        dead: list[tuple[_Handle, Exception]] = []
        for reference in references:
            worker, job = self._under_way[reference]
            try:
                reply = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                if job is None:
                    raise _not_built(error) from error
                reply = (None, Failure.of(error), empty_usage())  # for instance a result that cannot be sent
            except self._ray.exceptions.RayError as error:
                dead.append((worker, error))
                continue
            del self._under_way[reference]
            if job is None:
                worker.ready = True
                self._build_losses = 0
                continue
            worker.jobs.remove(reference)
            self._seconds += 0.2 * (reply[2]["seconds"] - self._seconds)
            results.append((job, *reply))
        for worker, cause in dead:
            if worker in self._workers:
                results += self._bury(worker, cause)
        return results

    def _bury(self, worker: _Handle, cause: Exception) -> list[_Result]:
        """Takes the items of a dead worker back. Only those that it worked on count as lost."""
        _logger.warning("A worker died (%s); its items go to others.", type(cause).__name__)
        self._workers.remove(worker)
        self._ray.kill(worker.actor)  # it may only be out of reach
        if not worker.ready:
            self._build_losses += 1
            if self._build_losses >= _BUILD_LOSSES * self.count:
                raise AgentPRMError(
                    f"{self._build_losses} workers in a row died while they were made, the last because: "
                    f"{cause}. They may need more memory than they have."
                ) from cause
        lost: list[_Result] = []
        for place, reference in enumerate(worker.jobs):
            job = self._under_way.pop(reference)[1]
            assert job is not None
            if place < self.threads:
                lost.append((job, None, _LOST, empty_usage()))
            else:
                self._waiting.insert(0, job)
        for reference in [r for r, (owner, _) in self._under_way.items() if owner is worker]:
            del self._under_way[reference]
        return lost


def _not_built(error: Any) -> AgentPRMError:
    """The error of a factory, without Ray's wrapping."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, AgentPRMError):
        return type(cause)(str(cause))
    return ConfigurationError(f"The worker cannot be made: {cause or error}")


def _plain(resources: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in sorted(resources.items()) if ":" not in name}


def _room(wants: Mapping[str, float]) -> int:
    """How many workers the machines of the cluster can hold."""
    return sum(
        min(int(node["Resources"].get(name, 0) / amount) for name, amount in wants.items())
        for node in _ray().nodes()
        if node["Alive"]
    )


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to the cluster: the one there is, or one for the length of the block."""
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    named = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if named == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent home unless asked for
        options["include_dashboard"] = False
    _check_reachable(named)
    try:
        ray.init(named, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigurationError(f"No Ray cluster answers at {named!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuses at once an address where nobody listens; Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"No Ray cluster answers at {address!r} ({error}). Start one with: ray start --head --port=6379"
        ) from error


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError.for_extra("ray", "ray") from error
    return ray
