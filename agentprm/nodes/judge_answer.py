"""The node that has an answer judged."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.runnables import Runnable

from agentprm.budget import READING, SearchBudget
from agentprm.documents import evidence_line
from agentprm.errors import ConfigurationError, InputError
from agentprm.nodes.node import Node, NodeRoutine
from agentprm.nodes.reporting import emit
from agentprm.nodes.score_steps import last_scores
from agentprm.rewards import ProcessRewardModel, RewardStep, as_reward
from agentprm.state import Judgement, ReasoningState, as_messages, last_answer

__all__ = ["JudgeAnswer"]

_log = logging.getLogger(__name__)


class JudgeAnswer(Node):
    """Scores the answer that the state shows, each time it runs, by the question and the documents.

    The answer is `answer`, or else the last AI message after the last human one. An empty answer, or
    one for which the reward has no score, gets `None`, with an event and a warning that say why.

    Several judges stand side by side, in a row or in parallel, if each has a `score_key` of its own.
    Where one judge runs several times at once (`Send`), let it write to a list instead: give
    `judgements_key` the name of a key with a list reducer, and `score_key=None`.

    Args:
        reward: A process reward model; or a function from the question and the steps to the score of the
            last one, see `agentprm.rewards.FunctionReward`.
        score_key: Key of the plain score, a float or `None`; `None` writes no score.
        judgements_key: Key of a list to which a `Judgement` is added: which answer by which documents got
            which score, under an id of its own. Declare it `Annotated[list[Judgement], operator.add]`.
        keys: Own names for `question`, `messages`, `documents` and `answer`.
        budget: Bounds of a run.

    Example:
        >>> from agentprm.testing import FakeReward
        >>> judge = JudgeAnswer(FakeReward(lambda question, steps: 0.75), score_key="grounded")
        >>> judge.invoke({"question": "Where was Brunel born?", "answer": "Portsmouth"})["grounded"]
        0.75
    """

    def __init__(
        self,
        reward: ProcessRewardModel | Callable[..., Any] | Runnable[Any, Any],
        *,
        score_key: str | None = "score",
        judgements_key: str | None = None,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "judge",
    ) -> None:
        self.reward = as_reward(reward)
        named = {"score": score_key, "judgements": judgements_key}
        self._results = {channel: key for channel, key in named.items() if key}
        if not self._results:
            raise ConfigurationError(
                "JudgeAnswer needs a score_key or a judgements_key to write its result to."
            )
        super().__init__(
            name=name,
            reads=("documents", "answer"),
            writes=tuple(self._results),
            keys={**(keys or {}), **self._results},
            budget=budget,
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        messages = as_messages(state.get("messages"))
        answer = state.get("answer") or last_answer(messages)
        if not answer and "answer" not in state and not messages:
            raise InputError(
                f"{self.name} found no answer to judge: put one under {self._keys['answer']!r} in the state, "
                f"or an AI message under {self._keys['messages']!r}, before this node runs."
            )
        documents = state.get("documents", [])
        calls = self.reward.model_calls(1)
        score, reason = None, "no answer"
        if answer.strip():
            reason = self.short(state, but=READING, reward_calls=1, model_calls=calls)
        if not reason:
            step = RewardStep(
                query=state["question"],
                passages=[evidence_line(document) for document in documents],
                thought=answer,
                final_answer=answer,
            )
            (score,) = yield from last_scores(self.reward, state["question"], [[step]])
            reason = "" if score is not None else "the reward has no score for this answer"
        if reason:
            _log.warning("%s gave no score: %s.", self.name, reason)
        judgement = Judgement(
            id=uuid.uuid4().hex,
            judge=self.name,
            question=state["question"],
            answer=answer,
            doc_ids=[str(document.id) for document in documents],
            score=score,
            reason=reason,
        )
        emit(
            {
                "type": "agentprm.answer_judged",
                "judgement_id": judgement["id"],
                "judge": self.name,
                "score": score,
                "reason": reason,
            }
        )
        results: dict[str, Any] = {"score": score, "judgements": [judgement]}
        return {channel: results[channel] for channel in self._results}
