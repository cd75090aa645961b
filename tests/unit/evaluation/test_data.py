"""Folders in the BEIR layout, good and bad."""

import json

import pytest

from agentprm.errors import InputError
from agentprm.evaluation import read_dataset


def write(folder, name, rows):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "tiny"
    corpus = [{"_id": "d1", "title": "Ä", "text": "one"}, {"_id": 2, "text": "two"}]
    queries = [
        {"_id": "q1", "text": "What?", "answers": ["x", "y"], "type": "bridge"},
        {"_id": "q2", "text": "Who?", "answers": []},
        {"_id": "q3", "text": "Where?", "answers": ["here"]},
    ]
    write(data, "corpus.jsonl", corpus)
    write(data, "queries.jsonl", queries)
    (data / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\t2\t0\nother\td9\t1\n")
    return data


def test_reads_everything(folder):
    data = read_dataset(folder)
    assert data.name == "tiny"
    assert data.passages == {"d1", "2"}
    first, last = data.questions
    assert (first.id, first.text, first.answers, first.gold) == ("q1", "What?", ("x", "y"), {"d1"})
    assert first.extra == {"type": "bridge"}
    assert (last.answers, last.gold) == (("here",), frozenset())
    assert data.left_out == 1  # the query of another split: neither answers nor gold passages


def test_questions_alone_are_all_read(folder):
    write(folder, "queries.jsonl", [{"_id": "q8", "text": "Who?"}, {"_id": "q9", "text": "Why?"}])
    data = read_dataset(folder)
    assert ([question.id for question in data.questions], data.left_out) == (["q8", "q9"], 0)


def test_reads_the_original_place_of_qrels_and_none(folder):
    (folder / "qrels").mkdir()
    (folder / "qrels.tsv").rename(folder / "qrels" / "test.tsv")
    assert read_dataset(folder).questions[0].gold == {"d1"}
    (folder / "qrels" / "test.tsv").unlink()
    assert read_dataset(folder).questions[0].gold == frozenset()


def test_qrels_without_a_header(folder):
    (folder / "qrels.tsv").write_text("q1\td1\t1\n")
    assert read_dataset(folder).questions[0].gold == {"d1"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", "", "is empty"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{oops', "line 2: not JSON"),
        ("corpus.jsonl", '["d1"]', "needs '_id' and 'text'"),
        ("corpus.jsonl", '{"_id": "d1"}', "needs '_id' and 'text'"),
        ("corpus.jsonl", '{"_id": "a", "text": ""}\n{"_id": "a", "text": ""}', "occurs twice"),
        ("queries.jsonl", '{"_id": "q1", "text": "x", "answers": "y"}', "list of strings"),
        ("qrels.tsv", "q1 d1 1", "separated by tabs"),
        ("qrels.tsv", "q1\td1\tmany", "separated by tabs"),
        ("qrels.tsv", "q1\tnowhere\t1", "do not belong together"),
    ],
)
def test_bad_files_are_named_with_the_line(folder, name, content, message):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_dataset(folder)


def test_missing_and_binary_files(folder, tmp_path):
    with pytest.raises(InputError, match="There is no folder"):
        read_dataset(tmp_path / "nowhere")
    (folder / "queries.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        read_dataset(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"There is no queries\.jsonl"):
        read_dataset(folder)
