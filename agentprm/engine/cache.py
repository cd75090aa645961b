"""Keys and values: the rows that are being computed, and a tree of what is kept of them.

A *row* holds one prompt (the trunk, lane 0) and any number of *lanes*: samples that are being
decoded, or continuations that are being scored. Lanes see the trunk and themselves, never each
other, so a prompt's keys and values exist once however many lanes it has. Every slot of a row knows
its position and its lane; masks follow from these alone.

Prompts of a search repeat each other's beginnings: instructions, question, passages, committed
steps. The tree keeps each distinct token's keys and values once, finds the longest known beginning
of a new sequence, and forgets what was used least recently when it exceeds its bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from agentprm.engine.tokenizing import common_length
from agentprm.forking import ForkSafeLock, after_fork

__all__ = ["Known", "Layers", "PrefixTree", "Row", "Stretch"]

_GROWTH = 1.5  # of a row that is full

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of consecutive tokens, per layer, each `[heads, tokens, head_dim]`."""


@dataclass(frozen=True)
class Stretch:
    """A known part of a sequence.

    Attributes:
        layers: Keys and values of a tree node.
        count: How many of its first tokens belong to the sequence.
    """

    layers: Layers
    count: int


class Known(NamedTuple):
    """What is known of the beginning of a sequence.

    Attributes:
        stretches: Its parts, from the first token on.
        length: Tokens of all of them.
    """

    stretches: Sequence[Stretch] = ()
    length: int = 0


class _TreeNode:
    """An edge of the tree with its tokens, and the node at its end."""

    __slots__ = ("children", "layers", "parent", "tokens", "used")

    def __init__(self, tokens: tuple[int, ...], layers: Layers, parent: _TreeNode | None) -> None:
        self.tokens = tokens
        self.layers = layers
        self.parent = parent
        self.children: dict[int, _TreeNode] = {}
        self.used = 0

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class PrefixTree:
    """Keys and values of token sequences, each distinct beginning once; safe to use from threads.

    What a caller got from `match` stays usable when the tree forgets it.

    Args:
        max_bytes: Bound that `trim` enforces; 0 keeps nothing.
        adapters: Names of the adapters with which tokens may be computed.
    """

    def __init__(self, max_bytes: int, adapters: Sequence[str] = ()) -> None:
        self.max_bytes = max_bytes
        self._adapters = adapters
        self._clock = itertools.count(1)
        self._lock = ForkSafeLock()
        self._forget()
        after_fork(self, PrefixTree._forget)  # it may have been cut in the middle of a change

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return self._bytes

    def match(self, tokens: Sequence[int], adapter: str | None = None) -> Known:
        """The longest known beginning of `tokens` with an adapter, from its first token on."""
        with self._lock:
            path, length = self._walk(tuple(tokens), adapter)
            return Known([Stretch(node.layers, count) for node, count in path], length)

    def insert(self, tokens: Sequence[int], row: Row, lane: int = 0) -> None:
        """Adds a sequence that a row has computed with its adapter; what is new of it is copied.

        Args:
            tokens: All of the lane's tokens, the trunk below it included.
            row: Where their keys and values are.
            lane: The lane.
        """
        whole = tuple(tokens)
        with self._lock:
            path, known = self._walk(whole, row.adapter)
            if known == len(whole):
                return
            parent = self._roots[row.adapter]
            if path:
                parent, count = path[-1]
                if count < len(parent.tokens):
                    parent = self._split(parent, count)
            node = _TreeNode(whole[known:], row.fetch(lane, known, len(whole)), parent)
            node.used = next(self._clock)
            parent.children[node.tokens[0]] = node
            self._bytes += node.nbytes

    def trim(self) -> None:
        """Forgets the least recently used ends until the bound holds."""
        with self._lock:
            while self._bytes > self.max_bytes:
                leaves = [node for node in self._nodes() if not node.children]
                leaves.sort(key=lambda node: node.used)
                for leaf in leaves:
                    if self._bytes <= self.max_bytes:
                        return
                    assert leaf.parent is not None
                    del leaf.parent.children[leaf.tokens[0]]
                    self._bytes -= leaf.nbytes

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        # One for each adapter: with another one the same tokens have other keys and values.
        self._roots = {adapter: _TreeNode((), [], None) for adapter in (None, *self._adapters)}
        self._bytes = 0

    def _walk(self, tokens: tuple[int, ...], adapter: str | None) -> tuple[list[tuple[_TreeNode, int]], int]:
        """The path along `tokens` with the number of tokens used of each edge, and their sum."""
        path: list[tuple[_TreeNode, int]] = []
        at, node, now = 0, self._roots[adapter], next(self._clock)
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            edge = child.tokens
            count = len(edge)
            if tokens[at : at + count] != edge:
                count = common_length(edge, tokens[at:])
            child.used = now
            path.append((child, count))
            at += count
            if count < len(edge):
                break
            node = child
        return path, at

    def _split(self, node: _TreeNode, count: int) -> _TreeNode:
        """Cuts an edge in two; the upper half is returned, the lower one keeps the children."""
        # Copies, so that forgetting one half frees its memory.
        upper_layers = [(k[:, :count].clone(), v[:, :count].clone()) for k, v in node.layers]
        lower_layers = [(k[:, count:].clone(), v[:, count:].clone()) for k, v in node.layers]
        parent = node.parent
        assert parent is not None
        upper = _TreeNode(node.tokens[:count], upper_layers, parent)
        lower = _TreeNode(node.tokens[count:], lower_layers, upper)
        upper.used = lower.used = node.used
        upper.children = {lower.tokens[0]: lower}
        lower.children = node.children
        for child in lower.children.values():
            child.parent = lower
        parent.children[upper.tokens[0]] = upper
        return upper

    def _nodes(self) -> list[_TreeNode]:
        found: list[_TreeNode] = []
        open_nodes = [node for root in self._roots.values() for node in root.children.values()]
        while open_nodes:
            node = open_nodes.pop()
            found.append(node)
            open_nodes.extend(node.children.values())
        return found


