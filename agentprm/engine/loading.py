"""Loading models and tokenizers, and reading what their configs say about precision, context and ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import cached_file

from agentprm.errors import ConfigurationError
from agentprm.model_names import model_name

__all__ = ["checkpoint_file", "end_tokens", "load_model", "max_context", "resolve_dtype"]


def load_model(name: str, dtype: str | torch.dtype, device: str | torch.device | None) -> Any:
    """A causal language model by name or folder, on its device."""
    name = model_name(name)
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=resolve_dtype(dtype, target))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The model {name!r} cannot be loaded: {error} Pass the name of a causal language model on the "
            "Hugging Face hub or a folder that save_pretrained wrote; a chat model is named with its "
            "provider, as in 'ollama:llama3.2'."
        ) from error
    return model.to(target)


def checkpoint_file(name: str | Path, part: str) -> Path | None:
    """A file of a checkpoint, a folder or a name on the hub; `None` if it has none of that name.

    Raises:
        ConfigurationError: If the checkpoint cannot be reached.
    """
    name = model_name(name)
    folder = Path(name)
    if folder.is_dir():
        # Only plain names: an index is data of the checkpoint and must not lead out of its folder.
        path = folder / part
        return path if Path(part).name == part and path.is_file() else None
    try:
        found = cached_file(name, part, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The checkpoint {str(name)!r} cannot be loaded: {error}") from error
    return Path(found) if found else None


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> str | torch.dtype:
    """The dtype to load with; on a CPU fp32, in which the batch does not change a result."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if isinstance(dtype, str):
        named = getattr(torch, dtype, None)
        if not isinstance(named, torch.dtype):
            raise ConfigurationError(
                f"Unknown dtype {dtype!r}; use 'auto', 'float32', 'bfloat16' or 'float16'."
            )
        return named
    return dtype


def max_context(config: Any) -> int | None:
    """Longest text in which a token's keys do not depend on what follows."""
    longest: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") in ("dynamic", "longrope"):
            fixed = part.get("original_max_position_embeddings")
            fixed = fixed or getattr(config, "original_max_position_embeddings", None) or longest
            longest = min(longest, fixed) if longest and fixed else fixed
    return longest


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that end a turn, from the generation config and the tokenizer."""
    ends: set[int] = set()
    for value in (
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if value is not None:
            ends.update(value if isinstance(value, list | tuple) else [value])
    return ends
