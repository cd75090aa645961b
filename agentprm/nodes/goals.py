"""Goal and reflection: say what evidence is wanted, search, and say whether it was found (RE-Searcher)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.documents import passages_text
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes.choices import said_yes
from agentprm.nodes.gathering import GatherNode, documents_of_rounds, finished, planned
from agentprm.nodes.node import NodeRoutine
from agentprm.nodes.reporting import replied
from agentprm.prompts import PROMPTS, ChatTemplate, Prompts, object_schema, or_null, with_examples
from agentprm.replies import json_object, parse_finding, parse_proposal, without_thought
from agentprm.rounds import Round, asked_before, evidence_lines, new_round
from agentprm.state import ReasoningState
from agentprm.text import one_line, same_text

__all__ = ["Reflect", "SetGoal"]

GOAL = ChatTemplate(
    fields=("question", "known"),
    system=(
        "Find the answer to a question, one thing at a time. Say what evidence you want next and how to "
        "search for it, in two lines 'Goal: ...' and 'Search: ...'. If a goal was not reached, search in "
        "other words. Once the answer is known, write 'Final answer: ...' instead.\n\n"
        "Question: Who is the mother of the director of the film Lost River?\n"
        "So far:\n(nothing yet)\n"
        "Goal: the name of the director of Lost River\nSearch: Who directed the film Lost River?\n\n"
        "Question: In which country was the inventor of the Kelvin scale born?\n"
        "So far:\nWho invented the Kelvin scale? William Thomson (goal reached)\n"
        "Goal: the country where William Thomson was born\nSearch: In which country was William Thomson born?"
    ),
    user="Question: {question}\nSo far:\n{known}",
    prefix="Goal:",
)
REACHED = ChatTemplate(
    fields=("goal", "query", "finding", "passages"),
    system=(
        "You check whether a search has reached its goal: is the evidence that was wanted in the passages, "
        "and does the finding state it? Reply Yes or No."
    ),
    user=(
        "Passages:\n{passages}\n\nGoal: {goal}\nSearch: {query}\nFinding: {finding}\n\nIs the goal reached?"
    ),
    prefix="Reached:",
)
_SCHEMA = object_schema(
    "next_goal",
    "What evidence is wanted next and how to search for it, or the final answer.",
    {
        "goal": or_null("string", "What evidence is wanted."),
        "search": or_null("string", "A short question about one thing."),
        "final_answer": or_null("string", "The answer, once it is known."),
    },
)
_GOAL = re.compile(r"\W{0,8}goal\W{0,4}[:\uff1a]\s*(?P<goal>[^\n]*)", re.IGNORECASE)


class Wish(NamedTuple):
    """What a model wants next: a goal with a query, or to state the answer; nothing if both are empty."""

    goal: str = ""
    query: str = ""
    answer: str = ""


def parse_goal(text: str, shown: str = "") -> Wish:
    """Reads what a model wants next; a goal without a query is searched for as it stands.

    Args:
        text: The reply, its prefix included.
        shown: What the model was shown that is not ours.
    """
    reply = without_thought(text)
    fields = json_object(reply)
    labelled = None if fields is not None else _GOAL.match(reply.lstrip())
    goal = str((fields or {}).get("goal") or "") if labelled is None else labelled["goal"]
    rest = reply.lstrip()[labelled.end() :] if labelled else reply
    # The two lines may have become one.
    head, mark, tail = goal.partition("Search:")
    goal, rest = (head, f"{mark}{tail}\n{rest}") if mark else (goal, rest)
    proposal = parse_proposal(rest.lstrip(), shown)
    goal = one_line(goal).strip(" .*`\"'")
    if proposal is not None and proposal.final_answer:
        return Wish(answer=proposal.final_answer)
    query = proposal.query if proposal is not None else goal
    return Wish(goal or query, query) if re.search(r"\w", query) else Wish()


class SetGoal(GatherNode):
    """Plans a round: what evidence is wanted, and a query for it; or concludes with the answer.

    A query that was made before, or a reply that says nothing, ends the loop.

    Args:
        model: A language model, or any LangChain chat model.
        max_tokens: Most tokens of a reply.
        template: The prompt, with the fields `question` and `known`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    opens = True

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        max_tokens: int = 64,
        template: ChatTemplate = GOAL,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "goal",
    ) -> None:
        self.model = as_language_model(model)
        self.max_tokens, self.template = max_tokens, template
        super().__init__(name=name, reads=("examples",), keys=keys, budget=budget)

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        if reason := self.short(state, model_calls=1, reserve=1):
            return {"prm_stop_reason": reason}
        prompt = self.template.render(
            prefill=self.model.capabilities.prefill,
            question=one_line(state["question"]),
            known="\n".join(_told(rounds)) or "(nothing yet)",
        )
        prompt = with_examples(prompt, state.get("examples", ""))
        reply = yield from replied(self.model, prompt, max_tokens=self.max_tokens, schema=_SCHEMA, lines=True)
        wish = parse_goal(prompt.prefix + reply, prompt.messages[-1][1])
        if wish.answer:
            concluded: Round = {**new_round(rounds, []), "answer": wish.answer, "kept": True}
            return {**planned(concluded), **finished(concluded, "answered")}
        if not wish.query and not rounds:
            wish = Wish(state["question"], state["question"])
        if not wish.query or any(same_text(wish.query, other) for other in asked_before(rounds)):
            return {"prm_stop_reason": "no new query"}
        return planned(new_round(rounds, [wish.query], wish.goal))


