"""Process reward models: score every step of a trajectory."""

from agentprm.rewards.base import PrefixReward, ProcessRewardModel, RewardStep, Trajectory
from agentprm.rewards.fused import Fused
from agentprm.rewards.grounding import Grounding
from agentprm.rewards.relevance import Relevance
from agentprm.rewards.self_judgement import SelfJudgement

__all__ = [
    "Fused",
    "Grounding",
    "PrefixReward",
    "ProcessRewardModel",
    "Relevance",
    "RewardStep",
    "SelfJudgement",
    "Trajectory",
]
