"""The note loop: a note that grows better with every round, or stays as it was (Adaptive-Note)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.documents import passages_text
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes.choices import said_yes
from agentprm.nodes.gathering import GatherNode, documents_of_rounds, failures, finished, planned
from agentprm.nodes.node import NodeRoutine
from agentprm.nodes.reporting import replied
from agentprm.prompts import ChatTemplate, with_examples
from agentprm.replies import parse_finding, parse_lines
from agentprm.rounds import Round, asked_before, best_note, new_round, seen_ids
from agentprm.routines import Routine
from agentprm.state import ReasoningState
from agentprm.text import one_line, same_text

__all__ = ["ImproveNote", "PlanQueries"]

QUERIES = ChatTemplate(
    fields=("question", "note", "asked", "count"),
    system=(
        "You look up what is still missing to answer a question. Write search queries for what the note does "
        "not say yet, a line each. Do not repeat earlier queries.\n\n"
        "Question: Who is the mother of the director of the film Lost River?\n"
        "Note: The film Lost River was directed by Ryan Gosling.\n"
        "Earlier queries: Who directed the film Lost River?\n"
        "Search: Who is the mother of Ryan Gosling?\nSearch: Ryan Gosling family"
    ),
    user="Question: {question}\nNote: {note}\nEarlier queries: {asked}\nWrite {count} new queries.",
    prefix="Search:",
)
NOTE = ChatTemplate(
    fields=("question", "note", "passages"),
    system=(
        "You keep a note that holds what is needed to answer a question. Write the note anew: keep what "
        "helps, add what the passages say about it, leave out the rest, and invent nothing. Reply with the "
        "note only."
    ),
    user="Question: {question}\n\nNote so far: {note}\n\nPassages:\n{passages}",
    prefix="Note:",
)
COMPARE = ChatTemplate(
    fields=("question", "first", "second"),
    system=(
        "Two notes were taken to answer a question. Say which one is better: does it hold the key "
        "information, does it cover all parts of the question, is it exact in detail, is it of use for an "
        "answer? A note that says the same with more words is not better. Reply First or Second."
    ),
    user="Question: {question}\n\nFirst: {first}\n\nSecond: {second}\n\nWhich note is better?",
    prefix="Better:",
)


class PlanQueries(GatherNode):
    """Plans a round of the note loop: the question itself first, then queries for what the note lacks.

    Queries that were made before are dropped; where no new one is left, the loop ends.

    Args:
        model: A language model, or any LangChain chat model.
        queries: New queries of a round; 2 in the paper.
        max_tokens: Most tokens of a reply.
        template: The prompt, with the fields `question`, `note`, `asked` and `count`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    opens = True

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        queries: int = 2,
        max_tokens: int = 64,
        template: ChatTemplate = QUERIES,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "plan",
    ) -> None:
        self.model = as_language_model(model)
        self.n, self.max_tokens, self.template = queries, max_tokens, template
        super().__init__(name=name, reads=("examples",), keys=keys, budget=budget, settings=("n",))

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        if not rounds:
            return planned(new_round(rounds, [state["question"]]))
        if reason := self.short(state, model_calls=1, reserve=1):
            return {"prm_stop_reason": reason}
        asked = asked_before(rounds)
        prompt = self.template.render(
            prefill=self.model.capabilities.prefill,
            question=one_line(state["question"]),
            note=one_line(best_note(rounds)) or "(empty)",
            asked="; ".join(map(one_line, asked)),
            count=str(self.setting("n")),
        )
        prompt = with_examples(prompt, state.get("examples", ""))
        reply = yield from replied(self.model, prompt, max_tokens=self.max_tokens, lines=True)
        new: list[str] = []
        for query in parse_lines(reply, 2 * self.setting("n")):
            if not any(same_text(query, other) for other in [*asked, *new]):
                new.append(query)
        if not new:
            return {"prm_stop_reason": "no new query"}
        return planned(new_round(rounds, new[: self.setting("n")]))


class ImproveNote(GatherNode):
    """Writes the note anew from the round's passages, and keeps it only if it is better than the best one.

    The judge sees both notes in both orders, so that no place among them is an advantage; undecided, the
    old one stays. The first note needs no judge. The loop ends after `max_rounds`, after `max_failures`
    rounds that made it no better, and with `max_documents` passages read.

    Args:
        model: Writes the note.
        judge: Compares notes; by default `model`.
        max_rounds: Most rounds, the first included; 4 (three after the first) as in the paper's runs.
        max_failures: Rounds, in all, that may fail.
        max_documents: Most distinct passages; 15 in the paper's code.
        max_tokens: Most tokens of a note.
        template: The prompt, with the fields `question`, `note` and `passages`.
        compare: The judge's prompt, with the fields `question`, `first` and `second`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        judge: LanguageModel | BaseChatModel | str | None = None,
        *,
        max_rounds: int = 4,
        max_failures: int = 1,
        max_documents: int = 15,
        max_tokens: int = 160,
        template: ChatTemplate = NOTE,
        compare: ChatTemplate = COMPARE,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "note",
    ) -> None:
        self.model = as_language_model(model)
        self.judge = self.model if judge is None else as_language_model(judge)
        self.max_rounds, self.max_failures, self.max_documents = max_rounds, max_failures, max_documents
        self.max_tokens, self.template, self.compare = max_tokens, template, compare
        super().__init__(
            name=name,
            keys=keys,
            budget=budget,
            settings=("max_rounds", "max_failures", "max_documents"),
        )

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        *before, current = rounds
        old = best_note(before)
        if current["doc_ids"]:
            if reason := self.short(state, model_calls=3 if old else 1, reserve=1):
                return {"prm_stop_reason": reason}
            note = yield from self._note(state, current, old)
            better: float | None = None
            if note and old and not same_text(note, old):
                better = yield from self._better(state["question"], old, note)
            kept = bool(note) and (not old or (better is not None and better > 0.5))
            current = {**current, "note": note, "score": better, "kept": kept}
        rounds = [*before, current]
        reason = ""
        if failures(rounds) >= self.setting("max_failures"):
            reason = "no better note"
        elif len(rounds) >= self.setting("max_rounds"):
            reason = "max_rounds"
        elif len(seen_ids(rounds)) >= self.setting("max_documents"):
            reason = "max_documents"
        return finished(current, reason)

    def _note(self, state: ReasoningState, current: Round, old: str) -> Routine[str]:
        prompt = self.template.render(
            prefill=self.model.capabilities.prefill,
            question=one_line(state["question"]),
            note=one_line(old) or "(empty)",
            passages=passages_text(documents_of_rounds(state, [current])),
        )
        reply = yield from replied(self.model, prompt, max_tokens=self.max_tokens, lines=True)
        return parse_finding(reply).removeprefix("Note:").strip()

    def _better(self, question: str, old: str, new: str) -> Routine[float]:
        """How likely the new note is the better one, over both orders; a reply that does not say is a tie."""
        prompts = [
            self.compare.render(
                prefill=self.judge.capabilities.prefill,
                question=one_line(question),
                first=one_line(first),
                second=one_line(second),
            )
            for first, second in ((old, new), (new, old))
        ]
        firsts = yield from said_yes(self.judge, prompts, question, ("First", "Second"))
        old_first, new_first = (0.5 if share is None else share for share in firsts)
        return (1 - old_first + new_first) / 2