class Reflect(GatherNode):
    """Reads the round's passages, and says whether its goal is reached.

    Whether to search on is decided by the next `SetGoal`, which is told. The loop ends after `max_rounds`.

    Args:
        model: Reads the passages.
        judge: Says whether the goal is reached; by default `model`.
        threshold: Probability from which on it is.
        max_rounds: Most rounds.
        max_tokens: Most tokens of a finding.
        prompts: Templates; `complete` is used.
        template: The judge's prompt, with the fields `goal`, `query`, `finding` and `passages`.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the loop. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        judge: LanguageModel | BaseChatModel | str | None = None,
        *,
        threshold: float = 0.5,
        max_rounds: int = 5,
        max_tokens: int = 40,
        prompts: Prompts = PROMPTS,
        template: ChatTemplate = REACHED,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "reflect",
    ) -> None:
        self.model = as_language_model(model)
        self.judge = self.model if judge is None else as_language_model(judge)
        self.threshold, self.max_rounds = threshold, max_rounds
        self.max_tokens, self.prompts, self.template = max_tokens, prompts, template
        super().__init__(name=name, keys=keys, budget=budget, settings=("threshold", "max_rounds"))

    def work(self, state: ReasoningState, rounds: list[Round]) -> NodeRoutine:
        """See `GatherNode.work`."""
        *before, current = rounds
        if current["doc_ids"]:
            if reason := self.short(state, model_calls=2, reserve=1):
                return finished(current, reason)
            query = one_line(" ".join(current["queries"]))
            passages = passages_text(documents_of_rounds(state, [current]))
            prompt = self.prompts.complete.render(
                prefill=self.model.capabilities.prefill,
                passages=passages,
                known="\n".join(evidence_lines(before)) or "(nothing yet)",
                query=query,
            )
            finding = parse_finding((yield from replied(self.model, prompt, max_tokens=self.max_tokens)))
            reached: float | None = None
            if finding:
                asked = self.template.render(
                    prefill=self.judge.capabilities.prefill,
                    goal=one_line(current["goal"]),
                    query=query,
                    finding=one_line(finding),
                    passages=passages,
                )
                (reached,) = yield from said_yes(self.judge, [asked], state["question"])
            kept = reached is not None and reached >= self.setting("threshold")
            current = {**current, "note": finding, "score": reached, "kept": kept}
        return finished(current, "max_rounds" if len(rounds) >= self.setting("max_rounds") else "")


def _told(rounds: Sequence[Round]) -> list[str]:
    """What each round asked and found, and whether that was what it wanted."""
    return [
        one_line(
            f"{' '.join(one['queries'])} {one['note'] or 'nothing found'} "
            f"({'goal reached' if one['kept'] else 'goal not reached'})"
        )
        for one in rounds
    ]
