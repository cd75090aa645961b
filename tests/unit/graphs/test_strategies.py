"""Every strategy in the search graph: answers, same trees, budgets, checkpoints, events."""

import asyncio
import itertools

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_reasoning_graph
from agentprm.search import ABMCTS, DVTS, MCTS, PAV, STRATEGIES, TD, Beam, BestOfN
from agentprm.testing import FakeReward, ScriptedLanguageModel
from tests.unit.world import QUESTION, chat_model, good_reward, language_model, likelihood, reply, store

EVERY = {
    **dict.fromkeys(STRATEGIES),
    "uct": MCTS(nodes=12, batch=2),
    "ab-mcts": ABMCTS(nodes=20, batch=2),
    "best-of-n": BestOfN(n=3),
    "dvts": DVTS(subtrees=2, candidates=2),
}
COST = ("seconds", "computed_tokens")


def graph(name, **kwargs):
    kwargs = {"model": language_model(), "reward": good_reward(), "max_steps": 3, **kwargs}
    model, reward = kwargs.pop("model"), kwargs.pop("reward")
    return create_reasoning_graph(model, store(), reward, strategy=EVERY[name] or name, **kwargs)


def tree(result):
    return [
        {**step, "usage": {k: v for k, v in step["usage"].items() if k not in COST}}
        for step in result["prm_steps"]
    ]


@pytest.mark.parametrize("name", EVERY)
def test_answers_and_says_why_it_ended(name):
    result = graph(name).compile().invoke({"question": QUESTION})
    assert result["prm_stop_reason"] == "answered"
    end = [s for s in result["prm_steps"] if s["status"] == "committed"][-1]
    assert result["answer"] == end["final_answer"]
    if name not in ("best-of-n", "majority", "weighted"):  # whose paths are left to chance
        assert result["answer"] == "Portsmouth"
        assert [c["doc_id"] for c in result["citations"]] == ["d1", "d2"]


@pytest.mark.parametrize("name", EVERY)
def test_the_committed_steps_are_one_path(name):
    result = graph(name).compile().invoke({"question": QUESTION})
    path = [s["id"] for s in result["prm_steps"] if s["status"] == "committed"]
    assert all(below.startswith(f"{above}.") for above, below in itertools.pairwise(path))
    assert not [s for s in result["prm_steps"] if s["status"] == "scored"]


@pytest.mark.parametrize(
    ("strategy", "sampled"), [(BestOfN(n=7), 7), (DVTS(subtrees=2, candidates=3), 6), (Beam(width=5), 3)]
)
def test_the_first_steps_are_as_many_as_the_strategy_wants(strategy, sampled):
    built = create_reasoning_graph(
        language_model(), store(), good_reward(), strategy=strategy, max_steps=2, threshold=None
    )
    steps = built.compile().invoke({"question": QUESTION})["prm_steps"]
    assert sum(step.get("samples", 1) for step in steps if step["parent_id"] is None) == sampled


@pytest.mark.parametrize("name", EVERY)
def test_same_seed_same_tree_sync_and_async(name):
    compiled = graph(name).compile()
    one = compiled.invoke({"question": QUESTION})
    other = asyncio.run(graph(name).compile().ainvoke({"question": QUESTION}))
    assert tree(one) == tree(other)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5, 8, 12, 20])
def test_calls_are_never_exceeded_and_there_is_an_end(name, calls):
    result = graph(name, budget={"model_calls": calls}).compile().invoke({"question": QUESTION})
    assert result["prm_usage"]["model_calls"] <= calls
    assert result["prm_stop_reason"] in ("answered", "budget: model_calls")


@pytest.mark.parametrize("name", EVERY)
def test_checkpoints_hold_everything(name):
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    compiled = graph(name).compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    result = compiled.invoke({"question": QUESTION}, config)
    assert tree(compiled.get_state(config).values) == tree(result)
    # The second question of a thread starts afresh.
    assert tree(compiled.invoke({"question": QUESTION}, config)) == tree(result)


@pytest.mark.parametrize("name", EVERY)
def test_noise_ends_without_an_answer(name):
    noise = ScriptedLanguageModel(lambda text: "\x00 ##!! ---", likelihood=likelihood)
    result = graph(name, model=noise).compile().invoke({"question": QUESTION})
    assert result["prm_stop_reason"] == "no candidate"
    assert result["answer"] == ""


