"""The node that proposes the next steps."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from langchain_core.language_models import BaseChatModel

from agentprm.budget import SearchBudget, Usage
from agentprm.errors import ConfigurationError, InputError
from agentprm.lm import LanguageModel, Prompt, SamplingParams, as_language_model
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit_proposed, sampled
from agentprm.prompts import (
    PROMPTS,
    Prompts,
    known_text,
    proposal_schema,
    reply_params,
    with_examples,
    with_recall,
)
from agentprm.replies import finished_text, parse_proposal
from agentprm.state import ReasoningState, Step, new_step, path_to
from agentprm.text import one_line, same_text

__all__ = ["ProposeSteps"]


class ProposeSteps(SearchNode):
    """Proposes `n` different next steps after each step of the frontier (ReARTeR, candidate sampling).

    Each candidate is a step of its own; candidates never share text. A search that repeats an
    ancestor's is dropped, one that repeats a sibling's is merged with it, and `samples` counts how many
    said the same. A step concludes if it asks the whole question, with what was found so far at hand, or
    if the model states the final answer.

    With a model that continues a prefix, actions are enumerated rather than left to chance: once
    `min_steps` steps are committed, one candidate concludes and the others search; before that, all
    search. Models without prefill choose freely. Where nothing new was proposed, and at the last
    permitted depth, the only candidate is the conclusion. Where a strategy wants a single child
    (`prm_widths`), chance decides between a search and the conclusion, so that paths differ in length.

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
            reads=("prm_widths", "examples", "prm_examples"),
            keys=keys,
            budget=budget,
            settings=("n", "max_steps", "min_steps", "temperature", "seed"),
        )
        if min_steps > max_steps:
            raise ConfigurationError(
                f"min_steps must not be above max_steps, {max_steps}, as {min_steps} is."
            )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        if ended := state.get("prm_stop_reason"):
            raise InputError(
                f"{self.name} cannot go on with a search that has ended ({ended}). Let StartSearch run at "
                "the beginning of each question."
            )
        steps = state.get("prm_steps", [])
        paths = [path_to(steps, i or None) for i in state.get("prm_frontier", [])] or [[]]
        places = [_Place(self, state, path) for path in paths if not path or path[-1]["final_answer"] is None]
        budget: SearchBudget = self.setting("budget")
        usage = state.get("prm_usage")
        if reason := budget.exhausted(usage):
            return {"prm_stop_reason": f"budget: {reason}"}
        # Places that ask for the same number of samples under the same seed go in one batch.
        batches: dict[tuple[int, int], list[_Place]] = {}
        for place in places:
            if place.searches:
                batches.setdefault((place.searches, place.sampled), []).append(place)
        cut: dict[str, str] = {}
        calls = 0
        for (most, sampled_before), batch in batches.items():
            prompts = [self._prompt(state, place.path) for place in batch]
            wanted = most
            # Fewer candidates than wanted are better than none.
            while wanted and not self._affordable(
                budget, usage, calls + self.model.sample_calls(len(prompts), wanted)
            ):
                wanted -= 1
            if wanted < most:
                cut = {"prm_stop_reason": "budget: model_calls"}
            if not wanted:
                places = [place for place in places if place not in batch]
                continue
            calls += self.model.sample_calls(len(prompts), wanted)
            rows = yield from sampled(self.model, prompts, wanted, self._params(sampled_before))
            for place, prompt, row in zip(batch, prompts, rows, strict=True):
                place.shown = prompt.messages[-1][1]
                place.outputs = [prompt.prefix + finished_text(completion) for completion in row]
        proposed: list[Step] = []
        merged: list[Step] = []
        for place in places:
            new, again = self._candidates(state["question"], place)
            proposed, merged = proposed + new, merged + again
        emit_proposed(proposed)
        return {"prm_steps": [*proposed, *merged], **cut} if places else cut

    def _params(self, sampled_before: int) -> SamplingParams:
        """Of a batch; what is asked once more at the same place is sampled under another seed."""
        seed = self.setting("seed")
        return reply_params(
            self.model,
            max_tokens=self.max_tokens,
            temperature=self.setting("temperature"),
            seed=seed if seed is None else seed + sampled_before,
            schema=proposal_schema(recall=self.recall),
        )

    @staticmethod
    def _affordable(budget: SearchBudget, usage: Usage | None, calls: int) -> bool:
        return budget.affordable("model_calls", calls, usage, reserve=1) == calls

    def offers_conclusion(self, path: list[Step]) -> bool:
        """Whether the conclusion is one of the candidates after `path`."""
        return self.model.capabilities.prefill and len(path) >= self.setting("min_steps")

    def _prompt(self, state: ReasoningState, path: list[Step]) -> Prompt:
        template = self.prompts.proceed if path else self.prompts.propose
        prompt = template.render(
            question=one_line(state["question"]),
            known=known_text(path),
            prefill=self.model.capabilities.prefill,
        )
        here = state.get("prm_examples", {}).get(path[-1]["id"] if path else "")
        return with_examples(prompt, "\n\n".join(filter(None, [state.get("examples"), here])))

    def _candidates(self, question: str, place: _Place) -> tuple[list[Step], list[Step]]:
        """New steps, and known siblings that were proposed once more."""
        steps: list[Step] = []
        again: dict[str, Step] = {}
        asked = [step["query"] for step in place.path]

        def merge(same: Step) -> None:
            samples = same.get("samples", 1) + 1
            if any(step is same for step in steps):
                same["samples"] = samples
            else:
                again[same["id"]] = {**same, "samples": samples}

        known = [step for step in place.siblings if step["status"] != "unparsed"]

        def alike(query: str, twin: bool) -> Step | None:
            for step in [*steps, *known]:
                if step["query"] and same_text(step["query"], query) and not (twin and step["retrieve"]):
                    return again.get(step["id"], step)
            return None

        def add(query: str, *, retrieve: bool = True, twin: bool = False) -> Step | None:
            if same := alike(query, twin) if query else None:
                merge(same)
                return None
            number = place.taken + len(steps) + 1
            if self.look_ahead:
                step_id = f"{place.id}~{number}"
            else:
                step_id = f"{place.id}.{number}" if place.id else str(number)
            step = new_step(step_id, place.parent, query)
            step["retrieve"] = step["retrieve"] and retrieve
            steps.append(step)
            return step

        for output in place.outputs:
            proposal = parse_proposal(output, place.shown, recall=self.recall)
            if proposal is None:
                if step := add(""):
                    step["status"], step["output"] = "unparsed", output[:500]
            elif proposal.final_answer:
                said = [s for s in [*steps, *known] if s["final_answer"] == proposal.final_answer]
                if said:
                    merge(again.get(said[0]["id"], said[0]))
                elif step := add(""):
                    step["final_answer"] = step["thought"] = proposal.final_answer
                    step["status"] = "completed"
            elif proposal.query and not any(same_text(proposal.query, q) for q in asked):
                if same_text(proposal.query, question) and self.model.capabilities.prefill:
                    continue  # that is the conclusion, which is enumerated below
                add(proposal.query, retrieve=proposal.retrieve)
        found = [step for step in steps if step["status"] == "proposed" and step["retrieve"]]
        if self.recall and found and self.model.capabilities.prefill and place.width > 1:
            add(found[0]["query"], retrieve=False, twin=True)
        new = [step for step in steps if step["status"] != "unparsed"] or again
        enumerated = self.offers_conclusion(place.path) and place.width > 1
        if enumerated or not place.outputs or (not new and len(steps) < len(place.outputs)):
            add(question)
        return steps, list(again.values())


