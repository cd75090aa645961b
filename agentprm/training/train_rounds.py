"""One round of collecting and training after another (iterative preference optimisation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from agentprm.errors import check_count
from agentprm.training.folder import trained

__all__ = ["train_rounds"]

E = TypeVar("E")


def train_rounds(
    out: str | Path,
    rounds: int,
    collect: Callable[[int, Path | None], Sequence[E]],
    train: Callable[[Sequence[E], Path, Path | None], object],
    *,
    start: str | Path | None = None,
) -> Path:
    """Collects examples with the model of the last round and trains the next one from it.

    ReARTeR does three rounds: it searches with the policy, calls steps desirable whose Monte-Carlo value is
    above one half, and trains with KTO from where the last round ended, which is its reference too. A call
    that was killed goes on with the round in which it was; rounds that are done are not repeated.

    Args:
        out: The folder: `round-1`, `round-2`, … lie in it.
        rounds: How many.
        collect: From the number of the round, 1 for the first, and the adapter to collect with (`None` before
            the first round, without `start`) to examples. After a kill it is asked again, so let it keep what
            it has found, for instance with `agentprm.scale`.
        train: From examples, the folder to write and the adapter to go on from to a trained adapter, for
            instance `lambda examples, folder, last: train_by_judgements(examples, folder, start=last)`.
        start: The adapter before the first round.

    Returns:
        The folder of the last round.
    """
    check_count("rounds", rounds)
    last = None if start is None else Path(start)
    for number in range(1, rounds + 1):
        folder = Path(out) / f"round-{number}"
        if not trained(folder):
            train(collect(number, last), folder, last)
        last = folder
    assert last is not None
    return last
