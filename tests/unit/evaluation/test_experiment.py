"""Several set-ups on the same questions: what is measured, kept, resumed and reported."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from langchain_core.documents import Document

from agentprm.budget import empty_usage, record
from agentprm.errors import ConfigurationError, InputError, TransientModelError
from agentprm.evaluation import (
    Prices,
    QaDataset,
    QaQuestion,
    Setup,
    dataset_from,
    evaluate,
    html_report,
    markdown_report,
    read_dataset,
)
from agentprm.evaluation.rankings import ranking_scores
from agentprm.evaluation.summary import calibration_of
from agentprm.testing import ScriptedLanguageModel
from agentprm.trace import load_trace

QUESTIONS = tuple(
    QaQuestion(f"q{i}", f"question {i}", (f"answer {i}",), frozenset({"d1", "d2"}), {"type": f"type {i % 2}"})
    for i in range(6)
)
DATA = QaDataset("demo", QUESTIONS, {"d1": "One", "d2": "Two", "d3": "Three"})


class Graph:
    """Right on the questions that it knows; a search whose first candidate loses."""

    def __init__(self, known, tokens=100, fails=""):
        self.known, self.tokens, self.fails = known, tokens, fails
        self.asked = []

    def invoke(self, input):
        text = input["question"]
        self.asked.append(text)
        if text == self.fails:
            raise TransientModelError("slow down")
        record(model_calls=2, prompt_tokens=self.tokens, completion_tokens=10, computed_tokens=50)
        number = int(text.split()[-1])
        answer = f"answer {number}" if number in self.known else "wrong"
        step = {
            "id": "1", "parent_id": None, "depth": 1, "query": "q", "retrieve": True, "doc_ids": ["d1", "d2"],
            "thought": "found", "final_answer": answer, "score": 0.9 if number in self.known else 0.2,
            "value": 0.5, "status": "committed", "usage": empty_usage(),
        }  # fmt: skip
        other = {**step, "id": "2", "final_answer": "right?", "score": 0.1, "status": "rejected"}
        cited = {"doc_id": "d1", "title": "One", "source": "", "text": "here is answer 1"}
        return {
            "question": text, "answer": answer, "prm_steps": [step, other], "citations": [cited],
            "prm_documents": [Document(id="d1", page_content="x"), Document(id="d2", page_content="y")],
            "prm_stop_reason": "final_answer",
        }  # fmt: skip


def without_seconds(evaluation):
    numbers = evaluation.as_dict()
    for setup in numbers["setups"]:
        setup.pop("seconds_median")
        setup.pop("seconds_mean")
    rows = json.loads(json.dumps(evaluation.rows))
    for row in rows:
        for run in row["runs"]:
            run.pop("seconds")
            run["usage"].pop("seconds")
    return numbers, rows


def test_everything_is_measured(tmp_path):
    found = evaluate(
        DATA,
        {"weak": Graph({0, 1}), "strong": Graph({0, 1, 2, 3}, tokens=300)},
        out=tmp_path,
        prices=Prices(2.0, 10.0),
    )
    weak, strong = found.setups
    retrieval = dict.fromkeys(("R@2", "R@5", "ALL@2", "ALL@5", "nDCG@10", "MAP", "CITED_GOLD"), 1)
    assert {name: value.mean for name, value in weak.report.metrics.items()} == pytest.approx(
        {"EM": 2 / 6, "F1": 2 / 6, "ACC_R": 2 / 6, "CITED": 1 / 6, **retrieval}
    )
    assert weak.cost == pytest.approx((2 * 100 + 10 * 10) / 1e6)
    assert strong.report.tokens_asked == 310
    assert weak.by_type["type 0"] == pytest.approx(weak.by_type["type 0"] | {"n": 3, "EM": 1 / 3})
    assert weak.failures == {"reading": 4}
    assert weak.endings == {"final_answer": 6}
    # twelve candidates: the winner right on two with .9 and wrong on four with .2, the loser wrong with .1
    assert weak.calibration.items == 12
    assert weak.calibration.auc == 1
    em = next(row for row in found.comparisons if row.metric == "EM")
    assert (em.setup, em.baseline) == ("strong", "weak")
    assert em.result.difference.mean == pytest.approx(2 / 6)
    assert em.result.randomisation_p == 0.5  # two differences of one sign: two of four exchanges
    run = found.rows[0]["runs"][1]
    assert load_trace(tmp_path / run["trace"])["answer"] == run["prediction"] == "answer 0"
    json.dumps(found.as_dict(), allow_nan=False)


def test_runs_that_differ_in_the_seed_are_one_row():
    setups = [Setup("search", Graph(known), {"seed": seed}) for seed, known in enumerate([{0, 1}, {1}])]
    (row,) = evaluate(DATA, setups).setups
    assert row.report.metrics["EM"].mean == pytest.approx(1.5 / 6)
    assert (row.runs, row.settings["seed"], row.report.questions) == (2, [0, 1], 6)


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_run_that_was_stopped_gives_the_same_report(tmp_path, jobs):
    whole = evaluate(DATA, {"a": Graph({0}), "b": Graph({1, 2})}, out=tmp_path / "whole")
    with pytest.raises(Exception, match="slow down"):
        evaluate(
            DATA, {"a": Graph({0}), "b": Graph({1, 2}, fails="question 3")}, out=tmp_path / "x", jobs=jobs
        )
    first, second = Graph({0}), Graph({1, 2})
    again = evaluate(DATA, {"a": first, "b": second}, out=tmp_path / "x", jobs=jobs)
    assert first.asked == []
    assert "question 3" in second.asked
    assert "question 0" not in second.asked
    assert without_seconds(again) == without_seconds(whole)
    third = Graph({0})
    assert evaluate(DATA, {"a": third, "b": Graph({1, 2})}, out=tmp_path / "x").as_dict() == again.as_dict()
    assert third.asked == []


def test_a_question_whose_text_has_changed_is_asked_again(tmp_path):
    evaluate(DATA, {"a": Graph({0})}, out=tmp_path)
    changed = QaDataset("demo", (QaQuestion("q0", "other question 0", ("answer 0",)), *QUESTIONS[1:]))
    graph = Graph({0})
    assert evaluate(changed, {"a": graph}, out=tmp_path).rows[0]["runs"][0]["prediction"] == "answer 0"
    assert graph.asked == ["other question 0"]


def test_a_killed_process_resumes_to_the_same_report(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from test_experiment import DATA, Graph, evaluate\n"
        "class Slow(Graph):\n"
        "    def invoke(self, input):\n"
        "        time.sleep(0.3)\n"
        "        return super().invoke(input)\n"
        "evaluate(DATA, {'a': Slow({0, 1})}, out=sys.argv[1])\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", os.getcwd())])
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, str(script), str(out)], env={**os.environ, "PYTHONPATH": path}
    )
    log = out / "records.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = log.read_text().count("\n")
    assert 2 <= kept < 6
    graph = Graph({0, 1})
    resumed = evaluate(DATA, {"a": graph}, out=out)
    assert len(graph.asked) == 6 - kept
    assert without_seconds(resumed) == without_seconds(
        evaluate(DATA, {"a": Graph({0, 1})}, out=tmp_path / "y")
    )


def test_a_judge_is_asked_once_for_each_answer(tmp_path):
    judge = ScriptedLanguageModel({"Given answer: answer": "Yes.", "Given answer: wrong": "no"})
    graphs = {"a": Graph({0, 1, 2}), "b": Graph({0, 1, 2})}
    found = evaluate(DATA, graphs, out=tmp_path, judge=judge)
    assert found.setups[0].report.metrics["JUDGE"].mean == 0.5
    silent = ScriptedLanguageModel({})
    evaluate(DATA, graphs, out=tmp_path, judge=silent)  # would raise if it were asked
    unsure = evaluate(DATA, graphs, judge=ScriptedLanguageModel({"": "maybe"}))
    assert "JUDGE" not in unsure.setups[0].report.metrics
    assert "neither yes nor no of 6 answers" in unsure.notes[0]


class Seen(HTMLParser):
    """What a browser would load or run, and the text it would show."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [(tag, key) for key, _ in attrs if key in ("src", "href", "onerror", "onclick")]

    def handle_data(self, data):
        self.text += data


