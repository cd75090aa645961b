"""What nodes do with a reader in the place of a language model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel

from agentprm.documents import title_of
from agentprm.lm import LanguageModel
from agentprm.nodes.reporting import reported
from agentprm.questions.comparing import alternatives, is_polar
from agentprm.readers.base import LEAD, Reader, ReaderAnswer
from agentprm.retrievers.mentions import title_names
from agentprm.routines import Routine
from agentprm.state import Quote, ReasoningState, Step, merge_steps, new_step, next_id
from agentprm.text import one_line, same_text, sentence_ends, terms, words

__all__ = ["ModelOrReader", "favoured", "led_to", "quote_of", "read_answers", "read_steps"]

# What an answer from a passage counts where the question names another one.
_ELSEWHERE = 0.3
# What an answer counts that only repeats words of the question.
_REPEATED = 0.02
# Answers that are weighed by where they come from and what they say.
_READ = 5
# Characters of a sentence that is read before a passage, and letters of a name in it.
_LONGEST_LEAD = 400
_SHORTEST_NAME = 4
_CHOICE = re.compile(r"\b(?:or|between|which (?:one|of|is|was|are|were))\b", re.IGNORECASE)

ModelOrReader: TypeAlias = LanguageModel | BaseChatModel | Reader | str
"""What can answer a question from passages: by writing, or by quoting."""


def read_answers(
    reader: Reader, questions: Sequence[str], passages: Sequence[Sequence[Document]], n: int
) -> Routine[list[list[ReaderAnswer]]]:
    """The `n` likeliest answers of each question, whether or not none is likelier."""
    rows, _ = yield from reported(
        type(reader).__name__,
        questions[0] if questions else "",
        lambda: reader.candidates(questions, passages, n=n),
        lambda: reader.acandidates(questions, passages, n=n),
    )
    return [[answer for answer in row if answer.text.strip()] for row in rows]


def led_to(question: str, passages: Sequence[Document]) -> tuple[list[Document], list[int]]:
    """The passages, and once more those that another one names, each behind the sentence that names it.

    A question that was not taken apart describes one thing and asks about another. Who reads of the other
    alone does not see that it is the one: "The lead singer of Up was born in …" asks nothing of Ann Lee's
    passage, but it does behind "Up: Up is a band led by Ann Lee." Questions of yes and no gain nothing by it.

    Args:
        question: The whole question. Of several sentences the one counts that has most of its words.
        passages: What was found for it.

    Returns:
        What to read, and for each its place among the passages.
    """
    asked = set(terms(question))
    told = [
        (place, f"{title_of(passage)}: {sentence}" if title_of(passage) else sentence)
        for place, passage in enumerate(passages)
        for sentence in _sentences(passage)
    ]
    shown, places = list(passages), list(range(len(passages)))
    for place, passage in enumerate(passages):
        names = [re.escape(name) for name in title_names(passage) if len(name) >= _SHORTEST_NAME]
        if not names:
            continue
        named = re.compile(rf"(?<!\w)(?:{'|'.join(names)})(?!\w)")
        leads = [text for other, text in told if other != place and named.search(text)]
        lead = max(leads, key=lambda text: len(asked & set(terms(text))), default="")
        if asked & set(terms(lead)):
            metadata = {**passage.metadata, LEAD: lead[:_LONGEST_LEAD]}
            shown.append(Document(passage.page_content, id=passage.id, metadata=metadata))
            places.append(place)
    return shown, places


def _sentences(passage: Document) -> list[str]:
    text = passage.page_content.removeprefix(f"{title_of(passage)}\n")
    ends = [*sentence_ends(text), len(text)]
    cuts = (one_line(text[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return [sentence for sentence in cuts if sentence]


def favoured(
    question: str, passages: Sequence[Document], answers: Sequence[ReaderAnswer], whole: str = ""
) -> list[ReaderAnswer]:
    """The answers with those discounted that come from elsewhere than the passage that the question names.

    What "Who directed Up?" asks for stands in the passage titled "Up", if there is one, and not in that of
    another film; and in "Up (2009 film)" rather if no passage bears just the name. Discounted are also those
    that only repeat words of the question, which a reader quotes where it finds nothing: "Lee County" is no
    answer to "What county borders on Lee County?".

    Args:
        question: A question about one thing.
        passages: What was read.
        answers: Answers from them.
        whole: What the question is a part of.
    """
    told = [f" {' '.join(_words(text))} " for text in (question, whole) if not _offers(text)]
    answers = sorted(
        (
            replace(answer, score=answer.score * _REPEATED) if _repeats(answer.text, told) else answer
            for answer in answers
        ),
        key=lambda answer: -answer.score,
    )
    asked = _words(question)
    found = [_naming(asked, title_of(passage)) for passage in passages]
    named = [own is not None and not any(_outdone(own, other) for other in found) for own in found]
    if not any(named):
        return list(answers)
    weighed = [
        answer
        if answer.passage is None or named[answer.passage]
        else replace(answer, score=answer.score * _ELSEWHERE)
        for answer in answers
    ]
    return sorted(weighed, key=lambda answer: -answer.score)


def _offers(question: str) -> bool:
    """Whether a question says what its answer is to be chosen from."""
    return bool(_CHOICE.search(question)) or alternatives(question) is not None


def _repeats(answer: str, told: list[str]) -> bool:
    said = " ".join(_words(re.sub(r"^(?:the|an?)\s", "", answer, flags=re.IGNORECASE)))
    return bool(said) and any(f" {said} " in text for text in told)


class _Named(NamedTuple):
    """Where a question holds a title, in words, and whether it holds all of it or all but its bracket."""

    start: int
    end: int
    whole: bool


def _naming(asked: list[str], title: str) -> _Named | None:
    for whole, name in ((True, title), (False, re.sub(r"\s*\([^()]*\)\s*$", "", title))):
        wanted = _words(name)
        for start in range(len(asked) - len(wanted) + 1 if wanted else 0):
            if asked[start : start + len(wanted)] == wanted:
                return _Named(start, start + len(wanted), whole)
    return None


def _outdone(own: _Named, other: _Named | None) -> bool:
    """Whether another title says more of the same words: "Up (2009 film)" than "Up"."""
    if other is None or not (other.start <= own.start and own.end <= other.end):
        return False
    longer = other.end - other.start > own.end - own.start
    return longer or (other.whole and not own.whole)


def _words(text: str) -> list[str]:
    return [word.text.casefold() for word in words(text)]


def quote_of(answer: ReaderAnswer, passages: Sequence[Document]) -> Quote | None:
    """Where an answer stands word for word; `None` for yes and no."""
    if answer.passage is None or answer.start < 0:
        return None
    return Quote(doc_id=str(passages[answer.passage].id), start=int(answer.start), end=int(answer.end))


def read_steps(
    reader: Reader,
    state: ReasoningState,
    steps: Sequence[Step],
    passages: Sequence[Sequence[Document]],
    findings: int,
) -> Routine[list[Step]]:
    """The steps with what a reader finds for them, and siblings for its next best findings.

    Siblings that ask the same get different findings. A step for which nothing is left is `unparsed`. What
    several steps ask of the same passages is read once.

    Args:
        reader: The reader.
        state: The search.
        steps: Proposed steps.
        passages: What each of them reads.
        findings: Most findings of a sub-question, where the strategy does not want a number of its own.
    """
    groups: dict[tuple[str | None, str], list[int]] = {}
    for place, step in enumerate(steps):
        groups.setdefault((step["parent_id"], one_line(step["query"]).casefold()), []).append(place)
    places = list(groups.values())
    known = [_findings(state, steps[own[0]]) for own in places]
    wanted = [_wanted(state, steps[own[0]], findings, len(k)) for own, k in zip(places, known, strict=True)]
    most = max((len(own) + len(k) for own, k in zip(places, known, strict=True)), default=1)
    asked = [_asked(steps[own[0]]["query"], passages[own[0]]) for own in places]
    first_of = {key: own[0] for key, own in reversed(list(zip(asked, places, strict=True)))}
    queries = [one_line(steps[place]["query"]) for place in first_of.values()]
    shown = [
        led_to(query, passages[place])
        if reader.reads_leads and same_text(query, state["question"]) and not is_polar(query)
        else (passages[place], range(len(passages[place])))
        for query, place in zip(queries, first_of.values(), strict=True)
    ]
    read = yield from read_answers(
        reader, queries, [documents for documents, _ in shown], max(most, *wanted, _READ) if wanted else _READ
    )
    answers = {
        key: [
            answer if answer.passage is None else replace(answer, passage=places[answer.passage])
            for answer in row
        ]
        for key, row, (_, places) in zip(first_of, read, shown, strict=True)
    }
    rows = [answers[key] for key in asked]
    finished: dict[int, Step] = {}
    more: list[Step] = []
    whole = one_line(state["question"])
    for own, row, told, most in zip(places, rows, known, wanted, strict=True):
        first = steps[own[0]]
        fresh: list[ReaderAnswer] = []
        for answer in favoured(one_line(first["query"]), passages[own[0]], row, whole):
            if not any(same_text(answer.text, text) for text in [*told, *(a.text for a in fresh)]):
                fresh.append(answer)
        for place, answer in zip(own, fresh, strict=False):
            finished[place] = _found(steps[place], answer, passages[own[0]])
        for place in own[len(fresh) :]:
            finished[place] = {**steps[place], "status": "unparsed"}
        for answer in fresh[len(own) :][: max(0, most - len(told) - len(own))]:
            grown: ReasoningState = {**state, "prm_steps": merge_steps(state.get("prm_steps"), more)}
            parent = next((s for s in grown["prm_steps"] if s["id"] == first["parent_id"]), None)
            sibling = new_step(next_id(grown, parent), parent, first["query"])
            sibling["doc_ids"], sibling["retrieve"] = list(first["doc_ids"]), first["retrieve"]
            more.append(_found(sibling, answer, passages[own[0]]))
    return [*(finished[place] for place in range(len(steps))), *more]


def _wanted(state: ReasoningState, step: Step, findings: int, told: int) -> int:
    """How many findings a sub-question is to have at this place, those included that were told."""
    width = state.get("prm_widths", {}).get(step["parent_id"] or "")
    return findings if width is None or "refines" in step else told + width


def _asked(query: str, passages: Sequence[Document]) -> tuple[str, ...]:
    return (one_line(query).casefold(), *(str(passage.id) for passage in passages))


def _findings(state: ReasoningState, step: Step) -> list[str]:
    """What siblings that ask the same have found already."""
    return [
        other["thought"]
        for other in state.get("prm_steps", [])
        if other["parent_id"] == step["parent_id"]
        and other["thought"]
        and same_text(other["query"], step["query"])
    ]


def _found(step: Step, answer: ReaderAnswer, passages: Sequence[Document]) -> Step:
    done: Step = {
        **step,
        "thought": one_line(answer.text),
        "status": "completed",
        "confidence": float(answer.score),
        "cited_ids": [],
    }
    if answer.passage is not None:
        done["cited_ids"] = [str(passages[answer.passage].id)]
    if quote := quote_of(answer, passages):
        done["quote"] = quote
    return done
