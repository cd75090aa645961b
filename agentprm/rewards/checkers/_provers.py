"""Processes in which Z3 proves: it does not keep every time limit, and no thread can be stopped."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

from agentprm.errors import MissingDependencyError
from agentprm.forking import ForkSafeLock, after_fork
from agentprm.rewards.checkers import _prover_child

__all__ = ["prove"]

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


class _Idle:
    """Provers without work, shared by threads; a forked process has its own."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._forget()
        after_fork(self, _Idle._forget)

    def _forget(self) -> None:
        self._provers: list[_Prover] = []

    def take(self) -> _Prover:
        with self._lock:
            if self._provers:
                return self._provers.pop()
        return _Prover()

    def give_back(self, prover: _Prover) -> None:
        with self._lock:
            self._provers.append(prover)


_IDLE = _Idle()


def prove(task: dict[str, Any], seconds: float) -> Any:
    """What a prover says to a task, or `None` if it does not in time, or ends.

    Raises:
        MissingDependencyError: If Z3 cannot be started.
    """
    prover = _IDLE.take()
    try:
        line = prover.ask(task, seconds)
    except BaseException:
        prover.close()  # interrupted: its answer would be taken for that to the next task
        raise
    if not line:
        return None
    _IDLE.give_back(prover)
    return json.loads(line)
