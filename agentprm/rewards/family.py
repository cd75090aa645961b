"""What reward models of a family have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentprm.rewards.aggregation import Aggregation
from agentprm.rewards.templates import StepTemplate
from agentprm.rewards.verdict_templates import VerdictTemplate

__all__ = ["Family"]


@dataclass(frozen=True)
class Family:
    """Reward models that are read the same way.

    Attributes:
        name: How `load_reward(family=…)` names it.
        readout: A name of `register_readout`: `token-head`, `token-logits`, `value-head`,
            `prefix-scalar`, `log-ratio` or `verdict`.
        template: How question and steps become a prompt; a callable makes it from arguments that
            `load_reward` is given, where it has no sensible default.
        options: Arguments of the readout.
        checkpoints: Names on the hub that are of this family, whatever their config says.
        architectures: Names in a config's `architectures` that say so by themselves.
        aggregate: How the authors make one number of the steps' scores.
        threshold: Score from which the authors count a step as right, where they say so.
        source: Where the convention was published.
    """

    name: str
    readout: str
    template: StepTemplate | VerdictTemplate | Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    aggregate: Aggregation = "min"
    threshold: float | None = None
    source: str = ""
