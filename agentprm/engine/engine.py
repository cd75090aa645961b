"""Forward passes on a transformers model over pieces of rows, and the tree of what they computed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from agentprm.engine.attention import Pass, cache_argument, needs_mask, use_row_attention
from agentprm.engine.cache import PrefixTree, Row
from agentprm.engine.lora import Adapters
from agentprm.engine.parallel import even_parts, side_by_side
from agentprm.errors import ConfigurationError

__all__ = ["Engine", "Piece"]


@dataclass(frozen=True)
class Piece:
    """New tokens of one row.

    Attributes:
        row: What they continue.
        ids: Token ids.
        position: Their positions.
        lane: Their lanes, 0 for the trunk.
        start: A token of a lane sees the trunk's positions below this one.
    """

    row: Row
    ids: Sequence[int]
    position: Sequence[int]
    lane: Sequence[int]
    start: Sequence[int]


class Engine:
    """A causal language model and its prefix tree; driven by one thread at a time.

    Args:
        model: The model, in evaluation mode.
        cache_bytes: Bound of the prefix tree.
        adapters: Adapters that rows may name.

    Attributes:
        adapters: The same.
        tree: Keys and values that are kept.
        computed: Tokens that went through the model.
        outputs: Numbers that the model gives at a token: the vocabulary, or a reward head's.

    Raises:
        ConfigurationError: If the model does not compute the same with explicit masks and shared
            prefixes as without (recurrent layers, position biases of its own, …).
    """

    def __init__(self, model: Any, cache_bytes: int, adapters: Adapters | None = None) -> None:
        self.model = model
        self.adapters = adapters
        self.tree = PrefixTree(cache_bytes, adapters.names if adapters else ())
        self.device: torch.device = model.device
        self.computed = 0
        config = model.config.get_text_config()
        self.vocab_size = int(config.vocab_size)
        window = getattr(config, "sliding_window", None)
        types = list(getattr(config, "layer_types", None) or [])
        kinds = set(types) or {"sliding_attention" if window else "full_attention"}
        unknown = kinds - {"full_attention", "sliding_attention"}
        if unknown:
            self._refuse(f"layers of type {', '.join(sorted(unknown))}")
        self._windows = {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
        try:
            use_row_attention(model)
            self._cache_argument = cache_argument(model)
        except (TypeError, ValueError, AttributeError) as error:
            self._refuse(f"its attention cannot be replaced ({error})", error)
        self._masked = needs_mask(model)
        self._probe()

    def forward(self, pieces: Sequence[Piece], keep: Sequence[int]) -> torch.Tensor:
        """Computes new tokens; `commit` then makes them part of their rows.

        On a CPU with several threads the pieces are cut into parts that run side by side, a thread
        each: threads that share every operation of one pass gain much less (benchmarks/engine.py
        threads).

        Args:
            pieces: At most one of each row.
            keep: Tokens whose logits are wanted, in ascending order, counted over all pieces.

        Returns:
            Logits `[len(keep), vocabulary]` in the model's precision.
        """
        sizes = [len(piece.ids) for piece in pieces]
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        parts = even_parts(sizes, threads) if threads > 1 else []
        if len(parts) > 1:
            calls, begin = [], 0
            for part in parts:
                end = begin + sum(sizes[part])
                calls.append((pieces[part], [i - begin for i in keep if begin <= i < end]))
                begin = end
            # There each call finds itself with one thread.
            return torch.cat(side_by_side(self.forward, calls, threads))
        device, dtype = self.device, self.model.dtype
        where = [
            (
                torch.tensor(piece.position, device=device),
                torch.tensor(piece.lane, device=device),
                torch.tensor(piece.start, device=device),
            )
            for piece in pieces
        ]
        run = Pass([piece.row for piece in pieces], sizes)
        masks = {
            kind: run.stand_in(
                [
                    piece.row.mask(*some, window, dtype, self._masked)
                    for piece, some in zip(pieces, where, strict=True)
                ],
                dtype,
            )
            for kind, window in self._windows.items()
        }
        ids = torch.tensor([[i for piece in pieces for i in piece.ids]], device=device)
        with torch.no_grad(), self._adapted(pieces):
            logits: torch.Tensor = self.model(
                input_ids=ids,
                attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
                position_ids=torch.cat([position for position, _, _ in where])[None],
                **{self._cache_argument: run},
                use_cache=True,
                # Models take 0 for all of them: ask for one instead of none.
                logits_to_keep=torch.tensor(list(keep) or [ids.shape[1] - 1], device=device),
            ).logits[0, : len(keep)]
        return logits

    def _adapted(self, pieces: Sequence[Piece]) -> AbstractContextManager[None]:
        if self.adapters is None:
            return nullcontext()
        return self.adapters.on([piece.row.adapter for piece in pieces], [len(piece.ids) for piece in pieces])

    def commit(self, pieces: Sequence[Piece]) -> None:
        """Appends what `forward` has computed. Without it the rows are as they were."""
        for piece in pieces:
            piece.row.commit(piece.position, piece.lane)
            self.computed += len(piece.ids)

    def _append(self, pieces: Sequence[Piece], keep: Sequence[int]) -> torch.Tensor:
        logits = self.forward(pieces, keep)
        self.commit(pieces)
        return logits

    def _probe(self) -> None:
        """Compares a shared-prefix computation with plain forward passes on random tokens."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, self.vocab_size, (2, 9), generator=generator).to(self.device)
        ids[1, :5] = ids[0, :5]
        first, second = ids.tolist()
        try:
            with torch.no_grad():
                plain = self.model(input_ids=ids, use_cache=False).logits[:, 5:].float()
            row = Row((), 0, self.device)
            self.outputs = plain.shape[-1]
            self._append([Piece(row, first[:3], range(3), [0] * 3, [0] * 3)], [])
            self.tree.insert(first[:3], row)
            row = Row(self.tree.match(first), 2, self.device)
            other = Row((), 2, self.device)
            begin = Piece(other, second[:2], range(2), [0] * 2, [0] * 2)
            self._append([begin, Piece(row, first[3:5], range(3, 5), [0] * 2, [0] * 2)], [])
            lanes = Piece(row, first[5:] + second[5:], [*range(5, 9)] * 2, [1] * 4 + [2] * 4, [5] * 8)
            ours = self._append(
                [Piece(other, second[2:], range(2, 9), [0] * 7, [0] * 7), lanes], range(3, 15)
            )
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError) as error:
            self._refuse(f"a forward pass with its own cache and mask fails ({error})", error)
        want = torch.cat([plain[1], plain[0], plain[1]])
        gap = (ours.float() - want).abs().max().item()
        exact = ours.dtype == torch.float32
        if not gap <= (1e-2 if exact else 0.1) * max(1.0, want.abs().max().item()):
            self._refuse(f"sharing a prefix changes its logits by {gap:.2g}")
        self.computed = 0
        self.tree.clear()

    def _refuse(self, reason: str, cause: Exception | None = None) -> None:
        raise ConfigurationError(
            f"{type(self.model).__name__} cannot be used by TransformersLM: {reason}. Use a decoder with "
            "plain or sliding-window attention (Llama, Qwen2/3, Mistral, Gemma, …), or serve the model and "
            "pass a LangChain chat model to agentprm.lm.ChatLM."
        ) from cause
