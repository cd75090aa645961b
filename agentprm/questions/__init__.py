"""What a question asks, without a model: its sub-questions, and which of two things a comparison means.

What lives where: `decomposing` splits a question by its syntax, `reducing` takes descriptions out of it,
`checking` asks the same of each of several; `plan_text` writes and reads the text of a
plan, as planners that are models are taught it. `comparing` decides comparisons by what was found, with
`quantities` (dates, numbers) and `countries`. `template` takes names and numbers out of a question.
"""

from agentprm.questions.comparing import alternatives, decide, is_comparison
from agentprm.questions.decomposing import decompose
from agentprm.questions.plan_text import parse_plan, plan_request, render_plan
from agentprm.questions.template import question_template

__all__ = [
    "alternatives",
    "decide",
    "decompose",
    "is_comparison",
    "parse_plan",
    "plan_request",
    "question_template",
    "render_plan",
]
