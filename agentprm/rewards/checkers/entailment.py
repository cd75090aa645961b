"""Logic: does a step's conclusion follow from its premises?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.rewards.base import Trajectory
from agentprm.rewards.checkers._formulas import Formula, FormulaError, parse_formula
from agentprm.rewards.checkers.base import CheckResult, Label

__all__ = ["Entailment", "EntailmentChecker", "read_entailment"]

_MAX_PREMISES = 100
_NAMED = re.compile(r"(?:^|[\n;])\s*([A-Za-z]+\d+)\s*:\s*([^\n;]+)")
_STEP = re.compile(
    r"^(?P<names>[A-Za-z]+\d+(?:\s*(?:&|,|and)\s*[A-Za-z]+\d+)*)\s*->\s*"
    r"(?:(?P<name>[A-Za-z]+\d*)\s*:)?(?P<rest>.*)$"
)
_TURNSTILE = re.compile(r"\|-|⊢|∴|\btherefore\b", re.IGNORECASE)


@dataclass(frozen=True)
class Entailment:
    """Premises and a conclusion, each a formula as text."""

    premises: tuple[str, ...]
    conclusion: str


class EntailmentChecker:
    """Z3 decides whether premises entail the conclusion (FoVer, Kamoi et al., 2025, section 3).

    A step is supported if the premises together with the negated conclusion cannot all be true, and
    refuted if they can. Numbers are reals; predicates are about things of one kind.

    Args:
        formalise: From the question and the prefix to what its last step infers, or `None` if it infers
            nothing formal; `read_entailment` by default. A language model that translates steps would
            stand here.
        milliseconds: Most time for a proof; without one by then the step is unknown.

    Raises:
        MissingDependencyError: If z3-solver (extra `formal`) is not installed.
        ConfigurationError: If the time is not positive.
    """

    name = "entailment"

    def __init__(
        self,
        formalise: Callable[[str, Trajectory], Entailment | None] | None = None,
        *,
        milliseconds: int = 2000,
    ) -> None:
        if milliseconds < 1:
            raise ConfigurationError(f"milliseconds must be at least 1, not {milliseconds}.")
        _z3()
        self._formalise = formalise or read_entailment
        self.milliseconds = milliseconds

    def check(self, question: str, prefix: Trajectory) -> CheckResult:
        """See `Checker.check`."""
        inference = self._formalise(question, prefix)
        if inference is None:
            return CheckResult("unknown", "no formal inference", self.name)
        text = f"{'; '.join(inference.premises)} |- {inference.conclusion}"[:500]
        try:
            label, note = self.entails(inference)
        except FormulaError as error:
            return CheckResult("unknown", f"{text}: not a formula ({error})", self.name)
        return CheckResult(label, f"{text}: {note}", self.name)

    def entails(self, inference: Entailment) -> tuple[Label, str]:
        """The verdict on an inference, and why.

        Raises:
            FormulaError: If a premise or the conclusion is no formula.
        """
        if len(inference.premises) > _MAX_PREMISES:
            raise FormulaError(f"more than {_MAX_PREMISES} premises")
        premises = [parse_formula(premise) for premise in inference.premises]
        conclusion = parse_formula(inference.conclusion)
        z3 = _z3()
        translation = _Translation(z3)
        # A context of its own: those of z3 are not safe to share between threads.
        solver = z3.Solver(ctx=translation.context)
        solver.set("timeout", self.milliseconds)
        solver.add(*(translation.formula(premise, {}) for premise in premises))
        if translation.context_is_contradictory(solver):
            return "supported", "follows, as anything does: the premises contradict each other"
        solver.add(z3.Not(translation.formula(conclusion, {})))
        answer = solver.check()
        if answer == z3.unsat:
            return "supported", "follows"
        if answer == z3.sat:
            return "refuted", "does not follow"
        return "unknown", f"not decided ({solver.reason_unknown()})"


def read_entailment(question: str, prefix: Trajectory) -> Entailment | None:
    """Reads a step of the form `fact1 & int2 -> int3: formula`, or `premise; premise |- conclusion`.

    What `fact1` stands for is read from lines `fact1: formula` of the question and the passages, and
    `int2` from the conclusions of earlier steps.

    Returns:
        `None` if the step has neither form or names something unknown.
    """
    step = prefix[-1]["thought"].strip()
    parts = _TURNSTILE.split(step)
    if len(parts) == 2:
        premises = tuple(p for part in parts[0].split(";") if (p := part.strip(" ,.\n")))
        return Entailment(premises, parts[1].strip()) if premises and parts[1].strip() else None
    match = _STEP.match(step)
    if match is None or not match["rest"].strip():
        return None
    known: dict[str, str] = {}
    for text in [question, *(passage for earlier in prefix for passage in earlier["passages"])]:
        known.update((name, formula.strip()) for name, formula in _NAMED.findall(text))
    for earlier in prefix[:-1]:
        concluded = _STEP.match(earlier["thought"].strip())
        if concluded and concluded["name"]:
            known[concluded["name"]] = concluded["rest"].strip()
    names = re.findall(r"[A-Za-z]+\d+", match["names"])
    if not all(name in known for name in names):
        return None
    return Entailment(tuple(known[name] for name in names), match["rest"].strip())


class _Translation:
    """From formulas to z3's, with one sort of things and real numbers."""

    def __init__(self, z3: Any) -> None:
        self._z3, self.context = z3, z3.Context()
        self._things = z3.DeclareSort("Thing", self.context)
        self._predicates: dict[tuple[str, int], Any] = {}
        self._constants: dict[str, Any] = {}
        self._reals: dict[str, Any] = {}

    def context_is_contradictory(self, solver: Any) -> bool:
        """Whether the assertions so far cannot all be true."""
        return bool(solver.check() == self._z3.unsat)

    def formula(self, formula: Formula, bound: dict[str, Any]) -> Any:
        z3 = self._z3
        kind, *parts = formula
        if kind in ("all", "some"):
            variable = z3.Const(f"{parts[0]}!{len(bound)}", self._things)
            body = self.formula(parts[1], {**bound, parts[0]: variable})
            return (z3.ForAll if kind == "all" else z3.Exists)([variable], body)
        if kind == "not":
            return z3.Not(self.formula(parts[0], bound))
        if kind == "false":
            return z3.BoolVal(False, self.context)
        if kind == "holds":
            return self._holds(parts[0], parts[1], bound)
        if kind == "compare":
            return self._compared(parts[0], self._term(parts[1], bound), self._term(parts[2], bound))
        left, right = (self.formula(part, bound) for part in parts)
        if kind == "iff":
            return left == right
        return {"and": z3.And, "or": z3.Or, "implies": z3.Implies}[kind](left, right)

    def _holds(self, predicate: str, arguments: Sequence[str], bound: dict[str, Any]) -> Any:
        z3, key = self._z3, (predicate, len(arguments))
        if key not in self._predicates:
            sorts = [self._things] * len(arguments)
            truth = z3.BoolSort(self.context)
            self._predicates[key] = z3.Function(f"{predicate}/{len(arguments)}", *sorts, truth)
        things = []
        for name in arguments:
            if name in bound:
                things.append(bound[name])
            else:
                things.append(self._constants.setdefault(name, z3.Const(name, self._things)))
        return self._predicates[key](*things)

    def _term(self, term: Formula, bound: dict[str, Any]) -> Any:
        kind, *parts = term
        if kind == "number":
            return self._z3.RealVal(parts[0], self.context)
        if kind == "name":
            if parts[0] in bound:
                raise FormulaError(f"{parts[0]!r} stands for a thing, not for a number")
            return self._reals.setdefault(parts[0], self._z3.Real(parts[0], self.context))
        if kind == "neg":
            return -self._term(parts[0], bound)
        if kind == "^":
            base, result = self._term(parts[0], bound), self._z3.RealVal(1, self.context)
            for _ in range(int(parts[1][1])):
                result = result * base
            return result
        left, right = (self._term(part, bound) for part in parts)
        if kind == "/":
            if parts[1][0] == "number" and float(parts[1][1]) == 0:
                raise FormulaError("division by zero")
            return left / right
        return left + right if kind == "+" else left - right if kind == "-" else left * right

    @staticmethod
    def _compared(sign: str, left: Any, right: Any) -> Any:
        if sign in ("=", "!="):
            return left == right if sign == "=" else left != right
        if sign in ("<", "<="):
            return left < right if sign == "<" else left <= right
        return left > right if sign == ">" else left >= right


def _z3() -> Any:
    try:
        import z3
    except ImportError as error:
        raise MissingDependencyError.for_extra("z3-solver", "formal") from error
    return z3
