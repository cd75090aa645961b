"""The contract of a checker: a tool that confirms or refutes a step, or says that it cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from agentprm.rewards.base import Trajectory

__all__ = ["CheckResult", "Checker", "combined"]

Label = Literal["supported", "refuted", "unknown"]


@dataclass(frozen=True)
class CheckResult:
    """What a checker says about a step.

    Attributes:
        label: `supported`, `refuted`, or `unknown` where the tool has nothing to say.
        evidence: What it computed or looked up, in a line; for people and for critiques.
        checker: Name of the checker.
    """

    label: Label
    evidence: str
    checker: str


@runtime_checkable
class Checker(Protocol):
    """Checks the last step of a prefix with a tool instead of a model.

    A checker never raises for what a step says: text that it cannot use is `unknown`. It is safe to
    call from several threads.
    """

    @property
    def name(self) -> str:
        """Names the checker in verdicts and in the weights of `Checked`."""

    def check(self, question: str, prefix: Trajectory) -> CheckResult:
        """The verdict on the last step of `prefix`, given the steps before it.

        Args:
            question: The question of the trajectory.
            prefix: At least one step.
        """


def combined(verdicts: Sequence[CheckResult], checker: str) -> CheckResult:
    """One verdict from several on parts of a step: one refuted part refutes it, silence is unknown."""
    for label in ("refuted", "supported"):
        found = [verdict.evidence for verdict in verdicts if verdict.label == label]
        if found:
            return CheckResult(label, "; ".join(found), checker)
    return CheckResult("unknown", "; ".join(v.evidence for v in verdicts if v.evidence), checker)
