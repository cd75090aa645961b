"""Ready-made graphs. Each factory returns the uncompiled `StateGraph`: compile it as you like.

`rag` retrieves and reads, `adaptive` only where it has to; `gathering` collects evidence in rounds,
`reasoning` searches over steps, `rearter` and `r2` in those papers' settings; `glore` refines a draft;
`cr_planner` lets critics choose what to do; `routed` chooses among ways, or climbs from cheap to dear.
`complexity` adapts prompts and depth to the question. `state` is what goes in, through and out.
`qa` has graphs over an index, for `langgraph dev`.
"""

from agentprm.graphs.adaptive import AdaptiveRagState, create_adaptive_rag_graph
from agentprm.graphs.complexity import create_hpt_graph, create_prs_graph, hierarchical_prompts
from agentprm.graphs.cr_planner import create_cr_planner_graph
from agentprm.graphs.gathering import (
    GatheringGraphState,
    create_evidence_graph,
    create_goal_graph,
    create_note_graph,
    create_summary_graph,
)
from agentprm.graphs.glore import create_glore_graph
from agentprm.graphs.r2 import create_r2_graph
from agentprm.graphs.rag import create_rag_graph
from agentprm.graphs.rearter import create_rearter_graph
from agentprm.graphs.reasoning import create_reasoning_graph
from agentprm.graphs.routed import LadderState, RoutedState, create_ladder_graph, create_routed_graph
from agentprm.graphs.state import RagGraphState, ReasoningGraphState, SearchContext

__all__ = [
    "AdaptiveRagState",
    "GatheringGraphState",
    "LadderState",
    "RagGraphState",
    "ReasoningGraphState",
    "RoutedState",
    "SearchContext",
    "create_adaptive_rag_graph",
    "create_cr_planner_graph",
    "create_evidence_graph",
    "create_glore_graph",
    "create_goal_graph",
    "create_hpt_graph",
    "create_ladder_graph",
    "create_note_graph",
    "create_prs_graph",
    "create_r2_graph",
    "create_rag_graph",
    "create_rearter_graph",
    "create_reasoning_graph",
    "create_routed_graph",
    "create_summary_graph",
    "hierarchical_prompts",
]
