"""Trains a small critic of steps: `train_step_critic`.

What is learned is an adapter of a small encoder, a head, and the weights of a few counted numbers; see
`agentprm.rewards.step_critic`. The loss is cross-entropy against the labels, soft or hard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agentprm.errors import InputError
from agentprm.packaged import default_reader
from agentprm.readers.base import Reader
from agentprm.rewards.base import RewardStep
from agentprm.rewards.reader_grounding import ReaderGrounding
from agentprm.rewards.step_critic import (
    CriticModel,
    CriticSettings,
    StepRows,
    batch_of,
    features_of,
    open_encoder,
    rows_of,
    save_critic,
)
from agentprm.training.data import StepLabelRecord
from agentprm.training.fitting import FitReport, Objective, Progress, TrainSettings, fit
from agentprm.training.folder import TrainingFolder, data_of
from agentprm.training.lora import LoraSettings, add_lora

__all__ = ["LabelledStep", "critic_rows", "train_step_critic"]

LabelledStep = tuple[StepRows, float]
_READ_AT_ONCE = 256
_CRITIC = CriticSettings()


def critic_rows(
    records: Sequence[StepLabelRecord],
    tokenizer: Any | None,
    settings: CriticSettings,
    reader: ReaderGrounding,
) -> list[LabelledStep]:
    """Labelled steps in tokens, with what is counted of them; steps without passages teach nothing.

    Args:
        records: Trajectories with labels.
        tokenizer: That of the encoder; `None` without one.
        settings: The critic's settings.
        reader: Says how likely findings are.
    """
    places: list[tuple[str, list[RewardStep], float]] = []
    for record in records:
        for k, label in enumerate(record.labels):
            path = record.trajectory[: k + 1]
            if label is not None and path[-1]["passages"]:
                places.append((record.question, path, float(label)))
    rows: list[LabelledStep] = []
    for at in range(0, len(places), _READ_AT_ONCE):
        part = places[at : at + _READ_AT_ONCE]
        asked = [[{**path[-1], "query": path[-1]["query"] or question}] for question, path, _ in part]
        support = reader.score_prefixes("", asked)  # type: ignore[arg-type]
        for (question, path, label), sure in zip(part, support, strict=True):
            counted = features_of(question, path, sure)
            step = StepRows([], counted)
            if tokenizer is not None:
                step = rows_of(tokenizer, question, path, settings, counted)
            rows.append((step, label))
    return rows


def train_step_critic(
    records: Sequence[StepLabelRecord],
    out: str | Path,
    *,
    dev: Sequence[StepLabelRecord] = (),
    critic: CriticSettings = _CRITIC,
    settings: TrainSettings | None = None,
    reader: Reader | None = None,
    device: str | torch.device | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Trains a critic and writes a folder that `load_reward` and `StepCritic` read.

    Killed, the same call goes on from its last checkpoint; with one thread the same records, settings and
    seed give the same weights on one machine.

    Args:
        records: Trajectories with labels; every labelled step that has passages is an example.
        out: The folder to write.
        dev: Trajectories to evaluate on while training.
        critic: The encoder and the form of the adapter.
        settings: How to train.
        reader: The reader whose probabilities the critic counts with; by default the packaged one.
        device: A torch device; `None` takes a GPU if there is one.
        notes: More for the card.
        progress: Called after every step.

    Returns:
        How it went; `None` if the folder holds this very training already.

    Raises:
        InputError: If no labelled step has passages, or the folder holds something else.
    """
    settings = settings or TrainSettings()
    run = {
        "kind": "step critic",
        "base": critic.base,
        "critic": asdict(critic),
        "settings": asdict(settings),
        **data_of(records, dev),
    }
    folder = TrainingFolder(out, run)
    if folder.card is not None:
        return None
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reading = ReaderGrounding(reader or default_reader(device=str(place)))
    encoder, tokenizer = open_encoder(critic.base) if critic.rank else (None, None)
    torch.manual_seed(settings.seed)
    if encoder is not None:
        lora = LoraSettings(rank=critic.rank, alpha=critic.alpha, targets=_linear(encoder))
        encoder = add_lora(encoder, lora, settings.seed)
    model = CriticModel(encoder).to(place)
    pad = tokenizer.pad_token_id or 0 if tokenizer is not None else 0
    rows = critic_rows(records, tokenizer, critic, reading)
    if not rows:
        raise InputError("No step that has passages has a label; there is nothing to learn.")
    report = fit(
        model,
        rows,
        _objective(pad, encoded=encoder is not None),
        folder.checkpoints,
        settings,
        dev=critic_rows(dev, tokenizer, critic, reading),
        progress=progress,
    )
    folder.finish(
        lambda path: save_critic(model, critic, path, _adapter(encoder)),
        report,
        {**(notes or {}), "steps": len(rows), "right": sum(label > 0.5 for _, label in rows)},
    )
    return report


def _linear(encoder: Any) -> tuple[str, ...]:
    """Names of its linear layers; the pooler, which nobody reads, is left out."""
    modules = encoder.named_modules()
    return tuple(n for n, m in modules if isinstance(m, nn.Linear) and "pooler" not in n)


def _adapter(encoder: Any | None) -> dict[str, torch.Tensor]:
    if encoder is None:
        return {}
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(encoder, save_embedding_layers=False)
    return {name.removeprefix("base_model.model."): value for name, value in found.items()}


def _objective(pad: int, *, encoded: bool) -> Objective[LabelledStep]:
    def length(example: LabelledStep) -> int:
        return sum(len(row.input_ids) for row in example[0].rows) or 1

    def collate(examples: Sequence[LabelledStep]) -> dict[str, Any]:
        batch = batch_of([step for step, _ in examples], pad, encoded=encoded)
        return {**batch, "labels": torch.tensor([label for _, label in examples])}

    def loss(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        labels = batch["labels"]
        logits = model({name: value for name, value in batch.items() if name != "labels"})
        return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum"), len(labels)

    return Objective(length, collate, loss)
