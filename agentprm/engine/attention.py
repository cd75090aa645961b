"""Attention over rows of different lengths in one forward pass.

The new tokens of all rows stand one after another in a single sequence, so that linear layers
compute no padding. Here, and only here, rows are told apart: each attends to keys and values of its
own.

How the rows get here, through a model that knows nothing of them: models hand two arguments on to
every layer's attention.

- The *cache*. Ours is a `Pass`. Each layer gives it its new keys and values and its number, just before
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
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

__all__ = ["Pass", "cache_argument", "needs_mask", "use_row_attention"]

_PREFIX = "agentprm_"
_CARRIED = "_agentprm_pass"


class _Writes(Protocol):
    def write(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


class Pass(Cache):  # type: ignore[misc]
    """What the attention of one forward pass has to know; the model takes it for its cache.

    Args:
        rows: The row of each piece of the sequence; its `write` stores new keys and values and
            returns all of the row's.
        sizes: New tokens of each piece.
    """

    def __init__(self, rows: Sequence[_Writes], sizes: Sequence[int]) -> None:
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


def needs_mask(model: Any) -> bool:
    """Whether plain causal attention needs a mask, too: not with scaled dot-product attention."""
    return str(model.config.get_text_config()._attn_implementation) != f"{_PREFIX}sdpa"


def use_row_attention(model: Any) -> None:
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
