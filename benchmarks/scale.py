"""What an executor costs per item, and how it scales: items that do nothing, wait or compute.

Compares a plain loop with `LocalExecutor` and with `RayExecutor` on a cluster of this machine. The
workers' processes start with each run: the time to the first outcome tells what that takes, and the
rate of the second half of the outcomes how the executor does on longer runs. Without Ray its rows are
left out.

    python benchmarks/scale.py             # a few minutes
    python benchmarks/scale.py --tiny      # seconds: does it run?
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agentprm.scale import Executor, Journal, LocalExecutor, RayExecutor, map_items

Factory = Callable[[], Callable[[int], int]]


def nothing() -> Callable[[int], int]:
    return lambda item: item


def waiting(seconds: float) -> Callable[[int], int]:
    def wait(item: int) -> int:
        time.sleep(seconds)
        return item

    return wait


def computing(turns: int) -> Callable[[int], int]:
    def compute(item: int) -> int:
        total = item
        for number in range(turns):
            total = (total * 31 + number) % 1_000_003
        return total

    return compute


def loop(factory: Factory, count: int, seen: Callable[[], None]) -> None:
    work = factory()
    for item in range(count):
        work(item)
        seen()


def streamed(executor: Executor, factory: Factory, count: int, seen: Callable[[], None]) -> None:
    for outcome in executor.stream(factory, range(count)):
        assert outcome.failure is None
        seen()


def journaled(executor: Executor, factory: Factory, count: int, seen: Callable[[], None]) -> None:
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.sqlite") as journal:
        report = map_items(
            factory, range(count), journal, executor=executor, key=str, on_outcome=lambda key, outcome: seen()
        )
        assert (report.items, report.failed) == (count, 0)


def timed(
    run: Callable[[Factory, int, Callable[[], None]], None], factory: Factory, count: int
) -> list[float]:
    """Seconds until the first outcome, and per item of the second half."""
    times: list[float] = []
    start = time.perf_counter()
    run(factory, count, lambda: times.append(time.perf_counter()))
    assert len(times) == count
    half = (count - 1) // 2
    return [times[0] - start, (times[-1] - times[half]) / (count - 1 - half)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=2, help="threads, and processes of the cluster (2)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    has_ray = importlib.util.find_spec("ray") is not None
    if has_ray:
        import ray

        ray.init(
            "local", num_cpus=args.workers, include_dashboard=False, log_to_driver=False,
            logging_level="ERROR", object_store_memory=100_000_000,
        )  # fmt: skip
    share = 20 if args.tiny else 1
    works: list[tuple[str, Factory, int]] = [
        ("nothing", nothing, 2000 // share),
        ("wait 50 ms", partial(waiting, 0.05), 100 // share),
        ("compute 20 ms", partial(computing, 250_000), 100 // share),
        ("compute 0.2 s", partial(computing, 2_500_000), 40 // share),
    ]
    threads = LocalExecutor(args.workers)
    ways = [
        ("loop", loop),
        ("local", partial(streamed, LocalExecutor())),
        ("local, journal", partial(journaled, LocalExecutor())),
        (f"{args.workers} threads, journal", partial(journaled, threads)),
    ]
    if has_ray:
        cluster = RayExecutor(workers=args.workers)
        ways += [
            (f"Ray, {args.workers} processes", partial(streamed, cluster)),
            (f"Ray, {args.workers} processes, journal", partial(journaled, cluster)),
        ]
    print("| items | way | first outcome, s | second half, ms per item | speed-up |\n|---|---|--:|--:|--:|")
    for name, factory, count in works:
        base = None
        for way, run in ways:
            runs = [timed(run, factory, count) for _ in range(1 if args.tiny else args.repeats)]
            first, each = (statistics.median(column) for column in zip(*runs, strict=True))
            base = base or each
            gain = "" if name == "nothing" else f"{base / each:.2f}"
            print(f"| {count:,} of {name} | {way} | {first:.3f} | {1000 * each:.3f} | {gain} |", flush=True)
    if has_ray:
        ray.shutdown()


if __name__ == "__main__":
    main()
