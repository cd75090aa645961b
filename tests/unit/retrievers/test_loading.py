from __future__ import annotations

import json
import os
from collections import Counter

import pytest

from agentprm.documents import plain_document
from agentprm.errors import ConfigurationError, InputError
from agentprm.retrievers import load_folder


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_all_formats(tmp_path):
    write(
        tmp_path,
        {
            "a.txt": "plain text é",
            "b/notes.md": "intro\n\n# The Title\n\nbody",
            "c.html": "<head><title>Page</title><style>x{}</style></head><body><p>Hi</p><script>1</script>",
            "d.json": json.dumps([{"title": "T", "text": "json text", "year": 1999}]),
            "e.jsonl": '{"_id": "x1", "title": "One", "text": "first"}\n\n{"_id": 2, "text": "second"}\n',
            "utf16.txt": "wide".encode("utf-16"),
            "bom.txt": "bom".encode("utf-8-sig"),
        },
    )
    documents, skipped = load_folder(tmp_path)
    by_id = {d.id: d for d in documents}
    assert skipped == []
    assert list(by_id) == [
        "a.txt#0",
        "b/notes.md#0",
        "bom.txt#0",
        "c.html#0",
        "d.json[0]#0",
        "x1",
        "2",
        "utf16.txt#0",
    ]
    assert by_id["b/notes.md#0"].metadata == {"source": "b/notes.md", "title": "The Title", "chunk": 0}
    assert (by_id["c.html#0"].page_content, by_id["c.html#0"].metadata["title"]) == ("Hi", "Page")
    assert by_id["d.json[0]#0"].metadata["year"] == 1999
    assert by_id["x1"].page_content == "One\nfirst"
    assert by_id["bom.txt#0"].page_content == "bom"
    assert load_folder(tmp_path).documents == documents


def test_long_texts_are_split_with_stable_ids(tmp_path):
    text = "\n\n".join(f"Paragraph {i} has some words in it." for i in range(100))
    write(tmp_path, {"long.txt": text})
    documents = load_folder(tmp_path, chunk_size=200, chunk_overlap=40).documents
    assert [d.id for d in documents] == [f"long.txt#{i}" for i in range(len(documents))]
    assert all(len(d.page_content) <= 200 for d in documents)
    assert all(f"Paragraph {i} " in " ".join(d.page_content for d in documents) for i in range(100))


def test_beir_folder_reads_only_the_corpus(tmp_path):
    long = "word " * 1000
    write(
        tmp_path,
        {
            "corpus.jsonl": json.dumps({"_id": "1", "title": "T", "text": long, "metadata": {}}) + "\n",
            "queries.jsonl": '{"_id": "q", "text": "question"}',
            "qrels.tsv": "query-id\tcorpus-id\tscore\nq\t1\t1\n",
            "README.md": "about",
        },
    )
    documents, skipped = load_folder(tmp_path)
    assert [(d.id, d.metadata) for d in documents] == [
        ("1", {"source": "corpus.jsonl", "title": "T", "chunk": 0})
    ]
    assert {s.source for s in skipped} == {"queries.jsonl", "qrels.tsv", "README.md"}


def test_what_cannot_be_read_is_reported(tmp_path, caplog):
    write(
        tmp_path,
        {
            "good.txt": "good",
            "binary.txt": b"\x00\x01\x02",
            "latin.txt": "caf\xe9".encode("latin-1"),
            "empty.md": " \n",
            "picture.png": b"\x89PNG",
            ".hidden": "x",
            "bad.json": "{not json",
            "rows.jsonl": "\n".join(
                [
                    '{"_id": "1", "text": "one"}',
                    "broken",
                    '{"no": "text"}',
                    "[1]",
                    '{"_id": "1", "text": "two"}',
                ]
            ),
            "blank.html": "<html><body></body></html>",
        },
    )
    documents, skipped = load_folder(tmp_path)
    assert {d.id for d in documents} == {"good.txt#0", "1", "rows.jsonl:1"}
    assert {s.source for s in skipped} == {
        "binary.txt", "latin.txt", "empty.md", "picture.png", ".hidden", "bad.json", "blank.html",
        "rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:4",
    }  # fmt: skip
    assert all(s.reason for s in skipped)
    assert "latin.txt" in caplog.text


