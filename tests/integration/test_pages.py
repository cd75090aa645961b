"""The Python of the pages on retrieval control and memory runs as it stands."""

import pytest

from tests.integration.test_readme import ROOT, run


@pytest.mark.parametrize("page", ["memory.md", "retrieval_control.md"])
async def test_page(page):
    assert await run(ROOT / "docs" / page, {}) >= 1
