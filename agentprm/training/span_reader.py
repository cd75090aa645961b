"""Trains a span reader: `train_span_reader`.

An example is a question with a passage that answers it and passages that do not (distractors of its own
record, and others that share its words), or with distractors alone. The loss is the negative logarithm of
the probability of the right answer among all answers of all these passages and none (see
`agentprm.readers.span_reader`), and, for each distractor by itself, of none.
"""

from __future__ import annotations

import bisect
import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from langchain_core.documents import Document
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from agentprm.errors import InputError
from agentprm.evaluation import exact_match, token_f1
from agentprm.readers.span_reader import (
    SpanModel,
    SpanReader,
    SpanSettings,
    Window,
    collate,
    load_encoder,
    load_span_model,
    trained_digest,
    windows,
)
from agentprm.training.fitting import FitReport, Progress, run_trainer, use_bfloat16
from agentprm.training.folder import TrainingFolder, digest
from agentprm.training.span_examples import ReadingExample, occurrences

__all__ = ["SpanTraining", "evaluate_reader", "span_loss", "train_span_reader"]

_logger = logging.getLogger(__name__)

_SAVED_EVERY = 200
"""Steps from one checkpoint to the next."""


@dataclass(frozen=True)
class SpanTraining:
    """How a span reader is trained. The defaults made the reader that comes with agentprm.

    Attributes:
        epochs: Passes over the examples.
        learning_rate: Peak rate of the encoder.
        head_rate: Peak rate of the heads, which begin at random.
        groups: Questions of one step.
        distractors: Passages beside the gold one.
        dropped: Share of questions whose gold passage is left out.
        alone: Weight of the loss of each distractor by itself.
        warmup: Share of the steps until the peak.
        seed: Seed of everything.
        held_out: Examples that are kept for evaluation while training.
        evaluations: How often that is, over the whole training.
        max_steps: Most steps; -1 goes by `epochs`.
    """

    epochs: float = 1.0
    learning_rate: float = 1.5e-4
    head_rate: float = 1e-3
    groups: int = 8
    distractors: int = 1
    dropped: float = 0.12
    alone: float = 0.3
    warmup: float = 0.06
    seed: int = 0
    held_out: int = 100
    evaluations: int = 3
    max_steps: int = -1


@dataclass(frozen=True)
class Group:
    """One question in tokens: windows, and for each the spans that answer it or the choice that does."""

    rows: list[Window]
    spans: list[list[tuple[int, int]]]
    choices: list[int | None]
    gold: list[bool]


class _Groups(Dataset[Group]):
    """Examples in tokens, each drawn from its own seed, so that any order gives the same."""

    def __init__(
        self, examples: Sequence[ReadingExample], tokenizer: Any, settings: SpanSettings, how: SpanTraining
    ) -> None:
        self.examples, self.tokenizer, self.settings, self.how = examples, tokenizer, settings, how

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> Group:
        example, how = self.examples[i], self.how
        rng = random.Random(f"{how.seed}/{i}")
        others = list(example.distractors[: how.distractors * 6])
        rng.shuffle(others)
        drop = len(others) > 1 and not example.boolean and rng.random() < how.dropped
        shown = [] if drop else [example.gold]
        shown += others[: how.distractors + drop]
        group = Group([], [], [], [])
        for passage in shown:
            cut = windows(self.tokenizer, example.question, passage.title, passage.text, self.settings)
            for row in _trained_on(cut, passage is example.gold, rng):
                is_gold = passage is example.gold
                group.rows.append(row)
                choice = (
                    ("yes", "no").index(example.answers[0].lower()) if is_gold and example.boolean else None
                )
                spans = (
                    [] if example.boolean or not is_gold else _token_spans(row, passage.text, example.answers)
                )
                answers = bool(spans) or choice is not None
                group.spans.append(spans)
                group.choices.append(choice)
                group.gold.append(answers)
        return group


def _trained_on(cut: list[Window], gold: bool, rng: random.Random) -> list[Window]:
    """All windows of a passage are read later; training takes one, of a gold passage the first."""
    return cut[:1] if gold else [rng.choice(cut)]


