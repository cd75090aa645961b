"""The evidence pool: facts with their sources, queries for what is missing, a judge who ends it (RFM-RAG)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.documents import passage_line, supporting
from agentprm.errors import ConfigurationError, check_count
from agentprm.lm import LanguageModel, as_language_model
from agentprm.lm.chat import is_chat_model
from agentprm.nodes.choices import said_yes
from agentprm.nodes.gathering import GatherNode, documents_of_rounds, failures, finished, planned
from agentprm.nodes.node import NodeRoutine
from agentprm.nodes.reporting import replied, sampled
from agentprm.prompts import ChatTemplate, reply_params, with_examples
from agentprm.replies import finished_text, parse_lines, parse_proposal
from agentprm.rounds import Fact, Round, asked_before, evidence_lines, facts_of, new_round
from agentprm.routines import Routine, wait_in_thread
from agentprm.state import ReasoningState
from agentprm.text import one_line, same_text

__all__ = ["DistilFacts", "JudgeFacts", "PlanGap", "Sufficiency"]

GAP = ChatTemplate(
    fields=("question", "known", "asked"),
    system=(
        "A question asks how things are related. Compare the relations that it asks for with the known "
        "facts, find the first one that is missing, and ask for it alone. Reply with one line 'Search: <a "
        "short question about one thing>'.\n\n"
        "Question: In which country was the inventor of the Kelvin scale born?\n"
        "Known:\n(nothing yet)\nSearch: Who invented the Kelvin scale?\n\n"
        "Question: Who is the mother of the director of the film Lost River?\n"
        "Known:\nLost River was directed by Ryan Gosling.\nSearch: Who is the mother of Ryan Gosling?"
    ),
    user="Question: {question}\nAsked before: {asked}\nKnown:\n{known}",
    prefix="Search:",
)
DISTIL = ChatTemplate(
    fields=("question", "passage"),
    system=(
        "Copy from the text the sentences that help to answer the question, a line each, with names in the "
        "place of words such as he or it. If there are none, reply with the word None."
    ),
    user="Question: {question}\n\nText: {passage}",
    prefix="Facts:",
)
SUFFICIENT = ChatTemplate(
    fields=("question", "known"),
    system=(
        "You decide whether known facts are enough to answer a question: no part of it may be missing. Reply "
        "Yes or No."
    ),
    user="Known facts:\n{known}\n\nQuestion: {question}\nAre the facts enough to answer?",
    prefix="Enough:",
)

Sufficiency: TypeAlias = Callable[[str, Sequence[str]], bool | float]
"""From the question and the facts to whether, or how likely, they are enough."""


class PlanGap(GatherNode):
    """Plans a round of the evidence pool: the question itself first, then a query for what is missing.

    A query that was made before, or a reply without one, ends the loop.

    Args:
        model: A language model, or any LangChain chat model.
        max_tokens: Most tokens of a query.
        template: The prompt, with the fields `question`, `known` and `asked`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    opens = True

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        max_tokens: int = 32,
        template: ChatTemplate = GAP,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "gap",
    ) -> None:
        self.model = as_language_model(model)
        self.max_tokens, self.template = max_tokens, template
        super().__init__(name=name, reads=("examples",), keys=keys, budget=budget)

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
            known="\n".join(evidence_lines(rounds)) or "(nothing yet)",
            asked="; ".join(map(one_line, asked)),
        )
        prompt = with_examples(prompt, state.get("examples", ""))
        reply = yield from replied(self.model, prompt, max_tokens=self.max_tokens)
        proposal = parse_proposal(prompt.prefix + reply, prompt.messages[-1][1])
        query = proposal.query if proposal else ""
        if not query or any(same_text(query, other) for other in asked):
            return {"prm_stop_reason": "no new query"}
        return planned(new_round(rounds, [query]))


