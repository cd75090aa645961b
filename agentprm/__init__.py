"""agentprm: retrieval-augmented reasoning guided by process reward models, for LangGraph."""

from agentprm.budget import SearchBudget, Usage
from agentprm.errors import AgentPRMError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.lm import LanguageModel, as_language_model
from agentprm.packaged import default_embeddings, default_language_model
from agentprm.retrievers import FaissStore, load_folder
from agentprm.rewards import Grounding, ProcessRewardModel, SelfJudgement
from agentprm.search import PAV, TD, Plain
from agentprm.state import ReasoningState, Step

__all__ = [
    "PAV",
    "TD",
    "AgentPRMError",
    "FaissStore",
    "Grounding",
    "LanguageModel",
    "Plain",
    "ProcessRewardModel",
    "ReasoningState",
    "SearchBudget",
    "SelfJudgement",
    "Step",
    "Usage",
    "as_language_model",
    "create_rag_graph",
    "create_reasoning_graph",
    "default_embeddings",
    "default_language_model",
    "load_folder",
]
