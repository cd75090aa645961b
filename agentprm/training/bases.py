"""The model that a trainer starts from, the adapter that it trains, and the way of such a training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from typing_extensions import TypedDict

from agentprm.engine.loading import load_model, max_context
from agentprm.engine.tokenizing import PromptText, load_tokenizer
from agentprm.packaged import PACKAGED_LANGUAGE_MODEL, language_model_folder
from agentprm.training.fitting import FitReport, Objective, Progress, TrainSettings, fit, use_bfloat16
from agentprm.training.folder import TrainingFolder, data_of, warn_of_lost
from agentprm.training.lora import LoraSettings, add_lora, lower_frozen, save_lora

__all__ = ["AdapterOptions", "Teaching", "Trainee", "base_label", "open_base", "train_adapter"]


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

    def save(self, folder: Path, base: str, family: str) -> None:
        """Writes the adapter; of a reward also the tokenizer, and a config that names its family."""
        save_lora(self.model, folder, base)
        if family:
            config = {**self.model.get_base_model().config.to_dict(), "agentprm_family": family}
            text = json.dumps(config, indent=1, default=str) + "\n"
            (folder / "config.json").write_text(text, encoding="utf-8")
            self.text.tokenizer.save_pretrained(folder)


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


@dataclass(frozen=True)
class Teaching:
    """How an adapter is taught.

    Attributes:
        model: The module that is trained.
        rows: Examples as rows of tokens.
        tokens: Tokens of the longest part of a row, which must fit.
        objective: What for.
        ready: What the rows that fit are trained as.
        family: Of a reward, for its config.
        save: Writes what there is besides the adapter into a folder.
    """

    model: torch.nn.Module
    rows: Callable[[Sequence[Any]], list[Any]]
    tokens: Callable[[Any], int]
    objective: Objective[Any]
    ready: Callable[[list[Any]], list[Any]] = list
    family: str = ""
    save: Callable[[Path], None] = lambda folder: None


class AdapterOptions(TypedDict, total=False):
    """Options of every training of an adapter.

    Attributes:
        base: The model, a name or folder; by default the packaged one.
        dev: Examples to evaluate on while training.
        settings: How to train.
        lora: The adapter's form.
        max_length: Tokens of an example at most, 1,024 by default; longer ones are left out, which the card
            says.
        device: As in `TransformersLM`.
        start: Folder of an adapter to go on from.
        notes: More for the card.
        progress: Called after every step.
    """

    base: str | Path | None
    dev: Sequence[Any]
    settings: TrainSettings | None
    lora: LoraSettings | None
    max_length: int
    device: str | torch.device | None
    start: str | Path | None
    notes: Mapping[str, Any] | None
    progress: Callable[[Progress], None] | None


def train_adapter(
    examples: Sequence[Any],
    out: str | Path,
    what: Mapping[str, Any],
    teach: Callable[[Trainee], Teaching],
    options: AdapterOptions,
) -> FitReport | None:
    """Trains an adapter and writes its folder; `None` if that holds this very training already.

    Args:
        examples: What to learn.
        out: The folder.
        what: What is trained, for the card: `kind`, and what else makes another training of it.
        teach: From the model, its weights still in fp32, to how it is taught.
        options: How.
    """
    settings, lora = options.get("settings") or TrainSettings(), options.get("lora") or LoraSettings()
    base, dev, start = options.get("base"), options.get("dev", ()), options.get("start")
    limit = options.get("max_length", 1024)
    run = {
        **what,
        "base": base_label(base),
        **({} if start is None else {"start": str(start)}),
        "settings": asdict(settings),
        "adapter": asdict(lora),
        "max_length": limit,
        **data_of(examples, dev),
    }
    folder = TrainingFolder(out, run)
    if folder.card is not None:
        return None
    device = options.get("device")
    trainee = open_base(base, lora, settings, max_length=limit, device=device, start=start)
    torch.manual_seed(settings.seed)  # a new head begins at random
    teaching = teach(trainee)
    trainee.settle()
    parts: list[list[Any]] = []
    lost = 0
    for some in (examples, dev):
        rows = teaching.rows(some) if some else []
        fitting = [row for row in rows if teaching.tokens(row) <= trainee.longest]
        lost += len(rows) - len(fitting)
        parts.append(teaching.ready(fitting))
    warn_of_lost(lost, trainee.longest)
    taught, held_out = parts
    report = fit(
        teaching.model,
        taught,
        teaching.objective,
        folder.checkpoints,
        settings,
        dev=held_out,
        progress=options.get("progress"),
    )

    def save(path: Path) -> None:
        trainee.save(path, base_label(base), teaching.family)
        teaching.save(path)

    folder.finish(save, report, {**(options.get("notes") or {}), "left_out": lost})
    return report
