"""A tree of summaries: how it is built, in which order it is read, when that is enough."""

import asyncio
from itertools import pairwise

import pytest

from agentprm.errors import ConfigurationError, InputError
from agentprm.graphs import create_summary_graph
from agentprm.nodes import JudgeFacts
from agentprm.retrievers import SummaryTree
from agentprm.testing import FakeEmbeddings, ScriptedChatModel

TEXTS = [
    "Brunel designed the Clifton Bridge.",
    "Brunel was born in Portsmouth.",
    "Paris lies on the Seine.",
    "Rome lies on the Tiber.",
    "Austen wrote Emma.",
]
QUESTION = "Where was Brunel born?"


def summary(text):
    passages = text.rpartition("only.\n")[2]
    names = [name for name in ("Brunel", "Paris", "Rome", "Austen") if name in passages]
    return f"About {' and '.join(names)}."


def tree():
    return SummaryTree.from_documents(TEXTS, ScriptedChatModel(script=summary), width=2)


def names(built):
    """Short names of nodes: the numbers of documents, and the ids of summaries."""
    return {node["id"]: node["text"] for node in built.nodes.values()}


def test_neighbours_are_summed_up_until_a_few_are_left():
    built = tree()
    texts = names(built)
    assert [texts[root] for root in built.roots] == ["About Brunel and Paris and Rome.", "About Austen."]
    below = [[texts[c] for c in built.nodes[root]["children"]] for root in built.roots]
    assert below == [["About Brunel.", "About Paris and Rome."], ["About Austen."]]
    assert len(built) == 5 + 3 + 2
    assert {node["level"] for node in built.nodes.values()} == {0, 1, 2}


def test_few_documents_need_no_summary():
    model = ScriptedChatModel(script={})
    built = SummaryTree.from_documents(TEXTS[:2], model, width=2)
    assert (len(built.roots), model.prompts) == (2, [])


def test_without_a_summary_the_beginnings_stand():
    built = SummaryTree.from_documents(TEXTS[:3], ScriptedChatModel(script=lambda text: ""), width=2)
    assert built.nodes[built.roots[0]]["text"] == f"{TEXTS[0]} {TEXTS[1]}"


def read(patience=1, likes="Portsmouth", **settings):
    model = ScriptedChatModel(
        script=lambda text: ("Yes" if likes in text else "No") if "are enough" in text else "Portsmouth"
    )
    built = tree()
    graph = create_summary_graph(model, built, FakeEmbeddings(), patience=patience, **settings).compile()
    return graph, model, names(built)


def test_the_most_promising_part_is_read_next_and_nothing_is_reordered():
    graph, model, texts = read()
    result = graph.invoke({"question": QUESTION})
    visited = [[texts[i] for i in one["doc_ids"]] for one in result["prm_rounds"]]
    assert visited[0] == ["About Brunel and Paris and Rome.", "About Austen."]
    assert visited[1:] == [["About Brunel."], ["Brunel was born in Portsmouth."]]
    assert (result["answer"], result["prm_stop_reason"]) == ("Portsmouth", "sufficient")
    assert [c["text"] for c in result["citations"]] == ["Brunel was born in Portsmouth."]
    known = [p.rpartition("Known facts:\n")[2].partition("\n\nQuestion")[0] for p in model.prompts[:-1]]
    assert all(later.startswith(earlier) for earlier, later in pairwise(known))
    again = asyncio.run(graph.ainvoke({"question": QUESTION}))
    assert again["prm_rounds"] == result["prm_rounds"]


def test_patience_waits_for_a_second_yes():
    graph, _, texts = read(patience=2)
    rounds = graph.invoke({"question": QUESTION})["prm_rounds"]
    assert [one["score"] for one in rounds] == [0.0, 0.0, 1.0, 1.0]
    assert texts[rounds[-1]["doc_ids"][0]] == "Brunel designed the Clifton Bridge."


def test_the_whole_tree_is_read_once_at_most():
    graph, _, texts = read(likes="nowhere", max_rounds=50)
    result = graph.invoke({"question": QUESTION}, {"recursion_limit": 100})
    seen = [i for one in result["prm_rounds"] for i in one["doc_ids"]]
    assert sorted(seen) == sorted(texts)
    assert result["prm_stop_reason"] == "all read"
    assert len(graph.invoke({"question": QUESTION}, context={"max_rounds": 2})["prm_rounds"]) == 2


def test_trees_are_saved_and_checked(tmp_path):
    built = tree()
    built.save(tmp_path / "tree.json")
    assert SummaryTree.load(tmp_path / "tree.json").nodes == built.nodes
    (tmp_path / "wrong.json").write_text('[{"id": "a"}]')
    for name in ("wrong.json", "missing.json"):
        with pytest.raises(InputError):
            SummaryTree.load(tmp_path / name)
    with pytest.raises(InputError, match="no node"):
        SummaryTree([{"id": "a", "text": "", "title": "", "level": 1, "children": ["b"]}])
    with pytest.raises(ConfigurationError):
        SummaryTree.from_documents(TEXTS, ScriptedChatModel(script={}), width=1)
    with pytest.raises(ConfigurationError):
        JudgeFacts(lambda question, facts: True, patience=0)
