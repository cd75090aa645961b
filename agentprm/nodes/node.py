"""What all nodes share: channels, settings, sync and async from one routine, cost; how graphs begin."""

from __future__ import annotations

import asyncio
import dataclasses
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from types import MethodType
from typing import Annotated, Any, ClassVar, TypeAlias, cast

from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.config import get_config
from langgraph.runtime import get_runtime
from langgraph.types import Overwrite
from pydantic import BaseModel
from typing_extensions import TypedDict

from agentprm import routines
from agentprm.budget import WRITING, SearchBudget, Usage, add_usage, empty_usage, metered, share_usage
from agentprm.documents import Citation, distinct_documents, merge_documents
from agentprm.errors import ConfigurationError, InputError, unknown_name
from agentprm.nodes.reporting import arun_of, run_of
from agentprm.nodes.settings import SETTINGS, checked_setting
from agentprm.rounds import Round, merge_rounds
from agentprm.state import (
    Judgement,
    ReasoningState,
    Step,
    as_messages,
    last_question,
    merge_steps,
    open_question,
    text_of,
)

__all__ = [
    "Node",
    "NodeRoutine",
    "SearchNode",
    "State",
    "Turn",
    "apply_update",
    "begin",
    "begin_search",
    "cleared_search",
    "runtime",
    "state_mapping",
]


def _overridden(name: str) -> Any:
    """What the context of the run in progress says of a setting; `None` if nothing.

    Raises:
        ConfigurationError: If it says something that the setting does not take.
    """
    context = getattr(runtime(), "context", None)
    value = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
    return None if value is None else SETTINGS[name](f"context[{name!r}]", value)


def _check_context() -> None:
    """Refuses a context of the run in progress with a name or value that no setting takes.

    A graph inside another one gets the other's context, where further names are none of its business.

    Raises:
        ConfigurationError: If there is one.
    """
    context = getattr(runtime(), "context", None)
    if context is None:
        return
    inside_another = "|" in str(get_config().get("configurable", {}).get("checkpoint_ns", ""))
    if not isinstance(context, Mapping):
        if inside_another:
            return
        raise ConfigurationError(
            f"The context of this graph is a {type(context).__name__}; give its settings as a mapping, for "
            'instance context={"k": 3}.'
        )
    for name in context:
        if name in SETTINGS:
            _overridden(name)
        elif not inside_another:
            raise ConfigurationError(unknown_name("The context of this graph", "setting", name, SETTINGS))


def runtime() -> Any:
    """LangGraph's runtime of the run in progress; `None` outside a graph, also where there is a config."""
    try:
        return get_runtime()
    except (RuntimeError, KeyError):
        return None


State: TypeAlias = Mapping[str, Any]
NodeRoutine: TypeAlias = routines.Routine[dict[str, Any]]

# Channels that nodes may read or write, with the types that a foreign graph gets when it lacks them.
# Without a reducer a plain key yields to whatever the graph declares itself.
_CHANNELS: dict[str, Any] = {
    "question": str,
    "messages": list,
    "documents": list[Document],
    "answer": str,
    "citations": list[Citation],
    "score": float | None,
    "need": float | None,
    "route": str,
    "examples": str,
    "judgements": list[Judgement],
    "prm_steps": Annotated[list[Step], merge_steps],
    "prm_documents": Annotated[list[Document], merge_documents],
    "prm_rounds": Annotated[list[Round], merge_rounds],
    "prm_usage": Annotated[Usage, add_usage],
    "prm_frontier": list[str],
    "prm_plan": list[str],
    "prm_weak": list[str],
    "prm_widths": dict[str, int],
    "prm_examples": dict[str, str],
    "prm_subgoal": str,
    "prm_stop_reason": str,
}
# Every node writes its cost, and why it stopped early. A graph that wants them declares them, as
# `RagState` does; LangGraph drops what no channel takes. Among the channels that a node asks for they
# would be part of its input, and so of the key that a cache looks it up by.
_ALWAYS_WRITTEN = ("prm_usage", "prm_stop_reason")


def apply_update(state: State, update: State) -> dict[str, Any]:
    """`state` after a node's `update`, by the reducers of `ReasoningState`; for running nodes by hand."""
    result = dict(state)
    for key, value in update.items():
        hint = _CHANNELS.get(key)
        reducer = getattr(hint, "__metadata__", (None,))[-1]
        if isinstance(value, Overwrite):
            result[key] = value.value
        else:
            result[key] = reducer(result.get(key), value) if reducer else value
    return result


class Turn(TypedDict, total=False):
    """What a graph begins with: a question, or a conversation that holds it."""

    question: str
    messages: list[Any]


def _cleared() -> dict[str, Any]:
    return {
        "documents": [],
        "answer": "",
        "citations": [],
        "prm_usage": Overwrite(empty_usage()),
        "prm_stop_reason": "",
    }


