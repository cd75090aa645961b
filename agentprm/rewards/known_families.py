"""The published families: conventions as in the authors' own code, sources beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agentprm.rewards.aggregation import Aggregation
from agentprm.rewards.graded_templates import GenPRM, Principled, Rubric
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
from agentprm.rewards.verdict_templates import Grounded, Judge, SolutionCheck, StepChecks, VerdictTemplate

__all__ = ["KNOWN", "Family"]


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


_BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
_FOVER = (
    "** Problem **\n{question}\n\n** Task **\nYour task is to evaluate the accuracy of each step in the "
    "provided solution to the above question. For each step, respond with "
    '"correct" if the reasoning is logically valid and mathematically sound, or if the step is a general '
    'statement or transition that does not contain reasoning. Respond with "incorrect" if the step '
    # The heading is misspelled in the released template, and the models were trained on it.
    "includes any errors or flawed logic.\n\n** Sotluion **\n{step}"
)

#: All families that come with the package.
KNOWN = (
    # Two-class token heads
    Family(
        "qwen-prm",
        "token-head",
        ChatSteps(system=_BOXED),
        checkpoints=("Qwen/Qwen2.5-Math-PRM-7B", "Qwen/Qwen2.5-Math-PRM-72B", "Qwen/Qwen2.5-Math-7B-PRM800K"),
        aggregate="product",
        threshold=0.5,
        source="arXiv 2501.07301",
    ),
    Family(
        "reasonflux",
        "token-head",
        ChatSteps(),
        checkpoints=("Gen-Verse/ReasonFlux-PRM-7B",),
        aggregate="mean",
        source="arXiv 2506.18896",
    ),
    Family(
        "trl",
        "token-head",
        PieceSteps(separator="\n"),
        threshold=0.5,
        source="TRL, PRMTrainer (training-time tokens)",
    ),
    Family(
        "pure",
        "token-head",
        PieceSteps(separator="\n\n"),
        checkpoints=("jinachris/PURE-PRM-7B",),
        threshold=0.5,
        source="arXiv 2504.15275; its reward is twice this probability minus one",
    ),
    # Two vocabulary logits at a tag
    Family(
        "math-shepherd",
        "token-logits",
        PlainSteps(tag=" ки", number=True),
        options={"good": " +", "bad": " -"},
        checkpoints=("peiyi9979/math-shepherd-mistral-7b-prm",),
        threshold=0.5,
        source="arXiv 2312.08935",
    ),
    Family(
        "er-prm",
        "token-logits",
        PlainSteps(tag=" ки", joiner="", number=True),
        options={"good": " +", "bad": " -"},
        checkpoints=("HanningZhang/Llama3.1-Math-PRM",),
        threshold=0.5,
        source="arXiv 2412.11006",
    ),
    Family(
        "math-psa",
        "token-logits",
        PlainSteps(tag=" \n\n\n\n\n", joiner=" ", number=True),
        options={"good": " +", "bad": " -"},
        checkpoints=("openreasoner/Math-psa",),
        threshold=0.5,
        source="openreasoner/openr",
    ),
    Family(
        "dprm",
        "token-logits",
        PlainSteps(tag=" \n\n\n\n", head="{question} \n\n", joiner=""),
        threshold=0.5,
        source="db-Lee/Multi-RM; dORM is read the same way and aggregated by its last step",
    ),
    # Two vocabulary logits before the assistant's word
    Family(
        "rlhflow",
        "token-logits",
        TurnSteps(verdict="+", first="{question} {step}"),
        options={"good": "+", "bad": "-"},
        checkpoints=("RLHFlow/Llama3.1-8B-PRM-Mistral-Data", "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data"),
        aggregate="mean",
        threshold=0.5,
        source="RLHFlow/RLHF-Reward-Modeling",
    ),
    Family(
        "fover",
        "token-logits",
        TurnSteps(verdict="correct", first=_FOVER),
        options={"good": "correct", "bad": "incorrect"},
        checkpoints=("ryokamoi/Llama-3.1-8B-FoVer-PRM", "ryokamoi/Qwen-2.5-7B-FoVer-PRM"),
        threshold=0.5,
        source="arXiv 2505.15960",
    ),
    # Value heads
    Family(
        "skywork",
        "value-head",
        PieceSteps(separator="\n", head="{question}\n", lines=True),
        checkpoints=("Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B", "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-7B"),
        architectures=("Qwen2ForPrmModel",),
        aggregate="mean",
        source="SkyworkAI/skywork-o1-prm-inference",
    ),
    Family(
        "pqm",
        "value-head",
        PlainSteps(tag=" [PRM]", head="{question} ", joiner="\n", number=True),
        options={"activation": "none"},
        checkpoints=("Windy0822/PQM",),
        source="arXiv 2410.11287",
    ),
    # One number per prefix
    Family(
        "universal-prm",
        "prefix-scalar",
        ChatPrefix(),
        checkpoints=("infly/Universal-PRM-7B",),
        source="arXiv 2502.11520",
    ),
    Family(
        "reasonflux-scalar",
        "prefix-scalar",
        PlainSteps(tag="", head="{question}", joiner="\n\n"),
        options={"activation": "none"},
        checkpoints=("Gen-Verse/ReasonFlux-PRM-1.5B",),
        aggregate="last",
        source="arXiv 2506.18896",
    ),
    Family(
        "hrm",
        "prefix-scalar",
        CurrentStep(merge=2),
        options={"activation": "none"},
        aggregate="mean",
        source="arXiv 2503.13551",
    ),
    # Log-ratios
    Family(
        "implicit",
        "log-ratio",
        Dialogue(),
        checkpoints=("PRIME-RL/EurusPRM-Stage1", "PRIME-RL/EurusPRM-Stage2"),
        source="arXiv 2412.01981",
    ),
    # Generated verdicts
    Family("judge", "verdict", Judge, threshold=0.5),
    Family("self-prm", "verdict", Judge(own=True), threshold=0.5, source="arXiv 2505.11227"),
    Family(
        "genprm",
        "verdict",
        GenPRM,
        checkpoints=("GenPRM/GenPRM-1.5B", "GenPRM/GenPRM-7B", "GenPRM/GenPRM-32B"),
        threshold=0.5,
        source="arXiv 2504.00891",
    ),
    Family(
        "thinkprm",
        "verdict",
        StepChecks,
        checkpoints=("launch/ThinkPRM-1.5B", "launch/ThinkPRM-7B", "launch/ThinkPRM-14B"),
        threshold=0.5,
        source="arXiv 2504.16828",
    ),
    Family("gprm", "verdict", SolutionCheck, aggregate="last", threshold=0.5, source="db-Lee/Multi-RM"),
    Family(
        "gorm",
        "verdict",
        SolutionCheck(whole=True, closing="\nVerification: Is the answer correct (Yes/No)?"),
        aggregate="last",
        threshold=0.5,
        source="db-Lee/Multi-RM",
    ),
    Family(
        "groundedprm",
        "verdict",
        Grounded,
        threshold=0.5,
        source="arXiv 2510.14942; JerryPlain/GroundedPRMCode",
    ),
    Family(
        "rewardanything",
        "verdict",
        Principled,
        checkpoints=("WisdomShell/RewardAnything-8B-v1",),
        aggregate="mean",
        source="arXiv 2506.03637",
    ),
    Family("search-gen-v", "verdict", Rubric, aggregate="last", source="arXiv 2510.14660"),
)
