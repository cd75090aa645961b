"""Logic: does a step's conclusion follow from its premises?

Z3 proves in processes of its own: it does not keep every time limit, and no thread can be stopped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentprm.errors import MissingDependencyError, check_least
from agentprm.rewards.base import Trajectory
from agentprm.rewards.checkers import _prover_child
from agentprm.rewards.checkers._formulas import FormulaError
from agentprm.rewards.checkers.base import CheckResult, Label

__all__ = ["Entailment", "EntailmentChecker", "prove", "read_entailment"]


_START_S = 60.0


class _Prover:
    """A process that waits for formulas; it ends with this one, as its input does."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", _prover_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.path.dirname(_prover_child.__file__) or None,
            text=True,
            encoding="utf-8",
        )
        if self.ask([os.path.abspath(path) for path in sys.path if path], _START_S) != "ready":
            raise MissingDependencyError.for_extra("z3-solver", "formal")

    def ask(self, value: Any, seconds: float) -> str:
        """Its answer, or nothing if it takes longer: then it is ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        line = ""
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(value) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self.close()
        return line.strip()

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()


_idle: list[_Prover] = []  # without work, shared by threads: both ends of its use are one step each
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # another process starts its own


def prove(task: dict[str, Any], seconds: float) -> Any:
    """What a prover says to a task, or `None` if it does not in time, or ends.

    Raises:
        MissingDependencyError: If Z3 cannot be started.
    """
    try:
        prover = _idle.pop()
    except IndexError:
        prover = _Prover()
    try:
        line = prover.ask(task, seconds)
    except BaseException:
        prover.close()  # interrupted: its answer would be taken for that to the next task
        raise
    if not line:
        return None
    _idle.append(prover)
    return json.loads(line)


_MAX_PREMISES = 100
_GRACE_S = 0.5  # Z3 keeps most of its time limits itself, and then says more
_NAMED = re.compile(r"(?:^|[\n;])[ \t]*([A-Za-z]+\d+)[ \t]*:([^\n;]+)")
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
        milliseconds: Most time for a proof; without one by then the step is unknown. Z3 runs in a process
            of its own, which is ended where it does not keep to this.

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
        check_least(1, milliseconds=milliseconds)
        if importlib.util.find_spec("z3") is None:
            raise MissingDependencyError.for_extra("z3-solver", "formal")
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
        task = {
            "premises": inference.premises,
            "conclusion": inference.conclusion,
            "milliseconds": self.milliseconds,
        }
        reply = prove(task, self.milliseconds / 1000 + _GRACE_S)
        if reply is None:
            return "unknown", f"not decided in {self.milliseconds} ms"
        if "error" in reply:
            raise FormulaError(reply["error"])
        return reply["label"], reply["note"]


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
