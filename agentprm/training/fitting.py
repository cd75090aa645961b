"""`fit`: the training loop that every trainer here shares, on `transformers.Trainer`.

A trainer gives a model, examples and an `Objective`: how long an example is, how examples become a batch,
and the loss of a batch. `fit` gives batches of nearly equal length, the schedule, clipping, evaluation and
early stopping, and checkpoints from which the same call goes on after it was killed, to the same weights.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from agentprm.errors import ConfigurationError, InputError

__all__ = [
    "FitReport",
    "Objective",
    "Progress",
    "TrainSettings",
    "fit",
    "padded",
    "plan_batches",
    "run_trainer",
    "use_bfloat16",
]

T = TypeVar("T")

_WEIGHTS = "trainable.safetensors"
_STATE = "trainer_state.json"
_POOL = 64  # batches whose examples are sorted by length together


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        seed: Of the order of the examples and of all that begins at random.
        epochs: Passes over the examples.
        max_steps: Most steps of the optimizer; `None` goes by `epochs` alone.
        learning_rate: At its peak.
        schedule: How it falls after the peak.
        warmup: Share of the steps up to the peak.
        weight_decay: Of AdamW.
        clip: Longest gradient, as its norm; longer ones are shortened to it.
        batch_tokens: Tokens of a step, padding included. A single longer example is a step of its own.
        evaluate_every: Steps between two evaluations, and between two checkpoints.
        patience: Evaluations without a better loss after which training stops; `None` never stops early.
        precision: `"bf16"` computes the products of matrices in bfloat16, weights and their updates
            staying in fp32; `"auto"` does so where the machine has instructions for it.
    """

    seed: int = 0
    epochs: float = 1.0
    max_steps: int | None = None
    learning_rate: float = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_tokens: int = 2048
    evaluate_every: int = 100
    patience: int | None = 4
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "clip", "batch_tokens", "evaluate_every"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be positive, not {getattr(self, name)}.")
        for name in ("max_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1 or None, not {value}.")
        if not 0 <= self.warmup < 1:
            raise ConfigurationError(f"warmup must lie in [0, 1), not {self.warmup}.")
        if not self.weight_decay >= 0:
            raise ConfigurationError(f"weight_decay must be at least 0, not {self.weight_decay}.")
        if self.schedule not in _SCHEDULES:
            raise ConfigurationError(
                f"schedule must be one of {', '.join(_SCHEDULES)}, not {self.schedule!r}."
            )
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ConfigurationError(f"precision must be auto, fp32 or bf16, not {self.precision!r}.")


_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Objective(Generic[T]):
    """What a model is trained for.

    Attributes:
        length: Tokens of an example.
        collate: Examples as a batch of tensors.
        loss: The summed loss of a batch and the weight that it is divided by, for instance the number of
            its labels.
    """

    length: Callable[[T], int]
    collate: Callable[[Sequence[T]], dict[str, Any]]
    loss: Callable[[Any, dict[str, Any]], tuple[torch.Tensor, float]]


class Progress(NamedTuple):
    """How far training is.

    Attributes:
        step: Steps done, those before an interruption included.
        steps: Steps in all.
        loss: Mean training loss since the last report; NaN before the first.
        dev_loss: Loss of the last evaluation; NaN before the first.
    """

    step: int
    steps: int
    loss: float
    dev_loss: float


@dataclass(frozen=True)
class FitReport:
    """What a training did.

    Attributes:
        steps: Steps done; fewer than planned if it stopped early.
        planned: Steps planned.
        resumed_at: The step at which it went on from a checkpoint; 0 for none.
        losses: Training losses as (step, mean since the one before).
        dev_losses: Losses of the evaluations as (step, loss).
        best_step: The step whose weights the model has now.
        seconds: Time of this call.
    """

    steps: int
    planned: int
    resumed_at: int
    losses: list[tuple[int, float]] = field(default_factory=list)
    dev_losses: list[tuple[int, float]] = field(default_factory=list)
    best_step: int = 0
    seconds: float = 0.0


def use_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether products are computed in bfloat16: where they are asked for, or faster."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without tile instructions bfloat16 is slower than fp32 on most processors.
    return device.type == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def padded(rows: Sequence[Sequence[int]], pad: int) -> dict[str, Any]:
    """Rows of tokens side by side: `input_ids` and `attention_mask` `[rows, tokens]`.

    Args:
        rows: The rows.
        pad: Token id that fills short ones; it is never attended to.
    """
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    return {"input_ids": pad_sequence(ids, batch_first=True, padding_value=pad), "attention_mask": mask}