def _token_spans(row: Window, text: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """First token and width, less one, of every occurrence of an answer in a window."""
    places = [(i, o) for i, o in enumerate(row.offsets) if o is not None]
    if not places:
        return []
    begins = [o[0] for _, o in places]
    found = []
    for start, end in occurrences(text, answers):
        first = bisect.bisect_right(begins, start) - 1
        last = bisect.bisect_left(begins, end) - 1
        if first < 0 or last < first or end > places[-1][1][1]:
            continue
        found.append((places[first][0], last - first))
    return found


class ReadWindows(NamedTuple):
    """What the model says of some windows that went through it together.

    Attributes:
        places: Their numbers among all windows of all questions, one question after another.
        spans: The log-odds of their spans [n, t, w].
        choices: And those of yes and no [n, 2].
    """

    places: Sequence[int]
    spans: torch.Tensor
    choices: torch.Tensor


def span_loss(read: Sequence[ReadWindows], groups: Sequence[Group], alone: float) -> torch.Tensor:
    """Mean loss of some questions.

    Args:
        read: All their windows.
        groups: The questions.
        alone: Weight of the loss of each distractor by itself.
    """
    device = read[0].spans.device
    # A few operations over everything: one for each window would take longer than the encoder.
    part_of = {place: (k, i) for k, part in enumerate(read) for i, place in enumerate(part.places)}
    every = torch.cat([torch.logsumexp(torch.cat([p.spans.flatten(1), p.choices], 1), 1) for p in read])
    row_of = {place: i for i, place in enumerate(place for part in read for place in part.places)}
    windows: list[tuple[int, int]] = []  # question, row of `every`
    spans: list[list[int]] = [[] for _ in read]
    choices: list[list[int]] = [[] for _ in read]
    answered: list[list[int]] = [[] for _ in range(2 * len(read))]
    alone_at: list[tuple[int, float]] = []
    place = 0
    for number, group in enumerate(groups):
        wrong = []
        for i in range(len(group.rows)):
            k, row = part_of[place]
            windows.append((number, row_of[place]))
            _, length, width = read[k].spans.shape
            for first, more in group.spans[i]:
                if more < width:
                    spans[k].append((row * length + first) * width + more)
                    answered[2 * k].append(number)
            if (pick := group.choices[i]) is not None:
                choices[k].append(row * 2 + pick)
                answered[2 * k + 1].append(number)
            if not group.gold[i]:
                wrong.append(row_of[place])
            place += 1
        if len(wrong) < len(group.rows):
            alone_at += [(row, 1 / len(wrong)) for row in wrong]

    def picked(values: torch.Tensor, at: Sequence[int]) -> torch.Tensor:
        return values.reshape(-1)[torch.tensor(at, dtype=torch.long, device=device)]

    found = [
        picked(values, at)
        for part, own, chosen in zip(read, spans, choices, strict=True)
        for values, at in ((part.spans, own), (part.choices, chosen))
    ]
    owners = [number for numbers in answered for number in numbers]
    # None has the log-odds 0; it is the right answer where there is no other.
    without = set(range(len(groups))) - set(owners)
    right = _log_sums(torch.cat(found), owners, len(groups), without)
    total = _log_sums(
        picked(every, [row for _, row in windows]),
        [number for number, _ in windows],
        len(groups),
        set(range(len(groups))),
    )
    loss = (total - right).sum()
    if alone and alone_at:
        weights = torch.tensor([weight for _, weight in alone_at], device=device)
        loss = (
            loss + alone * (weights * nn.functional.softplus(picked(every, [r for r, _ in alone_at]))).sum()
        )
    return loss / len(groups)


def _log_sums(values: torch.Tensor, owners: Sequence[int], count: int, zero: set[int]) -> torch.Tensor:
    """The logarithm of the sum of exponentials of each owner's values, and of 0 besides for some."""
    slots: list[int] = []
    filled = [0] * count
    for owner in owners:
        filled[owner] += 1
        slots.append(filled[owner])
    table = values.new_full((count, 1 + max(filled, default=0)), -torch.inf)
    table[torch.tensor(sorted(zero), dtype=torch.long), 0] = 0.0
    at = torch.tensor([owners, slots], dtype=torch.long, device=values.device)
    return torch.logsumexp(table.index_put((at[0], at[1]), values), 1)


class _Batches(Sampler[list[int]]):
    """Questions of like length together, in an order that the seed alone decides."""

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self.lengths, self.size, self.seed, self.epoch = lengths, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Another order for another pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / self.size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        # Some noise, so that a batch is not the same in every pass.
        order = sorted(range(len(self.lengths)), key=lambda i: self.lengths[i] * rng.uniform(0.8, 1.2))
        batches = [order[at : at + self.size] for at in range(0, len(order), self.size)]
        rng.shuffle(batches)
        return iter(batches)


class _Trainer(Trainer):  # type: ignore[misc]
    """transformers' trainer with batches of like length, our loss, and a faster rate for the heads."""

    how: SpanTraining
    lengths: Sequence[int]

    def get_train_dataloader(self) -> DataLoader[Any]:
        batches = _Batches(self.lengths, self.how.groups, self.how.seed)
        return DataLoader(
            self.train_dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        if getattr(self, "optimizer", None) is None:
            parts = {True: [], False: []}  # type: dict[bool, list[torch.nn.Parameter]]
            for name, value in self.model.named_parameters():
                if value.requires_grad:
                    parts[name.startswith("encoder.")].append(value)
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                [
                    {"params": parts[True], "lr": self.how.learning_rate},
                    {"params": parts[False], "lr": self.how.head_rate},
                ],
                weight_decay=0.01,
            )
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any
    ) -> torch.Tensor:
        read = [ReadWindows(places, *model(**part)) for places, part in inputs["parts"]]
        return span_loss(read, inputs["groups"], self.how.alone)