class DistilFacts(GatherNode):
    """Copies facts from the round's passages into the pool, each with the passage that says it.

    Passages are read one by one, so that a fact cannot lose its source. A fact that shares less than half
    of its words with its passage was not copied from it and is dropped, and so is one that is known.

    Args:
        model: A language model, or any LangChain chat model.
        facts: Most facts of a passage.
        max_tokens: Most tokens of a reply.
        template: The prompt, with the fields `question` and `passage`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        facts: int = 3,
        max_tokens: int = 96,
        template: ChatTemplate = DISTIL,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "distil",
    ) -> None:
        self.model = as_language_model(model)
        self.facts = check_count("facts", facts)
        self.max_tokens, self.template = max_tokens, template
        super().__init__(name=name, keys=keys, budget=budget)

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        *before, current = rounds
        documents = documents_of_rounds(state, [current])
        if not documents:
            return {}
        if short := self.short(state, model_calls=1, reserve=1):
            return {"prm_stop_reason": short}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        documents = documents[: budget.affordable("model_calls", len(documents), usage, reserve=1)]
        prompts = [
            self.template.render(
                prefill=self.model.capabilities.prefill,
                # What the passage was searched for matters as much as what is asked in the end.
                question=one_line(" ".join(dict.fromkeys([state["question"], *current["queries"]]))),
                passage=passage_line(document),
            )
            for document in documents
        ]
        params = reply_params(self.model, max_tokens=self.max_tokens, lines=True)
        rows = yield from sampled(self.model, prompts, 1, params)
        known = [fact["text"] for fact in facts_of(before)]
        facts: list[Fact] = []
        for document, row in zip(documents, rows, strict=True):
            for text in parse_lines(finished_text(row[0]), self.facts):
                if supporting(text, [document]) and not any(same_text(text, other) for other in known):
                    known.append(text)
                    facts.append(Fact(text=text, doc_id=str(document.id)))
        return {"prm_rounds": [{**current, "facts": facts, "kept": bool(facts)}]}


class JudgeFacts(GatherNode):
    """Says whether the pool is enough, and ends the loop if it is.

    The model that filled the pool is a poor judge of it: give another one, or a function, where you can.
    The loop also ends after `max_rounds`, and after `max_failures` rounds without a new fact.

    Args:
        judge: A language model, or a function from the question and the facts to a truth value or a
            probability.
        threshold: Probability from which on the pool is enough.
        patience: Rounds, in all, after which the judge must find it enough; 2 where the first yes is not to
            be trusted.
        max_rounds: Most rounds.
        max_failures: Rounds, in all, that may bring no new fact.
        template: The prompt of a model, with the fields `question` and `known`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    def __init__(
        self,
        judge: LanguageModel | BaseChatModel | str | Sufficiency,
        *,
        threshold: float = 0.5,
        patience: int = 1,
        max_rounds: int = 4,
        max_failures: int = 2,
        template: ChatTemplate = SUFFICIENT,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "judge",
    ) -> None:
        self.judge: Any = judge
        if isinstance(judge, LanguageModel | str) or is_chat_model(judge):
            self.judge = as_language_model(judge)
        elif not callable(judge):
            raise ConfigurationError(
                "judge must be a language model, or a function from the question and the facts, not a "
                f"{type(judge).__name__}."
            )
        self.patience = check_count("patience", patience)
        self.threshold, self.template = threshold, template
        self.max_rounds, self.max_failures = max_rounds, max_failures
        super().__init__(
            name=name, keys=keys, budget=budget, settings=("threshold", "max_rounds", "max_failures")
        )

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        current, reason = rounds[-1], ""
        if current["kept"]:  # nothing new needs no judge
            if isinstance(self.judge, LanguageModel) and (
                reason := self.short(state, model_calls=1, reserve=1)
            ):
                return finished(current, reason)
            enough = yield from self._enough(state["question"], evidence_lines(rounds))
            current = {**current, "score": enough}
            scores = [one["score"] for one in [*rounds[:-1], current]]
            threshold = self.setting("threshold")
            if sum(score is not None and score >= threshold for score in scores) >= self.patience:
                reason = "sufficient"
        if not reason and failures(rounds) >= self.setting("max_failures"):
            reason = "nothing new"
        if not reason and len(rounds) >= self.setting("max_rounds"):
            reason = "max_rounds"
        return finished(current, reason)

    def _enough(self, question: str, facts: list[str]) -> Routine[float | None]:
        if not isinstance(self.judge, LanguageModel):
            return float((yield from wait_in_thread(self.judge, question, facts)))
        prompt = self.template.render(
            prefill=self.judge.capabilities.prefill, question=one_line(question), known="\n".join(facts)
        )
        (enough,) = yield from said_yes(self.judge, [prompt], question)
        return enough
