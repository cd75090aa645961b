from __future__ import annotations

import pytest
from langchain_core.documents import Document

from agentprm.retrievers import FaissStore, FeedbackRetriever, LinkFeedback, MentionIndex


def doc(name, text, title=None, **metadata):
    title = name if title is None else title
    return Document(id=name, page_content=f"{title}\n{text}", metadata={"title": title, **metadata})


CORPUS = [
    doc("film", "A 1999 film directed by Ana Böhm. Home is where it plays.", "The Long Way (1999 film)"),
    doc("ana", "Ana Bohm was born in Lund. She lived in New York City.", "Ana Bohm"),
    doc("lund", "A town with a home for students.", "Lund"),
    doc("home", "A drama about a home and a home team.", "Home (film)"),
    doc("york", "A town at home in the north of England.", "York"),
    doc("king1", "First of the name.", "John King (poet)"),
    doc("king2", "Second of the name.", "John King (actor)"),
]


@pytest.fixture
def index():
    return MentionIndex.from_documents(CORPUS)


def found(index, text):
    return [m.ids for m in index.find(text)]


def test_titles_without_disambiguation_accents_and_case(index):
    assert found(index, "Who directed The Long Way?") == [("film",)]
    assert found(index, "who directed the long way?") == [("film",)]
    assert found(index, "The Long Way (1999 film) and ANA BÖHM") == [("film",), ("ana",)]
    assert found(index, "a poem by John King") == [("king1", "king2")]


def test_words_are_whole_and_longest_match_wins(index):
    assert found(index, "Ana Bohmer and Lundberg") == []
    longer = MentionIndex.from_documents([*CORPUS, doc("ana2", "x", "Ana Bohm Prize")])
    assert found(longer, "won the Ana Bohm Prize of Lund") == [("ana2",), ("lund",)]


@pytest.mark.parametrize(
    "text",
    [
        "He went home with Ann.",
        "Home is where Ann is.",
        "He lives in New York City.",
        "Ann was in York Minster.",
    ],
)
def test_common_words_and_parts_of_names_are_no_mentions(index, text):
    assert found(index, text) == []


def test_a_common_word_with_a_capital_inside_a_sentence_is_one(index):
    assert found(index, "She starred in Home in 1999.") == [("home",)]
    assert found(index, "Ann moved from Lund to York.") == [("lund",), ("york",)]


@pytest.mark.parametrize(
    ("title", "text", "mentioned"),
    [
        ("東京タワー", "昨日、東京タワーに登った。", "東京タワー"),
        ("故宫（北京）", "我们去了故宫参观", "故宫"),
        ("กรุงเทพมหานคร", "อยู่ในกรุงเทพมหานครและ", "กรุงเทพมหานคร"),
        ("서울 타워", "어제 서울 타워를 보았다", "서울 타워를"),
        ("고양이", "고양이는 동물이다", "고양이는"),
        ("القاهرة", "تقع القاهرة في مصر", "القاهرة"),
        ("ताज महल", "यह ताज महल है", "ताज महल"),
        ("Cafe\u0301 Noir", "The CAFÉ NOIR opened", "CAFÉ NOIR"),
        ("Café Noir", "the Cafe\u0301 Noir opened", "Cafe\u0301 Noir"),
        ("Große Straße", "in der Großen und GROSSE STRASSE", "GROSSE STRASSE"),
    ],
)
def test_titles_of_any_script(title, text, mentioned):
    index = MentionIndex.from_documents([doc("it", "…", title), doc("other", "…", "수영 탑")])
    (mention,) = index.find(text)
    assert (mention.ids, text[mention.start : mention.end]) == (("it",), mentioned)


def test_what_only_looks_alike_is_no_mention():
    index = MentionIndex.from_documents(
        [doc("a", "…", "수영 탑"), doc("b", "…", "京"), doc("c", "…", "수영")]
    )
    assert found(index, "서울 타워 東京 수영장") == []


def test_positions_and_rarity(index):
    text = "Böhm? No: Ana Böhm."
    mention = index.find(text)[0]
    assert text[mention.start : mention.end] == "Ana Böhm"
    assert (
        index.find("to Lund")[0].rarity > index.find("in Home")[0].rarity if index.find("in Home") else True
    )
    assert 0 < mention.rarity <= 1


def test_aliases_headings_and_untitled():
    documents = [
        doc("un", "…", "United Nations", aliases=["UNO", 3]),
        Document(id="md", page_content="# Big Heading #\ntext"),
        Document(id="none", page_content="plain text"),
        doc("the", "…", "The Who"),
        doc("it", "…", "It"),
    ]
    index = MentionIndex.from_documents(documents)
    assert found(index, "the UNO and the Big Heading") == [("un",), ("md",)]
    assert found(index, "Was It by The Who?") == []  # nothing but function words


def test_add_and_remove_are_inverse(index):
    before = index.to_json()
    extra = doc("extra", "Words like zyzzy.", "Extra Title")
    index.add(extra)
    assert found(index, "an Extra Title") == [("extra",)]
    index.remove(extra)
    assert index.to_json() == before
    assert found(MentionIndex.from_json(before), "by Ana Bohm of Lund") == [("ana",), ("lund",)]
    with pytest.raises(ValueError, match="not a mention index"):
        MentionIndex.from_json('{"titles": 3}')


def test_the_store_keeps_titles_up_to_date(tmp_path, embedding):
    store = FaissStore(embedding)
    store.add_documents(CORPUS)
    assert found(store.mentions, "in Lund") == [("lund",)]
    store.delete(["lund"])
    store.add_documents([doc("ana", "Now of Malmo.", "Ana Renamed"), doc("malmo", "x", "Malmo")])
    reference = MentionIndex.from_documents(store)
    assert store.mentions.to_json() == reference.to_json() or sorted(store.mentions.to_json()) == sorted(
        reference.to_json()
    )
    store.save(tmp_path)
    loaded = FaissStore.load(tmp_path, embedding)
    loaded.add_documents([doc("oslo", "x", "Oslo")])
    loaded.save(tmp_path)
    again = FaissStore.load(tmp_path, embedding)
    assert found(again.mentions, "Ana Bohm, Ana Renamed, Malmo, Oslo, Lund.") == [
        ("ana",),
        ("malmo",),
        ("oslo",),
    ]


def test_second_hop_is_found(make_embedding):
    """Similarities are random here, so only the links can bring the second hop up."""
    store = FaissStore(make_embedding(size=512))
    noise = [doc(f"noise{i}", f"Nothing {i}.", f"Noise {i}") for i in range(200)]
    store.add_documents([*CORPUS, *noise])
    question = "Where was the director of The Long Way born?"
    assert not {"film", "ana"} <= {d.id for d in store.similarity_search(question, k=5)}
    retriever = FeedbackRetriever(store, LinkFeedback(), k=3)
    assert {"film", "ana"} <= {d.id for d in retriever.invoke(question)}
    allowed = FeedbackRetriever(store, LinkFeedback(), k=3, filter={"title": {"$ne": "Ana Bohm"}})
    assert "ana" not in [d.id for d in allowed.invoke(question)]


def test_without_mentions_the_ranking_is_the_stores(embedding):
    store = FaissStore(embedding)
    store.add_documents([doc(f"n{i}", f"Nothing {i}.", f"Noise {i}") for i in range(50)])
    retriever = FeedbackRetriever(store=store, k=20)
    assert retriever.invoke("what is it?") == store.similarity_search("what is it?", k=20)
