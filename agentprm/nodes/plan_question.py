"""The node that splits a question into sub-questions, once, before the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit, replied
from agentprm.questions.comparing import is_comparison
from agentprm.questions.decomposing import decompose
from agentprm.questions.plan_text import parse_plan, plan_prompt, plan_references, plan_request
from agentprm.routines import Routine, wait_in_thread
from agentprm.state import ReasoningState
from agentprm.text import one_line

__all__ = ["PlanQuestion", "Planner", "TrainedPlanner", "plan_by_example"]


@dataclass(frozen=True)
class TrainedPlanner:
    """A model that `agentprm train planner` trained: it is asked as it was taught, without examples.

    Args:
        model: The model, for instance `lm.with_adapter("planner")`, or what `as_language_model` takes.
    """

    model: LanguageModel | BaseChatModel | str


Planner: TypeAlias = LanguageModel | BaseChatModel | str | TrainedPlanner | Callable[[str], Sequence[str]]
"""A model that writes plans, or a function from a question to its sub-questions, such as `decompose`."""

_EXAMPLES = (
    (
        "In which country was the inventor of the Kelvin scale born?",
        ("Who invented the Kelvin scale?", "In which country was #1 born?"),
    ),
    (
        "Which film has the director who died first, Lost River or Emma?",
        (
            "Who directed Lost River?",
            "Who directed Emma?",
            "When did #1 die?",
            "When did #2 die?",
            "Compare #3 and #4: Which film has the director who died first, Lost River or Emma?",
        ),
    ),
    (
        "Are the Thames and the Severn in the same country?",
        (
            "In which country is the Thames?",
            "In which country is the Severn?",
            "Compare #1 and #2: Are the Thames and the Severn in the same country?",
        ),
    ),
    ("Who wrote Emma?", ("Who wrote Emma?",)),
)


def plan_by_example(question: str) -> Prompt:
    """The prompt of a model that was not trained to plan: what to do, and examples."""
    examples = "\n\n".join(
        plan_prompt(asked) + "".join(f"\n{n}. {step}" for n, step in enumerate(steps, 1))
        for asked, steps in _EXAMPLES
    )
    system = (
        "Split a question into sub-questions that can each be looked up. #1 stands for the answer of the "
        "first, #2 for that of the second. Write one numbered line for each. A question that needs no "
        f"splitting is its own only sub-question.\n\n{examples}"
    )
    return Prompt((("system", system), ("user", plan_prompt(question))))


class PlanQuestion(SearchNode):
    """Splits the question into sub-questions, in which `#n` stands for what is found for the n-th.

    Writes `prm_plan`, which `FollowPlan` follows. Where the planner gives no plan that can be followed, the
    question is split by its syntax (`agentprm.questions.decompose`), and one that has no parts is the plan
    itself. A comparison that the plan leaves out is added to its end.

    Args:
        planner: A function from a question to its sub-questions; a `TrainedPlanner`; or a language model or
            chat model, which is shown examples.
        max_steps: Most sub-questions; a longer plan is not followed.
        max_tokens: Most tokens of a plan.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search. One model call is kept back for the answer.

    Example:
        >>> node = PlanQuestion()
        >>> node.invoke({"question": "Where was the director of film Up born?"})["prm_plan"]
        ['Who directed Up?', 'Where was #1 born?']
    """

    plants = True

    def __init__(
        self,
        planner: Planner = decompose,
        *,
        max_steps: int = 8,
        max_tokens: int = 200,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "plan",
    ) -> None:
        self.function: Callable[[str], Sequence[str]] | None = None
        self.model: LanguageModel | None = None
        self.request: Callable[[str], Prompt] = plan_by_example
        if isinstance(planner, TrainedPlanner):
            self.model = as_language_model(planner.model)
            self.request = plan_request
        elif callable(planner) and not isinstance(planner, LanguageModel | BaseChatModel):
            self.function = planner
        else:
            self.model = as_language_model(planner)
        self.max_steps, self.max_tokens = max_steps, max_tokens
        super().__init__(name=name, writes=("prm_plan",), keys=keys, budget=budget, settings=("max_steps",))

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        question = one_line(state["question"])
        steps: list[str] = []
        planner = "syntax"
        if self.function is not None:
            steps = followable((yield from wait_in_thread(self.function, question)))
            planner = getattr(self.function, "__name__", type(self.function).__name__)
        elif not self.short(state, model_calls=1, reserve=1):
            steps = yield from self._written(question)
            planner = type(self.model).__name__
        most: int = self.setting("max_steps")
        if not 0 < len(steps) <= most:
            steps, planner = decompose(question), "syntax"
        if len(steps) > most:
            steps = [question]
        steps = compared(question, steps)[:most]
        emit({"type": "agentprm.question_planned", "question": question, "plan": steps, "planner": planner})
        return {"prm_plan": steps}

    def _written(self, question: str) -> Routine[list[str]]:
        assert self.model is not None
        prompt = self.request(question)
        return parse_plan((yield from replied(self.model, prompt, max_tokens=self.max_tokens, lines=True)))


def followable(steps: Sequence[str]) -> list[str]:
    """The sub-questions up to the first one that refers to none before it."""
    kept: list[str] = []
    for step in map(one_line, steps):
        if not step or any(not 1 <= number <= len(kept) for number in plan_references(step)):
            break
        kept.append(step)
    return kept


def compared(question: str, steps: list[str]) -> list[str]:
    """The plan with a comparison at its end, if the question is one."""
    if len(steps) < 2 or not is_comparison(question) or is_comparison(steps[-1]):
        return steps
    used = {number for step in steps for number in plan_references(step)}
    ends = [f"#{place}" for place in range(1, len(steps) + 1) if place not in used]
    return [*steps, f"Compare {' and '.join(ends)}: {question}"] if len(ends) > 1 else steps
