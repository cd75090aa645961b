"""Readout: one number per flagged token, from a value head."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from agentprm.errors import ConfigurationError
from agentprm.rewards._incremental import TreeReward

import torch  # isort: skip

from agentprm.rewards.templates import StepTemplate
from agentprm.rewards.token_head import head_model

__all__ = ["ScalarReward", "ValueHead"]


class ScalarReward(TreeReward):
    """One number at the end of every prefix; what `ValueHead` and `PrefixScalar` share."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        template: StepTemplate,
        activation: Literal["sigmoid", "none"] = "sigmoid",
        head_key: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        if activation not in ("sigmoid", "none"):
            raise ConfigurationError(f"activation must be 'sigmoid' or 'none', not {activation!r}.")
        self.activation = activation
        self.space = "probability" if activation == "sigmoid" else "logit"
        named = isinstance(model, str | Path)
        super().__init__(
            head_model(model, 1, head_key, dtype, device),
            str(model) if named and tokenizer is None else tokenizer,
            template=template,
            **options,
        )

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `TreeReward._values`."""
        return outputs[:, 0].sigmoid() if self.activation == "sigmoid" else outputs[:, 0]


class ValueHead(ScalarReward):
    """A linear layer on the hidden state of each step's last separator token.

    Skywork-o1-Open-PRM (with a sigmoid) and PQM (without). Both keep the layer under
    `v_head.summary`.

    Args:
        model: A name or folder, or a loaded model with a `v_head`.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        template: Gives the prefixes.
        activation: `sigmoid` scores in [0, 1]; `none` leaves the number (`space` is `logit`).
        head_key: How the names of the head's tensors begin, where a checkpoint holds several.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`.
    """
