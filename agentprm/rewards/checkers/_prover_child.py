"""What runs in a prover's process: reads formulas, a JSON line each time, and says what Z3 finds.

Standard library and Z3 only, beside the grammar of formulas. The first line names the folders where
modules are found.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

Formula = Sequence[Any]

_MEMORY = 4 << 30  # bytes of address space


def main() -> None:
    """Answers until its input ends."""
    sys.path += json.loads(sys.stdin.readline())
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    import z3

    where = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_formulas.py")
    spec = importlib.util.spec_from_file_location("_formulas", where)
    assert spec is not None
    assert spec.loader is not None
    formulas = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formulas)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            task = json.loads(line)
            premises = [formulas.parse_formula(premise) for premise in task["premises"]]
            conclusion = formulas.parse_formula(task["conclusion"])
            label, note = entails(z3, premises, conclusion, task["milliseconds"])
            reply = {"label": label, "note": note}
        except ValueError as error:
            reply = {"error": str(error)}
        except (z3.Z3Exception, RecursionError, MemoryError) as error:
            reply = {"label": "unknown", "note": f"not decided ({type(error).__name__})"}
        print(json.dumps(reply), flush=True)


def entails(z3: Any, premises: Sequence[Formula], conclusion: Formula, milliseconds: int) -> tuple[str, str]:
    """Whether the premises entail the conclusion, and why."""
    translation = _Translation(z3)
    solver = z3.Solver(ctx=translation.context)
    end = time.monotonic() + milliseconds / 1000
    solver.set("timeout", milliseconds)
    solver.add(*(translation.formula(premise, {}) for premise in premises))
    if solver.check() == z3.unsat:
        return "supported", "follows, as anything does: the premises contradict each other"
    solver.add(z3.Not(translation.formula(conclusion, {})))
    solver.set("timeout", max(1, int(1000 * (end - time.monotonic()))))
    answer = solver.check()
    if answer == z3.unsat:
        return "supported", "follows"
    if answer == z3.sat:
        return "refuted", "does not follow"
    return "unknown", f"not decided ({solver.reason_unknown()})"


class _Translation:
    """From formulas to z3's, with one sort of things and real numbers."""

    def __init__(self, z3: Any) -> None:
        self._z3, self.context = z3, z3.Context()
        self._things = z3.DeclareSort("Thing", self.context)
        self._predicates: dict[tuple[str, int], Any] = {}
        self._constants: dict[str, Any] = {}
        self._reals: dict[str, Any] = {}

    def formula(self, formula: Formula, bound: dict[str, Any]) -> Any:
        """The formula, in which the names of `bound` are variables."""
        z3 = self._z3
        rest = []
        while formula[0] in ("and", "or", "iff"):  # in a loop: a chain may be longer than the stack
            kind, formula, right = formula
            rest.append((kind, self.formula(right, bound)))
        result = self._single(formula, bound)
        for kind, right in reversed(rest):
            result = result == right if kind == "iff" else (z3.And if kind == "and" else z3.Or)(result, right)
        return result

    def _single(self, formula: Formula, bound: dict[str, Any]) -> Any:
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
        return z3.Implies(left, right)

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
        rest = []
        while term[0] in ("+", "-", "*", "/"):
            kind, term, right = term
            if kind == "/" and right[0] == "number" and float(right[1]) == 0:
                raise ValueError("division by zero")
            rest.append((kind, self._term(right, bound)))
        result = self._factor(term, bound)
        for kind, right in reversed(rest):
            if kind in ("+", "-"):
                result = result + right if kind == "+" else result - right
            else:
                result = result * right if kind == "*" else result / right
        return result

    def _factor(self, term: Formula, bound: dict[str, Any]) -> Any:
        kind, *parts = term
        if kind == "number":
            return self._z3.RealVal(parts[0], self.context)
        if kind == "name":
            if parts[0] in bound:
                raise ValueError(f"{parts[0]!r} stands for a thing, not for a number")
            return self._reals.setdefault(parts[0], self._z3.Real(parts[0], self.context))
        if kind == "neg":
            return -self._term(parts[0], bound)
        base, result = self._term(parts[0], bound), self._z3.RealVal(1, self.context)  # kind is "^"
        for _ in range(int(parts[1][1])):
            result = result * base
        return result

    @staticmethod
    def _compared(sign: str, left: Any, right: Any) -> Any:
        if sign in ("=", "!="):
            return left == right if sign == "=" else left != right
        if sign in ("<", "<="):
            return left < right if sign == "<" else left <= right
        return left > right if sign == ">" else left >= right


if __name__ == "__main__":
    main()
