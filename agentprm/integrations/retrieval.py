"""`RetrievalControl`: passages for an agent, where it needs them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, NotRequired, cast

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, SystemMessage
from langgraph.types import Command
from typing_extensions import TypedDict

from agentprm.documents import evidence_line, joined
from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.integrations.unseen import aunseen, unseen
from agentprm.nodes import CondenseQuestion, Decide, Retrieve, as_decision, need_of
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards.base import ProcessRewardModel, check_scores
from agentprm.rewards.conversation import trajectory_of
from agentprm.rewards.function import as_reward
from agentprm.routines import Routine, adrive, drive, wait, wait_in_thread

try:
    from langchain.agents.middleware import (
        AgentMiddleware,
        AgentState,
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
    )
    from langchain.agents.middleware.internal_call_transformer import InternalCallTransformer
    from langchain.agents.middleware.types import ContextT, PrivateStateAttr, ResponseT
except ImportError as error:
    raise MissingDependencyError.for_extra("langchain (1.5 or newer)", "agents") from error

__all__ = ["Lookup", "RetrievalControl", "RetrievalState"]

_Ask = Callable[[ModelRequest[Any], bool], Routine[ModelResponse[Any]]]


class Lookup(TypedDict):
    """What was looked up in a turn, and why.

    Attributes:
        documents: The passages; empty if none were looked up.
        need: How likely it was thought that the question needs them; `None` if nobody was asked.
        score: The reward of an answer without them; `None` if there was none.
    """

    documents: list[Document]
    need: float | None
    score: float | None


class RetrievalState(AgentState[ResponseT]):
    """The agent's state with the lookup of its current turn, which input and output leave out."""

    prm_lookup: NotRequired[Annotated[Lookup | None, PrivateStateAttr]]


