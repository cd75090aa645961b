"""Routing among modes, rungs from cheap to dear, and the model as its own retriever."""

import asyncio
import math

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_ladder_graph, create_rag_graph, create_routed_graph
from agentprm.nodes import Answer, Reason, Retrieve, Route
from agentprm.nodes.route import concluded
from agentprm.retrievers import SelfSearch
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel, fake_store

QUESTION = "Where was Brunel born?"
STORE = fake_store(["Brunel was born in Portsmouth."])


def model(mode="agentic"):
    return ScriptedChatModel(
        script={
            "Which mode?": mode,
            "Think the question over": "He was an engineer.\nFinal answer: by thought",
            "Portsmouth (goal reached)": "Final answer: by search",
            "Say what evidence": "Goal: his birth\nSearch: Where was Brunel born?",
            "reached its goal": "Yes",
            "Text:": "Portsmouth",
            "": "at once",
        }
    )


@pytest.mark.parametrize(
    ("mode", "answer", "calls"),
    [("instant", "at once", 2), ("reasoning", "by thought", 2), ("agentic", "by search", 5)],
)
def test_each_mode_goes_its_way(mode, answer, calls):
    graph = create_routed_graph(model(mode), STORE).compile()
    for result in (
        graph.invoke({"question": QUESTION}),
        asyncio.run(graph.ainvoke({"messages": [("user", QUESTION)]})),
    ):
        assert (result["route"], result["answer"]) == (mode, answer)
        assert [m.text for m in result["messages"]] == [QUESTION, answer]
        assert result["prm_usage"]["model_calls"] == calls


@pytest.mark.parametrize("said", ["", "maybe", "instant or agentic?", "<think>instant"])
def test_a_reply_that_names_no_mode_is_asked_once(said):
    asked = ScriptedChatModel(script=lambda text: said)
    assert Route(asked, default="reasoning").invoke({"question": QUESTION})["route"] == (
        "instant" if said.startswith("instant") else "reasoning"
    )
    assert len(asked.prompts) == 1


def test_likelihoods_of_the_names():
    shares = {" instant": 0.2, " reasoning": 0.5, " agentic": 0.3}
    scored = ScriptedLanguageModel({}, likelihood=lambda prompt, word: math.log(shares[word]))
    assert Route(scored).invoke({"question": QUESTION})["route"] == "reasoning"


def test_a_function_routes_and_may_not_invent_modes():
    assert Route(lambda question: "instant").invoke({"question": QUESTION})["route"] == "instant"
    with pytest.raises(InputError, match="none of the modes"):
        Route(lambda question: "magic").invoke({"question": QUESTION})


def test_without_a_call_the_default_is_taken():
    asked = model("instant")
    route = Route(asked, budget={"model_calls": 1})
    assert route.invoke({"question": QUESTION})["route"] == "agentic"
    assert asked.prompts == []


def test_modes_of_ones_own():
    ways = {"a": Answer(model()), "b": Reason(model())}
    graph = create_routed_graph(
        model("b"), STORE, modes=ways, when={"a": "easy", "b": "hard"}, default="a"
    ).compile()
    assert graph.invoke({"question": QUESTION})["answer"] == "by thought"
    with pytest.raises(ConfigurationError, match="same ones"):
        create_routed_graph(model(), STORE, modes=ways)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So.\nFinal answer: 84", "84"),
        ("Final answer: 12\nNo, wait.\n**Final answer:** 84.", "84."),
        ("It is\n84", "84"),
        ("", ""),
        ("...", ""),
    ],
)
def test_the_end_of_a_thought(text, answer):
    assert concluded(text) == answer


def rungs(**answers):
    made = {name: ScriptedChatModel(script={"": said}) for name, said in answers.items()}
    return made, {name: Answer(one, name=name) for name, one in made.items()}


SCORES = {"poor": 0.1, "fair": 0.3, "good": 0.8}


