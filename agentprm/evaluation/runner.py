"""Running a graph over many questions, one finished line of a log per question.

The log makes a run resumable: a line is flushed as soon as its question is done, and questions whose
line is there are not asked again. A line that a kill cut off is ignored and its question asked again, as is
one whose text has changed. The trace of a question is on disk before its line is.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NotRequired, Protocol, TextIO, cast

from typing_extensions import TypedDict

from agentprm.budget import Usage, metered
from agentprm.errors import AgentPRMError, ConfigurationError, InputError
from agentprm.evaluation.data import QaQuestion
from agentprm.scale.base import Executor
from agentprm.state import Step, evidence_ids
from agentprm.trace.schema import Trace, answer_path, save_trace, trace_of

__all__ = ["Answerer", "QaRecord", "evidence_order", "made_folder", "read_log", "run_questions"]


class QaRecord(TypedDict):
    """One answered question.

    Attributes:
        run: Name of the run, which says what was asked with which settings.
        question_id: Id of the question.
        question: Its text.
        prediction: The answer given.
        retrieved: Ids of the passages the answer was given from, as `evidence_order` says.
        stop_reason: Why the search ended.
        usage: What the question cost.
        seconds: Wall-clock time.
        error: Why the question could not be answered; empty if it could.
        trace: Name of the file with its trace, where traces are kept.
    """

    run: str
    question_id: str
    question: str
    prediction: str
    retrieved: list[str]
    stop_reason: str
    usage: Usage
    seconds: float
    error: str
    trace: NotRequired[str]


class Answerer(Protocol):
    """Anything that maps `{"question": ...}` to a state: a compiled graph, a node, any runnable."""

    def invoke(self, input: Any, /) -> Any:
        """Answers one question."""


def evidence_order(state: Mapping[str, Any]) -> list[str]:
    """Ids of the passages behind an answer, in the order in which recall@k counts them.

    For a search over steps these are the passages of the steps on the way to the answer, in the order of
    `agentprm.state.evidence_ids`; for plain retrieval the retrieved passages, best first.
    """
    steps: Sequence[Step] = state.get("prm_steps") or []
    if steps:
        return evidence_ids(answer_path(steps))
    return list(dict.fromkeys(str(document.id) for document in state.get("documents") or []))


def run_questions(
    graph: Answerer | Callable[[], Answerer],
    questions: Sequence[QaQuestion],
    *,
    run: str,
    log: str | os.PathLike[str] | None = None,
    on_record: Callable[[QaRecord, bool], None] | None = None,
    executor: Executor | None = None,
    traces: str | os.PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[QaRecord]:
    """Asks every question once and collects what it answered and what that cost.

    A question that the graph refuses (`InputError`, for instance one longer than the model's context) is
    recorded with its error and counts as wrong. Every other error ends the run; what is in the log stays.
    With an executor, such an error lets the other questions finish first.

    Args:
        graph: A compiled graph or another runnable that takes `{"question": ...}`; or a function without
            arguments that makes it, which is called when the first question is asked, and for an executor
            whose workers are other processes once in each. What it takes is not counted as the question's.
        questions: The questions, in order.
        run: Name of the run. Lines of other runs in the same log are left alone, so put into it
            whatever changes the results.
        log: JSONL file to append to and to resume from; without one nothing is kept.
        on_record: Called after each question with its record and whether it came from the log.
        executor: Where the questions are asked (see `agentprm.scale`), several at a time; by default one
            after the other, in this thread. Lines of the log are then in the order in which they end.
        traces: Folder to write the trace of every answered question to; made if missing.
        settings: What the traces say of how the run was made.

    Returns:
        One record per question, in their order.

    Raises:
        InputError: If the log cannot be written or is another kind of file.
        AgentPRMError: If questions failed on an executor. Run again to ask only those.
    """
    if not hasattr(graph, "invoke") and not callable(graph):
        raise ConfigurationError(
            "graph has no invoke method; give a compiled graph, or a function that makes it."
        )
    texts = {question.id: question.text for question in questions}
    done = {
        record["question_id"]: record
        for record in (read_log(log, run) if log else [])
        if texts.get(record["question_id"]) == record["question"]
    }
    folder = made_folder(Path(traces)) if traces else None
    file = _open_log(Path(log)) if log else None

    def finished(answered: _Answered) -> QaRecord:
        record, trace = answered
        if folder is not None and trace is not None:
            record["trace"] = _file_name(record["question_id"])
            save_trace(trace, folder / record["trace"])
        if file is not None:
            file.write(json.dumps(record) + "\n")
            file.flush()
        return report(record, False)

    def report(record: QaRecord, known: bool) -> QaRecord:
        if on_record is not None:
            on_record(record, known)
        return record

    asker = _Asker(graph, run, (settings or {}) if traces else None)
    ask = cache(asker)  # nothing is made where nothing is missing
    try:
        if executor is None:
            return [
                report(done[question.id], True) if question.id in done else finished(ask()(question))
                for question in questions
            ]
        for question in questions:
            if question.id in done:
                report(done[question.id], True)
        missing = [question for question in questions if question.id not in done]
        with closing(_ask_all(executor, asker, missing)) as answered:
            for question, result in answered:
                done[question.id] = finished(result)
        return [done[question.id] for question in questions]
    finally:
        if file is not None:
            file.close()


_Answered = tuple[QaRecord, Trace | None]


def _ask_all(
    executor: Executor, asker: _Asker, questions: Sequence[QaQuestion]
) -> Generator[tuple[QaQuestion, _Answered], None, None]:
    """Questions with their records as they come; raises at the end if some have none."""
    failures = []
    with closing(executor.stream(asker, questions)) as outcomes:
        for outcome in outcomes:
            question = questions[outcome.index]
            if outcome.failure is None:
                yield question, cast("_Answered", outcome.value)
            else:
                failures.append(f"{question.id}: {outcome.failure}")
    if failures:
        raise AgentPRMError(
            f"{len(failures)} of {len(questions)} questions failed, the first: {failures[0]}. "
            "Mend the cause and run again with the same log; only those are asked."
        )


@dataclass(frozen=True)
class _Asker:
    """Makes, in the process of a worker, the function that asks one question."""

    graph: Answerer | Callable[[], Answerer]
    run: str
    settings: Mapping[str, Any] | None  # of the traces; None keeps none

    def __call__(self) -> Callable[[QaQuestion], _Answered]:
        ready = not callable(self.graph) or hasattr(self.graph, "invoke")
        graph = self.graph if ready else self.graph()  # type: ignore[operator]
        return lambda question: self.ask(cast("Answerer", graph), question)

    def ask(self, graph: Answerer, question: QaQuestion) -> _Answered:
        state: Mapping[str, Any] = {}
        error = ""
        start = time.perf_counter()
        with metered() as meter:
            try:
                state = graph.invoke({"question": question.text})
            except InputError as refusal:
                error = str(refusal)
        record = QaRecord(
            run=self.run,
            question_id=question.id,
            question=question.text,
            prediction=str(state.get("answer") or ""),
            retrieved=evidence_order(state),
            stop_reason=str(state.get("prm_stop_reason") or ""),
            usage=meter.usage,
            seconds=time.perf_counter() - start,
            error=error,
        )
        if error or self.settings is None:
            return record, None
        return record, trace_of({**state, "question": question.text}, self.settings)


def made_folder(path: Path) -> Path:
    """The folder, made if it is missing.

    Raises:
        InputError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {path} cannot be made: {error.strerror or error}. Give another one."
        ) from error
    return path


