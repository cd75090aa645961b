"""Trains a language model by preferences and outcomes: DPO, KTO, and rewards implied by outcomes alone.

All compare a reply's log-probability with what it was before the training (the reference), which is computed
once, before the first step. A round that goes on from an adapter (`start`) has that one as its reference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from agentprm.documents import joined
from agentprm.errors import ConfigurationError, InputError
from agentprm.lm.base import Prompt
from agentprm.prompts import PROMPTS, Prompts, known_text
from agentprm.rewards.known_families import Family
from agentprm.rewards.loading import families
from agentprm.rewards.step_text import StepText, StepWriter
from agentprm.rewards.templates import Dialogue
from agentprm.training.bases import Trainee, base_label, open_base
from agentprm.training.data import PreferenceRecord, StepLabelRecord
from agentprm.training.fitting import FitReport, Objective, Progress, TrainSettings, fit
from agentprm.training.folder import TrainingFolder, digest, warn_of_lost
from agentprm.training.language_model import (
    CausalRow,
    TextExample,
    causal_batch,
    causal_rows,
    decoder_and_head,
    reply_states,
)
from agentprm.training.lora import LoraSettings, save_lora
from agentprm.training.losses import dpo_loss, implicit_cross_entropy, kto_loss

__all__ = [
    "JudgedReply",
    "Preference",
    "critique_replies",
    "reply_logprobs",
    "train_by_comparisons",
    "train_by_judgements",
    "train_log_ratio",
]


_STEPS_AT_ONCE = 4096  # tokens of a pass that computes the reference


@dataclass(frozen=True)
class Preference:
    """Two replies to a prompt, one of them better."""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True)
class JudgedReply:
    """A reply to a prompt that is to become likelier or not.

    Attributes:
        prompt: The prompt.
        reply: The reply.
        desirable: Whether it is a good one.
        weight: How much it counts.
    """

    prompt: Prompt
    reply: str
    desirable: bool
    weight: float = 1.0


def critique_replies(
    records: Sequence[PreferenceRecord], *, prompts: Prompts = PROMPTS, strength: float = 1.0
) -> list[JudgedReply]:
    """What an explanation model learns (ReARTeR, arXiv 2501.07861): critiques by what came of them.

    A critique is desirable if the step that it led to has a higher score than the one it criticised, and
    undesirable if lower, with the weight strength * exp(r1 - r2) for the scores r1 before and r2 after. Ties,
    and records without critique or scores, are left out.

    Args:
        records: Steps, critiques and refined steps; `chosen` is the refined one, better or not.
        prompts: Templates; `critique` is used, as `RefineStep` asks.
        strength: Weight of an undesirable critique that changed nothing.
    """
    replies = []
    for record in records:
        before, after = record.rejected_score, record.chosen_score
        if not record.critique.strip() or before is None or after is None or before == after:
            continue
        step = record.rejected.reward_step()
        prompt = prompts.critique.render(
            question=record.question,
            known=known_text([one.reward_step() for one in record.steps]),
            query=step["query"],
            passages=joined(step["passages"]),
            thought=step["thought"],
            score=f"{before:.2f}",
            future="(nothing)",
        )
        better = after > before
        weight = 1.0 if better else strength * math.exp(before - after)
        replies.append(JudgedReply(prompt, record.critique.strip(), better, weight))
    return replies


@dataclass(frozen=True)
class _Encoded:
    """A reply as tokens, with its log-probability before the training."""

    tokens: CausalRow
    reference: float = math.nan


@dataclass(frozen=True)
class _Pair:
    chosen: _Encoded
    rejected: _Encoded

    @property
    def rows(self) -> tuple[_Encoded, ...]:
        return self.chosen, self.rejected

    def known(self, references: Sequence[float]) -> _Pair:
        chosen, rejected = references
        return _Pair(replace(self.chosen, reference=chosen), replace(self.rejected, reference=rejected))


@dataclass(frozen=True)
class _Judged:
    row: _Encoded
    label: float
    weight: float = 1.0
    other: _Encoded | None = None  # the prompt with a reply to another one

    @property
    def rows(self) -> tuple[_Encoded, ...]:
        return (self.row,) if self.other is None else (self.row, self.other)

    def known(self, references: Sequence[float]) -> _Judged:
        rows = [replace(row, reference=value) for row, value in zip(self.rows, references, strict=True)]
        return replace(self, row=rows[0], other=rows[1] if len(rows) > 1 else None)


def reply_logprobs(decoder: Any, head: Any, batch: Mapping[str, Any], rows: int) -> torch.Tensor:
    """Log-probability of each row's reply, summed over its tokens, `[rows]` in fp32."""
    logits = head(reply_states(decoder, dict(batch))).float()
    picked = logits.log_softmax(-1).gather(1, batch["wanted"][:, None])[:, 0]
    return torch.zeros(rows, device=picked.device).index_add(0, batch["owner"], picked)


