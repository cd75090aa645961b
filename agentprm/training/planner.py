"""What a planner learns: records of plans as prompts and replies."""

from __future__ import annotations

from collections.abc import Iterable

from agentprm.plan_text import parse_plan, plan_references, plan_request, render_plan
from agentprm.training.data import PlanRecord
from agentprm.training.language_model import TextExample

__all__ = ["plan_examples"]


def plan_examples(records: Iterable[PlanRecord], *, most_steps: int = 8) -> list[TextExample]:
    """Prompts and replies of the plans that can be planned.

    Left out are plans in BREAK's form ("return …"), which are no questions to search for; plans with a step
    that needs an earlier answer without naming it as `#n`, since it gives away what only the search finds;
    plans that are no plan when they are read again; and longer ones than `most_steps`.

    Args:
        records: The plans.
        most_steps: Longest plan.
    """
    examples = []
    for record in records:
        steps = [step.question for step in record.steps]
        given_away = any(set(step.depends_on) - set(plan_references(step.question)) for step in record.steps)
        reply = render_plan(steps)
        if record.style or given_away or len(steps) > most_steps or len(parse_plan(reply)) != len(steps):
            continue
        examples.append(TextExample(plan_request(record.question), reply))
    return examples
