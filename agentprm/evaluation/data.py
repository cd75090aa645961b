"""Reading questions: a folder in the BEIR layout, a file of JSON Lines, or a data frame.

A folder holds `queries.jsonl` (`_id`, `text` and, for question answering, `answers`), `corpus.jsonl`
(`_id`, `title`, `text`) and, where gold passages are known, `qrels.tsv` or BEIR's own `qrels/test.tsv`
(`query-id`, `corpus-id`, `score`). A file or a frame holds questions alone: `text` or `question`, and where
they are known `_id` or `id`, `answers` or `answer`, and `gold`, the ids of the passages that are needed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentprm.errors import InputError

__all__ = ["QaDataset", "QaQuestion", "dataset_from", "numbered_lines", "numbered_values", "read_dataset"]


@dataclass(frozen=True)
class QaQuestion:
    """One question.

    Attributes:
        id: Its id in the data.
        text: The question.
        answers: The right answers; empty in pure retrieval data.
        gold: Ids of the passages that are relevant to it; empty where unknown.
        extra: Every other field of its line, for instance `type`.
        grades: How relevant the gold passages are, by id, where their data say more than yes.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    gold: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)
    grades: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class QaDataset:
    """Questions, and where there is one the folder of their passages.

    Attributes:
        name: Name of the folder or file.
        questions: The questions in their order.
        titles: Titles of the passages by id (empty ones too); `agentprm.retrievers.load_folder` reads their
            texts.
        folder: Where it lies; `None` without passages.
        left_out: How many questions there were besides, of which nothing is known that could be measured.
    """

    name: str
    questions: tuple[QaQuestion, ...]
    titles: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    left_out: int = 0

    @property
    def passages(self) -> frozenset[str]:
        """Ids of the passages."""
        return frozenset(self.titles)


def dataset_from(frame: Any, name: str = "frame") -> QaDataset:
    """Questions in a data frame (pandas, polars) or in a list of mappings.

    Args:
        frame: One question a row, in the columns that the module's description names.
        name: Name of the data in logs and reports.

    Raises:
        InputError: If a row lacks a question, or an id occurs twice.

    Example:
        >>> dataset_from([{"question": "Capital of France?", "answer": "Paris"}]).questions[0].answers
        ('Paris',)
    """
    if hasattr(frame, "to_dicts"):  # polars
        rows = frame.to_dicts()
    elif hasattr(frame, "to_dict") and not isinstance(frame, Mapping):  # pandas
        rows = frame.to_dict(orient="records")
    else:
        rows = frame
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable):
        raise InputError(f"A {type(frame).__name__} holds no questions; give a data frame or a list of rows.")
    return QaDataset(name, _questions((f"{name}, row {place}", row) for place, row in enumerate(rows)))


def read_dataset(path: str | os.PathLike[str]) -> QaDataset:
    """Reads a folder in the BEIR layout, or a file of questions in JSON Lines.

    A folder of BEIR holds the queries of all splits and the qrels of one: queries without answers, gold
    passages, a decomposition or evidence are left out, unless no query has any.

    Raises:
        InputError: If the folder or a file is missing, a line cannot be read (the message names file and
            line), an id occurs twice, or none of the gold passages is in the corpus.
    """
    path = Path(path)
    if path.is_file():
        rows = ((f"{path}, line {number}", row) for number, row in numbered_values(_lines(path), path))
        return QaDataset(path.stem, _questions(rows))
    if not path.is_dir():
        raise InputError(
            f"There is no folder {path}. Give a folder that holds queries.jsonl and corpus.jsonl, or a file "
            "of questions in JSON Lines."
        )
    titles = {key: str(row.get("title") or "") for key, _, row in _records(path / "corpus.jsonl")}
    gold = _qrels(path)
    questions = tuple(
        QaQuestion(
            id=key,
            text=text,
            answers=_answers(row.get("answers"), f"{path / 'queries.jsonl'}, question {key!r}"),
            gold=frozenset(gold.get(key, ())),
            extra={name: value for name, value in row.items() if name not in ("_id", "text", "answers")},
            grades=gold.get(key, {}),
        )
        for key, text, row in _records(path / "queries.jsonl")
    )
    wanted = {passage for question in questions for passage in question.gold}
    if wanted and not wanted & titles.keys():
        raise InputError(
            f"No gold passage of {path} is in its corpus.jsonl; the files do not belong together. "
            "Fetch the three files from one source."
        )
    known = tuple(question for question in questions if _is_labelled(question)) or questions
    return QaDataset(path.resolve().name, known, titles, path, len(questions) - len(known))


