"""Routing: which way a question goes, and the way of thinking it over without a search (A^2FM)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage

from agentprm.budget import SearchBudget
from agentprm.documents import cite, passages_text, supporting
from agentprm.errors import ConfigurationError, InputError, check_count
from agentprm.lm import LanguageModel, as_language_model
from agentprm.lm.chat import is_chat_model
from agentprm.nodes.answer import answered
from agentprm.nodes.choices import chosen
from agentprm.nodes.node import Node, NodeRoutine
from agentprm.nodes.reporting import emit, replied
from agentprm.prompts import ChatTemplate, with_examples
from agentprm.replies import parse_finding, parse_proposal
from agentprm.routines import wait_in_thread
from agentprm.state import ReasoningState
from agentprm.text import one_line

__all__ = ["MODES", "Reason", "Route"]

#: The three modes of A^2FM, and when each is right.
MODES = {
    "instant": "what everybody knows, greetings, simple facts: answer at once",
    "reasoning": "sums, logic and comparisons of what is known: think it over without looking anything up",
    "agentic": "facts about particular people, places or works that must be looked up, maybe several",
}

ROUTE = ChatTemplate(
    fields=("question", "modes"),
    system="You decide how a question is dealt with. Reply with the name of one mode only.",
    user="Modes:\n{modes}\n\nQuestion: {question}\nWhich mode?",
    prefix="Mode:",
)
REASON = ChatTemplate(
    fields=("question",),
    system=(
        "Think the question over step by step, in a few short sentences. Then finish with a line "
        "'Final answer: <the answer in a few words>'."
    ),
    user="Question: {question}",
    prefix="Let us think.",
)
REASON_OVER = ChatTemplate(
    fields=("passages", "question"),
    system=REASON.system,
    user="Passages:\n{passages}\n\nQuestion: {question}",
    prefix=REASON.prefix,
)


class Route(Node):
    """Writes `route`: the name of the mode that suits the question, for an edge to follow.

    A model with log-likelihoods compares those of the names; any other one replies with a name. A reply
    that names none of them, or several, and a budget without a call for it lead to `default`: nothing is
    asked twice.

    Args:
        router: A language model, or a function from the question to a mode.
        modes: Names of the modes, and when each is right; by default the three of the paper.
        default: The mode where the reply does not say; by default the last one, the most thorough.
        template: The prompt, with the fields `question` and `modes`.
        keys: Own names for `question`, `messages` and `route`.
        budget: Bounds of a run. One model call is kept back for the answer.

    Raises:
        ConfigurationError: If there are no two modes, or the default is none of them.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> route = Route(ScriptedChatModel(script={"12 x 7": "reasoning", "": "I cannot say."}))
        >>> [route.invoke({"question": q})["route"] for q in ("What is 12 x 7?", "Who is he?")]
        ['reasoning', 'agentic']
    """

    def __init__(
        self,
        router: LanguageModel | BaseChatModel | str | Callable[[str], str],
        *,
        modes: Mapping[str, str] = MODES,
        default: str | None = None,
        template: ChatTemplate = ROUTE,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "route",
    ) -> None:
        self.router: Any = router
        if isinstance(router, LanguageModel | str) or is_chat_model(router):
            self.router = as_language_model(router)
        elif not callable(router):
            raise ConfigurationError(
                f"router must be a language model or a function from the question, not {router!r}."
            )
        self.modes = dict(modes)
        if len(self.modes) < 2:
            raise ConfigurationError(f"A choice needs two modes at least; these are {list(self.modes)}.")
        self.default = list(self.modes)[-1] if default is None else default
        if self.default not in self.modes:
            raise ConfigurationError(f"default must be one of {list(self.modes)}, not {self.default!r}.")
        self.template = template
        super().__init__(name=name, writes=("route",), keys=keys, budget=budget)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        names, question = list(self.modes), state["question"]
        route, share = self.default, None
        if not isinstance(self.router, LanguageModel):
            route = yield from wait_in_thread(self.router, question)
            if route not in self.modes:
                raise InputError(f"The router said {route!r}, which is none of the modes {names}.")
        elif not self.short(state, model_calls=1, reserve=1):
            prompt = self.template.render(
                prefill=self.router.capabilities.prefill,
                question=one_line(question),
                modes="\n".join(f"{mode}: {one_line(when)}" for mode, when in self.modes.items()),
            )
            (shares,) = yield from chosen(self.router, [prompt], names, question)
            if shares is not None:
                share = max(shares)
                route = names[shares.index(share)]
        emit({"type": "agentprm.routed", "route": route, "share": share})
        return {"route": route}


class Reason(Node):
    r"""Answers by thinking step by step, from memory or from passages.

    Args:
        model: A language model, or any LangChain chat model.
        passages: Most passages of `documents` that it is shown; none by default.
        examples: Solved questions that the prompt shows before the question, where the state has no
            `examples`.
        max_tokens: Most tokens of the thinking and the answer.
        template: The prompt, with the field `question`, and `passages` where it is shown some; by default
            one for each case.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `answer` and `citations`.
        budget: Bounds of a run; where they leave no call, the answer is empty.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> reason = Reason(ScriptedChatModel(script={"": "12 x 7 is 84.\nFinal answer: 84"}))
        >>> reason.invoke({"question": "What is 12 x 7?"})["answer"]
        '84'
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        passages: int = 0,
        examples: str = "",
        max_tokens: int = 256,
        template: ChatTemplate | None = None,
        speak: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "reason",
    ) -> None:
        self.model = as_language_model(model)
        self.passages = check_count("passages", passages, 0)
        self.examples, self.template = examples, template
        self.max_tokens, self.speak = max_tokens, speak
        super().__init__(
            name=name,
            reads=("examples", *(("documents",) if passages else ())),
            writes=("answer", "citations"),
            keys=keys,
            budget=budget,
            settings=("max_tokens",),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        answer, reason = "", self.short(state, model_calls=1)
        documents = state.get("documents", [])[: self.passages]
        if not reason:
            template = self.template or (REASON_OVER if documents else REASON)
            values = {"passages": passages_text(documents)} if "passages" in template.fields else {}
            prompt = template.render(
                prefill=self.model.capabilities.prefill, question=one_line(state["question"]), **values
            )
            prompt = with_examples(prompt, state.get("examples") or self.examples)
            reply = yield from replied(self.model, prompt, max_tokens=self.setting("max_tokens"), lines=True)
            answer = concluded(reply, state["question"])
        citations = cite(supporting(answer, documents, state["question"]))
        return answered(state, answer, citations, reason, AIMessage(answer) if self.speak else None)


def concluded(text: str, shown: str = "") -> str:
    """The answer at the end of some thinking: what `Final answer:` says, else the last line."""
    for line in reversed(text.splitlines()):
        proposal = parse_proposal(line, shown)
        if proposal is not None and proposal.final_answer:
            return proposal.final_answer
    lines = [line for line in text.splitlines() if parse_finding(line)]
    return parse_finding(lines[-1]) if lines else ""
