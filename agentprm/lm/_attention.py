"""Scaled dot-product attention that reads grouped key/value heads in place.

With a mask, transformers' own function first copies every key and value once per query head. For a
few new tokens over a long prompt that copy costs two to ten times the attention itself.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["use_grouped_attention"]

_NAME = "agentprm_sdpa"


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    special = [name for name in ("softcap", "position_bias", "s_aux") if kwargs.get(name) is not None]
    if attention_mask is None or query.shape[1] == key.shape[1] or special or query.device.type != "cpu":
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return plain
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


def use_grouped_attention(model: Any) -> None:
    """Switches a model that runs on transformers' scaled dot-product attention to this one."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)