def cleared_search(widths: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The update that clears what the search for an earlier question has left, and plants an empty tree.

    Args:
        widths: How many first steps the strategy wants, under "", if it says so.
    """
    return {
        **_cleared(),
        "prm_steps": Overwrite([]),
        "prm_documents": Overwrite([]),
        "prm_frontier": [],
        "prm_weak": [],
        "prm_plan": [],
        "prm_widths": dict(widths or {}),
        "prm_examples": {},
    }


def begin(state: Turn) -> dict[str, Any]:
    """Settles the question and clears what an earlier one on the same thread has left.

    The last human message is the question if nobody has answered it yet, whatever stands after it.
    Otherwise `question` is, which then joins the conversation; without one, the last human message.

    Raises:
        InputError: If there is neither.
        ConfigurationError: If the run's context has an unknown name or a wrong value.
    """
    _check_context()
    messages = as_messages(state.get("messages"))
    given = text_of(state.get("question") or "", "question")
    question = open_question(messages) or given or last_question(messages)
    if not question.strip():
        raise InputError(
            "Ask something: give a question that is not empty under 'question', or a human message under "
            "'messages'."
        )
    update = {**_cleared(), "question": question}
    if not open_question(messages):
        # Not as a message object, which LangGraph would stream as if the graph had said it.
        update["messages"] = [{"role": "user", "content": question}]
    return update


def begin_search(state: Turn, *, widths: Mapping[str, int] | None = None) -> dict[str, Any]:
    """`begin`, with an empty search tree; `widths` as for `cleared_search`."""
    return {**cleared_search(widths), **begin(state)}


class Node(Runnable[Any, dict[str, Any]]):
    """Base of the nodes: a `Runnable` from a state to an update of it.

    Works as a LangGraph node (sync, async, streamed, retried, cached), in a chain, or called by hand.
    In a graph whose state lacks the node's channels LangGraph adds them, since `__call__` is annotated
    with a schema of exactly these channels.

    A node works from what its state shows now: the question, the documents, the answer. It never takes
    what it wrote before for a sign of anything, so it may run in loops, on later turns of a thread,
    twice in a row and side by side with itself.

    Subclasses implement `routine`, a generator that pauses for each call it waits for and returns the
    update, so that sync and async runs share all logic.

    Args:
        reads: Channels that the node reads, besides the question and the messages.
        writes: Channels that it writes, besides its cost.
        keys: Own names for channels, for instance `{"question": "user_query"}`.
        budget: Bounds of a run, see `SearchBudget`.
        settings: Names of attributes that the run's `context` may override.
    """

    name: str
    #: Channels that all nodes of the class read.
    also_reads: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        name: str,
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        settings: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.budget = SearchBudget.of(budget)
        channels = ["question", "messages", *reads, *self.also_reads, *writes]
        self._keys = {channel: channel for channel in channels}
        for channel, key in (keys or {}).items():
            if channel not in self._keys or channel.startswith("prm_"):
                usable = sorted(c for c in self._keys if not c.startswith("prm_"))
                raise ConfigurationError(
                    f"{type(self).__name__} has no channel {channel!r} to rename; it has {usable}."
                )
            self._keys[channel] = key
        if twice := sorted({key for key in self._keys.values() if list(self._keys.values()).count(key) > 1}):
            raise ConfigurationError(
                f"{type(self).__name__} would use the key {twice[0]!r} for two things; name another one."
            )
        self._settings = ("budget", *settings)
        for setting in settings:
            if (value := getattr(self, setting)) is not None:
                checked_setting(setting, value)
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
    def routine(self, state: ReasoningState) -> NodeRoutine:
        """The node's work on a state with canonical keys; pauses for calls, returns the update."""

    def __call__(self, state: State) -> dict[str, Any]:
        """Same as `invoke`, so that the node can be called like a function."""
        return self.invoke(state)

    def __repr__(self) -> str:
        settings = {name: getattr(self, name) for name in self._settings}
        if self.budget == SearchBudget():
            del settings["budget"]
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"

    def invoke(self, input: State, config: RunnableConfig | None = None, **kwargs: Any) -> dict[str, Any]:
        """Runs the node on `input` and returns the update."""
        if self._is_begun(config):
            return self._run(input)
        with run_of(self.name, input, config) as run:
            run.output = run.context.run(self._run, input)
        return cast(dict[str, Any], run.output)

    async def ainvoke(
        self, input: State, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Async twin of `invoke`; blocking work runs in a thread."""
        if self._is_begun(config):
            return await self._arun(input)
        async with arun_of(self.name, input, config) as run:
            run.output = await asyncio.create_task(self._arun(input), context=run.context)
        return cast(dict[str, Any], run.output)

    def _is_begun(self, config: RunnableConfig | None) -> bool:
        """Whether LangGraph has begun a run of this name for the node: a second one says nothing more."""
        if config is None or (config.get("metadata") or {}).get("langgraph_node") != self.name:
            return False
        return "seq:step:1" in getattr(config.get("callbacks"), "tags", ())

    def setting(self, name: str) -> Any:
        """The attribute `name`, or what the run's `context` puts in its place."""
        override = _overridden(name) if name in self._settings else None
        return getattr(self, name) if override is None else override

    def short(
        self, state: ReasoningState, *, but: Collection[str] = WRITING, reserve: int = 0, **wanted: int
    ) -> str:
        """Why the budget does not leave what is wanted, as `prm_stop_reason` tells it; empty if it does.

        Args:
            state: Says what was spent.
            but: Bounds that do not matter, see `SearchBudget.exhausted`.
            reserve: Model calls to keep, for instance the one that writes the answer.
            wanted: How many units of `model_calls`, `retrievals` or `reward_calls`.
        """
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        spent = budget.exhausted(usage, but=but)
        for name, count in wanted.items():
            kept = reserve if name == "model_calls" else 0
            if not spent and budget.affordable(name, count, usage, kept) < count:
                spent = name
        return f"budget: {spent}" if spent else ""

    def _run(self, input: State) -> dict[str, Any]:
        with metered() as meter:
            state = self._read(input)
            update = routines.drive(self.routine(state))
        return self._write(update, meter.usage, state)

    async def _arun(self, input: State) -> dict[str, Any]:
        with metered() as meter:
            state = self._read(input)
            update = await routines.adrive(self.routine(state))
        return self._write(update, meter.usage, state)

    def _read(self, input: Any) -> ReasoningState:
        """The input under canonical names, with everything in its usual form."""
        given = state_mapping(input, self.name)
        keys = {**{channel: channel for channel in _ALWAYS_WRITTEN}, **self._keys}
        state = {channel: given[key] for channel, key in keys.items() if given.get(key) is not None}
        question = text_of(state.get("question", ""), self._keys["question"])
        # A state with defaults has an empty question where none was asked.
        if not question.strip():
            question = last_question(as_messages(state.get("messages")))
        state["question"] = question
        if not question.strip():
            raise InputError(
                f"{self.name} needs a question that is not empty: put one under {self._keys['question']!r} "
                f"in the state, or a human message under {self._keys['messages']!r}."
            )
        if "documents" in state:
            state["documents"] = distinct_documents(_listed(state["documents"], self._keys["documents"]))
        if "answer" in state:
            state["answer"] = text_of(state["answer"], self._keys["answer"])
        return cast(ReasoningState, state)

    def _write(self, update: dict[str, Any], usage: Usage, state: ReasoningState) -> dict[str, Any]:
        if not update:
            return {}
        return {self._keys.get(channel, channel): value for channel, value in update.items()} | {
            "prm_usage": usage
        }


def state_mapping(state: Any, name: str) -> Mapping[str, Any]:
    """A state as a mapping, whichever way its schema was written."""
    if isinstance(state, Mapping):
        return state
    if isinstance(state, BaseModel):
        return {key: getattr(state, key) for key in type(state).model_fields}
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    kind = type(state).__name__
    raise InputError(f"{name} takes a state, a mapping such as {{'question': …}}, not {kind}.")


def _listed(documents: Any, key: str) -> Sequence[Any]:
    if isinstance(documents, list | tuple):
        return documents
    raise InputError(
        f"{key!r} holds a {type(documents).__name__}, not a list of documents. Put a single one in a list."
    )


class SearchNode(Node):
    """Base of the nodes that grow, value or read a search tree.

    A tree exists only where a search made it: `StartSearch` plants it, `ProposeSteps` grows it, and
    nothing else does. Where there is none, these nodes say so instead of taking a plain answer for one.
    Bounds count from the start of the search. `reads` names channels besides the question and the tree.
    """

    also_reads = ("prm_steps", "prm_documents", "prm_frontier", "prm_usage", "prm_stop_reason")
    #: Whether the node may be the first to work on a tree.
    plants: ClassVar[bool] = False
    #: Whether the cost of a run is shared out over the steps that it returns.
    shares_usage: ClassVar[bool] = True

    def _read(self, input: Any) -> ReasoningState:
        state = super()._read(input)
        begun = state.get("prm_steps") or "prm_frontier" in state or state.get("prm_stop_reason")
        if not begun and not self.plants:
            raise InputError(
                f"{self.name} works on a search tree, and this state has none. In a search of your own let "
                "StartSearch and ProposeSteps run before it. To work on a plain question, its documents and "
                "its answer use Retrieve, Rerank, Answer and JudgeAnswer."
            )
        return state

    def _write(self, update: dict[str, Any], usage: Usage, state: ReasoningState) -> dict[str, Any]:
        steps: list[Step] = update.get("prm_steps", [])
        if steps and self.shares_usage:
            update["prm_steps"] = [
                {**step, "usage": add_usage(step["usage"], share)}
                for step, share in zip(steps, share_usage(usage, len(steps)), strict=True)
            ]
        if steps and runtime() is not None:
            # Of a known step only what changed: checkpointers store every update of every node.
            known = {step["id"]: step for step in state.get("prm_steps", [])}
            update["prm_steps"] = [_changes(known.get(s["id"]), s) for s in update["prm_steps"]]
        return super()._write(update, usage, state)


def _changes(known: Step | None, step: Step) -> Step:
    if known is None:
        return step
    changed = {key: value for key, value in step.items() if key == "id" or known.get(key) != value}
    if "usage" in changed and known.get("usage"):
        before, now = known["usage"], step["usage"]
        changed["usage"] = {key: value for key, value in now.items() if before.get(key) != value}
    return cast(Step, changed)
