"""The model that a trainer starts from, with the adapter that it trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentprm.engine.loading import load_model, max_context
from agentprm.engine.tokenizing import PromptText, load_tokenizer
from agentprm.packaged import PACKAGED_LANGUAGE_MODEL, language_model_folder
from agentprm.training.fitting import TrainSettings, use_bfloat16
from agentprm.training.lora import LoraSettings, add_lora, lower_frozen

__all__ = ["Trainee", "base_label", "open_base"]


@dataclass(frozen=True)
class Trainee:
    """A causal language model with a new adapter.

    Attributes:
        model: The model, the adapter in it.
        text: Its tokenizer and chat template.
        longest: Tokens of its context, or of an example at most, whichever is less.
        lower: Products are computed in bfloat16.
    """

    model: Any
    text: PromptText
    longest: int
    lower: bool

    @property
    def pad(self) -> int:
        """Token id that fills short rows."""
        return int(self.text.tokenizer.pad_token_id or 0)

    def settle(self) -> None:
        """Call it before training, once nothing more is read off the fp32 weights."""
        if self.lower:
            lower_frozen(self.model)


def base_label(base: str | Path | None) -> str:
    """The name under which cards and adapters know a base model; `None` is the packaged one."""
    return PACKAGED_LANGUAGE_MODEL if base is None else str(base)


def open_base(
    base: str | Path | None,
    lora: LoraSettings,
    settings: TrainSettings,
    *,
    max_length: int,
    device: str | torch.device | None = None,
    start: str | Path | None = None,
) -> Trainee:
    """Loads the model and puts an adapter into it.

    Args:
        base: A name or folder; by default the packaged language model.
        lora: The adapter's form.
        settings: Seed and precision.
        max_length: Tokens of an example at most.
        device: As in `TransformersLM`.
        start: Folder of an adapter of the same form to go on from; by default a new one.
    """
    source = language_model_folder() if base is None else base
    text = PromptText(load_tokenizer(str(source)))
    model = load_model(str(source), torch.float32, device)
    lower = use_bfloat16(settings.precision, model.device)
    if lower and model.device.type == "cpu":
        model.set_attn_implementation("eager")  # the fused one is slow in bfloat16
    longest = min(max_length, max_context(model.config.get_text_config()) or max_length)
    return Trainee(add_lora(model, lora, settings.seed, start), text, longest, lower)
