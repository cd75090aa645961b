"""Records of question-answering sets: gold passages, distractors, decompositions and triples."""

import json

import pytest
from langchain_core.documents import Document

from agentprm.errors import InputError
from agentprm.evaluation import read_dataset
from agentprm.retrievers import default_retriever
from agentprm.testing import fake_store
from agentprm.training.sources import plan_records, reading_records, steps_of_facts

CORPUS = [
    {"_id": "a", "title": "Dawn", "text": "Dawn is a film by Ann Lee."},
    {"_id": "b", "title": "Ann Lee", "text": "Ann Lee was born in Lyon."},
    {"_id": "c", "title": "Dusk", "text": "Dusk is a film by Bob Fox, born in Ulm."},
    {"_id": "d", "title": "Rhone", "text": "The film director of Dawn lived in Lyon."},
]
QUERIES = [
    {
        "_id": "1",
        "text": "Where was the director of the film Dawn born?",
        "answers": ["Lyon"],
        "type": "bridge",
        "evidence": [["Dawn", "director", "Ann Lee"], ["Ann Lee", "place of birth", "Lyon"]],
    },
    {"_id": "2", "text": "Who?", "answers": [], "decomposition": ["Who is it?", "Is #1 old?"]},
    {
        "_id": "3",
        "text": "Which river flows through the birthplace of Ann?",
        "answers": ["Rhone"],
        "decomposition": [
            {"question": "Ann >> place of birth", "answer": "Lyon"},
            {"question": "#1 >> river", "answer": "Rhone"},
        ],
    },
]


@pytest.fixture
def data(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("corpus.jsonl", CORPUS)
    write("queries.jsonl", QUERIES)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t1\n")
    return tmp_path


def test_reading_records_have_gold_passages_and_hard_distractors(data):
    documents = [
        Document(id=row["_id"], page_content=row["text"], metadata={"title": row["title"]}) for row in CORPUS
    ]
    retriever = default_retriever(fake_store(documents), k=4)
    (record,) = reading_records(read_dataset(data), retriever)
    assert record.answers == ["Lyon"]
    assert record.type == "bridge"
    assert record.evidence == QUERIES[0]["evidence"]
    assert [(p.title, p.gold) for p in record.passages[:2]] == [("Dawn", True), ("Ann Lee", True)]
    # the passage that holds the answer without being gold is no distractor
    assert [p.title for p in record.passages[2:]] == ["Dusk"]
    assert len(reading_records(read_dataset(data))[0].passages) == 2


def test_plans_come_from_triples_and_decompositions(data):
    plans = {plan.id.split(":")[1]: plan for plan in plan_records(read_dataset(data))}
    assert [(s.question, s.answer) for s in plans["1"].steps] == [
        ("Who directed Dawn?", "Ann Lee"),
        ("Where was #1 born?", "Lyon"),
    ]
    assert [s.question for s in plans["2"].steps] == ["Who is it?", "Is #1 old?"]
    assert [s.question for s in plans["3"].steps] == ["Where was Ann born?", "What is the river of #1?"]
    assert plans["3"].answer == "Rhone"


def test_comparisons_refer_to_what_is_left_open():
    facts = [
        ["Dawn", "director", "Ann Lee"],
        ["Dusk", "director", "Bob Fox"],
        ["Ann Lee", "date of birth", "1950"],
        ["Bob Fox", "date of birth", "1960"],
    ]
    steps = steps_of_facts(facts, "Whose director is younger?", "Dusk")
    assert [step.question for step in steps] == [
        "Who directed Dawn?",
        "Who directed Dusk?",
        "When was #1 born?",
        "When was #2 born?",
        "Compare #3 and #4: Whose director is younger?",
    ]
    assert steps_of_facts(facts[:1], "Who wrote it?", "Cy") == []
    assert steps_of_facts([], "Who?", "Cy") == []


def test_a_wrong_decomposition_is_named(data):
    (data / "queries.jsonl").write_text(
        json.dumps({"_id": "9", "text": "Who?", "answers": [], "decomposition": [3]})
    )
    with pytest.raises(InputError, match="'9'"):
        plan_records(read_dataset(data))
