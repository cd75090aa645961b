"""The trace: one JSON document that says what was asked, found, answered and spent.

A trace is what a run leaves behind for people and programs; every view reads it. It is plain JSON with
a format name and a version. Files come from anywhere, so `load_trace` checks the shape before a view
walks the tree.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, Union, cast, get_args, get_origin

from langchain_core.documents import Document
from pydantic import TypeAdapter
from typing_extensions import TypedDict, get_type_hints, is_typeddict

from agentprm.budget import Usage, add_usage, empty_usage
from agentprm.documents import Citation, merge_documents, plain, plain_document, title_of
from agentprm.errors import InputError
from agentprm.rounds import Fact, Round
from agentprm.state import Reranking, Step, StepStatus, path_to

__all__ = [
    "GUESS",
    "TRACE_FORMAT",
    "TRACE_VERSION",
    "Trace",
    "TraceDocument",
    "answer_path",
    "drawn_steps",
    "guess_warning",
    "least_confidence",
    "load_trace",
    "save_trace",
    "trace_of",
    "trace_schema",
]

TRACE_FORMAT = "agentprm-trace"
TRACE_VERSION = 1

# An answer below this confidence is called a guess: one in five is right (`benchmarks/confidence.py`).
GUESS = 0.1

_LARGEST = 1 << 28


class TraceDocument(TypedDict):
    """A passage that the run retrieved."""

    id: str
    title: str
    source: str
    text: str


class Trace(TypedDict):
    """The record of one run.

    Attributes:
        format: Always `TRACE_FORMAT`.
        version: Version of the schema; a reader refuses newer ones.
        question: The question asked.
        answer: The answer; empty if the run wrote none.
        citations: The passages that the answer rests on.
        stop_reason: Why the search ended.
        steps: The search tree as a flat list; empty for plain retrieve-and-read.
        documents: Every passage that was retrieved, each once.
        usage: What the whole run cost.
        settings: How it was made: graph, models, seed and whatever else the caller records.
        rounds: What a loop that gathers evidence asked, found and kept, round by round; missing for others.
        reranking: How the documents of a run without steps were reordered; missing where they were not.
    """

    format: str
    version: int
    question: str
    answer: str
    citations: list[Citation]
    stop_reason: str
    steps: list[Step]
    documents: list[TraceDocument]
    usage: Usage
    settings: dict[str, Any]
    rounds: NotRequired[list[Round]]
    reranking: NotRequired[Reranking]


def trace_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a trace; `agentprm/trace/trace.schema.json` holds it as well.

    A newer version of the format may add keys, so that a reader should not mind ones that it does not know.
    """
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "agentprm trace"}
    schema = TypeAdapter(Trace).json_schema()
    schema["properties"]["format"] = {"const": TRACE_FORMAT}
    schema["properties"]["version"] = {"type": "integer", "minimum": 1, "maximum": TRACE_VERSION}
    return {**schema, **head}


