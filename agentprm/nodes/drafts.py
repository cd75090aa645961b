"""The nodes that finish a draft, judge it as a whole, and refine it locally and globally (GLoRe)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agentprm.budget import READING, SearchBudget
from agentprm.nodes.node import NodeRoutine, SearchNode
from agentprm.nodes.refine_step import RefineStep
from agentprm.nodes.reporting import emit, emit_proposed, replied, stopped_by
from agentprm.nodes.score_steps import last_scores, reward_step
from agentprm.prompts import SEARCH, ChatTemplate, known_text
from agentprm.replies import parse_proposal
from agentprm.rewards import ProcessRewardModel, as_reward
from agentprm.rewards.aggregation import aggregate, first_error
from agentprm.routines import Routine
from agentprm.state import ReasoningState, Step, merge_steps, new_step, open_steps, path_to
from agentprm.text import one_line, same_text

__all__ = ["BEGIN_ANEW", "RefineDraft", "ReviewDrafts", "locate_error"]

#: The first step of a new draft; fields `question`, `draft`, `critique`.
BEGIN_ANEW = ChatTemplate(
    fields=("question", "draft", "critique"),
    system=(
        "A search for the answer to a question went wrong. Begin it anew, in another way. Reply with one "
        "line: 'Search: <a short question about one thing>'."
    ),
    user="Question: {question}\nThe search so far:\n{draft}\nCritique: {critique}",
    prefix=SEARCH,
)


def locate_error(scores: Sequence[float], threshold: float) -> int:
    """Where a draft goes wrong: its first step below `threshold`, else the one of the lowest score.

    Args:
        scores: One per step; at least one.
        threshold: Score below which a step is held wrong.
    """
    found = first_error(scores, threshold)
    return found if found >= 0 else min(range(len(scores)), key=lambda i: scores[i])


class ReviewDrafts(SearchNode):
    """Lets drafts grow to their ends, then says whether one is refined and which is taken (GLoRe).

    While a draft is not finished, the best of its next candidates is committed and the frontier are the
    drafts to go on with. The finished draft is judged as a whole: *when* to refine. If its value is at
    most `threshold`, its first wrong step is located by the scores of its steps, *where* to refine, and
    written to `prm_weak`. Once the refined drafts are finished, too, the best of draft, local and global
    refinement is taken: a draft that was right all along is not lost. A draft without an answer loses
    to one with an answer.

    Args:
        reward: The reward that scored the steps. For locating errors the paper wants one that says
            whether the rest can still succeed, not how likely it does.
        outcome: Judges whole drafts; `None` aggregates the scores of the steps as `reward` says, else
            by their minimum.
        threshold: Value up to which a draft is refined; `"reward"` takes the gate of `outcome`, or of
            `reward`; `None` never refines.
        max_steps: Most steps of a draft.
        keys: Own names for `question` and `messages`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        reward: ProcessRewardModel | Callable[..., Any],
        *,
        outcome: ProcessRewardModel | Callable[..., Any] | None = None,
        threshold: float | Literal["reward"] | None = "reward",
        max_steps: int = 5,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "review",
    ) -> None:
        self.reward = as_reward(reward)
        self.outcome = None if outcome is None else as_reward(outcome)
        gate = (self.outcome or self.reward).gate
        self.threshold = gate if threshold == "reward" else threshold
        self.max_steps = max_steps
        super().__init__(
            name=name,
            writes=("prm_weak",),
            keys=keys,
            budget=budget,
            settings=("threshold", "max_steps"),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        stopped = state.get("prm_stop_reason") or self.short(state, but=READING)
        changed = _committed(state.get("prm_steps", []))
        tree = merge_steps(state.get("prm_steps", []), changed)
        drafts = [path_to(tree, leaf["id"]) for leaf in _leaves(tree)]
        growing = [draft[-1]["id"] for draft in drafts if self._grows(tree, draft)]
        if growing and not stopped:
            return {"prm_steps": changed, "prm_frontier": growing, "prm_weak": []}
        if not drafts:
            return stopped_by({"prm_weak": []}, stopped or "no candidate")
        refined = any("refines" in step for step in tree)
        fresh = [draft for draft in drafts if not refined or _kind(draft) != "draft"]
        values, short = yield from self._values(state, fresh, cut=bool(stopped))
        stopped = stopped or short
        valued: list[Step] = [
            {**draft[-1], "value": value} for draft, value in zip(fresh, values, strict=True)
        ]
        for draft, value in zip(fresh, values, strict=True):
            emit(
                {
                    "type": "agentprm.draft_reviewed",
                    "step_id": draft[-1]["id"],
                    "kind": _kind(draft),
                    "value": value,
                }
            )
        tree, changed = merge_steps(tree, valued), merge_steps(changed, valued)
        drafts = [path_to(tree, draft[-1]["id"]) for draft in drafts]
        threshold = self.setting("threshold")
        if not refined and not stopped and threshold is not None and _value(drafts[0]) <= threshold:
            scores = [math.inf if step["score"] is None else step["score"] for step in drafts[0]]
            wrong = drafts[0][locate_error(scores, self.reward.gate)]
            return {"prm_steps": changed, "prm_weak": [wrong["id"]]}
        best = max(drafts, key=lambda draft: (draft[-1]["final_answer"] is not None, _value(draft)))
        kept = {step["id"] for step in best}
        lost: list[Step] = [
            {**step, "status": "rejected"}
            for step in tree
            if step["status"] == "committed" and step["id"] not in kept
        ]
        update = {
            "prm_steps": merge_steps(changed, lost),
            "prm_frontier": [best[-1]["id"]],
            "prm_weak": [],
        }
        answered = "answered" if best[-1]["final_answer"] is not None else "max_steps"
        return stopped_by(update, stopped or answered)

    def _grows(self, tree: Sequence[Step], draft: Sequence[Step]) -> bool:
        """Whether a draft goes on: not where all of its next candidates were unusable."""
        leaf = draft[-1]
        tried = any(step["parent_id"] == leaf["id"] for step in tree)
        return leaf["final_answer"] is None and not tried and len(draft) < self.setting("max_steps")

    def _values(
        self, state: ReasoningState, drafts: Sequence[Sequence[Step]], *, cut: bool
    ) -> Routine[tuple[list[float | None], str]]:
        """The value of each draft as a whole, and why the outcome reward was not asked, if it was not."""
        short = ""
        if self.outcome is not None and not cut and drafts:
            calls = self.outcome.model_calls(sum(map(len, drafts)))
            short = self.short(state, but=READING, reserve=1, model_calls=calls, reward_calls=len(drafts))
            if not short:
                rows = [[reward_step(state, step) for step in draft] for draft in drafts]
                return (yield from last_scores(self.outcome, state["question"], rows)), ""
        how = self.reward.aggregation or "min"
        scores = [[step["score"] for step in draft if step["score"] is not None] for draft in drafts]
        return [aggregate(row, how, threshold=self.reward.gate) if row else None for row in scores], short


def _committed(steps: Sequence[Step]) -> list[Step]:
    """The scored candidates, the best of each choice committed; a refinement is no rival of its siblings."""
    groups: dict[Any, list[Step]] = {}
    for step in open_steps(steps, "scored"):
        key = (step["refines"], _anew(step)) if "refines" in step else step["parent_id"]
        groups.setdefault(key, []).append(step)
    changed: list[Step] = []
    for group in groups.values():
        best = max(group, key=lambda step: -math.inf if step["score"] is None else step["score"])
        for step in group:
            changed.append({**step, "status": "committed" if step is best else "rejected"})
        emit({"type": "agentprm.step_committed", "step_id": best["id"], "value": best["value"]})
    return changed


def _leaves(tree: Sequence[Step]) -> list[Step]:
    committed = open_steps(tree, "committed")
    parents = {step["parent_id"] for step in committed}
    return [step for step in committed if step["id"] not in parents]


def _anew(step: Step) -> bool:
    return "refines" in step and step["id"].endswith("g")


def _kind(draft: Sequence[Step]) -> Literal["draft", "local", "global"]:
    if any(map(_anew, draft)):
        return "global"
    return "local" if any("refines" in step for step in draft) else "draft"


def _value(draft: Sequence[Step]) -> float:
    value = draft[-1]["value"]
    return -math.inf if value is None else value


class RefineDraft(RefineStep):
    """Refines a draft twice: from its first wrong step on (local), and from its beginning (global; GLoRe).

    The local refinement is `RefineStep`'s of the located step: what stands before it is kept. The global
    one is the first step of a new draft, proposed in view of the old one and its critique. Both become
    steps of the tree and go on side by side; `ReviewDrafts` chooses.

    Args:
        begin_anew: Template of the global refinement, see `BEGIN_ANEW`.
        kwargs: As for `RefineStep`, the model first.
    """

    def __init__(self, *args: Any, begin_anew: ChatTemplate = BEGIN_ANEW, **kwargs: Any) -> None:
        self.begin_anew = begin_anew
        super().__init__(*args, **kwargs)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        weak = state.get("prm_weak", [])
        update = yield from super().routine(state)
        refined: list[Step] = update.get("prm_steps", [])
        if not refined or self.short(state, but=(), model_calls=3, reserve=1):
            return update
        steps = state.get("prm_steps", [])
        frontier = state.get("prm_frontier", [])
        draft = path_to(steps, frontier[-1] if frontier else weak[0])
        prompt = self.begin_anew.render(
            question=one_line(state["question"]),
            draft=known_text(draft),
            critique=refined[0].get("critique", "") or "none",
            prefill=self.model.capabilities.prefill,
        )
        temperature, seed = self.setting("temperature"), self.setting("seed")
        reply = yield from replied(self.model, prompt, max_tokens=48, temperature=temperature, seed=seed)
        output = prompt.prefix + reply
        proposal = parse_proposal(output, prompt.messages[-1][1])
        first = draft[0]
        step = new_step(f"{first['id']}g", None, proposal.query if proposal else "")
        step["refines"], step["critique"] = first["id"], refined[0].get("critique", "")
        if proposal is None or not proposal.query or same_text(proposal.query, first["query"]):
            step["status"], step["output"] = "unparsed", output[:500]
        emit_proposed([step])
        return {**update, "prm_steps": [*refined, step]}
