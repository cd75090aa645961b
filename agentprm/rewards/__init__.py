"""Process reward models: score every step of a trajectory."""

from agentprm.rewards.base import PrefixReward, ProcessRewardModel, RewardStep, Trajectory
from agentprm.rewards.grounding import Grounding
from agentprm.rewards.self_judgement import SelfJudgement

__all__ = ["Grounding", "PrefixReward", "ProcessRewardModel", "RewardStep", "SelfJudgement", "Trajectory"]
