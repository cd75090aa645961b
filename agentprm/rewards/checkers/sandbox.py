"""Running Python that a model wrote: in a process of its own, bounded and cut off.

What holds on Linux (x86-64 and AArch64, any user, containers included if they allow seccomp): once the
program starts, the kernel refuses every system call but reading and writing the three pipes, memory, time
and exit. So there is no network, no opening of files, no new process or thread, no signal to another
process. CPU time, memory and output are bounded, the environment is empty, and the interpreter ignores
site packages and the user's settings.

Elsewhere only the bounds hold, and a sandbox without isolation must be asked for by name. What is not
claimed: protection from flaws of the kernel or of the interpreter, or from what a program can learn by
timing. For hostile code at scale use a virtual machine.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.rewards.checkers import _sandbox_child

__all__ = ["ProgramResult", "PythonSandbox"]

Status = Literal["ok", "error", "assertion", "timeout", "output", "killed"]

_STATUS: Mapping[bytes, Status] = {b"ok": "ok", b"error": "error", b"assertion": "assertion"}


@dataclass(frozen=True)
class ProgramResult:
    """What became of a program.

    Attributes:
        status: `ok`; `error` (an exception); `assertion` (an assertion of the program failed);
            `timeout`; `output` (it printed too much); `killed` (by the
            kernel, for CPU time or memory, or it left without finishing).
        output: What it printed, cut at the bound.
        error: The last lines of the traceback.
        asserted: Assertions of the program that were reached and held.
    """

    status: Status
    output: str
    error: str = ""
    asserted: int = 0


class PythonSandbox:
    """Runs Python programs apart from this process.

    A sandbox is a function too, from a program to what it printed or the error it ended in, as
    templates that let a model run code ask for it.

    Args:
        seconds: Most seconds of wall-clock time for a program, its start (about .1 s) included.
        memory_mb: Most address space in MiB.
        output_chars: Most characters that are kept of what it prints; a program that prints ten times
            as much is stopped.
        modules: Modules beside the standard library's common ones that programs may import, for
            instance `sympy`. They are imported before the isolation closes; what they load lazily is
            missing.
        isolation: `required` refuses to be built where the kernel offers none; `none` runs programs
            with bounds only, which is right for programs of your own.

    Raises:
        CapabilityError: If isolation is required and this system has none.
        ConfigurationError: If a bound is not positive, or the system has no resource limits.
    """

    def __init__(
        self,
        *,
        seconds: float = 5.0,
        memory_mb: int = 512,
        output_chars: int = 10_000,
        modules: Sequence[str] = (),
        isolation: Literal["required", "none"] = "required",
    ) -> None:
        if not (seconds > 0 and memory_mb >= 64 and output_chars > 0):
            raise ConfigurationError("A sandbox needs seconds > 0, memory_mb >= 64 and output_chars > 0.")
        if isolation not in ("required", "none"):
            raise ConfigurationError(f"isolation is 'required' or 'none', not {isolation!r}.")
        if not all(name.replace(".", "").isidentifier() for name in modules):
            raise ConfigurationError(f"modules are names such as 'sympy', not {list(modules)}.")
        if not hasattr(os, "waitid"):
            raise ConfigurationError("Programs are run on Linux and other systems with waitid(2) only.")
        self.seconds, self.memory_mb, self.output_chars = float(seconds), int(memory_mb), int(output_chars)
        self.modules, self.isolation = tuple(modules), isolation
        if isolation == "required" and (reason := _missing_isolation()):
            raise CapabilityError(
                f"This system cannot isolate programs ({reason}). Pass isolation='none' to run them with "
                "bounds on time, memory and output only, if you trust who writes them."
            )

    def run(
        self, program: str, *, before: Sequence[str] = (), variables: Mapping[str, Any] | None = None
    ) -> ProgramResult:
        """Runs a program.

        Args:
            program: Its text.
            before: Programs to run first, such as those of earlier steps, in a process of their own. Their
                functions and the values that are plain data (numbers, texts, lists, …) stand in the
                namespace of `program`; what they print and raise is dropped.
            variables: JSON values by the name under which programs find them, for instance a table.

        Raises:
            ConfigurationError: If a variable is no JSON value.
        """
        try:
            return _run(
                [*before, program],
                self.seconds,
                self.memory_mb,
                self.output_chars,
                variables=dict(variables or {}),
                modules=self.modules,
                path=[path for path in sys.path if path] if self.modules else [],
                isolate=self.isolation == "required",
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"The variables of a program must be JSON values: {error}") from error

    def __call__(self, program: str) -> str:
        """What `program` printed; if it failed, followed by how."""
        result = self.run(program)
        if result.status == "ok":
            return result.output
        reason = result.error or f"stopped: {result.status}"
        return "\n".join(part for part in (result.output.rstrip("\n"), reason) if part)


def _run(
    programs: Sequence[str], seconds: float, memory_mb: int, output_chars: int, **task: Any
) -> ProgramResult:
    secret = secrets.token_hex(16)
    task = {"variables": {}, "modules": [], "path": [], **task, "programs": programs, "secret": secret}
    text = json.dumps({**task, "seconds": seconds, "memory": memory_mb << 20})
    verdict, theirs = os.pipe()
    try:
        # -I: no environment variables, no user site, no current folder on the path; -S: no site packages.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", _sandbox_child.__file__, str(theirs)],
            pass_fds=(theirs,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            close_fds=True,
            start_new_session=True,
        )
    except BaseException:
        os.close(verdict)
        raise
    finally:
        os.close(theirs)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    flooded = threading.Event()

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def overflow() -> None:
        flooded.set()
        stop()

    output = _PipeReader(process.stdout, 10 * output_chars, overflow)
    errors = _PipeReader(process.stderr, 100_000, overflow)
    timed_out, said = False, b""
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(text.encode("utf-8", "surrogatepass"))
        timed_out = not _ended(process.pid, seconds)
    finally:
        stop()
        process.wait()
        output.join()
        errors.join()
        process.stdout.close()
        process.stderr.close()
        os.set_blocking(verdict, False)
        with contextlib.suppress(BlockingIOError):
            said = os.read(verdict, 1000)
        os.close(verdict)
    # Without the secret it was the program that wrote, or it left without finishing.
    match said.split():
        case [known, status_said, count] if known == secret.encode():
            status, asserted = _STATUS.get(status_said, "killed"), int(count)
        case _:
            status, asserted = "killed", 0
    if timed_out:
        status = "timeout"
    elif flooded.is_set():
        status = "output"
    trace = errors.text.strip().splitlines()[-3:]
    return ProgramResult(status, output.text[:output_chars], "\n".join(trace)[:2000], asserted)


def _ended(pid: int, seconds: float) -> bool:
    """Waits for a child to end and leaves it unreaped, so that its process group is still its own."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True


class _PipeReader(threading.Thread):
    """Reads a pipe to its end, keeps a bounded part, and reports a flood."""

    def __init__(self, pipe: IO[bytes], limit: int, overflow: Any) -> None:
        super().__init__(daemon=True)
        self._pipe, self._limit, self._overflow, self._data = pipe, limit, overflow, bytearray()
        self.start()

    def run(self) -> None:
        while chunk := os.read(self._pipe.fileno(), 65536):
            if len(self._data) < self._limit:
                self._data += chunk
                if len(self._data) >= self._limit:
                    self._overflow()

    @property
    def text(self) -> str:
        return self._data.decode("utf-8", "replace")


@functools.cache
def _missing_isolation() -> str:
    """Why programs cannot be isolated here, or nothing; tried once with a program that does nothing."""
    result = _run([""], 20.0, 512, 1000, isolate=True)
    return "" if result.status == "ok" else result.error.splitlines()[-1] if result.error else result.status
