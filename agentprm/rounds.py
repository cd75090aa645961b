"""Rounds of gathering evidence: what each one asked, found and kept.

The loops of `agentprm.nodes.gathering` keep all of their state in one flat list of `Round` records, as a
search keeps its tree. The best note, the pool of facts and what was asked before are read off it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, cast

from langchain_core.documents import Document
from typing_extensions import TypedDict

from agentprm.documents import merge_documents
from agentprm.state import RagState
from agentprm.text import one_line

__all__ = [
    "Fact",
    "GatheringState",
    "Round",
    "asked_before",
    "best_note",
    "evidence_lines",
    "facts_of",
    "merge_rounds",
    "new_round",
    "rounds_of",
    "seen_ids",
]


class Fact(TypedDict):
    """Something that a passage says.

    Attributes:
        text: What it says.
        doc_id: The passage.
    """

    text: str
    doc_id: str


class Round(TypedDict):
    """One round: ask, retrieve, read, judge.

    Attributes:
        id: Its number, from `1`.
        goal: What evidence was wanted; empty where the loop sets no goals.
        queries: What was searched for.
        doc_ids: Passages that no round before has read, best first.
        note: The note, or the finding, after reading; empty if there is none.
        facts: New facts for the pool.
        kept: Whether the round brought something on: a better note, a new fact, a goal that is met.
        score: What the judge of the loop says, a probability; `None` if it was not asked or did not say.
        answer: The answer to the whole question, where the round states it; else `None`.
        status: `planned`, `retrieved` or `done`.
    """

    id: str
    goal: str
    queries: list[str]
    doc_ids: list[str]
    note: str
    facts: list[Fact]
    kept: bool
    score: float | None
    answer: str | None
    status: Literal["planned", "retrieved", "done"]


def merge_rounds(left: list[Round] | None, right: list[Round] | None) -> list[Round]:
    """Reducer of `prm_rounds`: appends new ids, replaces known ones, keeps the order."""
    merged = {one["id"]: one for one in left or []}
    for one in right or []:
        merged[one["id"]] = one
    return list(merged.values())


class GatheringState(RagState, total=False):
    """State of a loop that gathers evidence.

    Attributes:
        prm_rounds: The rounds.
        prm_documents: Every passage that a round refers to.
        examples: How similar questions went, for the prompts of nodes that plan.
    """

    examples: str
    prm_rounds: Annotated[list[Round], merge_rounds]
    prm_documents: Annotated[list[Document], merge_documents]


def new_round(before: Sequence[Round], queries: Sequence[str], goal: str = "") -> Round:
    """The round after those before, with nothing found yet."""
    return Round(
        id=str(len(before) + 1),
        goal=goal,
        queries=list(queries),
        doc_ids=[],
        note="",
        facts=[],
        kept=False,
        score=None,
        answer=None,
        status="planned",
    )


def rounds_of(state: Mapping[str, object]) -> list[Round]:
    """The rounds in a state."""
    return cast("list[Round]", state.get("prm_rounds") or [])


def best_note(rounds: Sequence[Round]) -> str:
    """The last note that was kept; empty if none was."""
    return next((one["note"] for one in reversed(rounds) if one["kept"] and one["note"]), "")


def facts_of(rounds: Sequence[Round]) -> list[Fact]:
    """The pool: all facts, oldest first."""
    return [fact for one in rounds for fact in one["facts"]]


def asked_before(rounds: Sequence[Round]) -> list[str]:
    """All queries so far."""
    return [query for one in rounds for query in one["queries"]]


def seen_ids(rounds: Sequence[Round]) -> list[str]:
    """All passages so far."""
    return [doc_id for one in rounds for doc_id in one["doc_ids"]]


def evidence_lines(rounds: Sequence[Round]) -> list[str]:
    """What was gathered, a line each: findings of goals, facts of the pool, or the best note.

    Of findings only those that reached their goal count, unless none did.
    """
    if any(one["goal"] for one in rounds):
        told = [one for one in rounds if one["note"]]
        told = [one for one in told if one["kept"]] or told
        return [one_line(f"{' '.join(one['queries'])} {one['note']}") for one in told]
    facts = facts_of(rounds)
    if facts:
        return [one_line(fact["text"]) for fact in facts]
    return [line for line in map(one_line, best_note(rounds).splitlines()) if line]