def plan_batches(lengths: Sequence[int], budget: int, epochs: float, seed: int) -> list[list[int]]:
    """The batches of a training, as numbers of examples.

    Every epoch shuffles the examples, sorts them by length within pools of many batches, fills batches up to
    the budget, and shuffles these: hardly anything is padding, and what meets in a batch changes.

    Args:
        lengths: Tokens of each example.
        budget: Most tokens of a batch: its longest example times their number.
        epochs: Passes over the examples; the last one may be a part.
        seed: Of the shuffles.
    """
    batches: list[list[int]] = []
    whole = math.ceil(epochs)
    for epoch in range(whole):
        rng = random.Random(f"{seed}/{epoch}")
        order = list(range(len(lengths)))
        rng.shuffle(order)
        own: list[list[int]] = []
        for pool in _pools(order, lengths, budget * _POOL):
            own += _filled(sorted(pool, key=lambda i: lengths[i]), lengths, budget)
        rng.shuffle(own)
        share = epochs - epoch if epoch == whole - 1 else 1.0
        batches += own[: max(1, round(len(own) * share))]
    return batches


def _pools(order: Sequence[int], lengths: Sequence[int], size: int) -> list[list[int]]:
    pools: list[list[int]] = [[]]
    held = 0
    for i in order:
        if held >= size:
            pools.append([])
            held = 0
        pools[-1].append(i)
        held += lengths[i]
    return pools