def judge(question, steps):
    return SCORES.get(steps[-1]["thought"])


def test_the_first_good_answer_ends_the_climb():
    models, ladder = rungs(one="poor", two="good", three="good")
    result = create_ladder_graph(ladder, judge).compile().invoke({"question": QUESTION})
    assert (result["answer"], result["rung"], result["score"]) == ("good", "two", 0.8)
    assert [one["rung"] for one in result["prm_rungs"]] == ["one", "two"]
    assert models["three"].prompts == []
    assert [m.text for m in result["messages"]] == [QUESTION, "good"]
    assert result["prm_usage"]["model_calls"] == 2


def test_the_best_answer_stays_where_a_later_rung_is_worse():
    _, ladder = rungs(one="fair", two="poor", three="unknown")
    graph = create_ladder_graph(ladder, judge).compile(checkpointer=InMemorySaver())
    for _ in range(2):  # a second turn begins anew
        result = graph.invoke({"question": QUESTION}, {"configurable": {"thread_id": "1"}})
        assert (result["answer"], result["rung"]) == ("fair", "one")
        assert [one["score"] for one in result["prm_rungs"]] == [0.3, 0.1, None]


def test_a_hard_question_begins_higher():
    models, ladder = rungs(one="good", two="good")
    graph = create_ladder_graph(ladder, judge, start=lambda question: "two").compile()
    assert graph.invoke({"question": QUESTION})["rung"] == "two"
    assert models["one"].prompts == []
    router = ScriptedChatModel(script={"": "two"})
    when = {"one": "one fact", "two": "several facts"}
    graph = create_ladder_graph(ladder, judge, start=router, when=when).compile()
    assert graph.invoke({"question": QUESTION})["rung"] == "two"
    assert "two: several facts" in router.prompts[0]


def test_a_spent_budget_ends_the_climb():
    _, ladder = rungs(one="poor", two="good")
    graph = create_ladder_graph(ladder, judge, budget={"model_calls": 1}).compile()
    assert graph.invoke({"question": QUESTION})["answer"] == "poor"


def test_graphs_are_rungs_and_async_is_the_same():
    _, ladder = rungs(one="poor")
    ladder["rag"] = create_rag_graph(model(), STORE).compile()
    graph = create_ladder_graph(ladder, lambda q, s: float(bool(s[-1]["passages"]))).compile()
    result = asyncio.run(graph.ainvoke({"question": QUESTION}))
    assert (result["answer"], result["rung"]) == ("Portsmouth", "rag")
    assert [d.id for d in result["documents"]] == ["d1"]
    assert result["answer"] == graph.invoke({"question": QUESTION})["answer"]


def test_the_model_as_a_retriever():
    said = ["Brunel was born in Bath.", "Passage: Brunel was born in Portsmouth.", "Nothing."]
    wrote = ScriptedLanguageModel(lambda text: [*said, said[1]])
    found = SelfSearch(wrote, k=4).invoke(QUESTION)
    assert [d.page_content for d in found] == [
        "Brunel was born in Portsmouth.",  # two samples agree
        "Brunel was born in Bath.",
    ]
    assert found[0].metadata["samples"] == 2
    assert all(d.metadata["generated"] for d in found)
    assert asyncio.run(SelfSearch(wrote, k=4).ainvoke(QUESTION)) == found
    update = Retrieve(SelfSearch(wrote), k=2).invoke({"question": QUESTION})
    assert len(update["documents"]) == 2
    assert update["prm_usage"]["model_calls"] == 1
    assert SelfSearch(ScriptedChatModel(script=lambda text: "nothing")).invoke(QUESTION) == []
    with pytest.raises(ConfigurationError):
        SelfSearch(wrote, k=0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Route(3),
        lambda: Route(model(), modes={"one": "always"}),
        lambda: Route(model(), default="magic"),
        lambda: create_ladder_graph({}, judge),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        wrong()
