"""Lookup of the cell that a step speaks of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.errors import ConfigurationError
from agentprm.rewards.checkers import TableChecker
from agentprm.rewards.checkers.table import read_tables

ROWS = [
    {"Club": "York City", "Founded": 1922, "Manager": "Neal Ardley", "Seats": "8,500"},
    {"Club": "York", "Founded": "1868", "Manager": "Jane Doe", "Seats": "1,200"},
    {"Club": "Leeds", "Founded": "1919", "Manager": "Daniel Farke", "Seats": "37,608"},
]
MARKDOWN = """Clubs.
| Club | Founded | Manager |
|---|:--:|---|
| York City | 1922 | Neal Ardley |
| Leeds | 1919 | Daniel Farke |
"""
LINE = (
    "Clubs: Table: Club: York City; Founded: 1922; Manager: Neal Ardley | "
    "Club: Leeds; Founded: 1919; Manager: Daniel Farke"
)


def step(query, thought, *passages):
    return {"query": query, "passages": list(passages), "thought": thought, "final_answer": None}


CASES = [
    ("When was Leeds founded?", "Leeds was founded in 1919.", "supported"),
    ("When was Leeds founded?", "In 1922.", "refuted"),
    ("When was Leeds founded?", "Long ago.", "unknown"),
    ("Who is the manager of York City?", "Neal Ardley", "supported"),
    ("Who is the manager of York City?", "It is Daniel Farke.", "refuted"),
    ("Who is the manager of York City?", "It is somebody.", "unknown"),
    ("Who is the manager of York?", "Jane Doe", "supported"),
    ("How many seats does Leeds have?", "37608 seats", "supported"),
    ("How many seats does Leeds have?", "It has 37,609 seats.", "refuted"),
    ("Were York City and Leeds founded in the same year?", "founded in 1922 and 1919", "supported"),
    ("Were York City and Leeds founded in the same year?", "both founded in 1922", "unknown"),
    ("Who trains Leeds?", "Daniel Farke", "unknown"),
    ("When was Hull founded?", "1904", "unknown"),
]


@pytest.mark.parametrize(("query", "thought", "label"), CASES)
def test_given_rows(query, thought, label):
    result = TableChecker(ROWS).check("Q", [step(query, thought)])
    assert result.label == label
    if label == "refuted":
        assert " is " in result.evidence


@pytest.mark.parametrize("passage", [MARKDOWN, LINE])
@pytest.mark.parametrize(
    ("thought", "label"), [("founded in 1919", "supported"), ("1922", "refuted"), ("old", "unknown")]
)
def test_tables_among_the_passages(passage, thought, label):
    checked = step("When was Leeds founded?", thought, "No table here.", passage)
    assert TableChecker().check("Q", [checked]).label == label


def test_evidence_lines_of_documents_are_read():
    from langchain_core.documents import Document

    from agentprm.documents import evidence_line

    document = Document(id="d", page_content="", metadata={"title": "Clubs", "table": ROWS})
    checked = step("When was Leeds founded?", "1919", evidence_line(document))
    assert TableChecker().check("Q", [checked]).label == "supported"


def test_numbers_of_the_question_are_no_finding():
    rows = [{"Year": "1999", "Winner": "7", "Loser": "5"}, {"Year": "2000", "Winner": "3", "Loser": "9"}]
    checker = TableChecker(rows)
    assert checker.check("Q", [step("How many points for the winner in 1999?", "In 1999")]).label == "unknown"
    assert (
        checker.check("Q", [step("How many points for the winner in 1999?", "In 1999: 7")]).label
        == "supported"
    )
    assert (
        checker.check("Q", [step("How many points for the winner in 1999?", "In 1999: 5")]).label == "refuted"
    )


def test_the_key_column_can_be_named():
    rows = [{"Founded": "1919", "Club": "Leeds"}, {"Founded": "1922", "Club": "York City"}]
    checked = [step("When was Leeds founded?", "Leeds was founded in 1919")]
    assert TableChecker(rows, key="Club").check("Q", checked).label == "supported"
    with pytest.raises(ConfigurationError, match="Town"):
        TableChecker(rows, key="Town")


@given(st.text(alphabet="|-:ab; \nTable19", max_size=80), st.text(alphabet="ab19 ", max_size=10))
@settings(deadline=None, max_examples=100)
def test_no_text_makes_it_fail(passage, thought):
    assert TableChecker().check("Q", [step("a", thought, passage)]).label in (
        "supported",
        "refuted",
        "unknown",
    )


def test_markdown_is_read_as_rows():
    assert list(read_tables(MARKDOWN)) == [
        [
            {"Club": "York City", "Founded": "1922", "Manager": "Neal Ardley"},
            {"Club": "Leeds", "Founded": "1919", "Manager": "Daniel Farke"},
        ]
    ]
    assert list(read_tables("| a |\nno table")) == []


def test_names_of_any_script_are_found():
    checker = TableChecker([{"नाम": "ताज महल", "शहर": "आगरा"}, {"नाम": "लाल किला", "शहर": "दिल्ली"}])
    finding = {"query": "ताज महल का शहर?", "passages": [], "thought": "आगरा", "final_answer": None}
    assert checker.check("q", [finding]).label == "supported"
    assert checker.check("q", [{**finding, "thought": "दिल्ली"}]).label == "refuted"