def _filled(pool: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of a pool in ascending length, so that each new example is the longest of its batch."""
    batches: list[list[int]] = []
    for i in pool:
        if not batches or (len(batches[-1]) + 1) * lengths[i] > budget:
            batches.append([])
        batches[-1].append(i)
    return batches


def fit(
    model: torch.nn.Module,
    examples: Sequence[T],
    objective: Objective[T],
    folder: Path,
    settings: TrainSettings | None = None,
    *,
    dev: Sequence[T] = (),
    progress: Callable[[Progress], None] | None = None,
) -> FitReport:
    """Trains a model in place: those of its parameters that require a gradient.

    With `dev` it ends with the weights of the best evaluation, else with the last ones. What begins at
    random in the model must have been seeded by the caller.

    Args:
        model: The model, on its device.
        examples: What to train on.
        objective: What for.
        folder: Where checkpoints go. A call that was killed goes on from its last one.
        settings: How.
        dev: Examples to evaluate on while training.
        progress: Called after every step.

    Raises:
        InputError: Without examples.
        ConfigurationError: If the loss becomes infinite or no number.
    """
    settings = settings or TrainSettings()
    if not examples:
        raise InputError("There is nothing to train on: no example is left.")
    batches = plan_batches(
        [objective.length(example) for example in examples],
        settings.batch_tokens,
        settings.epochs,
        settings.seed,
    )[: settings.max_steps]
    held_out = _filled(
        sorted(range(len(dev)), key=lambda i: objective.length(dev[i])),
        [objective.length(example) for example in dev],
        settings.batch_tokens,
    )
    loop = _Loop(
        model,
        objective,
        _Batches([[examples[i] for i in batch] for batch in batches], objective.collate),
        [[dev[i] for i in batch] for batch in held_out],
        _arguments(settings, folder, len(batches), model, evaluate=bool(dev)),
        use_bfloat16(settings.precision, _device(model)),
        settings.patience,
        progress,
    )
    model.train()
    report = run_trainer(loop, folder)
    model.eval()
    return report


def run_trainer(trainer: Trainer, folder: Path) -> FitReport:
    """Runs transformers' loop, from its last whole checkpoint on if it was killed.

    Args:
        trainer: The loop.
        folder: Where its checkpoints are.
    """
    start = time.perf_counter()
    last = _last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    state = trainer.state
    return FitReport(
        steps=state.global_step,
        planned=state.max_steps,
        resumed_at=int(last.name.rpartition("-")[2]) if last else 0,
        losses=[(row["step"], row["loss"]) for row in state.log_history if "loss" in row],
        dev_losses=[(row["step"], row["eval_loss"]) for row in state.log_history if "eval_loss" in row],
        best_step=state.best_global_step or state.global_step,
        seconds=time.perf_counter() - start,
    )


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def _arguments(
    settings: TrainSettings, folder: Path, steps: int, model: torch.nn.Module, *, evaluate: bool
) -> TrainingArguments:
    # A short training is evaluated a few times as well.
    every = min(settings.evaluate_every, max(1, math.ceil(steps / 4)))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_SCHEDULES[settings.schedule],
        warmup_steps=int(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        seed=settings.seed,
        use_cpu=_device(model).type == "cpu",
        eval_strategy="steps" if evaluate else "no",
        eval_on_start=False,
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=evaluate,
        metric_for_best_model="eval_loss" if evaluate else None,
        greater_is_better=False if evaluate else None,
        logging_steps=min(10, every),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    # Losses call parts of the model by themselves, which a copy on every GPU would not notice.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class _Batches(Dataset[dict[str, Any]]):
    """The batches in their order; each counts as one example of the loop, so that resuming is skipping."""

    def __init__(self, batches: Sequence[Sequence[Any]], collate: Callable[[Sequence[Any]], Any]) -> None:
        self._batches, self._collate = batches, collate

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch: dict[str, Any] = self._collate(self._batches[number])
        return batch


def _only(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return items[0]


class _Loop(Trainer):  # type: ignore[misc]
    """transformers' loop over planned batches, with an objective's loss and the trained weights alone."""

    def __init__(
        self,
        model: torch.nn.Module,
        objective: Objective[Any],
        batches: _Batches,
        dev: Sequence[Sequence[Any]],
        arguments: TrainingArguments,
        bfloat16: bool,
        patience: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._objective, self._dev, self._bfloat16 = objective, dev, bfloat16
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=batches,
            eval_dataset=batches if dev else None,  # asked for, and not used by `evaluate` below
            data_collator=_only,
        )
        self.remove_callback(PrinterCallback)
        self.add_callback(_Watch(patience, progress))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _lower_precision(self) -> Any:
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._bfloat16)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        with self._lower_precision():
            total, weight = self._objective.loss(model, inputs)
        if not torch.isfinite(total):
            raise ConfigurationError(
                f"The loss is {float(total.detach())} at step {self.state.global_step + 1}. Take a lower "
                "learning rate, or precision 'fp32', and a new folder."
            )
        return total / weight

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        was_training = self.model.training
        self.model.eval()
        total, weight = 0.0, 0.0
        with torch.no_grad(), self._lower_precision():
            for examples in self._dev:
                batch = self._prepare_inputs(self._objective.collate(examples))
                loss, own = self._objective.loss(self.model, batch)
                total, weight = total + float(loss), weight + float(own)
        self.model.train(was_training)
        metrics = {"eval_loss": total / weight}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().contiguous() for name, p in _trained(self.model)}, folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        tensors = load_file(Path(resume_from_checkpoint) / _WEIGHTS)
        with torch.no_grad():
            for name, parameter in _trained(model or self.model):
                parameter.copy_(tensors[name])

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(
            str(Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}")
        )


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Stops early and tells the progress, by the trainer's state alone, so that resuming is exact."""

    def __init__(self, patience: int | None, progress: Callable[[Progress], None] | None) -> None:
        self._patience, self._progress = patience, progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step:
            self._check(state, control)
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._tell(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._check(state, control)

    def _check(self, state: Any, control: Any) -> None:
        losses = _values(state, "eval_loss")
        if self._patience and losses and len(losses) - 1 - losses.index(min(losses)) >= self._patience:
            control.should_training_stop = True

    def _tell(self, state: Any) -> None:
        if self._progress is not None:
            loss, dev = _values(state, "loss"), _values(state, "eval_loss")
            self._progress(
                Progress(
                    state.global_step,
                    state.max_steps,
                    loss[-1] if loss else math.nan,
                    dev[-1] if dev else math.nan,
                )
            )


def _values(state: Any, name: str) -> list[float]:
    return [row[name] for row in state.log_history if name in row]


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; a killed process may leave a part of one, which is removed."""
    if not folder.is_dir():
        return None
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found:
        path = found.pop()
        # The state is written last.
        with contextlib.suppress(OSError, ValueError):
            json.loads((path / _STATE).read_text(encoding="utf-8"))
            return path
        shutil.rmtree(path)
    return None
