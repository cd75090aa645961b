"""Ready-made graphs. Each factory returns the uncompiled `StateGraph`: compile it as you like.

`rag` retrieves and reads, `reasoning` searches over steps; `state` is what goes in, through and out. `qa` has
both over an index folder, for `langgraph dev`.
"""

from agentprm.graphs.rag import create_rag_graph
from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.graphs.state import RagGraphState, ReasoningGraphState, SearchContext

__all__ = [
    "RagGraphState",
    "ReasoningGraphState",
    "SearchContext",
    "create_rag_graph",
    "create_reasoning_graph",
]
