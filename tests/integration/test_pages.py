"""The Python of the pages on methods runs as it stands."""

import pytest

from tests.integration.test_readme import ROOT, run


@pytest.mark.parametrize("page", ["cr_planner.md", "memory.md", "refinement.md", "retrieval_control.md"])
async def test_page(page):
    assert await run(ROOT / "docs" / page, {}) >= 1