class RetrievalControl(AgentMiddleware[RetrievalState[ResponseT], ContextT, ResponseT]):
    """Looks passages up for an agent's question, or does not, and thinks again if the answer is weak.

    Once a turn, `decide` says whether the question needs passages. They are put into the system
    message, for every model call of the turn. Where a reward is given and the agent answers without
    passages, the answer is scored: if it is weak, they are looked up after all, the agent answers
    again, and the better answer stays. Such first answers are not streamed: what stays comes whole.

    The lookup of the turn stands in the private state key `prm_lookup`.

    Args:
        retriever: Whatever `agentprm.nodes.Retrieve` takes; with a `FeedbackRetriever` the first hits
            improve the query.
        decide: A decision model of `langchain_core.decisions`, an `agentprm.nodes.RetrievalNeed`, a language
            model, or a function from the question to a truth value or a probability. By default it is
            looked up at once without a reward, and with one only for a weak answer.
        reward: Scores answers that were given without passages; a reward, or a function.
        below: A score under which an answer is weak, in the reward's space.
        k: Passages.
        condense: Make a follow-up a question that stands alone before it is searched for: with the agent's
            model (`True`) or another one; see `agentprm.nodes.CondenseQuestion`.
        prompts: Templates; `context` is used.

    Raises:
        ConfigurationError: If `decide` is none of these.

    Example:
        >>> from langchain.agents import create_agent
        >>> from agentprm.testing import ScriptedChatModel, fake_store
        >>> model = ScriptedChatModel(script={"born in Portsmouth": "In Portsmouth.", "": "Hello."})
        >>> control = RetrievalControl(fake_store(["Brunel was born in Portsmouth."]), lambda q: "?" in q)
        >>> agent = create_agent(model, middleware=[control])
        >>> [agent.invoke({"messages": said})["messages"][-1].text for said in ("Hi!", "Where was he born?")]
        ['Hello.', 'In Portsmouth.']
    """

    state_schema = RetrievalState  # type: ignore[assignment]
    transformers = (InternalCallTransformer,)

    def __init__(
        self,
        retriever: Any,
        decide: Decide | Any = None,
        *,
        reward: ProcessRewardModel | Callable[..., Any] | None = None,
        below: float = 0.5,
        k: int = 5,
        condense: Any = True,
        prompts: Prompts = PROMPTS,
    ) -> None:
        super().__init__()
        if not math.isfinite(below):
            raise ConfigurationError(f"below must be a finite number, not {below}.")
        self.tools = []
        self.search = Retrieve(retriever, k=k)
        self.decide = None if decide is None else as_decision(decide)
        self.reward = None if reward is None else as_reward(reward)
        self.below, self.condense, self.prompts = below, condense, prompts

    def before_agent(self, state: RetrievalState[ResponseT], runtime: Any) -> dict[str, Any]:
        """A new turn starts without the passages of the last one."""
        return {"prm_lookup": None}

    def wrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]],
    ) -> ExtendedModelResponse[ResponseT]:
        """See `AgentMiddleware.wrap_model_call`."""

        def ask(one: ModelRequest[ContextT], hidden: bool) -> Routine[ModelResponse[ResponseT]]:
            return wait_in_thread(unseen, handler, one) if hidden else wait_in_thread(handler, one)

        return drive(self._routine(request, ask))

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ExtendedModelResponse[ResponseT]:
        """See `AgentMiddleware.awrap_model_call`."""

        def ask(one: ModelRequest[ContextT], hidden: bool) -> Routine[ModelResponse[ResponseT]]:
            async def call() -> ModelResponse[ResponseT]:
                return await (aunseen(handler, one) if hidden else handler(one))

            return wait(_needs_a_loop, call)

        return await adrive(self._routine(request, ask))

    def _routine(self, request: ModelRequest[Any], ask: _Ask) -> Routine[ExtendedModelResponse[Any]]:
        lookup = cast("RetrievalState", request.state).get("prm_lookup")
        question = next(
            (m.text for m in reversed(request.messages) if m.type == "human" and m.text.strip()), ""
        )
        if lookup is None:
            lookup = Lookup(documents=[], need=None, score=None)
            needed = bool(question) and self.reward is None
            if self.decide is not None and question:
                judged = yield from need_of(self.decide, question, request.messages)
                lookup["need"] = need = 1.0 if judged.probability is None else judged.probability
                needed = need >= 0.5
            if needed:
                lookup["documents"] = yield from self._documents(request, question)
        hidden = self.reward is not None and not lookup["documents"] and bool(question)
        response = yield from ask(self._informed(request, lookup["documents"]), hidden)
        if hidden and (answer := _answer(response)) is not None:
            score = yield from self._score(request, answer, [])
            lookup = {**lookup, "score": None if math.isnan(score) else score}
            if score < self.below:
                documents = yield from self._documents(request, question)
                lookup = {**lookup, "documents": documents}
                second = yield from ask(self._informed(request, documents), True)
                again = _answer(second)
                better = again is None or (yield from self._score(request, again, documents)) >= score
                response = second if better else response
        return ExtendedModelResponse(model_response=response, command=Command(update={"prm_lookup": lookup}))

    def _documents(self, request: ModelRequest[Any], question: str) -> Routine[list[Document]]:
        state: dict[str, Any] = {"question": question}
        if self.condense:
            model = request.model if self.condense is True else self.condense
            node = CondenseQuestion(model, prompts=self.prompts)
            state["messages"] = request.messages
            state = yield from wait(node.invoke, node.ainvoke, state)
        state = {"question": state["question"]}
        update: dict[str, Any] = yield from wait(self.search.invoke, self.search.ainvoke, state)
        return list(update.get("documents", []))

    def _score(
        self, request: ModelRequest[Any], answer: AIMessage, documents: list[Document]
    ) -> Routine[float]:
        assert self.reward is not None
        question, steps = trajectory_of([*request.messages, answer])
        steps[-1]["passages"] = [*map(evidence_line, documents), *steps[-1]["passages"]]
        rows = yield from wait(self.reward.score, self.reward.ascore, question, [steps])
        return check_scores(self.reward, rows, [steps])[0][-1]

    def _informed(self, request: ModelRequest[Any], documents: list[Document]) -> ModelRequest[Any]:
        """The request with the passages at the end of its system message."""
        if not documents:
            return request
        passages = joined([evidence_line(document) for document in documents])
        text = self.prompts.context.render(passages=passages).messages[-1][1]
        system = request.system_message
        if system is None:
            message = SystemMessage(text)
        elif isinstance(system.content, str):
            message = SystemMessage(f"{system.content}\n\n{text}")
        else:
            message = SystemMessage([*system.content, {"type": "text", "text": text}])
        return request.override(system_message=message)


def _answer(response: ModelResponse[Any]) -> AIMessage | None:
    """The message of a response that answers in words; `None` if it calls tools or says nothing."""
    message = next((m for m in response.result if isinstance(m, AIMessage)), None)
    return message if message is not None and not message.tool_calls and message.text.strip() else None


def _needs_a_loop() -> ModelResponse[Any]:
    raise RuntimeError("An async handler cannot be called without an event loop.")
