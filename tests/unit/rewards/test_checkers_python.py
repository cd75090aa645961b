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
    assert "ctypes" in sandbox.run(attempts).error  # out of reach, but it would not help:
    result = PythonSandbox(seconds=20, modules=("ctypes",)).run(attempts)
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


# Each of these was, or could be, a way for a program to have a wrong assertion counted as right.
FAKES = {
    "exit code": "import os\nos._exit(80)\nassert 1 == 2",
    "exit code 0": "import os\nos._exit(0)\nassert 1 == 2",
    "leaves before": "raise SystemExit\nassert 1 == 2",
    "leaves quietly": "import sys\nsys.exit(0)\nassert 1 == 2",
    "never reached": "if False:\n    assert 1 == 2",
    "never called": "def check():\n    assert 1 == 2",
    "only in a text": 'x = """\nassert 1 == 1\n"""',
    "writes a verdict": "import os\nfor fd in range(3, 30):\n try: os.write(fd, b'x ok 1')\n"
    " except OSError: pass\nos._exit(0)",
    "looks for the secret": "import sys\nframe = sys._getframe()\nassert frame.f_back.f_locals['secret']",
    "looks by a traceback": "try: 1/0\nexcept Exception as e: f = e.__traceback__.tb_frame.f_back\n"
    "assert f.f_locals['secret']",
    "looks by a generator": "def g():\n    yield it.gi_frame.f_back\nit = g()\nf = next(it)\nassert f",
    "looks by the collector": "import gc\nassert gc.get_objects()",
    "looks by a signal": "import _signal, _thread, os\nfound = []\n"
    "_signal.signal(2, lambda s, f: found.append(f))\n"
    "_thread.interrupt_main(2)\nfor i in range(1000): pass\nf = found[0]\n"
    "while 'secret' not in f.f_locals: f = f.f_back\n"
    "os.write(f.f_locals['channel'], (f.f_locals['secret'] + ' ok 1').encode())\nos._exit(0)",
    "counts by itself": "import builtins\nbuiltins.next = lambda counter: 1",
    "looks by tracing": "import sys\nsys.settrace(lambda *a: None)\nassert 1",
    "looks by memory": "import ctypes\nassert ctypes.string_at(id(1), 8)",
    "reads the task": "import sys\nassert 'secret' in sys.__stdin__.read()",
    "renames exceptions": "import builtins\nbuiltins.AssertionError = KeyError\nassert 1 == 2",
}


@isolated
@pytest.mark.parametrize("name", FAKES)
def test_a_program_cannot_fake_its_verdict(sandbox, name):
    result = PythonChecker(sandbox).check("Q", [step(f"```python\n{FAKES[name]}\n```")])
    assert result.label != "supported", (name, result)


PATCHES = {
    "exec": "import builtins\nbuiltins.exec = lambda *a, **k: None",
    "compile": "import builtins\nold = compile\nbuiltins.compile = lambda s, *a, **k: old('', *a, **k)",
    "leave": "import os\nreal = os._exit\nos._exit = lambda code: real(80)",
    "leaves itself": "import os\nos._exit(80)",
    "a hook": "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None",
    "the parser": "import ast\nast.parse = lambda *a, **k: ast.Module([], [])",
    "a trace": "import sys\nsys.settrace(lambda *a: 1/0)",
    "the streams": "import os\nos.write(1, b'5\\n'); os.write(2, b'fine')",
    "a default": "def add(values, hidden=__import__('builtins').__dict__.update(len=lambda v: 5)): return 5",
    "a class": "class Patch:\n    import builtins\n    builtins.len = lambda v: 5",
    "a decorator": "import builtins\n@lambda c: setattr(builtins, 'len', lambda v: 5)\nclass C: pass",
}


@isolated
@pytest.mark.parametrize("name", PATCHES)
def test_an_earlier_step_cannot_change_the_judge_of_a_later_one(sandbox, name):
    earlier = step(f"```python\n{PATCHES[name]}\n```")
    checker = PythonChecker(sandbox)
    wrong = checker.check("Q", [earlier, step("```python\nassert len([1, 2]) == 5\n```")])
    assert wrong.label == "refuted", (name, wrong)
    right = checker.check("Q", [earlier, step("```python\nprint(len([1, 2]))\n```\n```output\n2\n```")])
    assert right.label == "supported", (name, right)


@isolated
def test_values_functions_and_imports_of_earlier_steps_stay(sandbox):
    earlier = [
        "import math\nfrom fractions import Fraction as F\nx = {'a': [1, (2.5, 'é\\ud83d')], 3: {4}}\n"
        "inf = 1e999",
        "def area(r: float, pi: float = 3) -> float:\n    return pi * r ** 2\nclass Box:\n    sides = 6\n"
        "    def n(self): return self.sides",
        "y = area(2)\nbig = 'a' * 10",
    ]
    program = "print(x['a'][1][0], area(1), y, Box().n(), F(1, 2), math.comb(4, 2), len(big))"
    result = sandbox.run(program, before=earlier)
    assert (result.status, result.output) == ("ok", "2.5 3 12 6 1/2 6 10\n"), result
    assert sandbox.run("print(y)", before=["y = 'a' * 2**21"]).status == "error"  # more than is carried
    assert sandbox.run("f()", before=["def f(): pass", "f = lambda: 1"]).status == "error"
    assert sandbox.run("f()", before=["def f(): pass\nf = lambda: 1"]).status == "error"
    assert sandbox.run("assert y", before=["y = []\nfor _ in range(9**5): y = [y]"]).status == "error"


@isolated
def test_what_was_asserted_is_counted(sandbox):
    result = sandbox.run("for i in range(3):\n    assert i < 2, 'too many'")
    assert (result.status, result.asserted) == ("assertion", 2)
    assert "too many" in result.error


@isolated
def test_someone_else_may_write_the_program(sandbox):
    def write(question, prefix):
        claimed = prefix[-1]["thought"].split()[-1]
        return f"assert {claimed} == 16 - 3 - 4" if claimed.isdigit() else None

    checker = PythonChecker(sandbox, write=write)
    assert checker.check("Q", [step("There are 9")]).label == "supported"
    assert checker.check("Q", [step("There are 8")]).label == "refuted"
    assert checker.check("Q", [step("Let us see.")]).label == "unknown"
