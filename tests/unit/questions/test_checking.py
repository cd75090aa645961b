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
        ("Is Ann Lee a singer?", "Bob Ray", False),  # said of somebody else
        ("Is Ann Leeson a singer?", "Ann Lee", False),
        ("Is Ann Lee?", "Ann Lee", False),
        ("Who is Ann Lee?", "Ann Lee", False),
        ("Is Ann Lee a singer?", "", False),
    ],
)
def test_a_passage_says_yes_by_its_words(question, title, said):
    assert states(question, title, ANN) is said


@pytest.mark.parametrize(
    "question",
    [
        "Is Ann Lee a singer?",
        "Are Ann Lee and Bob Ray related?",
        "Who is older, Ann Lee or Bob Ray?",
        "",
        "both",
    ],
)
def test_other_questions_ask_nothing_of_each(question):
    assert checks(question) == []