def evaluate_reader(reader: SpanReader, examples: Sequence[ReadingExample]) -> dict[str, float]:
    """EM and F1 over the gold passage alone, and among three distractors; refusal of distractors alone."""
    asked = [example.question for example in examples]
    rows = {}
    for name, count, with_gold in (("gold", 0, True), ("among", 3, True), ("none", 3, False)):
        shown = [
            [
                Document(p.text, metadata={"title": p.title})
                for p in [*([e.gold] if with_gold else []), *e.distractors[:count]]
            ]
            for e in examples
        ]
        found = reader.candidates(asked, shown, n=1)
        said = [answers[0].text if answers else "" for answers in found]
        if with_gold:
            rows[f"{name}_em"] = sum(exact_match(s, e.answers) for s, e in zip(said, examples, strict=True))
            rows[f"{name}_f1"] = sum(token_f1(s, e.answers) for s, e in zip(said, examples, strict=True))
        refused = sum(not answers or answers[0].no_answer > reader.refusal for answers in found)
        rows[f"{name}_refused"] = refused
    return {name: round(value / len(examples), 4) for name, value in rows.items()}


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Tells of every step, and a few times in a training how well the held-out examples are read."""

    def __init__(
        self,
        reader: SpanReader,
        held: Sequence[ReadingExample],
        how: SpanTraining,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.reader, self.held, self.how, self.progress = reader, held, how, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = max(1, state.max_steps // max(1, self.how.evaluations))
        ends = state.global_step % every == 0 or state.global_step == state.max_steps
        if self.held and self.how.evaluations and ends:
            # With the trainer's own log, so that a training that was killed still knows it.
            row = {f"read_{name}": value for name, value in evaluate_reader(self.reader, self.held).items()}
            state.log_history.append({"step": state.global_step, **row})
            _logger.info("step %d: %s", state.global_step, row)
        if self.progress is not None:
            losses = [row["loss"] for row in state.log_history if "loss" in row]
            loss = losses[-1] if losses else math.nan
            self.progress(Progress(state.global_step, state.max_steps, loss, math.nan))


_SETTINGS, _TRAINING = SpanSettings(), SpanTraining()


def train_span_reader(
    examples: Sequence[ReadingExample],
    out: str | Path,
    *,
    settings: SpanSettings = _SETTINGS,
    how: SpanTraining = _TRAINING,
    start: str | Path | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport | None:
    """Trains a span reader and writes it to a folder that `SpanReader` reads.

    The embeddings of tokens stay as they are: they hold half of a small encoder's weights, so that what is
    trained is small enough to be sent along. On a CPU with bf16 units (AMX) matrices are multiplied in bf16.
    Killed, the same call goes on from its last checkpoint; with one thread the same examples, settings and
    seed give the same weights on one machine.

    Args:
        examples: Questions with passages.
        out: The folder to write: the weights, their settings, `card.json` and `README.md`.
        settings: The encoder and its lengths.
        how: Rates, sizes, seed.
        start: Folder of a span reader to go on from, whose settings then count instead of `settings`. What it
            knows is kept best with a third of the usual rates.
        notes: More for the card.
        progress: Called after every step.

    Returns:
        How it went; `None` if the folder holds this very training already.

    Raises:
        InputError: If there are not more examples than are held out, or the folder holds something else.
    """
    if len(examples) <= how.held_out:
        raise InputError(
            f"{len(examples)} examples, of which {how.held_out} are held out: too few to train. Give more "
            "records with a gold passage that holds the answer, as `agentprm synth` makes them."
        )
    torch.manual_seed(how.seed)
    if start is None:
        encoder, tokenizer = load_encoder(settings.base)
        model = SpanModel(encoder, settings.answer_tokens)
    else:
        model, tokenizer, settings = load_span_model(start)
    model.encoder.embeddings.requires_grad_(False)
    run = {
        "kind": "span reader",
        "base": settings.base,
        "settings": asdict(settings),
        "training": asdict(how),
        "start": trained_digest(model) if start is not None else None,
        "examples": len(examples),
        "examples_sha256": digest([asdict(example) for example in examples]),
    }
    folder = TrainingFolder(out, run)
    if folder.card is not None:
        return None
    mixed = list(examples)
    random.Random(how.seed).shuffle(mixed)
    held, used = mixed[: how.held_out], mixed[how.held_out :]
    pad = tokenizer.pad_token_id or 0

    def together(rows: list[Group]) -> dict[str, Any]:
        # Gold passages and distractors differ in length: windows of like length go through together.
        every = [row for group in rows for row in group.rows]
        order = sorted(range(len(every)), key=lambda i: len(every[i].input_ids))
        size = -(-len(order) // 3)
        cuts = [order[at : at + size] for at in range(0, len(order), size)]
        parts = [(cut, collate([every[i] for i in cut], pad)) for cut in cuts]
        return {"groups": rows, "parts": parts}

    trainer = _Trainer(
        model=model,
        args=_arguments(folder.checkpoints, how),
        train_dataset=_Groups(used, tokenizer, settings, how),
        data_collator=together,
    )
    trainer.how = how
    trainer.lengths = [len(example.question) + len(example.gold.text) for example in used]
    reader = SpanReader.of(model, tokenizer, settings)
    trainer.add_callback(_Watch(reader, held, how, progress))
    trainer.remove_callback(PrinterCallback)
    report = run_trainer(trainer, folder.checkpoints)
    read = [row for row in trainer.state.log_history if "read_gold_em" in row]
    folder.finish(reader.save, report, {**(notes or {}), "held_out_read": read})
    return report


def _arguments(checkpoints: Path, how: SpanTraining) -> TrainingArguments:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=how.epochs,
        max_steps=how.max_steps,
        learning_rate=how.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=how.warmup,
        max_grad_norm=1.0,
        logging_steps=50,
        save_steps=_SAVED_EVERY,
        save_total_limit=1,
        bf16=use_bfloat16("auto", device),
        use_cpu=device.type == "cpu",
        seed=how.seed,
        data_seed=how.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        # On a GPU the tokens would come too slowly from one process.
        dataloader_num_workers=4 if device.type == "cuda" else 0,
        report_to=[],
        label_names=[],
        disable_tqdm=True,
    )
