"""The Python of docs/trace.md runs as it stands."""

import pytest

from agentprm.testing import ScriptedAgentModel
from tests.integration.test_readme import ANSWER, ROOT, names, reply, run

assert names  # the fixture

pytest.importorskip("opentelemetry")


async def test_trace_page(names, capsys):
    import agentprm

    builder = agentprm.create_reasoning_graph(ScriptedAgentModel(replies=reply), names["store"])
    assert (
        await run(ROOT / "docs" / "trace.md", {**names, "builder": builder, "graph": builder.compile()}) >= 4
    )
    assert capsys.readouterr().out.endswith(f"{ANSWER}\n")
