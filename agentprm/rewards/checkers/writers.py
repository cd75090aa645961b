"""Language models as translators: prose into a program or a formula, which a tool then decides.

The model says what is claimed, the tool whether it is true (GenPRM's verification code, FoVer's
formalisation). A translation can be wrong, so such a verdict is worth less than one on what a step states
itself; `agentprm.rewards.check_weights` measures how much.
"""

from __future__ import annotations

import re
from typing import ClassVar

from agentprm.documents import joined
from agentprm.lm import LanguageModel, SamplingParams, as_language_model
from agentprm.prompts import ChatTemplate, known_text
from agentprm.replies import without_thought
from agentprm.rewards.base import Trajectory
from agentprm.rewards.checkers.entailment import Entailment
from agentprm.text import one_line

__all__ = ["FORMULA_PROMPT", "PROGRAM_PROMPT", "FormulaWriter", "ProgramWriter"]

_FIELDS = ("question", "known", "passages", "step")
_TASK = "Question: {question}\nEarlier steps:\n{known}\nPassages:\n{passages}\nStep: {step}"

PROGRAM_PROMPT = ChatTemplate(
    fields=_FIELDS,
    system=(
        "You check one step of a solution with Python. Compute from the question and the earlier steps what "
        "the step claims, without using the step's own result, and compare with an assert statement. Use "
        "the standard library only, and no files. Reply with one block of code between ```python and ```. "
        "If the step claims nothing that can be computed, reply NONE."
    ),
    user=_TASK,
)

FORMULA_PROMPT = ChatTemplate(
    fields=_FIELDS,
    system=(
        "You translate one step of an argument into logic. Write what it presupposes, one formula after the "
        "other with ';' between, then '|-', then what it concludes, all on one line. Formulas are "
        "made of A(a), and, or, not, ->, forall x. and exists x., or compare numbers: 2*x + 1 = 5, x > 0.\n"
        "Example: All birds can fly, and Tweety is a bird, so Tweety can fly.\n"
        "forall x. Bird(x) -> Flies(x); Bird(tweety) |- Flies(tweety)\n"
        "If the step concludes nothing, reply NONE."
    ),
    user=_TASK,
)

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


class _Writer:
    default_prompt: ClassVar[ChatTemplate]
    default_tokens: ClassVar[int]

    def __init__(
        self,
        model: LanguageModel | object,
        *,
        prompt: ChatTemplate | None = None,
        max_tokens: int | None = None,
    ) -> None:
        self.model: LanguageModel = as_language_model(model)
        self.prompt = prompt or self.default_prompt
        self._params = SamplingParams(max_tokens=max_tokens or self.default_tokens, temperature=0.0)

    def _reply(self, question: str, prefix: Trajectory) -> str:
        step = prefix[-1]
        prompt = self.prompt.render(
            question=one_line(question),
            known=known_text(prefix[:-1]),
            passages=joined([one_line(passage) for passage in step["passages"]]),
            step=one_line(f"{step['query']} {step['thought']}"),
        )
        ((completion,),) = self.model.sample([prompt], 1, self._params)
        return without_thought(completion.text)


class ProgramWriter(_Writer):
    """Has a language model write a program that checks a step, for `PythonChecker(write=…)`.

    Args:
        model: A language model, or what `agentprm.lm.as_language_model` takes.
        prompt: Fields `question`, `known` (earlier steps), `passages`, `step`; by default `PROGRAM_PROMPT`.
        max_tokens: Longest program; by default 400.
    """

    default_prompt = PROGRAM_PROMPT
    default_tokens = 400

    def __call__(self, question: str, prefix: Trajectory) -> str | None:
        """A program with an assertion, or `None` if the model wrote none."""
        match = _BLOCK.search(self._reply(question, prefix))
        if match is None or not re.search(r"^[ \t]*assert\b", match.group(1), re.MULTILINE):
            return None
        return match.group(1)


class FormulaWriter(_Writer):
    """Has a language model translate a step into formulas, for `EntailmentChecker(formalise=…)`.

    Args:
        model: A language model, or what `agentprm.lm.as_language_model` takes.
        prompt: Fields `question`, `known` (earlier steps), `passages`, `step`; by default `FORMULA_PROMPT`.
        max_tokens: Longest translation; by default 200.
    """

    default_prompt = FORMULA_PROMPT
    default_tokens = 200

    def __call__(self, question: str, prefix: Trajectory) -> Entailment | None:
        """Premises and conclusion, or `None` if the model wrote none."""
        for line in self._reply(question, prefix).splitlines():
            premises, mark, conclusion = line.partition("|-")
            found = tuple(part for premise in premises.split(";") if (part := premise.strip(" `")))
            if mark and found and conclusion.strip(" `"):
                return Entailment(found, conclusion.strip(" `"))
        return None
