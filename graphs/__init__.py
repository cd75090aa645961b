"""Ready-made graphs. Each factory returns the uncompiled `StateGraph`: compile it as you like.

`rag` retrieves and reads, `adaptive` only where it has to, `reasoning` searches over steps; `state` is what
goes in, through and out. `qa` has rag and reasoning over an index folder, for `langgraph dev`.
"""

from agentprm.graphs.adaptive import AdaptiveRagState, create_adaptive_rag_graph
from agentprm.graphs.rag import create_rag_graph
from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.graphs.state import RagGraphState, ReasoningGraphState, SearchContext

__all__ = [
    "AdaptiveRagState",
    "RagGraphState",
    "ReasoningGraphState",
    "SearchContext",
    "create_adaptive_rag_graph",
    "create_rag_graph",
    "create_reasoning_graph",
]
