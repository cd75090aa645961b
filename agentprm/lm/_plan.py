"""What to compute together: beginnings that prompts share, and lanes that share a row."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

__all__ = ["common_length", "pack", "samples_per_row", "shared_beginnings"]

# Tokens of a packed row times tokens of its longest lane, per prompt token, up to which packing
# beats a copy of the prompt's keys and values; measured by benchmarks/engine.py.
PACKING: float = 16
_WORTH = 16  # shared tokens below which a pass of their own does not pay


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def samples_per_row(prompt: int, new: int, max_slots: int) -> int:
    """How many samples share a row.

    A row reads its prompt's keys once for all of its lanes, but each lane's attention also runs over
    the others' tokens. Both cost the same at about this number (benchmarks/engine.py).

    Args:
        prompt: Tokens of the prompt.
        new: Tokens of one sample.
        max_slots: Most slots of a row.
    """
    return max(1, min(3 + 4 * prompt // new, (max_slots - prompt) // new))


def pack(sizes: Sequence[int], prompt: int, max_slots: int) -> list[list[int]]:
    """Distributes lanes over rows, weighing a copy of the prompt against attention between lanes.

    Args:
        sizes: Tokens of each lane.
        prompt: Tokens of the prompt below them.
        max_slots: Most slots of a packed row.

    Returns:
        The indices of the lanes of each row.
    """
    rows: list[list[int]] = []
    total = 0
    for index in sorted(range(len(sizes)), key=lambda i: sizes[i]):
        packed = total + sizes[index]
        if rows and packed * sizes[index] <= PACKING * prompt and prompt + packed <= max_slots:
            rows[-1].append(index)
            total = packed
        else:
            rows.append([index])
            total = sizes[index]
    return rows


def shared_beginnings(
    prompts: Sequence[Sequence[int]], known: Sequence[int]
) -> list[list[tuple[int, list[int]]]]:
    """Unknown beginnings that several prompts share, in levels; each level builds on those before.

    Args:
        prompts: Token ids.
        known: How much of each prompt is in the prefix tree.

    Returns:
        Per level the length of each beginning and the indices of the prompts that share it.
    """
    levels: list[list[tuple[int, list[int]]]] = []
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    shared = [common_length(prompts[a], prompts[b]) for a, b in itertools.pairwise(order)]

    def visit(begin: int, end: int, depth: int, done: int) -> None:
        # order[begin:end] share their first `done` tokens, which are known by then.
        if end - begin < 2:
            return
        depth_now = min(shared[begin : end - 1])
        done = max(done, *(min(depth_now, known[i]) for i in order[begin:end]))
        if depth_now - done >= _WORTH:
            levels.extend([] for _ in range(depth + 1 - len(levels)))
            levels[depth].append((depth_now, order[begin:end]))
            done, depth = depth_now, depth + 1
        at = begin
        for cut in range(begin, end):
            if cut == end - 1 or shared[cut] == depth_now:
                visit(at, cut + 1, depth, done)
                at = cut + 1

    visit(0, len(order), 0, 0)
    return levels
