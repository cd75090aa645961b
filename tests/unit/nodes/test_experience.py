"""Experience across questions: what is kept, what is recalled, in which order, and what of it is shown."""

import asyncio
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_evidence_graph, create_goal_graph
from agentprm.nodes import (
    CommitExperience,
    PlanQueries,
    ProposeSteps,
    RecallExperience,
    publish_experience,
)
from agentprm.rounds import new_round
from agentprm.state import ReasoningState
from agentprm.testing import FakeEmbeddings, ScriptedChatModel
from tests.unit.graphs.test_gathering import QUESTION, Solver, search


def rounds(*pairs):
    made: list[Any] = []
    for goal, finding in pairs:
        made.append({**new_round(made, [f"{goal}?"], goal), "note": finding, "kept": True})
    return made


FILM = {
    "question": "Who is the mother of the director of Lost River?",
    "answer": "Donna",
    "score": 0.9,
    "prm_rounds": rounds(("director of Lost River", "Ryan Gosling"), ("mother of Gosling", "Donna")),
}
BOOK = {
    "question": "Who is the father of the author of Emma?",
    "answer": "Mr Bennet",
    "score": 0.1,
    "prm_rounds": rounds(
        ("author of Emma", "Jane Austen"), ("father of Austen", "George"), ("his calling", "rector")
    ),
}
RIVER = {"question": "Which river is longer?", "answer": "the Severn"}


def filled(*states, **settings):
    store = settings.pop("store", None) or InMemoryStore()
    for state in states or (FILM, BOOK, RIVER):
        CommitExperience(store=store, **settings).invoke(state)
    return store


def recalled(store, question, model=None, state=(), **settings):
    node = RecallExperience(model, store=store, **settings)
    return node.invoke({"question": question, **dict(state)})["examples"]


def test_the_most_similar_episode_comes_first_with_its_outcome():
    examples = recalled(filled(), "Who is the father of the author of Dracula?", k=2)
    first, second = examples.split("\n\n")
    assert first == (
        "Example (wrong, do better): Who is the father of the author of Emma?\n"
        "Search: author of Emma? Found: Jane Austen\n"
        "Search: father of Austen? Found: George\n"
        "Search: his calling? Found: rector\n"
        "Final answer: Mr Bennet"
    )
    assert second.startswith("Example (right): Who is the mother")
    assert "Severn" not in examples
    only = recalled(filled(), "Who is the father of the author of Dracula?", k=1, failed=False)
    assert only == second


def test_a_store_with_an_index_ranks_by_it():
    embeddings = FakeEmbeddings()
    store = InMemoryStore(index={"embed": embeddings, "dims": embeddings.dimension, "fields": ["key"]})
    filled(store=store)
    assert recalled(store, "Which river is longer, Thames or Severn?", k=1).startswith(
        "Example: Which river is longer?"
    )
    assert recalled(store, "Who is the mother of the author of Emma?", k=1).splitlines()[0].endswith("Emma?")


def test_steps_are_recalled_by_thought_with_those_after_them():
    model = ScriptedChatModel(script=lambda text: "I need the author of Emma")
    examples = recalled(filled(), "Where was the author of Emma born?", model, by="thought", k=1)
    assert examples == (
        "Example (wrong, do better): Who is the father of the author of Emma?\n"
        "[0] Search: author of Emma? Found: Jane Austen\n"
        "[1] Search: father of Austen? Found: George\n"
        "[2] Search: his calling? Found: rector"
    )
    (prompt,) = model.prompts
    assert "Example (wrong" in prompt  # whole episodes lead to the thought
    assert "(nothing yet)" in prompt
    model = ScriptedChatModel(script=lambda text: "the father of Austen")
    settings: Any = {"by": "thought", "k": 1, "before": 1, "after": 0}
    examples = recalled(filled(), "x", model, {"prm_rounds": rounds(("author", "Austen"))}, **settings)
    assert [line[:4] for line in examples.splitlines()[1:]] == ["[-1]", "[0] "]
    assert "author? Austen" in model.prompts[0]


def test_steps_come_from_different_episodes():
    model = ScriptedChatModel(script=lambda text: "author, father, director of Emma")
    examples = recalled(filled(), "x", model, by="thought", k=3)
    assert examples.count("Example") == 2


def test_nothing_similar_is_no_example():
    assert recalled(filled(), "Zzz") == ""
    assert recalled(InMemoryStore(), "Who?") == ""