@pytest.mark.parametrize("name", EVERY)
def test_a_plain_chat_model_will_do(name):
    result = graph(name, model=chat_model()).compile().invoke({"question": QUESTION})
    assert result["answer"] == "Portsmouth"


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("value", ["td", "td-code", "snell", "pav"])
def test_every_value_function_goes_with_every_strategy(name, value):
    result = graph(name, value=value).compile().invoke({"question": QUESTION})
    assert result["prm_stop_reason"] == "answered"


@pytest.mark.parametrize("name", EVERY)
def test_every_decision_is_an_event(name):
    events = list(graph(name).compile().stream({"question": QUESTION}, stream_mode="custom"))
    kinds = [event["type"] for event in events]
    assert kinds[-2:] == ["agentprm.search_stopped", "agentprm.answered"]
    asked = {i for e in events if e["type"] == "agentprm.steps_selected" for i in e["frontier"]}
    parents = {e["parent_id"] for e in events if e["type"] == "agentprm.step_proposed"} - {None}
    assert parents <= asked


def test_the_space_of_the_reward_is_checked_at_construction():
    class Logits(FakeReward):
        space = "logit"

    with pytest.raises(ConfigurationError, match="logit space"):
        graph("beam", reward=Logits(), value=PAV())
    with pytest.raises(ConfigurationError, match="logit space"):
        graph("beam", reward=Logits(), value=TD.code())
    with pytest.raises(ConfigurationError, match="Did you mean 'snell'"):
        graph("beam", value="snel")
    for value in ("td", "td-code"):
        graph("beam", reward=Logits(lambda q, p: -3.0), value=value).compile().invoke({"question": QUESTION})


def test_the_default_gate_lies_in_the_space_of_the_reward():
    class Logits(FakeReward):
        space = "logit"

    fine = graph("beam", reward=Logits(lambda q, p: 0.2)).compile().invoke({"question": QUESTION})
    assert not [s for s in fine["prm_steps"] if "refines" in s]


def test_pav_leads_the_search_but_does_not_choose_the_answer():
    def score(question, prefix):
        return (
            {"Brunel": 0.1, "the Seine": 0.8}.get(prefix[0]["thought"], 0.5)
            if len(prefix) == 1
            else (0.7 if prefix[0]["thought"] == "Brunel" else 0.75)
        )

    result = (
        graph("beam", reward=FakeReward(score), value=PAV(alpha=5.0), threshold=None)
        .compile()
        .invoke({"question": QUESTION})
    )
    answers = [s for s in result["prm_steps"] if s["final_answer"]]
    end = [s for s in result["prm_steps"] if s["status"] == "committed"][-1]
    assert end["score"] == max(s["score"] for s in answers)
    assert end["value"] < max(s["value"] for s in answers)


def test_weak_candidates_of_every_parent_are_refined():
    asked = []

    def script(text):
        if "You review one step" in text:
            asked.append(text)
            return "Ask about the bridge instead."
        if "Critique:" in text:
            return "Search: Who planned the bridge?"
        return reply(text)

    model = ScriptedLanguageModel(script, likelihood=likelihood)
    reward = FakeReward(lambda q, p: 0.3)
    strategy = Beam(width=2)
    compiled = create_reasoning_graph(model, store(), reward, strategy=strategy, max_steps=2).compile()
    result = compiled.invoke({"question": QUESTION})
    refined = [s for s in result["prm_steps"] if "refines" in s]
    assert len(asked) == len(refined)
    assert {s["parent_id"] for s in refined} == {s["parent_id"] for s in result["prm_steps"]}


def test_duplicates_are_merged_and_counted():
    model = ScriptedLanguageModel(
        lambda text: [" Who is it?", " who is it", " Where is it?"] if text.endswith("Search:") else "It is",
        likelihood=likelihood,
    )
    result = (
        graph("greedy", model=model, max_steps=2, threshold=None).compile().invoke({"question": QUESTION})
    )
    first = [s for s in result["prm_steps"] if s["depth"] == 1]
    assert [(s["query"], s.get("samples", 1)) for s in first] == [("Who is it?", 2), ("Where is it?", 1)]


def test_a_step_that_is_widened_is_sampled_under_another_seed():
    seeds = []

    class Seeded(ScriptedLanguageModel):
        def sample(self, prompts, n=1, params=None):
            if params.temperature:
                seeds.append(params.seed)
            return super().sample(prompts, n, params)

    model = Seeded(reply, likelihood=likelihood)
    graph("ab-mcts", model=model, threshold=None).compile().invoke({"question": QUESTION})
    assert len(set(seeds)) > 1
