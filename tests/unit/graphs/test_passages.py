"""How many passages are found, which of them are read, and which a conclusion is given."""

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.nodes import RetrieveSteps, apply_update
from agentprm.rerank.pointwise import CriticReranker
from agentprm.retrievers import FeedbackRetriever, VectorFeedback
from agentprm.state import new_step
from agentprm.testing import FakeReward, ScriptedChatModel, fake_store
from tests.unit.world import QUESTION, language_model, store

NOISE = [f"Brunel was also seen in town number {i}." for i in range(6)]


def best_last(state, query, documents):
    """A reranker that prefers what was found last."""
    return [float(place) for place in range(len(documents))]


def search(query):
    return [Document(text, id=f"n{i}") for i, text in enumerate(NOISE)]


def run(make, retriever, **settings):
    model = ScriptedChatModel(script=lambda text: "Search: Which town?" if "Find out" in text else "Bristol")
    own = {} if make is create_rag_graph else {"reward": FakeReward(), "max_steps": 1}
    graph = make(model, retriever, **own, **settings).compile()
    return graph.invoke({"question": "Which town was Brunel seen in?"}), model


@pytest.mark.parametrize("make", [create_rag_graph, create_reasoning_graph])
def test_a_reranker_changes_what_is_read(make):
    plain, _ = run(make, search, k=1, passages=1)
    ranked, model = run(make, search, reranker=CriticReranker(critic=best_last), passages=1)
    assert "number 0" in plain["documents"][0].page_content
    assert "number 5" in ranked["documents"][0].page_content
    assert any("number 5" in prompt and "number 0" not in prompt for prompt in model.prompts)


def test_a_step_is_given_what_it_reads():
    result, _ = run(
        create_reasoning_graph, search, reranker=CriticReranker(critic=best_last), k=4, passages=2
    )
    (step,) = [s for s in result["prm_steps"] if s["doc_ids"]]
    assert step["doc_ids"] == ["n3", "n2"]


@pytest.mark.parametrize(("settings", "read"), [({}, 1), ({"k": 3}, 3), ({"k": 3, "passages": 2}, 2)])
def test_without_a_reranker_what_is_found_is_read(settings, read):
    result, _ = run(create_reasoning_graph, search, **settings)
    assert [len(s["doc_ids"]) for s in result["prm_steps"] if s["doc_ids"]] == [read]


@pytest.mark.parametrize("make", [create_rag_graph, create_reasoning_graph])
@pytest.mark.parametrize("settings", [{"k": 0}, {"passages": 0}, {"k": 2, "passages": 3}, {"k": "3"}])
def test_numbers_of_passages_are_checked(make, settings):
    with pytest.raises(ConfigurationError, match=r"passages|k must"):
        run(make, search, **settings)


@pytest.mark.parametrize(
    "retriever",
    [
        lambda: store(),
        lambda: store().as_retriever(),
        lambda: FeedbackRetriever(store=store(), method=VectorFeedback(), k=1),
    ],
)
def test_a_conclusion_is_given_passages_that_its_path_has_not_read(retriever):
    first = {
        **new_step("1", None, "Who designed the Clifton Bridge?"),
        "status": "committed",
        "thought": "Brunel",
    }
    node, state = RetrieveSteps(retriever(), k=1), {"question": QUESTION, "prm_steps": [first]}
    first["doc_ids"] = [d.id for d in store().similarity_search(f"{QUESTION} Brunel", 1)]
    state["prm_steps"].append(new_step("1.1", first, QUESTION))
    update = node.invoke(state)
    (given,) = [s["doc_ids"] for s in apply_update(state, update)["prm_steps"] if s["id"] == "1.1"]
    assert len(given) == 1
    assert given != first["doc_ids"]


def test_the_default_retriever_serves_a_faiss_store():
    graph = create_rag_graph(language_model(), fake_store(["Brunel was born in Portsmouth."])).compile()
    assert type(graph.nodes["retrieve"].bound.searcher.retriever).__name__ == "FeedbackRetriever"
