"""The nodes that write the thoughts of proposed steps: their first tokens, and whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel

from agentprm.budget import READING, SearchBudget
from agentprm.documents import merge_documents, passages_text, supporting, title_of
from agentprm.lm import Completion, LanguageModel, Prompt, as_language_model, require
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reading import ModelOrReader, read_steps
from agentprm.nodes.reporting import emit, sampled
from agentprm.nodes.settings import checked_setting
from agentprm.prompts import PROMPTS, Prompts, known_text, reply_params
from agentprm.questions.checking import states
from agentprm.questions.comparing import decide, is_comparison, likelier, one_of
from agentprm.readers.base import Reader
from agentprm.replies import finished_text, parse_finding
from agentprm.routines import Routine
from agentprm.state import ReasoningState, Step, ancestors, documents_of, open_steps
from agentprm.text import one_line, same_text

__all__ = ["BeginSteps", "CompleteSteps"]

# A yes or no of which a reader is less sure gives way to the words of a passage.
_SURE = 0.75


class CompleteSteps(SearchNode):
    """Writes the finding of each proposed step from its passages and from what is known.

    A completion that
    holds no word, or whose tokens ran out before its first sentence ended, leaves the step `unparsed`:
    it is neither scored nor committed.

    A reader quotes the finding from the passages, and says where it stands and how sure it is. A step of a
    plan that compares what was found before is decided by the dates, amounts, countries or names themselves
    (`agentprm.questions.comparing`), and left to the model only where they do not tell.

    A thought that `BeginSteps` began is continued from its own first tokens.

    Args:
        model: A language model, any LangChain chat model, or a reader (`agentprm.readers`).
        passages: Most passages that are shown; 1 in the paper. A reader tells good from bad ones, so that
            it is worth showing it more.
        findings: Most findings that a reader gives for a step, where the strategy (`prm_widths`) does not say
            how many it wants; the further ones become siblings of it. A model gives one.
        temperature: 0, greedy, since a finding should be read off and not invented.
        seed: Seed of the sampling, where the temperature is not 0.
        max_tokens: Most tokens of a finding, or of the rest of one that was begun.
        prompts: Templates; `complete` is used, and `summarise` for a step without retrieval.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: ModelOrReader,
        *,
        passages: int = 1,
        findings: int = 1,
        temperature: float = 0.0,
        seed: int | None = 0,
        max_tokens: int = 40,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "complete",
    ) -> None:
        self.model: LanguageModel | Reader = model if isinstance(model, Reader) else as_language_model(model)
        self.passages, self.prompts, self.max_tokens = passages, prompts, max_tokens
        self.findings = checked_setting("n", findings, "findings")
        self.temperature, self.seed = temperature, seed
        super().__init__(
            name=name,
            reads=("prm_plan", "prm_widths"),
            keys=keys,
            budget=budget,
            settings=("temperature", "seed", "passages"),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        steps = open_steps(state.get("prm_steps"), "proposed")
        if not steps:
            return {}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        decided = [done for step in steps if (done := _decided(state, step))]
        rest = [step for step in steps if not any(step["id"] == done["id"] for done in decided)]
        wanted = 0 if isinstance(self.model, Reader) else len(rest)
        allowed = budget.affordable("model_calls", wanted, usage, reserve=1)
        cut = {"prm_stop_reason": "budget: model_calls"} if allowed < wanted else {}
        if wanted:
            rest = rest[:allowed]
        if spent := budget.exhausted(usage, but=READING):
            return {"prm_stop_reason": f"budget: {spent}"}
        if cut and not rest and not decided:
            return cut
        shown = [shown_to(state, step, self.setting("passages")) for step in rest]
        given = {step["id"]: passages for step, passages in zip(rest, shown, strict=True)}
        if isinstance(self.model, Reader):
            read = yield from read_steps(self.model, state, rest, shown, self.findings)
            read = [_checked(step, given.get(step["id"], [])) for step in read]
        else:
            read = yield from self._written(self.model, state, rest, shown)
        finished: list[Step] = []
        for step in [*decided, *read]:
            if step["thought"] and _concludes(state, step):
                quoted = isinstance(self.model, Reader)
                answer = _chosen(state, step, given.get(step["id"], [])) if quoted else step["thought"]
                finished.append({**step, "final_answer": answer})
            else:
                finished.append(step)
            emit({"type": "agentprm.step_completed", "step_id": step["id"], "thought": step["thought"]})
        return {"prm_steps": finished, **cut}

    def _written(
        self, model: LanguageModel, state: ReasoningState, steps: list[Step], shown: Sequence[list[Document]]
    ) -> Routine[list[Step]]:
        """The steps with what a language model makes of their passages."""
        if not steps:
            return []
        prompts = [
            finding_prompt(self.prompts, model, state, step, passages)
            for step, passages in zip(steps, shown, strict=True)
        ]
        params = reply_params(
            model,
            max_tokens=self.max_tokens,
            temperature=self.setting("temperature"),
            seed=self.setting("seed"),
        )
        rows = yield from sampled(model, prompts, 1, params)
        return [
            _finished(step, passages, row[0]) for step, passages, row in zip(steps, shown, rows, strict=True)
        ]


class BeginSteps(SearchNode):
    """Writes the first tokens of each proposed step's finding, for early rejection by partial steps.

    A partial step says much of what the whole one will be worth, so that only survivors need be finished.
    Goes before a `RejectEarly` of its own, and both before `CompleteSteps`, which continues each survivor
    from its own first tokens; `ScoreSteps` then scores them again. A finding that ends within these tokens
    is whole, and competes like the others.

    Args:
        model: The model that `CompleteSteps` has. It must continue a prefix, and to gain anything reuse it,
            as `TransformersLM` does.
        tokens: How many tokens are written first (tau).
        passages: As for `CompleteSteps`, as are the others.
        temperature: Of the findings.
        seed: Of the sampling.
        prompts: Templates.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run. What cannot be paid twice is not begun, but written at once.

    Raises:
        CapabilityError: If the model continues no prefix.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        tokens: int = 16,
        passages: int = 1,
        temperature: float = 0.0,
        seed: int | None = 0,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "begin_steps",
    ) -> None:
        self.model = as_language_model(model)
        require(self.model, "prefill", f"{type(self).__name__}")
        self.tokens = checked_setting("max_tokens", tokens, "tokens")
        self.passages, self.prompts, self.temperature, self.seed = passages, prompts, temperature, seed
        super().__init__(
            name=name,
            reads=("prm_plan",),
            keys=keys,
            budget=budget,
            settings=("temperature", "seed", "passages"),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        proposed = open_steps(state.get("prm_steps"), "proposed")
        # One that has no rival survives anyway.
        rivals = Counter(step["parent_id"] for step in proposed)
        fresh = [step for step in proposed if rivals[step["parent_id"]] > 1 and "begun" not in step]
        steps = [step for step in fresh if not _decided(state, step)]
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        paid = budget.affordable("model_calls", 2 * len(steps), usage, reserve=1) == 2 * len(steps)
        if not steps or not paid or budget.exhausted(usage, but=READING):
            return {}
        shown = [shown_to(state, step, self.setting("passages")) for step in steps]
        prompts = [
            finding_prompt(self.prompts, self.model, state, step, passages)
            for step, passages in zip(steps, shown, strict=True)
        ]
        params = reply_params(
            self.model,
            max_tokens=self.tokens,
            temperature=self.setting("temperature"),
            seed=self.setting("seed"),
        )
        rows = yield from sampled(self.model, prompts, 1, params)
        begun: list[Step] = []
        for step, passages, (completion,) in zip(steps, shown, rows, strict=True):
            whole = completion.finish_reason == "stop"
            done = _finished(step, passages, completion) if whole else step
            if done["thought"] and _concludes(state, done):
                done = {**done, "final_answer": done["thought"]}
            begun.append({**done, "begun": completion.text})
        return {"prm_steps": begun}


def finding_prompt(
    prompts: Prompts, model: LanguageModel, state: ReasoningState, step: Step, passages: list[Document]
) -> Prompt:
    """What a model is asked for a step's finding, with what is begun of it as the prefix to continue."""
    known, query = known_text(ancestors(state, step)), one_line(step["query"])
    prefill = model.capabilities.prefill
    prompt = (
        prompts.summarise.render(question=query, known=known, prefill=prefill)
        if not step["retrieve"] and not step["doc_ids"]
        else prompts.complete.render(
            passages=passages_text(passages), known=known, query=query, prefill=prefill
        )
    )
    begun = step.get("begun")
    return replace(prompt, prefix=prompt.prefix + begun) if begun else prompt


def shown_to(state: ReasoningState, step: Step, most: int) -> list[Document]:
    """The passages that a step reads; without retrieval those that the findings before it stand in."""
    if step["retrieve"] or step["doc_ids"]:
        return documents_of(state, step["doc_ids"])[:most]
    cited = [i for ancestor in ancestors(state, step) for i in ancestor.get("cited_ids", [])]
    return merge_documents([], documents_of(state, cited))


def _concludes(state: ReasoningState, step: Step) -> bool:
    """Whether the step answers the whole question: it asks it, ends the plan, or already holds an answer."""
    plan = state.get("prm_plan")
    if step["final_answer"] is not None or (plan and step["depth"] >= len(plan)):
        return True
    return same_text(step["query"], state["question"])


def _finished(step: Step, passages: list[Document], completion: Completion) -> Step:
    """The step with the finding that a completion, after what was begun, gives."""
    if begun := step.get("begun"):
        completion = replace(completion, text=begun + completion.text)
    thought = parse_finding(finished_text(completion))
    done: Step = {**step, "thought": thought, "status": "completed"}
    if not thought:
        done["status"], done["output"] = "unparsed", completion.text[:500]
    else:
        done["cited_ids"] = [str(d.id) for d in supporting(thought, passages, step["query"])]
    return done


def _chosen(state: ReasoningState, step: Step, passages: Sequence[Document]) -> str:
    """What a step quotes, or the option of the question that it, or else its passage, speaks of."""
    source = next((p for p in passages if str(p.id) in step.get("cited_ids", [])), None)
    return one_of(state["question"], step["thought"], title_of(source) if source else "")


def _checked(step: Step, passages: Sequence[Document]) -> Step:
    """A step that a reader answered with yes or no, with what a passage says in the question's words.

    A reader that only guesses, as span readers do, is hardly surer of the one than of the other.
    """
    if step["thought"].casefold() not in ("yes", "no") or step.get("confidence", 1.0) >= _SURE:
        return step
    query = one_line(step["query"])
    said = {str(p.id): states(query, title_of(p), p.page_content) for p in passages}
    for told, answer in ((True, "yes"), (False, "no")):
        cited = [name for name, value in said.items() if value is told]
        if cited:
            kept = step["thought"].casefold() == answer
            sure = step["confidence"] if kept else 1 - step["confidence"] / 2
            return {**step, "thought": answer, "confidence": sure, "cited_ids": cited[:1]}
    return step


def _comparison(state: ReasoningState, step: Step) -> str | None:
    """The sub-question of the plan that a step is for, if it compares what the steps before it found."""
    plan = state.get("prm_plan") or []
    if step["retrieve"] or step["doc_ids"] or not 0 < step["depth"] <= len(plan):
        return None
    asked = plan[step["depth"] - 1]
    return asked if is_comparison(asked) else None


def _decided(state: ReasoningState, step: Step) -> Step | None:
    """A step of that kind with the answer, if the findings tell it."""
    asked = _comparison(state, step)
    if asked is None:
        return None
    path = ancestors(state, step)
    plan = state.get("prm_plan", [])[: len(path)]
    found = [one_line(s["thought"]) for s in path]
    answer = decide(asked, plan, found)
    if answer is None and all("confidence" in s for s in path):
        answer = likelier(asked, plan, [(text, s["confidence"]) for text, s in zip(found, path, strict=True)])
    if answer is None:
        return None
    cited = list(dict.fromkeys(i for s in path for i in s.get("cited_ids", [])))
    return {**step, "thought": answer, "status": "completed", "cited_ids": cited}
