"""How `RewardGuidedActions` chooses one action: sample, score, reconsider, all within a budget."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from langchain_core.messages import AIMessage, HumanMessage
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget, Usage, add_usage, record
from agentprm.documents import plain
from agentprm.errors import (
    ConfigurationError,
    InputError,
    MissingDependencyError,
    TransientModelError,
    check_count,
)
from agentprm.lm.retries import transient
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rewards.base import ProcessRewardModel, RewardStep, check_scores
from agentprm.rewards.conversation import Conversation, action_text, trajectory_of
from agentprm.rewards.verdict import VerdictReward
from agentprm.routines import Routine, wait
from agentprm.text import one_line

try:
    from langchain.agents.middleware import ModelRequest, ModelResponse
    from langchain.agents.structured_output import StructuredOutputError
except ImportError as error:
    raise MissingDependencyError.for_extra("langchain", "agents") from error

__all__ = [
    "ActionCandidate",
    "ActionChooser",
    "ActionChosen",
    "ActionRound",
    "CallModel",
    "ModelOutcome",
    "Rules",
]

ModelOutcome = ModelResponse[Any] | Exception
CallModel = Callable[[Sequence[ModelRequest[Any]]], Routine[list[ModelOutcome]]]
"""Sends requests, all at the same time, and returns an `ModelOutcome` for each."""


class ActionCandidate(TypedDict):
    """One thing that the agent might have done.

    Attributes:
        text: What it says.
        tool_calls: Its tool calls, with `name` and `args`.
        final: Whether it ends the agent's turn.
        score: The reward; `None` if it was not scored.
        count: How many samples said the same.
        refined: Whether it answers a critique.
        chosen: Whether it was done.
    """

    text: str
    tool_calls: list[dict[str, Any]]
    final: bool
    score: float | None
    count: int
    refined: bool
    chosen: bool


class ActionRound(TypedDict):
    """One choice of an action.

    Attributes:
        candidates: The different ones, in the order in which they came.
        failures: Samples that failed, or that nobody could carry out.
        usage: What the choice cost, with the one model call that every agent makes.
        note: Why something was left out (a budget, a reward that failed); else empty.
    """

    candidates: list[ActionCandidate]
    failures: int
    usage: Usage
    note: str


class ActionChosen(ActionRound):
    """The custom stream event of a choice."""

    type: Literal["agentprm.action_chosen"]


@dataclass(frozen=True)
class Rules:
    """The settings of `RewardGuidedActions`."""

    reward: ProcessRewardModel
    n: int = 4
    below: float | None = 0.3
    refine: int = 1
    budget: SearchBudget = field(default_factory=SearchBudget)
    settings: Mapping[str, Any] = field(default_factory=dict)
    prompts: Prompts = PROMPTS

    def __post_init__(self) -> None:
        check_count("n", self.n)
        check_count("refine", self.refine, 0)
        if self.below is not None and not (isinstance(self.below, int | float) and math.isfinite(self.below)):
            raise ConfigurationError(f"below must be a finite number or None, not {self.below!r}.")


class _Candidate:
    """A response of the model with what is known of it."""

    def __init__(self, response: ModelResponse[Any], refined: bool) -> None:
        messages = response.result
        self.response, self.refined = response, refined
        self.message = next((m for m in messages if isinstance(m, AIMessage)), AIMessage(""))
        self.final = not self.message.tool_calls or response.structured_response is not None
        # A tool message beside no structured response says that the output did not fit its schema.
        misfit = len(messages) > 1 and response.structured_response is None
        self.usable = bool(action_text(self.message)) and not self.message.invalid_tool_calls and not misfit
        self.score: float | None = None
        self.count = 1

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two samples the same action: the calls in any order, or else what is said."""
        calls = [
            json.dumps([call["name"], call["args"]], sort_keys=True, default=str)
            for call in self.message.tool_calls
        ]
        return tuple(sorted(calls)) if calls else ("", one_line(self.message.text).casefold())

    @property
    def merit(self) -> tuple[bool, float, int]:
        return self.usable, -math.inf if self.score is None else self.score, self.count


