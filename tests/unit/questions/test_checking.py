"""What is asked of several things, each for itself, and what a passage says to it by its words."""

import pytest

from agentprm.questions.checking import checks, states

ANN = "Ann Lee (born 1950) is a Danish singer and guitarist. She lives in Rome and wrote two novels."


@pytest.mark.parametrize(
    ("question", "title", "said"),
    [
        ("Is Ann Lee a singer?", "Ann Lee", True),
        ("Is Ann Lee a musician?", "Ann Lee (singer)", True),  # a singer is one
        ("Was Ann Lee from Denmark?", "Ann Lee", True),
        ("Is Ann Lee a Danish singer?", "Ann Lee", True),
        ("Is Ann Lee a Swedish singer?", "Ann Lee", False),
        ("Is Ann Lee an actor?", "Ann Lee", False),
        ("Does Ann Lee live in Rome?", "Ann Lee", True),
        ("Is Ann Lee from Georgia?", "Ann Lee", False),
        ("Is Ann Lee a singer?", "Bob Ray", None),  # said of somebody else
        ("Is Ann Leeson a singer?", "Ann Lee", None),
        ("Is Ann Lee?", "Ann Lee", None),
        ("Who is Ann Lee?", "Ann Lee", None),
        ("Is Ann Lee a singer?", "", None),
    ],
)
def test_a_passage_says_yes_or_no_by_its_words(question, title, said):
    assert states(question, title, ANN) is said


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Is Lee Airport located in Michigan?", False),  # not by being in the same country
        ("Is Lee Airport located in Nevada?", True),
        ("Is Lee Airport located in the United States?", True),
        ("Is Lee Airport Danish?", False),  # named further on, for something else
    ],
)
def test_a_place_is_where_its_passage_begins_with(question, said):
    text = "Lee Airport is an airport of Elko, Nevada. It has two runways. Danish pilots trained here."
    assert states(question, "Lee Airport", text) is said


@pytest.mark.parametrize(
    "question",
    [
        "Is Ann Lee a singer?",
        "Are Ann Lee and Bob Ray related?",
        "Was Trinidad and Tobago a colony?",  # one thing
        "Who is older, Ann Lee or Bob Ray?",
        "",
        "both",
    ],
)
def test_other_questions_ask_nothing_of_each(question):
    assert checks(question) == []
