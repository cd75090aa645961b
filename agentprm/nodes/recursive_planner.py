"""A planner that goes as deep as a question is complex (Prompt Recursive Search)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel

from agentprm.errors import ConfigurationError, check_count
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.plan_question import plan_by_example
from agentprm.prompts import ChatTemplate, reply_params
from agentprm.questions.comparing import is_comparison
from agentprm.questions.decomposing import decompose
from agentprm.questions.plan_text import parse_plan, plan_references
from agentprm.replies import finished_text
from agentprm.text import one_line

__all__ = ["RecursivePlanner"]

COMPLEXITY = ChatTemplate(
    fields=("question",),
    system=(
        "Say how complex a question is, from 1, a single fact that can be looked up, to 10, a chain of many "
        "facts that depend on one another. Reply with the number only."
    ),
    user="Question: {question}",
    prefix="Complexity:",
)
_NUMBER = re.compile(r"(?<![\d.,])(10|[1-9])(?![\d]|[.,]\d)")
_REFERENCE = re.compile(r"#(\d{1,3})(?!\d)")


class RecursivePlanner:
    """Splits a question where a model finds it complex, and its sub-questions likewise.

    The model says how complex a question is. Below `threshold` it is asked as it stands; else the model
    splits it into about half as many sub-questions as the number says, and each of these that names no other
    one is looked at in the same way, `depth` levels down. Where the model gives no number, or no plan, the
    question is split by its syntax.

    It is a function from a question to its sub-questions, for `PlanQuestion` and the graphs' `planner`.

    Args:
        model: Judges and splits: two calls for a complex question, one for a simple one.
        threshold: Complexity, from 1 to 10, from which on a question is split.
        depth: Most levels.
        max_tokens: Most tokens of a plan.
        template: The prompt of the judgement, with the field `question`.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> model = ScriptedChatModel(script={"how complex": "2"})
        >>> RecursivePlanner(model)("Who wrote Emma?")
        ['Who wrote Emma?']
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        threshold: int = 4,
        depth: int = 2,
        max_tokens: int = 200,
        template: ChatTemplate = COMPLEXITY,
    ) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, int) or not 1 <= threshold <= 10:
            raise ConfigurationError(f"threshold must be an integer from 1 to 10, not {threshold!r}.")
        self.model = as_language_model(model)
        self.threshold, self.depth = threshold, check_count("depth", depth)
        self.max_tokens, self.template = max_tokens, template

    def __call__(self, question: str) -> list[str]:
        """The sub-questions, in which `#n` stands for what is found for the n-th."""
        return self._split(one_line(question), self.depth)

    def complexity(self, question: str) -> int | None:
        """How complex the model finds a question, from 1 to 10; `None` where it gives no number."""
        prompt = self.template.render(prefill=self.model.capabilities.prefill, question=question)
        ((reply,),) = self.model.sample([prompt], 1, reply_params(self.model, max_tokens=8))
        found = _NUMBER.search(finished_text(reply) or reply.text)
        return int(found[1]) if found else None

    def _split(self, question: str, depth: int) -> list[str]:
        complexity = self.complexity(question)
        if complexity is None:
            return decompose(question)
        if complexity < self.threshold:
            return [question]
        steps = self._plan(question, math.ceil(complexity / 2)) or decompose(question)
        if depth == 1 or len(steps) < 2:
            return steps
        whole: list[str] = []
        places: list[int] = []  # where the answer of each sub-question stands in the whole plan
        for step in steps:
            references = plan_references(step)
            alone = not references and not is_comparison(step)
            part = self._split(step, depth - 1) if alone else [step]
            # References of a part are to places in it, those of an undivided step to the steps before it.
            here = places if references else range(len(whole) + 1, len(whole) + len(part) + 1)
            whole += [_renumbered(one, here) for one in part]
            places.append(len(whole))
        return whole

    def _plan(self, question: str, about: int) -> list[str]:
        prompt = plan_by_example(question)
        *before, (role, text) = prompt.messages
        wish = f"Use about {about} sub-questions.\n{text}"
        params = reply_params(self.model, max_tokens=self.max_tokens, lines=True)
        ((reply,),) = self.model.sample([Prompt((*before, (role, wish)))], 1, params)
        return parse_plan(finished_text(reply))


def _renumbered(step: str, places: Sequence[int]) -> str:
    """The step with the n-th place for its reference `#n`."""
    return _REFERENCE.sub(lambda match: f"#{places[int(match[1]) - 1]}", step)
