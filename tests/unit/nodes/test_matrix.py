"""The cells of docs/matrix.md."""

import pytest

from tests.unit.nodes.matrix import CELLS, PAGE, SITUATIONS, page


@pytest.mark.parametrize(("row", "kind", "situation"), CELLS)
def test_cell(row, kind, situation):
    SITUATIONS[situation](row, kind)


def test_the_page_says_what_is_tested():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.unit.nodes.matrix"
