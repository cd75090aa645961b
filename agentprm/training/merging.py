"""Several LoRA adapters of one base model made into one: averaged, or masked (Model Breadcrumbs)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from agentprm.errors import ConfigurationError, InputError, check_count
from agentprm.training.lora import ADAPTER_FILE

__all__ = ["breadcrumbs", "merge_adapters"]

_CONFIG = "adapter_config.json"


def breadcrumbs(change: torch.Tensor, smallest: float, largest: float) -> torch.Tensor:
    """A layer's change with its smallest and its largest entries set to zero (arXiv 2312.06795).

    Args:
        change: What a training added to the layer's weights.
        smallest: Share of the entries, least in size, that are dropped: noise.
        largest: Share of the entries, greatest in size, that are dropped: what disturbs other tasks.
    """
    size = change.abs().flatten()
    order = size.argsort(stable=True)
    low, high = round(smallest * len(size)), len(size) - round(largest * len(size))
    kept = torch.zeros(len(size), dtype=torch.bool)
    kept[order[low:high]] = True
    return torch.where(kept.view_as(change), change, torch.zeros_like(change))


def merge_adapters(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    method: Literal["average", "breadcrumbs"] = "average",
    weights: Sequence[float] | None = None,
    smallest: float = 0.85,
    largest: float = 0.01,
    rank: int | None = None,
) -> dict[str, float]:
    """Writes one adapter that does what several do together.

    What is combined are the changes that the adapters make to the weights, not their factors. `average` is
    exact without `rank`: the ranks add up. Else each layer's sum is cut to its `rank` largest singular
    values.

    Args:
        folders: Adapters of one base model, as peft writes them.
        out: The folder to write.
        method: `average` weighs and adds the changes; `breadcrumbs` masks each layer's change first.
        weights: One per adapter; by default they average (`average`), or each count .3 (`breadcrumbs`, as
            in the paper).
        smallest: See `breadcrumbs`.
        largest: See `breadcrumbs`.
        rank: Rank of the result; required for `breadcrumbs`, whose masked changes have no low rank.

    Returns:
        Per layer the share of the sum's size (Frobenius norm, squared) that the result keeps.

    Raises:
        InputError: If the adapters do not belong together.
        ConfigurationError: If a setting is out of range.
    """
    count = len(folders)
    if count < 2:
        raise InputError("Give at least two adapters to merge.")
    if method not in ("average", "breadcrumbs"):
        raise ConfigurationError(f"method must be 'average' or 'breadcrumbs', not {method!r}.")
    if method == "breadcrumbs" and rank is None:
        raise ConfigurationError("breadcrumbs needs rank=…: masked changes have no low rank of their own.")
    if rank is not None:
        check_count("rank", rank)
    if not (smallest >= 0 and largest >= 0 and smallest + largest < 1):
        raise ConfigurationError("smallest and largest are shares that leave something between them.")
    shares = list(weights or [1 / count if method == "average" else 0.3] * count)
    if len(shares) != count:
        raise ConfigurationError(f"{len(shares)} weights for {count} adapters.")
    configs = [json.loads((Path(folder) / _CONFIG).read_text(encoding="utf-8")) for folder in folders]
    tensors = [load_file(Path(folder) / ADAPTER_FILE) for folder in folders]
    _check(folders, configs, tensors)
    merged: dict[str, torch.Tensor] = {}
    kept: dict[str, float] = {}
    layers = [name.removesuffix(".lora_A.weight") for name in tensors[0] if name.endswith(".lora_A.weight")]
    for layer in layers:
        down = [some[f"{layer}.lora_A.weight"].float() for some in tensors]
        up = [some[f"{layer}.lora_B.weight"].float() for some in tensors]
        scales = [share * _scale(config) for share, config in zip(shares, configs, strict=True)]
        if method == "average" and rank is None:
            left = torch.cat([scale * b for scale, b in zip(scales, up, strict=True)], dim=1)
            right, kept[layer] = torch.cat(down), 1.0
        else:
            changes = [scale * (b @ a) for scale, b, a in zip(scales, up, down, strict=True)]
            if method == "breadcrumbs":
                changes = [breadcrumbs(change, smallest, largest) for change in changes]
            assert rank is not None
            left, right, kept[layer] = _low_rank(sum(changes[1:], changes[0]), rank)
        merged[f"{layer}.lora_A.weight"] = right.contiguous()
        merged[f"{layer}.lora_B.weight"] = left.contiguous()
    width = next(iter(merged.values())).shape[0] if merged else 0
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    save_file(merged, target / ADAPTER_FILE, metadata={"format": "pt"})
    config = {**configs[0], "r": width, "lora_alpha": width, "use_rslora": False}
    config |= {"rank_pattern": {}, "alpha_pattern": {}}
    (target / _CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return kept


def _scale(config: Mapping[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _low_rank(change: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The best product of this rank, and the share of the size that it keeps."""
    rank = min(rank, *change.shape)
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    size = float(s.square().sum())
    return (
        u[:, :rank] * root,
        root[:, None] * v[:rank],
        float(s[:rank].square().sum()) / size if size else 1.0,
    )


def _check(
    folders: Sequence[str | Path],
    configs: Sequence[Mapping[str, Any]],
    tensors: Sequence[Mapping[str, torch.Tensor]],
) -> None:
    for folder, config, own in zip(folders, configs, tensors, strict=True):
        if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora") or config.get("rank_pattern"):
            raise InputError(f"{folder} is no plain LoRA adapter of one rank; only such are merged.")
        if config.get("base_model_name_or_path") != configs[0].get("base_model_name_or_path"):
            raise InputError(f"{folder} belongs to another base model than {folders[0]}.")
        if set(own) != set(tensors[0]):
            raise InputError(f"{folder} changes other layers than {folders[0]}.")
        if not all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in own):
            raise InputError(f"{folder} holds more than low-rank weights; only these are merged.")
