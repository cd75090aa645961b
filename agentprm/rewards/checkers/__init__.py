"""Checkers: tools that confirm or refute a step. `agentprm.rewards.Checked` fuses them with a reward.

What lives where: `base` has the contract. `arithmetic`, `table`, `python` and `entailment` check what a step
states, a program or a formula; `writers` have a model write these of prose. `sandbox` runs programs in a
process of its own.
"""

from agentprm.rewards.checkers.arithmetic import ArithmeticChecker
from agentprm.rewards.checkers.base import Checker, CheckResult
from agentprm.rewards.checkers.entailment import Entailment, EntailmentChecker, read_entailment
from agentprm.rewards.checkers.python import PythonChecker
from agentprm.rewards.checkers.sandbox import ProgramResult, PythonSandbox
from agentprm.rewards.checkers.table import TableChecker
from agentprm.rewards.checkers.writers import FormulaWriter, ProgramWriter

__all__ = [
    "ArithmeticChecker",
    "CheckResult",
    "Checker",
    "Entailment",
    "EntailmentChecker",
    "FormulaWriter",
    "ProgramResult",
    "ProgramWriter",
    "PythonChecker",
    "PythonSandbox",
    "TableChecker",
    "read_entailment",
]
