"""ReARTeR's preset: the same tree as its parts by hand, sync, async and resumed."""

import asyncio
import inspect

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_rearter_graph, create_reasoning_graph
from agentprm.search import PAV, TD
from agentprm.testing import FakeReward, ScriptedLanguageModel
from tests.unit.world import QUESTION, likelihood, reply, store


def script(text):
    if text.endswith("Fault:"):
        return " retrieval. Ask for the engineer."
    return " Who planned the bridge?" if "Critique:" in text else reply(text)


def make(create=create_rearter_graph, model=None, **kwargs):
    model = model or ScriptedLanguageModel(script, likelihood=likelihood)
    return create(model, store(), FakeReward(lambda q, p: min(1.0, 0.2 * len(p))), **kwargs)


def tree(result):
    return [{k: v for k, v in s.items() if k != "usage"} for s in result["prm_steps"]]


def test_it_is_the_search_with_the_paper_s_parts():
    found = make().compile().invoke({"question": QUESTION})
    parts = make(create_reasoning_graph, value=TD(), recall=True, threshold="reward")
    assert tree(found) == tree(parts.compile().invoke({"question": QUESTION}))
    steps = found["prm_steps"]
    assert any("refines" in s and s["fault"] == "retrieval" for s in steps)
    assert any(s["query"] and not s["retrieve"] for s in steps)
    assert any("~" in s["id"] for s in steps)
    assert found["answer"]


def test_further_settings_go_through_and_wrong_ones_are_refused():
    assert len(tree(make(max_steps=1).compile().invoke({"question": QUESTION}))) < 8
    with pytest.raises(TypeError):
        make(no_such_setting=1)
    logits = FakeReward()
    logits.space = "logit"
    with pytest.raises(ConfigurationError, match="PAV"):
        create_rearter_graph(ScriptedLanguageModel(script), store(), logits, value=PAV())
    shared = set(inspect.signature(create_rearter_graph).parameters) - {"settings"}
    assert shared <= set(inspect.signature(create_reasoning_graph).parameters)


def test_async_and_resumed_runs_give_the_same_tree_without_repeating_a_call():
    wanted = make().compile().invoke({"question": QUESTION})
    assert tree(asyncio.run(make().compile().ainvoke({"question": QUESTION}))) == tree(wanted)
    model = ScriptedLanguageModel(script, likelihood=likelihood)
    builder = make(model=model)
    graph = builder.compile(
        checkpointer=InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None)),
        interrupt_before=list(builder.nodes),
    )
    config = {"configurable": {"thread_id": "1"}}
    result = graph.invoke({"question": QUESTION}, config)
    while graph.get_state(config).next:
        result = graph.invoke(None, config)
    assert tree(result) == tree(wanted)
    assert len(model.prompts) == wanted["prm_usage"]["model_calls"]