class _Ratios:
    """From examples of one or two rows to the log-ratios of their replies."""

    def __init__(self, trainee: Trainee) -> None:
        self.decoder, self.head = decoder_and_head(trainee.model)
        self.pad = trainee.pad

    def collate(self, rows: Sequence[_Encoded]) -> dict[str, Any]:
        return {
            **causal_batch([row.tokens for row in rows], self.pad),
            "reference": torch.tensor([row.reference for row in rows]),
        }

    def __call__(self, batch: dict[str, Any]) -> torch.Tensor:
        reference: torch.Tensor = batch["reference"]
        return reply_logprobs(self.decoder, self.head, batch, len(reference)) - reference

    def references(self, rows: Sequence[_Encoded], device: torch.device, lower: bool) -> list[float]:
        """What the replies' log-probabilities are now."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens.ids))
        found = [math.nan] * len(rows)
        at = 0
        while at < len(order):
            size = 1
            while at + size < len(order) and (
                (size + 1) * len(rows[order[at + size]].tokens.ids) <= _STEPS_AT_ONCE
            ):
                size += 1
            some = order[at : at + size]
            batch = causal_batch([rows[i].tokens for i in some], self.pad)
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=lower):
                values = reply_logprobs(self.decoder, self.head, batch, len(some)).tolist()
            for i, value in zip(some, values, strict=True):
                found[i] = value
            at += size
        return found


def _dpo(ratios: _Ratios, beta: float) -> Objective[_Pair]:
    def collate(pairs: Sequence[_Pair]) -> dict[str, Any]:
        return ratios.collate([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs])

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        chosen, rejected = ratios(batch).chunk(2)
        return dpo_loss(chosen, rejected, beta), len(chosen)

    return Objective(_length, collate, loss)


def _kto(ratios: _Ratios, beta: float) -> Objective[_Judged]:
    def collate(replies: Sequence[_Judged]) -> dict[str, Any]:
        others = [reply.other for reply in replies if reply.other is not None]
        return {
            **ratios.collate([reply.row for reply in replies] + others),
            "desirable": torch.tensor([reply.label > 0.5 for reply in replies]),
            "weights": torch.tensor([reply.weight for reply in replies]),
        }

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        count = len(batch["desirable"])
        values = ratios(batch)
        drift = values[count:].mean() if len(values) > count else values.new_zeros(())
        return kto_loss(values[:count], batch["desirable"], batch["weights"], drift, beta), count

    return Objective(_length, collate, loss)


def _implicit(ratios: _Ratios, beta: float) -> Objective[_Judged]:
    def collate(replies: Sequence[_Judged]) -> dict[str, Any]:
        labels = torch.tensor([reply.label for reply in replies])
        return {**ratios.collate([reply.row for reply in replies]), "labels": labels}

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        return implicit_cross_entropy(ratios(batch), batch["labels"], beta), len(batch["labels"])

    return Objective(_length, collate, loss)


def _length(example: _Pair | _Judged) -> int:
    return len(example.rows) * max(len(row.tokens.ids) for row in example.rows)


def _rows(pairs: Sequence[tuple[Prompt, str]], trainee: Trainee) -> list[_Encoded]:
    examples = [TextExample(prompt, reply) for prompt, reply in pairs]
    return [_Encoded(row) for row in causal_rows(examples, trainee.text)]


def _comparison_rows(some: Sequence[Preference], trainee: Trainee) -> list[_Pair]:
    chosen = _rows([(one.prompt, one.chosen) for one in some], trainee)
    rejected = _rows([(one.prompt, one.rejected) for one in some], trainee)
    return [_Pair(*both) for both in zip(chosen, rejected, strict=True)]


def _judged_rows(some: Sequence[JudgedReply], trainee: Trainee) -> list[_Judged]:
    rows = _rows([(one.prompt, one.reply) for one in some], trainee)
    # Each prompt with the next one's reply tells how far the model has moved in general.
    moved = _rows([(one.prompt, some[(i + 1) % len(some)].reply) for i, one in enumerate(some)], trainee)
    others = moved if len(some) > 1 else [None] * len(some)
    return [
        _Judged(row, float(one.desirable), one.weight, other)
        for one, row, other in zip(some, rows, others, strict=True)
    ]


def train_by_comparisons(
    examples: Sequence[Preference],
    out: str | Path,
    *,
    beta: float = 0.1,
    kind: str = "preferences",
    base: str | Path | None = None,
    dev: Sequence[Preference] = (),
    settings: TrainSettings | None = None,
    lora: LoraSettings | None = None,
    max_length: int = 1024,
    device: str | torch.device | None = None,
    start: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Makes better replies likelier than worse ones, by DPO (arXiv 2305.18290).

    Args:
        examples: Pairs of replies.
        out: As in `train_language_model`, and so are the others.
        beta: How strongly the model is held to its reference; larger is closer.
        kind: As there.
        base: As there.
        dev: As there.
        settings: As there.
        lora: As there.
        max_length: As there.
        device: As there.
        start: As there; it is the reference too.
        notes: As there.
        progress: As there.

    Returns:
        As `train_language_model`.
    """
    how = _How(settings or TrainSettings(), lora or LoraSettings(), max_length, base, start, device)
    plan = _Recipe(kind, "dpo", beta, _plain_pair, _comparison_rows, _dpo)
    return _train(examples, dev, out, plan, how, notes, progress)


