"""`agentprm eval-reward`: reward models measured on data with known labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agentprm.cli.console import error_console, show, show_json, tell
from agentprm.cli.options import add_command, count
from agentprm.errors import InputError

__all__ = ["add"]


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "eval-reward",
        run,
        "measure reward models on labelled steps and candidates",
        "Scores the items of a JSON Lines file and prints the measures of its kind: ProcessBench, PRMBench, "
        "AgentProcessBench or best of n, which its fields tell. With a folder for the results the command "
        "goes on where it was stopped.",
        "agentprm eval-reward gsm8k.jsonl --reward grounding --reward self-judgement -o results\n"
        "  agentprm eval-reward candidates.jsonl --reward Qwen/Qwen2.5-Math-PRM-7B --aggregation product",
    )
    command.add_argument("data", metavar="FILE", help="JSON Lines file")
    command.add_argument(
        "--reward",
        metavar="NAME",
        action="append",
        required=True,
        help="as for ask; give it again to compare several",
    )
    command.add_argument("--model", metavar="NAME", help="model of rewards that need one (default: packaged)")
    command.add_argument(
        "--reader", metavar="NAME", default="packaged", help="reader of the reward 'reader' (packaged)"
    )
    command.add_argument("--limit", type=count, metavar="N", help="only the first N items")
    command.add_argument(
        "-o", "--out", metavar="DIR", help="folder for scores and the report, to resume from"
    )
    command.add_argument("--jobs", type=count, default=1, metavar="N", help="items scored at once (1)")
    command.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="score below which a step is wrong (ProcessBench: fitted; else the reward's own)",
    )
    command.add_argument(
        "--aggregation",
        metavar="NAME",
        help="how a candidate's scores become one: min, max, product, last, mean, geometric_mean, sum or "
        "first_error (default: the reward's own, else last)",
    )
    command.add_argument("--json", action="store_true", help="print the measures as JSON")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console(args.quiet)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from agentprm.evaluation.reward_report import evaluate_rewards, reward_html, reward_markdown
    from agentprm.evaluation.reward_sets import read_reward_set
    from agentprm.scale import LocalExecutor

    data = read_reward_set(args.data, args.limit)
    names = list(dict.fromkeys(args.reward))
    folder = None if args.out is None else _made(Path(args.out))
    with progress.status("Loading the models"):
        rewards = _rewards(names, args.model, args.reader)
    columns = (TextColumn("Scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=progress) as bar:
        task = bar.add_task("", total=len(data.items) * len(names))
        found = evaluate_rewards(
            data,
            rewards,
            journal=":memory:" if folder is None else folder / "scores.sqlite",
            executor=LocalExecutor(args.jobs),
            threshold=args.threshold,
            aggregation=args.aggregation,
            on_item=lambda name: bar.advance(task),
        )
        bar.update(task, completed=len(data.items) * len(names))
    text = reward_markdown(found)
    if args.json:
        show_json(found.as_dict())
    else:
        show(text)
    if folder is not None:
        (folder / "rewards.md").write_text(text, encoding="utf-8")
        (folder / "rewards.html").write_text(reward_html(found), encoding="utf-8", errors="backslashreplace")
        (folder / "rewards.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
        tell(progress, f"The report is in {folder / 'rewards.html'}.")
    return 0


def _rewards(names: list[str], model_name: str | None, reader_name: str) -> dict[str, Any]:
    """The rewards by name; one that needs no language model loads none."""
    from agentprm.cli.models import is_reward_of_model, model_called, reader_called, reward_called

    model = model_called(model_name) if any(map(is_reward_of_model, names)) else None
    reader = reader_called(reader_name, packaged_model=False) if "reader" in names else None
    suffix = f" ({model_name})" if model_name else ""
    return {
        name + (suffix if is_reward_of_model(name) else ""): reward_called(name, model, reader)  # type: ignore[arg-type]
        for name in names
    }


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be made: {error.strerror or error}.") from error
    return folder
