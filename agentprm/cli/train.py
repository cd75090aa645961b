"""`agentprm train`: trains a planner, a reader, a critic or an explainer on files of examples."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from agentprm.cli.console import error_console, progress_bar, show, tell
from agentprm.cli.options import add_command, add_counts, add_names, not_negative, whole
from agentprm.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console

    from agentprm.training.data import Record
    from agentprm.training.fitting import FitReport, Progress, TrainSettings

__all__ = ["add"]

_DEV = 400  # questions held out at most
_RANK = 16  # of an adapter
_KINDS = {"reader": ("span", "lm"), "critic": ("labels", "encoder", "pairs", "outcomes")}


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "train",
        run,
        "train a planner, a reader or a critic",
        "Trains a small model on files of examples (docs/training.md), on one processor core or a GPU. A "
        "planner splits questions into sub-questions, a reader answers from passages, a critic scores steps "
        "or candidates, an explainer says what is wrong with a step. A command that was stopped goes on when "
        "it is repeated.",
        "agentprm train planner plans.jsonl -o my-planner\n"
        "  agentprm train reader reading.jsonl --from packaged -o my-reader\n"
        "  agentprm train critic labels.jsonl -o my-critic",
    )
    command.add_argument("what", choices=tuple(_TRAINERS), help="what to train")
    command.add_argument(
        "data", metavar="DATA", nargs="+", help="files of examples, or folders that hold them"
    )
    command.add_argument("-o", "--output", metavar="OUT", required=True, help="folder to write")
    command.add_argument(
        "--kind",
        choices=[kind for kinds in _KINDS.values() for kind in kinds],
        help="of reader: an encoder that quotes (span), or a language model (lm); of critic: a language "
        "model (labels) or a small encoder (encoder) from labelled steps, from pairs of candidates (pairs), "
        "or from outcomes (outcomes). The first is the default",
    )
    family = "for a critic of labels or pairs: how it is read (labels: trl, pairs: skywork)"
    add_names(command, {"--family": family})
    command.add_argument(
        "--plans",
        metavar="FILE",
        nargs="*",
        default=[],
        help="for a span reader: plans, whose steps it learns",
    )
    command.add_argument(
        "--readings",
        metavar="FILE",
        nargs="*",
        default=[],
        help="for a planner: examples of reading, of whose questions and passages further plans are composed",
    )
    sizes = {
        "--composed": "for a planner: most plans that are composed (12,000)",
        "--per-set": "for a span reader: most examples of a set (1,500)",
        "--facts": "for a span reader: questions about facts that passages state, at most N of a relation "
        "(none)",
        "--multi-hop": "for a span reader: questions that need several passages, at most N of a set (none)",
        "--families": "for a span reader: questions about families (none)",
        "--distractors": "for a span reader: passages beside the gold one (1)",
        "--groups": "for a span reader: questions of a step (8)",
    }
    add_counts(command, sizes)
    command.add_argument(
        "--from", dest="start", metavar="FOLDER", help="for a span reader: one to go on from, or 'packaged'"
    )
    add_names(command, {"--base": "model to train, a name or folder (default: packaged)"})
    add_counts(command, {"--limit": "only N examples, drawn at random"})
    command.add_argument("--dev", type=not_negative, metavar="SHARE", help="of questions held out (0.1)")
    command.add_argument("--epochs", type=not_negative, metavar="N", help="passes over the examples")
    command.add_argument("--learning-rate", type=not_negative, metavar="RATE", help="at its peak")
    steps = {
        "--max-steps": "steps at most",
        "--batch-tokens": "tokens of a step",
        "--evaluate-every": "steps between evaluations",
        "--patience": "evaluations without gain until it stops",
    }
    add_counts(command, steps)
    command.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="of products (auto)")
    command.add_argument(
        "--rank", type=whole, metavar="N", help="of the adapter (16); 0 for none, in a critic of kind encoder"
    )
    add_names(command, {"--device": "cpu, cuda, … (default: cuda if there is any)"})
    command.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same weights (0)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console(args.quiet)
    if args.what != "planner" and any(getattr(args, name) for name in _OF_PLANNERS):
        raise ConfigurationError("--readings and --composed are for planners.")
    if args.composed and not args.readings:
        raise ConfigurationError("--composed needs examples of reading to compose plans of (--readings).")
    kinds = _KINDS.get(args.what, ())
    if args.kind is None:
        args.kind = next(iter(kinds), None)
    elif args.kind not in kinds:
        known = f"kinds {', '.join(kinds)}" if kinds else "one kind"
        raise ConfigurationError(f"A {args.what} has {known}: there is no {args.kind!r}.")
    if args.family and args.kind not in ("labels", "pairs"):
        raise ConfigurationError("--family is for critics of labels or pairs.")
    report = _TRAINERS[args.what](args, progress)
    if report is None:
        show(f"{args.output} holds this {args.what} already, trained to its end.")
        return 0
    dev = dict(report.dev_losses).get(report.best_step)
    note = f", loss on questions held out {dev:.3f} at step {report.best_step:,}" if dev is not None else ""
    early = " (stopped early)" if report.steps < report.planned else ""
    show(
        f"Trained a {args.what} into {args.output}: {report.steps:,} steps{early} in "
        f"{report.seconds / 60:.1f} minutes{note}."
    )
    return 0


def _planner(args: argparse.Namespace, progress: Console) -> FitReport | None:
    from agentprm.training.data import PlanRecord, ReadingRecord, read_records
    from agentprm.training.planner import plan_examples

    composed: list[PlanRecord] = []
    if args.readings:
        from agentprm.training.compositions import composed_plans

        readings = [record for path in args.readings for record in read_records(path, ReadingRecord)]
        tell(progress, f"Composing plans of {len(readings):,} records of reading")
        composed = composed_plans(readings, args.composed or 12_000, seed=args.seed)
    return _train_text(args, progress, PlanRecord, plan_examples, composed)


_OF_PLANNERS = ("readings", "composed")
_OF_SPAN_READERS = ("plans", "start", "facts", "per_set", "multi_hop", "families", "distractors", "groups")
# What a span reader's training has no use for.
_OF_LANGUAGE_MODELS = (
    "dev", "batch_tokens", "evaluate_every", "patience", "precision", "rank", "device",
)  # fmt: skip


def _reader(args: argparse.Namespace, progress: Console) -> FitReport | None:
    if args.kind == "span":
        return _span_reader(args, progress)
    from agentprm.training.data import ReadingRecord
    from agentprm.training.language_reader import reading_examples

    return _train_text(
        args, progress, ReadingRecord, lambda records: reading_examples(records, seed=args.seed)
    )


def _span_reader(args: argparse.Namespace, progress: Console) -> FitReport | None:
    import random
    from dataclasses import replace

    from agentprm.packaged import packaged_reader_folder
    from agentprm.readers.span_reader import SpanSettings
    from agentprm.training.data import PlanRecord, ReadingRecord, read_records
    from agentprm.training.span_examples import span_examples
    from agentprm.training.span_reader import SpanTraining, train_span_reader

    _refuse(args, _OF_LANGUAGE_MODELS, "language models (--kind lm)")
    if args.start and args.base:
        raise ConfigurationError("A reader to go on from (--from) has its encoder already: leave out --base.")
    start = packaged_reader_folder() if args.start == "packaged" else args.start
    readings = [record for path in args.data for record in read_records(path, ReadingRecord)]
    plans = [record for path in args.plans for record in read_records(path, PlanRecord)]
    tell(progress, f"Looking for hard distractors among the passages of {len(readings):,} records")
    examples = span_examples(
        readings,
        plans,
        per_set=args.per_set or 1500,
        per_relation=args.facts or 0,
        multi_hop=args.multi_hop or 0,
        families=args.families or 0,
        seed=args.seed,
    )
    if args.limit:
        examples = random.Random(args.seed).sample(examples, min(args.limit, len(examples)))
    how = SpanTraining(seed=args.seed)
    how = replace(how, held_out=min(how.held_out, len(examples) // 10))  # a small folder trains, too
    if start:  # what is known already is kept best with smaller steps
        how = replace(how, learning_rate=how.learning_rate / 3, head_rate=how.head_rate / 3)
    options = ("epochs", "max_steps", "learning_rate", "distractors", "groups")
    how = replace(how, **{name: value for name in options if (value := getattr(args, name)) is not None})
    settings = SpanSettings(args.base) if args.base else SpanSettings()
    notes = {"command": _command(), "sets": dict(Counter(record.set for record in readings))}
    with _bar(progress) as advance:
        return train_span_reader(
            examples, args.output, settings=settings, how=how, start=start, notes=notes, progress=advance
        )


def _critic(args: argparse.Namespace, progress: Console) -> FitReport | None:
    from agentprm.training.data import PreferenceRecord, StepLabelRecord
    from agentprm.training.preferences import train_log_ratio
    from agentprm.training.reward_model import train_critic, train_reward_model

    family = {"family": args.family} if args.family else {}
    if args.kind == "encoder":
        return _step_critic(args, progress)
    if args.kind == "pairs":
        return _train(args, progress, PreferenceRecord, train_critic, **family)
    if args.kind == "outcomes":
        return _train(args, progress, StepLabelRecord, train_log_ratio)
    return _train(args, progress, StepLabelRecord, train_reward_model, **family)


def _step_critic(args: argparse.Namespace, progress: Console) -> FitReport | None:
    from agentprm.rewards.step_critic import CriticSettings
    from agentprm.training.data import StepLabelRecord
    from agentprm.training.step_critic import train_step_critic

    _refuse(args, _OF_SPAN_READERS, "span readers (--kind span)")
    records, dev = _records(args, StepLabelRecord, ())
    records = records[: args.limit]
    tell(progress, f"{len(records):,} trajectories to train on, {len(dev):,} held out")
    rank = _RANK if args.rank is None else args.rank
    critic = CriticSettings(base=args.base or "reader", rank=rank, alpha=2 * rank or 1)
    notes = {"command": _command(), "sets": dict(Counter(record.set for record in records))}
    with _bar(progress) as advance:
        return train_step_critic(
            records,
            args.output,
            dev=dev,
            critic=critic,
            settings=_settings(args),
            device=args.device,
            notes=notes,
            progress=advance,
        )


def _explainer(args: argparse.Namespace, progress: Console) -> FitReport | None:
    from agentprm.training.data import PreferenceRecord
    from agentprm.training.preferences import critique_replies, train_by_judgements

    return _train(
        args, progress, PreferenceRecord, train_by_judgements, critique_replies, kind="explanation model"
    )


_TRAINERS: dict[str, Callable[[argparse.Namespace, Any], Any]] = {
    "planner": _planner,
    "reader": _reader,
    "critic": _critic,
    "explainer": _explainer,
}


def _train_text(
    args: argparse.Namespace,
    progress: Console,
    kind: type[Record],
    examples_of: Callable[[Sequence[Any]], Sequence[Any]],
    further: Sequence[Record] = (),
) -> FitReport | None:
    """Trains a language model on the replies that records of a kind give, and further ones."""
    from agentprm.training.language_model import train_language_model

    return _train(args, progress, kind, train_language_model, examples_of, further, kind=args.what)


def _train(
    args: argparse.Namespace,
    progress: Console,
    record: type[Record],
    train: Callable[..., FitReport | None],
    examples_of: Callable[[Sequence[Any]], Sequence[Any]] = list,
    further: Sequence[Record] = (),
    **more: Any,
) -> FitReport | None:
    """Calls a trainer with the examples that records of a kind give, and the options."""
    from agentprm.training.lora import LoraSettings

    _refuse(args, _OF_SPAN_READERS, "span readers (--kind span)")
    records, held_out = _records(args, record, further)
    # Not every record gives an example; the card names the sets of those that do.
    used = [(one.set, example) for one in records for example in examples_of([one])][: args.limit]
    examples, dev = [example for _, example in used], examples_of(held_out)
    tell(
        progress,
        f"{len(examples):,} examples to train on, {len(dev):,} held out, "
        f"from {len(records) + len(held_out):,} records",
    )
    rank = _RANK if args.rank is None else args.rank
    with _bar(progress) as advance:
        return train(
            examples,
            args.output,
            base=args.base,
            dev=dev,
            settings=_settings(args),
            lora=LoraSettings(rank=rank, alpha=2 * rank or 1),
            device=args.device,
            notes={"command": _command(), "sets": dict(Counter(name for name, _ in used))},
            progress=advance,
            **more,
        )


def _refuse(args: argparse.Namespace, names: Sequence[str], kind: str) -> None:
    """Says that options are for another kind."""
    for name in names:
        if getattr(args, name) not in (None, []):
            flag = {"start": "from"}.get(name, name.replace("_", "-"))
            raise ConfigurationError(f"--{flag} is for {kind}.")


def _records(
    args: argparse.Namespace, kind: type[Record], further: Sequence[Record]
) -> tuple[list[Any], list[Any]]:
    """Records to train on, in an order drawn at random, and those held out."""
    import random

    from agentprm.training.data import read_records
    from agentprm.training.splits import split_by_question

    records = [*(record for path in args.data for record in read_records(path, kind)), *further]
    train, dev = split_by_question(records, 0.1 if args.dev is None else args.dev, seed=args.seed)
    rng = random.Random(args.seed)
    rng.shuffle(train)
    rng.shuffle(dev)
    return train, dev[:_DEV]


def _settings(args: argparse.Namespace) -> TrainSettings:
    from dataclasses import fields

    from agentprm.training.fitting import TrainSettings

    given = {
        f.name: value for f in fields(TrainSettings) if (value := getattr(args, f.name, None)) is not None
    }
    return TrainSettings(**given)


def _command() -> str:
    return shlex.join(["agentprm", *sys.argv[1:]])


@contextmanager
def _bar(progress: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar with the losses and the time left."""
    try:
        with progress_bar(progress, disable=progress.quiet, speed_estimate_period=600) as bar:
            task = bar.add_task("Training", total=None)

            def advance(state: Progress) -> None:
                losses = [("loss", state.loss), ("held out", state.dev_loss)]
                known = [f"{name} {value:.3f}" for name, value in losses if not math.isnan(value)]
                bar.update(
                    task,
                    total=state.steps,
                    completed=state.step,
                    description=", ".join(["Training", *known]),
                )

            yield advance
    except KeyboardInterrupt:
        tell(progress, "What has been learned is kept; the same command goes on from the last checkpoint.")
        raise
