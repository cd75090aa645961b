"""The node that finishes the thoughts of proposed steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget
from agentprm.citations import supporting
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.models import sampled
from agentprm.nodes.node import NodePlan, SearchNode, emit
from agentprm.nodes.tree import ancestors, concludes, documents_of
from agentprm.prompts import PROMPTS, Prompts, known_text, passages_text, reply_params
from agentprm.replies import finished_text, parse_finding
from agentprm.state import ReasoningState, Step, open_steps
from agentprm.text import one_line

__all__ = ["CompleteSteps"]


class CompleteSteps(SearchNode):
    """Writes the finding of each proposed step from its passages and from what is known.

    A completion that
    holds no word, or whose tokens ran out before its first sentence ended, leaves the step `unparsed`:
    it is neither scored nor committed.

    Args:
        model: A language model, or any LangChain chat model.
        passages: Most passages that are shown; 1 in the paper.
        temperature: 0, greedy, since a finding should be read off and not invented.
        seed: Seed of the sampling, where the temperature is not 0.
        max_tokens: Most tokens of a finding.
        prompts: Templates; `complete` is used, and `summarise` for a step without retrieval.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        passages: int = 1,
        temperature: float = 0.0,
        seed: int | None = 0,
        max_tokens: int = 40,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "complete",
    ) -> None:
        self.model = as_language_model(model)
        self.passages, self.prompts, self.max_tokens = passages, prompts, max_tokens
        self.temperature, self.seed = temperature, seed
        super().__init__(
            name=name,
            keys=keys,
            budget=budget,
            settings=("temperature", "seed", "passages"),
        )

    def plan(self, state: ReasoningState) -> NodePlan:
        """See `Node.plan`."""
        steps = open_steps(state.get("prm_steps"), "proposed")
        if not steps:
            return {}
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        wanted = len(steps)
        allowed = budget.affordable("model_calls", wanted, usage, reserve=1)
        if budget.exhausted(usage) or not allowed:
            return {"prm_stop_reason": f"budget: {budget.exhausted(usage) or 'model_calls'}"}
        steps = steps[:allowed]
        shown = [documents_of(state, step["doc_ids"])[: self.setting("passages")] for step in steps]
        prompts = [
            self._prompt(step, passages, known_text(ancestors(state, step)))
            for step, passages in zip(steps, shown, strict=True)
        ]
        params = reply_params(
            self.model,
            max_tokens=self.max_tokens,
            temperature=self.setting("temperature"),
            seed=self.setting("seed"),
        )
        rows = yield from sampled(self.model, prompts, 1, params)
        finished: list[Step] = []
        for step, passages, row in zip(steps, shown, rows, strict=True):
            thought = parse_finding(finished_text(row[0]))
            done: Step = {**step, "thought": thought, "status": "completed"}
            if not thought:
                done["status"], done["output"] = "unparsed", row[0].text[:500]
            else:
                done["cited_ids"] = [str(d.id) for d in supporting(thought, passages, step["query"])]
                if concludes(state, step):
                    done["final_answer"] = thought
            finished.append(done)
            emit({"type": "agentprm.step_completed", "step_id": step["id"], "thought": thought})
        cut = {"prm_stop_reason": "budget: model_calls"} if allowed < wanted else {}
        return {"prm_steps": finished, **cut}

    def _prompt(self, step: Step, passages: Sequence[Document], known: str) -> Prompt:
        query, prefill = one_line(step["query"]), self.model.capabilities.prefill
        if not step["retrieve"] and not passages:
            return self.prompts.summarise.render(question=query, known=known, prefill=prefill)
        return self.prompts.complete.render(
            passages=passages_text(passages), known=known, query=query, prefill=prefill
        )
