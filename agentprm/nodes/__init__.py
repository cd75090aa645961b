"""Nodes for LangGraph: each works in any graph, sync and async, and by hand."""

from agentprm.nodes._node import Node, apply_update
from agentprm.nodes.answer import Answer
from agentprm.nodes.complete_steps import CompleteSteps
from agentprm.nodes.look_ahead import LookAhead
from agentprm.nodes.pairwise_rerank import PairwiseRerank
from agentprm.nodes.propose_steps import ProposeSteps
from agentprm.nodes.refine_step import RefineStep
from agentprm.nodes.rerank import Rerank
from agentprm.nodes.retrieve import Retrieve
from agentprm.nodes.retry import retry_policy
from agentprm.nodes.score_steps import ScoreSteps
from agentprm.nodes.select_steps import SelectSteps

__all__ = [
    "Answer",
    "CompleteSteps",
    "LookAhead",
    "Node",
    "PairwiseRerank",
    "ProposeSteps",
    "RefineStep",
    "Rerank",
    "Retrieve",
    "ScoreSteps",
    "SelectSteps",
    "apply_update",
    "retry_policy",
]
