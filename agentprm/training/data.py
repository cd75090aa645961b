"""Training examples: four kinds of records, a file of JSON Lines each.

| kind | one line | file in a folder |
|---|---|---|
| `ReadingRecord` | a question, passages, the answers that they give | `reading.jsonl` |
| `PlanRecord` | a question and its sub-questions | `plans.jsonl` |
| `StepLabelRecord` | a trajectory and how good each of its steps is | `labels.jsonl` |
| `PreferenceRecord` | a weak step, what is wrong with it, a better one | `preferences.jsonl` |

Fields that a record does not know are kept and written again; a field of a wrong type is refused with
its file and line. `ReadingRecord.model_json_schema()` gives the JSON Schema of a kind.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from langchain_core.documents import Document
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from agentprm.errors import InputError, StorageError
from agentprm.evaluation.data import numbered_lines
from agentprm.rewards.base import RewardStep

__all__ = [
    "Passage",
    "PlanRecord",
    "PlanStep",
    "PreferenceRecord",
    "ReadingRecord",
    "Record",
    "StepCounts",
    "StepLabelRecord",
    "TrajectoryStep",
    "read_records",
    "record_file",
    "write_records",
]

_REFERENCE = re.compile(r"#(\d{1,3})(?!\d)")


def _filled(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("must not be blank")
    return value


def _share(value: Any) -> Any:
    return float(value) if isinstance(value, bool) else value


FilledText = Annotated[str, BeforeValidator(_filled)]
"""A text that is not blank."""

Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
"""A number in [0, 1]; `true` and `false` are 1 and 0."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)


class Record(_Part):
    """Base of the four kinds.

    Attributes:
        id: Names the example within its set; empty if it has no name.
        set: Where it comes from.
        question: The question.
    """

    FILE: ClassVar[str] = ""

    id: str = ""
    set: str = ""
    question: FilledText


class Passage(_Part):
    """A passage beside a question.

    Attributes:
        title: Its title, or an empty text.
        text: Its text.
        gold: Whether the answer needs it.
    """

    title: str = ""
    text: str
    gold: bool = False

    def document(self) -> Document:
        """The passage for readers and retrievers, with its title in the metadata."""
        return Document(page_content=self.text, metadata={"title": self.title})


class ReadingRecord(Record):
    """A question, and what its passages say.

    Attributes:
        answers: The right answers, any of which will do; empty if none of the passages answers.
        passages: The passages, gold ones and distractors.
        sentence: The sentence that gives the answer, where it is known.
        evidence: Facts that lead to the answer, as (subject, relation, object).
        type: Kind of question, for tables by kind.
    """

    FILE: ClassVar[str] = "reading.jsonl"

    answers: list[str]
    passages: list[Passage]
    sentence: str | None = None
    evidence: list[list[str]] | None = None
    type: str | None = None

    @model_validator(mode="after")
    def _has_texts(self) -> Self:
        if not all(answer.strip() for answer in self.answers):
            raise ValueError("an answer is blank; leave 'answers' empty if no passage answers")
        return self


class PlanStep(_Part):
    """A sub-question.

    Attributes:
        question: Its text; `#n` in it stands for the answer of step n, counted from 1.
        answer: Its answer, where it is known.
        depends_on: The steps whose answers it needs, where `#n` in its text does not say so.
        evidence: The passages that answer it, where they are known.
    """

    question: FilledText
    answer: str | None = None
    depends_on: list[int] = Field(default_factory=list)
    evidence: list[Passage] = Field(default_factory=list)

    @property
    def references(self) -> list[int]:
        """Numbers of the steps that it needs, ascending: those it names and those it depends on."""
        return sorted({*self.depends_on, *map(int, _REFERENCE.findall(self.question))})


class PlanRecord(Record):
    """A question and the sub-questions that lead to its answer.

    Attributes:
        steps: The sub-questions, in an order in which they can be answered.
        answer: The answer, where it is known.
        style: `qdmr` for steps in the form of BREAK's "return …"; empty for questions.
    """

    FILE: ClassVar[str] = "plans.jsonl"

    steps: Annotated[list[PlanStep], Field(min_length=1)]
    answer: str | None = None
    style: str = ""

    def answered(self) -> Iterator[tuple[str, str]]:
        """The sub-questions that can be asked by themselves, earlier answers written in, and their answers.

        Comparisons of earlier answers are left out.
        """
        known: dict[int, str] = {}
        for number, step in enumerate(self.steps, 1):
            if step.answer:
                known[number] = step.answer
                asked = re.sub(r"#(\d+)", lambda m: known.get(int(m[1]), m[0]), step.question)
                if "#" not in asked and not re.match(r"(?i)compare\b", asked):
                    yield asked, step.answer

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        # '#1' in a text may be part of a name; a number in depends_on means a step
        for place, step in enumerate(self.steps, start=1):
            if not all(1 <= number < place for number in step.depends_on):
                raise ValueError(f"step {place} depends on {step.depends_on}, not only on earlier steps")
        return self


class TrajectoryStep(_Part):
    """A step of reasoning, as reward models see it; a text alone is its finding.

    Attributes:
        query: The sub-question; empty for a concluding step, and for lines of a written solution.
        passages: Texts of the passages that it was given.
        thought: What it found.
        final_answer: The answer to the whole question, if it concludes.
        confidence: Probability that the reader that found it gave it, if it was a reader.
    """

    query: str = ""
    passages: list[str] = Field(default_factory=list)
    thought: str = ""
    final_answer: str | None = None
    confidence: Share | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"thought": value} if isinstance(value, str) else value

    def reward_step(self) -> RewardStep:
        """The step for `ProcessRewardModel.score` and `StepText`."""
        step = RewardStep(
            query=self.query,
            passages=list(self.passages),
            thought=self.thought,
            final_answer=self.final_answer,
        )
        if self.confidence is not None:
            step["confidence"] = self.confidence
        return step


