"""The choices of `RewardGuidedActions` as a trace, to be drawn like any search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage, convert_to_messages

from agentprm.budget import add_usage, empty_usage
from agentprm.errors import InputError
from agentprm.rewards.conversation import call_text, trajectory_of
from agentprm.state import Step, StepStatus
from agentprm.trace import Trace, trace_of

__all__ = ["action_trace"]


def action_trace(state: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Trace:
    """What an agent with `RewardGuidedActions` considered in its last turn, and what it did.

    Args:
        state: The agent's whole state: `agent.get_state(config).values`. What `invoke` returns lacks
            the private key `prm_actions`; without a checkpointer, take the custom stream events
            `agentprm.action_chosen`, and pass `{"messages": …, "prm_actions": events}`.
        settings: What else the trace should record.

    Raises:
        InputError: If the state holds no choices.
    """
    rounds = state.get("prm_actions")
    if not rounds:
        raise InputError(
            "The state holds no 'prm_actions'; pass agent.get_state(config).values of an agent with "
            "RewardGuidedActions and a checkpointer."
        )
    messages = convert_to_messages(state.get("messages") or [])
    answer = next((m.text for m in reversed(messages) if isinstance(m, AIMessage) and m.text), "")
    steps: list[Step] = []
    parent: str | None = None
    for depth, entry in enumerate(rounds, 1):
        chosen: str | None = None
        for number, candidate in enumerate(entry["candidates"], 1):
            step_id = f"{parent}.{number}" if parent else str(number)
            query = "; ".join(map(call_text, candidate["tool_calls"]))
            status: StepStatus = "committed" if candidate["chosen"] else "rejected"
            steps.append(
                Step(
                    id=step_id,
                    parent_id=parent,
                    depth=depth,
                    query=query,
                    retrieve=False,
                    doc_ids=[],
                    thought=candidate["text"],
                    final_answer=(candidate["text"] or query) if candidate["final"] else None,
                    score=candidate["score"],
                    value=candidate["score"],
                    status=status,
                    usage=empty_usage(),
                )
            )
            chosen = step_id if candidate["chosen"] else chosen
        parent = chosen
    usage = empty_usage()
    for entry in rounds:
        usage = add_usage(usage, entry["usage"])
    return trace_of(
        {
            "question": trajectory_of(messages).question,
            "answer": answer,
            "prm_steps": steps,
            "prm_usage": usage,
            "prm_stop_reason": next((entry["note"] for entry in rounds if entry["note"]), ""),
        },
        settings,
    )
