"""Nodes for LangGraph: each works in any graph, sync and async, and by hand.

What lives where, in the order in which a search uses it:

- `node`: what all nodes share, and how a graph begins. `settings`: what the context of a run may set.
  `reporting`: what is told of them, and how they call models.
- `condense_question`: a follow-up becomes a question that stands alone.
- `decide_retrieval`: whether passages are needed at all. `choices`: a model chooses one of a few words.
- `route`: which way a question goes; thinking it over without a search.
- `start_search`, `propose_steps`, `reject_early`: the tree is planted, and grows, and not everywhere.
- `plan_question`, `follow_plan`: or it follows a plan, made once. `reading`: a reader for a model.
  `recursive_planner`: as deep as the question is complex.
- `retrieve`, `rerank`: passages for the question, or for each step.
- `complete_steps`, `score_steps`: what a step finds, and what the reward says of it.
- `look_ahead`, `select_steps`, `refine_step`: the best is committed, or tried once more.
- `gathering`: what loops that gather evidence share; `notes`, `evidence`, `goals` and
  `visit_summaries` are such loops.
- `summarise_context`: a conversation that grows too long.
- `experience`: how earlier questions went, kept and recalled. `analogies`: steps like the next one.
- `drafts`: a whole draft is judged, and refined locally and globally (GLoRe).
- `subgoals`: another search, whose steps reason, ask or look up, as critics choose (CR-Planner).
- `answer`: the answer from documents, or from the steps. `judge_answer`: what the reward says of it.
- `policies`: LangGraph's policies for nodes.
"""

from agentprm.nodes.analogies import RecallSteps
from agentprm.nodes.answer import Answer, AnswerFromSteps
from agentprm.nodes.complete_steps import BeginSteps, CompleteSteps
from agentprm.nodes.condense_question import CondenseQuestion
from agentprm.nodes.decide_retrieval import (
    Decide,
    DecideRetrieval,
    Need,
    RetrievalNeed,
    as_decision,
    need_of,
)
from agentprm.nodes.drafts import RefineDraft, ReviewDrafts
from agentprm.nodes.evidence import DistilFacts, JudgeFacts, PlanGap, Sufficiency
from agentprm.nodes.experience import (
    CommitExperience,
    Episode,
    EpisodeStep,
    RecallExperience,
    add_experience,
    publish_experience,
)
from agentprm.nodes.follow_plan import FollowPlan
from agentprm.nodes.gathering import AnswerFromRounds, GatherNode, RetrieveRound, StartGathering
from agentprm.nodes.goals import Reflect, SetGoal
from agentprm.nodes.judge_answer import JudgeAnswer
from agentprm.nodes.look_ahead import LookAhead
from agentprm.nodes.node import Node, apply_update
from agentprm.nodes.notes import ImproveNote, PlanQueries
from agentprm.nodes.plan_question import Planner, PlanQuestion, TrainedPlanner
from agentprm.nodes.policies import cache_policy, retry_policy
from agentprm.nodes.propose_steps import ProposeSteps
from agentprm.nodes.recursive_planner import RecursivePlanner
from agentprm.nodes.refine_step import RefineStep
from agentprm.nodes.reject_early import RejectEarly
from agentprm.nodes.rerank import PairwiseRerank, Rerank, RerankSteps
from agentprm.nodes.retrieve import Retrieve, RetrieverLike, RetrieveSteps
from agentprm.nodes.route import MODES, Reason, Route
from agentprm.nodes.score_steps import ScoreSteps
from agentprm.nodes.select_steps import SelectSteps
from agentprm.nodes.start_search import StartSearch
from agentprm.nodes.subgoals import ChooseExecution, ChooseSubgoal, ExpandSubgoal
from agentprm.nodes.summarise_context import SummariseContext
from agentprm.nodes.visit_summaries import VisitSummaries

__all__ = [
    "MODES",
    "Answer",
    "AnswerFromRounds",
    "AnswerFromSteps",
    "BeginSteps",
    "ChooseExecution",
    "ChooseSubgoal",
    "CommitExperience",
    "CompleteSteps",
    "CondenseQuestion",
    "Decide",
    "DecideRetrieval",
    "DistilFacts",
    "Episode",
    "EpisodeStep",
    "ExpandSubgoal",
    "FollowPlan",
    "GatherNode",
    "ImproveNote",
    "JudgeAnswer",
    "JudgeFacts",
    "LookAhead",
    "Need",
    "Node",
    "PairwiseRerank",
    "PlanGap",
    "PlanQueries",
    "PlanQuestion",
    "Planner",
    "ProposeSteps",
    "Reason",
    "RecallExperience",
    "RecallSteps",
    "RecursivePlanner",
    "RefineDraft",
    "RefineStep",
    "Reflect",
    "RejectEarly",
    "Rerank",
    "RerankSteps",
    "RetrievalNeed",
    "Retrieve",
    "RetrieveRound",
    "RetrieveSteps",
    "RetrieverLike",
    "ReviewDrafts",
    "Route",
    "ScoreSteps",
    "SelectSteps",
    "SetGoal",
    "StartGathering",
    "StartSearch",
    "Sufficiency",
    "SummariseContext",
    "TrainedPlanner",
    "VisitSummaries",
    "add_experience",
    "apply_update",
    "as_decision",
    "cache_policy",
    "need_of",
    "publish_experience",
    "retry_policy",
]