class StepCounts(_Part):
    """What is known of a step before it is made a label: see `agentprm.training.labels`.

    Attributes:
        rollouts: Completions that were sampled from the step.
        correct: How many of them reached a right answer.
        judged: A judge's verdict.
        checked: A tool's or checker's verdict.
    """

    rollouts: Annotated[int, Field(ge=0)] = 0
    correct: Annotated[int, Field(ge=0)] = 0
    judged: bool | None = None
    checked: bool | None = None

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.correct > self.rollouts:
            raise ValueError(f"{self.correct} of {self.rollouts} rollouts cannot be right")
        return self


class StepLabelRecord(Record):
    """A trajectory, and how good each of its steps is.

    Attributes:
        steps: The steps; plain texts will do.
        labels: Per step the probability that it is right: 0 or 1 (hard), a number between them
            (soft), or none for a step that nobody labelled.
        labeller: Who or what labelled it, for instance `human`, `monte-carlo`, `evidence`.
        answers: The right answers of the question, where they are known.
        correct: Whether the trajectory ends in a right answer, where that is known.
        counts: Per step what its label was made of; empty if that is not known.
    """

    FILE: ClassVar[str] = "labels.jsonl"

    steps: Annotated[list[TrajectoryStep], Field(min_length=1)]
    labels: list[Share | None]
    labeller: str
    answers: list[str] = Field(default_factory=list)
    correct: bool | None = None
    counts: list[StepCounts] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        if len(self.labels) != len(self.steps):
            raise ValueError(f"{len(self.steps)} steps, but {len(self.labels)} labels")
        if self.counts and len(self.counts) != len(self.steps):
            raise ValueError(f"{len(self.steps)} steps, but {len(self.counts)} counts")
        return self

    @property
    def trajectory(self) -> list[RewardStep]:
        """The steps as reward models take them."""
        return [step.reward_step() for step in self.steps]


class PreferenceRecord(Record):
    """A weak step, what is wrong with it, and a better one in its place.

    Attributes:
        steps: The steps before it; empty if it is the first one.
        rejected: The weak step.
        critique: What is wrong with it; empty if nobody said so.
        chosen: The better step.
        rejected_score: The reward model's score of the weak step, where it is known.
        chosen_score: The same of the better one.
        helped: Whether the critique led from the weak step to the better one; false if the critique
            made it worse, none if no step was refined.
        answers: The right answers of the question, where they are known.
    """

    FILE: ClassVar[str] = "preferences.jsonl"

    steps: list[TrajectoryStep] = Field(default_factory=list)
    rejected: TrajectoryStep
    critique: str = ""
    chosen: TrajectoryStep
    rejected_score: float | None = None
    chosen_score: float | None = None
    helped: bool | None = None
    answers: list[str] = Field(default_factory=list)


R = TypeVar("R", bound=Record)


def record_file(path: str | os.PathLike[str], kind: type[Record]) -> Path:
    """The file that holds records of a kind: `path` itself, or the kind's file if `path` is a folder."""
    target = Path(path)
    return target / kind.FILE if target.is_dir() else target


def read_records(path: str | os.PathLike[str], kind: type[R]) -> list[R]:
    """Reads the records of a file, or those of their kind in a folder; blank lines are skipped.

    Raises:
        InputError: If the file is missing, cannot be read or is empty, or a line is no such record; the
            message names file, line and field.
    """
    file = record_file(path, kind)
    missing = f"There is no file {file}. Give a file of JSON Lines, each a {kind.__name__}, or a folder that "
    lines = numbered_lines(file, f"{missing}holds {kind.FILE}.")
    records = [_record(line, kind, f"{file}, line {number}") for number, line in lines]
    if not records:
        raise InputError(f"{file} is empty. Give a file with at least one {kind.__name__} a line.")
    return records


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes records to a file, one a line; a file that exists is replaced as a whole.

    Fields that a record was made without are left out.

    Args:
        path: The file. Folders above it are made.
        records: The records; taken one by one.

    Returns:
        How many there were.

    Raises:
        InputError: If a record holds what JSON in UTF-8 cannot.
        StorageError: If the file cannot be written; the old one is left as it was.
    """
    target = Path(path)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    count = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("x", encoding="utf-8", newline="\n") as file:
                for record in records:
                    file.write(_line(record) + "\n")
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}. What stood there is unchanged."
        ) from error
    return count


def _line(record: Record) -> str:
    fields = record.model_dump(mode="python", exclude_unset=True)
    try:
        line = json.dumps(fields, ensure_ascii=False, allow_nan=False)
        line.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"The {type(record).__name__} {record.id!r} cannot be written as JSON ({error}). "
            "Give plain values and valid Unicode."
        ) from error
    return line


def _record(line: str, kind: type[R], where: str) -> R:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        raise InputError(f"{where}: {_reason(error.errors(), kind)}") from None


def _reason(errors: Sequence[Any], kind: type[Record]) -> str:
    first = errors[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return f"not JSON ({first['ctx']['error']}). Give one object a line."
    field = ".".join(map(str, first["loc"]))
    what = f"field '{field}': {message}" if field else message
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"no {kind.__name__}, {what}{more}. See the fields of agentprm.training.{kind.__name__}."
