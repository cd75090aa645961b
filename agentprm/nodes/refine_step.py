"""The node that has a weak step criticised and replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.documents import passages_text
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit, emit_proposed, sampled
from agentprm.prompts import (
    CRITIQUE,
    PROMPTS,
    Prompts,
    known_text,
    proposal_schema,
    reply_params,
    with_recall,
)
from agentprm.replies import Critique, finished_text, parse_critique, parse_proposal
from agentprm.routines import Routine
from agentprm.state import ReasoningState, Step, ancestors, documents_of, new_step, path_to
from agentprm.text import one_line, same_text

__all__ = ["RefineStep"]


class RefineStep(SearchNode):
    """Explains what is wrong with each weak step and proposes one in its place (ReARTeR, 1.2).

    The explanation model is shown the step, its passages, its score, what the reward remarked (a judge's
    critique, a checker's evidence) and what look-ahead found to follow. It says where the fault lies, in
    the decomposition, the retrieval or the finding, and what to do better. The policy then chooses an
    action: a new query, with `recall` also one without a search or the step's own query with its search
    flag flipped, or the final answer.

    The refinement becomes a sibling of the weak step and goes the same way as any candidate:
    retrieval, completion, scoring, look-ahead, selection. Selection decides whether it is taken. An
    action that cannot be parsed leaves the refinement `unparsed`; it never means to finish. With `recall`
    a model that continues a prefix is led to search, so the flipped step is proposed beside its query.

    Args:
        model: A language model, or any LangChain chat model, that proposes the new action.
        explainer: The explanation model, which writes the critique; `None` means the same.
        recall: Also offer steps without a search, and to flip the step's search flag.
        temperature: Sampling temperature of the new action.
        seed: Seed of the sampling.
        max_tokens: Most tokens of the critique; a new action has at most 48.
        prompts: Templates; `critique` and `refine` are used.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        explainer: LanguageModel | BaseChatModel | str | None = None,
        recall: bool = False,
        temperature: float = 0.7,
        seed: int | None = 0,
        max_tokens: int = 64,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "refine",
    ) -> None:
        self.model = as_language_model(model)
        self.explainer = as_language_model(explainer) if explainer is not None else self.model
        self.temperature, self.seed, self.max_tokens = temperature, seed, max_tokens
        self.recall, self.prompts = recall, with_recall(prompts) if recall else prompts
        super().__init__(
            name=name,
            reads=("prm_weak",),
            keys=keys,
            budget=budget,
            settings=("temperature", "seed"),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        weak = [path_to(state.get("prm_steps", []), i)[-1] for i in state.get("prm_weak", [])]
        if not weak:
            return {}
        if short := self.short(state, but=(), model_calls=2 * len(weak), reserve=1):
            return {"prm_weak": [], "prm_stop_reason": short}
        fields = [self._fields(state, step) for step in weak]
        critiques = yield from self._critiques(weak, fields)
        params = reply_params(
            self.model,
            max_tokens=48,
            temperature=self.setting("temperature"),
            seed=self.setting("seed"),
            schema=proposal_schema(recall=self.recall, flip=self.recall),
        )
        prefill = self.model.capabilities.prefill
        prompts = [
            self.prompts.refine.render(
                **values, fault=found.fault or "unknown", critique=found.advice or "none", prefill=prefill
            )
            for values, found in zip(fields, critiques, strict=True)
        ]
        actions = yield from sampled(self.model, prompts, 1, params)
        refined = [
            refinement
            for step, found, prompt, row in zip(weak, critiques, prompts, actions, strict=True)
            for refinement in self._refined(state, step, found, prompt, finished_text(row[0]))
        ]
        emit_proposed(refined)
        return {"prm_steps": refined, "prm_weak": []}

    def _critiques(
        self, weak: Sequence[Step], fields: Sequence[Mapping[str, str]]
    ) -> Routine[list[Critique]]:
        params = reply_params(
            self.explainer, max_tokens=self.max_tokens, seed=self.setting("seed"), schema=CRITIQUE
        )
        prefill = self.explainer.capabilities.prefill
        prompts = [self.prompts.critique.render(**values, prefill=prefill) for values in fields]
        rows = yield from sampled(self.explainer, prompts, 1, params)
        critiques = [parse_critique(row[0].text) for row in rows]
        for step, found in zip(weak, critiques, strict=True):
            emit(
                {
                    "type": "agentprm.step_criticised",
                    "step_id": step["id"],
                    "fault": found.fault,
                    "critique": found.advice,
                }
            )
        return critiques

    def _fields(self, state: ReasoningState, step: Step) -> dict[str, str]:
        future = [
            s["thought"]
            for s in state.get("prm_steps", [])
            if s["status"] == "simulated" and s["id"].startswith(step["id"] + "~") and s["thought"]
        ]
        return {
            "question": one_line(state["question"]),
            "known": known_text(ancestors(state, step)),
            "query": one_line(step["query"]) or "conclude",
            "passages": passages_text(documents_of(state, step["doc_ids"])[:3], max_chars=600),
            "thought": one_line(step["thought"]),
            "score": "unknown" if step["value"] is None else f"{step['value']:.2f}",
            "remarks": one_line(step.get("remarks", "")) or "none",
            "future": one_line("; ".join(future)) or "unknown",
        }

    def _refined(
        self, state: ReasoningState, weak: Step, critique: Critique, prompt: Prompt, reply: str
    ) -> list[Step]:
        parents = ancestors(state, weak)
        parent = parents[-1] if parents else None

        def sibling(mark: str, query: str) -> Step:
            step = new_step(f"{weak['id']}{mark}", parent, query)
            step["refines"], step["critique"] = weak["id"], critique.advice
            if critique.fault:
                step["fault"] = critique.fault
            return step

        def flipped(mark: str) -> Step:
            step = sibling(mark, weak["query"])
            step["retrieve"] = not weak["retrieve"]
            return step

        output = prompt.prefix + reply
        proposal = parse_proposal(output, prompt.messages[-1][1], recall=self.recall, flip=self.recall)
        if proposal is not None and weak["query"]:
            same = self.recall and same_text(proposal.query, weak["query"])
            if proposal.flip or (same and proposal.retrieve != weak["retrieve"]):
                return [flipped("r")]
        step = sibling("r", proposal.query if proposal else "")
        asked = [weak["query"], *(step["query"] for step in parents)]
        if proposal is None or proposal.flip or any(same_text(proposal.query, q) for q in asked if q):
            # An action that asks nothing new cannot be better, and could go round for ever.
            step["status"], step["output"] = "unparsed", output[:500]
        elif proposal.final_answer is not None:
            step["final_answer"] = step["thought"] = proposal.final_answer
            step["status"] = "completed"
        else:
            step["retrieve"] = proposal.retrieve
        led = self.recall and self.model.capabilities.prefill and weak["query"]
        return [step, flipped("f")] if led else [step]
