"""Decoders and heads out of checkpoints: transformers' own classes only, never a checkpoint's code.

Published reward models carry heads that transformers has no class for, and code of their own that
stops loading with every other release. The decoder below such a head is an ordinary one. Here it is
loaded with the library's class, and the head's few tensors are read from the files by their names.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig

from agentprm.engine.loading import checkpoint_file, load_model, resolve_dtype
from agentprm.engine.lora import base_name, merge_adapter
from agentprm.errors import ConfigurationError
from agentprm.model_names import model_name

__all__ = ["load_backbone", "load_causal", "load_head", "read_config"]

_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")
_BESIDE = ("value_head.safetensors", "value_head.bin", "reward_head.safetensors", "reward_head.pt")
_WRAPPERS = ("pretrained_model.", "base_model.model.")
_DECODERS = (
    *("model.", "transformer.", "gpt_neox.", "lm_head.", "embed_out."),
    *("layers.", "h.", "embed_tokens.", "wte.", "norm.", "ln_f."),
)


def read_config(name: str | Path) -> dict[str, Any]:
    """The checkpoint's `config.json`.

    Raises:
        ConfigurationError: If there is none.
    """
    name = model_name(name)
    try:
        data, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The reward model {str(name)!r} cannot be loaded: {error}") from error
    if not data:
        raise ConfigurationError(
            f"{str(name)!r} has no config.json. Pass a hub name or a folder of save_pretrained."
        )
    return dict(data)


def load_backbone(name: str | Path, dtype: str | torch.dtype, device: str | torch.device | None) -> Any:
    """The decoder of a checkpoint, without any head.

    Raises:
        ConfigurationError: If transformers has no class for it, or a tensor is missing: it would be
            random numbers.
    """
    name = model_name(name)
    if adapter := _adapter(name):
        return _merged(load_backbone(base_name(name, adapter), dtype, device), name, adapter)
    data = read_config(name)
    data.pop("auto_map", None)  # the checkpoint's own code is never looked at
    kind = data.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ConfigurationError(
            f"{str(name)!r} is of model type {kind!r}, which transformers {transformers.__version__} does "
            "not know. A checkpoint's own code is never run: set the decoder's model type in config.json."
        )
    config = CONFIG_MAPPING[kind].from_dict(data)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    wrapper = next((w for w in _WRAPPERS if any(key.startswith(w) for key in _places(name))), None)
    try:
        with _quiet():
            model, info = AutoModel.from_pretrained(
                str(name),
                config=config,
                dtype=resolve_dtype(dtype, target),
                trust_remote_code=False,
                output_loading_info=True,
                **({"key_mapping": {"^" + wrapper.replace(".", r"\."): ""}} if wrapper else {}),
            )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The reward model {str(name)!r} cannot be loaded: {error}") from error
    if info["missing_keys"]:
        lost = sorted(info["missing_keys"])
        raise ConfigurationError(
            f"{str(name)!r} lacks {len(lost)} tensors of a {type(model).__name__}, {', '.join(lost[:3])}; "
            "it would score at random."
        )
    return model.to(target).eval()


def load_causal(name: str | Path, dtype: str | torch.dtype, device: str | torch.device | None) -> Any:
    """A causal language model by name or folder; an adapter is merged into its base model."""
    if adapter := _adapter(name):
        return _merged(load_model(base_name(name, adapter), dtype, device), name, adapter)
    return load_model(str(name), dtype, device)


def _adapter(name: str | Path) -> dict[str, Any] | None:
    """The config of an adapter, if that is what the checkpoint is."""
    path = checkpoint_file(name, "adapter_config.json")
    if path is None or any(checkpoint_file(name, whole) for whole in (*_INDEX, *_SINGLE)):
        return None
    config: dict[str, Any] = json.loads(path.read_text())
    return config


def _merged(model: Any, name: str | Path, config: dict[str, Any]) -> Any:
    places = _places(name)
    tensors = _read(places, places)
    merge_adapter(model, config, {_unwrapped(key): tensor for key, tensor in tensors.items()})
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of tensors that its class has no place for: those of the head."""
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_head(name: str | Path, hidden: int, outputs: int, key: str | None = None) -> nn.Module:
    """The head of a checkpoint: one linear layer, or two with a ReLU between.

    Args:
        name: Name or folder.
        hidden: Width of the decoder.
        outputs: Numbers that the head gives.
        key: How the names of the head's tensors begin (`score`, `v_head.summary`, …); by default the
            only tensors of fitting shape outside the decoder.

    Raises:
        ConfigurationError: If there is no such head, or more than one.
    """
    places = _places(name)
    outside = [k for k in places if k.endswith(".weight") and not _of_decoder(k)]
    tensors = _read(places, outside)
    layers: dict[str, list[str]] = {}
    for weight in outside:
        stem = weight.removesuffix(".weight")
        root, _, last = stem.rpartition(".")
        layers.setdefault(root if last.isdigit() else stem, []).append(stem)
    found = {
        root: sorted(stems, key=lambda s: int(s.rpartition(".")[2]) if s != root else 0)
        for root, stems in layers.items()
        if _fits([tuple(tensors[f"{s}.weight"].shape) for s in sorted(stems)], hidden, outputs)
        and (key is None or root.removesuffix(".") == key.rstrip("."))
    }
    if len(found) != 1:
        shapes = [f"{k} {tuple(tensors[k].shape)}" for k in outside]
        raise ConfigurationError(
            f"{str(name)!r} has {len(found)} heads from {hidden} to {outputs} numbers; outside the decoder "
            f"it holds {', '.join(shapes) or 'nothing'}. Name the head's tensors with head_key='…'."
        )
    ((_, stems),) = found.items()
    biases = _read(places, [f"{stem}.bias" for stem in stems if f"{stem}.bias" in places])
    parts: list[nn.Module] = []
    for stem in stems:
        matrix, bias = tensors[f"{stem}.weight"], biases.get(f"{stem}.bias")
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=bias is not None)
        with torch.no_grad():
            layer.weight.copy_(matrix)
            if bias is not None:
                layer.bias.copy_(bias)
        parts += [nn.ReLU(), layer] if parts else [layer]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _fits(shapes: list[tuple[int, ...]], hidden: int, outputs: int) -> bool:
    if any(len(shape) != 2 for shape in shapes) or len(shapes) > 2:
        return False
    chain = [shapes[0][1], *(shape[0] for shape in shapes)]
    joined = len(shapes) == 1 or shapes[1][1] == shapes[0][0]
    return joined and chain[0] == hidden and chain[-1] == outputs


