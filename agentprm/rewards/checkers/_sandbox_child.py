"""What runs inside the sandbox's process: close the doors, then run the programs. Standard library only."""

import contextlib
import json
import sys

# Exit codes; a program that leaves by itself (os._exit(0)) is none of them.
OK, ERROR, ASSERTION, REFUSED = 80, 81, 82, 83

# Loaded before the doors close; later imports find these, and nothing else can be read from disk.
_MODULES = (
    "_strptime abc array bisect calendar cmath collections collections.abc contextlib copy dataclasses "
    "datetime decimal enum fractions functools heapq hashlib io itertools json math numbers operator random "
    "re statistics string textwrap time traceback types typing unicodedata"
)

# Numbers of the system calls that stay open: pipes, memory, time, signals of the process itself, exit.
_ALLOWED = {
    # read write close poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64
    # readv writev sched_yield mremap madvise nanosleep getpid exit gettimeofday getrusage sysinfo times
    # getuid getgid geteuid getegid sigaltstack gettid futex sched_getaffinity restart_syscall clock_gettime
    # clock_getres clock_nanosleep exit_group fstat getrandom membarrier rseq
    "x86_64": (
        0xC000003E,
        "0 1 3 7 8 9 10 11 12 13 14 15 17 19 20 24 25 28 35 39 60 96 98 99 100 102 104 107 108 131 186 202 "
        "204 219 228 229 230 231 5 318 324 334",
    ),
    # The same in the numbering of newer architectures (ppoll for poll).
    "aarch64": (
        0xC00000B7,
        "63 64 57 73 62 222 226 215 214 134 135 139 67 65 66 124 216 233 101 172 93 169 165 179 153 174 176 "
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


def main() -> None:
    """Reads the task, closes the doors, runs the programs; the exit code says how the last one ended."""
    import builtins
    import importlib
    import os

    task = json.load(sys.stdin)
    for name in _MODULES.split():
        importlib.import_module(name)
    sys.path += task["path"]
    for name in task["modules"]:
        importlib.import_module(name)
    import traceback

    leave = os._exit
    limit(task["seconds"], task["memory"])
    if task["isolate"]:
        try:
            close_doors()
        except OSError as error:
            print(error.strerror, file=sys.stderr, flush=True)
            leave(REFUSED)
    namespace = {"__name__": "__main__", "__builtins__": builtins, **task["variables"]}
    status = OK
    *earlier, last = task["programs"]
    output = sys.stdout
    for program in earlier:
        sys.stdout = Nowhere()
        with contextlib.suppress(BaseException):  # whatever an earlier step does, this one is judged
            exec(compile(program, "<step>", "exec"), namespace)
    sys.stdout = output
    try:
        exec(compile(last, "<step>", "exec"), namespace)
    except SystemExit as error:
        status = ERROR if error.code not in (None, 0) else OK
    except AssertionError:
        status = ASSERTION
        traceback.print_exc()
    except BaseException:
        status = ERROR
        traceback.print_exc()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        leave(status)


class Nowhere:
    """A text stream that drops what it is given."""

    def write(self, text: str) -> int:
        """Drops `text`."""
        return len(text)

    def flush(self) -> None:
        """Does nothing."""


if __name__ == "__main__":
    main()