def test_the_reports_are_whole_and_load_nothing(tmp_path):
    hostile = "<script>alert(1)</script> | x"
    questions = [
        QaQuestion("q <0>", f"{hostile} 0", ("answer 0",), frozenset({"d1", "d3"}), {"type": hostile})
    ]
    data = QaDataset("<b>data", tuple(questions), DATA.titles)
    found = evaluate(data, {hostile: Graph({1}), "b": Graph({0})}, out=tmp_path)
    page = html_report(found)
    seen = Seen()
    seen.feed(page)
    assert not {"script", "img", "link", "iframe", "b"} & set(seen.tags)
    assert seen.loads == []
    assert "default-src 'none'" in page
    assert hostile in seen.text
    for heading in ("Results", "Cost", "Differences", "By type of question", "What fails", "Calibration"):
        assert heading in seen.text
    assert seen.tags.count("svg") == 4
    text = markdown_report(found)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert "\\| x" in text
    assert all(line.endswith("|") for line in table)
    assert "| b - " in text


def test_nothing_in_a_name_is_markup_in_a_markdown_report():
    name = "<img src=x>|a\\|b `c` [d](javascript:e)\u2028\x1b[31m &"
    questions = (QaQuestion("q", "question 0", ("answer 0",), frozenset(), {"type": name}),)
    setups = [Setup(name + "1", Graph({0}), {"model": name}), Setup(name + "2", Graph({}), {"model": name})]
    text = markdown_report(evaluate(QaDataset(name, questions), setups))
    assert text.startswith(
        "# &lt;img src=x>\\|a\\\\\\|b \\`c\\` [d]\\(javascript:e) [31m &amp;: 2 set-ups, 1 question\n"
    )
    assert not re.search(r"<img|\]\(|\x1b|\u2028|&(?!amp;|lt;)|(?<!\\)`", text)
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("| ")]
    assert len(tables) > 4
    for table in tables:
        assert len({len(_BAR.findall(row)) for row in table}) == 1, table


