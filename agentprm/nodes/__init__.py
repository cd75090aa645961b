"""Nodes for LangGraph: each works in any graph, sync and async, and by hand."""

from agentprm.nodes._node import Node, apply_update
from agentprm.nodes._searching import RetrieverLike
from agentprm.nodes.answer import Answer
from agentprm.nodes.answer_from_steps import AnswerFromSteps
from agentprm.nodes.caching import cache_policy
from agentprm.nodes.complete_steps import CompleteSteps
from agentprm.nodes.condense_question import CondenseQuestion
from agentprm.nodes.judge_answer import JudgeAnswer
from agentprm.nodes.look_ahead import LookAhead
from agentprm.nodes.pairwise_rerank import PairwiseRerank
from agentprm.nodes.propose_steps import ProposeSteps
from agentprm.nodes.refine_step import RefineStep
from agentprm.nodes.rerank import Rerank
from agentprm.nodes.rerank_steps import RerankSteps
from agentprm.nodes.retrieve import Retrieve
from agentprm.nodes.retrieve_steps import RetrieveSteps
from agentprm.nodes.retry import retry_policy
from agentprm.nodes.score_steps import ScoreSteps
from agentprm.nodes.select_steps import SelectSteps
from agentprm.nodes.start_search import StartSearch

__all__ = [
    "Answer",
    "AnswerFromSteps",
    "CompleteSteps",
    "CondenseQuestion",
    "JudgeAnswer",
    "LookAhead",
    "Node",
    "PairwiseRerank",
    "ProposeSteps",
    "RefineStep",
    "Rerank",
    "RerankSteps",
    "Retrieve",
    "RetrieveSteps",
    "RetrieverLike",
    "ScoreSteps",
    "SelectSteps",
    "StartSearch",
    "apply_update",
    "cache_policy",
    "retry_policy",
]