def train_by_judgements(
    examples: Sequence[JudgedReply],
    out: str | Path,
    *,
    beta: float = 0.1,
    kind: str = "preferences",
    base: str | Path | None = None,
    dev: Sequence[JudgedReply] = (),
    settings: TrainSettings | None = None,
    lora: LoraSettings | None = None,
    max_length: int = 1024,
    device: str | torch.device | None = None,
    start: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Makes desirable replies likelier and undesirable ones less likely, by KTO (arXiv 2402.01306).

    No pairs are needed. ReARTeR trains its explanation model so (`critique_replies`), and its policy, round
    after round (`agentprm.training.rounds`).

    Args:
        examples: Replies with their judgement.
        out: As in `train_language_model`, and so are the others.
        beta: How strongly the model is held to its reference; larger is closer.
        kind: As there.
        base: As there.
        dev: As there.
        settings: As there.
        lora: As there.
        max_length: As there.
        device: As there.
        start: As there; it is the reference too.
        notes: As there.
        progress: As there.

    Returns:
        As `train_language_model`.
    """
    how = _How(settings or TrainSettings(), lora or LoraSettings(), max_length, base, start, device)
    plan = _Recipe(kind, "kto", beta, _plain_reply, _judged_rows, _kto)
    return _train(examples, dev, out, plan, how, notes, progress)


def train_log_ratio(
    records: Sequence[StepLabelRecord],
    out: str | Path,
    *,
    loss: Literal["cross-entropy", "dpo"] = "cross-entropy",
    beta: float = 0.05,
    base: str | Path | None = None,
    dev: Sequence[StepLabelRecord] = (),
    settings: TrainSettings | None = None,
    lora: LoraSettings | None = None,
    max_length: int = 1024,
    step_text: StepWriter | None = None,
    device: str | torch.device | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Trains rewards of steps from outcomes alone (implicit PRM, arXiv 2412.01981).

    `load_reward(out, reference=base)` reads them: beta times how much likelier the training made a step.

    Args:
        records: Trajectories; of each, `correct` is used.
        out: As in `train_language_model`, and so are the others.
        loss: `cross-entropy` against the outcome, which does well with few trajectories of a question, or
            `dpo` on pairs of a right and a wrong one of the same question.
        beta: As in the paper.
        base: As there.
        dev: As there.
        settings: As there.
        lora: As there.
        max_length: As there.
        step_text: Writes a step; pass the same to `load_reward`.
        device: As there.
        notes: As there.
        progress: As there.

    Returns:
        As `train_language_model`.

    Raises:
        InputError: If no trajectory says whether it ended right, or no question has both kinds for `dpo`.
    """
    if loss not in ("cross-entropy", "dpo"):
        raise ConfigurationError(f"loss must be 'cross-entropy' or 'dpo', not {loss!r}.")
    family = families()["implicit"]
    write = step_text or StepText()

    def rows(some: Sequence[StepLabelRecord], trainee: Trainee) -> list[Any]:
        made = [(record, outcome_row(record, family, trainee, write)) for record in some if _outcome(record)]
        if loss == "cross-entropy":
            return [_Judged(_Encoded(row), float(bool(record.correct))) for record, row in made]
        return _outcome_pairs(made)

    how = _How(settings or TrainSettings(), lora or LoraSettings(), max_length, base, None, device)
    objective = _implicit if loss == "cross-entropy" else _dpo
    plan = _Recipe("log-ratio reward", loss, beta, _plain_record, rows, objective, family)
    return _train(records, dev, out, plan, how, notes, progress)


def outcome_row(record: StepLabelRecord, family: Family, trainee: Trainee, write: StepWriter) -> CausalRow:
    """A trajectory as a reply: what the log-ratio of its steps is summed over."""
    template = family.template
    assert isinstance(template, Dialogue)
    tokenizer = trainee.text.tokenizer
    texts = [write(step) for step in record.trajectory]
    start = len(template.head(tokenizer, record.question))
    return CausalRow(tuple(template.ids(tokenizer, record.question, texts)), start)


def _outcome(record: StepLabelRecord) -> bool:
    return record.correct is not None


def _outcome_pairs(made: Sequence[tuple[StepLabelRecord, CausalRow]]) -> list[_Pair]:
    """The i-th right trajectory of a question with its i-th wrong one."""
    by_question: dict[str, tuple[list[CausalRow], list[CausalRow]]] = {}
    for record, row in made:
        by_question.setdefault(record.question, ([], []))[bool(record.correct)].append(row)
    return [
        _Pair(_Encoded(right), _Encoded(wrong))
        for wrongs, rights in by_question.values()
        for right, wrong in zip(rights, wrongs, strict=False)
    ]


@dataclass(frozen=True)
class _How:
    settings: TrainSettings
    lora: LoraSettings
    max_length: int
    base: str | Path | None
    start: str | Path | None
    device: str | torch.device | None


@dataclass(frozen=True)
class _Recipe:
    kind: str
    loss: str
    beta: float
    plain: Callable[[Any], Any]
    rows: Callable[[Sequence[Any], Trainee], list[Any]]
    objective: Callable[[_Ratios, float], Objective[Any]]
    family: Family | None = None


def _train(
    examples: Sequence[Any],
    dev: Sequence[Any],
    out: str | Path,
    plan: _Recipe,
    how: _How,
    notes: Mapping[str, Any] | None,
    progress: Callable[[Progress], None] | None,
) -> FitReport | None:
    if not plan.beta > 0:
        raise ConfigurationError(f"beta must be positive, not {plan.beta}.")
    run = {
        "kind": plan.kind,
        "loss": plan.loss,
        "beta": plan.beta,
        "base": base_label(how.base),
        **({} if how.start is None else {"start": str(how.start)}),
        "settings": asdict(how.settings),
        "adapter": asdict(how.lora),
        "max_length": how.max_length,
        "examples": len(examples),
        "examples_sha256": digest([plan.plain(example) for example in examples]),
        "held_out": len(dev),
        "held_out_sha256": digest([plan.plain(example) for example in dev]),
    }
    folder = TrainingFolder(out, run)
    if folder.card is not None:
        return None
    trainee = open_base(
        how.base, how.lora, how.settings, max_length=how.max_length, device=how.device, start=how.start
    )
    ratios = _Ratios(trainee)
    trainee.settle()
    lost = 0
    parts: list[list[Any]] = []
    for some in (examples, dev):
        rows = plan.rows(some, trainee) if some else []
        fitting = [row for row in rows if max(len(one.tokens.ids) for one in row.rows) <= trainee.longest]
        lost += len(rows) - len(fitting)
        parts.append(_with_references(fitting, ratios, trainee))
    warn_of_lost(lost, trainee.longest)
    if not parts[0]:
        raise InputError(
            "There is nothing to train on: no example is left. Outcomes need `correct` in the records, and "
            "the loss 'dpo' questions with both a right and a wrong trajectory."
        )
    report = fit(
        trainee.model,
        parts[0],
        plan.objective(ratios, plan.beta),
        folder.checkpoints,
        how.settings,
        dev=parts[1],
        progress=progress,
    )
    folder.finish(
        lambda path: _save(trainee, plan.family, path, base_label(how.base)),
        report,
        {**(notes or {}), "left_out": lost},
    )
    return report


def _with_references(examples: Sequence[Any], ratios: _Ratios, trainee: Trainee) -> list[Any]:
    rows = [row for example in examples for row in example.rows]
    device = trainee.model.device
    values = iter(ratios.references(rows, device, trainee.lower)) if rows else iter(())
    return [example.known([next(values) for _ in example.rows]) for example in examples]


def _save(trainee: Trainee, family: Family | None, folder: Path, base: str) -> None:
    save_lora(trainee.model, folder, base)
    if family is not None:  # a reward that load_reward reads
        config = {**trainee.model.get_base_model().config.to_dict(), "agentprm_family": family.name}
        text = json.dumps(config, indent=1, default=str) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        trainee.text.tokenizer.save_pretrained(folder)


def _plain_pair(one: Preference) -> Any:
    return [one.prompt.messages, one.prompt.prefix, one.chosen, one.rejected]


def _plain_reply(one: JudgedReply) -> Any:
    return [one.prompt.messages, one.prompt.prefix, one.reply, one.desirable, one.weight]


def _plain_record(record: StepLabelRecord) -> Any:
    return record.model_dump()
