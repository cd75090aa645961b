"""The text of a plan: a question's sub-questions, numbered, where `#n` is the answer of the n-th.

    Question: When was the composer of Lost born?
    Sub-questions:
    1. Who composed the music of Lost?
    2. When was #1 born?

Training and inference write and read it here, so that a planner is asked as it was taught.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agentprm.lm.base import Prompt
from agentprm.replies import without_thought
from agentprm.text import clean_text, one_line

__all__ = ["PLAN_SYSTEM", "parse_plan", "plan_prompt", "plan_references", "plan_request", "render_plan"]

#: The system message of a planner that was trained; short, since it stands before every example.
PLAN_SYSTEM = "Split the question."

_REFERENCE = re.compile(r"#(\d{1,3})(?!\d)")
_MARKUP = r"[ \t*_>]{0,12}"
# "1. …", "2) …", "**3:** …", "Step 4: …", "Sub-question 5. …"
_NUMBERED = re.compile(
    rf"{_MARKUP}(?:(?:sub-?\s?question|question|step|q)\s{{0,2}})?(?<!\d)(\d{{1,3}}){_MARKUP}[.:)]{_MARKUP}(?=\S)",
    re.IGNORECASE,
)
_MARKS = " \t\"'*_`"


def plan_prompt(question: str) -> str:
    """What a planner is asked."""
    return f"Question: {one_line(question)}\nSub-questions:"


def plan_request(question: str) -> Prompt:
    """The whole prompt of a planner that `agentprm train planner` trained."""
    return Prompt((("system", PLAN_SYSTEM), ("user", plan_prompt(question))))


def render_plan(steps: Sequence[str]) -> str:
    """The reply that a planner is taught: one numbered line per sub-question."""
    return "\n".join(f"{number}. {one_line(step)}" for number, step in enumerate(steps, 1))


def plan_references(step: str) -> list[int]:
    """The numbers of the sub-questions whose answers a sub-question names, each once, in order."""
    return list(dict.fromkeys(int(number) for number in _REFERENCE.findall(step)))


def parse_plan(text: str) -> list[str]:
    """The sub-questions of a reply, in order; empty if it has none.

    Only numbered lines count. Every reference of the result names an earlier sub-question by its place: a
    reply that numbers otherwise is renumbered, a repeated sub-question is left out, and a plan ends before
    the first sub-question that names itself, a later one, or none.

    Args:
        text: The reply. Thinking is not read.
    """
    steps: list[str] = []
    places: dict[int, int] = {}  # a number of the reply, and its place in the result
    for line in clean_text(without_thought(text)).splitlines():
        found = _NUMBERED.match(line)
        step = one_line(line[found.end() :]).strip(_MARKS) if found else ""
        if found is None or not re.search(r"\w", step):
            continue
        number = int(found[1])
        if number in places:
            break  # the list begins anew: another plan, for a question that the model made up
        if any(reference not in places for reference in plan_references(step)):
            break
        step = _REFERENCE.sub(lambda match: f"#{places[int(match[1])]}", step)
        if step not in steps:
            steps.append(step)
        places[number] = steps.index(step) + 1
    return steps