class Row:
    """One row's keys and values, `[1, heads, capacity, head_dim]` per layer, written in place.

    Sliding-window layers are stored in full and windowed by the mask: a cut row could not serve lanes
    that start at different positions. A forward pass writes behind `length`; only `commit` moves it,
    so a pass that fails leaves the row as it was.

    Args:
        path: What is known of its beginning.
        capacity: Slots to reserve on top of it.
        device: Where the model lives.
        adapter: Name of the adapter that it is computed with.

    Attributes:
        adapter: The same.
        position: `[slots]`, position of each token.
        lane: `[slots]`, 0 for the trunk.
        length: Slots in use.
    """

    def __init__(self, path: Known, capacity: int, device: torch.device, adapter: str | None = None) -> None:
        self.adapter = adapter
        self.length = path.length
        self._capacity = max(1, self.length + capacity)
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self.position = torch.arange(self.length, device=device)
        self.lane = torch.zeros_like(self.position)
        self._forked = False
        for number in range(len(path.stretches[0].layers) if path.stretches else 0):
            for side, stores in enumerate((self._keys, self._values)):
                store, at = self._store(path.stretches[0].layers[number][side][None]), 0
                for stretch in path.stretches:
                    end = at + stretch.count
                    store[0, :, at:end] = stretch.layers[number][side][:, : stretch.count]
                    at = end
                stores.append(store)

    def _store(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty(1, like.shape[1], self._capacity, like.shape[3])

    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a layer's new keys and values behind the row; returns all of the layer's."""
        end = self.length + keys.shape[2]
        if layer == len(self._keys):
            self._capacity = max(self._capacity, end)
            for stores, new in ((self._keys, keys), (self._values, values)):
                stores.append(new.new_empty(1, new.shape[1], self._capacity, new.shape[3]))
        elif end > self._keys[layer].shape[2]:
            if end > self._capacity:
                self._capacity = max(end, int(self._capacity * _GROWTH))
            for stores in (self._keys, self._values):
                old = stores[layer]
                stores[layer] = old.new_empty(1, old.shape[1], self._capacity, old.shape[3])
                stores[layer][:, :, : self.length] = old[:, :, : self.length]
        all_keys, all_values = self._keys[layer], self._values[layer]
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def commit(self, position: Sequence[int], lane: Sequence[int]) -> None:
        """Takes what a pass has written: positions and lanes of its tokens."""
        device = self.position.device
        self.position = torch.cat([self.position, torch.tensor(position, device=device)])
        self.lane = torch.cat([self.lane, torch.tensor(lane, device=device)])
        self._forked = self._forked or any(lane)
        self.length = len(self.position)

    def copy(self, capacity: int) -> Row:
        """A row of its own with the same content and that many slots to spare."""
        new = Row(Known(), self.length + capacity, self.position.device, self.adapter)
        new.position, new.lane, new.length = self.position, self.lane, self.length
        new._forked = self._forked
        for mine, its in ((self._keys, new._keys), (self._values, new._values)):
            for old in mine:
                store = new._store(old)
                store[:, :, : self.length] = old[:, :, : self.length]
                its.append(store)
        return new

    def fetch(self, lane: int, begin: int, end: int) -> Layers:
        """Copies of the keys and values of positions `begin` to `end` of a lane and the trunk below it."""
        position = self.position
        own = position[self.lane == lane]
        fork = int(own.min()) if lane and len(own) else end
        there = (position >= begin) & (position < end)
        there &= ((self.lane == 0) & (position < fork)) | ((self.lane == lane) & (lane != 0))
        slots = there.nonzero()[:, 0]
        slots = slots[position[slots].argsort()]
        return [(k[0][:, slots], v[0][:, slots]) for k, v in zip(self._keys, self._values, strict=True)]

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return sum(store.nbytes for stores in (self._keys, self._values) for store in stores)

    def mask(
        self,
        position: torch.Tensor,
        lane: torch.Tensor,
        start: torch.Tensor,
        window: int | None,
        dtype: torch.dtype,
        always: bool,
    ) -> torch.Tensor | None:
        """Which slots each new token may attend to, its own and those of the other new ones included.

        Args:
            position: `[new]` positions of the new tokens.
            lane: `[new]` their lanes.
            start: `[new]`: a token of a lane sees the trunk's positions below this one.
            window: Sliding window in tokens, or `None`.
            dtype: Of the mask; the model's.
            always: No short cut where attention is plainly causal.

        Returns:
            Additive mask `[1, 1, new, slots]`: 0 where attention is allowed, else the most negative
            number. `None` if every token sees all before it, and is the only one or the row was empty.
        """
        new = len(position)
        short = window is None or self.length + new <= window
        if short and not self._forked and not lane.any() and (new == 1 or not (self.length or always)):
            return None
        key = torch.cat([self.position, position])
        key_lane = torch.cat([self.lane, lane])
        query = position[:, None]
        allowed = (key_lane == lane[:, None]) & (key <= query)
        allowed |= (key_lane == 0) & (key < start[:, None])
        if window is not None:
            allowed &= query - key < window
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[None, None]