def _file_name(question_id: str) -> str:
    """A file's name for any id, a different one for each."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", question_id)[:80]
    if plain == question_id:
        return f"{plain}.json"
    return f"{plain}-{sha256(question_id.encode(errors='surrogatepass')).hexdigest()[:8]}.json"


def read_log(log: str | os.PathLike[str], run: str | None = None) -> list[QaRecord]:
    """The finished lines of a log; a missing file has none.

    Args:
        log: The file.
        run: Only the lines of this run.

    Raises:
        InputError: If the file is not such a log.
    """
    path = Path(log)
    records = []
    try:
        if not path.exists():
            return []
        with path.open(encoding="utf-8") as file:  # line by line: logs grow large
            for number, line in enumerate(file, start=1):
                record = _record(line, path, number)
                if record is not None and (run is None or record["run"] == run):
                    records.append(record)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The log {path} cannot be read: {error}. Choose another file.") from error
    return records


def _record(line: str, path: Path, number: int) -> QaRecord | None:
    """The record of a line; `None` if there is none on it, or a kill has cut it off."""
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    except ValueError as error:
        beginning = line.rstrip("\n")
        if line.startswith(_BEGINNING) or _BEGINNING.startswith(beginning):
            return None
        raise _foreign(path, number) from error
    if not isinstance(record, dict) or not record.keys() >= _KEYS:
        raise _foreign(path, number)
    return cast("QaRecord", record)


_KEYS = QaRecord.__annotations__.keys() - {"trace"}
_BEGINNING = '{"run": "'


def _foreign(path: Path, number: int) -> InputError:
    return InputError(
        f"{path}, line {number}: not a line of a log of agentprm. Choose another file for the log."
    )


def _open_log(path: Path) -> TextIO:
    try:
        torn = _is_torn(path)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"The log {path} cannot be written: {error.strerror or error}. "
            "Give the path of a file in an existing folder that you may write to."
        ) from error
    if torn:
        file.write("\n")
    return file


def _is_torn(path: Path) -> bool:
    """Whether the last line has no end."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
