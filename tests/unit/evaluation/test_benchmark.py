"""The benchmark script end to end with stand-ins for the models: tables, resumption, options."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

from agentprm.budget import record

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "qa.py"


@pytest.fixture(scope="module")
def qa():
    spec = importlib.util.spec_from_file_location("benchmarks_qa", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class System:
    """Answers wrongly without retrieval and rightly with it."""

    def __init__(self, name, asked):
        self.name, self.asked = name, asked

    def invoke(self, input):
        self.asked.append(self.name)
        record(model_calls=1, prompt_tokens=50, computed_tokens=20)
        if self.name == "no-retrieval":
            return {"answer": "Paris", "prm_stop_reason": "answered"}
        return {
            "answer": "Rome",
            "documents": [Document(id="d1", page_content="x")],
            "prm_stop_reason": "done",
        }


@pytest.fixture
def asked(qa, monkeypatch):
    calls = []
    monkeypatch.setattr(qa, "build", lambda system, model, store, args: System(system, calls))
    monkeypatch.setattr(qa.packaged, "default_language_model", lambda: None)
    monkeypatch.setattr(qa.packaged, "default_embeddings", lambda: DeterministicFakeEmbedding(size=4))
    return calls


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    rows = [{"_id": "d1", "title": "Rome", "text": "a"}, {"_id": "d2", "title": "Oslo", "text": "b"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"_id": f"q{i}", "text": "Where?", "answers": ["Rome"], "type": "easy"} for i in range(4)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "qrels.tsv").write_text("".join(f"q{i}\td{j}\t1\n" for i in range(4) for j in (1, 2)))
    return folder


def test_tables(qa, asked, data, capsys):
    assert qa.main(["--data", str(data), "--limit", "3"]) == 0
    assert asked == ["no-retrieval"] * 3 + ["rag"] * 3 + ["rag-1"] * 3 + ["reasoning"] * 3
    out = capsys.readouterr().out
    assert "tiny, 3 questions, 2 passages; model: packaged" in out
    rows = {line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("|")}
    assert "| 0.0 [0.0, 0.0] |" in rows["no-retrieval"]
    assert rows["rag"].startswith("| rag | 3 | 100.0 [100.0, 100.0] |")
    assert (
        "| 50.0 [50.0, 50.0] | 50.0 [50.0, 50.0] | 0.0 [0.0, 0.0] | 0.0 [0.0, 0.0] | 50 | 20 | 0 | 1.0 |"
        in rows["rag"]
    )
    assert "| rag - no-retrieval | EM | 100.0 [100.0, 100.0] |" in out
    assert "| reasoning - rag-1 | R@5 | 0.0 [0.0, 0.0] |" in out
    assert "| easy | 3 | 0.0 | 100.0 | 100.0 | 100.0 |" in out
    assert "no-retrieval ended: answered 3" in out


def test_resumes_and_chooses_systems(qa, asked, data, tmp_path, capsys):
    options = ["--data", str(data), "--out", str(tmp_path / "log.jsonl"), "--systems", "rag"]
    assert qa.main([*options, "--limit", "2"]) == 0
    assert qa.main(options) == 0
    assert asked == ["rag"] * 4
    assert qa.main([*options, "--seed", "1"]) == 0
    assert asked == ["rag"] * 8
    assert "no-retrieval" not in capsys.readouterr().out


def test_the_index_is_kept(qa, asked, data, tmp_path, capsys):
    options = ["--data", str(data), "--systems", "rag", "--index-cache", str(tmp_path / "cache")]
    assert qa.main(options) == 0
    assert "indexing 2 passages" in capsys.readouterr().err
    assert qa.main(options) == 0
    assert "indexing" not in capsys.readouterr().err
    (data / "corpus.jsonl").write_text('{"_id": "d1", "text": "changed"}')
    assert qa.main(options) == 0
    assert "indexing 1 passages" in capsys.readouterr().err


def test_the_demo_corpus_by_name(qa, asked, capsys):
    assert qa.main(["--data", "demo", "--limit", "2", "--systems", "no-retrieval"]) == 0
    assert "demo, 2 questions" in capsys.readouterr().out


def test_mistakes_are_one_sentence(qa, asked, tmp_path, capsys):
    assert qa.main(["--data", str(tmp_path / "nowhere")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        qa.main(["--data", "demo", "--limit", "0"])
