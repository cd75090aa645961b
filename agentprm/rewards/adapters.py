"""Low-rank adapters, merged into their base model when it is loaded.

Several reward models are published as an adapter beside a base model's name. Merged, they run
like any other model, on the prefix tree, without a library for adapters.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch

from agentprm.errors import ConfigurationError

__all__ = ["base_name", "merge_adapter"]

_LOW = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_KNOWN = {"LORA", None}


def merge_adapter(model: Any, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Adds an adapter's product to the weights of the modules that it names.

    Args:
        model: The base model, or its decoder alone.
        config: The adapter's `adapter_config.json`.
        tensors: Its tensors by name, without the wrappers' prefixes.

    Raises:
        ConfigurationError: If the adapter is of another kind than plain LoRA, or does not fit.
    """
    if config.get("peft_type") not in _KNOWN or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config["peft_type"]
        raise ConfigurationError(
            f"Only plain LoRA adapters are merged, not {kind}. Merge it with its own library first."
        )
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if found := _LOW.match(name):
            pairs.setdefault(found["module"], {})[found["side"]] = tensor
    if not pairs:
        raise ConfigurationError("The adapter holds no low-rank weights.")
    modules = dict(model.named_modules())
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    for name, pair in pairs.items():
        # A decoder alone has no `model.` before its modules' names.
        module = modules.get(name) or modules.get(name.removeprefix("model."))
        weight = getattr(module, "weight", None)
        if weight is None or set(pair) != {"A", "B"}:
            raise ConfigurationError(f"The adapter's {name!r} is not part of {type(model).__name__}.")
        rank = _of(ranks, name, config["r"])
        root = math.sqrt(rank) if config.get("use_rslora") else rank
        scale = _of(alphas, name, config["lora_alpha"]) / root
        product = pair["B"].float() @ pair["A"].float()
        product = product.T if config.get("fan_in_fan_out") else product
        if product.shape != weight.shape:
            raise ConfigurationError(
                f"The adapter's {name!r} is {tuple(product.shape)}, the model's {tuple(weight.shape)}."
            )
        with torch.no_grad():
            weight.copy_((weight.float() + scale * product.to(weight.device)).to(weight.dtype))


def _of(patterns: dict[str, float], name: str, default: float) -> float:
    """The value of the first pattern that ends the module's name."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def base_name(name: str | Path, config: dict[str, Any]) -> str:
    """The base model that an adapter's config names."""
    base = config.get("base_model_name_or_path")
    if not base:
        raise ConfigurationError(f"The adapter {str(name)!r} does not name its base model.")
    return str(base)
