"""Forward passes on a transformers model over pieces of rows of different lengths.

The new tokens of all rows stand one after another in a single sequence, so that linear layers
compute no padding. Only `_attend`, the attention of every layer, tells rows apart: each attends to keys
and values of its own.

How the rows get there, through a model that knows nothing of them: models hand two arguments on to
every layer's attention.

- The *cache*. Ours is a `_Pass`. Each layer gives it its new keys and values and its number, just before
  it attends; the pass notes the number and gives them back, as only the attention knows the rows.
- The *mask*. One with four dimensions counts as finished and reaches the layers untouched, one for each
  kind of layer if it is a dict. Ours is a stand-in of a single zero that is never added to anything; the
  pass and the rows' own masks hang on it as an attribute.

A mask without that attribute is somebody else's (who calls `generate` on the same model): such a call
takes the way it took before.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from agentprm.engine.cache import Known, PrefixTree, Row
from agentprm.engine.lora import Adapters
from agentprm.engine.parallel import even_parts, side_by_side
from agentprm.errors import ConfigurationError

__all__ = ["Engine", "OnEngine", "Piece", "cache_argument"]

_PREFIX = "agentprm_"
_CARRIED = "_agentprm_pass"


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
            _use_row_attention(model)
            self._cache_argument = cache_argument(model)
        except (TypeError, ValueError, AttributeError) as error:
            self._refuse(f"its attention cannot be replaced ({error})", error)
        # Scaled dot-product attention needs no mask where it is plainly causal.
        self._masked = str(config._attn_implementation) != f"{_PREFIX}sdpa"
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
        run = _Pass([piece.row for piece in pieces], sizes)
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
            row = Row(Known(), 0, self.device)
            self.outputs = plain.shape[-1]
            self._append([Piece(row, first[:3], range(3), [0] * 3, [0] * 3)], [])
            self.tree.insert(first[:3], row)
            row = Row(self.tree.match(first), 2, self.device)
            other = Row(Known(), 2, self.device)
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


class OnEngine:
    """Base of what has an engine of its own: what went through it, and what it keeps."""

    _engine: Engine

    @property
    def tokens_computed(self) -> int:
        """Tokens that went through the model so far."""
        return self._engine.computed

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values held for later calls at the moment."""
        return self._engine.tree.nbytes

    def clear_cache(self) -> None:
        """Forgets all that is kept; needed after the model's weights have changed."""
        self._engine.tree.clear()


class _Pass(Cache):  # type: ignore[misc]
    """What the attention of one forward pass has to know; the model takes it for its cache.

    Args:
        rows: The row of each piece of the sequence; its `write` stores new keys and values and
            returns all of the row's.
        sizes: New tokens of each piece.
    """

    def __init__(self, rows: Sequence[Row], sizes: Sequence[int]) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.sizes = list(sizes)
        self.layer = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Notes the layer; its attention, which comes next, stores what belongs to which row."""
        self.layer = layer_idx
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """None: the rows know their lengths."""
        return 0

    def stand_in(self, masks: Sequence[torch.Tensor | None], like: torch.dtype) -> torch.Tensor:
        """The attention mask that carries this pass and the masks of its pieces to the layers."""
        mask = torch.zeros(1, 1, 1, 1, dtype=like)
        setattr(mask, _CARRIED, (self, masks))
        return mask


def cache_argument(model: torch.nn.Module) -> str:
    """Name under which a model takes its cache; transformers 5.24 renamed it."""
    for module in model.modules():  # a head of ours passes on what it does not know
        names = inspect.signature(module.forward).parameters
        found = [name for name in ("cache", "past_key_values") if name in names]
        if found:
            return found[0]
    raise TypeError(f"{type(model).__name__} takes no cache")


def _use_row_attention(model: Any) -> None:
    """Puts a model on this attention; what it computes for others does not change.

    Scaled dot-product and eager attention stay what they are. Models on other kinds (flash
    attention, flex attention) are put on the former, as those take no masks of ours.
    """
    base = str(model.config.get_text_config()._attn_implementation or "eager")
    if base.startswith(_PREFIX):
        return
    base = base if base in ("eager", "sdpa") else "sdpa"
    AttentionInterface.register(_PREFIX + base, functools.partial(_attend, base))
    AttentionMaskInterface.register(_PREFIX + base, sdpa_mask if base == "sdpa" else eager_mask)
    model.set_attn_implementation(_PREFIX + base)


def _attend(
    base: str,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    plain = _plain(base, module)
    carried = getattr(attention_mask, _CARRIED, None)
    if carried is None:
        usual: tuple[torch.Tensor, torch.Tensor | None] = plain(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return usual
    run, masks = carried
    # With a mask, transformers' function first copies every key and value once per query head. For
    # a few new tokens over a long prompt that costs two to ten times the attention itself.
    special = [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]
    in_place = base == "sdpa" and not special and query.device.type == "cpu"
    outputs = []
    pieces = zip(
        run.rows, masks, *(torch.split(t, run.sizes, dim=2) for t in (query, key, value)), strict=True
    )
    for row, mask, own_query, new_keys, new_values in pieces:
        keys, values = row.write(run.layer, new_keys, new_values)
        if in_place:
            output = torch.nn.functional.scaled_dot_product_attention(
                own_query,
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None and own_query.shape[2] > 1,
                scale=scaling,
                enable_gqa=True,
            ).transpose(1, 2)
        else:
            output, _ = plain(
                module, own_query, keys, values, mask, dropout=dropout, scaling=scaling, **kwargs
            )
        outputs.append(output)
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0].contiguous(), None


def _plain(base: str, module: torch.nn.Module) -> Callable[..., Any]:
    if base == "sdpa":
        return sdpa_attention_forward  # type: ignore[no-any-return]
    # Eager attention differs from model to model (soft caps, sinks): each file has its own.
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward")  # type: ignore[no-any-return]  # noqa: B009
