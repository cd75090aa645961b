"""The node that proposes the next steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget, Usage
from agentprm.errors import ConfigurationError, InputError
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.models import sampled
from agentprm.nodes.node import NodePlan, SearchNode, emit_proposed
from agentprm.nodes.tree import new_step, same_text
from agentprm.prompts import PROMPTS, Prompts, known_text, proposal_schema, reply_params, with_recall
from agentprm.replies import finished_text, parse_proposal
from agentprm.state import ReasoningState, Step, path_to
from agentprm.text import one_line

__all__ = ["ProposeSteps"]


class ProposeSteps(SearchNode):
    """Proposes `n` different next steps after each step of the frontier (ReARTeR, candidate sampling).

    Each candidate is a step of its own; candidates never share text. A search that repeats an
    ancestor's or a sibling's is dropped. A step concludes if it asks the whole question, with what was
    found so far at hand, or if the model states the final answer.

    With a model that continues a prefix, actions are enumerated rather than left to chance: once
    `min_steps` steps are committed, one candidate concludes and the others search; before that, all
    search. Models without prefill choose freely. Where nothing new was proposed, and at the last
    permitted depth, the only candidate is the conclusion.

    Args:
        model: A language model, or any LangChain chat model.
        n: Candidates per frontier step; 3 in the paper.
        max_steps: Most steps of a path; 5 in the paper.
        min_steps: Committed steps before a conclusion is offered.
        temperature: Sampling temperature.
        seed: Seed of the sampling.
        recall: Offer steps that are answered from what is known, without retrieval (ReARTeR's search
            flag). A model that continues a prefix gets one more candidate, its first search without a
            search; others choose (`Recall: …`).
        look_ahead: Propose look-ahead steps (ids with `~`) rather than candidates.
        max_tokens: Most tokens of a proposal.
        prompts: Templates; `propose` and `proceed` are used.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the run. One model call is kept back for the answer.
    """

    plants = True

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        n: int = 3,
        max_steps: int = 5,
        min_steps: int = 1,
        temperature: float = 0.7,
        seed: int | None = 0,
        recall: bool = False,
        look_ahead: bool = False,
        max_tokens: int = 32,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "propose",
    ) -> None:
        self.model = as_language_model(model)
        self.n, self.max_steps, self.min_steps = n, max_steps, min_steps
        self.temperature, self.seed, self.max_tokens = temperature, seed, max_tokens
        self.recall, self.look_ahead = recall, look_ahead
        self.prompts = with_recall(prompts) if recall else prompts
        super().__init__(
            name=name,
            keys=keys,
            budget=budget,
            settings=("n", "max_steps", "min_steps", "temperature", "seed"),
        )
        if min_steps > max_steps:
            raise ConfigurationError(
                f"min_steps must not be above max_steps, {max_steps}, as {min_steps} is."
            )

    def plan(self, state: ReasoningState) -> NodePlan:
        """See `Node.plan`."""
        if ended := state.get("prm_stop_reason"):
            raise InputError(
                f"{self.name} cannot go on with a search that has ended ({ended}). Let StartSearch run at "
                "the beginning of each question."
            )
        steps = state.get("prm_steps", [])
        paths = [path_to(steps, i) for i in state.get("prm_frontier", [])] or [[]]
        paths = [path for path in paths if not path or path[-1]["final_answer"] is None]
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        if reason := budget.exhausted(usage):
            return {"prm_stop_reason": f"budget: {reason}"}
        searches = [self._searches(path) for path in paths]
        asking = [path for path, wanted in zip(paths, searches, strict=True) if wanted]
        params = reply_params(
            self.model,
            max_tokens=self.max_tokens,
            temperature=self.setting("temperature"),
            seed=self.setting("seed"),
            schema=proposal_schema(recall=self.recall),
        )
        outputs: list[list[str]] = []
        shown: list[str] = []
        cut: dict[str, str] = {}
        # All frontier steps at the same depth ask for the same number of samples: one batch.
        if asking:
            wanted = most = max(searches)
            prompts = [self._prompt(state["question"], path) for path in asking]
            shown = [prompt.messages[-1][1] for prompt in prompts]
            # Fewer candidates than wanted are better than none.
            while wanted and not self._affordable(
                budget, usage, self.model.sample_calls(len(prompts), wanted)
            ):
                wanted -= 1
            if wanted < most:
                cut = {"prm_stop_reason": "budget: model_calls"}
            if not wanted:
                return cut
            rows = yield from sampled(self.model, prompts, wanted, params)
            outputs = [
                [prompt.prefix + finished_text(completion) for completion in row]
                for prompt, row in zip(prompts, rows, strict=True)
            ]
        proposed: list[Step] = []
        remaining = iter(zip(outputs, shown, strict=True))
        for path, count in zip(paths, searches, strict=True):
            row, seen = next(remaining) if count else ([], "")
            proposed += self._candidates(state, path, row[:count], seen)
        emit_proposed(proposed)
        return {"prm_steps": proposed, **cut}

    @staticmethod
    def _affordable(budget: SearchBudget, usage: Usage | None, calls: int) -> bool:
        return budget.affordable("model_calls", calls, usage, reserve=1) == calls

    def _offers_conclusion(self, path: list[Step]) -> bool:
        return self.model.capabilities.prefill and len(path) >= self.setting("min_steps")

    def _searches(self, path: list[Step]) -> int:
        """How many proposals to sample after `path`."""
        if len(path) >= self.setting("max_steps") - 1:
            return 0
        n: int = self.setting("n")
        return n - 1 if self._offers_conclusion(path) and n > 1 else n

    def _prompt(self, question: str, path: list[Step]) -> Prompt:
        template = self.prompts.proceed if path else self.prompts.propose
        return template.render(
            question=one_line(question),
            known=known_text(path),
            prefill=self.model.capabilities.prefill,
        )

    def _candidates(
        self, state: ReasoningState, path: list[Step], outputs: list[str], shown: str
    ) -> list[Step]:
        parent = path[-1] if path else None
        taken = sum(
            1
            for s in state.get("prm_steps", [])
            if s["parent_id"] == (parent["id"] if parent else None)
            and "refines" not in s
            and ("~" in s["id"].removeprefix(s["parent_id"] or "")) == self.look_ahead
        )
        steps: list[Step] = []
        asked = [step["query"] for step in path]

        def add(query: str, *, retrieve: bool = True) -> Step:
            number = taken + len(steps) + 1
            if self.look_ahead:
                step_id = f"{parent['id'] if parent else ''}~{number}"
            else:
                step_id = f"{parent['id']}.{number}" if parent else str(number)
            step = new_step(step_id, parent, query)
            step["retrieve"] = step["retrieve"] and retrieve
            steps.append(step)
            return step

        for output in outputs:
            proposal = parse_proposal(output, shown, recall=self.recall)
            if proposal is None:
                step = add("")
                step["status"], step["output"] = "unparsed", output[:500]
            elif proposal.final_answer:
                if any(step["final_answer"] == proposal.final_answer for step in steps):
                    continue
                step = add("")
                step["final_answer"] = step["thought"] = proposal.final_answer
                step["status"] = "completed"
            elif proposal.query and not any(same_text(proposal.query, q) for q in asked):
                if same_text(proposal.query, state["question"]) and self.model.capabilities.prefill:
                    continue  # that is the conclusion, which is enumerated below
                asked.append(proposal.query)
                add(proposal.query, retrieve=proposal.retrieve)
        searches = [step for step in steps if step["status"] == "proposed" and step["retrieve"]]
        if self.recall and searches and self.model.capabilities.prefill and self.setting("n") > 1:
            add(searches[0]["query"], retrieve=False)
        new = [step for step in steps if step["status"] != "unparsed"]
        enumerated = self._offers_conclusion(path) and self.setting("n") > 1
        if enumerated or not outputs or (not new and len(steps) < len(outputs)):
            add(state["question"])
        return steps
