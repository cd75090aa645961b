"""The node that has a weak step criticised and replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.lm import LanguageModel, Prompt, SamplingParams, as_language_model
from agentprm.nodes.models import sampled
from agentprm.nodes.node import NodePlan, SearchNode, emit_proposed
from agentprm.nodes.tree import ancestors, documents_of, new_step, same_text
from agentprm.prompts import PROMPTS, PROPOSAL, Prompts, known_text, passages_text, reply_params
from agentprm.replies import finished_text, parse_proposal, without_thought
from agentprm.state import ReasoningState, Step, path_to
from agentprm.text import one_line

__all__ = ["RefineStep"]


class RefineStep(SearchNode):
    """Proposes one better step in place of each weak one: critique, then a new action (ReARTeR, 1.2).

    The refinement becomes a sibling of the weak step and goes the same way as any candidate:
    retrieval, completion, scoring, look-ahead, selection. Selection decides whether it is taken. An
    action that cannot be parsed leaves the refinement `unparsed`; it never means to finish.

    Args:
        model: A language model, or any LangChain chat model, that proposes the new action.
        critic: Another one that writes the critique; `None` means the same.
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
        critic: LanguageModel | BaseChatModel | str | None = None,
        temperature: float = 0.7,
        seed: int | None = 0,
        max_tokens: int = 64,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "refine",
    ) -> None:
        self.model = as_language_model(model)
        self.critic = as_language_model(critic) if critic is not None else self.model
        self.temperature, self.seed, self.max_tokens, self.prompts = temperature, seed, max_tokens, prompts
        super().__init__(
            name=name,
            reads=("prm_weak",),
            keys=keys,
            budget=budget,
            settings=("temperature", "seed"),
        )

    def plan(self, state: ReasoningState) -> NodePlan:
        """See `Node.plan`."""
        weak = [path_to(state.get("prm_steps", []), i)[-1] for i in state.get("prm_weak", [])]
        if not weak:
            return {}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        spent = budget.exhausted(usage)
        if spent or budget.affordable("model_calls", 2 * len(weak), usage, reserve=1) < 2 * len(weak):
            return {"prm_weak": [], "prm_stop_reason": f"budget: {spent or 'model_calls'}"}
        fields = [self._fields(state, step) for step in weak]
        greedy = SamplingParams(max_tokens=self.max_tokens, temperature=0.0, seed=self.setting("seed"))
        reviews = [self.prompts.critique.render(prefill=False, **values) for values in fields]
        critiques = yield from sampled(self.critic, reviews, 1, greedy)
        texts = [one_line(without_thought(row[0].text)) for row in critiques]
        params = reply_params(
            self.model,
            max_tokens=48,
            temperature=self.setting("temperature"),
            seed=self.setting("seed"),
            schema=PROPOSAL,
        )
        prefill = self.model.capabilities.prefill
        prompts = [
            self.prompts.refine.render(**values, critique=text, prefill=prefill)
            for values, text in zip(fields, texts, strict=True)
        ]
        actions = yield from sampled(self.model, prompts, 1, params)
        refined = [
            self._refined(state, step, text, prompt, finished_text(row[0]))
            for step, text, prompt, row in zip(weak, texts, prompts, actions, strict=True)
        ]
        emit_proposed(refined)
        return {"prm_steps": refined, "prm_weak": []}

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
            "future": one_line("; ".join(future)) or "unknown",
        }

    def _refined(self, state: ReasoningState, weak: Step, critique: str, prompt: Prompt, reply: str) -> Step:
        parents = ancestors(state, weak)
        parent = parents[-1] if parents else None
        output = prompt.prefix + reply
        proposal = parse_proposal(output, prompt.messages[-1][1])
        step = new_step(f"{weak['id']}r", parent, proposal.query if proposal else "")
        step["refines"], step["critique"] = weak["id"], critique
        asked = [weak["query"], *(step["query"] for step in parents)]
        if proposal is None or any(same_text(proposal.query, query) for query in asked if proposal.query):
            # An action that asks nothing new cannot be better, and could go round for ever.
            step["status"], step["output"] = "unparsed", output[:500]
        elif proposal.final_answer is not None:
            step["final_answer"] = step["thought"] = proposal.final_answer
            step["status"] = "completed"
        return step