class ActionChooser:
    """The choice of one action.

    Args:
        rules: The settings.
        request: The agent's request to its model.
        spent: What earlier choices of the turn cost.
        meter: Where the cost of this one is collected (see `agentprm.budget.metered`).

    Attributes:
        note: Why something was left out.
    """

    def __init__(self, rules: Rules, request: ModelRequest[Any], spent: Usage, meter: Any) -> None:
        self.rules, self.request, self.note = rules, request, ""
        self._spent, self._meter, self._start = spent, meter, time.perf_counter()
        self._known: list[_Candidate] = []
        self._failures: list[Exception | None] = []
        self._conversation: Conversation | None = None

    def run(self, ask: CallModel) -> Routine[ModelResponse[Any]]:
        """The plan that returns the chosen response.

        Raises:
            Exception: What the model raised, if it gave nothing else.
        """
        rules, request = self.rules, self.request
        if self._left("model_calls", 1):
            try:
                self._conversation = trajectory_of(request.messages)
            except InputError as error:
                self.note = str(error)
        yield from self._sample(ask, request, 1)
        judged = self._conversation is not None and not self.note
        if judged and rules.n > 1 and (rules.below is None or self._weak()):
            further = request.override(model_settings={**request.model_settings, **rules.settings})
            if count := self._left("model_calls", rules.n - 1):
                yield from self._sample(ask, further, count)
        for _ in range(rules.refine if judged else 0):
            if not self._known or not self._weak() or not self._left("model_calls", 1):
                break
            yield from self._sample(ask, self._reconsidered(), 1, refined=True)
        if not self._known:
            raise next(failure for failure in self._failures if failure is not None)
        return self._best().response

    def entry(self) -> ActionRound:
        """The record of the choice, JSON-plain."""
        best = self._best()
        return ActionRound(
            candidates=[
                ActionCandidate(
                    text=candidate.message.text,
                    tool_calls=[
                        {"name": call["name"], "args": plain(call["args"], "a tool call")}
                        for call in candidate.message.tool_calls
                    ],
                    final=candidate.final,
                    score=candidate.score,
                    count=candidate.count,
                    refined=candidate.refined,
                    chosen=candidate is best,
                )
                for candidate in self._known
            ],
            failures=len(self._failures),
            usage=self._meter.usage,
            note=self.note,
        )

    def _best(self) -> _Candidate:
        return max(self._known, key=lambda candidate: candidate.merit)  # of equals the first

    def _weak(self) -> bool:
        if not self._known:
            return True
        best, below = self._best(), self.rules.below
        low = best.score is not None and below is not None and best.score < below
        return not best.usable or low

    def _left(self, name: str, wanted: int) -> int:
        """How much of `wanted` the budget still allows; what it refuses is noted."""
        usage = add_usage(self._spent, self._meter.usage)
        usage["seconds"] = self._spent["seconds"] + time.perf_counter() - self._start
        budget = self.rules.budget
        if name == "reward_calls":  # what was sampled with the last model call is scored all the same
            budget = replace(budget, model_calls=None)
        out = budget.exhausted(usage)
        allowed = 0 if out else budget.affordable(name, wanted, usage)
        if allowed < wanted:
            self.note = f"budget: {out or name}"
        return allowed

    def _sample(
        self, ask: CallModel, request: ModelRequest[Any], count: int, *, refined: bool = False
    ) -> Routine[None]:
        """Asks `count` times, merges equal actions and scores the new ones."""
        outcomes = yield from ask([request] * count)
        fresh: list[_Candidate] = []
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                # Another sample may do; what the first one meets is the agent's own affair.
                spare = isinstance(outcome, StructuredOutputError) or (self._known and transient(outcome))
                if not spare:
                    raise outcome
                self._failures.append(outcome)
                _record(getattr(outcome, "ai_message", None))
                continue
            candidate = _Candidate(outcome, refined)
            _record(candidate.message)
            twin = next((one for one in [*self._known, *fresh] if one.key == candidate.key), None)
            if twin is not None:
                twin.count += 1
                continue
            if not candidate.usable:
                self._failures.append(None)
            fresh.append(candidate)
        self._known += fresh
        yield from self._score([candidate for candidate in fresh if candidate.usable])

    def _score(self, candidates: list[_Candidate]) -> Routine[None]:
        if self._conversation is None or not candidates:
            return
        candidates = candidates[: self._left("reward_calls", len(candidates))]
        trajectories = [self._trajectory(candidate) for candidate in candidates]
        if not trajectories:
            return
        reward = self.rules.reward
        try:
            rows = yield from wait(reward.score, reward.ascore, self._question, trajectories)
        except TransientModelError as error:  # the agent can act without a judge
            self.note = f"reward: {one_line(str(error))}"
            return
        for candidate, row in zip(candidates, check_scores(reward, rows, trajectories), strict=True):
            candidate.score = None if math.isnan(row[-1]) else row[-1]

    @property
    def _question(self) -> str:
        return self._conversation.question if self._conversation else ""

    def _trajectory(self, candidate: _Candidate) -> list[RewardStep]:
        steps = trajectory_of([*self.request.messages, candidate.message]).trajectory
        if candidate.response.structured_response is not None and steps:
            steps[-1]["final_answer"] = steps[-1]["thought"]
        return steps

    def _reconsidered(self) -> ModelRequest[Any]:
        """The request with the weak action and what was said against it."""
        best = self._best()
        text = self.rules.prompts.reconsider.render(
            action=action_text(best.message), critique=self._critique(best)
        ).messages[-1][1]
        return self.request.override(messages=[*self.request.messages, HumanMessage(text)])

    def _critique(self, candidate: _Candidate) -> str:
        if not candidate.usable:
            return "It is empty, or its arguments are not of the form that was asked for."
        if isinstance(self.rules.reward, VerdictReward):
            # The verdict is remembered, so that this asks nothing anew.
            verdicts = self.rules.reward.judge(self._question, [self._trajectory(candidate)])[0]
            if verdicts and verdicts[-1].critiques:
                return one_line(verdicts[-1].critiques[0])
        return f"It scored {candidate.score:.2f}." if candidate.score is not None else ""


def _record(message: AIMessage | None) -> None:
    """Counts a call of the agent's model."""
    used: Mapping[str, Any] = (message.usage_metadata if message else None) or {}
    asked, new = int(used.get("input_tokens", 0)), int(used.get("output_tokens", 0))
    cached = int((used.get("input_token_details") or {}).get("cache_read", 0) or 0)
    record(model_calls=1, prompt_tokens=asked, computed_tokens=asked - cached + new, completion_tokens=new)
