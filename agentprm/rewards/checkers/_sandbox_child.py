"""What runs inside the sandbox's process: close the doors, then run the programs. Standard library only."""

from __future__ import annotations

import ast
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# Loaded before the doors close; later imports find these, and nothing else can be read from disk.
_MODULES = (
    "_strptime abc array bisect calendar cmath collections collections.abc contextlib copy dataclasses "
    "datetime decimal enum fractions functools heapq hashlib io itertools json math numbers operator random "
    "re statistics string textwrap time traceback types typing unicodedata"
)

# Numbers of the system calls that stay open: pipes, memory, time, exit. None sets a handler of signals, which
# Python would call with the frame that it interrupts.
_ALLOWED = {
    # read write close poll lseek mmap mprotect munmap brk rt_sigprocmask rt_sigreturn pread64
    # readv writev sched_yield mremap madvise nanosleep getpid exit gettimeofday getrusage sysinfo times
    # getuid getgid geteuid getegid sigaltstack gettid futex sched_getaffinity restart_syscall clock_gettime
    # clock_getres clock_nanosleep exit_group fstat getrandom membarrier rseq
    "x86_64": (
        0xC000003E,
        "0 1 3 7 8 9 10 11 12 14 15 17 19 20 24 25 28 35 39 60 96 98 99 100 102 104 107 108 131 186 202 "
        "204 219 228 229 230 231 5 318 324 334",
    ),
    # The same in the numbering of newer architectures (ppoll for poll).
    "aarch64": (
        0xC00000B7,
        "63 64 57 73 62 222 226 215 214 135 139 67 65 66 124 216 233 101 172 93 169 165 179 153 174 176 "
        "175 177 132 178 98 123 128 113 114 115 94 80 278 283 293",
    ),
}


def close_doors() -> None:
    """Installs a seccomp filter that refuses every system call not listed. Raises OSError without one."""
    import ctypes
    import errno
    import os
    import struct

    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _ALLOWED or sys.maxsize < 2**32:
        raise OSError(errno.ENOSYS, f"no filter of system calls for {sys.platform} on {machine}")
    architecture, numbers = _ALLOWED[machine]
    calls = [int(number) for number in numbers.split()]

    def instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    load, equal, give = 0x20, 0x15, 0x06
    program = [
        instruction(load, 0, 0, 4),  # seccomp_data.arch
        instruction(equal, 1, 0, architecture),
        instruction(give, 0, 0, 0x80000000),  # kill: numbers of another architecture
        instruction(load, 0, 0, 0),  # seccomp_data.nr
        *(instruction(equal, len(calls) - i, 0, number) for i, number in enumerate(calls)),
        instruction(give, 0, 0, 0x00050000 | errno.EPERM),
        instruction(give, 0, 0, 0x7FFF0000),  # allow
    ]
    code = ctypes.create_string_buffer(b"".join(program))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    filter_ = Program(len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(
        set_seccomp, mode_filter, ctypes.addressof(filter_), 0, 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, f"the filter of system calls was refused: {os.strerror(number)}")


def limit(seconds: float, memory: int) -> None:
    """Bounds of CPU time, memory, files and core dumps."""
    import resource

    for kind, value in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        # A lower hard limit may stand already, or the system knows no such limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (value, value))


# Ways to frames; the last one leads to an interpreter within this one, which has hooks of its own.
_SHUT = frozenset(
    ("sys._getframe", "sys._current_frames", "sys._current_exceptions", "sys.settrace", "sys.setprofile")
) | {"sys.addaudithook", "gc.get_objects", "gc.get_referrers", "gc.get_referents"}
_SHUT |= {"cpython.PyInterpreterState_New"}
_FRAMES = frozenset(("tb_frame", "gi_frame", "cr_frame", "ag_frame"))


def shut_frames(*, allow_ctypes: bool) -> Callable[[], None]:
    """Keeps Python code from the frames, and so the variables, of its callers; returns what ends this."""
    shut = [True]

    # What it needs is bound: a program may replace builtins and globals.
    def hook(event: str, details: Any, *, refused: type = ValueError, begins: Any = str.startswith) -> None:
        if shut and (
            event in _shut
            or (event == "object.__getattr__" and details[1] in _frames)
            or (not allow_ctypes and begins(event, "ctypes."))
        ):
            raise refused(f"{event} is refused in the sandbox")

    _shut, _frames = _SHUT, _FRAMES
    if not allow_ctypes:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("ctypes", "_ctypes")]:
            sys.modules[name] = None  # type: ignore[assignment]
    sys.addaudithook(hook)
    return shut.clear


def main() -> None:
    """Reads the task, runs the programs, and says on the verdict's pipe how the last one ended.

    The judged program shares its process with the code that reports on it. So the report begins with a
    secret, and what would lead a program to the frame that holds it is shut.
    """
    import builtins
    import importlib
    import os
    import traceback

    channel = int(sys.argv[1])
    task = json.load(sys.stdin)
    for name in _MODULES.split():
        importlib.import_module(name)
    sys.path += task["path"]
    for name in task["modules"]:
        importlib.import_module(name)
    leave, write = os._exit, os.write  # bound, as a program may replace them where they are at home
    *earlier, last = task["programs"]
    values = values_of(earlier, task, channel) if earlier else {}
    close(task)
    open_frames = shut_frames(allow_ctypes="ctypes" in task["modules"])
    namespace = {"__name__": "__main__", "__builtins__": builtins, **task["variables"]}
    for definition in definitions(earlier):
        with contextlib.suppress(Exception):
            exec(compile(ast.Module([definition], []), "<step>", "exec"), namespace)
    namespace.update(values)
    problems: list[BaseException] = []
    # While the program runs, the secret is on the interpreter's stack, and in no variable of any frame. The
    # report is written before anything of the program's (a stream, a patched traceback) is touched.
    write(channel, task.pop("secret").encode() + judged(last, namespace, problems))
    try:
        open_frames()
        for problem in problems:
            traceback.print_exception(problem)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        leave(0)


