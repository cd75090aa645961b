"""Questions in several languages all the way: index, BM25 and hybrid search, citations, cuts."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document

from agentprm.documents import passage_line, supporting
from agentprm.evaluation import contains_answer
from agentprm.graphs import create_rag_graph
from agentprm.lm.base import Completion
from agentprm.replies import finished_text
from agentprm.retrievers import FaissStore, HybridRetriever, LexicalIndex
from agentprm.testing import FakeEmbeddings, ScriptedChatModel
from agentprm.trace import trace_of

# language, passage, question, answer
LANGUAGES = [
    ("zh", "巴黎是法国的首都，位于塞纳河畔。", "法国的首都是哪里？", "首都是巴黎"),
    ("ja", "東京タワーは1958年に完成した電波塔である。", "東京タワーの完成はいつ？", "1958年に完成"),
    ("th", "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เมืองหลวงของไทยคือเมืองใด", "กรุงเทพมหานคร"),
    ("ko", "서울타워는 남산에 세워진 전망 탑이다.", "남산의 서울타워", "남산에 세워진 탑"),
    ("hi", "ताजमहल आगरा में यमुना नदी के किनारे स्थित है।", "ताजमहल किस नदी के किनारे है?", "यमुना नदी"),
    ("ar", "تقع مدينة القاهرة على ضفاف نهر النيل في مصر.", "على أي نهر تقع القاهرة؟", "نهر النِّيل"),
    ("ru", "Ёлка растёт в лесу возле реки Волги.", "Где растет елка?", "в лесу возле Волги"),
    ("de", "Das Straßenfest in Zu\u0308rich findet im Juni statt.", "Strassenfest in Zürich", "im Juni"),
]
DOCUMENTS = [Document(id=name, page_content=passage) for name, passage, _, _ in LANGUAGES]


@pytest.mark.parametrize(("name", "passage", "question", "answer"), LANGUAGES)
def test_question_finds_its_passage_and_answer_its_citation(name, passage, question, answer):
    lexical = LexicalIndex(DOCUMENTS)
    assert lexical.search(question, k=1)[0][0].id == name
    assert lexical.search_with_feedback(question, k=1)[0][0].id == name
    store = FaissStore(FakeEmbeddings())
    store.add_documents(DOCUMENTS)
    assert HybridRetriever(store, lexical, dense_weight=0.2, k=1).invoke(question)[0].id == name
    assert [document.id for document in supporting(answer, DOCUMENTS, question)] == [name]


@pytest.mark.parametrize(("name", "passage", "question", "answer"), LANGUAGES)
def test_a_run_answers_cites_and_is_measured(name, passage, question, answer):
    model = ScriptedChatModel(script=lambda text: answer if passage[:10] in text else "nothing")
    retriever = HybridRetriever(
        store=FaissStore.from_documents(DOCUMENTS, FakeEmbeddings()), lexical=LexicalIndex(DOCUMENTS), k=2
    )
    state = create_rag_graph(model, retriever, k=2).compile().invoke({"question": question})
    assert [citation["doc_id"] for citation in state["citations"]] == [name]
    trace = trace_of(state)
    assert trace["answer"] == answer
    assert contains_answer(f"„{trace['answer']}“ …", [answer]) == 1
    assert contains_answer(trace["answer"], ["猫猫"]) == 0


def test_one_character_finds_its_text():
    index = LexicalIndex([*DOCUMENTS, Document(id="cat", page_content="一只黑猫警长")])
    assert [document.id for document, _ in index.search("猫")] == ["cat"]


@pytest.mark.parametrize(("name", "passage", "question", "answer"), LANGUAGES)
def test_long_passages_are_cut_between_characters_not_thrown_away(name, passage, question, answer):
    text = passage * 50
    kept = passage_line(Document(id="d", page_content=text), 200).removeprefix("d: ").removesuffix(" […]")
    assert 150 < len(kept) <= 200
    assert text.startswith(kept)


def test_unfinished_text_ends_with_its_last_sentence():
    for whole, rest in (
        ("今天很好。", "我们去"),
        ("เขาไปตลาด", " เธออยู่"),
        ("यह सच है।", " और"),
        ("هل هذا صحيح؟", " نعم"),
        ("Yes.", " And"),
    ):
        completion = Completion(text=whole + rest, tokens=5, finish_reason="length")
        assert finished_text(completion) == whole
