"""The sandbox keeps programs in, and the checker reads what they prove."""

import os
import socket
import sys
import threading
import time

import pytest

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.rewards.checkers import PythonChecker, PythonSandbox
from agentprm.rewards.checkers import sandbox as module

isolated = pytest.mark.skipif(
    sys.platform != "linux" or bool(module._missing_isolation()), reason="no isolation on this system"
)


@pytest.fixture(scope="module")
def sandbox():
    return PythonSandbox(seconds=20)


def step(thought, passages=()):
    return {"query": "", "passages": list(passages), "thought": thought, "final_answer": None}


@isolated
def test_programs_run(sandbox):
    result = sandbox.run("import math, statistics, datetime\nprint(math.comb(5, 2), 'é')")
    assert (result.status, result.output, result.error) == ("ok", "10 é\n", "")
    assert sandbox("print(1 + 1)") == "2\n"
    assert "ZeroDivisionError" in sandbox("print('before')\n1/0")
    assert sandbox("print('before')\n1/0").startswith("before\n")
    assert "SyntaxError" in sandbox("print(")
    assert sandbox.run("assert 1 == 2, 'no'").status == "assertion"
    assert sandbox.run("raise SystemExit(3)").status == "error"
    assert sandbox.run("import os; os._exit(0)").status == "killed"
    assert sandbox.run("x").status == "error"


