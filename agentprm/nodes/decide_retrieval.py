"""Retrieve or not: how likely a question needs passages, and the node that decides by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError
from agentprm.lm import Completion, LanguageModel, as_language_model
from agentprm.lm.chat import is_chat_model
from agentprm.nodes.answer import spoken
from agentprm.nodes.choices import LISTED, said_yes
from agentprm.nodes.node import Node, NodeRoutine
from agentprm.nodes.reporting import emit, reported, sampled
from agentprm.prompts import ChatTemplate, reply_params
from agentprm.replies import answer_span, finished_text, parse_finding
from agentprm.rerank.comparator import is_decision_model
from agentprm.routines import Routine, drive, wait, wait_in_thread
from agentprm.state import ReasoningState, as_messages
from agentprm.text import one_line

__all__ = ["Decide", "DecideRetrieval", "Need", "RetrievalNeed", "as_decision", "need_of"]

MARKER = "RETRIEVE"

ANSWER_OR_RETRIEVE = ChatTemplate(
    fields=("question",),
    system=(
        "Answer the question with a few words if you are sure of the answer. If you are not, reply with the "
        f"one word {MARKER} instead: documents will then be looked up.\n\n"
        "Question: What is the capital of France?\nAnswer: Paris\n\n"
        f"Question: Who is the mayor of Ebersberg?\nAnswer: {MARKER}"
    ),
    user="Question: {question}",
    prefix="Answer:",
)
NEEDED = ChatTemplate(
    fields=("question",),
    system=(
        "You decide whether documents must be looked up to answer a question. Not for a greeting, a sum, or "
        "what everybody knows. Reply Yes or No.\n\n"
        "Question: What is the capital of France?\nLook up: No\n\n"
        "Question: Who is the mayor of Ebersberg?\nLook up: Yes"
    ),
    user="Question: {question}\nMust documents be looked up?",
    prefix="Look up:",
)
_NOUL = (
    "Must documents be looked up to answer the last message of the user well? Not for a greeting, for what "
    "everybody knows, or for what the conversation already holds."
)


@dataclass(frozen=True)
class Need:
    """What came of asking whether a question needs passages.

    Attributes:
        probability: That it does; `None` if the reply did not say.
        answer: What the model answers without them; empty if it was not asked, or asks for passages.
    """

    probability: float | None
    answer: str = ""


class RetrievalNeed:
    """How likely a model thinks that a question needs passages: as `decide` of nodes and middleware.

    By `marker` (Adapt-LLM) the model either answers or writes a word that asks for retrieval. The need is
    the probability of the whole word, from log-likelihoods or from the log-probabilities that a chat model
    reports with its reply; without either it is 1 or 0. A token that merely begins like the word counts
    only if nothing else is known of it. What the model answers is not lost: `DecideRetrieval` keeps it.

    By `verdict` the model is asked, yes or no, whether documents must be looked up.

    Probabilities of models that were not trained for this lean to one side: set the threshold on
    questions of your own.

    Args:
        model: A language model, or any LangChain chat model.
        by: `marker` or `verdict`.
        marker: The word that asks for retrieval; by default the one that the template names.
        template: The prompt, with the field `question`; its prefix ends where the reply begins.
        max_tokens: Most tokens of the answer without passages.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> need = RetrievalNeed(ScriptedChatModel(script={"mayor of Bath": "RETRIEVE", "": "Paris"}))
        >>> need("Who is mayor of Bath?"), need("What is the capital of France?")
        (1.0, 0.0)
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | Runnable[Any, Any] | str,
        *,
        by: Literal["marker", "verdict"] = "marker",
        marker: str = MARKER,
        template: ChatTemplate | None = None,
        max_tokens: int = 32,
    ) -> None:
        if by not in ("marker", "verdict"):
            raise ConfigurationError(f"by must be 'marker' or 'verdict', not {by!r}.")
        if not marker.strip() or marker != one_line(marker):
            raise ConfigurationError(f"marker must be a word that is not empty, not {marker!r}.")
        if by == "marker" and marker != MARKER and template is None:
            raise ConfigurationError(f"Give a template that tells the model of the marker {marker!r}.")
        self.model = as_language_model(model)
        self.by, self.marker, self.max_tokens = by, marker.strip(), max_tokens
        self.template = template or (ANSWER_OR_RETRIEVE if by == "marker" else NEEDED)

    def __repr__(self) -> str:
        return f"RetrievalNeed({type(self.model).__name__}, by={self.by!r})"

    def __call__(self, question: str) -> float:
        """The probability; 1 where the model did not say, since reading costs less than a wrong answer."""
        need = drive(self.estimate(question))
        return 1.0 if need.probability is None else need.probability

    def model_calls(self) -> int:
        """Most model calls of one estimate."""
        return 2 if self.by == "marker" and self._scores else 1

    @property
    def _scores(self) -> bool:
        return self.model.capabilities.prefill and self.model.capabilities.loglikelihood

    def estimate(self, question: str, threshold: float = math.inf) -> Routine[Need]:
        """The need of passages, and the answer without them.

        Args:
            question: The question.
            threshold: With log-likelihoods the answer is written only where the need is below this.
        """
        prompt = self.template.render(prefill=self.model.capabilities.prefill, question=one_line(question))
        if self.by == "verdict":
            (probability,) = yield from said_yes(self.model, [prompt], question)
            return Need(probability)
        probability = None
        if self._scores:
            asked = [prompt], [[f" {self.marker}"]]
            rows, _ = yield from reported(
                type(self.model).__name__,
                question,
                lambda: self.model.loglikelihood(*asked),
                lambda: self.model.aloglikelihood(*asked),
            )
            probability = math.exp(min(0.0, rows[0][0]))
            if probability >= threshold:
                return Need(probability)
        params = reply_params(self.model, max_tokens=self.max_tokens)
        if probability is None:
            params = replace(params, top_logprobs=LISTED)
        ((reply,),) = yield from sampled(self.model, [prompt], 1, params)
        answer = parse_finding(finished_text(reply))
        asks = answer.casefold().startswith(self.marker.casefold())
        if probability is None:
            listed = marker_probability(self.marker, reply)
            probability = listed if listed is not None else float(asks) if answer else None
        return Need(probability, "" if asks else answer)


