"""Names of what an untitled passage is about."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from agentprm.retrievers import FaissStore, FeedbackRetriever, LinkFeedback, MentionIndex
from agentprm.retrievers.leads import lead_names
from agentprm.retrievers.mentions import title_names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Ann Lee Fox (born 1950), known as Annie Fox, is a judge.", {"Ann Lee Fox", "Ann Fox", "Annie Fox"}),
        ("Ann Lee Fox( 1 May 1900 - 2 May 1950) was a judge.", {"Ann Lee Fox", "Ann Fox"}),
        ("The Long Way is a 1948 film directed by Bo Berg.", {"The Long Way", "Long Way"}),
        ('"On My Mind" is a song by Ann Fox.', {"On My Mind"}),
        ("End of Days is a 1999 film.", {"End of Days"}),
        ('Henry Hardin "Zipp" Newman (May 24, 1894) was a writer.', {"Zipp"}),
        ("Otto IV, Count of Lund( died 1300) was a count.", {"Otto IV", "Otto IV, Count of Lund"}),
        ("Aleks Wein (born 1985), better known by his stage name Laku, is a rapper.", {"Aleks Wein", "Laku"}),
        ("Killer: Dead or Alive is a film.", {"Killer: Dead or Alive"}),
        ("In The Realm of the Hackers is a documentary.", {"In The Realm of the Hackers"}),
        ("St. Mary Hospital was a hospital in Lund.", {"St. Mary Hospital"}),
    ],
)
def test_names_of_the_subject(text, names):
    assert names <= set(lead_names(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "In 1976 the Diocese of Lund was reorganised.",
        "On June 9, 2016, a meeting was held.",
        "He himself was born in Lund.",
        "The city is a city.",
        "Picric acid is an organic compound.",
        "Archaeological finds suggest that the area has been inhabited.",
        "Nothing here of that kind is a sentence of that kind",
        "It rained. Then Ann Fox was born.",
        "((((((((((((((((((((",
        '"" is',
        "\0 is ( was",
        "(The) is",
    ],
)
def test_other_beginnings_have_no_names(text):
    assert lead_names(text) == []


def test_long_and_odd_texts_are_quick_and_harmless():
    for text in ("A" * 100_000, "( " * 50_000, "a, " * 50_000 + " is", "known as " * 20_000, '"' * 10_000):
        assert isinstance(lead_names(text), list)


def doc(name: str, text: str, **metadata: object) -> Document:
    return Document(id=name, page_content=text, metadata=metadata)


def test_titles_go_before_headings_first_lines_and_sentences():
    assert title_names(doc("a", "Ann Fox is a judge.", title="The Judge")) == ["The Judge"]
    assert title_names(doc("a", "# Heading\nAnn Fox is a judge.")) == ["Heading"]
    assert title_names(doc("a", "A first line (2010)\nAnn Fox is a judge.")) == [
        "A first line (2010)",
        "A first line",
    ]
    assert title_names(doc("a", "A sentence first.\nAnn Fox is a judge.")) == []
    assert title_names(doc("a", "Ann Fox is a judge.", title="", aliases=["Foxy"])) == ["Foxy"]
    index = MentionIndex.from_documents([doc("a", "Ann Fox is a judge.", title="", aliases=["Foxy"])])
    assert [m.ids for m in index.find("He saw Foxy, not Ann Fox.")] == [("a",)]


def test_first_sentences_count_only_in_a_collection_of_articles():
    """Some abstract begins with a name in every collection; it is not the article about it."""
    index = MentionIndex.from_documents([doc("a", "Ann Fox is a judge.")])
    assert len(index) == 1
    others = [doc(f"o{i}", "In this work we measure what courts decide.") for i in range(3)]
    for other in others:
        index.add(other)
    assert [index.find("He saw Ann Fox."), len(index)] == [[], 0]
    again = MentionIndex.from_json(index.to_json())
    for table in (index, again):
        table.remove(others[0])
        table.remove(others[1])
        assert [m.ids for m in table.find("He saw Ann Fox.")] == [("a",)]
    assert index.to_json() == again.to_json()


def test_links_work_without_titles(make_embedding):
    """Similarities are random here, so only the links can bring the second hop up."""
    store = FaissStore(make_embedding(size=512))
    store.add_documents(
        [
            doc("film", "The Long Way is a film directed by Ana Bohm."),
            doc("ana", "Ana Maria Bohm (born 1950) is a director from Lund."),
            *(doc(f"n{i}", f"Place {i} is a place.") for i in range(200)),
        ]
    )
    found = FeedbackRetriever(store, LinkFeedback(), k=3).invoke(
        "Where was the director of The Long Way born?"
    )
    assert {"film", "ana"} <= {d.id for d in found}


def test_longer_titles_win_and_titles_can_be_taken_out():
    index = MentionIndex()
    short, long = doc("s", "x", title="New York"), doc("l", "x", title="New York Times Square")
    index.add(short)
    index.add(long)
    text = "He saw New York Times Square and New York."
    assert [m.ids for m in index.find(text)] == [("l",), ("s",)]
    index.remove(long)
    assert [m.ids for m in index.find(text)] == [("s",), ("s",)]


def test_titles_of_common_words_do_not_crowd_out_the_second_hop(make_embedding):
    """Every passage says "American" and a passage is called so: it must not pass for the link."""
    store = FaissStore(make_embedding(size=512))
    store.add_documents(
        [
            doc("film", "An American film by Ana Bohm.", title="The Long Way"),
            doc("ana", "An American director from Lund.", title="Ana Bohm"),
            doc("common", "American is an album.", title="American"),
            *(doc(f"n{i}", f"An American place {i}.", title=f"Place {i}") for i in range(300)),
        ]
    )
    found = FeedbackRetriever(store, LinkFeedback(), k=5).search(
        "Where was the director of The Long Way born?"
    )
    scores = {str(d.id): score for d, score in found}
    assert {str(d.id) for d, _ in found[:2]} == {"film", "ana"}
    assert scores["common"] < 0.6 * scores["ana"]