@isolated
@pytest.mark.enable_socket
def test_a_program_reaches_nothing_outside(sandbox, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(0.2)
    port = listener.getsockname()[1]
    os.environ["AGENTPRM_TEST_SECRET"] = "hidden"
    attempts = f"""
import ctypes, os, sys
def attempt(name, function):
    try:
        print(name, function())
    except BaseException as error:
        print(name, "refused", type(error).__name__)
libc = ctypes.CDLL(None, use_errno=True)
attempt("file", lambda: open({str(secret)!r}).read())
attempt("write", lambda: open({str(tmp_path / "new")!r}, "w").write("x"))
attempt("list", lambda: os.listdir("/"))
attempt("stat", lambda: os.stat({str(secret)!r}))
attempt("fork", os.fork)
attempt("system", lambda: os.system("touch {tmp_path / "new"}"))
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("kill", lambda: os.kill({os.getpid()}, 0))
attempt("socket", lambda: libc.socket(2, 1, 0))
attempt("environment", lambda: os.environ.get("AGENTPRM_TEST_SECRET"))
attempt("ptrace", lambda: libc.ptrace(16, {os.getpid()}, 0, 0))
attempt("unshare", lambda: libc.unshare(0x10000000))
attempt("syscall", lambda: libc.syscall(41, 2, 1, 0))
attempt("filter", lambda: libc.prctl(22, 0, 0, 0, 0))
attempt("limits", lambda: __import__("resource").setrlimit(7, (1, 1)))
attempt("connect", lambda: __import__("_socket").socket().connect(("127.0.0.1", {port})))
"""
    result = sandbox.run(attempts)
    del os.environ["AGENTPRM_TEST_SECRET"]
    lines = dict(line.split(" ", 1) for line in result.output.splitlines() if " " in line)
    for name in ("file", "write", "list", "stat", "fork", "exec", "kill"):
        assert lines[name].startswith("refused"), (name, lines)
    assert lines["system"] != "0"
    for name in ("socket", "ptrace", "unshare", "syscall", "filter"):
        assert lines[name] == "-1", (name, lines)
    assert lines["environment"] == "None"
    assert "hidden" not in result.output
    assert not (tmp_path / "new").exists()
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


@isolated
def test_bounds_hold():
    start = time.monotonic()
    assert PythonSandbox(seconds=0.7).run("while True: pass").status == "timeout"
    assert PythonSandbox(seconds=0.7).run("import time; time.sleep(60)").status == "timeout"
    assert time.monotonic() - start < 10
    small = PythonSandbox(seconds=20, memory_mb=128, output_chars=100)
    assert "MemoryError" in small.run("x = [0] * 10**9").error
    flood = small.run("while True: print('a' * 1000)")
    assert (flood.status, len(flood.output)) == ("output", 100)
    flood = small.run("import sys\nwhile True: sys.stderr.write('a' * 1000)")
    assert flood.status == "output"
    assert small.run("print('a' * 500)").output == "a" * 100
    assert small.run("def f(): f()\nf()").status == "error"


@isolated
def test_variables_and_earlier_programs(sandbox):
    table = [{"city": "Rome", "people": 3}]
    result = sandbox.run(
        "print(x + rows[0]['people'])", before=["x = 4\nprint('unheard')", "1/0"], variables={"rows": table}
    )
    assert (result.status, result.output) == ("ok", "7\n")
    with pytest.raises(ConfigurationError, match="JSON"):
        sandbox.run("", variables={"x": object()})


@isolated
def test_many_at_once(sandbox):
    outputs = [""] * 6
    threads = [
        threading.Thread(target=lambda i=i: outputs.__setitem__(i, sandbox.run(f"print({i})").output))
        for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [f"{i}\n" for i in range(6)]


def test_without_isolation_a_sandbox_must_be_asked_for(monkeypatch):
    monkeypatch.setattr(module, "_missing_isolation", lambda: "no filter of system calls")
    with pytest.raises(CapabilityError, match="isolation='none'"):
        PythonSandbox()
    open_ = PythonSandbox(isolation="none", seconds=20)
    assert open_("import os; print(bool(os.listdir('/')))") == "True\n"
    # A child that outlives the program dies with it.
    program = "import os, time\nif os.fork() == 0:\n time.sleep(30)\n os._exit(0)\nprint('done')"
    start = time.monotonic()
    assert open_.run(program).output == "done\n"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "arguments",
    [{"seconds": 0}, {"memory_mb": 1}, {"output_chars": 0}, {"isolation": "some"}, {"modules": ["a; b"]}],
)
def test_unfit_bounds_are_refused(arguments):
    with pytest.raises(ConfigurationError):
        PythonSandbox(**arguments)


CASES = [
    ("No code.", "unknown", "no program"),
    ("```python\nassert 2 + 2 == 4\n```", "supported", "assertions"),
    ("```python\nassert 2 + 2 == 5, 'sum'\n```", "refuted", "sum"),
    ("```python\nprint(2 + 2)\n```", "unknown", "4"),
    ("```python\nprint(2 + 2)\n```\n```output\n4\n```", "supported", "4"),
    ("```python\nprint(2 + 2)\n```\n[Code Output]\n\n```\n5\n```", "refuted", "'4'"),
    ("```python\nprint(1 / 3)\n```\n```output\n0.33\n```", "supported", "0.333"),
    ("```python\nprint(1 / 3)\n```\n```output\n0.35\n```", "refuted", "0.333"),
    ("```python\nprint(1 / 0)\n```\n```output\n0\n```", "unknown", "ZeroDivisionError"),
    ("```python\nx = 2\n```\nthen\n```python\nassert x == 2\n```", "supported", ""),
    ("```sql\nselect 1\n```", "unknown", "no program"),
]


@isolated
@pytest.mark.parametrize(("text", "label", "evidence"), CASES)
def test_what_a_program_says_about_its_step(sandbox, text, label, evidence):
    result = PythonChecker(sandbox).check("Q", [step(text)])
    assert result.label == label
    assert evidence in result.evidence


@isolated
def test_a_step_goes_on_from_the_programs_before_it(sandbox):
    first = step("```python\ntotal = 16 - 3\nprint(total)\n```")
    checker = PythonChecker(sandbox, variables={"rows": [1, 2]})
    assert checker.check("Q", [first, step("```python\nassert total == 13\n```")]).label == "supported"
    assert checker.check("Q", [step("```python\nassert total == 13\n```")]).label == "unknown"
    assert checker.check("Q", [step("```python\nassert sum(rows) == 3\n```")]).label == "supported"


@isolated
def test_someone_else_may_write_the_program(sandbox):
    def write(question, prefix):
        claimed = prefix[-1]["thought"].split()[-1]
        return f"assert {claimed} == 16 - 3 - 4" if claimed.isdigit() else None

    checker = PythonChecker(sandbox, write=write)
    assert checker.check("Q", [step("There are 9")]).label == "supported"
    assert checker.check("Q", [step("There are 8")]).label == "refuted"
    assert checker.check("Q", [step("Let us see.")]).label == "unknown"
