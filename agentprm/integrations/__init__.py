"""agentprm in agents: a tool, middleware, decision models and an MCP server.

Each is imported when it is first named, since each needs another package.

What lives where:

- `tool`: a search as a tool. `mcp_server`: the same for agents elsewhere.
- `retrieval`: middleware that fetches passages where an agent needs them.
- `actions`: middleware that lets a reward choose what an agent does; `choosing` has the procedure,
  `action_trace` draws it.
- `unseen`: model calls that no stream shows.
- `opentelemetry`: a trace as spans. `inspect`: a graph as a task of Inspect AI.
- `decisions`: LangChain's decision models as rewards, and the other way round.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentprm.integrations.action_trace import action_trace
    from agentprm.integrations.actions import ActionState, RewardGuidedActions
    from agentprm.integrations.choosing import ActionCandidate, ActionChosen, ActionRound
    from agentprm.integrations.decisions import DecisionReward, RewardDecisionModel
    from agentprm.integrations.opentelemetry import export_spans
    from agentprm.integrations.retrieval import Lookup, RetrievalControl, RetrievalState
    from agentprm.integrations.tool import answer_text, create_search_tool

_HOMES = {
    "ActionCandidate": "choosing",
    "ActionChosen": "choosing",
    "ActionRound": "choosing",
    "ActionState": "actions",
    "DecisionReward": "decisions",
    "Lookup": "retrieval",
    "RetrievalControl": "retrieval",
    "RetrievalState": "retrieval",
    "RewardDecisionModel": "decisions",
    "RewardGuidedActions": "actions",
    "action_trace": "action_trace",
    "answer_text": "tool",
    "export_spans": "opentelemetry",
    "create_search_tool": "tool",
}

__all__ = [
    "ActionCandidate",
    "ActionChosen",
    "ActionRound",
    "ActionState",
    "DecisionReward",
    "Lookup",
    "RetrievalControl",
    "RetrievalState",
    "RewardDecisionModel",
    "RewardGuidedActions",
    "action_trace",
    "answer_text",
    "create_search_tool",
    "export_spans",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"agentprm.integrations.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
