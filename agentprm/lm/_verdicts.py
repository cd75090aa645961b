"""Scores of single tokens right after prompts: yes or no, A or B."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentprm.lm._engine import CHUNK, Call, Engine, path_length
from agentprm.lm._kv import KVCache
from agentprm.lm._plan import pack
from agentprm.lm._prefix_tree import Stretch

__all__ = ["next_token"]


def next_token(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    max_slots: int,
    call: Call,
) -> list[list[float]]:
    """Log-probabilities of single tokens right after prompts, for instance of verdicts.

    As nothing follows, prompts with the same known beginning are lanes of one row.

    Args:
        engine: The model.
        prompts: Token ids, none empty.
        tokens: Per prompt the tokens to score.
        max_slots: Most slots of one pass; a single row may exceed it.
        call: The request that it is for.
    """
    results: list[list[float]] = [[] for _ in prompts]
    try:
        engine.compute_shared(prompts, call)
        paths = [engine.tree.match(prompt[:-1]) for prompt in prompts]
        groups: dict[tuple[tuple[int, int], ...], list[int]] = {}
        for number, path in enumerate(paths):
            groups.setdefault(tuple((id(s.layers), s.count) for s in path), []).append(number)
        rows: list[tuple[int, int, list[int]]] = []  # new tokens, known tokens, prompts
        for group in groups.values():
            known = path_length(paths[group[0]])
            sizes = [len(prompts[i]) - known for i in group]
            for part in pack(sizes, known, max_slots):
                rows.append((sum(sizes[i] for i in part), known, [group[i] for i in part]))
        rows.sort(reverse=True)
        while rows:
            width, count = rows[0][0], 0
            while count < len(rows) and rows[count][0] * 4 > width * 3:
                longest = max(known for _, known, _ in rows[: count + 1])
                if count and (count + 1) * (width + longest) > max_slots:
                    break
                count += 1
            part_rows = [members for _, _, members in rows[:count]]
            _pass(engine, part_rows, width, paths, prompts, tokens, results, call)
            rows = rows[count:]
    finally:
        engine.tree.trim()
    return results


def _pass(
    engine: Engine,
    rows: list[list[int]],
    width: int,
    paths: Sequence[Sequence[Stretch]],
    prompts: Sequence[Sequence[int]],
    tokens: Sequence[Sequence[int]],
    results: list[list[float]],
    call: Call,
) -> None:
    """One pass of `next_token`: rows of prompts whose paths are equal; fills `results`."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    position, lane, start = torch.full_like(ids, -1), torch.zeros_like(ids), torch.zeros_like(ids)
    ends: list[tuple[int, int, int]] = []  # column, row, prompt
    for row, members in enumerate(rows):
        at, known = 0, path_length(paths[members[0]])
        for number, member in enumerate(members):
            rest = prompts[member][known:]
            part = slice(at, at + len(rest))
            ids[row, part] = torch.tensor(rest)
            position[row, part] = torch.arange(known, known + len(rest))
            # A row of its own needs no lane, and without a mask it is faster.
            lane[row, part] = number + 1 if len(members) > 1 else 0
            start[row, part] = known
            at += len(rest)
            ends.append((at - 1, row, member))
    device = engine.device
    ids, position, lane, start = (t.to(device) for t in (ids, position, lane, start))
    cache = KVCache.of_paths([paths[members[0]] for members in rows], width, device)
    for at in range(0, width, CHUNK):
        part = slice(at, at + CHUNK)
        here = [end for end in ends if at <= end[0] < at + CHUNK]
        columns = sorted({column - at for column, _, _ in here}) or [0]
        logits = engine.forward(
            cache,
            ids[:, part],
            position[:, part],
            lane[:, part],
            start[:, part],
            keep=torch.tensor(columns, device=device),
            call=call,
        )
        for column, row, member in here:
            scores = logits[row, columns.index(column - at)].float().log_softmax(dim=-1)
            results[member] = scores[torch.tensor(tokens[member], device=device)].tolist()
    for row, members in enumerate(rows):
        for number, member in enumerate(members):
            engine.remember(cache, row, number + 1 if len(members) > 1 else 0, prompts[member])
