"""`agentprm eval-reward`: reward models measured on data with known labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.cli.console import error_console, progress_bar, show, show_json, tell
from agentprm.cli.options import add_command, count

if TYPE_CHECKING:
    from rich.console import Console

    from agentprm.evaluation.reward_report import RewardEvaluation
    from agentprm.evaluation.reward_sets import RewardSet

__all__ = ["add", "add_reward_options", "measure"]


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
    add_reward_options(command)
    command.add_argument(
        "-o",
        "--output",
        "--out",
        dest="out",
        metavar="DIR",
        help="folder for scores and the report, to resume from",
    )
    command.add_argument("--jobs", type=count, default=1, metavar="N", help="items scored at once (1)")
    command.add_argument("--json", action="store_true", help="print the measures as JSON")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def add_reward_options(command: argparse.ArgumentParser) -> None:
    """Adds what a table `[[reward]]` of a file of `agentprm eval` may say, too."""
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


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console(args.quiet)
    from agentprm.evaluation.reward_report import reward_markdown
    from agentprm.evaluation.reward_sets import read_reward_set

    data = read_reward_set(args.data, args.limit)
    folder = None if args.out is None else Path(args.out)
    found = measure(data, args, progress, folder, args.jobs)
    if args.json:
        show_json(found.as_dict())
    else:
        show(reward_markdown(found))
    if folder is not None:
        tell(progress, f"The report is in {folder / 'rewards.html'}.")
    return 0


def measure(
    data: RewardSet, args: argparse.Namespace, progress: Console, folder: Path | None, jobs: int
) -> RewardEvaluation:
    """Scores items with rewards and keeps scores and reports.

    Args:
        data: The items.
        args: The options of `add_reward_options`.
        progress: Where loading and scoring are told.
        folder: Where scores, for the next run, and reports are kept, if anywhere.
        jobs: Items scored at once.
    """
    from agentprm.evaluation.reward_report import evaluate_rewards, reward_html, reward_markdown
    from agentprm.evaluation.runner import made_folder
    from agentprm.scale import LocalExecutor

    names = list(dict.fromkeys(args.reward))
    if folder is not None:
        made_folder(folder)
    with progress.status("Loading the models"):
        rewards = _rewards(names, args.model, args.reader)
    with progress_bar(progress, "Scoring") as bar:
        task = bar.add_task("", total=len(data.items) * len(names))
        found = evaluate_rewards(
            data,
            rewards,
            journal=":memory:" if folder is None else folder / "scores.sqlite",
            executor=LocalExecutor(jobs),
            threshold=args.threshold,
            aggregation=args.aggregation,
            on_item=lambda name: bar.advance(task),
        )
        bar.update(task, completed=len(data.items) * len(names))
    if folder is not None:
        (folder / "rewards.md").write_text(reward_markdown(found), encoding="utf-8")
        (folder / "rewards.html").write_text(reward_html(found), encoding="utf-8", errors="backslashreplace")
        (folder / "rewards.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
    return found


def _rewards(names: list[str], model_name: str | None, reader_name: str) -> dict[str, Any]:
    """The rewards by name; one that needs no language model loads none."""
    from agentprm.cli.models import is_reward_of_model, model_called, reader_called, reward_called

    model = model_called(model_name) if any(map(is_reward_of_model, names)) else None
    reader = reader_called(reader_name, packaged_model=False) if "reader" in names else None

    def known_as(name: str) -> str:
        """With what it is computed by, so that scores of another one are not taken for its own."""
        by = model_name if is_reward_of_model(name) else reader_name if name == "reader" else None
        return name if by in (None, "packaged") else f"{name} ({by})"

    return {known_as(name): reward_called(name, model, reader) for name in names}  # type: ignore[arg-type]
