"""Trains a language model by preferences and outcomes: DPO, KTO, and rewards implied by outcomes alone.

All compare a reply's log-probability with what it was before the training (the reference), which is computed
once, before the first step. A round that goes on from an adapter (`start`) has that one as its reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from agentprm.documents import joined
from agentprm.errors import ConfigurationError, InputError
from agentprm.lm.base import Prompt
from agentprm.prompts import PROMPTS, Prompts, known_text
from agentprm.rewards.known_families import Family
from agentprm.rewards.loading import families
from agentprm.rewards.step_text import StepText, StepWriter
from agentprm.rewards.templates import Dialogue
from agentprm.training.bases import AdapterOptions, Teaching, Trainee, train_adapter
from agentprm.training.data import PreferenceRecord, StepLabelRecord
from agentprm.training.fitting import FitReport, Objective
from agentprm.training.language_model import (
    CausalRow,
    TextExample,
    causal_batch,
    causal_rows,
    decoder_and_head,
    reply_states,
)
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
class _Example:
    """Replies that are learned together: a better and a worse one; or a judged one, and maybe a stray one."""

    rows: tuple[_Encoded, ...]
    label: float = 1.0
    weight: float = 1.0


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


def _dpo(ratios: _Ratios, beta: float) -> Objective[_Example]:
    def collate(pairs: Sequence[_Example]) -> dict[str, Any]:
        return ratios.collate([pair.rows[side] for side in (0, 1) for pair in pairs])

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        chosen, rejected = ratios(batch).chunk(2)
        return dpo_loss(chosen, rejected, beta), len(chosen)

    return Objective(_length, collate, loss)


def _kto(ratios: _Ratios, beta: float) -> Objective[_Example]:
    def collate(replies: Sequence[_Example]) -> dict[str, Any]:
        others = [row for reply in replies for row in reply.rows[1:]]
        return {
            **ratios.collate([reply.rows[0] for reply in replies] + others),
            "desirable": torch.tensor([reply.label > 0.5 for reply in replies]),
            "weights": torch.tensor([reply.weight for reply in replies]),
        }

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        count = len(batch["desirable"])
        values = ratios(batch)
        drift = values[count:].mean() if len(values) > count else values.new_zeros(())
        return kto_loss(values[:count], batch["desirable"], batch["weights"], drift, beta), count

    return Objective(_length, collate, loss)


def _implicit(ratios: _Ratios, beta: float) -> Objective[_Example]:
    def collate(replies: Sequence[_Example]) -> dict[str, Any]:
        labels = torch.tensor([reply.label for reply in replies])
        return {**ratios.collate([reply.rows[0] for reply in replies]), "labels": labels}

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        return implicit_cross_entropy(ratios(batch), batch["labels"], beta), len(batch["labels"])

    return Objective(_length, collate, loss)


def _longest(example: _Example) -> int:
    return max(len(row.tokens.ids) for row in example.rows)


def _length(example: _Example) -> int:
    return len(example.rows) * _longest(example)


def _rows(pairs: Sequence[tuple[Prompt, str]], trainee: Trainee) -> list[_Encoded]:
    examples = [TextExample(prompt, reply) for prompt, reply in pairs]
    return [_Encoded(row) for row in causal_rows(examples, trainee.text)]


def _comparison_rows(some: Sequence[Preference], trainee: Trainee) -> list[_Example]:
    chosen = _rows([(one.prompt, one.chosen) for one in some], trainee)
    rejected = _rows([(one.prompt, one.rejected) for one in some], trainee)
    return [_Example(both) for both in zip(chosen, rejected, strict=True)]


def _judged_rows(some: Sequence[JudgedReply], trainee: Trainee) -> list[_Example]:
    rows = _rows([(one.prompt, one.reply) for one in some], trainee)
    # Each prompt with the next one's reply tells how far the model has moved in general.
    moved = _rows([(one.prompt, some[(i + 1) % len(some)].reply) for i, one in enumerate(some)], trainee)
    both = zip(rows, moved, strict=True) if len(some) > 1 else zip(rows)
    return [_Example(own, float(one.desirable), one.weight) for one, own in zip(some, both, strict=True)]


def train_by_comparisons(
    examples: Sequence[Preference],
    out: str | Path,
    *,
    beta: float = 0.1,
    kind: str = "preferences",
    **options: Unpack[AdapterOptions],
) -> FitReport | None:
    """Makes better replies likelier than worse ones, by DPO (arXiv 2305.18290).

    Args:
        examples: Pairs of replies.
        out: As in `train_language_model`, and so are the others.
        beta: How strongly the model is held to its reference; larger is closer.
        kind: As there.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.

    Returns:
        As `train_language_model`.
    """
    return _train(examples, out, options, {"kind": kind, "loss": "dpo", "beta": beta}, _comparison_rows, _dpo)


def train_by_judgements(
    examples: Sequence[JudgedReply],
    out: str | Path,
    *,
    beta: float = 0.1,
    kind: str = "preferences",
    **options: Unpack[AdapterOptions],
) -> FitReport | None:
    """Makes desirable replies likelier and undesirable ones less likely, by KTO (arXiv 2402.01306).

    No pairs are needed. ReARTeR trains its explanation model so (`critique_replies`), and its policy, round
    after round (`agentprm.training.train_rounds`).

    Args:
        examples: Replies with their judgement.
        out: As in `train_language_model`, and so are the others.
        beta: How strongly the model is held to its reference; larger is closer.
        kind: As there.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.

    Returns:
        As `train_language_model`.
    """
    return _train(examples, out, options, {"kind": kind, "loss": "kto", "beta": beta}, _judged_rows, _kto)


def train_log_ratio(
    records: Sequence[StepLabelRecord],
    out: str | Path,
    *,
    loss: Literal["cross-entropy", "dpo"] = "cross-entropy",
    beta: float = 0.05,
    step_text: StepWriter | None = None,
    **options: Unpack[AdapterOptions],
) -> FitReport | None:
    """Trains rewards of steps from outcomes alone (implicit PRM, arXiv 2412.01981).

    `load_reward(out, reference=base)` reads them: beta times how much likelier the training made a step.

    Args:
        records: Trajectories; of each, `correct` is used.
        out: As in `train_language_model`, and so are the others.
        loss: `cross-entropy` against the outcome, which does well with few trajectories of a question, or
            `dpo` on pairs of a right and a wrong one of the same question.
        beta: As in the paper.
        step_text: Writes a step; pass the same to `load_reward`.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.

    Returns:
        As `train_language_model`.

    Raises:
        InputError: If no trajectory says whether it ended right, or no question has both kinds for `dpo`.
    """
    if loss not in ("cross-entropy", "dpo"):
        raise ConfigurationError(f"loss must be 'cross-entropy' or 'dpo', not {loss!r}.")
    family = families()["implicit"]
    write = step_text or StepText()

    def rows(some: Sequence[StepLabelRecord], trainee: Trainee) -> list[_Example]:
        known = [record for record in some if record.correct is not None]
        made = [(record, outcome_row(record, family, trainee, write)) for record in known]
        if loss == "cross-entropy":
            found = [_Example((_Encoded(row),), float(bool(record.correct))) for record, row in made]
        else:
            found = _outcome_pairs(made)
        if some is records and not found:
            raise InputError(
                "There is nothing to train on: no example is left. Outcomes need `correct` in the records, "
                "and the loss 'dpo' questions with both a right and a wrong trajectory."
            )
        return found

    what = {"kind": "log-ratio reward", "loss": loss, "beta": beta}
    objective = _implicit if loss == "cross-entropy" else _dpo
    return _train(records, out, options, what, rows, objective, family.name)


def outcome_row(record: StepLabelRecord, family: Family, trainee: Trainee, write: StepWriter) -> CausalRow:
    """A trajectory as a reply: what the log-ratio of its steps is summed over."""
    template = family.template
    assert isinstance(template, Dialogue)
    tokenizer = trainee.text.tokenizer
    texts = [write(step) for step in record.trajectory]
    start = len(template.head(tokenizer, record.question))
    return CausalRow(tuple(template.ids(tokenizer, record.question, texts)), start)


def _outcome_pairs(made: Sequence[tuple[StepLabelRecord, CausalRow]]) -> list[_Example]:
    """The i-th right trajectory of a question with its i-th wrong one."""
    by_question: dict[str, tuple[list[CausalRow], list[CausalRow]]] = {}
    for record, row in made:
        by_question.setdefault(record.question, ([], []))[bool(record.correct)].append(row)
    return [
        _Example((_Encoded(right), _Encoded(wrong)))
        for wrongs, rights in by_question.values()
        for right, wrong in zip(rights, wrongs, strict=False)
    ]


def _train(
    examples: Sequence[Any],
    out: str | Path,
    options: AdapterOptions,
    what: Mapping[str, Any],
    rows: Callable[[Sequence[Any], Trainee], list[_Example]],
    objective: Callable[[_Ratios, float], Objective[_Example]],
    family: str = "",
) -> FitReport | None:
    """Trains by how replies' log-probabilities change; those of before are computed first."""
    beta: float = what["beta"]
    if not beta > 0:
        raise ConfigurationError(f"beta must be positive, not {beta}.")

    def teach(trainee: Trainee) -> Teaching:
        ratios = _Ratios(trainee)

        def ready(some: list[_Example]) -> list[_Example]:
            every = [row for example in some for row in example.rows]
            values = iter(ratios.references(every, trainee.model.device, trainee.lower))
            return [
                replace(one, rows=tuple(replace(row, reference=next(values)) for row in one.rows))
                for one in some
            ]

        return Teaching(
            trainee.model,
            lambda some: rows(some, trainee),
            _longest,
            objective(ratios, beta),
            ready=ready,
            family=family,
        )

    return train_adapter(examples, out, what, teach, options)
