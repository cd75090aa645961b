"""`agentprm synth`: training data from an index that nobody labelled."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.cli import opening
from agentprm.cli.console import error_console, progress_bar, show, tell
from agentprm.cli.options import add_command, add_names, count, share, whole
from agentprm.errors import ConfigurationError, InputError, MissingDependencyError

if TYPE_CHECKING:
    from rich.console import Console

    from agentprm.training.synth import SynthReport

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "synth",
        run,
        "make training data from an index",
        "Makes questions with known answers, gold passages, distractors and sub-questions from what the "
        "passages of an index state of their subjects and of each other, without any label: reading.jsonl "
        "and plans.jsonl. With a reader only those stay that it answers from their passages and not "
        "without them. A command that was stopped goes on when it is repeated.",
        "agentprm synth my-index -o my-data --questions 2000\n"
        "  agentprm synth my-index -o my-data --reader ollama:llama3.2     checked by a chat model",
    )
    command.add_argument("index", metavar="INDEX", help="folder of an index")
    command.add_argument("-o", "--output", metavar="DATA", required=True, help="folder to write to")
    command.add_argument("--questions", type=count, default=1000, metavar="N", help="most to keep (1000)")
    models = {
        "--reader": "checks that questions can be read: a folder of a trained span reader, a chat model as "
        "provider:name, a server's address, a language model's name or folder, or 'none' (default: packaged)",
        "--writer": "chat model, server or language model that puts the questions in other words (default: "
        "none)",
    }
    add_names(command, models)
    command.add_argument(
        "--distractors", type=whole, default=4, metavar="N", help="other passages with each question (4)"
    )
    command.add_argument(
        "--unanswerable",
        type=share,
        default=0.2,
        metavar="SHARE",
        help="share of the questions of one hop to give once more without the passage that answers (0.2)",
    )
    add_names(command, {"--embeddings": "only needed where the index does not know its own"})
    command.add_argument(
        "--threads", type=count, default=1, metavar="N", help="batches at once, for readers on a server (1)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same questions (0)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console(args.quiet)
    target = Path(args.output)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file; give a folder for the data.")
    embeddings = opening.index_embeddings(args)
    from agentprm.cli.models import model_called
    from agentprm.training.synth import synthesize

    reader, name = checking_reader(args.reader, progress)
    writer = model_called(args.writer) if args.writer else None
    store = opening.open_store(args, embeddings, progress)
    try:
        with progress_bar(progress) as bar:
            reading = bar.add_task("Reading passages", total=len(store))
            asking = bar.add_task("Keeping questions", total=args.questions)
            report = synthesize(
                store,
                target,
                questions=args.questions,
                reader=reader,
                reader_name=name,
                writer=writer,
                writer_name=args.writer or "",
                distractors=args.distractors,
                unanswerable=args.unanswerable,
                threads=args.threads,
                seed=args.seed,
                on_passage=lambda done: bar.update(reading, completed=done),
                on_question=lambda kept: bar.update(asking, completed=kept),
            )
            bar.update(asking, completed=sum(report.kept.values()), total=sum(report.kept.values()))
    except KeyboardInterrupt:
        tell(progress, "What has been checked is kept; the same command goes on from there.")
        raise
    if report.failed:
        tell(progress, f"{report.failed} batches failed; the same command tries them again.")
    show(_summary(report, target))
    return 0


def checking_reader(name: str | None, progress: Console) -> tuple[Any, str]:
    """The reader behind a name, and the name it has in the journal; none where none is at hand."""
    if name == "none":
        return None, ""
    if name is None:
        from agentprm.packaged import default_reader

        try:
            return default_reader(), "packaged"
        except (MissingDependencyError, ConfigurationError) as error:
            tell(progress, f"Questions are not checked by a reader. {error}")
            return None, ""
    if (Path(name) / "span_reader.json").is_file():
        from agentprm.readers import SpanReader

        return SpanReader(name), str(Path(name).resolve())
    from agentprm.cli.models import model_called

    return model_called(name), name


def _summary(report: SynthReport, target: Path) -> str:
    names = {"one_hop": "of one hop", "two_hop": "of two", "comparison": "comparisons"}
    kinds = ", ".join(f"{report.kept[kind]:,} {name}" for kind, name in names.items() if kind in report.kept)
    lines = [
        f"{report.facts:,} facts in {report.passages:,} passages; kept {sum(report.kept.values()):,} of "
        f"{report.drafted:,} questions ({kinds or 'none'}), {report.unanswerable:,} of them also without an "
        f"answer. Written to {target}."
    ]
    lines += [f"Dropped {number:,}: {reason}." for reason, number in sorted(report.dropped.items())]
    return "\n".join(lines)
