"""Outputs of a model at chosen tokens of whole texts, every distinct token computed once.

A reward model is read at step boundaries: on the text itself (a separator), or on a *leaf*, a few
tokens that follow a prefix for the readout only and that no later token sees (an end token, "the
step to judge is …"). Trunks go into the prefix tree; leaves hang on them as lanes, so a whole
trajectory is read in one pass and a grown one costs its new tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass

import torch

from agentprm.engine.planning import Item
from agentprm.engine.requests import Branch, Request, Sink, Text
from agentprm.engine.scheduler import Scheduler

__all__ = ["Call", "Reading", "read_outputs", "read_tokens"]


class Call:
    """One caller's readings: what they have computed, and whether they are still wanted.

    Attributes:
        computed: Tokens that went through the model for it.
    """

    def __init__(self) -> None:
        self.computed = 0
        self._request: Request | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Frees the work before the next forward pass."""
        with self._lock:
            self._cancelled = True
            if self._request is not None:
                self._request.future.cancel()

    def run(self, scheduler: Scheduler, request: Request, items: Sequence[Item]) -> None:
        """Waits for a request.

        Raises:
            CancelledError: If the call was cancelled.
        """
        with self._lock:
            if self._cancelled:
                raise CancelledError
            self._request = request
        try:
            scheduler.submit(request, items)
            request.future.result()
        finally:
            request.future.cancel()
            self.computed += request.computed


@dataclass(frozen=True)
class Reading:
    """A text and where the model is read on it.

    Attributes:
        tokens: Token ids of the trunk.
        ends: `(count, leaf)` pairs: the model is read at the last token of `tokens[:count] + leaf`.
            An empty leaf reads the trunk itself.
    """

    tokens: Sequence[int]
    ends: Sequence[tuple[int, tuple[int, ...]]]


def read_outputs(scheduler: Scheduler, readings: Sequence[Reading], call: Call) -> list[torch.Tensor]:
    """The model's outputs at the ends of each reading.

    Args:
        scheduler: Of a model whose `logits` are what is to be read: those of a small head, or of a
            few words of the vocabulary.
        readings: Texts, none empty.
        call: The request that it is for.

    Returns:
        Per reading a tensor `[ends, outputs]`, fp32, on the CPU.
    """
    request = Request()
    items = []
    for reading in readings:
        needed = max((count for count, _ in reading.ends), default=0)
        item = Text(request, tuple(reading.tokens[:needed]))
        for number, (count, leaf) in enumerate(reading.ends):
            sink = Sink(item, number)
            if leaf:
                item.leaves.append(Branch(leaf, count, {len(leaf) - 1: [sink]}, keep=False))
            else:
                item.reads.setdefault(count - 1, []).append(sink)
        items.append(item)
    call.run(scheduler, request, [item for item in items if item.reads or item.leaves])
    none = torch.zeros(0, scheduler.engine.outputs)
    return [
        torch.stack([item.outputs[n] for n in range(len(item.outputs))]) if item.outputs else none
        for item in items
    ]


def read_tokens(
    scheduler: Scheduler, texts: Sequence[tuple[Sequence[int], int]], call: Call, adapter: str | None = None
) -> list[torch.Tensor]:
    """Log-probabilities of the tokens of each text.

    Args:
        scheduler: Of a causal language model.
        texts: `(tokens, begin)`: the tokens from `begin` (at least 1) on are scored.
        call: The request that it is for.
        adapter: Name of the adapter that the model is read with.

    Returns:
        Per text a tensor `[len(tokens) - begin]` of natural log-probabilities.
    """
    request = Request(adapter)
    items = []
    for tokens, begin in texts:
        item = Text(request, tuple(tokens[:-1]))
        for count in range(begin, len(tokens)):
            item.reads[count - 1] = [Sink(item, count - begin, tokens[count])]
        items.append(item)
    call.run(scheduler, request, [item for item in items if item.reads])
    return [torch.tensor([item.scores[n] for n in range(len(item.scores))]) for item in items]