def test_links_are_never_followed(tmp_path):
    secret = tmp_path / "outside"
    write(secret, {"secret.txt": "secret"})
    inside = tmp_path / "inside"
    write(inside, {"a.txt": "a"})
    os.symlink(secret, inside / "folder")
    os.symlink(secret / "secret.txt", inside / "file.txt")
    os.symlink(inside, inside / "loop")
    documents, skipped = load_folder(inside)
    assert [d.page_content for d in documents] == ["a"]
    assert {s.source for s in skipped} == {"folder", "file.txt", "loop"}


def test_one_file(tmp_path):
    write(tmp_path, {"a.txt": "a"})
    assert [d.id for d in load_folder(tmp_path / "a.txt").documents] == ["a.txt#0"]


def test_mistakes(tmp_path):
    with pytest.raises(InputError, match="check the path"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="No readable document"):
        load_folder(tmp_path)
    write(tmp_path, {"x.png": b"\x89"})
    with pytest.raises(InputError, match=r"x\.png"):
        load_folder(tmp_path)
    with pytest.raises(ConfigurationError):
        load_folder(tmp_path, chunk_size=10, chunk_overlap=10)


def test_every_json_row_is_kept_under_an_id_of_its_own(tmp_path):
    """Rows without a usable id, with one id twice, and long ones: all are there, and again the next time."""
    odd = [None, "", " ", 1.5, True, [1], float("nan")]
    rows = [{"text": f"text {i}", "id": value} for i, value in enumerate(odd)]
    rows += [{"text": f"plain {i}"} for i in range(5)] + [{"text": "word " * 100, "n": 1}] * 2
    rows += [{"_id": "a", "text": f"same {i}"} for i in range(3)]
    write(
        tmp_path,
        {
            "rows.jsonl": "\n".join(map(json.dumps, rows)),
            "list.json": json.dumps(rows),
            "one.json": json.dumps({"text": "alone"}),
        },
    )
    documents, skipped = load_folder(tmp_path, chunk_size=300, chunk_overlap=0)
    assert skipped == []
    texts = Counter(d.page_content.strip() for d in documents)
    assert texts["alone"] == 1
    assert all(texts[r["text"]] == 2 for r in rows if len(r["text"]) < 300)
    assert sum(len(d.page_content.split()) for d in documents if "word" in d.page_content) == 400
    ids = [d.id for d in documents]
    assert len(set(ids)) == len(ids)
    assert {"rows.jsonl:1#0", "list.json[0]#0", "1.5", "one.json#0", "rows.jsonl:13#1"} <= set(ids)
    assert {"a", "list.json:a", "list.json:a~2", "rows.jsonl:a", "rows.jsonl:a~2"} <= set(ids)
    assert load_folder(tmp_path, chunk_size=300, chunk_overlap=0).documents == documents


def test_repeated_ids_cost_linear_work(tmp_path):
    write(tmp_path, {"r.jsonl": "\n".join(json.dumps({"id": "x", "text": "t"}) for _ in range(20_000))})
    documents = load_folder(tmp_path).documents
    assert len({d.id for d in documents}) == 20_000


def test_one_bad_record_stops_nothing(tmp_path):
    nested: object = "deep"
    for _ in range(150):
        nested = [nested]
    rows = [
        json.dumps({"id": "good", "text": "good"}),
        '{"id": "half", "title": "t\\ud83d", "text": "half \\ud83d", "tag": "x\\udc00"}',
        json.dumps({"id": "deep", "text": "deep", "m": nested}),
        json.dumps({"id": "huge", "text": "huge", "n": 10**30}),
        "[" * 100_000,
        json.dumps({"id": "digits", "text": "t"})[:-1] + ', "n": ' + "9" * 5000 + "}",
    ]
    write(tmp_path, {"rows.jsonl": "\n".join(rows)})
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("a name that is no UTF-8")
    except OSError:
        pytest.skip("this file system takes no such names")
    documents, skipped = load_folder(tmp_path)
    assert [d.id for d in documents] == ["good", "half"]
    assert documents[1].page_content == "t\ufffd\nhalf \ufffd"
    assert documents[1].metadata["tag"] == "x\ufffd"
    assert {s.source for s in skipped} == {
        "rows.jsonl:3",
        "rows.jsonl:4",
        "rows.jsonl:5",
        "rows.jsonl:6",
        "caf\ufffd.txt",
    }
    assert all("\udce9" not in s.source + s.reason for s in skipped)
    for document in documents:
        plain_document(document)  # what a run carries
