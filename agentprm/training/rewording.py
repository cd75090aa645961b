"""Questions in other words: a language model writes them, and what it changed in the meaning is refused."""

from __future__ import annotations

from collections.abc import Sequence

import regex

from agentprm.lm import LanguageModel
from agentprm.prompts import ChatTemplate, reply_params
from agentprm.replies import finished_text, parse_finding
from agentprm.text import one_line
from agentprm.training.questions import has_answer

__all__ = ["keeps_meaning", "reworded"]

REWORD = ChatTemplate(
    fields=("question",),
    system=(
        "Ask the same question in other words, as a person would. Write every name, title and number "
        "exactly as it is, leave nothing out and add nothing. Reply with the question only."
    ),
    user="Question: {question}",
    prefix="Question:",
)
_NAMES = regex.compile(r"(?<!^)(?<=\s|[\"“(])[\p{Lu}\d][\p{L}\p{M}\d'\u2019.\-]*+")


def reworded(model: LanguageModel, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[str]:
    """The questions in the model's words, or as they are where its words would not do.

    Args:
        model: Writes them.
        questions: The questions.
        answers: The right answers of each, which no question may give away.
    """
    led = model.capabilities.prefill
    prompts = [REWORD.render(prefill=led, question=question) for question in questions]
    rows = model.sample(prompts, 1, reply_params(model, max_tokens=64))
    said = [one_line(parse_finding(finished_text(row[0]))) for row in rows]
    return [
        new if keeps_meaning(old, new, known) else old
        for old, new, known in zip(questions, said, answers, strict=True)
    ]


def keeps_meaning(old: str, new: str, answers: Sequence[str] = ()) -> bool:
    """Whether a rewording is a question about the same names and numbers that does not tell its answer.

    It cannot know whether the relation is the same; a reader that still finds the answer shows that.
    """
    if not new.endswith("?") or len(new) > 3 * len(old):
        return False
    names = [name.rstrip(".?,") for name in _NAMES.findall(old.rstrip("?"))]
    return all(has_answer(new, name) or name in new for name in names) and not any(
        has_answer(new, answer) and not has_answer(old, answer) for answer in answers
    )
