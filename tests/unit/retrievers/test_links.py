"""What links bring in, what they leave as it was, and where they stay out."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.retrievers import (
    FaissStore,
    FeedbackRetriever,
    HybridRetriever,
    LinkFeedback,
    MentionIndex,
    default_retriever,
)
from agentprm.retrievers.links import Candidates, Names
from agentprm.testing import fake_store

QUESTION = "Where was the director of The Long Way born?"


def doc(name, text, title=None):
    title = name if title is None else title
    return Document(id=name, page_content=f"{title}\n{text}", metadata={"title": title})


FILM = doc("film", "A film whose director is Ana Bohm.", "The Long Way")
ANA = doc("ana", "Ana Bohm, a director, was born in Lund.", "Ana Bohm")
NOISE = [doc(f"n{i}", f"Nothing {i}.", f"Noise {i}") for i in range(200)]


def ids(documents):
    return [d.id for d in documents]


def made(make_embedding, *documents):
    store = FaissStore(make_embedding(size=512))
    store.add_documents([*documents, *NOISE])
    return store


@pytest.mark.parametrize("passages", [1, 2, 5, 10, 100])
def test_passages_of_a_title_are_one_target_whose_best_one_comes_in(make_embedding, passages):
    """However long the articles of the film and the director are: two passages answer the question."""
    chunks = [doc(f"ana{i}", f"Chapter {i}: weather and food.", "Ana Bohm") for i in range(passages - 1)]
    chunks += [doc(f"film{i}", f"Chapter {i}: the music.", "The Long Way") for i in range(passages - 1)]
    store = made(make_embedding, FILM, ANA, *chunks)
    found = FeedbackRetriever(HybridRetriever(store, dense_weight=0), LinkFeedback(), k=2).invoke(QUESTION)
    assert set(ids(found)) == {"film", "ana"}


def test_a_passage_that_has_nothing_of_the_question_leads_nowhere():
    """Even where the best passage has little of it: in a tiny collection all are among the nearest."""
    passages = [
        "The Clifton Bridge was designed by Brunel.",
        "Brunel was born in Portsmouth.",
        "Paris lies on the Seine, and little else is said of it in these few notes of an old journey.",
    ]
    store = fake_store(passages)
    assert 0 < store.similarity_search_with_score("Which river flows through Paris?", k=1)[0][1] < 0.3
    found = default_retriever(store, k=3).invoke("Which river flows through Paris?")
    assert found[0].page_content == passages[2]


def test_titles_of_one_name_stay_several_targets():
    index = MentionIndex.from_documents(
        [
            doc("poet1", "x", "John King (poet)"),
            doc("poet2", "y", "John King (poet)"),
            doc("actor", "z", "John King (actor)"),
        ]
    )
    (mention,) = index.find("a poem by John King")
    assert sorted(map(sorted, mention.targets)) == [["actor"], ["poet1", "poet2"]]
    (mention,) = index.find("a poem by John King (poet)")
    assert mention.targets == (("poet1", "poet2"),)
    again = MentionIndex.from_json(index.to_json())
    assert again.find("a poem by John King") == index.find("a poem by John King")


def test_what_is_not_linked_keeps_the_order_of_the_first_list(make_embedding):
    store = made(make_embedding, FILM, ANA)
    hybrid = HybridRetriever(store, k=100)
    linked = ids(FeedbackRetriever(hybrid, LinkFeedback(), k=100).invoke(QUESTION))
    first = [d.id for d in hybrid.invoke(QUESTION)]
    gained = {"film", "ana"}
    assert [i for i in linked if i not in gained] == [i for i in first if i not in gained][: len(linked) - 2]


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("Ana Bhom", True),
        ("Ana Bohmm", True),
        ("Ana Bom", True),
        ("Ana Bohn", True),
        ("Ana Behn", False),
        ("Anna Bohm", True),
        ("Lud", False),  # too short to be sure
        ("Los Angelos", True),
        ("Zyzzyba", True),
        ("Lumd", True),
        ("Land", False),  # a word of the collection
    ],
)
def test_one_wrong_letter_in_a_name_of_a_question(wrong, right):
    index = MentionIndex.from_documents(
        [
            doc("ana", "On land and sea.", "Ana Bohm"),
            doc("la", "x", "Los Angeles"),
            doc("z", "x", "Zyzzyva"),
            doc("lund", "x", "Lund"),
        ]
    )
    text = f"Where is the home of {wrong}?"
    assert index.find(text) == []
    found = index.find(text, misspelt=True)
    assert len(found) == right
    if found:
        assert found[0].misspelt
        assert text[found[0].start : found[0].end] == wrong


def test_a_misspelt_name_takes_the_place_of_a_shorter_one_within_it():
    index = MentionIndex.from_documents([doc("obama", "x", "Barack Obama"), doc("town", "y", "Obama")])
    (mention,) = index.find("When was Barak Obama born?", misspelt=True)
    assert mention.ids == ("obama",)
    (mention,) = index.find("When was Obama founded?", misspelt=True)
    assert not mention.misspelt


def test_a_misspelt_question_still_finds_both_hops(make_embedding):
    store = made(make_embedding, FILM, doc("ana", "Born in Lund.", "Ana Bohm"))
    found = FeedbackRetriever(store, LinkFeedback(), k=2).invoke("Who directed The Lomg Way?")
    assert ids(found) == ["film", "ana"]


def test_a_passage_that_shares_a_rare_name_gains(make_embedding):
    """No title leads from the singer to the river; the country that both name does."""
    store = made(
        make_embedding,
        doc("singer", "A singer from Zubrowka.", "Ida Finn"),
        doc("river", "It flows through Zubrowka.", "Grand Stream"),
    )
    question = "Which river flows through the country of Ida Finn?"
    hybrid = FeedbackRetriever(HybridRetriever(store), LinkFeedback(), k=2)
    assert set(ids(hybrid.invoke(question))) == {"singer", "river"}
    alone = FeedbackRetriever(store, LinkFeedback(), k=200, depth=250)
    rank = ids(alone.invoke(question)).index("river")
    assert rank < 5 or rank < ids(store.similarity_search(question, k=202)).index("river")


def test_the_default_follows_links_only_where_passages_have_them(make_embedding):
    loose = made(make_embedding, FILM, ANA)  # 1 of 202 passages mentions another
    hybrid = HybridRetriever(loose, k=10)
    assert default_retriever(loose, k=10).invoke(QUESTION) == hybrid.invoke(QUESTION)
    chain = [doc(f"c{i}", f"Next comes Station {i + 1}.", f"Station {i}") for i in range(100)]
    linked = made(make_embedding, FILM, ANA, *chain)
    assert linked.mentions.linked(linked.get_by_ids) > 0.2
    assert set(ids(default_retriever(linked, k=2).invoke(QUESTION))) == {"film", "ana"}
    linked.delete(ids(chain))
    assert linked.mentions.linked(linked.get_by_ids) < 0.1


def test_mistakes():
    for broken in (
        lambda: LinkFeedback(nearest=-1),
        lambda: LinkFeedback(spread=0),
        lambda: LinkFeedback(least_linked=2),
    ):
        with pytest.raises(ConfigurationError):
            broken()


def test_an_empty_store_and_an_empty_question(embedding):
    store = FaissStore(embedding)
    assert default_retriever(store).invoke(QUESTION) == []
    store.add_documents([FILM, ANA])
    assert len(default_retriever(store, k=2).invoke("")) == 2


@pytest.mark.parametrize(
    "text", ["A " * 50_000, "Ana Bohm " * 20_000, "A" * 100_000, "(" * 100_000, "A-" * 50_000]
)
def test_hostile_texts_take_linear_work(make_embedding, text, monkeypatch):
    """Looked-up titles are counted: at most some for each word, whatever the text repeats."""
    index = MentionIndex.from_documents(
        [FILM, ANA, doc("a", "x", "A A A A A A A A"), doc("b", "y", "A-A-A-B")]
    )
    lookups = []
    known = MentionIndex._known
    monkeypatch.setattr(MentionIndex, "_known", lambda self, key: lookups.append(1) or known(self, key))
    index.find(text)
    index.find(text, misspelt=True)
    index.names(text)
    assert len(lookups) <= 10 * (len(text.split()) + text.count("-") + 10)


def test_a_name_of_absurd_length_is_not_sought(make_embedding):
    store = made(
        make_embedding, doc("film", "A" * 50_000, "The Long Way"), doc("ana", "A" * 100_000, "Ana Bohm")
    )
    index = store.mentions
    assert index.names("A" * 50_000)
    names = Names(QUESTION, index, 1.0)
    found = Candidates(store, store.embed_query("q"), None, store.search_vectors(np.ones((1, 512)), 300)[0])
    names.take(found, {"film": 1.0})
    names.reward(found, ["ana"])
    assert "ana" not in found.bonus


def test_a_title_of_many_passages_is_added_in_linear_work():
    index = MentionIndex()
    for i in range(20_000):
        index.add(Document(id=str(i), page_content="text", metadata={"title": "One Book"}))
    assert len(index.find("in One Book")[0].ids) == 20_000
    assert np.isclose(index.linked(lambda wanted: []), 0)


def test_a_name_that_a_text_repeats_is_looked_up_once(make_embedding, monkeypatch):
    """A text that names a book of many passages again and again costs the sum of both, not the product."""
    book = [doc(f"b{i}", "text", "One Book") for i in range(300)]
    index = MentionIndex.from_documents(book)
    looked_up = []
    mention = MentionIndex._mention
    monkeypatch.setattr(
        MentionIndex, "_mention", lambda *args, **kwargs: looked_up.append(1) or mention(*args, **kwargs)
    )
    found = index.find("One Book. " * 5_000)
    assert len(found) == 5_000
    assert len(looked_up) == 1
    assert found[7].start == 70
    assert {id(m.targets) for m in found} == {id(found[0].targets)}