def trace_of(state: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Trace:
    """Builds the trace of a finished run.

    Args:
        state: What the graph returned; needs `question`, everything else may be missing.
        settings: Names and numbers that say how the run was made. JSON-plain after numpy scalars
            were turned into Python's.

    Returns:
        The trace, sharing no mutable object with `state`.

    Raises:
        InputError: If the state has no question, or holds something that JSON cannot.
    """
    if not isinstance(state.get("question"), str):
        raise InputError("The state holds no question; pass what the graph's invoke() returned.")
    read = [plain_document(document) for document in state.get("documents") or []]
    found = [plain_document(document) for document in state.get("prm_documents") or []]
    documents: list[Document] = merge_documents([], [*found, *read])
    trace = {
        "format": TRACE_FORMAT,
        "version": TRACE_VERSION,
        "question": state["question"],
        "answer": state.get("answer") or "",
        "citations": plain(state.get("citations") or [], "citations"),
        "stop_reason": state.get("prm_stop_reason") or "",
        "steps": plain(state.get("prm_steps") or [], "prm_steps"),
        "documents": [
            {
                "id": str(document.id),
                "title": title_of(document),
                "source": str(document.metadata.get("source", "")),
                "text": document.page_content,
            }
            for document in documents
        ],
        "usage": plain(add_usage(state.get("prm_usage"), None), "prm_usage"),
        "settings": plain(settings or {}, "settings"),
    }
    if state.get("prm_rounds"):
        trace["rounds"] = plain(state["prm_rounds"], "prm_rounds")
    if reranking := None if trace["steps"] else _reranking(read):
        trace["reranking"] = plain(reranking, "documents")
    return _checked(trace, "The state of the run")


def _reranking(documents: Sequence[Document]) -> Reranking | None:
    """What the documents say of how they were reordered, if each of them does."""
    records: list[Any] = [document.metadata.get("rerank") for document in documents]
    if not records or not all(
        isinstance(one, dict) and isinstance(one.get("method"), str) for one in records
    ):
        return None
    scores = [one.get("score") for one in records]
    places = [one.get("prior_rank") for one in records]
    found = sorted(range(len(places)), key=lambda i: places[i] if isinstance(places[i], int) else i)
    return Reranking(
        method=records[0]["method"],
        before=[str(documents[i].id) for i in found],
        scores=[float(s) if isinstance(s, int | float) and math.isfinite(s) else None for s in scores],
    )


def save_trace(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Writes a trace as UTF-8 JSON; a reader sees the old file or the whole new one, never a part.

    Raises:
        InputError: If the path cannot be written, or the trace holds what JSON cannot.
    """
    try:
        text = json.dumps(trace, ensure_ascii=False, allow_nan=False, indent=1)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The trace is not JSON-plain ({error}); build it with trace_of().") from error
    # a trace made by hand may hold half of a surrogate pair, which is not UTF-8 but may be escaped in JSON
    data = (text + "\n").encode("utf-8", errors="backslashreplace")
    target = Path(path)
    try:
        if target.exists() and not target.is_file() and not target.is_dir():
            target.write_bytes(data)  # a pipe or a device cannot be replaced
            return
        _replace(target.resolve(), data)
    except OSError as error:
        raise InputError(
            f"The trace cannot be written to {target}: {error.strerror or error}. "
            "Give the path of a file in an existing folder that you may write to."
        ) from error


def _replace(target: Path, data: bytes) -> None:
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


def load_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads and checks a trace.

    Raises:
        InputError: If the file is missing, is not JSON, is something else than a trace, comes from a
            newer agentprm, lacks keys, or holds a tree that is none.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{name} has more than {_LARGEST >> 20} MiB, which no trace has.")
        data = json.loads(content.decode())
    except OSError as error:
        raise InputError(
            f"The trace {name} cannot be read: {error.strerror or error}. "
            "Give the path of a file that 'agentprm ask --trace' or save_trace() wrote."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name} is not a JSON file ({error}). "
            "Give the path of a file that 'agentprm ask --trace' or save_trace() wrote."
        ) from error
    return _checked(data, name)


def answer_path(steps: Sequence[Step]) -> list[Step]:
    """The committed steps that lead to the answer, from the root down.

    A greedy search commits one path. Where a beam left several, the one that ends in a final answer is
    taken, then the one with the best value, then the first.
    """
    committed = [step for step in steps if step["status"] == "committed"]
    parents = {step["parent_id"] for step in committed}
    leaves = [step for step in committed if step["id"] not in parents]
    if not leaves:
        return []

    def merit(step: Step) -> tuple[bool, float]:
        value = step["value"] if step["value"] is not None else step["score"]
        return bool(step["final_answer"]), -math.inf if value is None else value

    return path_to(steps, max(leaves, key=merit)["id"])


def least_confidence(steps: Sequence[Step]) -> float | None:
    """How sure a reader was of the step of the answer's path that it was least sure of.

    A chain of findings is no surer than its weakest one. `None` where no reader read: what a language
    model writes has no such probability, only the scores of a reward. `docs/planning.md` has how often
    answers of which confidence are right.

    Args:
        steps: Of a trace, or of a state (`state["prm_steps"]`).
    """
    return min((step["confidence"] for step in answer_path(steps) if "confidence" in step), default=None)


def guess_warning(steps: Sequence[Step]) -> str:
    """What is said of an answer that hardly anything read supports (`GUESS`); empty for others.

    Args:
        steps: Of a trace, or of a state.
    """
    confidence = least_confidence(steps)
    if confidence is None or confidence >= GUESS:
        return ""
    return f"a guess: the reader gives a step's finding a probability of {confidence:.2f}"


def drawn_steps(trace: Trace) -> list[Step]:
    """What the views draw: the search tree, or of a loop its rounds, as a chain of steps.

    A round that brought something on is drawn as a committed step, one that did not as a rejected one.
    """
    if trace["steps"]:
        return trace["steps"]
    chain: list[Step] = []
    for depth, one in enumerate(trace.get("rounds", []), 1):
        asked = " | ".join(one["queries"])
        done = one["status"] == "done"
        chain.append(
            Step(
                id=one["id"],
                parent_id=chain[-1]["id"] if chain else None,
                depth=depth,
                query=": ".join(filter(None, [one["goal"], asked])) or "(no query)",
                retrieve=bool(one["queries"]),
                doc_ids=one["doc_ids"],
                thought=one["note"] or " ".join(fact["text"] for fact in one["facts"]),
                final_answer=one["answer"],
                score=one["score"],
                value=None,
                status=("committed" if one["kept"] else "rejected") if done else "proposed",
                usage=empty_usage(),
                cited_ids=list(dict.fromkeys(fact["doc_id"] for fact in one["facts"])),
            )
        )
    return chain


_Kinds = dict[str, tuple[type, ...]]


def _kinds(shape: Any) -> tuple[_Kinds, _Kinds]:
    """What the required and the other keys of a `TypedDict` may hold, as classes for `isinstance`."""
    required: _Kinds = {}
    optional: _Kinds = {}
    for key, hint in get_type_hints(shape, include_extras=True).items():
        origin: Any = get_origin(hint)
        missing = origin is NotRequired
        (optional if missing else required)[key] = _classes(get_args(hint)[0] if missing else hint)
    return required, optional


def _classes(hint: Any) -> tuple[type, ...]:
    origin = get_origin(hint) or hint
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _classes(part))
    if origin is Literal:
        return (str,)
    if is_typeddict(origin):
        return (dict,)
    return (int, float) if origin is float else (origin,)


_TRACE, _ = _kinds(Trace)
_DOCUMENT, _ = _kinds(TraceDocument)
_CITATION, _ = _kinds(Citation)
_ROUND, _ = _kinds(Round)
_FACT, _ = _kinds(Fact)
_RERANKING, _ = _kinds(Reranking)
_STEP, _STEP_TOO = _kinds(Step)


def _checked(data: Any, name: str) -> Trace:
    """`data` as a trace, after everything that the views rely on was checked."""
    if not isinstance(data, dict) or data.get("format", TRACE_FORMAT) != TRACE_FORMAT or "format" not in data:
        raise InputError(
            f"{name} is not a trace of agentprm (its 'format' is not {TRACE_FORMAT!r}). "
            "Give the path of a file that 'agentprm ask --trace' or save_trace() wrote."
        )
    version = data.get("version")
    if not isinstance(version, int) or version < 1:
        raise InputError(f"{name} names no version; write the trace again with save_trace().")
    if version > TRACE_VERSION:
        raise InputError(
            f"{name} has version {version} of the trace format, this agentprm reads up to "
            f"{TRACE_VERSION}. Upgrade it with: pip install -U agentprm"
        )
    try:
        data = plain(data, name)
    except InputError as error:
        raise InputError(f"{error} The trace cannot be kept so; write it again without that value.") from None
    _check_record(data, _TRACE, name)
    for label, kinds in (("documents", _DOCUMENT), ("citations", _CITATION)):
        for i, item in enumerate(data[label]):
            _check_record(item, kinds, f"{name}: {label}[{i}]")
    _check_usage(data["usage"], f"{name}: usage")
    for i, step in enumerate(data["steps"]):
        _check_step(step, f"{name}: steps[{i}]")
    _check_tree(data["steps"], name)
    _check_rounds(data.get("rounds", []), f"{name}: rounds")
    _check_reranking(data.get("reranking"), f"{name}: reranking")
    try:
        json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:  # a date or a not-a-number: fine for a checkpoint, not for JSON
        raise InputError(
            f"{name} holds what JSON cannot ({error}). Write the trace again without that value."
        ) from None
    return cast("Trace", data)


def _check_step(step: Any, where: str) -> None:
    _check_record(step, _STEP, where)
    _check_record(step, {key: kind for key, kind in _STEP_TOO.items() if key in step}, where)
    for key in ("doc_ids", "cited_ids"):
        if not all(isinstance(item, str) for item in step.get(key, [])):
            raise _damaged(where, f"its {key!r} must be a list of strings")
    for key in ("score", "value"):
        if step[key] is not None and not math.isfinite(step[key]):
            raise _damaged(where, f"its {key!r} is not a finite number")
    if step["status"] not in get_args(StepStatus):
        raise _damaged(where, f"its status {step['status']!r:.60} is unknown")
    _check_usage(step["usage"], f"{where}.usage")
    _check_reranking(step.get("reranking"), f"{where}.reranking")


def _check_reranking(reranking: Any, where: str) -> None:
    if reranking is None:
        return
    _check_record(reranking, _RERANKING, where)
    if not all(isinstance(key, str) for key in reranking["before"]):
        raise _damaged(where, "its 'before' must be a list of strings")
    if not all(s is None or (isinstance(s, int | float) and math.isfinite(s)) for s in reranking["scores"]):
        raise _damaged(where, "its 'scores' must be finite numbers or null")


def _check_rounds(rounds: Any, where: str) -> None:
    if not isinstance(rounds, list):
        raise _damaged(where, "they are not a list")
    for i, one in enumerate(rounds):
        here = f"{where}[{i}]"
        _check_record(one, _ROUND, here)
        for key in ("queries", "doc_ids"):
            if not all(isinstance(item, str) for item in one[key]):
                raise _damaged(here, f"its {key!r} must be a list of strings")
        for fact in one["facts"]:
            _check_record(fact, _FACT, f"{here}.facts")
        if one["score"] is not None and not math.isfinite(one["score"]):
            raise _damaged(here, "its 'score' is not a finite number")
    if len({one["id"] for one in rounds}) < len(rounds):
        raise _damaged(where, "two of them have the same id")


def _check_usage(usage: Mapping[str, Any], where: str) -> None:
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in usage.values()):
        raise _damaged(where, "it must hold finite numbers only")


def _check_record(data: Any, keys: _Kinds, where: str) -> None:
    if not isinstance(data, dict):
        raise _damaged(where, "it is not an object")
    missing = [key for key in keys if key not in data]
    if missing:
        raise _damaged(where, f"it lacks {', '.join(map(repr, missing))}")
    for key, kind in keys.items():
        if not isinstance(data[key], kind):
            raise _damaged(where, f"its {key!r} has the wrong type {type(data[key]).__name__}")


def _check_tree(steps: Iterable[Step], name: str) -> None:
    parents: dict[str, str | None] = {}
    for step in steps:
        if step["id"] in parents:
            raise _damaged(name, f"the step id {step['id']!r:.60} occurs twice")
        parents[step["id"]] = step["parent_id"]
    rooted: set[str | None] = {None}
    for start in parents:
        trail: set[str] = set()
        here: str | None = start
        while here not in rooted:
            if here not in parents or here in trail:
                raise _damaged(name, f"step {start!r:.60} does not lead back to the root")
            trail.add(here)
            here = parents[here]
        rooted |= trail


def _damaged(where: str, what: str) -> InputError:
    return InputError(f"{where} is damaged: {what}. Run the question again to write a new trace.")
