"""`agentprm eval`: set-ups measured on the same questions."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentprm.cli import opening
from agentprm.cli.console import error_console, progress_bar, show, show_json, tell
from agentprm.cli.options import (
    add_command,
    add_counts,
    add_names,
    add_search_options,
    count,
    not_negative,
)
from agentprm.errors import InputError

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph
    from rich.console import Console
    from rich.progress import TaskID

    from agentprm.cli.experiments import Experiment, RewardRun, SetupRun
    from agentprm.evaluation import Evaluation, QaDataset, QaRecord, Setup
    from agentprm.evaluation.reward_report import RewardEvaluation
    from agentprm.evaluation.reward_sets import RewardSet
    from agentprm.retrievers import FaissStore
    from agentprm.scale import Executor

__all__ = ["add"]

# The options that name a model.
_NAMED = ("model", "reward", "reranker", "reader", "planner", "explainer")


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "eval",
        run,
        "measure and compare set-ups on a data set",
        "Asks the questions of a folder in the BEIR layout (queries.jsonl with 'answers', corpus.jsonl, "
        "qrels.tsv) or of a JSON Lines file, and measures answers, retrieval, citations and cost. A TOML or "
        "YAML file compares several set-ups, and measures reward models on labelled steps. With a folder for "
        "the results the command goes on where it was stopped, and writes a report.",
        "agentprm eval my-data --limit 50 -o results           one set-up, made of the options\n"
        "  agentprm eval my-comparison.toml --jobs 8            several, declared in a file\n"
        "  agentprm eval my-data --index my-index --ray auto -o results        on a Ray cluster",
    )
    command.add_argument(
        "what", metavar="DATA", help="the data, for one set-up; or a TOML or YAML file of several"
    )
    command.add_argument("--index", metavar="INDEX", help="index of the corpus (default: made in memory)")
    add_counts(command, {"--limit": "only the first N questions"})
    command.add_argument(
        "-o",
        "--output",
        "--out",
        dest="out",
        metavar="DIR",
        help="folder for answers, traces and the report, to resume from",
    )
    add_names(command, {"--judge": "a model that judges the answers"})
    command.add_argument("--jobs", type=count, default=1, metavar="N", help="questions asked at once (1)")
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="ask on a Ray cluster: its address, 'auto' for this machine's, 'local' for a new one here",
    )
    add_counts(command, {"--workers": "processes on the cluster (as many as it has room for)"})
    command.add_argument(
        "--gpus", type=not_negative, default=0.0, metavar="N", help="GPUs for each of them, or a share (0)"
    )
    command.add_argument("--json", action="store_true", help="print the measures as JSON")
    add_search_options(command)


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    progress = error_console(args.quiet)
    experiment = _experiment(args)
    executor = executor_of(args, experiment)
    labelled = _labelled(experiment)
    found = _answered(experiment, args, executor, progress) if experiment.rows else None
    scored = [_scored(data, row, experiment, args, progress) for data, row in labelled]
    if args.json:
        answers = {} if found is None else found.as_dict()
        show_json(answers | ({"rewards": [one.as_dict() for one in scored]} if scored else {}))
    if experiment.out is not None:
        page = "report.html" if found is not None else "rewards"
        tell(progress, f"The report is in {experiment.out / page}.")
    return 0


def _answered(
    experiment: Experiment, args: argparse.Namespace, executor: Executor | None, progress: Console
) -> Evaluation:
    """Asks the set-ups, writes the reports and shows them."""
    from agentprm.cli.models import model_called
    from agentprm.evaluation import evaluate, read_dataset

    assert experiment.data is not None  # set-ups have data
    data = read_dataset(experiment.data)
    if experiment.limit:
        data = replace(data, questions=data.questions[: experiment.limit])
    workshop = Workshop(data, progress, elsewhere=args.ray is not None)
    setups = [workshop.setup(row) for row in experiment.rows]
    judge = None if experiment.judge is None else model_called(experiment.judge)
    with _Bar(progress, len(setups) * len(data.questions), judged=judge is not None) as bar:
        found = evaluate(
            data,
            setups,
            out=experiment.out,
            jobs=args.jobs,
            executor=executor,
            judge=judge,
            judge_name=experiment.judge,
            baseline=experiment.baseline,
            on_record=bar.advance,
            on_verdict=bar.advance_judge,
        )
    if not args.json:
        _show(found)
    for note in found.notes:
        tell(progress, note)
    if experiment.out is not None:
        write_reports(found, experiment.out)
    return found


def _labelled(experiment: Experiment) -> list[tuple[RewardSet, RewardRun]]:
    """The files that rewards are measured on; first, so that mistakes show before the questions are asked."""
    from agentprm.evaluation.reward_sets import read_reward_set

    return [(read_reward_set(row.args.data, row.args.limit), row) for row in experiment.rewards]


def _scored(
    data: RewardSet, row: RewardRun, experiment: Experiment, args: argparse.Namespace, progress: Console
) -> RewardEvaluation:
    """Measures rewards on a file, writes the reports and shows them."""
    from agentprm.cli.eval_reward import measure
    from agentprm.evaluation.reward_report import reward_markdown

    folder = None if experiment.out is None else experiment.out / "rewards" / row.name
    found = measure(data, row.args, progress, folder, args.jobs)
    if not args.json:
        show(reward_markdown(found))
    return found


def write_reports(found: Evaluation, folder: Path) -> None:
    """Writes `report.html`, `report.md`, `report.json`, and `questions.jsonl` with a row per question."""
    from agentprm.evaluation import html_report, markdown_report

    texts = {
        "report.html": html_report(found),
        "report.md": markdown_report(found),
        "report.json": json.dumps(found.as_dict(), ensure_ascii=False, indent=1) + "\n",
        "questions.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows),
    }
    for name, text in texts.items():
        whole = folder / f"tmp-{name}"
        whole.write_text(text, encoding="utf-8", errors="backslashreplace")
        whole.replace(folder / name)


def _experiment(args: argparse.Namespace) -> Experiment:
    """What is to be measured: a file of set-ups, or the data and the one that the options make."""
    from agentprm.cli.experiments import Experiment, SetupRun, read_experiment

    path = Path(args.what)
    if path.suffix in (".toml", ".yaml", ".yml"):
        found = read_experiment(path, args)
    else:
        found = Experiment(path, (SetupRun(args.graph, args),))
    return replace(
        found,
        out=Path(args.out) if args.out else found.out,
        limit=args.limit or found.limit,
        judge=args.judge or found.judge,
    )


def executor_of(args: argparse.Namespace, experiment: Experiment) -> Executor | None:
    """Where the questions are asked, if not in threads of this process: on a Ray cluster."""
    if args.ray is None:
        if args.workers is not None or args.gpus:
            raise InputError("--workers and --gpus are for a Ray cluster; name it with --ray ADDRESS.")
        return None
    if any(row.args.index is None for row in experiment.rows):
        raise InputError("--ray needs --index: a folder that every machine of the cluster can read.")
    if experiment.rewards:
        raise InputError("Rewards are not scored on a Ray cluster: put [[reward]] into a file of their own.")
    from agentprm.scale import RayExecutor

    return RayExecutor(args.ray, workers=args.workers, threads=args.jobs, num_gpus=args.gpus)


class Workshop:
    """Makes the graphs of set-ups, each when it is first asked; what they share is opened once.

    Args:
        data: The questions, and the passages where no index is named.
        progress: Where loading is told.
        elsewhere: Whether the graphs are made in other processes.
    """

    def __init__(self, data: QaDataset, progress: Console, *, elsewhere: bool = False) -> None:
        self._data = data
        self._progress = progress
        self._elsewhere = elsewhere
        self._stores: dict[tuple[str | None, str], FaissStore] = {}
        self._models: dict[tuple[str | None, ...], Any] = {}

    def setup(self, row: SetupRun) -> Setup:
        """The set-up of a row.

        Raises:
            InputError: If it names no index and the data have no passages, or there is no such index.
        """
        from agentprm.evaluation import Setup

        args = row.args
        if args.index:
            embeddings = opening.index_embeddings(args)
        elif self._data.folder is None:
            raise InputError("A file of questions has no passages; name their index with --index.")
        else:
            embeddings = opening.embeddings_name(args.embeddings)
        settings = {**opening.settings_of(args, embeddings), **row.more}
        if args.index:
            settings["index"] = args.index
        if self._elsewhere:
            return Setup(row.name, _graph_elsewhere(args, row.more), settings, row.prices)
        return Setup(row.name, partial(self._graph, row, embeddings), settings, row.prices)

    def _graph(self, row: SetupRun, embeddings: str) -> CompiledStateGraph[Any]:
        args = row.args
        named = tuple(getattr(args, name) for name in _NAMED)
        if named not in self._models:
            self._models[named] = opening.open_models(args, self._progress)
        place = (args.index, embeddings)
        if place not in self._stores:
            self._stores[place] = self._store(args, embeddings)
        return opening.make_graph(args, self._models[named], self._stores[place], **row.more)

    def _store(self, args: argparse.Namespace, embeddings: str) -> FaissStore:
        from agentprm.retrievers import load_folder

        if args.index:
            return opening.open_store(args, embeddings, self._progress)
        assert self._data.folder is not None  # `setup` saw to it
        documents = load_folder(self._data.folder / "corpus.jsonl").documents
        return opening.build_store(documents, opening.embeddings_called(embeddings), self._progress)


def _graph_elsewhere(args: argparse.Namespace, more: Mapping[str, Any]) -> Callable[[], Any]:
    """Makes the graph in another process, perhaps on another machine with the same files."""
    options = {name: value for name, value in vars(args).items() if name != "command"}
    for name in ("index", "embeddings", *_NAMED):
        if options[name] and Path(options[name]).is_dir():
            options[name] = str(Path(options[name]).resolve())
    return partial(worker_graph, options, dict(more))


def worker_graph(options: dict[str, Any], more: dict[str, Any]) -> CompiledStateGraph[Any]:
    """Opens index and models in a process of a cluster.

    Args:
        options: The options of the command line, with absolute paths.
        more: Arguments of the graph beyond them.
    """
    args, progress = argparse.Namespace(**options), error_console(quiet=True)
    embeddings = opening.index_embeddings(args)
    models = opening.open_models(args, progress)
    store = opening.open_store(args, embeddings, progress)
    return opening.make_graph(args, models, store, **more)


class _Bar:
    """How many answers are there, how long the others will take, and the same of a judge's verdicts."""

    def __init__(self, progress: Console, total: int, *, judged: bool) -> None:
        self._bar = progress_bar(progress)
        self._task = self._bar.add_task("Answering", total=total)
        self._done = 0
        self._jumped = False
        self._judged = judged
        self._answers: set[tuple[str, str]] = set()
        self._judging: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._judging is not None:
            self._bar.update(self._judging, completed=len(self._answers))  # with those that were kept
        self._bar.stop()

    def advance(self, setup: str, record: QaRecord, known: bool) -> None:
        """Takes note of an answer."""
        from rich.markup import escape

        from agentprm.trace.text import shown_line

        self._done += 1
        if self._judged:
            self._answers.add((record["question_id"], record["prediction"]))
        if self._jumped and not known:
            # Those that were known took no time, which says nothing of how long the others take.
            self._bar.reset(self._task, completed=self._done)
        self._jumped = known
        self._bar.update(self._task, completed=self._done, description=escape(shown_line(setup, 40)))

    def advance_judge(self) -> None:
        """Takes note of a verdict."""
        if self._judging is None:
            self._judging = self._bar.add_task("Judging", total=len(self._answers))
        self._bar.advance(self._judging)


def _show(found: Evaluation) -> None:
    """The first tables of the report."""
    from rich.table import Table
    from rich.text import Text

    from agentprm.evaluation.pages import sections
    from agentprm.trace.text import counted, shown_line

    for heading, _, (head, rows) in sections(found):
        if heading in ("Results", "Cost", "Differences", "What fails"):
            # Set-ups side by side: there are more measures than fit into a line.
            title = f"{found.data}, {counted(found.questions, 'question')}: {heading}"
            table = Table(title=Text(shown_line(title)), title_justify="left")
            turned = heading != "Differences"
            columns = list(zip(*[head, *rows], strict=True)) if turned else [head, *rows]
            for place, cell in enumerate(columns[0]):
                table.add_column(shown_line(cell), justify="left" if place == 0 else "right")
            for row in columns[1:]:
                table.add_row(*map(shown_line, row))
            show(table)
