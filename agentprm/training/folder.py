"""The folder that a training writes: what it is being made of, checkpoints on the way, a card at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentprm.errors import InputError
from agentprm.lm.base import Prompt
from agentprm.training.fitting import FitReport

__all__ = ["TrainingFolder", "data_of", "digest", "trained", "warn_of_lost"]

_logger = logging.getLogger(__name__)

_RUN, _CARD = "run.json", "card.json"
_PACKAGES = ("agentprm", "torch", "transformers", "peft")


def digest(value: Any) -> str:
    """SHA-256 of what a training is made of, as JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def data_of(examples: Sequence[Any], dev: Sequence[Any]) -> dict[str, Any]:
    """What a card says of the examples: how many there are, and the SHA-256 of them all."""
    return {
        "examples": len(examples),
        "examples_sha256": digest(list(map(_plain, examples))),
        "held_out": len(dev),
        "held_out_sha256": digest(list(map(_plain, dev))),
    }


def _plain(example: Any) -> Any:
    if isinstance(example, BaseModel):
        return example.model_dump()
    prompt, *rest = (getattr(example, field.name) for field in fields(example))
    return [prompt.messages, prompt.prefix, *rest] if isinstance(prompt, Prompt) else asdict(example)


def trained(path: Path) -> bool:
    """Whether a folder holds a training that is done."""
    return (path / _CARD).is_file()


def warn_of_lost(count: int, longest: int) -> None:
    """Says that examples are too long; none is cut."""
    if count:
        _logger.warning("%d examples have more than %d tokens and are left out.", count, longest)


class TrainingFolder:
    """Where a training writes.

    While it runs, `run.json` says what of, so that the same call goes on from the checkpoints and another
    one is refused. At the end `card.json` takes its place: data, seed, settings, losses, versions, and the
    SHA-256 of every file.

    Args:
        path: The folder; a new one, an empty one, or that of the same training.
        run: What it is being made of, as plain JSON values.

    Attributes:
        checkpoints: Where its checkpoints lie.

    Raises:
        InputError: If the folder holds other files, or another training.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._run = json.loads(json.dumps(run))
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; give a new folder for what is trained.")
        held = self._held()
        if held is not None:
            names = sorted({*held, *self._run})
            if other := ", ".join(name for name in names if held.get(name) != self._run.get(name)):
                raise InputError(
                    f"{self.path} holds a training with another {other}. Give a new folder, or repeat the "
                    "command that began it."
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise InputError(f"{self.path} is a folder with other files in it; give a new one.")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            _write_json(self.path / _RUN, self._run)

    @property
    def card(self) -> dict[str, Any] | None:
        """The card, once the training is done."""
        found: dict[str, Any] | None = _read_json(self.path / _CARD)
        return found

    def _held(self) -> dict[str, Any] | None:
        card = self.card
        held = card.get("run") if card else _read_json(self.path / _RUN)
        return held if isinstance(held, dict) else None

    def finish(self, save: Callable[[Path], None], report: FitReport, notes: Mapping[str, Any]) -> None:
        """Writes what was trained and its card, and removes the checkpoints.

        Args:
            save: Writes the trained files into the folder that it is given.
            report: How the training went.
            notes: More for the card, for instance the data's names and licences.
        """
        draft = self.path / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        save(draft)
        (draft / "README.md").unlink(missing_ok=True)  # libraries write forms to be filled in
        written = sorted(path for path in draft.rglob("*") if path.is_file())
        files = {path.relative_to(draft).as_posix(): _sha256(path) for path in written}
        for part in list(draft.iterdir()):
            old = self.path / part.name  # of an attempt that was killed here
            if old.is_dir():
                shutil.rmtree(old)
            part.replace(old)
        draft.rmdir()
        card = {
            **notes,
            "run": self._run,
            "training": asdict(report),
            "versions": {name: _version(name) for name in _PACKAGES},
            "files": files,
        }
        (self.path / "README.md").write_text(_readme(card), encoding="utf-8")
        _write_json(self.path / _CARD, card)
        (self.path / _RUN).unlink(missing_ok=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def _readme(card: Mapping[str, Any]) -> str:
    run, training = card["run"], card["training"]
    dev = training["dev_losses"]
    trainer = f"agentprm {card['versions']['agentprm']}"
    lines = [
        f"# {run['kind']}",
        "",
        f"Trained by {trainer} on {run['base']}: {training['steps']:,} steps in "
        f"{training['seconds'] / 60:.0f} minutes"
        + (f", loss on questions held out {min(loss for _, loss in dev):.3f}." if dev else "."),
    ]
    if command := card.get("command"):
        lines += ["", f"    {command}"]
    lines += ["", "`card.json` holds data, seed, settings, losses and the SHA-256 of every file.", ""]
    return "\n".join(lines)


def _write_json(path: Path, value: Any) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); remove the folder and train again.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from its source"
