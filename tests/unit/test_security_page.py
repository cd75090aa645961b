"""`docs/security.md` names the test that holds each promise; each of them must exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def promised():
    """Test names of the page as (file, test); `::name` alone stands in the file named last."""
    file = None
    for name in re.findall(r"`((?:tests/[\w/]+\.py)?::\w+)`", (ROOT / "docs/security.md").read_text()):
        path, test = name.split("::")
        file = path or file
        yield file, test


def test_the_page_names_tests():
    assert len(list(promised())) > 30


@pytest.mark.parametrize(("file", "test"), sorted(set(promised())))
def test_each_promise_has_its_test(file, test):
    assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
