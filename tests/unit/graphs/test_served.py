"""The graphs that `langgraph dev` serves."""

import asyncio
import json
from pathlib import Path

import pytest

from agentprm.graphs import qa
from agentprm.testing import ScriptedLanguageModel, ScriptedReader, fake_store

SERVED = json.loads((Path(__file__).parents[3] / "langgraph.json").read_text(encoding="utf-8"))["graphs"]


@pytest.mark.parametrize("name", SERVED)
def test_a_served_graph_answers(name, monkeypatch):
    monkeypatch.setattr(qa, "_model", lambda: ScriptedLanguageModel({"": "Portsmouth"}))
    monkeypatch.setattr(qa, "_store", lambda: fake_store(["Brunel was born in Portsmouth."]))
    monkeypatch.setattr(qa, "_reader", lambda: ScriptedReader({"born": {"Portsmouth": 0.9}}))
    qa._graph.cache_clear()
    module, _, function = SERVED[name]["path"].partition(":")
    assert module == qa.__name__
    graph = asyncio.run(getattr(qa, function)())
    qa._graph.cache_clear()
    assert graph.name == name
    result = asyncio.run(graph.ainvoke({"question": "Where was Brunel born?"}))
    assert "Portsmouth" in result["answer"]
