"""Terminal and Mermaid views: everything is shown, nothing untrusted has power, 80 columns suffice."""

import builtins
import io
import re

import pytest
from langchain_core.documents import Document
from rich.console import Console

from agentprm.budget import empty_usage
from agentprm.errors import MissingDependencyError
from agentprm.trace import (
    answer_panel,
    least_confidence,
    search_tree,
    sources_table,
    to_html,
    to_mermaid,
    trace_of,
)
from agentprm.trace.text import cost_line, shown_line

USAGE = {**empty_usage(), "model_calls": 3, "prompt_tokens": 1200, "completion_tokens": 44, "seconds": 1.26}
EVIL = "[bold]x[/bold] [/] [link=http://x]y[/link] \x1b[31mred \x1b]8;;http://x\x07 \u202eabc \x9b2J"


def step(key, parent, status, query, **rest):
    return {
        "id": key, "parent_id": parent, "depth": key.count(".") + 1, "query": query, "retrieve": True,
        "doc_ids": [], "thought": "", "final_answer": None, "score": None, "value": None,
        "status": status, "usage": USAGE, **rest,
    }  # fmt: skip


@pytest.fixture
def trace():
    steps = [
        step("1", None, "committed", "Who directed Vertigo?", thought="Hitchcock did.", doc_ids=["d1", "d2"],
             cited_ids=["d1"], score=0.81, value=0.77),
        step("1~1", "1", "simulated", "When was he born?", score=0.7),
        step("2", None, "rejected", "What is Vertigo?", thought="A film.", doc_ids=["d2"], score=0.3),
        step("3", None, "unparsed", "", output="lorem ipsum"),
        step("1.1", "1", "rejected", "When?", score=0.1, value=0.1),
        step("1.1r", "1", "committed", "When was Hitchcock born?", refines="1.1", critique="Names nobody."),
        step("1.1r.1", "1.1r", "committed", "", final_answer="1899", score=0.9),
    ]  # fmt: skip
    documents = [
        Document(
            id="d1", page_content="Vertigo is a film.", metadata={"title": "Vertigo", "source": "f.txt"}
        ),
        Document(id="d2", page_content="A fear.", metadata={"title": "Vertigo (symptom)"}),
    ]
    return trace_of(
        {
            "question": "When was the director of Vertigo born?",
            "answer": "1899",
            "citations": [{"doc_id": "d1", "title": "Vertigo", "source": "f.txt", "text": "A film."}],
            "prm_documents": documents,
            "prm_steps": steps,
            "prm_stop_reason": "final_answer",
            "prm_usage": {
                **USAGE,
                "model_calls": 21,
                "computed_tokens": 700,
                "retrievals": 1,
                "reward_calls": 2,
            },
        }
    )


