"""The command line: what it prints where, its exit codes, and one sentence for every mistake."""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph

from agentprm.budget import empty_usage, record
from agentprm.cli import main, opening
from agentprm.cli.models import Models
from agentprm.cli.options import GRAPHS
from agentprm.errors import InputError, TransientModelError
from agentprm.scale import LocalExecutor
from agentprm.search.named import STRATEGIES, VALUES
from agentprm.state import ReasoningState
from agentprm.testing import ScriptedLanguageModel, ScriptedReader
from agentprm.trace import load_trace, save_trace, trace_of

MAKE_GRAPH = opening.make_graph
OPEN_MODELS = opening.open_models


def scripted_graph(args, models, store, **more):
    """A graph that behaves like a search."""
    builder = StateGraph(ReasoningState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile()


DOCUMENT = Document(id="d1", page_content="Vertigo is by Hitchcock.", metadata={"title": "Vertigo"})


def step(key: str, parent: str | None, **rest: Any) -> dict[str, Any]:
    return {
        "id": key, "parent_id": parent, "depth": 1, "query": "Who directed Vertigo?", "retrieve": True,
        "doc_ids": ["d1"], "thought": "Hitchcock did.", "final_answer": None, "score": 0.8, "value": 0.8,
        "status": "committed", "usage": {**empty_usage(), "model_calls": 1}, **rest,
    }  # fmt: skip


def answer(state: ReasoningState) -> dict[str, Any]:
    """A node that behaves like a search."""
    question = state["question"]
    if question == "fail":
        raise TransientModelError("The service is overloaded; try again later.")
    if question == "bug":
        raise RuntimeError("wires\ncrossed")
    if question == "interrupt":
        raise KeyboardInterrupt
    if question == "refuse":
        raise InputError("The question is too long; shorten it.")
    record(model_calls=1, prompt_tokens=10)
    get_stream_writer()({"type": "agentprm.step_committed", "step_id": "1", "value": 0.8})
    silent = question == "silence"
    return {
        "answer": "" if silent else "London [bold]",
        "citations": [{"doc_id": "d1", "title": "Vertigo", "source": "", "text": "Vertigo is by Hitchcock."}],
        "prm_documents": [DOCUMENT],
        "prm_steps": [step("1", None), step("2", None, status="rejected", query="When?")],
        "prm_stop_reason": "model_calls" if silent else "final_answer",
    }


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    """Fake embeddings and a scripted graph instead of models; everything else is real."""
    embeddings = {"packaged": DeterministicFakeEmbedding(size=8), "other": DeterministicFakeEmbedding(size=4)}
    monkeypatch.setattr(opening, "embeddings_called", lambda name: embeddings[name])
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(ScriptedLanguageModel({})))

    monkeypatch.setattr(opening, "make_graph", scripted_graph)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("AGENTPRM_DEBUG", raising=False)


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "vertigo.txt").write_text("Vertigo is a film by Alfred Hitchcock.")
    (folder / "london.md").write_text("# London\n\nHitchcock was born in London.")
    (folder / "picture.png").write_bytes(b"\x89PNG\x00")
    return folder


@pytest.fixture
def index(notes, tmp_path, capsys):
    assert main(["index", str(notes), "-o", str(tmp_path / "index")]) == 0
    capsys.readouterr()
    return str(tmp_path / "index")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"_id": "d1", "title": "Vertigo", "text": "x"}, {"_id": "d2", "title": "Psycho", "text": "y"}]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"_id": f"q{i}", "text": f"question {i}", "answers": ["London bold"]} for i in range(3)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "qrels.tsv").write_text("q0\td1\t1\nq1\td2\t1\n")
    return str(folder)


def failing(capsys, *argv: str) -> tuple[int, str]:
    """Exit code and the one sentence."""
    code = main(list(argv))
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert lines[-1].startswith("agentprm")
    assert "Traceback" not in captured.err + captured.out
    return code, lines[-1]


# What works


