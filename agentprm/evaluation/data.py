"""Reading question-answering data in the BEIR layout.

A folder holds `queries.jsonl` (`_id`, `text` and, for question answering, `answers`), `corpus.jsonl`
(`_id`, `title`, `text`) and, where gold passages are known, `qrels.tsv` or BEIR's own `qrels/test.tsv`
(`query-id`, `corpus-id`, `score`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentprm.errors import InputError

__all__ = ["QaDataset", "QaQuestion", "read_dataset"]


@dataclass(frozen=True)
class QaQuestion:
    """One question.

    Attributes:
        id: Its id in the data.
        text: The question.
        answers: The right answers; empty in pure retrieval data.
        gold: Ids of the passages that are relevant to it; empty where unknown.
        extra: Every other field of its line, for instance `type`.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    gold: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QaDataset:
    """A folder of questions and passages.

    Attributes:
        name: Name of the folder.
        folder: Where it lies.
        questions: The questions in the order of the file.
        passages: Ids of the passages; `agentprm.retrievers.load_folder` reads their texts.
    """

    name: str
    folder: Path
    questions: tuple[QaQuestion, ...]
    passages: frozenset[str]


def read_dataset(folder: str | os.PathLike[str]) -> QaDataset:
    """Reads a folder in the BEIR layout.

    Raises:
        InputError: If the folder or a file is missing, a line cannot be read (the message names file and
            line), an id occurs twice, or none of the gold passages is in the corpus.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(
            f"There is no folder {path}. Give a folder that holds queries.jsonl and corpus.jsonl."
        )
    passages = frozenset(key for key, _, _ in _records(path / "corpus.jsonl"))
    gold = _qrels(path)
    questions = tuple(
        QaQuestion(
            id=key,
            text=text,
            answers=_answers(row, path / "queries.jsonl", key),
            gold=frozenset(gold.get(key, ())),
            extra={name: value for name, value in row.items() if name not in ("_id", "text", "answers")},
        )
        for key, text, row in _records(path / "queries.jsonl")
    )
    wanted = {passage for question in questions for passage in question.gold}
    if wanted and not wanted & passages:
        raise InputError(
            f"No gold passage of {path} is in its corpus.jsonl; the files do not belong together. "
            "Fetch the three files from one source."
        )
    return QaDataset(path.resolve().name, path, questions, passages)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except FileNotFoundError as error:
        raise InputError(
            f"There is no {path.name} in {path.parent}. A folder in the BEIR layout holds "
            "queries.jsonl, corpus.jsonl and, for recall, qrels.tsv."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text. Convert it, for instance with iconv.") from error


def _records(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    seen: set[str] = set()
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not JSON ({error}). Give one object a line.") from error
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


def _answers(row: Mapping[str, Any], path: Path, key: str) -> tuple[str, ...]:
    answers = row.get("answers", [])
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise InputError(f"{path}, question {key!r}: 'answers' must be a list of strings.")
    return tuple(answers)


def _qrels(folder: Path) -> dict[str, list[str]]:
    path = folder / "qrels.tsv"
    if not path.exists():
        path = folder / "qrels" / "test.tsv"
        if not path.exists():
            return {}
    gold: dict[str, list[str]] = {}
    for number, line in _lines(path):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and fields[-1].strip().lower() == "score":
            continue
        try:
            query, passage, score = fields
            relevant = float(score) > 0
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: expected query-id, corpus-id and score, separated by tabs."
            ) from error
        if relevant:
            gold.setdefault(query, []).append(passage)
    return gold
