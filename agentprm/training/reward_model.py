"""Trains process reward models: a head over a decoder, or two words of its vocabulary, read at every step.

What is trained is read by `load_reward`: tokens and positions come from the family's own template, so that
training and scoring cannot be a token apart. Labels may be soft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from safetensors.torch import save_file
from torch import nn

from agentprm.errors import ConfigurationError, InputError
from agentprm.rewards.base import RewardStep
from agentprm.rewards.checkpoints import WordHead
from agentprm.rewards.known_families import Family
from agentprm.rewards.labels import LabelledRow, labelled_row
from agentprm.rewards.loading import families
from agentprm.rewards.step_text import StepText, StepWriter
from agentprm.rewards.templates import StepTemplate, two_words
from agentprm.training.bases import AdapterOptions, Teaching, Trainee, train_adapter
from agentprm.training.data import PreferenceRecord, StepLabelRecord
from agentprm.training.fitting import FitReport, Objective, padded
from agentprm.training.losses import pairwise_loss, soft_cross_entropy

__all__ = ["PairRow", "StepScorer", "label_rows", "pair_rows", "train_critic", "train_reward_model"]

Loss = Literal["cross-entropy", "squared"]

_TRAINABLE = ("token-head", "value-head", "prefix-scalar", "token-logits")


@dataclass(frozen=True)
class PairRow:
    """A better and a worse continuation of the same steps, each read at its end."""

    chosen: LabelledRow
    rejected: LabelledRow


class StepScorer(nn.Module):
    """A decoder with what is read off it: a new head, or two words of the vocabulary.

    Args:
        trainee: The model with its adapter.
        family: Says what is read, and with which template.

    Attributes:
        template: Gives the tokens of a prefix.
    """

    def __init__(self, trainee: Trainee, family: Family) -> None:
        super().__init__()
        template = family.template
        if family.readout not in _TRAINABLE or not isinstance(template, StepTemplate):
            raise ConfigurationError(
                f"The family {family.name!r} is read by {family.readout!r} and has no head to train. Choose "
                f"one that is read by {', '.join(_TRAINABLE)}, for instance 'trl'."
            )
        self.model = trainee.model
        causal = trainee.model.get_base_model()
        self._decoder = [causal.base_model]  # in a list, so that it is no second module
        self.template = template
        self.template.check(trainee.text.tokenizer)
        self.readout = family.readout
        scalar = family.readout in ("value-head", "prefix-scalar")
        self.bare = scalar and family.options.get("activation") == "none"
        width = causal.config.get_text_config().hidden_size
        if family.readout == "token-logits":
            options = family.options
            good, bad = options.get("good", "+"), options.get("bad", "-")
            words = two_words(trainee.text.tokenizer, good, bad, options.get("words"))
            embeddings = causal.get_output_embeddings()
            self.head: nn.Module = WordHead(embeddings, words[::-1], causal.config)
        else:
            classes = family.options.get("classes", 2) if family.readout == "token-head" else 1
            if classes > 2:
                raise ConfigurationError(
                    f"The family {family.name!r} has {classes} classes; two are trained."
                )
            self.head = nn.Linear(width, classes).to(causal.device)

    def read(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Outputs `[read positions, 2 or 1]`, in fp32: the classes wrong and right, or a number."""
        hidden = self._decoder[0](
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).last_hidden_state
        with torch.autocast(hidden.device.type, enabled=False):
            outputs: torch.Tensor = self.head(hidden.flatten(0, 1)[batch["read"]].float())
        return outputs

    def save_head(self, folder: Path) -> None:
        """Writes a head of its own; the words of a vocabulary are there already."""
        if self.readout != "token-logits":
            tensors = {name: tensor.detach().cpu() for name, tensor in self.head.state_dict().items()}
            save_file(tensors, folder / "reward_head.safetensors")

    def logits(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """One number per read position: the logit that the step is right."""
        outputs = self.read(batch)
        return outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs[:, 0]


def label_rows(
    records: Sequence[StepLabelRecord],
    template: StepTemplate,
    tokenizer: Any,
    step_text: StepWriter | None = None,
) -> list[LabelledRow]:
    """Labelled trajectories as tokens with the positions that scoring reads.

    A template that closes every prefix with tokens of its own gives a row for each labelled step. Records
    without any label are left out.
    """
    write = step_text or StepText()
    rows: list[LabelledRow] = []
    for record in records:
        labels = list(record.labels)
        kept = max((k + 1 for k, label in enumerate(labels) if label is not None), default=0)
        texts = [write(step) for step in record.trajectory[:kept]]
        if not texts:
            continue
        try:
            rows.append(labelled_row(template, tokenizer, record.question, texts, labels[:kept]))
        except InputError:
            rows += _prefix_rows(template, tokenizer, record.question, texts, labels[:kept])
    return rows


def _prefix_rows(
    template: StepTemplate,
    tokenizer: Any,
    question: str,
    texts: Sequence[str],
    labels: Sequence[float | None],
) -> list[LabelledRow]:
    rows = []
    for k, label in enumerate(labels):
        if label is not None:
            ids = template.ids(tokenizer, question, list(texts[: k + 1]))
            rows.append(LabelledRow(ids, [len(ids) - 1], [float(label)]))
    return rows


def pair_rows(
    records: Sequence[PreferenceRecord],
    template: StepTemplate,
    tokenizer: Any,
    step_text: StepWriter | None = None,
) -> list[PairRow]:
    """Preferences as pairs of token rows. A candidate that is only a query is written as its text."""
    write = step_text or StepText()

    def row(record: PreferenceRecord, last: RewardStep) -> LabelledRow:
        steps = [step.reward_step() for step in record.steps]
        ids = template.ids(tokenizer, record.question, [write(_finished(step)) for step in (*steps, last)])
        return LabelledRow(ids, [len(ids) - 1], [1.0])

    return [
        PairRow(row(record, record.chosen.reward_step()), row(record, record.rejected.reward_step()))
        for record in records
    ]


def _finished(step: RewardStep) -> RewardStep:
    if step["thought"].strip() or (step["final_answer"] or "").strip():
        return step
    return {**step, "query": "", "thought": step["query"]}


def _batch(rows: Sequence[LabelledRow], pad: int) -> dict[str, Any]:
    batch = padded([row.ids for row in rows], pad)
    longest = batch["input_ids"].shape[1]
    read = [number * longest + at for number, row in enumerate(rows) for at in row.positions]
    labels = [label for row in rows for label in row.labels]
    return {**batch, "read": torch.tensor(read), "labels": torch.tensor(labels)}


def label_objective(scorer: StepScorer, pad: int, loss: Loss) -> Objective[LabelledRow]:
    """Mean loss of the labelled steps.

    Args:
        scorer: The model.
        pad: Token id that fills short rows.
        loss: `cross-entropy` against the labels, soft or hard; `squared` of the difference between the
            probability and the label, or, where the family reads a bare number, of that number and the label.
    """

    def total(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        labels = batch["labels"]
        logits = scorer.logits(batch)
        if loss == "cross-entropy":
            summed = soft_cross_entropy(torch.stack([torch.zeros_like(logits), logits], dim=1), labels)
        else:
            summed = ((logits if scorer.bare else logits.sigmoid()) - labels).square().sum()
        return summed, len(labels)

    return Objective(lambda row: len(row.ids), lambda rows: _batch(rows, pad), total)


def pair_objective(scorer: StepScorer, pad: int) -> Objective[PairRow]:
    """Mean of -log sigmoid(score of the chosen one - score of the rejected one), of logits."""

    def collate(pairs: Sequence[PairRow]) -> dict[str, Any]:
        return _batch([pair.chosen for pair in pairs] + [pair.rejected for pair in pairs], pad)

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        chosen, rejected = scorer.logits(batch).chunk(2)
        return pairwise_loss(chosen, rejected), len(chosen)

    return Objective(lambda pair: 2 * max(len(one.ids) for one in _parts(pair)), collate, loss)


def train_reward_model(
    records: Sequence[StepLabelRecord],
    out: str | Path,
    *,
    family: str = "trl",
    loss: Loss = "cross-entropy",
    step_text: StepWriter | None = None,
    **options: Unpack[AdapterOptions],
) -> FitReport | None:
    """Trains a process reward model on labelled steps; `load_reward(out)` reads it.

    Args:
        records: Trajectories with labels.
        out: The folder to write: adapter, head, config, tokenizer, card.
        family: Readout and template, a name of `agentprm.rewards.families()`: `trl` is a head of two
            classes, `skywork` one number with a sigmoid, `math-shepherd` two words of the vocabulary.
        loss: See `label_objective`.
        step_text: Writes a step; pass the same to `load_reward`.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.

    Returns:
        How it went; `None` if the folder holds this very training already.

    Raises:
        ConfigurationError: If the family has nothing to train.
        InputError: If no example is left, or the folder holds something else.
    """
    if loss not in ("cross-entropy", "squared"):
        raise ConfigurationError(f"loss must be 'cross-entropy' or 'squared', not {loss!r}.")

    return _train(records, out, "reward model", family, loss, label_rows, step_text, options)


def train_critic(
    records: Sequence[PreferenceRecord],
    out: str | Path,
    *,
    family: str = "skywork",
    step_text: StepWriter | None = None,
    **options: Unpack[AdapterOptions],
) -> FitReport | None:
    """Trains a critic on pairs of candidates: queries, rationales or passages (CR-Planner, arXiv 2410.01428).

    Its scores order candidates for the same state; `load_reward(out)` reads them.

    Args:
        records: Preferences; their critiques are not used. A candidate that is only a query will do.
        out: As in `train_reward_model`, and so are the others.
        family: As there.
        step_text: As there.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.

    Returns:
        As `train_reward_model`.

    Raises:
        ConfigurationError: As `train_reward_model`.
        InputError: As `train_reward_model`.
    """
    return _train(records, out, "critic", family, "pairwise", pair_rows, step_text, options)


def _train(
    records: Sequence[Any],
    out: str | Path,
    kind: str,
    family: str,
    loss: Any,
    rows: Callable[..., list[Any]],
    step_text: StepWriter | None,
    options: AdapterOptions,
) -> FitReport | None:
    chosen = _family(family)

    def teach(trainee: Trainee) -> Teaching:
        scorer, tokenizer = StepScorer(trainee, chosen), trainee.text.tokenizer
        return Teaching(
            scorer,
            lambda some: rows(some, scorer.template, tokenizer, step_text),
            lambda row: max(len(one.ids) for one in _parts(row)),
            pair_objective(scorer, trainee.pad)
            if loss == "pairwise"
            else label_objective(scorer, trainee.pad, loss),
            family=chosen.name,
            save=scorer.save_head,
        )

    what = {"kind": kind, "family": chosen.name, "loss": loss}
    return train_adapter(records, out, what, teach, options)


def _parts(row: LabelledRow | PairRow) -> Sequence[LabelledRow]:
    return (row.chosen, row.rejected) if isinstance(row, PairRow) else (row,)


def _family(name: str) -> Family:
    known = families()
    if name not in known:
        raise ConfigurationError(f"There is no family {name!r}; there are {', '.join(sorted(known))}.")
    return known[name]
