"""Programs that use the public API under mypy --strict: the right ones pass, the mistakes are found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = Path(__file__).parent / "samples"
MISTAKES = "mistakes.py"

Error = tuple[str, int, str]


@pytest.fixture(scope="module")
def errors() -> set[Error]:
    """(file, line, code) of every error in the samples; one run of mypy, as that is what takes long."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-pretty",
            "--no-error-summary",
            "--show-error-codes",
            SAMPLES,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert not done.stderr, done.stderr
    assert done.returncode in {0, 1}, done.stdout
    found = set()
    for line in done.stdout.splitlines():
        if " error: " not in line or not line.startswith(str(SAMPLES.relative_to(ROOT))):
            continue  # `make types` looks after the package itself
        match = re.fullmatch(r"(.+?):(\d+): error: .* +\[([\w-]+)\]", line)
        assert match, line
        found.add((Path(match[1]).name, int(match[2]), match[3]))
    return found


def test_correct_programs_type_check(errors: set[Error]) -> None:
    assert sorted(error for error in errors if error[0] != MISTAKES) == []


def test_mistakes_are_found(errors: set[Error]) -> None:
    expected = {
        (MISTAKES, number, match[1])
        for number, line in enumerate((SAMPLES / MISTAKES).read_text(encoding="utf-8").splitlines(), 1)
        if (match := re.search(r"# E: ([\w-]+)$", line))
    }
    assert len(expected) > 10
    assert {error for error in errors if error[0] == MISTAKES} == expected
