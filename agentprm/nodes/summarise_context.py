"""A conversation that grows too long: its middle becomes a summary, the raw turns are kept apart (SUPO)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    messages_to_dict,
)
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.store.base import BaseStore, PutOp

from agentprm.budget import SearchBudget
from agentprm.documents import text_hash
from agentprm.errors import check_count
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes.node import Node, NodeRoutine, runtime
from agentprm.nodes.reporting import emit, replied
from agentprm.prompts import ChatTemplate
from agentprm.replies import parse_finding
from agentprm.routines import wait
from agentprm.state import ReasoningState, as_messages
from agentprm.text import one_line

__all__ = ["SummariseContext"]

HEADING = "Summary of the conversation so far:"
_KEY = "prm_summary"

SUMMARISE = ChatTemplate(
    fields=("question", "summary", "conversation"),
    system=(
        "A conversation has grown too long and must be continued from a summary of it. Write down all that "
        "is "
        "needed to go on: what is asked, what was done and found, with names, numbers and sources, what "
        "failed, "
        "and what is still open. Reply with the summary only."
    ),
    user="Task: {question}\n\nSummary so far: {summary}\n\nConversation:\n{conversation}",
    prefix="Summary:",
)


class SummariseContext(Node):
    """Replaces the middle of `messages` by a summary once they are longer than `max_context` tokens.

    What is kept as it is: the system message, the first human message (the task), and the last `keep`
    messages. A call of a tool is never parted from its result, so more may stay. The summary stands at the
    end of the leading system message, which all providers take; the next one replaces it and goes on from it.

    Nothing happens below the bound, so that a provider's cache of the prefix is broken seldom; after
    `max_summaries`; without a call in the budget; and where the model writes no summary. Where the graph has
    a store, or one is given, the raw messages are kept in it under (`*namespace`, "segments"), and the
    system message names them in `additional_kwargs["prm_summary"]`, so that no evidence is lost.

    The state's `messages` need the reducer `add_messages`, as `MessagesState` has it.

    Args:
        model: Writes the summary.
        max_context: Tokens from which on messages are summarised.
        keep: Last messages that stay.
        max_summaries: Most summaries of a conversation.
        max_tokens: Most tokens of a summary.
        count: Counts the tokens of messages; by default an estimate.
        store: A store for the raw messages; by default the graph's, if it has one.
        namespace: Where in the store.
        template: The prompt, with the fields `question`, `summary` and `conversation`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of a run. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        max_context: int = 8192,
        keep: int = 4,
        max_summaries: int = 5,
        max_tokens: int = 512,
        count: Callable[[Sequence[BaseMessage]], int] | None = None,
        store: BaseStore | None = None,
        namespace: Sequence[str] = ("context",),
        template: ChatTemplate = SUMMARISE,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "summarise",
    ) -> None:
        self.model = as_language_model(model)
        self.max_context, self.keep = check_count("max_context", max_context), check_count("keep", keep)
        self.max_summaries = check_count("max_summaries", max_summaries)
        self.max_tokens, self.template = max_tokens, template
        self.count = count or count_tokens_approximately
        self.store, self.namespace = store, tuple(namespace)
        super().__init__(name=name, keys=keys, budget=budget, settings=("max_tokens",))

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        messages = as_messages(state.get("messages"))
        system, known, earlier = _unfolded(messages)
        start, end = middle(messages, self.keep)
        segments: list[str] = list(known.get("segments", []))
        if (
            self.count(messages) <= self.max_context
            or start >= end
            or len(segments) >= self.max_summaries
            or self.short(state, model_calls=1, reserve=1)
        ):
            return {}
        raw = messages[start:end]
        first = next((m.text for m in messages if isinstance(m, HumanMessage)), state["question"])
        prompt = self.template.render(
            prefill=self.model.capabilities.prefill,
            question=one_line(first),
            summary=earlier or "(none)",
            conversation="\n".join(map(_line, raw)),
        )
        reply = yield from replied(self.model, prompt, max_tokens=self.setting("max_tokens"), lines=True)
        summary = parse_finding(reply).removeprefix("Summary:").strip()
        if not summary:
            return {}
        dumped = messages_to_dict(raw)
        segment = text_hash(json.dumps([len(segments), dumped], sort_keys=True, default=str))
        own = self.store
        store: BaseStore | None = getattr(runtime(), "store", None) if own is None else own
        if store is not None:
            op = PutOp((*self.namespace, "segments"), segment, {"messages": dumped}, index=False)
            yield from wait(store.batch, store.abatch, [op])
        emit({"type": "agentprm.context_summarised", "segment": segment, "messages": len(raw)})
        head = SystemMessage(
            f"{system}\n\n{HEADING}\n{summary}".strip(),
            id=messages[0].id if isinstance(messages[0], SystemMessage) else None,
            additional_kwargs={_KEY: {"segments": [*segments, segment]}},
        )
        kept = [m for m in messages[:start] if not isinstance(m, SystemMessage)]
        return {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), head, *kept, *messages[end:]]}


def middle(messages: Sequence[BaseMessage], keep: int) -> tuple[int, int]:
    """Which messages may be summarised: from the first place to before the second; equal if none may.

    Behind the system messages and the first human one, and before the last `keep`; no call of a tool is
    parted from its result.
    """
    start = 0
    while start < len(messages) and isinstance(messages[start], SystemMessage):
        start += 1
    if start < len(messages) and isinstance(messages[start], HumanMessage):
        start += 1
    open_calls: set[str] = set()
    end = start
    for place, message in enumerate(messages[: max(0, len(messages) - keep)]):
        if isinstance(message, AIMessage):
            open_calls |= {str(call["id"]) for call in message.tool_calls}
        elif isinstance(message, ToolMessage):
            open_calls.discard(message.tool_call_id)
        if place >= start and not open_calls:
            end = place + 1
    return start, end


def _unfolded(messages: Sequence[BaseMessage]) -> tuple[str, Mapping[str, Any], str]:
    """The system text without its summary, what is known of earlier summaries, and the last one."""
    leading = []
    for message in messages:
        if not isinstance(message, SystemMessage):
            break
        leading.append(message)
    text = "\n\n".join(message.text for message in leading)
    known: Mapping[str, Any] = next(
        (m.additional_kwargs[_KEY] for m in leading if _KEY in m.additional_kwargs), {}
    )
    if not known:
        return text, {}, ""
    before, _, summary = text.rpartition(HEADING)
    return before.rstrip(), known, summary.strip()


def _line(message: BaseMessage) -> str:
    calls = getattr(message, "tool_calls", None) or []
    called = "; ".join(f"calls {call['name']}({json.dumps(call['args'], default=str)})" for call in calls)
    who = {"human": "User", "ai": "Assistant", "tool": "Result"}.get(message.type, message.type)
    return one_line(f"{who}: {message.text} {called}")
