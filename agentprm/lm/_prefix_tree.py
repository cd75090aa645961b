"""A radix tree over token sequences that holds the keys and values computed for them.

Prompts of a search repeat each other's beginnings: instructions, question, passages, committed
steps. The tree keeps each distinct token's keys and values once, finds the longest known beginning
of a new sequence, and forgets what was used least recently when it exceeds its bound.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Layers", "PrefixTree", "Stretch"]

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


class _Node:
    """An edge of the tree with its tokens, and the node at its end."""

    __slots__ = ("children", "layers", "parent", "tokens", "used")

    def __init__(self, tokens: tuple[int, ...], layers: Layers, parent: _Node | None) -> None:
        self.tokens = tokens
        self.layers = layers
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.used = 0

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


class PrefixTree:
    """Keys and values of token sequences, each distinct beginning once; safe to use from threads.

    What a caller got from `match` stays usable when the tree forgets it.

    Args:
        max_bytes: Bound that `trim` enforces; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._root = _Node((), [], None)
        self._bytes = 0
        self._clock = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values held."""
        return self._bytes

    def match(self, tokens: Sequence[int]) -> list[Stretch]:
        """The longest known beginning of `tokens`, from its first token on."""
        with self._lock:
            path, _ = self._walk(tuple(tokens))
            return [Stretch(node.layers, count) for node, count in path]

    def insert(self, tokens: Sequence[int], fetch: Callable[[int, int], Layers]) -> None:
        """Adds a sequence.

        Args:
            tokens: The whole sequence.
            fetch: Gives keys and values of the tokens from one index up to another, as tensors of
                their own; called only for the part that is new.
        """
        whole = tuple(tokens)
        with self._lock:
            path, known = self._walk(whole)
            if known == len(whole):
                return
            parent = self._root
            if path:
                parent, count = path[-1]
                if count < len(parent.tokens):
                    parent = self._split(parent, count)
            node = _Node(whole[known:], fetch(known, len(whole)), parent)
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
                    self._remove(leaf)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._root = _Node((), [], None)
            self._bytes = 0

    def _walk(self, tokens: tuple[int, ...]) -> tuple[list[tuple[_Node, int]], int]:
        """The path along `tokens` with the number of tokens used of each edge, and their sum."""
        path: list[tuple[_Node, int]] = []
        at, node, now = 0, self._root, next(self._clock)
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            edge = child.tokens
            count = len(edge)
            if tokens[at : at + count] != edge:
                pairs = zip(edge, tokens[at:], strict=False)
                count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(count, len(tokens) - at))
            child.used = now
            path.append((child, count))
            at += count
            if count < len(edge):
                break
            node = child
        return path, at

    def _split(self, node: _Node, count: int) -> _Node:
        """Cuts an edge in two; the upper half is returned, the lower one keeps the children."""
        # Copies, so that forgetting one half frees its memory.
        upper_layers = [(k[:, :count].clone(), v[:, :count].clone()) for k, v in node.layers]
        lower_layers = [(k[:, count:].clone(), v[:, count:].clone()) for k, v in node.layers]
        parent = node.parent
        assert parent is not None
        upper = _Node(node.tokens[:count], upper_layers, parent)
        lower = _Node(node.tokens[count:], lower_layers, upper)
        upper.used = lower.used = node.used
        upper.children = {lower.tokens[0]: lower}
        lower.children = node.children
        for child in lower.children.values():
            child.parent = lower
        parent.children[upper.tokens[0]] = upper
        return upper

    def _remove(self, leaf: _Node) -> None:
        assert leaf.parent is not None
        del leaf.parent.children[leaf.tokens[0]]
        self._bytes -= leaf.nbytes

    def _nodes(self) -> list[_Node]:
        found: list[_Node] = []
        open_nodes = list(self._root.children.values())
        while open_nodes:
            node = open_nodes.pop()
            found.append(node)
            open_nodes.extend(node.children.values())
        return found
