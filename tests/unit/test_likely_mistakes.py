"""What people do wrong first: one sentence says what, and what to do instead."""

import sys
from functools import partial
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from agentprm.errors import ConfigurationError, InputError, MissingDependencyError
from agentprm.graphs import (
    create_cr_planner_graph,
    create_glore_graph,
    create_rag_graph,
    create_reasoning_graph,
)
from agentprm.nodes import CompleteSteps, Retrieve
from agentprm.rerank import CrossEncoderReranker, FunctionComparator, PairwiseReranker
from agentprm.retrievers import FaissStore, FeedbackRetriever, load_folder
from agentprm.rewards import Checked, Grounding, VerdictReward, as_trajectory, load_reward
from agentprm.rewards.checkers import ArithmeticChecker
from agentprm.testing import FakeEmbeddings, FakeReward, ScriptedLanguageModel


@pytest.mark.parametrize("name", ["/no/such/folder", "./no_such", "no/such/folder", Path("no/such/folder")])
def test_a_folder_that_is_not_there(name):
    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    from agentprm.engine.tokenizing import load_tokenizer
    from agentprm.lm import TransformersLM

    for load in (
        load_reward,
        TransformersLM,
        load_tokenizer,
        lambda path: PairwiseReranker(model=str(path)),
        lambda path: CrossEncoderReranker(model=str(path)),
    ):
        with pytest.raises(ConfigurationError, match=r"does not exist\. Pass a folder"):
            load(name)


def test_a_file_for_a_folder(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="is no folder"):
        load_reward(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "wrong",
    [
        "1 + 1 = 2",
        ["1 + 1 = 2"],
        as_trajectory("1 + 1 = 2"),  # one trajectory, not a list of them
        [["1 + 1 = 2"]],
    ],
)
def test_texts_for_trajectories(wrong):
    model = ScriptedLanguageModel({}, likelihood=lambda prompt, continuation: -1.0)
    for reward in (Grounding(model), VerdictReward(model), Checked(None, [ArithmeticChecker()])):
        with pytest.raises(InputError, match=r"score\(question, \[as_trajectory\(solution\)\]\)"):
            reward.score("What is 1 + 1?", wrong)


def test_a_checker_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(MissingDependencyError, match=r"sympy is not installed.*agentprm\[formal\]"):
        ArithmeticChecker()


async def test_reranking_nothing_sensible():
    reranker = PairwiseReranker(model=FunctionComparator(lambda query, a, b: 0.7))
    documents = [Document(page_content="a"), Document(page_content="b")]
    for query in ("", "  ", None):
        with pytest.raises(InputError, match="a query that is not empty"):
            reranker.compress_documents(documents, query)
        with pytest.raises(InputError, match="a query that is not empty"):
            await reranker.acompress_documents(documents, query)
    with pytest.raises(InputError, match=r"documents, not str: Document\(page_content=text\)"):
        reranker.compress_documents(["a", "b"], "q")


def test_settings_are_refused_by_the_names_that_the_caller_gave_them():
    model = ScriptedLanguageModel({})
    for create in (create_reasoning_graph, create_glore_graph, create_cr_planner_graph):
        for wrong in (0, -1, 2.5, "3"):
            with pytest.raises(ConfigurationError, match="candidates must be an integer of at least 1, not"):
                create(model, lambda query: [], candidates=wrong)
    with pytest.raises(ConfigurationError, match="max_steps must be an integer of at least 1, not 0"):
        create_reasoning_graph(model, lambda query: [], max_steps=0)
    with pytest.raises(ConfigurationError, match="findings must be an integer of at least 1, not 0"):
        CompleteSteps(model, findings=0)


def test_a_threshold_lies_in_the_space_of_the_reward():
    def build(reward, threshold):
        model = ScriptedLanguageModel({})
        return create_reasoning_graph(model, lambda query: [], reward, threshold=threshold)

    for outside in (5, 50, -0.1):
        with pytest.raises(ConfigurationError, match="one between 0 and 1"):
            build(FakeReward(), outside)
    logits = FakeReward()
    logits.space = "logit"
    build(logits, 5)
    for inside in (0, 1, 0.5, None, "reward"):
        build(FakeReward(), inside)


def test_names_where_objects_belong():
    model = ScriptedLanguageModel({})
    with pytest.raises(ConfigurationError, match=r"default_reader\(\), agentprm.readers.SpanReader"):
        create_reasoning_graph(model, lambda query: [], reader="packaged")
    with pytest.raises(ConfigurationError, match=r"load_reward\(name\)"):
        create_reasoning_graph(model, lambda query: [], "grounding")


@pytest.mark.parametrize("name", ["grounding", "relevance", "self-judgement", "judge", "reader"])
def test_rewards_that_are_made_of_a_model_are_not_looked_for_on_the_hub(name):
    with pytest.raises(ConfigurationError, match=r"is no checkpoint: agentprm.rewards.\w+\(\w+\) makes"):
        load_reward(name)


def test_states_without_a_question():
    graph = create_rag_graph(ScriptedLanguageModel({}), lambda query: []).compile()
    with pytest.raises(InputError, match="under 'question', or a human message under 'messages'"):
        graph.invoke({"query": "Who?"})
    with pytest.raises(InputError, match=r"a mapping such as \{'question': …\}, not str"):
        Retrieve(lambda query: []).invoke("Who?")


def test_a_retriever_that_does_not_take_a_query():
    with pytest.raises(ConfigurationError, match="with one argument, the query, which it does not take"):
        create_rag_graph(ScriptedLanguageModel({}), lambda: [])


def test_feedback_over_a_store_without_titles():
    store = InMemoryVectorStore.from_texts(["a"], FakeEmbeddings())
    with pytest.raises(ConfigurationError, match=r"InMemoryVectorStore keeps no titles.*into a FaissStore"):
        FeedbackRetriever(store)


def test_an_index_among_its_documents(tmp_path):
    (tmp_path / "a.txt").write_text("Brunel was born in Portsmouth.")
    load = partial(load_folder, tmp_path)
    FaissStore.from_documents(load().documents, FakeEmbeddings()).save(tmp_path / "index")
    again = load()
    assert [document.id for document in again.documents] == ["a.txt#0"]
    assert [(source, "an index" in reason) for source, reason in again.skipped] == [("index", True)]
    with pytest.raises(InputError, match="is an index: give the folder of the documents"):
        load_folder(tmp_path / "index")
    FaissStore.from_documents(load().documents, FakeEmbeddings()).save(tmp_path)  # among them, not beside
    assert [document.id for document in load().documents] == ["a.txt#0"]
