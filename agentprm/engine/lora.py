"""LoRA adapters: what they add to linear layers, in the weights or while tokens pass through.

An adapter changes a layer's W to W + alpha/r · B · A. Merged, that costs nothing, but the model is
another one then. Here several adapters share one model's weights: each token of a pass gets the
product of its own row's adapter, or of none, added to what the layers make of it, so that rows of
different adapters go through the model together and the weights are read once for all of them.
"""

from __future__ import annotations

import json
import math
import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from agentprm.engine.loading import checkpoint_file
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.packaged import PACKAGED_LANGUAGE_MODEL, language_model_folder

__all__ = [
    "Adapters",
    "LowRank",
    "base_name",
    "base_of_adapter",
    "low_ranks",
    "merge_adapter",
    "plain_adapter",
]

_LOW = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_WRAPPER = "base_model.model."
# What a plain adapter's config says. Whatever else it sets, we do not know what that does.
_PLAIN = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout"),
    *("fan_in_fan_out", "use_rslora", "layers_to_transform", "layers_pattern", "rank_pattern"),
    *("alpha_pattern", "init_lora_weights", "megatron_core", "qalora_group_size", "eva_config"),
}
_NOTHING: tuple[Any, ...] = (None, False, "none", "", [], {})
_INITIAL = ("gaussian", "eva", "orthogonal")  # the others change the base model's weights as well


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to one linear layer's weight: `scale * up @ down`.

    Attributes:
        down: `[rank, in]`, A.
        up: `[out, rank]`, B.
        scale: alpha / r, or alpha / √r.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float


def low_ranks(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, LowRank]:
    """The products of an adapter by the names of the modules that they belong to.

    Args:
        config: The adapter's `adapter_config.json`.
        tensors: Its tensors by name, without the wrappers' prefixes; others are passed over.

    Raises:
        ConfigurationError: If the adapter is of another kind than LoRA, or contradicts itself.
    """
    if config.get("peft_type") not in ("LORA", None) or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else config["peft_type"]
        raise ConfigurationError(
            f"Only plain LoRA adapters are known, not {kind}. Merge it with its own library first."
        )
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if found := _LOW.match(name):
            pairs.setdefault(found["module"], {})[found["side"]] = tensor
        elif "lora_" in name:
            raise ConfigurationError(f"The adapter's {name!r} is more than plain LoRA on linear layers.")
    if not pairs:
        raise ConfigurationError("The adapter holds no low-rank weights.")
    return {name: _low_rank(config, name, pair) for name, pair in pairs.items()}


def _low_rank(config: Mapping[str, Any], name: str, pair: Mapping[str, torch.Tensor]) -> LowRank:
    if set(pair) != {"A", "B"} or any(side.dim() != 2 for side in pair.values()):
        raise ConfigurationError(f"The adapter's {name!r} is no pair of matrices A and B.")
    rank = _number(config, "r", "rank_pattern", name)
    found = (pair["A"].shape[0], pair["B"].shape[1])
    if found != (rank, rank):
        raise ConfigurationError(f"The adapter's {name!r} has ranks {found}, by its config it has {rank:g}.")
    root = math.sqrt(rank) if config.get("use_rslora") else rank
    return LowRank(pair["A"], pair["B"], _number(config, "lora_alpha", "alpha_pattern", name) / root)


def _number(config: Mapping[str, Any], key: str, patterns: str, name: str) -> float:
    """A setting of a module: of the first pattern that ends its name, or that of all."""
    value = config.get(key)
    for pattern, own in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            value = own
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ConfigurationError(f"The adapter's {key} must be a positive number, not {value!r}.")
    return value


