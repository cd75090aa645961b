"""Ready-made graphs. Each factory returns the uncompiled `StateGraph`: compile it as you like."""

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
