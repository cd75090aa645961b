"""Key/value storage of one batch, and the attention masks that make lanes and padding exact.

A *row* holds one prompt (the trunk, lane 0) and any number of *lanes*: samples that are being
decoded, or continuations that are being scored. Lanes see the trunk and themselves, never each
other, so a prompt's keys and values exist once however many lanes it has. Every slot of a row
knows its position and its lane; slots without a token have position -1. Masks follow from these
alone, so rows with different cached lengths, padding and lanes share one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from agentprm.lm._prefix_tree import Layers, Stretch

__all__ = ["KVCache"]

_GROWTH = 1.5


class _Layer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values, `[rows, heads, capacity, head_dim]`, written in place."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device

        def empty(like: torch.Tensor) -> torch.Tensor:
            rows, heads, _, dim = like.shape
            return torch.empty(rows, heads, self.capacity, dim, dtype=like.dtype, device=like.device)

        self.keys, self.values = empty(key_states), empty(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        if end > self.capacity:
            self.capacity = max(end, int(self.capacity * _GROWTH))
            self.keys, self.values = self._grown(self.keys), self._grown(self.values)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def _grown(self, old: torch.Tensor) -> torch.Tensor:
        rows, heads, _, dim = old.shape
        new = torch.empty(rows, heads, self.capacity, dim, dtype=old.dtype, device=old.device)
        new[:, :, : self.length] = old[:, :, : self.length]
        return new

    def get_seq_length(self) -> int:
        return self.length


class KVCache(Cache):  # type: ignore[misc]
    """Keys, values, positions and lanes of a batch of rows.

    Sliding-window layers are stored in full and windowed by the mask: a cut cache could not serve
    lanes that start at different positions.

    Attributes:
        position: `[rows, slots]`, the token's position or -1.
        lane: `[rows, slots]`, 0 for the trunk.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self._capacity = max(1, capacity)
        self.position = torch.empty(rows, 0, dtype=torch.long, device=device)
        self.lane = torch.empty(rows, 0, dtype=torch.long, device=device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends one layer's new keys and values (called by the model's attention)."""
        while len(self.layers) <= layer_idx:
            self.layers.append(_Layer(self._capacity))
        keys, values = self.layers[layer_idx].update(key_states, value_states)
        return keys, values

    @classmethod
    def of_paths(cls, paths: Sequence[Sequence[Stretch]], capacity: int, device: torch.device) -> KVCache:
        """A cache whose rows begin with known tokens.

        Args:
            paths: Per row the stretches of its beginning, in order.
            capacity: Slots to reserve per row on top of the longest beginning.
            device: Where the model lives.
        """
        counts = [sum(stretch.count for stretch in path) for path in paths]
        width = max(counts)
        cache = cls(len(paths), width + capacity, device)
        if not width:
            return cache
        sample = next(path[0].layers for path in paths if path)
        for number, (keys, values) in enumerate(sample):
            layer = _Layer(cache._capacity)
            layer.lazy_initialization(
                keys[None].expand(len(paths), -1, -1, -1), values[None].expand(len(paths), -1, -1, -1)
            )
            for row, path in enumerate(paths):
                at = 0
                for stretch in path:
                    end, (k, v) = at + stretch.count, stretch.layers[number]
                    layer.keys[row, :, at:end] = k[:, : stretch.count]
                    layer.values[row, :, at:end] = v[:, : stretch.count]
                    at = end
                # A masked slot counts with weight 0, but 0 times whatever memory holds may be NaN.
                layer.keys[row, :, at:width] = 0
                layer.values[row, :, at:width] = 0
            layer.length = width
            cache.layers.append(layer)
        slots = torch.arange(width, device=device).expand(len(paths), -1)
        cache.position = slots.masked_fill(slots >= torch.tensor(counts, device=device)[:, None], -1)
        cache.lane = torch.zeros_like(cache.position)
        return cache

    def fetch(self, row: int, lane: int, begin: int, end: int) -> Layers:
        """Keys and values of the positions `begin` to `end` of a lane and the trunk below it."""
        position, lanes = self.position[row], self.lane[row]
        own = position[(lanes == lane) & (position >= 0)]
        fork = int(own.min()) if lane and len(own) else end
        there = (position >= begin) & (position < end)
        there &= ((lanes == 0) & (position < fork)) | ((lanes == lane) & (lane != 0))
        slots = there.nonzero()[:, 0]
        slots = slots[position[slots].argsort()]
        return [(layer.keys[row][:, slots], layer.values[row][:, slots]) for layer in self.layers]

    @property
    def rows(self) -> int:
        """Rows in the batch."""
        return int(self.position.shape[0])

    @property
    def slots(self) -> int:
        """Slots in use per row, the ones without a token included."""
        return int(self.position.shape[1])

    def append(self, position: torch.Tensor, lane: torch.Tensor) -> None:
        """Announces the tokens of the next forward pass, both `[rows, new]`."""
        self.position = torch.cat([self.position, position], dim=1)
        self.lane = torch.cat([self.lane, lane], dim=1)

    def mask(
        self,
        position: torch.Tensor,
        lane: torch.Tensor,
        start: torch.Tensor,
        window: int | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """Which slots each new token may attend to.

        Args:
            position: `[rows, new]` positions of the new tokens, -1 for padding.
            lane: `[rows, new]` lanes of the new tokens.
            start: `[rows, new]`: a token of a lane sees the trunk's positions below this one.
            window: Sliding window in tokens, or `None`.
            dtype: Of the mask; the model's.

        Returns:
            Additive mask `[rows, 1, new, slots]`: 0 where attention is allowed, else the most
            negative number.
        """
        query, key = position[:, :, None], self.position[:, None, :]
        key_lane = self.lane[:, None, :]
        own = (key_lane == lane[:, :, None]) & (key <= query)
        trunk = (key_lane == 0) & (key < start[:, :, None])
        allowed = (key >= 0) & (own | trunk)
        if window is not None:
            allowed &= query - key < window
        # A padding query must see something, or its softmax is 0/0 and poisons later layers.
        allowed |= query < 0
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]

    def select(self, indices: Sequence[int], capacity: int | None = None) -> KVCache:
        """A new cache of the given rows, in that order; a row may be taken several times."""
        index = torch.tensor(list(indices), dtype=torch.long, device=self.position.device)
        new = KVCache(len(indices), max(capacity or 0, self.slots), self.position.device)
        new.position, new.lane = self.position[index], self.lane[index]
        for old in self.layers:
            layer = _Layer(new._capacity)
            layer.lazy_initialization(
                old.keys[:1].expand(len(indices), -1, -1, -1), old.values[:1].expand(len(indices), -1, -1, -1)
            )
            for row, source in enumerate(indices):
                layer.keys[row, :, : old.length] = old.keys[source, :, : old.length]
                layer.values[row, :, : old.length] = old.values[source, :, : old.length]
            layer.length = old.length
            new.layers.append(layer)
        return new

    def keep(self, indices: Sequence[int]) -> list[int]:
        """Drops all rows but the given ones, in place, copying as few rows as possible.

        Returns:
            The old index of each remaining row, in the new order.
        """
        kept, count = set(indices), len(set(indices))
        spare = [i for i in sorted(kept) if i >= count]
        order = [i if i in kept else spare.pop() for i in range(count)]
        moves = [(new, old) for new, old in enumerate(order) if new != old]
        for layer in self.layers:
            for new, old in moves:
                layer.keys[new, :, : layer.length] = layer.keys[old, :, : layer.length]
                layer.values[new, :, : layer.length] = layer.values[old, :, : layer.length]
            layer.keys, layer.values = layer.keys[:count], layer.values[:count]
        index = torch.tensor(order, dtype=torch.long, device=self.position.device)
        self.position, self.lane = self.position[index], self.lane[index]
        return order