class _Place:
    """Where candidates are proposed: after a path, how many, and which are there already."""

    def __init__(self, node: ProposeSteps, state: ReasoningState, path: list[Step]) -> None:
        self.path, self.parent = path, path[-1] if path else None
        self.id = self.parent["id"] if self.parent else ""
        parent_id = self.parent["id"] if self.parent else None
        self.siblings = [
            step
            for step in state.get("prm_steps", [])
            if step["parent_id"] == parent_id
            and "refines" not in step
            and ("~" in step["id"].removeprefix(parent_id or "")) == node.look_ahead
        ]
        self.taken = len(self.siblings)
        self.sampled = sum(step.get("samples", 1) for step in self.siblings)
        self.outputs: list[str] = []
        self.shown = ""
        n: int = node.setting("n")
        self.width = n if node.look_ahead else state.get("prm_widths", {}).get(self.id, n)
        offered = node.offers_conclusion(path)
        if len(path) >= node.setting("max_steps") - 1:
            self.searches = 0
        elif self.width > 1:
            self.searches = self.width - offered
        else:
            # A strategy that wants a single child wants a random one: a search or the conclusion.
            concluded = any(same_text(step["query"], state["question"]) for step in self.siblings)
            chance = random.Random(f"{node.setting('seed')} {self.id} {self.sampled}")
            single = not node.look_ahead and self.id in state.get("prm_widths", {})
            self.searches = 0 if single and offered and not concluded and chance.random() < 0.5 else 1
