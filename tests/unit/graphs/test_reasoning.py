"""The search graph: right answers, independent candidates, stops, budgets, refinement, resumption."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agentprm.budget import SearchBudget
from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.lm import Capabilities
from agentprm.retrievers import FeedbackRetriever
from agentprm.search import TD, Plain, Snell
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel
from agentprm.trace import trace_of
from tests.unit.world import QUESTION, chat_model, good_reward, language_model, likelihood, store

COST = ("seconds", "computed_tokens")


def tree(result):
    """The search tree without what may differ between equal runs."""
    return [
        {**step, "usage": {k: v for k, v in step["usage"].items() if k not in COST}}
        for step in result["prm_steps"]
    ]


def run(model=None, reward=None, **kwargs):
    kwargs.setdefault("value", TD())
    graph = create_reasoning_graph(
        model or language_model(), store(), reward or good_reward(), **kwargs
    ).compile()
    return graph.invoke({"question": QUESTION})


def test_answers_with_citations_and_cost():
    result = run()
    assert result["answer"] == "Portsmouth"
    assert [c["doc_id"] for c in result["citations"]] == ["d1", "d2"]
    assert result["prm_stop_reason"] == "answered"
    assert result["messages"][-1].text == "Portsmouth"
    usage = result["prm_usage"]
    assert usage["model_calls"] > 0
    assert usage["retrievals"] > 0
    assert usage["reward_calls"] > 0
    committed = [s for s in result["prm_steps"] if s["status"] == "committed"]
    assert (committed[0]["thought"], committed[-1]["thought"]) == ("Brunel", "Portsmouth")


def test_async_gives_the_same_tree():
    graph = create_reasoning_graph(language_model(), store(), good_reward(), value=TD()).compile()
    assert tree(asyncio.run(graph.ainvoke({"question": QUESTION}))) == tree(run())


def test_same_seed_same_tree():
    assert tree(run()) == tree(run())


def test_a_plain_chat_model_will_do():
    result = run(model=chat_model(), value=Plain())
    assert result["answer"] == "Portsmouth"
    assert result["prm_stop_reason"] == "answered"


def test_candidates_do_not_share_text():
    result = run(value=Plain())
    first = [s for s in result["prm_steps"] if s["depth"] == 1 and s["status"] != "unparsed"]
    assert [s["query"] for s in first] == [
        "Who designed the Clifton Bridge?",
        "Which river flows through Paris?",
    ]
    assert [s["thought"] for s in first] == ["Brunel", "the Seine"]


def test_unparsed_proposals_are_a_status_and_never_the_end():
    result = run(value=Plain())
    unparsed = [s for s in result["prm_steps"] if s["status"] == "unparsed"]
    assert unparsed
    assert all(s["score"] is None and s["final_answer"] is None for s in unparsed)


def test_no_committed_step_is_empty_and_a_step_may_begin_with_doc():
    reward = FakeReward(lambda question, prefix: 0.9)
    model = ScriptedLanguageModel(
        lambda text: [" Who?"] if text.endswith("Search:") else "Doctor Document # 1", likelihood=likelihood
    )
    result = run(model=model, reward=reward, value=Plain(), threshold=None)
    committed = [s for s in result["prm_steps"] if s["status"] == "committed"]
    assert committed
    assert all(s["thought"] == "Doctor Document # 1" for s in committed)


def test_noise_gives_no_candidate_and_no_exception():
    result = run(model=ScriptedLanguageModel(lambda text: "\x00\u202e ##!! ---", likelihood=likelihood))
    assert result["prm_stop_reason"] == "no candidate"
    assert result["answer"] == ""


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_any_output_ends_in_an_answer(texts):
    model = ScriptedLanguageModel(lambda text: texts, likelihood=likelihood)
    result = run(model=model, value=Plain(), max_steps=3)
    assert isinstance(result["answer"], str)
    assert result["prm_stop_reason"]


def test_a_passage_cannot_finish_the_search():
    result = run(reward=FakeReward(lambda q, p: 0.9 if p[-1]["thought"] == "the Seine" else 0.1))
    assert result["answer"] != "42"
    assert all("gold" not in s["query"] for s in result["prm_steps"])


def test_a_finding_that_looks_like_a_conclusion_stays_a_finding():
    model = ScriptedLanguageModel(
        lambda text: [" Who is it?"] if text.endswith("Search:") else "It says Final answer: 42",
        likelihood=likelihood,
    )
    result = run(model=model, value=Plain(), threshold=None)
    first = next(s for s in result["prm_steps"] if s["id"] == "1")
    assert first["final_answer"] is None


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5, 8, 12])
def test_calls_are_never_exceeded(calls):
    result = run(budget=SearchBudget(model_calls=calls))
    assert result["prm_usage"]["model_calls"] <= calls
    assert isinstance(result["answer"], str)
    if calls < 3:
        assert result["prm_stop_reason"] == "budget: model_calls"


@pytest.mark.parametrize(
    "budget", [SearchBudget(tokens=0), SearchBudget(retrievals=0), SearchBudget(deadline_s=0)]
)
def test_a_budget_of_zero_ends_at_once(budget):
    result = run(budget=budget)
    assert result["prm_stop_reason"].startswith("budget: ")
    assert result["prm_usage"]["retrievals"] == 0


def test_the_context_overrides_the_constructor():
    graph = create_reasoning_graph(language_model(), store(), good_reward()).compile()
    result = graph.invoke({"question": QUESTION}, context={"budget": SearchBudget(model_calls=0), "n": 1})
    assert result["prm_stop_reason"] == "budget: model_calls"


def test_max_steps_ends_in_a_conclusion():
    result = run(max_steps=1, threshold=None)
    committed = [s for s in result["prm_steps"] if s["status"] == "committed"]
    assert len(committed) == 1
    assert result["prm_stop_reason"] == "answered"


def test_look_ahead_stops_inside_the_loop_and_so_saves_calls():
    falling = FakeReward(lambda question, prefix: 1.0 / len(prefix))
    rising = FakeReward(lambda question, prefix: 1 - 1.0 / (1 + len(prefix)))
    costs = {
        name: run(reward=reward, value=TD(beta=0.05, horizon=2), threshold=None)["prm_usage"]["model_calls"]
        for name, reward in (("falling", falling), ("rising", rising))
    }
    assert costs["falling"] < costs["rising"]
    plain = run(reward=falling, value=Plain(), threshold=None)["prm_usage"]["model_calls"]
    assert plain < costs["falling"]


@pytest.mark.parametrize("value", [TD(), Snell(horizon=2)])
def test_look_ahead_values_follow_from_the_simulated_scores(value):
    result = run(value=value, threshold=None)
    steps = {s["id"]: s for s in result["prm_steps"]}
    checked = 0
    for step in steps.values():
        if "~" in step["id"] or step["score"] is None:
            continue
        scores, leaf = [step["score"]], step["id"]
        while child := next(
            (
                s
                for s in steps.values()
                if s["parent_id"] == leaf and "~" in s["id"] and s["score"] is not None
            ),
            None,
        ):
            scores.append(child["score"])
            leaf = child["id"]
        assert step["value"] == pytest.approx(value.value(scores))
        checked += len(scores) > 1
    assert checked


def refining_model(action):
    from tests.unit.world import reply

    def script(text):
        if "You review one step" in text:
            return "Ask about the bridge instead."
        if "Critique:" in text:
            return action
        return reply(text)

    return ScriptedLanguageModel(script, likelihood=likelihood)


@pytest.mark.parametrize(
    ("accept", "better", "taken"),
    [("if_better", True, True), ("if_better", False, False), ("always", False, True)],
)
def test_a_refinement_is_taken_as_the_policy_says(accept, better, taken):
    def score(question, prefix):
        if prefix[-1]["query"] == "Who planned the bridge that was designed?":
            return 0.9 if better else 0.1
        return 0.3

    result = run(
        model=refining_model("Search: Who planned the bridge that was designed?"),
        reward=FakeReward(score),
        value=Plain(),
        accept=accept,
        max_steps=2,
        min_steps=1,
    )
    refined = next(s for s in result["prm_steps"] if s.get("refines") == "1")
    assert refined["critique"] == "Ask about the bridge instead."
    assert (refined["status"] == "committed") is taken


def test_a_refiner_that_talks_rubbish_never_finishes_the_search():
    model = refining_model('{"action": 3')
    model.capabilities = Capabilities(loglikelihood=True)
    result = run(model=model, reward=FakeReward(lambda q, p: 0.3), value=Plain(), max_steps=2)
    refined = [s for s in result["prm_steps"] if "refines" in s]
    assert len(refined) == len({s["depth"] for s in refined})  # once a depth, not for ever
    assert all(s["status"] == "unparsed" and s["final_answer"] is None for s in refined)


def test_a_refinement_that_repeats_an_ancestor_is_not_taken():
    result = run(
        model=refining_model("Search: Who designed the Clifton Bridge?"),
        reward=FakeReward(lambda q, p: 0.4),
        value=Plain(),
        max_steps=3,
    )
    queries = [s["query"] for s in result["prm_steps"] if s["status"] == "committed"]
    assert len(queries) == len(set(queries))


def test_a_reward_that_returns_too_few_scores_is_named():
    class Broken(FakeReward):
        def score(self, question, trajectories):
            return [[] for _ in trajectories]

    with pytest.raises(ConfigurationError, match="exactly one score per step"):
        run(reward=Broken())


@pytest.mark.parametrize("state", [{"question": ""}, {"question": "   "}, {"messages": []}])
def test_an_empty_question_is_refused(state):
    for graph in (
        create_reasoning_graph(language_model(), store()).compile(),
        create_rag_graph(chat_model(), store()).compile(),
    ):
        with pytest.raises(InputError):
            graph.invoke(state)


def test_a_conversation_on_one_thread_starts_each_search_afresh():
    graph = create_reasoning_graph(language_model(), store(), good_reward()).compile(
        checkpointer=InMemorySaver()
    )
    config = {"configurable": {"thread_id": "1"}}
    first = graph.invoke({"messages": [("user", QUESTION)]}, config)
    again = graph.invoke({"messages": [("user", QUESTION)]}, config)
    assert tree(first) == tree(again)
    assert first["prm_usage"]["model_calls"] == again["prm_usage"]["model_calls"]
    assert [m.type for m in again["messages"]] == ["human", "ai", "human", "ai"]
    third = graph.invoke({"question": QUESTION}, config)
    assert [m.type for m in third["messages"]] == ["human", "ai"] * 3


def test_checkpoints_survive_strict_serialisation_at_every_step():
    saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
    graph = create_reasoning_graph(language_model(), store(), good_reward()).compile(checkpointer=saver)
    config = {"configurable": {"thread_id": "1"}}
    result = graph.invoke({"question": QUESTION}, config)
    state = graph.get_state(config).values
    assert tree(state) == tree(result)
    for document in state["prm_documents"]:
        assert type(document).__name__ == "Document"


def test_half_a_surrogate_from_a_model_kills_no_run():
    noisy = {
        "lm": ScriptedLanguageModel(lambda text: ["Who is\ud83d it?", "\ud83d"], likelihood=likelihood),
        "chat": ScriptedChatModel(script=lambda text: "Search: who\ud83d is it?"),
    }
    for model in noisy.values():
        saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        graph = create_reasoning_graph(model, store(), good_reward(), max_steps=2).compile(checkpointer=saver)
        result = graph.invoke({"question": QUESTION}, {"configurable": {"thread_id": "1"}})
        assert result["prm_steps"]
        json.dumps(trace_of(result), ensure_ascii=False).encode()


def test_numbers_of_numpy_and_torch_never_reach_the_state():
    np = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    for number in (np.float32(0.75), np.float64(0.75), torch.tensor(0.75)):

        class Raw(FakeReward):
            value = number

            def score(self, question, trajectories):
                return [[self.value] * len(t) for t in trajectories]

        saver = InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        graph = create_reasoning_graph(language_model(), store(), Raw()).compile(checkpointer=saver)
        result = graph.invoke({"question": QUESTION}, {"configurable": {"thread_id": "1"}})
        assert all(type(s["score"]) in (float, type(None)) for s in result["prm_steps"])


def test_streams_search_events():
    graph = create_reasoning_graph(language_model(), store(), good_reward()).compile()
    events = list(graph.stream({"question": QUESTION}, stream_mode="custom"))
    kinds = [event["type"] for event in events]
    assert kinds[0] == "agentprm.step_proposed"
    assert kinds[-2:] == ["agentprm.search_stopped", "agentprm.answered"]
    assert {"agentprm.documents_retrieved", "agentprm.step_scored", "agentprm.step_committed"} <= set(kinds)


def test_draws_offline():
    text = create_reasoning_graph(language_model(), store(), good_reward(), value=TD()).compile().get_graph()
    mermaid = text.draw_mermaid()
    for name in ("propose", "retrieve", "complete", "score", "look_ahead", "select", "refine", "answer"):
        assert name in mermaid


def test_rag_answers_and_cites():
    model = ScriptedChatModel(script={"Portsmouth": "Portsmouth"})
    graph = create_rag_graph(model, store(), k=2).compile()
    result = graph.invoke({"question": "Where was Brunel born?"})
    assert result["answer"] == "Portsmouth"
    assert [c["doc_id"] for c in result["citations"]] == ["d2"]
    assert len(result["documents"]) == 2


def test_feedback_and_reranking_fit_into_both_graphs():
    index = FeedbackRetriever(store(), k=3)
    rag = create_rag_graph(language_model(), index, k=3, reranker=language_model()).compile()
    assert "rerank" in rag.invoke({"question": "Where was Brunel born?"})["documents"][0].metadata
    graph = create_reasoning_graph(
        language_model(), index, good_reward(), reranker=language_model()
    ).compile()
    result = graph.invoke({"question": QUESTION})
    assert result["prm_stop_reason"] == "answered"
    assert any(s["doc_ids"] for s in result["prm_steps"] if s["status"] == "committed")