def merge_adapter(model: Any, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Adds an adapter's products to the weights of the modules that it names.

    Args:
        model: The base model, or its decoder alone.
        config: As in `low_ranks`.
        tensors: As in `low_ranks`.

    Raises:
        ConfigurationError: As in `low_ranks`, or if the adapter does not fit the model.
    """
    modules = dict(model.named_modules())
    for name, low in low_ranks(config, tensors).items():
        # A decoder alone has no `model.` before its modules' names.
        module = modules.get(name) or modules.get(name.removeprefix("model."))
        weight = getattr(module, "weight", None)
        if weight is None:
            raise ConfigurationError(f"The adapter's {name!r} is not part of {type(model).__name__}.")
        product = low.up.float() @ low.down.float()
        product = product.T if config.get("fan_in_fan_out") else product
        _check_shape(name, product.shape, weight.shape)
        with torch.no_grad():
            weight.copy_((weight.float() + low.scale * product.to(weight.device)).to(weight.dtype))


def base_name(name: str | Path, config: Mapping[str, Any]) -> str:
    """The base model that an adapter's config names; the packaged one where it is installed."""
    base = config.get("base_model_name_or_path")
    if not base:
        raise ConfigurationError(f"The adapter {str(name)!r} does not name its base model.")
    if base == PACKAGED_LANGUAGE_MODEL:
        try:
            return str(language_model_folder())
        except MissingDependencyError:
            return str(base)  # the original, from the hub
    return str(base)


def base_of_adapter(folder: str | Path) -> str | None:
    """The base model of a folder that holds an adapter and no model of its own; else `None`."""
    path = Path(folder).expanduser()
    if not (path / _CONFIG).is_file() or (path / "config.json").exists():
        return None
    return base_name(folder, _config(path / _CONFIG))


def _check_shape(name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    if tuple(found) != tuple(wanted):
        raise ConfigurationError(f"The adapter's {name!r} is {tuple(found)}, the model's {tuple(wanted)}.")


class Adapters:
    """The adapters of one model; each token of a pass gets what its own adapter adds.

    Other callers of the model do not notice them.

    Args:
        model: The base model.
        folders: Folders as peft writes them, or names on the Hugging Face hub, by the adapters' names.

    Attributes:
        names: The adapters' names.

    Raises:
        ConfigurationError: If an adapter cannot be read, is more than plain LoRA on linear layers of
            the decoder, or does not fit the model.
    """

    def __init__(self, model: Any, folders: Mapping[str, str | Path]) -> None:
        self.names = tuple(folders)
        self._here = threading.local()  # which runs of tokens the pass of this thread has
        by_module: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        for adapter, folder in folders.items():
            if not isinstance(adapter, str) or not adapter:
                raise ConfigurationError(f"An adapter needs a name, a text that is not empty: {adapter!r}.")
            try:
                for name, low in _read(model, folder).items():
                    # Transposed and scaled once, as tokens need them.
                    down, up = low.down.T, low.scale * low.up.float().T
                    pair = (down.to(model.device, model.dtype), up.to(model.device, model.dtype))
                    by_module.setdefault(name, {})[adapter] = pair
            except ConfigurationError as error:
                raise ConfigurationError(f"Adapter {adapter!r} from {str(folder)!r}: {error}") from error
        hooks = [
            model.get_submodule(name).register_forward_hook(_adding(own, self._here))
            for name, own in by_module.items()
        ]
        weakref.finalize(self, lambda: [hook.remove() for hook in hooks])

    @contextmanager
    def on(self, adapters: Sequence[str | None], sizes: Sequence[int]) -> Iterator[None]:
        """Inside the block passes of this thread are made with adapters.

        Args:
            adapters: The adapter of each piece of the pass.
            sizes: Tokens of each piece.
        """
        runs: list[tuple[int, int, str]] = []
        at = 0
        for adapter, size in zip(adapters, sizes, strict=True):
            if adapter is not None:
                joins = runs and runs[-1][1:] == (at, adapter)
                runs.append((runs.pop()[0] if joins else at, at + size, adapter))
            at += size
        self._here.runs = runs
        try:
            yield
        finally:
            del self._here.runs


def _adding(
    own: Mapping[str, tuple[torch.Tensor, torch.Tensor]], here: threading.local
) -> Callable[..., None]:
    """A layer's hook: adds the adapters' products to its output, in place."""

    def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        for begin, end, adapter in getattr(here, "runs", ()):
            if (pair := own.get(adapter)) is not None:
                down, up = pair
                output[0, begin:end].addmm_(inputs[0][0, begin:end] @ down, up)

    return hook


def plain_adapter(folder: str | Path) -> tuple[dict[str, Any], Path]:
    """The config and the file of weights of an adapter that is plain LoRA.

    Raises:
        ConfigurationError: If there is none, or it is more than that.
    """
    path = checkpoint_file(folder, _CONFIG)
    if path is None:
        raise ConfigurationError(f"There is no {_CONFIG}. Pass a folder that peft's save_pretrained wrote.")
    weights = checkpoint_file(folder, _WEIGHTS)
    if weights is None:
        raise ConfigurationError(
            f"There is no {_WEIGHTS}, and other formats are not read: save it with "
            "model.save_pretrained(folder, safe_serialization=True)."
        )
    return _config(path), weights


def _read(model: Any, folder: str | Path) -> dict[str, LowRank]:
    """An adapter's products by the names of the model's modules, all checked."""
    config, weights = plain_adapter(folder)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {key.removeprefix(_WRAPPER): value for key, value in load_file(weights).items()}
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{_WEIGHTS} cannot be read: {error}.") from error
    others = sorted(key for key in tensors if not _LOW.match(key))
    if others:
        raise ConfigurationError(f"It holds more than low-rank weights, for instance {others[0]!r}.")
    lows = low_ranks(config, tensors)
    modules = dict(model.named_modules())
    for name, low in lows.items():
        module = modules.get(name)
        if not isinstance(module, torch.nn.Linear):
            what = f"is a {type(module).__name__}, no linear layer" if module else "is missing"
            raise ConfigurationError(f"Its {name!r} {what} in {type(model).__name__}.")
        if module is model.get_output_embeddings():
            raise ConfigurationError(f"It changes {name!r}; only layers of the decoder can be adapted.")
        _check_shape(name, (low.up.shape[0], low.down.shape[1]), module.weight.shape)
    for name in modules:
        if _targeted(config, name) and name not in lows:
            raise ConfigurationError(f"By its config it changes {name!r}, but it holds no weights for it.")
    return lows


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{_CONFIG} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{_CONFIG} is no JSON object.")
    more = sorted(key for key, value in config.items() if key not in _PLAIN and value not in _NOTHING)
    if more:
        raise ConfigurationError(
            f"Its {_CONFIG} sets {', '.join(f'{key}={config[key]!r}' for key in more)}, which is more than "
            "plain LoRA. Merge it into its base model with peft and load the result."
        )
    initial = config.get("init_lora_weights", True)
    if isinstance(initial, str) and initial not in _INITIAL:
        raise ConfigurationError(
            f"It began as {initial!r}, which changes the base model, too. Save it with peft's "
            "path_initial_model_for_weight_conversion, or merge it."
        )
    return config


def _targeted(config: Mapping[str, Any], name: str) -> bool:
    """Whether an adapter without exceptions says that it changes a module."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("layers_to_transform") or config.get("exclude_modules"):
        return False
    return any(name == target or name.endswith(f".{target}") for target in targets)
