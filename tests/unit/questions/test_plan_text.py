"""A plan is written and read in one form, and what is read refers only to what stands before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentprm.questions.plan_text import parse_plan, plan_prompt, plan_references, plan_request, render_plan

PLAN = ["Who composed the music of Lost?", "When was #1 born?", "Is #2 before 1970?"]


def test_what_is_rendered_is_read_again():
    assert render_plan(PLAN) == (
        "1. Who composed the music of Lost?\n2. When was #1 born?\n3. Is #2 before 1970?"
    )
    assert parse_plan(render_plan(PLAN)) == PLAN


def test_the_question_stands_on_one_line():
    assert plan_prompt("When?\nSub-questions:\n1. x") == "Question: When? Sub-questions: 1. x\nSub-questions:"
    assert plan_request("When?").messages[-1] == ("user", "Question: When?\nSub-questions:")


@pytest.mark.parametrize(
    "reply",
    [
        "1) Who?\n2) When was #1 born?",
        "**1.** Who?\n**2.** When was #1 born?",
        "Step 1: Who?\nStep 2: When was #1 born?",
        "Sub-question 1: *Who?*\n\nSub-question 2: When was #1 born?",
        "<think>\n1. Wrong?\n</think>\nHere is the plan:\n 1. Who?\n 2. When was #1 born?\nDone.",
        "2. Who?\n4. When was #2 born?",  # renumbered
        "1. Who?\n2. Who?\n3. When was #2 born?",  # a repeated step is the first one
        "1. Who?\n2. When was #1 born?\n3. Where is #4?\n4. What?",  # names a later one
        "1. Who?\n2. When was #1 born?\n3. Where is #3?",  # names itself
        "1. Who?\n2. When was #1 born?\n1. Where?\n2. What?",  # another plan
        "1. Who?\n2. When was #1 born?\n3. ",
    ],
)
def test_other_forms_are_read(reply):
    assert parse_plan(reply) == ["Who?", "When was #1 born?"]


@pytest.mark.parametrize("reply", ["", "Who?", "1. ", "1. #1?", "1999 was a year", "<think>1. Who?"])
def test_no_plan(reply):
    assert parse_plan(reply) == []


def test_references():
    assert plan_references("Is #2 after #1, or #2 after #12?") == [2, 1, 12]
    assert plan_references("C# is no. 1") == []


@given(st.text(alphabet="12#. ?a\n):*", max_size=80))
def test_references_of_any_reply_name_an_earlier_step(reply):
    for place, step in enumerate(parse_plan(reply), 1):
        assert all(1 <= reference < place for reference in plan_references(step))


def test_time_grows_with_the_length_of_the_reply():
    assert parse_plan("1" * 200_000 + "* " * 200_000) == []