_BAR = re.compile(r"(?<!\\)(?:\\\\)*\|")  # one that no backslash escapes


def test_tokens_that_a_reader_reads_count_in_the_plot_of_accuracy_against_tokens():
    class Reader(Graph):
        def invoke(self, input):
            record(read_tokens=800)
            return super().invoke(input)

    page = html_report(evaluate(DATA, {"reads": Reader({0}, tokens=0), "asks": Graph({0}, tokens=490)}))
    plot = page[page.index('aria-label="F1') :]
    right = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', plot[: plot.index("</svg>")])]
    width = right[1] - 56  # where the axis begins
    assert (right[0] - 56) / width == pytest.approx(810 / 500, rel=0.01)


def test_ids_of_any_kind_are_ranked():
    """trec_eval reads ids to their first NUL, and half of a surrogate pair ended the process."""
    questions = [
        QaQuestion("q", "?", (), frozenset({"a\0right", "\ud800"}), {}, {"a\0right": 2.0, "\ud800": 1.0})
    ]
    plain = [QaQuestion("q", "?", (), frozenset({"x", "y"}), {}, {"x": 2.0, "y": 1.0})]
    assert ranking_scores(questions, [["a\0wrong", "a\0right", "\ud800", "a\0right"]]) == ranking_scores(
        plain, [["w", "x", "y"]]
    )


def test_a_data_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "question": ["question 0", "question 1"],
            "answer": ["answer 0", None],
            "id": ["x", "y"],
            "type": ["t", None],
        }
    )
    data = dataset_from(frame, "frame")
    assert data.questions[0] == QaQuestion("x", "question 0", ("answer 0",), extra={"type": "t"})
    assert data.questions[1] == QaQuestion("y", "question 1")
    found = evaluate(frame, {"a": Graph({0})})
    assert found.setups[0].report.metrics["EM"].mean == 1
    lists = pandas.DataFrame({"text": ["question 0"], "answers": [["a", "b"]], "gold": [["d1"]]})
    assert dataset_from(lists).questions[0] == QaQuestion("0", "question 0", ("a", "b"), frozenset({"d1"}))


def test_a_file_of_questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "Who?", "answers": ["A"], "gold": ["d1"]}\n\n{"id": 7, "text": "Where?"}\n')
    data = read_dataset(path)
    assert data.name == "mine"
    assert data.questions == (
        QaQuestion("0", "Who?", ("A",), frozenset({"d1"})),
        QaQuestion("7", "Where?"),
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no question"),
        ("text", "holds no questions"),
        ([{"answer": "x"}], "row 0: there is no question"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "occurs twice"),
        ([{"text": "a", "answers": [1]}], "list of strings"),
    ],
)
def test_rows_that_are_no_questions(rows, message):
    with pytest.raises(InputError, match=message):
        dataset_from(rows)


@pytest.mark.parametrize(
    ("setups", "options", "message"),
    [
        ([], {}, "nothing to evaluate"),
        ([Setup("a", Graph(())), Setup("a", Graph(()))], {}, "there twice"),
        ({"a": Graph(())}, {"baseline": "b"}, "no set-up 'b'"),
    ],
)
def test_set_ups_that_are_none(setups, options, message):
    with pytest.raises(ConfigurationError, match=message):
        evaluate(DATA, setups, **options)


def test_prices_are_numbers():
    with pytest.raises(ConfigurationError, match="price of output"):
        Prices(1.0, -1.0)


def test_calibration_by_hand():
    found = calibration_of([(0.95, True), (0.91, True), (0.9, False), (0.15, False)])
    assert found.auc == 1.0
    assert found.bins == (
        (pytest.approx(0.15), 0.0, 1),
        (pytest.approx((0.95 + 0.91 + 0.9) / 3), pytest.approx(2 / 3), 3),
    )
    assert calibration_of([]) is None
    logits = calibration_of([(-3.0, False), (2.0, True)])
    assert (logits.auc, logits.brier, logits.ece, logits.bins) == (1.0, None, None, ())
