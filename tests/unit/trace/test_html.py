"""The page of a trace as text; tests/integration/test_trace_page.py opens it in a browser."""

import json
import re

from langchain_core.documents import Document

from agentprm.trace import to_html, trace_of


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def traced(thought, passage):
    step = {
        "id": "1",
        "parent_id": None,
        "depth": 1,
        "query": "Where was he born?",
        "retrieve": True,
        "doc_ids": ["d"],
        "cited_ids": ["d"],
        "thought": thought,
        "final_answer": None,
        "score": 0.5,
        "value": 0.5,
        "status": "committed",
        "usage": {},
    }
    return trace_of(
        {
            "question": "Where?",
            "prm_steps": [step],
            "prm_documents": [Document(id="d", page_content=passage, metadata={"title": "T"})],
        }
    )


def marked(thought, passage):
    """What the page marks, counted as JavaScript counts."""
    spans = data_of(to_html(traced(thought, passage)))[0]["marks"].get("1", {}).get("d", [])
    units = passage.encode("utf-16-le")
    return [units[2 * begin : 2 * end].decode("utf-16-le") for begin, end in spans]


def test_nothing_in_a_trace_can_end_the_script_that_holds_it():
    hostile = "</script><script>alert(1)</script><!-- \u2028 /*DATA*/ &amp;"
    page = to_html(traced(hostile, hostile))
    assert page.count("</script>") == to_html(traced("", "")).count("</script>")
    assert data_of(page)[0]["steps"][0]["thought"] == hostile
    assert data_of(page)[0]["documents"][0]["text"] == hostile


def test_the_page_names_no_address():
    page = to_html(traced("Portsmouth", "He was born in Portsmouth."))
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]  # a name, never fetched
    assert "default-src 'none'" in page


def test_the_sentence_that_carries_the_finding_is_marked():
    assert marked("Portsmouth", "😀 Hm. He built ships. He was born in Portsmouth. He died.") == [
        "He was born in Portsmouth."
    ]
    assert marked("東京", "これは犬。彼は東京で生まれた。") == ["彼は東京で生まれた。"]
    assert marked("Oslo", "Nothing.") == []


def test_a_notebook_shows_the_page_in_a_frame_without_rights():
    frame = to_html(traced('"><script>', ""))._repr_html_()
    assert frame.startswith("<iframe ")
    assert 'sandbox="allow-scripts"' in frame
    assert "<script" not in frame
