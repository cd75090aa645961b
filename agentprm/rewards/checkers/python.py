"""Python: does the program in a step say what the step says it does?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from agentprm.rewards.base import Trajectory
from agentprm.rewards.checkers.base import CheckResult
from agentprm.rewards.checkers.sandbox import ProgramResult, PythonSandbox

__all__ = ["PythonChecker"]

_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\Z")
_CODE = ("python", "py", "python3")
_OUTPUT = ("output", "text", "stdout", "")


class PythonChecker:
    """Runs the Python of a step in a sandbox (GenPRM's code check; TaTToo's tool runs on tables).

    - An assertion that fails refutes the step.
    - If the step shows an output (a block marked `output`, or one after `[Code Output]`), what is really
      printed supports or refutes it; numbers are compared as numbers.
    - A program that finishes, and in which something was asserted, supports the step.
    - No program, an error, a time-out: unknown.

    Programs of earlier steps run first, apart from it: their values and functions are there, but nothing
    that they do to the interpreter. A program that its own author wrote can
    assert nothing of weight; `write` lets someone else write it.

    Args:
        sandbox: Where programs run; `PythonSandbox()` by default.
        write: From the question and the prefix to a program that checks its last step, or `None`; for
            instance a language model asked to write one. By default the step's own blocks.
        variables: JSON values that programs find under these names, for instance the rows of a table.
    """

    name = "python"

    def __init__(
        self,
        sandbox: PythonSandbox | None = None,
        *,
        write: Callable[[str, Trajectory], str | None] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.sandbox = sandbox or PythonSandbox()
        self.write, self.variables = write, dict(variables or {})

    def check(self, question: str, prefix: Trajectory) -> CheckResult:
        """See `Checker.check`."""
        programs = [program for step in prefix[:-1] for program in _programs(step["thought"])[0]]
        own, shown = _programs(prefix[-1]["thought"])
        if self.write is not None:
            written = self.write(question, prefix)
            own, shown = ([written], None) if written else ([], None)
        if not own:
            return CheckResult("unknown", "no program", self.name)
        # The blocks of one step are one program: the last one often prints what the first computed.
        program = "\n".join(own)
        result = self.sandbox.run(program, before=programs, variables=self.variables)
        return self._judged(result, shown)

    def _judged(self, result: ProgramResult, shown: str | None) -> CheckResult:
        if result.status == "assertion":
            return CheckResult("refuted", f"an assertion fails: {_last(result.error)}", self.name)
        if result.status != "ok":
            return CheckResult("unknown", f"{result.status}: {_last(result.error)}".rstrip(": "), self.name)
        printed = result.output.strip()
        if shown is not None and printed:
            if _same(printed, shown):
                return CheckResult("supported", f"the program prints {printed[:200]!r}", self.name)
            return CheckResult("refuted", f"prints {printed[:200]!r}, not {shown.strip()[:200]!r}", self.name)
        if result.asserted:
            return CheckResult("supported", "all assertions hold", self.name)
        return CheckResult("unknown", f"prints {printed[:200]!r}", self.name)


def _programs(text: str) -> tuple[list[str], str | None]:
    """The programs in a text, and the output that it shows of the last one."""
    programs: list[str] = []
    shown: str | None = None
    for match in _FENCED.finditer(text):
        language, body = match.group(1).lower(), match.group(2)
        if language in _CODE:
            programs.append(body)
            shown = None
        elif programs and (
            language == "output"
            or (language in _OUTPUT and "[Code Output]" in text[max(0, match.start() - 40) : match.start()])
        ):
            shown = body
    return programs, shown


def _same(printed: str, shown: str) -> bool:
    left, right = printed.split(), shown.split()
    return len(left) == len(right) and all(map(_equal, left, right))


def _equal(a: str, b: str) -> bool:
    if a == b:
        return True
    if not (_NUMBER.match(a) and _NUMBER.match(b)) or max(len(a), len(b)) > 400:
        return False
    # The places that the step shows count: 0.33 stands for 0.3333333333333333.
    places = len(b.lower().partition("e")[0].partition(".")[2])
    return abs(float(a) - float(b)) <= (0.5000001 * 10.0**-places if places else 1e-9 * abs(float(b)))


def _last(error: str) -> str:
    lines = error.strip().splitlines()
    return lines[-1][:200] if lines else ""