def test_the_question_itself_can_be_left_out():
    question = FILM["question"].upper()
    assert "Lost River" in recalled(filled(FILM), question)
    assert recalled(filled(FILM), question, same_question=False) == ""


def test_an_episode_is_kept_once_and_one_without_an_answer_never():
    store = filled(FILM, FILM, {**FILM, "answer": " "})
    assert len(store.search(("experience", "episodes"))) == 1
    assert len(store.search(("experience", "steps"))) == 2
    assert store.search(("experience", "episodes"))[0].value["done"] is True


def test_questions_of_a_round_do_not_learn_from_one_another():
    store = filled(FILM, BOOK, hold=True)
    assert recalled(store, FILM["question"]) == ""
    assert publish_experience(store) == 2
    assert "Donna" in recalled(store, FILM["question"])
    assert publish_experience(store) == 0


def test_the_outcome_is_what_a_function_says():
    store = filled(RIVER, outcome=lambda state: state["answer"] == "the Severn")
    assert "(right)" in recalled(store, RIVER["question"])
    assert "(" not in recalled(filled(RIVER), RIVER["question"])


def test_namespaces_keep_apart():
    store = filled(FILM, namespace=("a", "b"))
    assert recalled(store, FILM["question"]) == ""
    assert "Donna" in recalled(store, FILM["question"], namespace=("a", "b"))


def test_async_is_the_same():
    async def run():
        store = InMemoryStore()
        await CommitExperience(store=store).ainvoke(FILM)
        model = ScriptedChatModel(script=lambda text: "director of Lost River")
        node = RecallExperience(model, by="thought", store=store)
        return (await node.ainvoke({"question": "x"}))["examples"]

    model = ScriptedChatModel(script=lambda text: "director of Lost River")
    assert asyncio.run(run()) == recalled(filled(FILM), "x", model, by="thought") != ""


def test_nodes_that_plan_show_examples_in_that_prompt_alone():
    for make in (lambda m: ProposeSteps(m), lambda m: PlanQueries(m)):
        model = ScriptedChatModel(script=lambda text: "Search: Who?")
        started = {"prm_rounds": rounds(("a", "b"))} if "Plan" in type(make(model)).__name__ else {}
        node = make(model)
        node.invoke({"question": "Where?", "examples": "Example: <think>x", "prm_frontier": [], **started})
        prompt = model.prompts[0]
        assert prompt.rpartition("Example: ")[2].startswith("< think>x\n\nQuestion: Where?")


@pytest.mark.parametrize("create", [create_goal_graph, create_evidence_graph])
def test_a_graph_learns_from_question_to_question(create):
    solver, store = Solver(), InMemoryStore()
    model = ScriptedChatModel(script=solver)
    graph = create(model, search, experience=True).compile(store=store)
    graph.invoke({"question": QUESTION})
    assert all("Example:" not in prompt for prompt in model.prompts)
    (episode,) = store.search(("experience", "episodes"))
    assert episode.value["episode"]["answer"] == "Portsmouth"
    assert len(episode.value["episode"]["steps"]) == 2
    events = list(graph.stream({"question": QUESTION}, stream_mode="custom"))
    assert [e["ids"] for e in events if e["type"] == "agentprm.experience_recalled"] == [[episode.key]]
    assert any("Example: Where was the engineer" in prompt for prompt in model.prompts)


def test_the_store_of_the_graph_is_used_and_missed():
    builder = StateGraph(ReasoningState)
    builder.add_node("recall", RecallExperience())
    builder.add_edge(START, "recall")
    assert "Donna" in builder.compile(store=filled(FILM)).invoke({"question": FILM["question"]})["examples"]
    with pytest.raises(ConfigurationError, match="compile"):
        builder.compile().invoke({"question": "Who?"})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RecallExperience(by="thought"),
        lambda: RecallExperience(by="goal"),
        lambda: RecallExperience(after=-1),
        lambda: RecallExperience(store={}),
        lambda: RecallExperience(namespace="experience"),
        lambda: CommitExperience(outcome="score"),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


def test_equal_texts_of_an_episode_are_kept_in_a_store_with_an_index():
    embeddings = FakeEmbeddings()
    store = InMemoryStore(index={"embed": embeddings, "dims": embeddings.dimension, "fields": ["key"]})
    twice = rounds(("his town", "Bath"), ("his town", "Bath"))
    filled({"question": "which one?", "answer": "Bath", "prm_rounds": twice}, store=store)
    assert recalled(store, "which one?").count("Search: his town?") == 2
    assert len(store.search(("experience", "steps"))) == 2
