"""The reward that a model gets if the user names none."""

from __future__ import annotations

from typing import Any

from agentprm.lm import LanguageModel, as_language_model
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards.base import ProcessRewardModel
from agentprm.rewards.likelihood import Fused, Grounding, Relevance
from agentprm.rewards.step_text import StepText
from agentprm.rewards.verdict import VerdictReward
from agentprm.rewards.verdict_templates import Judge

__all__ = ["GATE", "default_reward"]

#: Up to where the best candidate of a choice is weak, by the fused likelihoods of a local model: where wrong
#: ones part from right ones (`benchmarks/gate.py`, packaged model). Both parts are sigmoids of log-ratios, so
#: a step of no use still scores above .5, and a gate there hardly ever fires. Here four of five refinements
#: meet a wrong step, and half of the wrong steps are met; gates fitted anew came to .989 and .995.
GATE = 0.98


def default_reward(
    model: LanguageModel | Any, *, passages: int = 1, prompts: Prompts = PROMPTS
) -> ProcessRewardModel:
    """The reward without training that suits a model.

    With log-likelihoods `Grounding` and `Relevance` fused, which told right steps from wrong ones best
    (`benchmarks/rewards.py`); its gate is `GATE`. A chat model gives none, so it judges each step in words
    (`VerdictReward`), at the cost of a call a step. The score is the probability of its verdict where
    the model reports the likeliest tokens, else 1 or 0, which leaves most candidates equal.

    Args:
        model: A language model, or whatever `as_language_model` takes.
        passages: Most passages of a step that are shown.
        prompts: Templates of the likelihoods.
    """
    model = as_language_model(model)
    if model.capabilities.loglikelihood:
        kinds = (Grounding, Relevance)
        fused = Fused([kind(model, passages=passages, prompts=prompts) for kind in kinds])
        fused.threshold = GATE
        return fused
    return VerdictReward(model, Judge(), step_text=StepText(max_passages=passages))
