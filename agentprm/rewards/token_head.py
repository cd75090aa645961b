"""Readout: a classification head over every token, read at step separators."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentprm.errors import ConfigurationError
from agentprm.rewards._incremental import TreeReward

# Here, so that a missing extra is named before torch is looked for.
import torch  # isort: skip

from agentprm.rewards._checkpoints import load_backbone, load_head
from agentprm.rewards._heads import HeadModel, split_model
from agentprm.rewards.templates import StepTemplate

__all__ = ["TokenHead", "head_model"]


class TokenHead(TreeReward):
    """Probability that a step is right, from a head of two (or more) classes at its separator.

    Qwen2.5-Math-PRM and -PRM800K, ReasonFlux-PRM-7B, TRL's PRMTrainer, PURE. The head's outputs are
    gathered by position and normalised in fp32, so a probability that fp16 would round to zero stays
    a number and no pair can be taken for another's.

    Args:
        model: A name or folder, or a loaded model with a `score` head.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        template: Where the separators stand.
        classes: Number of classes.
        positive: Classes that count as right; their probabilities are added (ReasonEval counts
            neutral and positive).
        head_key: How the names of the head's tensors begin, where a checkpoint holds several.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`: `step_text`, `on_overflow`, `cache_bytes`, `max_batch_tokens`,
            `cache_size`.

    Raises:
        ConfigurationError: If the checkpoint has no such head, or the tokenizer no such separator.
    """

    space = "probability"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        template: StepTemplate,
        classes: int = 2,
        positive: Sequence[int] = (1,),
        head_key: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        if not positive or not all(0 <= label < classes for label in positive):
            raise ConfigurationError(f"positive must name some of the classes 0 to {classes - 1}.")
        self.positive = list(positive)
        named = isinstance(model, str | Path)
        super().__init__(
            head_model(model, classes, head_key, dtype, device),
            str(model) if named and tokenizer is None else tokenizer,
            template=template,
            **options,
        )

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `TreeReward._values`."""
        return outputs.softmax(dim=-1)[:, self.positive].sum(dim=-1)


def head_model(
    model: Any, outputs: int, head: str | None, dtype: str | torch.dtype, device: str | torch.device | None
) -> HeadModel:
    """The decoder and head of a name, folder or loaded model, ready for the engine.

    Raises:
        ConfigurationError: If the head does not give `outputs` numbers.
    """
    if isinstance(model, str | Path):
        backbone = load_backbone(model, dtype, device)
        width = backbone.config.get_text_config().hidden_size
        return HeadModel(backbone, load_head(model, width, outputs, head).to(backbone.device))
    backbone, layer = split_model(model)
    width = getattr([m for m in layer.modules() if hasattr(m, "out_features")][-1], "out_features", None)
    if width != outputs:
        raise ConfigurationError(f"{type(model).__name__} has a head of {width} numbers, not of {outputs}.")
    model.eval()
    return HeadModel(backbone, layer)