def marker_probability(marker: str, completion: Completion) -> float | None:
    """The probability that a reply is `marker`, from the log-probabilities that came with it.

    Exact where the reply writes the marker. Where it writes something else, all listed tokens that go on
    with the marker count, which is the most that it can be.

    Returns:
        The probability, or `None` if the completion reports none.
    """
    start, _ = answer_span(completion.text)
    probability, rest, begun = 1.0, marker, False
    for token in completion.token_logprobs:
        if token.at < start or (not begun and not token.token.strip()):
            continue
        begun = True
        first = rest == marker
        said = token.token.lstrip() if first else token.token
        if said and rest.startswith(said):
            probability *= math.exp(min(0.0, token.logprob))
            rest = rest[len(said) :]
            if not rest:
                return probability
        elif said.startswith(rest) and not said[len(rest) :][:1].isalnum():
            return probability * math.exp(min(0.0, token.logprob))
        else:
            others = [(text.lstrip() if first else text, logprob) for text, logprob in token.top]
            going_on = [
                math.exp(min(0.0, logprob))
                for text, logprob in others
                if text and (rest.startswith(text) or text.startswith(rest))
            ]
            return probability * min(1.0, math.fsum(going_on))
    return 0.0 if begun else None


Decide: TypeAlias = Callable[[str], bool | float]
"""From a question to whether, or how likely, it needs passages; `RetrievalNeed` is one."""


def as_decision(decide: Any) -> Any:
    """Whatever a user gives to decide by, checked; a language model becomes a `RetrievalNeed`.

    Args:
        decide: A `RetrievalNeed`, a decision model of `langchain_core.decisions`, a language model, or a
            function from the question to a truth value or a probability.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(decide, RetrievalNeed) or is_decision_model(decide):
        return decide
    if isinstance(decide, LanguageModel | str) or is_chat_model(decide):
        return RetrievalNeed(decide)
    if callable(decide):
        return decide
    raise ConfigurationError(
        "decide must be a language model, a decision model or a function from the question, not a "
        f"{type(decide).__name__}."
    )


def need_of(
    decide: Any, question: str, messages: Sequence[Any] = (), threshold: float = math.inf
) -> Routine[Need]:
    """How likely `question` needs passages, by whatever `as_decision` returns."""
    if isinstance(decide, RetrievalNeed):
        return (yield from decide.estimate(question, threshold))
    if not is_decision_model(decide):
        return Need(float((yield from wait_in_thread(decide, question))))
    from langchain_core.decisions import Noul

    asked = {
        "state": list(messages) or as_messages([("user", question)]),
        "questions": {"needed": Noul(instructions=_NOUL)},
    }
    response = yield from wait(decide.invoke, decide.ainvoke, asked)
    answer = response.nouls.get("needed")
    return Need(None if answer is None else float(answer.noul))


class DecideRetrieval(Node):
    """Decides whether the question needs passages, and answers it from memory if it does not.

    Writes `need`, a probability, and `route`, which an edge follows: `retrieve`, or below
    the threshold `answered` where the decision brought an answer with it, else `answer`. Where the reply
    did not say, or the budget has no call left for the question, it is `retrieve`.

    Args:
        decide: What decides: a language model (see `RetrievalNeed`), a decision model, or a function from
            the question to a truth value or a probability.
        threshold: Need from which on passages are retrieved.
        speak: Also append an answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `need`, `route`, `answer` and `citations`.
        budget: Bounds of a run. One model call is kept back for the answer.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> node = DecideRetrieval(ScriptedChatModel(script={"mayor of Bath": "RETRIEVE", "": "Paris"}))
        >>> node.invoke({"question": "What is the capital of France?"})["answer"]
        'Paris'
        >>> node.invoke({"question": "Who is mayor of Bath?"})["route"]
        'retrieve'
    """

    def __init__(
        self,
        decide: Decide | LanguageModel | BaseChatModel | str | Any,
        *,
        threshold: float = 0.5,
        speak: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "decide",
    ) -> None:
        self.decide = as_decision(decide)
        self.threshold, self.speak = threshold, speak
        super().__init__(
            name=name,
            writes=("need", "route", "answer", "citations"),
            keys=keys,
            budget=budget,
            settings=("threshold",),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        threshold = self.setting("threshold")
        calls = self.decide.model_calls() if isinstance(self.decide, RetrievalNeed) else 0
        need = Need(None)
        if not self.short(state, model_calls=calls, reserve=1):
            messages = as_messages(state.get("messages"))
            need = yield from need_of(self.decide, state["question"], messages, threshold)
        wanted = need.probability is None or need.probability >= threshold
        route = "retrieve" if wanted else "answered" if need.answer else "answer"
        emit({"type": "agentprm.need_judged", "need": need.probability, "route": route})
        update: dict[str, Any] = {
            "need": need.probability,
            "route": route,
            "answer": need.answer if route == "answered" else "",
            "citations": [],
        }
        if route == "answered":
            emit({"type": "agentprm.answered", "answer": need.answer, "cited_ids": []})
            update["prm_stop_reason"] = "answered"
            if self.speak:
                update["messages"] = spoken(state, AIMessage(need.answer))
        return update