def drawn(renderable, width=80, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(renderable)
    return console.file.getvalue()


def test_tree_shows_every_step(trace):
    text = drawn(search_tree(trace))
    lines = text.splitlines()
    assert lines[0] == "When was the director of Vertigo born?"
    for expected in (
        "├── ● 1 Who directed Vertigo?",
        "found Hitchcock did.",
        "cites Vertigo",
        "committed, score 0.81, value 0.77; 3 calls, 1,244 tokens, 1.3 s",
        "│   ├── » 1~1 When was he born?",
        "look-ahead, score 0.70",
        "✗ 2 What is Vertigo?",
        "read Vertigo (symptom)",
        "? 3 (conclusion)",
        "output lorem ipsum",
        "committed, refines 1.1",
        "critique Names nobody.",
        "● 1.1r.1 (conclusion)",
        "answer 1899",
    ):
        assert expected in text, expected
    assert "rejected, score 0.10;" in text  # a value equal to the score is not repeated
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text


def test_committed_is_bold_and_rejected_dim(trace):
    text = drawn(search_tree(trace), force_terminal=True, color_system="standard")
    assert re.search(r"\x1b\[1m● 1\x1b", text)
    assert re.search(r"\x1b\[2m✗ 2\x1b", text)


def test_parents_that_come_after_their_children_are_found(trace):
    text = drawn(search_tree({**trace, "steps": trace["steps"][::-1]}))
    assert text.count("query") == 0
    assert all(glyph in text for glyph in ("● 1 ", "» 1~1", "✗ 1.1 ", "● 1.1r.1"))


@pytest.mark.parametrize("width", [20, 40, 80])
def test_long_texts_are_clipped_and_shown_whole_on_request(trace, width):
    trace["steps"][0]["thought"] = "word " * 500 + "end"
    short, whole = (drawn(search_tree(trace, full=full), width) for full in (False, True))
    assert "…" in short
    assert whole.count("word") == 500
    assert max(map(len, (short + whole).splitlines())) <= width


def test_markup_and_escape_sequences_have_no_power(trace):
    for key in ("query", "thought", "final_answer", "critique"):
        trace["steps"][0][key] = EVIL
    trace["steps"][0]["cited_ids"] = [EVIL]
    trace["documents"][0]["title"] = trace["question"] = trace["answer"] = trace["stop_reason"] = EVIL
    trace["citations"][0].update(title=EVIL, text=EVIL, source=EVIL)
    for view in (
        search_tree(trace),
        answer_panel(trace),
        sources_table(trace),
        search_tree({**trace, "steps": []}),
    ):
        text = drawn(view, width=300)
        assert "[bold]x[/bold]" in text
        assert not set(text) & set("\x1b\x07\x9b\u202e")
        coloured = drawn(view, width=300, force_terminal=True, color_system="standard")
        assert not re.search(r"\x1b(?!\[[0-9;]*m)", coloured)
        assert "\x1b[31m" not in coloured


def test_plain_retrieval_shows_its_passages(trace):
    text = drawn(search_tree({**trace, "steps": []}))
    assert "● cited  Vertigo\n" in text
    assert "○ read  Vertigo (symptom)" in text


def test_an_answer_that_a_reader_is_hardly_sure_of_is_called_a_guess(trace):
    chain = [{**step, "confidence": 0.9} for step in trace["steps"]]
    committed = [number for number, step in enumerate(chain) if step["status"] == "committed"]
    rejected = next(number for number, step in enumerate(chain) if step["status"] == "rejected")
    chain[rejected]["confidence"] = 0.01
    sure = {**trace, "steps": chain}
    assert least_confidence(chain) == 0.9
    assert "guess" not in drawn(answer_panel(sure)) + drawn(answer_panel(trace))
    assert least_confidence(trace["steps"]) is None
    chain[committed[0]]["confidence"] = 0.04
    assert least_confidence(chain) == 0.04
    assert "a guess: the reader gives a step's finding a probability of 0.04" in " ".join(
        drawn(answer_panel(sure), width=200).split()
    )
    assert "a guess: the reader gives" in to_html(sure)
    assert "guess" not in drawn(answer_panel({**sure, "answer": ""}))


def test_answer_and_sources(trace):
    panel = drawn(answer_panel(trace))
    assert "1899" in panel
    assert "stopped: final_answer; 21 model calls, 1,244 tokens, 700 computed, 1" in panel
    sources = drawn(sources_table(trace))
    assert sources.startswith("[1] Vertigo  f.txt")
    assert "(no answer)" in drawn(answer_panel({**trace, "answer": ""}))


def test_views_say_which_extra_they_need(trace, monkeypatch):
    real = builtins.__import__

    def without_rich(name, *rest, **options):
        if name.split(".")[0] == "rich":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    for view in (search_tree, answer_panel, sources_table):
        with pytest.raises(MissingDependencyError, match=r"agentprm\[cli\]"):
            view(trace)


def test_mermaid_is_a_tree(trace):
    text = to_mermaid(trace)
    lines = text.splitlines()
    assert lines[0] == "flowchart TD"
    assert "  q --> s1" in lines
    assert "  s1 -.-> s2" in lines
    assert "  s6 --> s7" in lines
    assert "  s7 ==> a" in lines
    assert "  class s1,s6,s7 committed" in lines
    assert 'a(["Answer 1899"])' in text
    assert "d1" in to_mermaid({**trace, "steps": []})


def test_mermaid_labels_hold_no_syntax(trace):
    nasty = (
        'end"] --> x; %% style q fill:#f00; click q "javascript:x" `md` <script>1. - a</script> #quot; '
        + EVIL
    )
    trace["question"] = trace["steps"][0]["query"] = trace["steps"][0]["thought"] = nasty
    trace["steps"][0]["id"] = trace["answer"] = nasty
    for other in trace["steps"][1:]:
        other["parent_id"] = nasty if other["parent_id"] == "1" else other["parent_id"]
    for line in to_mermaid(trace).splitlines():
        label = re.fullmatch(r'  \w+(?:\["|\(\[")(.*)(?:"\]|"\]\))', line)
        if label:
            rest = re.sub(r"#\d+;|<br/>", "", label[1])
            assert re.fullmatch(r"[\w ,?!'/●»✗○·…]*", rest), rest
        else:
            assert re.fullmatch(r"[\w ,.:>=()-]*", line), line


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        (" a\n\tb\u2028c ", None, "a b c"),
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two…"),
        ("one two three", 8, "one two…"),
        ("abcdefghij", 5, "abcd…"),
        ("x\x1b[0m\u200b\ud800", None, "x[0m"),
    ],
)
def test_one_line(text, width, expected):
    assert shown_line(text, width) == expected


def test_cost_line():
    assert cost_line(empty_usage()) == ""
    assert cost_line({}) == ""
    assert cost_line({"model_calls": 1, "retrievals": 2}) == "1 call"
    assert cost_line({"model_calls": 1, "retrievals": 2}, full=True) == "1 model call, 2 searches"
