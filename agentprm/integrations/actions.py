"""`RewardGuidedActions`: a reward model chooses an agent's next action before it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import reduce
from typing import Annotated, Any, NotRequired, cast

from langchain_core.runnables.config import ContextThreadPoolExecutor
from langgraph.types import Command

from agentprm.budget import SearchBudget, Usage, add_usage, empty_usage, metered
from agentprm.errors import MissingDependencyError
from agentprm.integrations.choosing import ActionChooser, ActionChosen, ActionRound, ModelOutcome, Rules
from agentprm.integrations.unseen import aunseen, unseen
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards.base import ProcessRewardModel
from agentprm.rewards.function import as_reward
from agentprm.routines import adrive, drive, wait, wait_in_thread

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

__all__ = ["ActionState", "RewardGuidedActions"]


class ActionState(AgentState[ResponseT]):
    """The agent's state with the choices of its current turn, which input and output leave out."""

    prm_actions: NotRequired[Annotated[list[ActionRound], PrivateStateAttr]]


class RewardGuidedActions(AgentMiddleware[ActionState[ResponseT], ContextT, ResponseT]):
    """Samples an agent's next action, scores it before it is done, and keeps the best.

    The first sample is scored; where it scores below `below`, further ones are sampled side by side.
    Equal ones are merged, and the best is done. Where even the best is weak, the model is asked to
    reconsider it, with the judge's critique if there is one, and what it says then is done if it
    scores better. Tool calls, several at once included, answers and structured output are all actions.

    The candidates stand in the private state key `prm_actions` (the current turn's; see
    `agent.get_state(config)`, and `action_trace` to draw them), and each choice is a custom stream
    event. Their tokens are not streamed: what is done appears as one whole message.

    Put it last in the list of middleware: what stands after it runs for every candidate; what stands
    before it, like the approval of tool calls by a human, sees only what was chosen. Limits that other
    middleware sets on model calls do not count the candidates; `budget` does.

    Args:
        reward: Scores the action as the last step of `trajectory_of(messages)`, which shows it the
            conversation, the calls so far and what they returned. `VerdictReward(chat_model)` needs no
            training; a function from the question and the steps will do.
        n: Most samples of an action, the first included.
        below: A score under which an action is weak, in the reward's space; `None` always samples `n`.
        refine: How often a weak action is reconsidered.
        budget: Bounds of a turn. Once one is reached, the agent goes on with actions that nobody scores.
        settings: The model's settings for the further samples, for instance `{"temperature": 1.0}`.
        prompts: Templates; `reconsider` is used.

    Raises:
        ConfigurationError: If a setting is unusable.

    Example:
        >>> from langchain.agents import create_agent
        >>> from agentprm.testing import FakeReward, ScriptedChatModel
        >>> model = ScriptedChatModel(script={"Brunel": "In Portsmouth."})
        >>> middleware = RewardGuidedActions(FakeReward(lambda question, steps: 0.9))
        >>> agent = create_agent(model, middleware=[middleware])
        >>> agent.invoke({"messages": "Where was Brunel born?"})["messages"][-1].text
        'In Portsmouth.'
    """

    state_schema = ActionState  # type: ignore[assignment]
    transformers = (InternalCallTransformer,)

    def __init__(
        self,
        reward: ProcessRewardModel | Callable[..., Any],
        n: int = 4,
        below: float | None = 0.3,
        refine: int = 1,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        prompts: Prompts = PROMPTS,
    ) -> None:
        super().__init__()
        self.tools = []
        self.rules = Rules(
            reward=as_reward(reward),
            n=n,
            below=below,
            refine=refine,
            budget=SearchBudget.of(budget),
            settings=dict(settings or {}),
            prompts=prompts,
        )

    def before_agent(self, state: ActionState[ResponseT], runtime: Any) -> dict[str, Any]:
        """A new turn starts without the choices of the last one."""
        return {"prm_actions": []}

    def wrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], ModelResponse[ResponseT]],
    ) -> ExtendedModelResponse[ResponseT]:
        """See `AgentMiddleware.wrap_model_call`."""

        def attempt(one: ModelRequest[ContextT]) -> ModelOutcome:
            try:
                return unseen(handler, one)
            except Exception as error:
                return error

        def ask(requests: Sequence[ModelRequest[ContextT]]) -> list[ModelOutcome]:
            if len(requests) == 1:
                return [attempt(requests[0])]
            with ContextThreadPoolExecutor(len(requests)) as executor:
                return list(executor.map(attempt, requests))

        with metered() as meter:
            chooser = ActionChooser(self.rules, request, _spent(request), meter)
            response = drive(chooser.run(lambda requests: wait_in_thread(ask, requests)))
        return _respond(request, response, chooser)

    async def awrap_model_call(
        self,
        request: ModelRequest[ContextT],
        handler: Callable[[ModelRequest[ContextT]], Awaitable[ModelResponse[ResponseT]]],
    ) -> ExtendedModelResponse[ResponseT]:
        """See `AgentMiddleware.awrap_model_call`."""

        async def attempt(one: ModelRequest[ContextT]) -> ModelOutcome:
            try:
                return await aunseen(handler, one)
            except Exception as error:
                return error

        async def ask(requests: Sequence[ModelRequest[ContextT]]) -> list[ModelOutcome]:
            return await asyncio.gather(*map(attempt, requests))

        with metered() as meter:
            chooser = ActionChooser(self.rules, request, _spent(request), meter)
            response = await adrive(chooser.run(lambda requests: wait(_needs_a_loop, ask, requests)))
        return _respond(request, response, chooser)


def _needs_a_loop(requests: Sequence[ModelRequest[Any]]) -> list[ModelOutcome]:
    raise RuntimeError("An async handler cannot be called without an event loop.")


def _rounds(request: ModelRequest[Any]) -> list[ActionRound]:
    """The choices of the turn so far."""
    state = cast("ActionState", request.state)
    return state.get("prm_actions") or []


def _spent(request: ModelRequest[Any]) -> Usage:
    return reduce(add_usage, (entry["usage"] for entry in _rounds(request)), empty_usage())


def _respond(
    request: ModelRequest[Any], response: ModelResponse[Any], chooser: ActionChooser
) -> ExtendedModelResponse[Any]:
    entry = chooser.entry()
    request.runtime.stream_writer(ActionChosen(type="agentprm.action_chosen", **entry))
    update = {"prm_actions": [*_rounds(request), entry]}
    return ExtendedModelResponse(model_response=response, command=Command(update=update))
