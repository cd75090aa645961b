"""The nodes of CR-Planner: choose a sub-goal, make candidates for it, choose among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel

from agentprm.budget import READING, SearchBudget
from agentprm.documents import distinct_documents, merge_documents, passages_text, supporting
from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.reporting import emit, emit_proposed, emit_retrieved, sampled, stopped_by
from agentprm.nodes.retrieve import RetrieverLike, Searcher
from agentprm.nodes.score_steps import last_scores, reward_step
from agentprm.prompts import (
    PROMPTS,
    SEARCH,
    ChatTemplate,
    Prompts,
    known_text,
    proposal_schema,
    reply_params,
)
from agentprm.replies import finished_text, parse_finding, parse_proposal
from agentprm.rewards import ProcessRewardModel, RewardStep, as_reward
from agentprm.routines import Routine
from agentprm.search.subgoals import SENTENCES, SUBGOALS, allowed_subgoals, critic_context, pending_query
from agentprm.state import ReasoningState, Step, StepStatus, Subgoal, documents_of, new_step, path_to
from agentprm.text import one_line, same_text

__all__ = ["ASK", "REASON", "ChooseExecution", "ChooseSubgoal", "ExpandSubgoal", "Reward"]

Reward = ProcessRewardModel | Callable[..., Any]
"""A process reward model, or a function that `agentprm.rewards.as_reward` makes one of."""

#: One step of reasoning; fields `question`, `known`, `passages`.
REASON = ChatTemplate(
    fields=("question", "known", "passages"),
    system=(
        "Find the answer to a question step by step. Write only the next step: one or two sentences that "
        "follow from the passages and from the steps before. Once the answer is known, write "
        "'Final answer: <short answer>' instead."
    ),
    user="Question: {question}\nSteps so far:\n{known}\nPassages:\n{passages}\nNext step:",
)
#: A query for what is not known yet; fields `question`, `known`.
ASK = ChatTemplate(
    fields=("question", "known"),
    system=(
        "To answer a question, something must be looked up. Ask for one thing that is not known yet. "
        "Reply with one line: 'Search: <a short question about one thing>'."
    ),
    user="Question: {question}\nSteps so far:\n{known}",
    prefix=SEARCH,
)


def _path(state: ReasoningState) -> list[Step]:
    frontier = state.get("prm_frontier", [])
    return path_to(state.get("prm_steps", []), frontier[-1] or None) if frontier else []


def _children(state: ReasoningState, path: Sequence[Step]) -> list[Step]:
    parent = path[-1]["id"] if path else None
    return [step for step in state.get("prm_steps", []) if step["parent_id"] == parent]


def observed(state: ReasoningState, step: Step) -> RewardStep:
    """The step as a critic sees it: a rationale, the text of a query, or a query with its passage."""
    seen = reward_step(state, step)
    if step.get("subgoal") == "query":
        return {**seen, "query": "", "thought": step["query"]}
    if step.get("subgoal") == "retrieve":
        return {**seen, "thought": one_line(" ".join(seen["passages"])) or "nothing was found"}
    return seen


class ChooseSubgoal(SearchNode):
    """Chooses what comes next: to reason, to ask, or to look up (the sub-goal stage of CR-Planner).

    The action mask says what may come (`agentprm.search.allowed_subgoals`); of that the reward scores
    a sentence for each sub-goal after the whole path, and the best is written to `prm_subgoal`. A
    sub-goal without rivals is not scored. One that gave no candidate at this place is not chosen there
    again. At the last step, and where nothing is left to choose, the sub-goal is `conclude`.

    Args:
        reward: The sub-goal critic.
        max_steps: Most steps of the path (T).
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    plants = True

    def __init__(
        self,
        reward: Reward,
        *,
        max_steps: int = 10,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "choose_subgoal",
    ) -> None:
        self.reward, self.max_steps = as_reward(reward), max_steps
        super().__init__(
            name=name, writes=("prm_subgoal",), keys=keys, budget=budget, settings=("max_steps",)
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        path = _path(state)
        if short := self.short(state, but=READING):
            return {"prm_subgoal": "conclude", "prm_stop_reason": short}
        failed = [step["subgoal"] for step in _children(state, path) if "subgoal" in step]
        allowed: Sequence[Subgoal] = []
        if len(path) < self.setting("max_steps") - 1:
            left = not self.short(state, but=READING, retrievals=1)
            allowed = allowed_subgoals(path, failed, retrievals=left)
        scores: list[float | None] = []
        if len(allowed) > 1:
            count, calls = len(allowed), self.reward.model_calls(len(allowed))
            if short := self.short(state, but=READING, reserve=1, reward_calls=count, model_calls=calls):
                return {"prm_subgoal": "conclude", "prm_stop_reason": short}
            history = [observed(state, step) for step in path]
            sentences = [
                RewardStep(query="", passages=[], thought=SENTENCES[subgoal], final_answer=None)
                for subgoal in allowed
            ]
            scores = yield from last_scores(
                self.reward, state["question"], [[*history, sentence] for sentence in sentences]
            )
        chosen: str = allowed[_best(scores)] if allowed else "conclude"
        emit(
            {
                "type": "agentprm.subgoal_chosen",
                "step_id": path[-1]["id"] if path else None,
                "subgoal": chosen,
                "scores": dict(zip(allowed, scores, strict=True)) if scores else {},
            }
        )
        return {"prm_subgoal": chosen}


def _best(scores: Sequence[float | None]) -> int:
    """The place of the highest score; the first of equals, and 0 of none."""
    values = [-math.inf if score is None else score for score in scores] or [0.0]
    return max(range(len(values)), key=lambda i: (values[i], -i))


class ExpandSubgoal(SearchNode):
    """Makes candidates for the sub-goal in `prm_subgoal` (the execution stage of CR-Planner).

    `reason` and `query` are sampled, `retrieve` makes each passage found for the last query a candidate
    of its own, and `conclude` writes the answer from what was found, once. A rationale is given the
    passages that were chosen on the path. A reply without a usable form, and a query that was asked
    before, become `unparsed`.

    Args:
        model: A language model, or any LangChain chat model.
        retriever: As for `Retrieve`.
        n: Samples of a rationale or a query; 3 in the paper.
        k: Passages found for a query, each a candidate.
        passages: Most passages that a rationale is shown, the last chosen ones.
        temperature: Of the samples; .7 in the paper.
        seed: Seed of the sampling.
        max_tokens: Most tokens of a rationale.
        reason: Template of a rationale, see `REASON`.
        ask: Template of a query, see `ASK`.
        prompts: Templates; `complete` and `summarise` are used for the conclusion.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        retriever: RetrieverLike,
        *,
        n: int = 3,
        k: int | None = 3,
        passages: int = 3,
        temperature: float = 0.7,
        seed: int | None = 0,
        max_tokens: int = 80,
        reason: ChatTemplate = REASON,
        ask: ChatTemplate = ASK,
        prompts: Prompts = PROMPTS,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "expand",
    ) -> None:
        self.model = as_language_model(model)
        self.searcher = Searcher(retriever, k, type(self).__name__)
        self.n, self.k, self.passages = n, self.searcher.k, passages
        self.temperature, self.seed, self.max_tokens = temperature, seed, max_tokens
        self.reason, self.ask, self.prompts = reason, ask, prompts
        super().__init__(
            name=name,
            reads=("prm_subgoal",),
            keys=keys,
            budget=budget,
            settings=("n", "k", "passages", "temperature", "seed"),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        subgoal = state.get("prm_subgoal", "")
        if state.get("prm_stop_reason") or not subgoal:
            return {}
        path = _path(state)
        if subgoal == "retrieve":
            return (yield from self._found(state, path))
        n, short = self.setting("n") if subgoal != "conclude" else 1, ""
        while n and (short := self.short(state, model_calls=self.model.sample_calls(1, n), reserve=1)):
            n -= 1
        if not n:
            return {"prm_stop_reason": short}
        shown = list(dict.fromkeys(i for s in path if s.get("subgoal") == "retrieve" for i in s["doc_ids"]))
        shown = shown[-self.setting("passages") :]
        prompt = self._prompt(state, path, subgoal, shown)
        params = reply_params(
            self.model,
            max_tokens=32 if subgoal == "query" else self.max_tokens,
            temperature=self.setting("temperature") if subgoal != "conclude" else 0.0,
            seed=self.setting("seed"),
            schema=proposal_schema() if subgoal == "query" else None,
        )
        rows = yield from sampled(self.model, [prompt], n, params)
        steps: list[Step] = []
        for completion in rows[0]:
            reply = prompt.prefix + finished_text(completion)
            step = self._step(state, path, len(steps))
            self._fill(step, subgoal, reply, prompt, [s["query"] for s in path])
            known = [other for other in steps if other["status"] != "unparsed"]
            if any(_said(step) == _said(other) for other in known):
                continue
            if step["status"] != "unparsed" and subgoal != "query":
                step["doc_ids"] = shown
                cited = supporting(step["thought"], documents_of(state, shown), state["question"])
                step["cited_ids"] = [str(d.id) for d in cited]
            steps.append(step)
        emit_proposed(steps)
        return {"prm_steps": steps}

    def _step(self, state: ReasoningState, path: Sequence[Step], more: int) -> Step:
        parent = path[-1] if path else None
        number = len(_children(state, path)) + more + 1
        return new_step(f"{parent['id']}.{number}" if parent else str(number), parent)

    def _prompt(
        self, state: ReasoningState, path: Sequence[Step], subgoal: str, shown: Sequence[str]
    ) -> Prompt:
        question, known = one_line(state["question"]), known_text(path)
        prefill = self.model.capabilities.prefill
        passages = passages_text(documents_of(state, shown))
        if subgoal == "query":
            return self.ask.render(question=question, known=known, prefill=prefill)
        if subgoal == "reason":
            return self.reason.render(question=question, known=known, passages=passages, prefill=prefill)
        template = self.prompts.complete if shown else self.prompts.summarise
        values = {"passages": passages, "query": question, "question": question, "known": known}
        return template.render(prefill=prefill, **values)

    @staticmethod
    def _fill(step: Step, subgoal: str, reply: str, prompt: Prompt, asked: Sequence[str]) -> None:
        """The step that a reply makes."""
        step["subgoal"], step["status"] = "query" if subgoal == "query" else "reason", "completed"
        proposal = parse_proposal(reply, prompt.messages[-1][1]) if subgoal != "conclude" else None
        if subgoal == "query":
            if proposal and proposal.query and not any(same_text(proposal.query, q) for q in asked if q):
                step["query"] = proposal.query
                return
        elif proposal is not None and proposal.final_answer:
            step["final_answer"] = step["thought"] = proposal.final_answer
            return
        elif proposal is None and (thought := parse_finding(reply)):
            step["thought"] = one_line(thought)
            if subgoal == "conclude":
                step["final_answer"] = step["thought"]
            return
        step["status"], step["output"] = "unparsed", reply[:500]

    def _found(self, state: ReasoningState, path: Sequence[Step]) -> NodeRoutine:
        if short := self.short(state, but=(), retrievals=1):
            return {"prm_stop_reason": short}
        asked = pending_query(path)
        if asked is None:
            raise ConfigurationError(
                f"{self.name} has no query to look up; let ChooseSubgoal mask what may not come."
            )
        query, k = asked["query"], self.setting("k")
        read = {i for step in path for i in step["doc_ids"]}
        hits = yield from self.searcher.find([query], k + len(read) if k else None)
        found = distinct_documents(hits[query], state.get("prm_documents", []))
        new = [document for document in found if document.id not in read][:k]
        emit_retrieved(asked["id"], query, new)
        steps: list[Step] = []
        # Where nothing new is found, that is what the look-up gives, and the query waits no longer.
        for doc_ids in [[str(document.id)] for document in new] or [[]]:
            step = self._step(state, path, len(steps))
            step["subgoal"], step["status"] = "retrieve", "completed"
            step["query"], step["retrieve"], step["doc_ids"] = query, True, doc_ids
            steps.append(step)
        emit_proposed(steps)
        return {"prm_steps": steps, "prm_documents": merge_documents([], new)}


def _said(step: Step) -> tuple[str, str, str | None]:
    return step["query"].casefold(), step["thought"].casefold(), step["final_answer"]


class ChooseExecution(SearchNode):
    """Commits the best candidate of the sub-goal, by the critic of that sub-goal.

    Each critic is shown its own part of the path (`agentprm.search.critic_context`). A candidate without
    rivals is committed without a score. The search ends where a step holds the answer.

    Args:
        rewards: The execution critics by sub-goal (`reason`, `query`, `retrieve`); or one for all.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        rewards: Mapping[Subgoal, Reward] | Reward,
        *,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "choose_execution",
    ) -> None:
        given: Mapping[Subgoal, Reward] = (
            rewards if isinstance(rewards, Mapping) else dict.fromkeys(SUBGOALS, rewards)
        )
        if set(given) != set(SUBGOALS):
            raise ConfigurationError(
                f"{type(self).__name__} needs a reward for each of {list(SUBGOALS)}, not {list(given)}."
            )
        self.rewards = {subgoal: as_reward(given[subgoal]) for subgoal in SUBGOALS}
        super().__init__(name=name, reads=("prm_subgoal",), keys=keys, budget=budget)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        path = _path(state)
        children = _children(state, path)
        candidates = [step for step in children if step["status"] == "completed"]
        stopped = state.get("prm_stop_reason", "")
        if not candidates:
            ended = stopped or ("no candidate" if state.get("prm_subgoal") == "conclude" else "")
            return stopped_by({}, ended) if ended else {}
        scores: list[float | None] = [None] * len(candidates)
        if len(candidates) > 1 and not stopped:
            found, stopped = yield from self._scores(state, path, candidates)
            scores = found or scores
        best = _best(scores)
        changed: list[Step] = []
        for place, (step, score) in enumerate(zip(candidates, scores, strict=True)):
            status: StepStatus = "committed" if place == best else "rejected"
            changed.append({**step, "score": score, "value": score, "status": status})
            if score is not None:
                emit({"type": "agentprm.step_scored", "step_id": step["id"], "score": score, "value": score})
        chosen = changed[best]
        emit({"type": "agentprm.step_committed", "step_id": chosen["id"], "value": chosen["value"]})
        update = {"prm_steps": changed, "prm_frontier": [chosen["id"]]}
        if chosen["final_answer"] is not None:
            return stopped_by(update, stopped or "answered")
        return stopped_by(update, stopped) if stopped else update

    def _scores(
        self, state: ReasoningState, path: Sequence[Step], candidates: Sequence[Step]
    ) -> Routine[tuple[list[float | None] | None, str]]:
        """The candidates' scores, or why there are none."""
        subgoal = candidates[0]["subgoal"]
        reward, count = self.rewards[subgoal], len(candidates)
        calls = reward.model_calls(count)
        if short := self.short(state, but=READING, reserve=1, reward_calls=count, model_calls=calls):
            return None, short
        before = [observed(state, step) for step in critic_context(path, subgoal)]
        trajectories = [[*before, observed(state, step)] for step in candidates]
        return (yield from last_scores(reward, state["question"], trajectories)), ""
