"""What the loops that gather evidence share: their beginning, their searches and their answer.

A loop is a few nodes in a row, run until one of them writes `prm_stop_reason`: the first plans a round, then
`RetrieveRound` searches for it, and the last judges what it brought. All work on the list `prm_rounds`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, ClassVar

from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langgraph.types import Overwrite

from agentprm.budget import SearchBudget, empty_usage
from agentprm.documents import cite, distinct_documents, joined, merge_documents, supporting
from agentprm.errors import InputError
from agentprm.nodes.answer import GatheredAnswer
from agentprm.nodes.node import Node, NodeRoutine
from agentprm.nodes.reporting import emit, emit_retrieved, stopped_by
from agentprm.nodes.retrieve import RetrieverLike, Searcher
from agentprm.rounds import Round, evidence_lines, rounds_of, seen_ids
from agentprm.state import ReasoningState, as_messages, open_question
from agentprm.text import one_line

__all__ = ["AnswerFromRounds", "GatherNode", "RetrieveRound", "StartGathering"]


class GatherNode(Node):
    """Base of the nodes of a loop that gathers evidence.

    Bounds of the budget count from the start of the loop, and one model call is kept back for the answer.
    Once the loop has ended, the nodes of its rounds do nothing more. `reads` names channels besides the
    question and the rounds.
    """

    also_reads = ("prm_rounds", "prm_documents", "prm_usage", "prm_stop_reason")

    #: Whether the node plans a round.
    opens: ClassVar[bool] = False

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        rounds = rounds_of(state)
        if ended := state.get("prm_stop_reason"):
            if self.opens:
                raise InputError(
                    f"{self.name} cannot go on with a loop that has ended ({ended}). Let StartGathering "
                    f"run at "
                    "the beginning of each question."
                )
            return {}
        if not rounds and not self.opens:
            raise InputError(f"{self.name} found no planned round; let a node that plans one run before.")
        return (yield from self.work(state, rounds))

    @abstractmethod
    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """The node's work on the rounds so far; returns the update."""


def finished(one: Round, reason: str = "") -> dict[str, Any]:
    """The update of a node that ends a round, and the loop if there is a reason."""
    done: Round = {**one, "status": "done"}
    emit(
        {
            "type": "agentprm.round_done",
            "round_id": done["id"],
            "kept": done["kept"],
            "score": done["score"],
            "note": done["note"],
            "facts": len(done["facts"]),
        }
    )
    return stopped_by({"prm_rounds": [done]}, reason) if reason else {"prm_rounds": [done]}


def planned(one: Round) -> dict[str, Any]:
    """The update of a node that plans a round."""
    emit(
        {
            "type": "agentprm.round_planned",
            "round_id": one["id"],
            "goal": one["goal"],
            "queries": one["queries"],
        }
    )
    return {"prm_rounds": [one]}


def failures(rounds: Sequence[Round]) -> int:
    """Rounds that brought nothing on."""
    return sum(not one["kept"] for one in rounds)


class StartGathering(GatherNode):
    """Begins a loop that gathers evidence, and clears what an earlier question has left.

    Args:
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
    """

    def __init__(self, *, keys: Mapping[str, str] | None = None, name: str = "start") -> None:
        super().__init__(name=name, writes=("documents", "answer", "citations"), keys=keys)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        yield from ()
        return {
            "question": open_question(as_messages(state.get("messages"))) or state["question"],
            "documents": [],
            "answer": "",
            "citations": [],
            "prm_rounds": Overwrite([]),
            "prm_documents": Overwrite([]),
            "prm_stop_reason": "",
        }

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """Not used: beginning is no part of a round."""
        raise NotImplementedError

    def _write(self, update: dict[str, Any], usage: Any, state: ReasoningState) -> dict[str, Any]:
        named = {self._keys.get(channel, channel): value for channel, value in update.items()}
        return {**named, "prm_usage": Overwrite(empty_usage())}


class RetrieveRound(GatherNode):
    """Searches for each query of the planned round; passages of earlier rounds are not found again.

    The lists of several queries take turns, so that each query has its best passage among the `k`.

    Args:
        retriever: As for `agentprm.nodes.Retrieve`.
        k: Most new passages of a round.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop.
    """

    def __init__(
        self,
        retriever: RetrieverLike,
        *,
        k: int = 5,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "retrieve",
    ) -> None:
        self.searcher = Searcher(retriever, k, type(self).__name__)
        self.k = k
        super().__init__(name=name, keys=keys, budget=budget, settings=("k",))

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        *before, current = rounds
        if current["status"] != "planned" or not current["queries"]:
            return {}
        if short := self.short(state, but=("reward_calls",), retrievals=1):
            return {"prm_stop_reason": short}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        queries = current["queries"][: budget.affordable("retrievals", len(current["queries"]), usage)]
        k, seen = self.setting("k"), set(seen_ids(before))
        hits = yield from self.searcher.find(queries, k + len(seen))
        known = state.get("prm_documents", [])
        in_turn = chain.from_iterable(zip_longest(*(hits[query] for query in queries)))
        found = distinct_documents([d for d in in_turn if d is not None], known)
        new = [d for d in found if d.id not in seen][:k]
        ids = [str(d.id) for d in new]
        for query in queries:
            emit_retrieved(current["id"], query, new)
        done: Round = {**current, "queries": queries, "doc_ids": ids, "status": "retrieved"}
        return {"prm_rounds": [done], "prm_documents": new}


def documents_of_rounds(state: ReasoningState, rounds: Sequence[Round]) -> list[Document]:
    """The passages of these rounds, in order."""
    by_id = {str(d.id): d for d in state.get("prm_documents", [])}
    return [by_id[i] for i in dict.fromkeys(seen_ids(rounds)) if i in by_id]


class AnswerFromRounds(GatheredAnswer, GatherNode):
    """Answers from what the rounds have gathered; where they gathered nothing, from memory.

    Only what was kept is read: the best note, the pool of facts, or the findings of goals. If the budget
    has no call left, the answer is what a round stated, else the last finding. `documents` are the
    passages that what was kept rests on, and the citations those of them that support the answer.

    Args:
        model: A language model, or any LangChain chat model.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema.
        prompts: Templates; `answer`, `summarise` and `recall` are used.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of the loop.
    """

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`; the answer comes after the end of the loop."""
        return (yield from self.work(state, rounds_of(state)))

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        reason = state.get("prm_stop_reason", "")
        lines, question = evidence_lines(rounds), one_line(state["question"])
        stated = rounds[-1]["answer"] if rounds else None
        message = AIMessage("")
        if stated is None or not self.form.plain:
            goals, prompts = any(one["goal"] for one in rounds), self.prompts
            template = (prompts.summarise if goals else prompts.answer) if lines else prompts.recall
            prompt = template.render(
                prefill=self.model.capabilities.prefill,
                question=question,
                known="\n".join(lines),
                passages=joined(lines),
            )
            message, short = yield from self.written(state, prompt)
            reason = reason or short
        found = next((one["note"] for one in reversed(rounds) if one["kept"] and one["note"]), "")
        message = message.model_copy(update={"content": str(message.text) or stated or found})
        kept = [one for one in rounds if one["kept"]] or rounds
        documents = documents_of_rounds(state, kept)
        facts = {fact["doc_id"] for one in kept for fact in one["facts"]}
        documents = [d for d in documents if not facts or d.id in facts]
        citations = cite(supporting(str(message.text), documents, state["question"]))
        return {
            **self.answered(state, message, citations, reason),
            "documents": merge_documents([], documents),
        }
