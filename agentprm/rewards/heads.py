"""A decoder with a small head instead of its vocabulary, as the engine sees it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from agentprm.errors import ConfigurationError

__all__ = ["HeadModel", "WordHead", "split_model", "word_model"]


class HeadModel(nn.Module):
    """Hidden states of a decoder through a head, in the call form of a causal language model.

    The head runs in fp32 whatever the decoder's precision: it is small, and a logit gap that fp16
    rounds to a probability of zero stays a number.

    Args:
        backbone: A transformers decoder without head.
        head: A module from `[…, hidden]` to `[…, outputs]`.
    """

    def __init__(self, backbone: Any, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = copy.deepcopy(head).float()
        self.config, self.device, self.dtype = backbone.config, backbone.device, backbone.dtype
        self.eval()

    def set_attn_implementation(self, name: str) -> None:
        """Puts the decoder on this attention."""
        self.backbone.set_attn_implementation(name)

    def forward(self, logits_to_keep: int | torch.Tensor = 0, **kwargs: Any) -> Any:
        """Outputs of the head at the last columns (an `int`; 0 is all) or at chosen ones."""
        hidden = self.backbone(**kwargs).last_hidden_state
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return SimpleNamespace(logits=self.head(hidden[:, columns].float()))


class WordHead(nn.Module):
    """A few rows of a vocabulary head, with what the model does to its logits."""

    def __init__(self, embeddings: Any, words: Sequence[int], config: Any) -> None:
        super().__init__()
        rows = torch.tensor(list(words), device=embeddings.weight.device)
        self.weight = nn.Parameter(embeddings.weight.detach()[rows].clone(), requires_grad=False)
        bias = getattr(embeddings, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach()[rows].clone(), requires_grad=False)
        scale = getattr(config, "logit_scale", None) or 1.0
        self.scale = float(scale) / float(getattr(config, "logits_scaling", None) or 1.0)
        self.cap: float | None = getattr(config, "final_logit_softcapping", None)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the words."""
        logits = nn.functional.linear(hidden, self.weight, self.bias) * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


class _Words(nn.Module):
    """A causal language model of which only a few words are wanted, by way of all of them."""

    def __init__(self, model: Any, words: Sequence[int]) -> None:
        super().__init__()
        self.model, self.config, self.words = model, model.config, list(words)
        self.device, self.dtype = model.device, model.dtype

    def set_attn_implementation(self, name: str) -> None:
        self.model.set_attn_implementation(name)

    def forward(self, **kwargs: Any) -> Any:
        logits = self.model(**kwargs).logits
        return SimpleNamespace(logits=logits[..., self.words].float())


def word_model(model: Any, words: Sequence[int]) -> nn.Module:
    """A causal language model whose outputs are the logits of `words` alone.

    Their rows of the vocabulary head are used where that gives what the model itself computes (it is
    checked on a few tokens); with a model that treats its logits in a way of its own, all logits are
    computed and the others dropped.
    """
    sliced = HeadModel(model.base_model, WordHead(model.get_output_embeddings(), words, model.config))
    tokens = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():
        theirs = model(input_ids=tokens, use_cache=False).logits[..., list(words)].float()
        ours = sliced(input_ids=tokens, use_cache=False).logits
    exact = torch.finfo(model.dtype).bits == 32
    if torch.allclose(ours, theirs, rtol=1e-4 if exact else 2e-2, atol=1e-4 if exact else 5e-2):
        return sliced
    return _Words(model, words)


_HEADS = ("score", "classifier", "v_head", "value_head", "reward_head", "summary")


def split_model(model: Any) -> tuple[Any, nn.Module]:
    """The decoder and the head of a loaded classification or value-head model.

    Raises:
        ConfigurationError: If it has no head that is known.
    """
    for name in _HEADS:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            summary = getattr(head, "summary", None)
            chosen = summary if isinstance(summary, nn.Module) else head
            inner = getattr(model, "pretrained_model", model)
            return inner.base_model, chosen
    raise ConfigurationError(
        f"{type(model).__name__} has no classification or value head (looked for {', '.join(_HEADS)}). "
        "Pass a model for token or sequence classification, or a name or folder with the head's key."
    )