def _is_labelled(question: QaQuestion) -> bool:
    extra = question.extra
    return bool(question.answers or question.gold or extra.get("decomposition") or extra.get("evidence"))


_ID, _TEXT, _ANSWERS = ("_id", "id"), ("text", "question"), ("answers", "answer")


def _questions(rows: Iterable[tuple[str, Any]]) -> tuple[QaQuestion, ...]:
    """Questions in rows whose fields may have either name."""
    found: dict[str, QaQuestion] = {}
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: not an object. Give one question a row.")
        cells = {key: value for key, value in row.items() if not _blank(value)}
        text = _first(cells, _TEXT)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: there is no question. Give it under 'text' or 'question'.")
        key = str(_first(cells, _ID, len(found)))
        if key in found:
            raise InputError(f"{where}: the id {key!r} occurs twice. Make the ids unique.")
        answers = _first(cells, _ANSWERS)
        gold = _listed(cells.get("gold", []))
        found[key] = QaQuestion(
            id=key,
            text=text,
            answers=_answers([answers] if isinstance(answers, str) else answers, where),
            gold=frozenset(map(str, gold)),
            extra={k: v for k, v in cells.items() if k not in (*_ID, *_TEXT, *_ANSWERS, "gold")},
        )
    if not found:
        raise InputError("There is no question. Give at least one.")
    return tuple(found.values())


def _first(row: Mapping[str, Any], names: Iterable[str], default: Any = None) -> Any:
    return next((row[name] for name in names if name in row), default)


def _blank(value: Any) -> bool:
    """Whether a cell is empty: nothing, or a frame's not-a-number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _listed(value: Any) -> list[Any]:
    """A list, an array or a single id as a list."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def numbered_lines(path: Path, missing: str) -> Iterator[tuple[int, str]]:
    """The lines of a text in UTF-8 that are not blank, numbered from 1.

    Args:
        path: The file.
        missing: What to say if there is none.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise InputError(missing) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text. Convert it, for instance with iconv.") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    missing = f"There is no {path.name} in {path.parent}. A folder in the BEIR layout holds "
    return numbered_lines(path, f"{missing}queries.jsonl, corpus.jsonl and, for recall, qrels.tsv.")


def numbered_values(lines: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, Any]]:
    """The values of numbered lines of JSON.

    Raises:
        InputError: If a line is none; the message names it.
    """
    for number, line in lines:
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON ({error}). Give one object a line.") from error


def _records(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    seen: set[str] = set()
    for number, row in numbered_values(_lines(path), path):
        key = row.get("_id") if isinstance(row, dict) else None
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(key, str | int) or isinstance(key, bool) or not isinstance(text, str):
            raise InputError(f"{path}, line {number}: each line needs '_id' and 'text', both strings.")
        if str(key) in seen:
            raise InputError(f"{path}, line {number}: the id {key!r} occurs twice. Make the ids unique.")
        seen.add(str(key))
        yield str(key), text, row
    if not seen:
        raise InputError(f"{path} is empty. Give a file with at least one line.")


def _answers(answers: Any, where: str) -> tuple[str, ...]:
    answers = [] if answers is None else answers.tolist() if hasattr(answers, "tolist") else answers
    if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{where}: 'answers' must be a list of strings.")
    return tuple(answers)


def _qrels(folder: Path) -> dict[str, dict[str, float]]:
    """Grades of the relevant passages by question."""
    path = folder / "qrels.tsv"
    if not path.exists():
        path = folder / "qrels" / "test.tsv"
        if not path.exists():
            return {}
    gold: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and fields[-1].strip().lower() == "score":
            continue
        try:
            query, passage, score = fields
            grade = float(score)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: expected query-id, corpus-id and score, separated by tabs."
            ) from error
        if grade > 0:
            gold.setdefault(query, {})[passage] = grade
    return gold
