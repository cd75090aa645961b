"""`benchmarks/rerank.py` with a stand-in for the model: rows, tables, resumption, the model-free part."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("ir_measures")

from agentprm.testing import ScriptedLanguageModel

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "rerank.py"
GRADES = [0, 1, 0, 3, 0, 0, 2, 0, 1, 0, 0, 3]


@pytest.fixture(scope="module")
def rerank():
    spec = importlib.util.spec_from_file_location("benchmarks_rerank", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """Two queries with lists of twelve, in the files of TREC DL 2019."""
    folder = tmp_path / "data" / "dl19"
    folder.mkdir(parents=True)
    lists, qrels = [], []
    for query in (11, 12):
        hits = []
        for rank, grade in enumerate(GRADES, 1):
            key = f"{query}{rank:02}"
            hits.append(
                {
                    "content": f"text {key} grade {grade}",
                    "qid": query,
                    "docid": key,
                    "rank": rank,
                    "score": 1.0,
                }
            )
            qrels.append(f"{query} 0 {key} {grade}")
        lists.append({"query": f"query {query}", "hits": hits})
    (folder / "bm25_top100.json").write_text(json.dumps(lists), encoding="utf-8")
    (folder / "qrels.txt").write_text("\n".join(qrels), encoding="utf-8")
    return tmp_path / "data"


class Model(ScriptedLanguageModel):
    """Finds a query likelier the better the passage, and always says A, No and [1]."""

    def __init__(self):
        def likelihood(prompt, continuation):
            if "query 1" in continuation:
                return float(prompt.split("grade ")[1][0])
            return -float("ABNoYes[1]".find(continuation.strip().removeprefix("Passage ")) % 50)

        super().__init__({}, likelihood=likelihood)

    def clear_cache(self):
        pass


def test_the_oracle_reaches_the_ceiling(rerank, data, capsys):
    assert rerank.main([str(data), "oracle"]) == 0
    table = capsys.readouterr().out
    for name in ("all-pair", "heapsort-10", "sliding-10", "setwise heap-10 of 3", "setwise window-10 of 5"):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
        assert row.split("|")[2:4] == [" 1.0000 ", " 1.0000 "]
    assert "| BM25 | 1.0000" not in table


def test_rows_are_logged_and_a_second_run_goes_on(rerank, data, tmp_path, monkeypatch, capsys):
    models = []

    def model():
        models.append(Model())
        return models[-1]

    monkeypatch.setattr("agentprm.packaged.default_language_model", model)
    out = tmp_path / "rows.jsonl"
    options = [str(data), "likelihood", "--sets", "dl19", "--out", str(out), "--limit", "1"]
    assert rerank.main(options) == 0
    first = rerank.read(out)
    fused = "query likelihood and first stage, rrf"
    assert {row["method"] for row in first} == {*rerank.likelihood_methods(), fused}
    others = ("query likelihood, sliding-1", fused)
    assert {row["ndcg"] for row in first if row["method"] not in others} == {1.0}
    assert first[0]["calls"] == first[0]["judgements"] == len(GRADES)
    assert all(row["before"] < 1 for row in first)
    options[-1] = "2"
    assert rerank.main(options) == 0
    assert rerank.read(out)[: len(first)] == first
    assert len(rerank.read(out)) == 2 * len(first)
    # What was measured is not asked again.
    assert len(models) == 2
    assert all("text 11" in prompt for prompt, _ in models[0].scored) != all(
        "text 11" in prompt for prompt, _ in models[1].scored
    )
    table = capsys.readouterr().out
    assert "| query likelihood | 2 | 1.0000 |" in table


def test_a_judge_that_always_says_a_changes_nothing(rerank, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("agentprm.packaged.default_language_model", Model)
    out = tmp_path / "rows.jsonl"
    options = [str(data), "compare", "--sets", "dl19", "--out", str(out), "--limit", "1", "--depth", "6"]
    assert rerank.main(options) == 0
    rows = {row["method"]: row for row in rerank.read(out)}
    assert rows["pairwise all-pair"]["judgements"] == 15
    assert rows["pairwise all-pair"]["calls"] == 30
    for name, row in rows.items():
        assert row["order"] == list(range(6)) or name == "query likelihood"
        assert row["reversed"] == row["reversed_before"] or name == "query likelihood"
    assert rows["query likelihood"]["ndcg"] > rows["query likelihood"]["before"]
