"""agentprm: retrieval-augmented reasoning guided by process reward models, for LangGraph.

What lives where, from a question to its answer:

- Graphs and nodes: `graphs` are ready-made, of `nodes`; `state` and `events` are what passes between them,
  `rounds` what loops that gather evidence keep, `budget` bounds and counts what a run costs.
- Models: `prompts` asks, `lm` has the contract and the backends, `engine` runs local ones, `replies` reads
  what they say. `packaged` has models that come with a package, `model_names` tells folders from hubs.
- Questions: `questions` splits them and decides comparisons without a model.
- Passages: `retrievers` finds them, `rerank` orders them, `readers` quote answers from them, `documents` has
  their usual form and says which ones support a claim.
- Judgement: `rewards` scores steps, `search` makes values of scores and chooses.
- Around it: `integrations` for agents, `cli` for the shell, `scale` for many questions, `evaluation`, `trace`
  to see a search, `training` for models of your own, `testing` without models, `demo` documents.
- Used everywhere: `errors`, `text` of any language, `routines` for sync and async from one piece of code,
  `forking` for locks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentprm.budget import SearchBudget, Usage
    from agentprm.errors import AgentPRMError
    from agentprm.graphs import create_rag_graph, create_reasoning_graph
    from agentprm.lm import LanguageModel, as_language_model
    from agentprm.packaged import default_embeddings, default_language_model, default_reader
    from agentprm.retrievers import FaissStore, load_folder
    from agentprm.rewards import Grounding, ProcessRewardModel, SelfJudgement
    from agentprm.search import PAV, TD, Plain
    from agentprm.state import ReasoningState, Step

# Loaded when first named, so that `agentprm --help` need not wait for LangGraph and FAISS.
_HOMES = {
    "PAV": "search",
    "TD": "search",
    "AgentPRMError": "errors",
    "FaissStore": "retrievers",
    "Grounding": "rewards",
    "LanguageModel": "lm",
    "Plain": "search",
    "ProcessRewardModel": "rewards",
    "ReasoningState": "state",
    "SearchBudget": "budget",
    "SelfJudgement": "rewards",
    "Step": "state",
    "Usage": "budget",
    "as_language_model": "lm",
    "create_rag_graph": "graphs",
    "create_reasoning_graph": "graphs",
    "default_embeddings": "packaged",
    "default_language_model": "packaged",
    "default_reader": "packaged",
    "load_folder": "retrievers",
}

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
    "default_reader",
    "load_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"agentprm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