def _of_decoder(key: str) -> bool:
    return _unwrapped(key).startswith(_DECODERS)


def _unwrapped(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    return key


_Place = tuple[Path, str]  # a file and the tensor's name in it


def _places(name: str | Path) -> dict[str, _Place]:
    """Where which tensor is; safetensors before anything else."""
    places: dict[str, _Place] = {}
    for index, single in zip(_INDEX, _SINGLE, strict=True):
        if path := checkpoint_file(name, index):
            table: dict[str, str] = json.loads(path.read_text())["weight_map"]
            files = {part: checkpoint_file(name, part) for part in set(table.values())}
            places = {key: (file, key) for key, part in table.items() if (file := files[part])}
        elif path := checkpoint_file(name, single):
            places = {key: (path, key) for key in _keys(path)}
        if places:
            break
    adapters = () if places else (checkpoint_file(name, part) for part in _ADAPTER)
    if path := next((path for path in adapters if path), None):
        places = {key: (path, key) for key in _keys(path)}
    for single in _BESIDE:
        if path := checkpoint_file(name, single):
            # A bare layer's `weight` is named after its file.
            stem = single.partition(".")[0]
            places.update({key if "." in key else f"{stem}.{key}": (path, key) for key in _keys(path)})
            break
    return places


def _keys(path: Path) -> Iterable[str]:
    return _open(path, lambda get, keys: list(keys))  # type: ignore[no-any-return]


def _read(places: dict[str, _Place], keys: Iterable[str]) -> dict[str, torch.Tensor]:
    wanted: dict[Path, dict[str, str]] = {}
    for key in keys:
        path, inner = places[key]
        wanted.setdefault(path, {})[key] = inner
    tensors: dict[str, torch.Tensor] = {}
    for path, some in wanted.items():
        read = _open(path, lambda get, _: {inner: get(inner) for inner in set(some.values())})  # noqa: B023
        tensors.update({key: read[inner] for key, inner in some.items()})
    return tensors


def _open(path: Path, use: Callable[[Callable[[str], torch.Tensor], Iterable[str]], Any]) -> Any:
    """Calls `use` with a way to get a tensor and the names of all."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            return use(file.get_tensor, file.keys())
    mapped = zipfile.is_zipfile(path)  # the oldest format cannot be mapped
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return use(state.__getitem__, state.keys())
