"""What all nodes share: sync and async from one plan, typed channels, settings, events, cost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Annotated, Any, ClassVar, cast

from langchain_core.documents import Document
from langchain_core.messages import HumanMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.runtime import get_runtime
from typing_extensions import TypedDict

from agentprm import plans
from agentprm.budget import SearchBudget, Usage, add_usage, empty_usage, metered
from agentprm.errors import ConfigurationError, InputError
from agentprm.events import SearchEvent
from agentprm.state import (
    Citation,
    ReasoningState,
    Step,
    merge_documents,
    merge_steps,
    plain_document,
)

__all__ = ["Node", "Plan", "State", "apply_update", "emit", "emit_proposed", "share_usage"]

State = Mapping[str, Any]
Plan = plans.Plan[dict[str, Any]]

# Channels that nodes may read or write, with the types that a foreign graph gets when it lacks them.
# Without a reducer a plain key yields to whatever the graph declares itself.
_CHANNELS: dict[str, Any] = {
    "question": str,
    "messages": list,
    "documents": list[Document],
    "answer": str,
    "citations": list[Citation],
    "prm_steps": Annotated[list[Step], merge_steps],
    "prm_documents": Annotated[list[Document], merge_documents],
    "prm_usage": Annotated[Usage, add_usage],
    "prm_frontier": list[str],
    "prm_weak": list[str],
    "prm_stop_reason": str,
}


def emit(event: SearchEvent) -> None:
    """Sends a custom stream event; outside a graph it does nothing."""
    try:
        writer = get_stream_writer()
    except (RuntimeError, KeyError):
        return
    writer(event)


def emit_proposed(steps: Sequence[Step]) -> None:
    """Sends an event for each step that was proposed."""
    for step in steps:
        emit(
            {
                "type": "agentprm.step_proposed",
                "step_id": step["id"],
                "parent_id": step["parent_id"],
                "query": step["query"],
                "final_answer": step["final_answer"],
                "status": step["status"],
            }
        )


def _run_context() -> Any:
    try:
        runtime: Any = get_runtime()
    except (RuntimeError, KeyError):
        return None
    return getattr(runtime, "context", None)  # outside a graph there is a config, but no runtime


def share_usage(usage: Usage, parts: int) -> list[Usage]:
    """Splits `usage` into `parts` nearly equal shares that add up to it exactly."""
    shares = [empty_usage() for _ in range(parts)]
    for key in empty_usage():
        amount = usage[key]  # type: ignore[literal-required]
        for index, share in enumerate(shares):
            if key == "seconds":
                share["seconds"] = amount / parts
            else:
                share[key] = amount // parts + (index < amount % parts)  # type: ignore[literal-required]
    return shares


def apply_update(state: State, update: State) -> dict[str, Any]:
    """`state` after a node's `update`, by the reducers of `ReasoningState`; for running nodes by hand."""
    result = dict(state)
    for key, value in update.items():
        hint = _CHANNELS.get(key)
        reducer = getattr(hint, "__metadata__", (None,))[-1]
        result[key] = reducer(result.get(key), value) if reducer else value
    return result


class Node(Runnable[Any, dict[str, Any]]):
    """Base of the nodes: a `Runnable` from a state to an update of it.

    Works as a LangGraph node (sync, async, streamed, retried), in a chain, or called by hand. In a
    graph whose state lacks the node's channels LangGraph adds them, since `__call__` is annotated
    with a schema of exactly these channels.

    Subclasses implement `plan`, a generator that pauses where it waits and returns the
    update, so that sync and async runs share all logic.

    Args:
        reads: Channels that the node reads, besides the question and its cost.
        writes: Channels that it writes.
        keys: Own names for channels, for instance `{"question": "user_query"}`.
        budget: Bounds of the run.
        settings: Names of attributes that the run's `context` may override.
    """

    name: str
    #: Whether the cost of a run is shared out over the steps that it returns.
    shares_usage: ClassVar[bool] = True

    def __init__(
        self,
        *,
        name: str,
        reads: Sequence[str],
        writes: Sequence[str],
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.budget = budget or SearchBudget()
        channels = dict.fromkeys(["question", "messages", "prm_usage", "prm_stop_reason", *reads, *writes])
        self._keys = {channel: channel for channel in channels}
        for channel, key in (keys or {}).items():
            if channel not in self._keys or channel.startswith("prm_"):
                usable = sorted(c for c in self._keys if not c.startswith("prm_"))
                raise ConfigurationError(
                    f"{type(self).__name__} has no channel {channel!r} to rename; it has {usable}."
                )
            self._keys[channel] = key
        self._settings = ("budget", *settings)
        # LangGraph reads the annotation of the instance's own __call__ to infer the channels.
        schema = TypedDict(  # type: ignore[misc]
            f"{type(self).__name__}State",
            {key: _CHANNELS[channel] for channel, key in self._keys.items()},
            total=False,
        )

        def call(node: Node, state: Any) -> dict[str, Any]:
            return node.invoke(state)

        call.__annotations__ = {"state": schema, "return": dict[str, Any]}
        self.__dict__["__call__"] = MethodType(call, self)

    @abstractmethod
    def plan(self, state: ReasoningState) -> Plan:
        """The node's work on a state with canonical keys; pauses where it waits, returns the update."""

    def __call__(self, state: State) -> dict[str, Any]:
        """Same as `invoke`, so that the node can be called like a function."""
        return self.invoke(state)

    def invoke(self, input: State, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """Runs the node on `input` and returns the update."""
        return self._call_with_config(self._run, input, config)

    async def ainvoke(
        self, input: State, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Async twin of `invoke`; blocking work runs in a thread."""
        return await self._acall_with_config(self._arun, input, config)

    def setting(self, name: str) -> Any:
        """The attribute `name`, or what the run's `context` puts in its place."""
        value = getattr(self, name)
        if name not in self._settings:
            return value
        context = _run_context()
        override = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
        return value if override is None else override

    def _run(self, input: State) -> dict[str, Any]:
        with metered() as meter:
            update = plans.drive(self.plan(self._read(input)))
        return self._write(update, meter.usage)

    async def _arun(self, input: State) -> dict[str, Any]:
        with metered() as meter:
            update = await plans.adrive(self.plan(self._read(input)))
        return self._write(update, meter.usage)

    def _read(self, input: State) -> ReasoningState:
        if not isinstance(input, Mapping):
            raise InputError(f"{self.name} takes a state, a mapping, not {type(input).__name__}.")
        state = {channel: input[key] for channel, key in self._keys.items() if input.get(key) is not None}
        if "question" not in state and state.get("messages"):
            last = [m for m in convert_to_messages(state["messages"]) if isinstance(m, HumanMessage)]
            if last:
                state["question"] = last[-1].text
        question = state.get("question", "")
        if not isinstance(question, str) or not question.strip():
            raise InputError(
                f"{self.name} needs a question that is not empty: put one under {self._keys['question']!r} "
                f"in the state, or a human message under {self._keys['messages']!r}."
            )
        if "documents" in state:
            state["documents"] = [plain_document(document) for document in state["documents"]]
        return cast(ReasoningState, state)

    def _write(self, update: dict[str, Any], usage: Usage) -> dict[str, Any]:
        if not update:
            return {}
        steps: list[Step] = update.get("prm_steps", [])
        if steps and self.shares_usage:
            update["prm_steps"] = [
                {**step, "usage": add_usage(step["usage"], share)}
                for step, share in zip(steps, share_usage(usage, len(steps)), strict=True)
            ]
        return {self._keys[channel]: value for channel, value in {**update, "prm_usage": usage}.items()}
