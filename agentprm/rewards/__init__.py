"""Process reward models: a score for every step of a trajectory.

What lives where, in the order in which a score comes about:

- `base`: the contract `ProcessRewardModel`; `PrefixReward`, its short form for rewards of one's own, and the
  memory of what was scored; the check of what any reward gives. `function`: functions as rewards.
- `loading`, `known_families`: from a name to a reward, `load_reward`; the reward of a model that was
  given none.
- `conversation`: the messages of an agent as a trajectory. `step_text`: a step as text, and everything that
  is scored as text, each prefix once. `templates`: texts as the tokens that a reward was trained on;
  `verdict_templates`, `graded_templates`: as prompts that ask for a verdict.
- `readouts` (`TokenHead`, `TokenLogits`, `ValueHead`, `PrefixScalar`), `log_ratio`: read
  off a model in this process, whose parts `checkpoints` loads. `served_reward`,
  `served`: off a model behind an address or in vLLM.
- `verdict`: written by a model, and its probability. `likelihood`: from likelihoods, without training,
  several as one; `reader_grounding`: likewise from a reader. `step_critic`: by a small encoder that was
  trained to.
- `routed`, `checked` (with `checkers`), `calibration` (with `separation`): rewards around rewards.
- `aggregation`: from the scores of steps to one of a trajectory. `labels`: from labelled steps to training.
"""

from typing import TYPE_CHECKING, Any

from agentprm.documents import evidence_line
from agentprm.rewards.aggregation import (
    DEFAULT_AGGREGATION,
    aggregate,
    best_of_n,
    first_error,
    majority,
    weighted_majority,
)
from agentprm.rewards.base import PrefixReward, ProcessRewardModel, RewardStep, Trajectory, check_scores
from agentprm.rewards.calibration import Calibrated, Calibration
from agentprm.rewards.checked import Checked, check_weights
from agentprm.rewards.conversation import Conversation, trajectory_of
from agentprm.rewards.function import FunctionReward, as_reward
from agentprm.rewards.graded_templates import GenPRM, Principled, Rubric
from agentprm.rewards.known_families import Family
from agentprm.rewards.labels import LabelledRow, labelled_row, step_cross_entropy
from agentprm.rewards.likelihood import (
    Fused,
    Grounding,
    LikelihoodReward,
    Relevance,
    SelfJudgement,
    reliability,
)
from agentprm.rewards.loading import default_reward, families, load_reward, register, register_readout
from agentprm.rewards.reader_grounding import ReaderGrounding
from agentprm.rewards.routed import NearestType, RoutedReward
from agentprm.rewards.step_text import StepText, as_trajectory
from agentprm.rewards.templates import (
    ChatPrefix,
    ChatSteps,
    CurrentStep,
    Dialogue,
    PieceSteps,
    PlainSteps,
    StepTemplate,
    TurnSteps,
)
from agentprm.rewards.verdict import Verdict, VerdictReward
from agentprm.rewards.verdict_templates import (
    Grounded,
    Judge,
    SolutionCheck,
    StepChecks,
    VerdictTemplate,
)

if TYPE_CHECKING:
    from agentprm.rewards.log_ratio import LogRatio
    from agentprm.rewards.readouts import PrefixScalar, TokenHead, TokenLogits, ValueHead
    from agentprm.rewards.served import ServedTokenHead
    from agentprm.rewards.served_reward import HttpClassifier, ServedLogRatio, ServedTokenLogits
    from agentprm.rewards.step_critic import StepCritic

__all__ = [
    "DEFAULT_AGGREGATION",
    "Calibrated",
    "Calibration",
    "ChatPrefix",
    "ChatSteps",
    "Checked",
    "Conversation",
    "CurrentStep",
    "Dialogue",
    "Family",
    "FunctionReward",
    "Fused",
    "GenPRM",
    "Grounded",
    "Grounding",
    "HttpClassifier",
    "Judge",
    "LabelledRow",
    "LikelihoodReward",
    "LogRatio",
    "NearestType",
    "PieceSteps",
    "PlainSteps",
    "PrefixReward",
    "PrefixScalar",
    "Principled",
    "ProcessRewardModel",
    "ReaderGrounding",
    "Relevance",
    "RewardStep",
    "RoutedReward",
    "Rubric",
    "SelfJudgement",
    "ServedLogRatio",
    "ServedTokenHead",
    "ServedTokenLogits",
    "SolutionCheck",
    "StepChecks",
    "StepCritic",
    "StepTemplate",
    "StepText",
    "TokenHead",
    "TokenLogits",
    "Trajectory",
    "TurnSteps",
    "ValueHead",
    "Verdict",
    "VerdictReward",
    "VerdictTemplate",
    "aggregate",
    "as_reward",
    "as_trajectory",
    "best_of_n",
    "check_scores",
    "check_weights",
    "default_reward",
    "evidence_line",
    "families",
    "first_error",
    "labelled_row",
    "load_reward",
    "majority",
    "register",
    "register_readout",
    "reliability",
    "step_cross_entropy",
    "trajectory_of",
    "weighted_majority",
]

# torch is heavy and optional: what needs it, or a connection, is imported when it is first named.
_LOCAL = {
    "HttpClassifier": "served_reward",
    "LogRatio": "log_ratio",
    "PrefixScalar": "readouts",
    "ServedLogRatio": "served_reward",
    "ServedTokenHead": "served",
    "ServedTokenLogits": "served_reward",
    "StepCritic": "step_critic",
    "TokenHead": "readouts",
    "TokenLogits": "readouts",
    "ValueHead": "readouts",
}


def __getattr__(name: str) -> Any:
    if name in _LOCAL:
        from importlib import import_module

        return getattr(import_module(f"agentprm.rewards.{_LOCAL[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
