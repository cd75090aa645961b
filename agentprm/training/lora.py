"""Low-rank adapters: put into a model to be trained, and saved as peft saves them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentprm.errors import ConfigurationError, MissingDependencyError

__all__ = ["ADAPTER_FILE", "LoraSettings", "add_lora", "lower_frozen", "save_lora"]

ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class LoraSettings:
    """The form of an adapter.

    Attributes:
        rank: Rank of its products.
        alpha: They are scaled by `alpha / rank`.
        targets: Names of the layers that get one; `"all-linear"` is every linear layer but the output.
    """

    rank: int = 16
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigurationError(f"The rank of an adapter must be at least 1, not {self.rank}.")
        if not self.alpha > 0:
            raise ConfigurationError(f"alpha must be positive, not {self.alpha}.")


def add_lora(model: Any, settings: LoraSettings, seed: int, start: str | Path | None = None) -> Any:
    """The model with an adapter, the only part that is trained.

    Args:
        model: A transformers model; it is changed.
        settings: The adapter's form.
        seed: Of its beginning.
        start: Folder of an adapter whose weights it begins with.

    Raises:
        ConfigurationError: If the adapter in `start` has another form.
    """
    try:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    except ImportError as error:
        raise MissingDependencyError.for_extra("peft", "train") from error
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, lora_dropout=0.0)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft asks transformers by a name that is on its way out.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        trained = get_peft_model(model, config)
    if start is not None:
        from safetensors.torch import load_file

        try:
            lost = set_peft_model_state_dict(trained, load_file(Path(start) / ADAPTER_FILE))
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(
                f"Training cannot go on from the adapter in {start}: {error} Give a folder that a trainer "
                "wrote, for the same base model and with the same rank."
            ) from error
        if lost.unexpected_keys:
            raise ConfigurationError(
                f"The adapter in {start} has {lost.unexpected_keys[0]}, which this one lacks."
            )
    return trained


def lower_frozen(model: Any) -> None:
    """Keeps the frozen weights of linear layers in bfloat16, as autocast would make them at every step."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not output and not module.weight.requires_grad:
            module.weight.data = module.weight.data.to(torch.bfloat16)


def save_lora(model: Any, folder: Path, base: str) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        model: What `add_lora` returned.
        folder: Where to.
        base: The name of the base model, which whoever loads the adapter finds it by.
    """
    config = model.peft_config["default"]
    config.base_model_name_or_path = base
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)  # the same file each time
    model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the hub about the base
