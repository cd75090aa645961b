"""Questions with known answers from a collection that nobody labelled.

Facts that passages state of their subjects (`patterns`), and the titles that these mention, become questions
of one hop ("Who directed Dawn?"), of two ("When was the director of Dawn born?"), and comparisons ("Which
film came out first, Dawn or Dusk?"), each with its gold passages, its sub-questions, and distractors that
the index finds for it. A question is kept only if a reader answers its parts from the passages, and not
without the gold ones (after WebLeaper and its like, which make tasks of a graph of facts).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from agentprm.documents import passages_text
from agentprm.errors import ConfigurationError, InputError
from agentprm.evaluation.qa import normalize_unicode, token_f1
from agentprm.evaluation.runner import made_folder
from agentprm.lm import LanguageModel
from agentprm.prompts import PROMPTS, reply_params
from agentprm.readers import Reader
from agentprm.replies import finished_text, parse_finding
from agentprm.retrievers.faiss_store import FaissStore, ShardedFaissStore
from agentprm.retrievers.retrieving import default_retriever
from agentprm.scale import Journal, LocalExecutor, map_items
from agentprm.training.data import Passage, PlanRecord, PlanStep, ReadingRecord, write_records
from agentprm.training.questions import (
    Draft,
    Facts,
    collect_facts,
    draft_questions,
    has_answer,
    seeded_digits,
)
from agentprm.training.rewording import reworded

__all__ = ["AnswerPassages", "SynthReport", "reading_with", "synthesize"]

AnswerPassages: TypeAlias = Callable[[Sequence[str], Sequence[Sequence[Document]]], Sequence[str]]
"""From questions and the passages of each to answers; an empty answer means that the passages give none."""

_JOURNAL = "synth.journal"
_BATCH = 8
_SAME = 0.6  # token F1 from which two answers are held the same


@dataclass(frozen=True)
class SynthReport:
    """What `synthesize` did.

    Attributes:
        passages: Passages read.
        facts: Facts found in them.
        drafted: Questions made of these and checked.
        kept: Questions written, by kind.
        dropped: Questions that did not pass, by reason.
        unanswerable: Reading records without an answer, made of kept questions.
        failed: Batches that failed; they are tried again when the command is repeated.
    """

    passages: int
    facts: int
    drafted: int
    kept: dict[str, int]
    dropped: dict[str, int]
    unanswerable: int
    failed: int


def reading_with(reader: Reader | LanguageModel) -> AnswerPassages:
    """Reads passages with a reader, or with a language model.

    Without passages a reader has no answer, and a language model is asked what it knows.
    """
    if isinstance(reader, LanguageModel):
        return partial(_sampled, reader)
    return partial(_quoted, reader)


def _quoted(reader: Reader, questions: Sequence[str], passages: Sequence[Sequence[Document]]) -> list[str]:
    places = [place for place, documents in enumerate(passages) if documents]
    found = reader.read([questions[i] for i in places], [passages[i] for i in places]) if places else []
    texts = dict(zip(places, (answer.text for answer in found), strict=True))
    return [texts.get(place, "") for place in range(len(questions))]


def _sampled(
    model: LanguageModel, questions: Sequence[str], passages: Sequence[Sequence[Document]]
) -> list[str]:
    led = model.capabilities.prefill
    prompts = [
        PROMPTS.answer.render(prefill=led, question=question, passages=passages_text(documents))
        if documents
        else PROMPTS.recall.render(prefill=led, question=question)
        for question, documents in zip(questions, passages, strict=True)
    ]
    rows = model.sample(prompts, 1, reply_params(model, max_tokens=32))
    return [parse_finding(finished_text(row[0])) for row in rows]


def _same(said: str, answers: Sequence[str]) -> bool:
    return bool(said.strip()) and token_f1(said, answers, normalize=normalize_unicode) >= _SAME


@dataclass(frozen=True)
class _DraftCheck:
    """Finds distractors for drafts, and tells which drafts stand.

    Args:
        store: Where passages come from.
        retriever: Finds distractors.
        answer: Reads passages; `None` trusts the patterns.
        distractors: Passages beside the gold ones.
        unanswerable: Share of the one-hop questions that are also given without their gold passage.
        seed: Decides the order of the passages.
        writer: Puts the questions in other words; `None` leaves them.
    """

    store: FaissStore | ShardedFaissStore
    retriever: BaseRetriever
    answer: AnswerPassages | None
    distractors: int
    unanswerable: float
    seed: int
    writer: LanguageModel | None = None

    def __call__(self, drafts: list[Draft]) -> list[dict[str, Any]]:
        """Per draft its records, or under `dropped` the reason why there are none."""
        if self.writer is not None:
            drafts = _in_other_words(self.writer, drafts)
        results: list[dict[str, Any]] = [{} for _ in drafts]
        beside: list[list[Document]] = []
        gold: list[dict[str, Document]] = []
        for draft, result in zip(drafts, results, strict=True):
            own = {
                str(d.id): d for d in self.store.get_by_ids([h["gold"] for h in draft["hops"] if h["gold"]])
            }
            gold.append(own)
            beside.append(self._beside(draft, own))
            reason = _flaw(draft, own)
            if reason:
                result["dropped"] = reason
        if self.answer is not None:
            self._read(drafts, results, gold, beside)
        for draft, result, own, others in zip(drafts, results, gold, beside, strict=True):
            if not result:
                result.update(self._records(draft, own, others))
        return results

    def _beside(self, draft: Draft, own: dict[str, Document]) -> list[Document]:
        """The nearest passages that hold neither the answer nor that of a sub-question."""
        answers = [a for hop in draft["hops"] for a in hop["answers"] if hop["gold"]]
        questions = dict.fromkeys([draft["question"], *(h["asked"] for h in draft["hops"] if h["gold"])])
        lists = [self.retriever.invoke(question) for question in questions]
        found: dict[str, Document] = {}
        for rank in range(max(map(len, lists), default=0)):
            for hits in lists:
                document = hits[rank] if rank < len(hits) else None
                if document is not None and str(document.id) not in own:
                    found.setdefault(str(document.id), document)
        free = (d for d in found.values() if not any(has_answer(_shown(d), answer) for answer in answers))
        return list(islice(free, self.distractors))

    def _read(
        self,
        drafts: list[Draft],
        results: list[dict[str, Any]],
        gold: list[dict[str, Document]],
        beside: list[list[Document]],
    ) -> None:
        assert self.answer is not None
        asked: list[tuple[int, str, list[Document], list[str], bool]] = []
        for place, draft in enumerate(drafts):
            if results[place]:
                continue
            for hop in draft["hops"]:
                if hop["gold"]:
                    passages = self._shuffled(hop["asked"], [gold[place][hop["gold"]], *beside[place]])
                    asked.append((place, hop["asked"], passages, hop["answers"], True))
            if draft["kind"] != "comparison":
                asked.append((place, draft["question"], beside[place], draft["answers"], False))
                asked.append((place, draft["question"], [], draft["answers"], False))
        said = self.answer([question for _, question, _, _, _ in asked], [p for _, _, p, _, _ in asked])
        for (place, _, _, answers, wanted), text in zip(asked, said, strict=True):
            if _same(text, answers) != wanted and not results[place]:
                results[place]["dropped"] = (
                    "not read from its passages" if wanted else "answered without them"
                )

    def _shuffled(self, question: str, documents: Sequence[Document]) -> list[Document]:
        return sorted(documents, key=lambda d: seeded_digits(self.seed, question, str(d.id)))

    def _records(self, draft: Draft, own: dict[str, Document], others: list[Document]) -> dict[str, Any]:
        passages = self._shuffled(draft["question"], [*own.values(), *others])
        reading = ReadingRecord(
            id="synth:" + seeded_digits(0, draft["question"])[:16],
            set="synth",
            question=draft["question"],
            answers=draft["answers"],
            passages=[Passage(title=_title(d), text=d.page_content, gold=str(d.id) in own) for d in passages],
            sentence=draft["hops"][-1]["sentence"] or None,
            evidence=[hop["triple"] for hop in draft["hops"] if hop["triple"]],
            type=draft["kind"],
        )
        plan = PlanRecord(
            id=reading.id,
            set="synth",
            question=draft["question"],
            steps=[PlanStep(question=hop["question"], answer=hop["answers"][0]) for hop in draft["hops"]],
            answer=draft["answers"][0],
            **{"type": draft["kind"]},
        )
        result = {
            "reading": reading.model_dump(exclude_none=True, exclude_unset=True),
            "plan": plan.model_dump(exclude_unset=True),
        }
        lot = int(seeded_digits(self.seed, "unanswerable", draft["question"])[:8], 16) / 16**8
        if draft["kind"] == "one_hop" and others and lot < self.unanswerable:
            blind = reading.model_copy(
                update={
                    "id": reading.id + ":none",
                    "answers": [],
                    "passages": [passage for passage in reading.passages if not passage.gold],
                    "sentence": None,
                    "evidence": None,
                    "type": "none",
                }
            )
            result["blind"] = blind.model_dump(exclude_none=True, exclude_unset=True)
        return result


def _in_other_words(writer: LanguageModel, drafts: list[Draft]) -> list[Draft]:
    new = reworded(writer, [d["question"] for d in drafts], [d["answers"] for d in drafts])
    changed = []
    for draft, question in zip(drafts, new, strict=True):
        hops = draft["hops"]
        if draft["kind"] == "one_hop":
            hops = [{**hops[0], "question": question, "asked": question}]
        elif draft["kind"] == "comparison":
            compared = hops[-1]["question"].replace(draft["question"], question)
            hops = [*hops[:-1], {**hops[-1], "question": compared, "asked": compared}]
        changed.append(Draft(kind=draft["kind"], question=question, answers=draft["answers"], hops=hops))
    return changed


def _flaw(draft: Draft, own: dict[str, Document]) -> str:
    """Why a draft cannot stand, whoever reads it; empty if it can."""
    for hop in draft["hops"]:
        if hop["gold"] and hop["gold"] not in own:
            return "its passage is gone"
    if draft["kind"] == "two_hop":
        first = own[draft["hops"][0]["gold"]]
        if any(has_answer(_shown(first), answer) for answer in draft["answers"]):
            return "answered by the first passage"
    return ""


def _title(document: Document) -> str:
    title = document.metadata.get("title")
    return title if isinstance(title, str) else ""


def _shown(document: Document) -> str:
    return f"{_title(document)}\n{document.page_content}"


def synthesize(
    store: FaissStore | ShardedFaissStore,
    output: str | os.PathLike[str],
    *,
    questions: int = 1000,
    reader: Reader | LanguageModel | None = None,
    reader_name: str = "",
    writer: LanguageModel | None = None,
    writer_name: str = "",
    distractors: int = 4,
    unanswerable: float = 0.2,
    threads: int = 1,
    seed: int = 0,
    on_passage: Callable[[int], None] | None = None,
    on_question: Callable[[int], None] | None = None,
) -> SynthReport:
    """Makes `reading.jsonl` and `plans.jsonl` of a collection; goes on where an earlier call was stopped.

    Args:
        store: The collection.
        output: Folder to write to; what is finished is kept in it while the work goes on.
        questions: Most questions to keep.
        reader: A question stays only if this answers each part with the gold passage among distractors,
            and not from the distractors alone, nor without any. `None` trusts the patterns.
        reader_name: Names the reader, so that results of another one are not gone on with.
        writer: Puts the questions in other words before they are checked (not their sub-questions); a
            wording that loses a name or tells the answer is not taken.
        writer_name: Names the writer, as `reader_name` does the reader.
        distractors: Passages beside the gold ones, the nearest that do not hold the answer.
        unanswerable: Share of the one-hop questions that are also given without their gold passage, and
            without an answer, so that a reader learns to find none.
        threads: Batches under way at once; more than 1 pays where `reader` waits for a server.
        seed: Same seed, same questions.
        on_passage: Called with the number of passages read.
        on_question: Called with the number of questions kept so far.

    Raises:
        InputError: If the collection gives no questions, or the folder cannot be written.
        ConfigurationError: If a number is out of its range.
    """
    if questions < 1 or distractors < 0 or not 0 <= unanswerable <= 1:
        raise ConfigurationError(
            "questions must be at least 1, distractors not negative and unanswerable in [0, 1], "
            f"not {questions}, {distractors} and {unanswerable}."
        )
    facts = collect_facts(store, store.mentions, on_passage)
    if not facts.count:
        raise InputError(
            "No passage states a fact in a way that is known here. The patterns are for English texts about "
            "named things, with titles; write questions by hand or with a language model for others."
        )
    folder = made_folder(Path(output))
    drafts = draft_questions(facts, seed)
    settings = {
        "passages": facts.passages,
        "seed": seed,
        "distractors": distractors,
        "unanswerable": unanswerable,
        "reader": reader_name,
        "writer": writer_name,
    }
    check = _DraftCheck(
        store,
        default_retriever(store, k=2 * distractors + 4),
        None if reader is None else reading_with(reader),
        distractors,
        unanswerable,
        seed,
        writer,
    )
    with Journal(folder / _JOURNAL, run=json.dumps(settings, sort_keys=True)) as journal:
        kept = 0
        known = {entry.key: entry.value for entry in journal.entries() if entry.failure is None}

        def keep(results: list[dict[str, Any]]) -> None:
            nonlocal kept
            kept += sum("reading" in result for result in results)
            if on_question is not None:
                on_question(min(kept, questions))

        def batches() -> Iterator[list[Draft]]:
            while kept < questions and (batch := list(islice(drafts, _BATCH))):
                done = known.get(_key(batch))
                if done is not None:
                    keep(done)
                yield batch

        report = map_items(
            lambda: check,
            batches(),
            journal,
            executor=LocalExecutor(threads),
            key=_key,
            retry_failed=True,
            on_outcome=lambda _, outcome: keep(outcome.value or []),
        )
        results = [result for entry in journal.entries() for result in entry.value or ()]
    return _write(folder, results, questions, facts, report.failed)


def _key(batch: list[Draft]) -> str:
    return seeded_digits(0, json.dumps(batch, sort_keys=True))[:32]


def _write(
    folder: Path, results: list[dict[str, Any]], questions: int, facts: Facts, failed: int
) -> SynthReport:
    good = [result for result in results if "reading" in result][:questions]
    reading = [
        ReadingRecord(**row) for result in good for row in (result["reading"], result.get("blind")) if row
    ]
    write_records(folder / ReadingRecord.FILE, reading)
    write_records(folder / PlanRecord.FILE, [PlanRecord(**result["plan"]) for result in good])
    return SynthReport(
        passages=facts.passages,
        facts=facts.count,
        drafted=len(results),
        kept=dict(Counter(cast("str", result["reading"]["type"]) for result in good)),
        dropped=dict(Counter(result["dropped"] for result in results if "dropped" in result)),
        unanswerable=sum("blind" in result for result in good),
        failed=failed,
    )
