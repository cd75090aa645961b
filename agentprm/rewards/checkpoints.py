"""Decoders and heads out of checkpoints: transformers' own classes only, never a checkpoint's code.

Published reward models carry heads that transformers has no class for, and code of their own that
stops loading with every other release. The decoder below such a head is an ordinary one. Here it is
loaded with the library's class, and the head's few tensors are read from the files by their names.
`HeadModel` is what the engine sees of both.
"""

from __future__ import annotations

import copy
import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig

from agentprm.engine.loading import checkpoint_file, load_model, resolve_dtype
from agentprm.engine.lora import base_name, merge_adapter
from agentprm.errors import ConfigurationError
from agentprm.model_names import model_name

__all__ = [
    "HeadModel",
    "WordHead",
    "load_backbone",
    "load_causal",
    "load_head",
    "read_config",
    "split_model",
    "word_model",
]


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
    outside = [k for k in places if k.endswith(".weight") and not _unwrapped(k).startswith(_DECODERS)]
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


class _WordModel(nn.Module):
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
    return _WordModel(model, words)


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