def test_what_was_skipped_is_told_in_a_few_lines(notes, tmp_path, capsys, caplog):
    for number in range(7):
        (notes / f"empty{number}.txt").write_text("")
    (notes / "broken.pdf").write_bytes(b"not a PDF")
    assert main(["index", str(notes), "-o", str(tmp_path / "i")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "skipped broken.pdf: " in said
    assert "skipped 3 more: empty" in said
    assert "skipped 1 more: not one of .txt" in said
    assert "skipped 9 in all" in said
    assert not [r for r in caplog.records if r.name.startswith("pypdf")]  # they name no file


def test_a_question_without_quotes(capsys):
    code, said = failing(capsys, "ask", "Who", "directed", "Vertigo?", "--index", "i")
    assert (code, "put what has several words in quotes" in said) == (2, True)


def test_index_and_ask(notes, tmp_path, capsys):
    index, trace = str(tmp_path / "i"), tmp_path / "trace.json"
    assert main(["index", str(notes), "-o", index]) == 0
    captured = capsys.readouterr()
    assert re.fullmatch(
        r"Indexed 2 passages from 2 files into .* in \d+\.\d s\.", captured.out.replace("\n", " ").strip()
    )
    assert "skipped picture.png" in captured.err

    question = "Where was the director of Vertigo born?"
    assert main(["ask", question, "--index", index, "--trace", str(trace), "--seed", "4"]) == 0
    captured = capsys.readouterr()
    for expected in (question, "● 1 Who directed Vertigo?", "✗ 2 When?", "London [bold]", "[1] Vertigo"):
        assert expected in captured.out
    assert "1 chosen" in captured.err
    assert "1 chosen" not in captured.out
    loaded = load_trace(trace)
    assert loaded["answer"] == "London [bold]"
    expected = {"graph": "reasoning", "model": "packaged", "embeddings": "packaged", "seed": 4}
    assert loaded["settings"].items() >= expected.items()

    assert main(["trace", "show", str(trace)]) == 0
    assert capsys.readouterr().out.startswith(question)
    assert main(["trace", "mermaid", str(trace)]) == 0
    assert capsys.readouterr().out.startswith("flowchart TD\n")
    page = tmp_path / "both.html"
    assert main(["trace", "html", str(trace), str(trace), "-o", str(page)]) == 0
    assert page.read_text().count("London [bold]") == 2  # once a trace


def test_quiet_says_nothing_on_standard_error(index, capsys):
    assert main(["ask", "Who?", "--index", index, "-q"]) == 0
    assert capsys.readouterr().err == ""


def test_an_index_is_replaced_by_the_next(index, notes, capsys):
    (notes / "more.txt").write_text("More.")
    assert main(["index", str(notes), "-o", index]) == 0
    assert "Indexed 3 passages" in capsys.readouterr().out


class Counting(DeterministicFakeEmbedding):
    """Embeddings that count, and may stop at a text."""

    texts: ClassVar[list[str]] = []
    stop_at: ClassVar[str] = ""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.stop_at and any(self.stop_at in text for text in texts):
            raise KeyboardInterrupt
        self.texts.extend(text for text in texts if "passage" in text)
        return super().embed_documents(texts)


@pytest.fixture
def counting(monkeypatch):
    embeddings = Counting(size=8)
    monkeypatch.setattr(Counting, "texts", [])
    monkeypatch.setattr(opening, "embeddings_called", lambda name: embeddings)
    return Counting


def rows(folder, numbers):
    folder.mkdir(exist_ok=True)
    lines = (json.dumps({"id": f"p{i}", "text": f"passage {i}"}) for i in numbers)
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_a_changed_folder_embeds_only_what_changed(tmp_path, counting, capsys):
    index = str(tmp_path / "i")
    assert main(["index", rows(tmp_path / "f", range(200)), "-o", index]) == 0
    assert "before" not in capsys.readouterr().out
    counting.texts.clear()
    assert main(["index", rows(tmp_path / "f", range(5, 203)), "-o", index]) == 0
    assert sorted(counting.texts) == ["passage 200", "passage 201", "passage 202"]
    out = " ".join(capsys.readouterr().out.split())
    assert "Indexed 198 passages" in out
    assert "195 of them had been embedded before" in out


def test_a_first_index_that_is_stopped_goes_on(tmp_path, counting, monkeypatch, capsys):
    index, folder = tmp_path / "i", rows(tmp_path / "f", range(200))
    monkeypatch.setattr(counting, "stop_at", "passage 150")
    code, line = failing(capsys, "index", folder, "-o", str(index))
    assert (code, line) == (130, "agentprm: Interrupted.")
    assert not (index / "CURRENT").exists()
    done = len(counting.texts)
    assert done >= 100
    monkeypatch.setattr(counting, "stop_at", "")
    assert main(["index", folder, "-o", str(index)]) == 0
    assert len(counting.texts) == 200
    assert f"{done} of them had been embedded before" in " ".join(capsys.readouterr().out.split())


def test_a_folder_of_something_else_is_no_index(tmp_path, notes, capsys):
    for names in (["CURRENT", "000003.log"], ["building/plan.txt"], ["gen-000001/x", "diary.txt"]):
        folder = tmp_path / names[0].replace("/", "-")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("MANIFEST-000001")
        code, line = failing(capsys, "index", str(notes), "-o", str(folder))
        assert code == 2
        assert "other files" in line


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_the_note_is_not_written_through_a_link(index, notes, tmp_path, capsys):
    (tmp_path / "precious").write_text("precious")
    for name in ("agentprm.json", "tmp-agentprm.json", "tmp-CURRENT"):
        (Path(index) / name).unlink(missing_ok=True)
        (Path(index) / name).symlink_to(tmp_path / "precious")
    assert main(["index", str(notes), "-o", index]) == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (Path(index) / "agentprm.json").is_symlink()


def test_fsck_checks_and_goes_back(index, notes, capsys):
    assert main(["fsck", index]) == 0
    assert "is whole: 2 passages" in " ".join(capsys.readouterr().out.split())
    (notes / "more.txt").write_text("More.")
    assert main(["index", str(notes), "-o", index]) == 0
    (Path(index) / "gen-000002" / "ids.npy").write_bytes(b"")
    code, line = failing(capsys, "fsck", index)
    assert code == 1
    assert "--rollback" in line
    assert main(["fsck", index, "--rollback"]) == 0
    assert main(["fsck", index]) == 0
    assert main(["ask", "Who?", "--index", index]) == 0
    assert failing(capsys, "fsck", "nowhere")[0] == 2


def test_the_index_remembers_its_embeddings(notes, tmp_path, capsys):
    index = str(tmp_path / "i")
    assert main(["index", str(notes), "-o", index, "--embeddings", "other"]) == 0
    assert main(["ask", "Who?", "--index", index]) == 0
    capsys.readouterr()
    code, line = failing(capsys, "ask", "Who?", "--index", index, "--embeddings", "packaged")
    assert code == 2
    assert "same embeddings" in line
    (tmp_path / "i" / "agentprm.json").unlink()
    assert failing(capsys, "ask", "Who?", "--index", index)[0] == 2
    assert main(["ask", "Who?", "--index", index, "--embeddings", "other"]) == 0


def test_a_folder_of_embeddings_is_noted_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert opening.embeddings_name("model") == str(tmp_path / "model")
    assert opening.embeddings_name("some/name") == "some/name"


def test_eval_prints_the_measures_and_resumes(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["eval", data, "--limit", "2", "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    for name, value in (("EM", "100.0"), ("F1", "100.0"), ("ACC_R", "100.0"), ("R@2", "50.0")):
        assert re.search(rf"{name} +│ +{value} \[", shown), name
    assert main(["eval", data, "-o", str(out), "-q"]) == 0
    assert "3 questions" in capsys.readouterr().out
    assert len((out / "records.jsonl").read_text().splitlines()) == 3
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert (out / "report.md").read_text().startswith("# data: 1 set-up, 3 questions")
    assert json.loads((out / "report.json").read_text())["setups"][0]["metrics"]["EM"]["mean"] == 1
    rows = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert load_trace(out / rows[2]["runs"][0]["trace"])["question"] == "question 2"


def test_eval_with_an_index(data, tmp_path, capsys):
    index = str(tmp_path / "i")
    assert main(["index", data, "-o", index]) == 0
    capsys.readouterr()
    assert main(["eval", data, "--index", index, "--graph", "rag", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["setups"]
    assert (row["system"], row["questions"], row["settings"]["graph"]) == ("rag", 3, "rag")
    questions = tmp_path / "mine.jsonl"
    questions.write_text('{"question": "Who?", "answer": "London bold"}')
    assert main(["eval", str(questions), "--index", index]) == 0
    assert failing(capsys, "eval", str(questions)) == (
        2, "agentprm: A file of questions has no passages; name their index with --index.",
    )  # fmt: skip


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_eval_compares_the_set_ups_of_a_file(jobs, data, tmp_path, monkeypatch, capsys):
    made = []

    def make_graph(args, models, store, **more):
        made.append((args.graph, args.candidates, args.seed, args.retriever, more))
        return scripted_graph(args, models, store)

    monkeypatch.setattr(opening, "make_graph", make_graph)
    toml = tmp_path / "compare.toml"
    toml.write_text(
        'data = "data"\nout = "results"\nlimit = 2\nbaseline = "search"\n'
        "[prices]\ninput = 1.0\noutput = 2.0\n"
        "[defaults]\ncandidates = 2\n"
        '[[setup]]\nname = "search"\nretriever = "hybrid"\naccept = "always"\nseeds = [3, 4]\n'
        "budget = {model_calls = 7}\n"
        '[[setup]]\nname = "plain"\ngraph = "rag"\ncandidates = 1\nmax_tokens = 9\n'
    )
    options = ["--jobs", jobs, "--json", "-q"]
    assert main(["eval", str(toml), *options]) == 0
    first = json.loads(capsys.readouterr().out)
    search, plain = first["setups"]
    assert (search["runs"], search["settings"]["seed"], search["questions"]) == (2, [3, 4], 2)
    assert plain["cost"] == pytest.approx(10 / 1e6)
    assert {row["baseline"] for row in first["comparisons"]} == {"search"}
    more = {"accept": "always", "budget": {"model_calls": 7}}
    assert made == [
        ("reasoning", 2, 3, "hybrid", more), ("reasoning", 2, 4, "hybrid", more),
        ("rag", 1, 0, None, {"max_tokens": 9}),
    ]  # fmt: skip
    assert main(["eval", str(toml), *options]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert len(made) == 3  # nothing was asked again, so nothing was opened


def test_names_do_not_steer_the_terminal(data, tmp_path, capsys):
    (tmp_path / "data").rename(tmp_path / "[red]data")
    (tmp_path / "c.yaml").write_text('data: "[red]data"\nsetup: [{name: "a\\e]0;owned\\a[red]"}]')
    assert main(["eval", str(tmp_path / "c.yaml")]) == 0
    captured = capsys.readouterr()
    assert "a]0;owned[red]" in captured.out
    assert "[red]data, 3 questions" in captured.out
    assert "\x1b]0" not in captured.out + captured.err


def test_time_left_is_that_of_what_is_asked_and_judged(data, tmp_path, monkeypatch):
    bars = []
    from rich.progress import Progress

    make = Progress.__init__
    monkeypatch.setattr(
        Progress, "__init__", lambda self, *a, **k: (bars.append(self), make(self, *a, **k))[1]
    )
    judge = ScriptedLanguageModel({"": "yes"})
    monkeypatch.setattr("agentprm.cli.models.model_called", lambda name: judge)
    command = ["eval", data, "-o", str(tmp_path / "out"), "--judge", "a judge"]
    assert main([*command, "--limit", "2"]) == 0
    assert main(command) == 0
    answering, judging = next(bar.tasks for bar in reversed(bars) if len(bar.tasks) == 2)
    assert (answering.completed, answering.total) == (3, 3)
    # two were known: the speed is that of the third alone
    assert sum(sample.completed for sample in answering._progress) == 0
    assert (judging.description, judging.completed, judging.total) == ("Judging", 3, 3)


def test_eval_reads_yaml(data, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("data: data\nsetup:\n- {name: a, max-steps: 2}\n- {name: b, seed: 1}\n")
    assert main(["eval", str(tmp_path / "c.yaml"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["setups"]
    assert [(row["system"], row["settings"].get("max_steps")) for row in rows] == [("a", 2), ("b", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = ", "no TOML file"),
        ("dta = 'data'", "no 'dta'; there are data, index"),
        ("data = 'data'", "no set-up"),
        ("data = 'data'\nlimit = 0\n[[setup]]\nname = 'a'", "limit is a whole number"),
        ("data = 'data'\n[[setup]]\ngraph = 'rag'", "a name of its own"),
        ("data = 'data'\n[[setup]]\nname = 'a'\n[[setup]]\nname = 'a'", "a name of its own"),
        ("data = 'data'\n[[setup]]\nname = 'a'\ncandidate = 3", "set-up 'a': there is no 'candidate'"),
        ("data = 'data'\n[[setup]]\nname = 'a'\ncandidates = 0", "at least 1"),
        ("data = 'data'\n[[setup]]\nname = 'a'\ngraph = 'rag'\naccept = 'always'", "for the graph 'rag'"),
        ("data = 'data'\n[[setup]]\nname = 'a'\nseeds = 3", "seeds is a list"),
        ("data = 'data'\n[[setup]]\nname = 'a'\nprices = {input = 1}", "for a million tokens"),
        ("data = 'data'\nbaseline = 'b'\n[[setup]]\nname = 'a'", "no set-up 'b'"),
        ("data = 'nowhere'\n[[setup]]\nname = 'a'", "There is no folder"),
        ("data = 'data'\nindex = 'nowhere'\n[[setup]]\nname = 'a'", "There is no index"),
    ],
)
def test_mistakes_in_a_file_of_set_ups(text, message, data, tmp_path, capsys):
    (tmp_path / "c.toml").write_text(text)
    code, line = failing(capsys, "eval", str(tmp_path / "c.toml"))
    assert code == 2
    assert message in line


def test_set_ups_reach_the_real_graphs(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    script = {"Replace a weak step": "Final answer: London", "": "London bold"}
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(ScriptedLanguageModel(script)))
    (tmp_path / "c.toml").write_text(
        "data = 'data'\nlimit = 1\n"
        "[[setup]]\nname = 'rag'\ngraph = 'rag'\nretriever = 'words'\nk = 2\npassages = 1\n"
        "[[setup]]\nname = 'search'\nfeedback = 'rocchio'\naccept = 'always'\nbudget = {model_calls = 9}\n"
    )
    assert main(["eval", str(tmp_path / "c.toml"), "--json"]) == 0
    rag, search = json.loads(capsys.readouterr().out)["setups"]
    assert rag["model_calls"] == 1
    assert search["model_calls"] > 1
    (tmp_path / "c.toml").write_text("data = 'data'\n[[setup]]\nname = 'a'\naccept = 'never'\n")
    assert failing(capsys, "eval", str(tmp_path / "c.toml"))[0] == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("value", VALUES)
def test_every_strategy_and_value_has_its_option(strategy, value, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    model = ScriptedLanguageModel({"": "London bold"})
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(model))
    monkeypatch.chdir(tmp_path)
    assert main(["index", data, "-o", "i"]) == 0
    options = ["--index", "i", "--mode", "step", "--strategy", strategy, "--value", value, "--max-steps", "2"]
    assert main(["ask", "Where?", *options, "--candidates", "2", "-q"]) == 0


def test_a_plan_is_searched_only_where_something_reads(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    model, reader = ScriptedLanguageModel({"": "London"}), ScriptedReader({"": {"London": 0.9}})
    monkeypatch.chdir(tmp_path)
    assert main(["index", data, "-o", "i"]) == 0
    options = ["ask", "Where?", "--index", "i", "--mode", "plan", "--strategy", "beam", "-q"]
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(model, reader=reader))
    assert main(options) == 0
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(model))
    code, line = failing(capsys, *options)
    assert code == 2
    assert "give a reader" in line


def test_eval_on_a_cluster_opens_everything_in_the_workers(data, tmp_path, monkeypatch, capsys):
    made = []

    def cluster(address, **options):
        made.append((address, options))
        return LocalExecutor(2)

    monkeypatch.setattr("agentprm.scale.RayExecutor", cluster)
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    loaded = []

    def open_models(args, progress):
        loaded.append(args.index)
        return Models(ScriptedLanguageModel({"": "London bold"}))

    monkeypatch.setattr(opening, "open_models", open_models)
    monkeypatch.chdir(tmp_path)
    assert main(["index", data, "-o", "i"]) == 0
    options = ["--ray", "head:6379", "--workers", "2", "--gpus", "0.5", "-o", "out"]
    assert main(["eval", data, "--index", "i", "--graph", "rag", *options]) == 0
    assert re.search(r"EM +│ +100.0 \[", capsys.readouterr().out)
    assert made == [("head:6379", {"workers": 2, "threads": 1, "num_gpus": 0.5})]
    assert loaded == [str(tmp_path / "i")]  # by the worker; the driver itself loads no model
    # the log is that of a run without a cluster
    assert main(["eval", data, "--index", "i", "--graph", "rag", "-o", "out"]) == 0
    assert len((tmp_path / "out" / "records.jsonl").read_text().splitlines()) == 3


def test_no_answer_is_a_failure_that_is_told(index, capsys):
    code, line = failing(capsys, "ask", "silence", "--index", index)
    assert code == 1
    assert "No answer was found (model_calls)" in line


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["index", "-h"],
        ["fsck", "-h"],
        ["ask", "-h"],
        ["eval", "-h"],
        ["eval-reward", "-h"],
        ["serve", "-h"],
        ["trace", "-h"],
    ],
)
def test_help_has_examples(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "examples:\n  agentprm " in out
    assert max(map(len, out.splitlines())) <= 100


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.match(r"agentprm( \d+\.\d+|, run from its source)", capsys.readouterr().out)


def test_help_and_mistakes_do_not_load_heavy_libraries():
    code = (
        "import sys; from agentprm.cli import main; main(['ask', '', '--index', 'x']); main(['--help']);"
        "heavy = ('torch', 'transformers', 'sentence_transformers');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]"), done.stdout


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_real_graphs_with_a_scripted_model(graph, index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    script = {
        "Replace a weak step": "Final answer: Alfred Hitchcock",
        "Say what evidence": "Goal: the director\nSearch: Vertigo",
        "Copy from": "Vertigo is a film by Alfred Hitchcock.",
        "": "Alfred Hitchcock",
    }
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(ScriptedLanguageModel(script)))
    trace = tmp_path / "t.json"
    several = [] if graph == "prs" else ["--candidates", "2"]  # a plan without a reader has one
    options = ["--index", index, "--graph", graph, "--trace", str(trace), *several]
    assert main(["ask", "Who directed Vertigo?", *options]) == 0
    captured = capsys.readouterr()
    assert "Alfred Hitchcock" in captured.out
    assert graph == "hpt" or "answer: Alfred Hitchcock" in captured.err  # whose rungs speak for themselves
    loaded = load_trace(trace)
    # Some may do without a search, and one plan reads a single passage of embeddings that mean nothing.
    if graph not in ("adaptive", "routed", "cr-planner", "hpt", "prs"):
        assert "[1] " in captured.out
        assert "vertigo.txt" in captured.out
        assert "vertigo.txt" in {citation["source"] for citation in loaded["citations"]}
    assert loaded["usage"]["model_calls"] >= 1
    searches = graph in ("reasoning", "rearter", "r2", "prs", "glore", "cr-planner")
    assert bool(loaded["steps"]) == searches
    assert ("candidates" in loaded["settings"]) == (searches and graph != "prs")  # the others have none


def test_steps_may_be_recalled_by_option_or_file(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    monkeypatch.setattr(
        opening, "open_models", lambda args, progress: Models(ScriptedLanguageModel({"": "Hitchcock"}))
    )
    file, trace = tmp_path / "ask.toml", tmp_path / "t.json"
    for graph, said, wanted in (
        ("reasoning", "", False),
        ("reasoning", "recall = true", True),
        ("rearter", "", True),
        ("rearter", "recall = false", False),
    ):
        file.write_text(said)
        options = ["--index", index, "--graph", graph, "--config", str(file), "--trace", str(trace)]
        assert main(["ask", "Who directed Vertigo?", *options]) == 0
        loaded = load_trace(trace)
        recalled = [step for step in loaded["steps"] if step["query"] and not step["retrieve"]]
        assert bool(recalled) == wanted
        assert loaded["settings"].get("recall") == (None if not said else wanted)
    options = ["--index", index, "--graph", "note", "--recall"]
    assert main(["ask", "Who directed Vertigo?", *options]) == 2
    assert "takes no --recall" in capsys.readouterr().err


@pytest.mark.parametrize("graph", ["reasoning", "r2", "goal"])
def test_experience_is_kept_in_a_file_for_the_next_question(graph, index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    script = {"Say what evidence": "Goal: the director\nSearch: Vertigo", "": "Alfred Hitchcock"}
    model = ScriptedLanguageModel(script)
    monkeypatch.setattr(opening, "open_models", lambda args, progress: Models(model))
    options = ["--index", index, "--graph", graph, "--experience", str(tmp_path / "memory.sqlite")]
    assert main(["ask", "Who directed Vertigo?", *options]) == 0
    assert not any("Example: " in prompt for prompt in model.prompts)
    assert main(["ask", "Who directed Psycho?", *options]) == 0
    assert any("Example: Who directed Vertigo?" in prompt for prompt in model.prompts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--experience", "no/such/folder/m.sqlite"], "give a file of its own"),
        (["--experience", "text.txt"], "give a file of its own"),
        (["--experience", "m.sqlite", "--graph", "rag"], "takes no --experience"),
        (["--experience", "m.sqlite", "--mode", "plan"], "mode 'plan'"),
    ],
)
def test_mistakes_with_experience(options, message, index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no database " * 100)
    code, line = failing(capsys, "ask", "Who?", "--index", index, *options)
    assert code == 2
    assert message in line


SETTINGS = """
[ask]
mode = "plan"
reader = "my-reader"
planner = "syntax"
reward = "reader"
passages = 2
k = 4
candidates = 2
threshold = "none"
max_steps = 6
"""


def test_every_part_can_be_named_in_a_file(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(opening, "make_graph", MAKE_GRAPH)
    asked = []

    def reader_called(name, *, packaged_model):
        asked.append((name, packaged_model))
        return ScriptedReader({"Vertigo": {"Alfred Hitchcock": 0.8, "film": 0.1}, "born": {"London": 0.7}})

    monkeypatch.setattr(opening, "open_models", OPEN_MODELS)
    monkeypatch.setattr("agentprm.cli.models.model_called", lambda name: ScriptedLanguageModel({}))
    monkeypatch.setattr("agentprm.cli.models.reader_called", reader_called)
    file, trace = tmp_path / "ask.toml", tmp_path / "t.json"
    file.write_text(SETTINGS)
    question = "Where was the director of Vertigo born?"
    options = ["--index", index, "--config", str(file), "--trace", str(trace)]
    assert main(["ask", question, *options]) == 0
    assert "plan: 1. Who directed Vertigo? 2. Where was #1 born?" in " ".join(capsys.readouterr().err.split())
    assert asked == [("my-reader", True)]
    loaded = load_trace(trace)
    assert loaded["answer"] == "London"
    assert loaded["usage"]["model_calls"] == 0
    chosen = {"mode": "plan", "reader": "my-reader", "candidates": 2, "k": 4, "threshold": "none"}
    assert loaded["settings"].items() >= chosen.items()
    assert {len(step["doc_ids"]) for step in loaded["steps"]} == {2}

    assert main(["ask", question, *options, "--graph", "rag"]) == 2
    assert "The graph rag takes no --reward" in capsys.readouterr().err
    assert main(["ask", question, "--index", index, "--graph", "goal", "--threshold", "0.3"]) == 2
    assert "takes no --threshold" in capsys.readouterr().err


# Mistakes


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "invalid choice"),
        (["index", "x"], "-o/--output"),
        (["ask"], "question"),
        (["ask", "Who?"], "--index"),
        (["ask", "Who?", "--index", "x", "--candidates", "0"], "at least 1"),
        (["ask", "Who?", "--index", "x", "--threshold", "high"], "no score"),
        (["ask", "Who?", "--index", "x", "--threshold", "nan"], "no score"),
        (["ask", "Who?", "--index", "x", "--graph", "magic"], "invalid choice"),
        (["ask", "Who?", "--index", "x", "--seed", "soon"], "invalid int"),
        (["ask", "  ", "--index", "x"], "question is empty"),
        (["ask", "Who?", "--index", "nowhere"], "agentprm index"),
        (["index", "nowhere", "-o", "i"], "check the path"),
        (["eval", "nowhere"], "There is no folder"),
        (["eval", "nowhere.toml"], "cannot be read"),
        (["eval", "nowhere", "--workers", "2"], "--ray ADDRESS"),
        (["eval", "nowhere", "--ray", "auto"], "needs --index"),
        (["eval", "nowhere", "--ray", "auto", "--gpus", "-1"], "number of at least 0"),
        (["trace", "show", "nowhere.json"], "cannot be read"),
        (["trace", "mermaid", "a.json", "b.json"], "draws 1 at a time"),
        (["trace", "show", "a.json", "-o", "b"], "in the terminal"),
        (["trace", "html", "a.json", "-o", "no/such/page.html"], "There is no folder"),
        (["ask", "Who?", "--index", "x", "--trace", "no/such/t.json"], "There is no folder"),
        (["ask", "Who?", "--index", "x", "--trace", "."], "is a folder"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = failing(capsys, *argv)
    assert code == 2
    assert message in line


def test_empty_folder_and_bad_chunks(tmp_path, notes, capsys):
    (tmp_path / "empty").mkdir()
    code, line = failing(capsys, "index", str(tmp_path / "empty"), "-o", str(tmp_path / "i"))
    assert code == 2
    assert "No readable document" in line
    code, line = failing(
        capsys, "index", str(notes), "-o", str(tmp_path / "i"), "--chunk-size", "5", "--chunk-overlap", "9"
    )
    assert code == 2
    assert "chunk_overlap" in line


def test_places_where_no_index_may_be_written(notes, tmp_path, capsys):
    for target, message in ((notes, "other files"), (notes / "vertigo.txt", "is a file")):
        code, line = failing(capsys, "index", str(notes), "-o", str(target))
        assert code == 2
        assert message in line
    code, line = failing(capsys, "index", str(notes), "-o", str(notes / "vertigo.txt" / "i"))
    assert code == 2
    assert "cannot be written" in line
    assert sorted(path.name for path in notes.iterdir()) == ["london.md", "picture.png", "vertigo.txt"]


def test_damaged_indexes(index, tmp_path, capsys):
    (tmp_path / "index" / "agentprm.json").write_text("[]")
    code, line = failing(capsys, "ask", "Who?", "--index", index)
    assert code == 2
    assert "--embeddings" in line
    (tmp_path / "index" / "agentprm.json").unlink()
    (tmp_path / "index" / "CURRENT").write_text("nonsense")
    code, line = failing(capsys, "ask", "Who?", "--index", index)
    assert code == 2
    assert "index again" in line


def test_not_a_trace(notes, capsys):
    code, line = failing(capsys, "trace", "show", str(notes / "vertigo.txt"))
    assert code == 2
    assert "not a JSON file" in line


@pytest.mark.parametrize(
    ("question", "code", "message"),
    [
        ("fail", 1, "The service is overloaded; try again later."),
        ("refuse", 2, "The question is too long; shorten it."),
        ("bug", 1, "Unexpected RuntimeError: wires crossed. Set AGENTPRM_DEBUG=1"),
        ("interrupt", 130, "Interrupted."),
    ],
)
def test_failures_while_running(index, capsys, question, code, message):
    found, line = failing(capsys, "ask", question, "--index", index)
    assert found == code
    assert message in line


def test_debugging_shows_the_traceback(index, monkeypatch, capsys):
    monkeypatch.setenv("AGENTPRM_DEBUG", "1")
    assert main(["ask", "bug", "--index", index]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_extra_is_named(index, monkeypatch, capsys):
    real = builtins.__import__

    def without_rich(name, *rest, **options):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    code, line = failing(capsys, "ask", "Who?", "--index", index)
    assert code == 2
    assert "pip install 'agentprm[cli]'" in line


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    # more than a pipe holds
    trace = trace_of({"question": "Who?", "prm_steps": [step(str(i), None) for i in range(800)]})
    save_trace(trace, tmp_path / "t.json")
    command = f"{sys.executable} -m agentprm.cli trace show {tmp_path / 't.json'} | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "Who?\n"
    assert done.stderr == ""


def test_output_that_cannot_be_encoded_is_replaced(tmp_path):
    save_trace(trace_of({"question": "Où?", "prm_steps": [step("1", None)]}), tmp_path / "t.json")
    done = subprocess.run(
        [sys.executable, "-m", "agentprm.cli", "trace", "show", str(tmp_path / "t.json")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.startswith("O??")


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
import agentprm.cli as cli
from agentprm.state import ReasoningState
from langgraph.graph import END, START, StateGraph

def slow(state: ReasoningState):
    print("started", flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.1)

builder = StateGraph(ReasoningState)
builder.add_node("slow", slow)
builder.add_edge(START, "slow")
builder.add_edge("slow", END)
cli.opening.open_graph = lambda *args: (builder.compile(), {}, None)
sys.argv[1:] = ["ask", "Who?", "--index", "x"]
sys.exit(cli.main())
"""


def test_ctrl_c_ends_a_call_under_way_in_a_thread():
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert err == "agentprm: Interrupted.\n"
    assert time.monotonic() - start < 20
