"""What a planner learns: records of plans as prompts and replies."""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentprm.questions.plan_text import parse_plan, plan_references, plan_request, render_plan
from agentprm.training.data import PlanRecord
from agentprm.training.language_model import TextExample

__all__ = ["plan_examples"]

# What no search finds, in BREAK's form.
_COUNTED = re.compile(
    r"\b(?:number|sum|names?|difference|average|size) of #|\b(?:highest|lowest|larger|smaller) of\b"
)
_LEAST_WORDS = 5


def plan_examples(records: Iterable[PlanRecord], *, most_steps: int = 8) -> list[TextExample]:
    """Prompts and replies of the plans that can be planned.

    Steps in BREAK's form ("return the country of #1") become questions ("What is the country of #1?"). Of its
    plans only those of two searches are taken: most others take a database for granted ("return india",
    "return the number of #1"). Left out are plans with a step that needs an earlier answer without naming it
    as `#n`, since it gives away what only the search finds; plans that are no plan when they are read again;
    and longer ones than `most_steps`.

    Args:
        records: The plans.
        most_steps: Longest plan.
    """
    examples = []
    for record in records:
        steps = [_question(step.question) for step in record.steps]
        given_away = any(set(step.depends_on) - set(plan_references(step.question)) for step in record.steps)
        reply = render_plan(steps)
        if record.style and not _searched(steps):
            continue
        if given_away or len(steps) > most_steps or len(parse_plan(reply)) != len(steps):
            continue
        examples.append(TextExample(plan_request(record.question), reply))
    return examples


def _searched(steps: list[str]) -> bool:
    """Whether the steps of a plan in BREAK's form are two searches."""
    told = all(len(step.split()) >= _LEAST_WORDS and not _COUNTED.search(step) for step in steps)
    return told and len(steps) == 2 and plan_references(steps[1]) == [1]


_RETURN = re.compile(r"return\s+(?=\S)", re.IGNORECASE)
_ASKS = re.compile(
    r"(?:what|who|whom|whose|which|when|where|how|why|is|are|was|were|if|whether)\b", re.IGNORECASE
)


def _question(step: str) -> str:
    """A step as a question, if it has BREAK's form."""
    found = _RETURN.match(step)
    if found is None:
        return step
    rest = step[found.end() :].rstrip(" .?")
    rest = re.sub(r"\s+,", ",", rest)
    return f"{rest[:1].upper()}{rest[1:]}?" if _ASKS.match(rest) else f"What is {rest}?"