def judged(program: str, namespace: dict[str, Any], problems: list[BaseException]) -> bytes:
    """Runs a program; how it ended and how many assertions held. Adds what it raised to `problems`."""
    import itertools

    # Bound here, as in `main`.
    run, held, note = exec, next, problems.append
    failed, everything, left = AssertionError, BaseException, SystemExit
    asserted = itertools.count()
    namespace[_ASSERTED] = asserted.__next__
    status = b" ok "
    try:
        run(compile(counted(program), "<step>", "exec"), namespace)
    except left as error:
        if error.code not in (None, 0):
            status = b" error "
            note(error)
    except failed as error:
        status = b" assertion "
        note(error)
    except everything as error:
        status = b" error "
        note(error)
    return status + b"%d" % held(asserted)


def close(task: Mapping[str, Any]) -> None:
    """Bounds this process, and isolates it or ends it."""
    import os

    limit(task["seconds"], task["memory"])
    if task["isolate"]:
        try:
            close_doors()
        except OSError as error:
            print(error.strerror, file=sys.stderr, flush=True)
            os._exit(1)


_ASSERTED = "<asserted>"  # no name that a program could have chosen


def counted(program: str) -> ast.Module:
    """The program, counting the assertions that hold."""

    class Counted(ast.NodeTransformer):
        def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
            call = ast.Expr(ast.Call(ast.Name(_ASSERTED, ast.Load()), [], []))
            return [node, ast.copy_location(call, node)]

    tree: ast.Module = Counted().visit(ast.parse(program, "<step>"))
    return ast.fix_missing_locations(tree)


# Earlier programs, as they may have been written by someone else than the judged one, run in a process of
# their own. What they leave to it are values that are plain data, and functions, which do nothing until
# they are called.

_MOST = 1 << 20  # bytes of values


def values_of(programs: Sequence[str], task: Mapping[str, Any], channel: int) -> dict[str, Any]:
    """Runs programs in a process of their own, whatever they do; the plain values that they left."""
    import os
    import signal

    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            os.close(channel)
            os.close(ours)
            close(task)
            _run_all(programs, task["variables"], theirs)
        finally:
            os._exit(0)
    os.close(theirs)
    data = bytearray()
    while len(data) <= _MOST and (chunk := os.read(ours, 65536)):
        data += chunk
    os.close(ours)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        values = ast.literal_eval(data.decode("utf-8", "surrogatepass")) if len(data) <= _MOST else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return {}
    return values if isinstance(values, dict) and all(map(str.isidentifier, values)) else {}


def _run_all(programs: Sequence[str], variables: Mapping[str, Any], channel: int) -> None:
    import builtins
    import os

    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins, **variables}
    for program in programs:
        with contextlib.suppress(BaseException):
            exec(compile(program, "<step>", "exec"), namespace)
    values = {name: value for name, value in namespace.items() if name[:2] != "__" and _plain(value)}
    data = repr(values).encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(channel, data) :]


def _plain(value: Any, depth: int = 20) -> bool:
    kind = type(value)
    if kind in (int, str, bytes, bool, complex, type(None)):
        return True
    if kind is float:
        return bool(value - value == 0)  # no infinity and no NaN: they have no literal
    if kind is dict:
        value = [part for item in value.items() for part in item]
    return kind in (list, tuple, set, dict) and depth > 0 and all(_plain(part, depth - 1) for part in value)


def definitions(programs: Sequence[str]) -> Iterator[ast.stmt]:
    """The imports, functions and classes of programs, as far as defining them runs nothing else.

    Names that are also assigned to are left out: what they stand for in the end is not known.
    """
    nodes: list[ast.stmt] = []
    for program in programs:
        with contextlib.suppress(SyntaxError, ValueError, MemoryError, RecursionError):
            nodes += ast.parse(program).body
    names = (n for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name))
    assigned = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    for node in nodes:
        defines = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name not in assigned
        if isinstance(node, ast.Import | ast.ImportFrom) or (defines and _inert(node)):
            yield node


def _inert(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        parts = node.args
        for argument in [*parts.posonlyargs, *parts.args, *parts.kwonlyargs, parts.vararg, parts.kwarg]:
            if argument is not None:
                argument.annotation = None
        node.returns = None
        defaults = [*parts.defaults, *(value for value in parts.kw_defaults if value is not None)]
        return not node.decorator_list and all(map(_literal, defaults))
    if isinstance(node, ast.ClassDef):
        return not (node.decorator_list or node.bases or node.keywords) and all(map(_inert, node.body))
    if isinstance(node, ast.Assign):  # of a class
        return all(isinstance(target, ast.Name) for target in node.targets) and _literal(node.value)
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True


if __name__ == "__main__":
    main()
