"""Critics: whatever scores a passage in the light of the reasoning so far."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from pydantic import model_validator
from typing_extensions import TypedDict

from agentprm.errors import ConfigurationError
from agentprm.rerank.asking import passage_text
from agentprm.rerank.judging import Assessor
from agentprm.rerank.pointwise import PointwiseReranker
from agentprm.rewards import ProcessRewardModel, RewardStep, check_scores
from agentprm.rewards.function import takes
from agentprm.routines import Routine, wait

__all__ = ["Critic", "CriticReranker", "CriticState"]


class CriticState(TypedDict):
    """How far the reasoning has come when passages are ranked.

    Attributes:
        question: The question to be answered in the end.
        path: The finished steps so far, from the root.
    """

    question: str
    path: list[RewardStep]


#: From the state, the query and passages to one number per passage, sync or async.
Critic = Callable[[CriticState, str, Sequence[Document]], Sequence[float] | Awaitable[Sequence[float]]]


class CriticReranker(PointwiseReranker):
    """Ranks passages by a reward model or critic that sees the state, the query and the passage.

    The retrieval critic of CR-Planner (arXiv 2410.01428): what is a good passage for a sub-question
    depends on what is known already. A `ProcessRewardModel` scores, for each passage, the step that
    asks the query and reads this passage alone, after the steps so far; choose one that does without a
    finding, as there is none yet (`agentprm.rewards.Relevance`, a trained outcome or process model).

    Outside a search the question is the query and there are no steps before it. The `Rerank` node
    passes on the state of the step whose passages it ranks, by `for_state`.

    Args:
        critic: A `ProcessRewardModel`, or a function of state, query and a list of passages to their
            scores, sync or async, or a `RunnableLambda`, which gets them by these names (`state`, `query`,
            `documents`). A sync function runs in a thread on the async path.
        state: The state; by default the query is the whole question.
        max_chars: Where a passage is cut for a reward model.
    """

    critic: Any
    state: CriticState | None = None
    max_chars: int = 1200

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not isinstance(self.critic, ProcessRewardModel | RunnableLambda) and not (
            callable(self.critic) and takes(self.critic, {}, "", [])
        ):
            raise ConfigurationError(
                f"A {type(self.critic).__name__} is no critic. Pass an agentprm.rewards.ProcessRewardModel "
                "or a function of state, query and documents."
            )
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return (
            f"critic {type(self.critic).__name__}"
            if isinstance(self.critic, ProcessRewardModel)
            else "critic"
        )

    def for_state(self, question: str, path: Sequence[RewardStep]) -> Self:
        """The same reranker for passages that are ranked after the steps of `path`."""
        return self.model_copy(update={"state": CriticState(question=question, path=list(path))})

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""
        state = self.state or CriticState(question=query, path=[])
        critic = self.critic
        if isinstance(critic, ProcessRewardModel):
            return self._reward_judge(critic, state, query)
        if isinstance(critic, RunnableLambda):

            def given(documents: list[Document]) -> dict[str, Any]:
                return {"state": state, "query": query, "documents": documents}

            return Assessor(
                lambda documents: critic.invoke(given(documents)),
                lambda documents: critic.ainvoke(given(documents)),
            )

        def sync(documents: list[Document]) -> Sequence[float]:
            scores = critic(state, query, documents)
            if inspect.iscoroutine(scores):
                scores.close()
                raise ConfigurationError(
                    "This critic is async. Rank with acompress_documents (ainvoke of a graph), or pass a "
                    "function that is not."
                )
            return scores  # type: ignore[no-any-return]

        async def on_loop(documents: list[Document]) -> Sequence[float]:
            # An async function only makes its coroutine in the thread; a sync one does its work there.
            scores = await asyncio.to_thread(critic, state, query, documents)
            if inspect.isawaitable(scores):
                scores = await scores
            return scores  # type: ignore[no-any-return]

        return Assessor(sync, on_loop)

    def _reward_judge(self, reward: ProcessRewardModel, state: CriticState, query: str) -> Assessor:
        def judged(documents: list[Document]) -> Routine[list[float]]:
            trajectories = []
            for document in documents:
                text = passage_text(document, self.max_chars)
                last = RewardStep(query=query, passages=[text], thought="", final_answer=None)
                trajectories.append([*state["path"], last])
            rows = yield from wait(reward.score, reward.ascore, state["question"], trajectories)
            return [row[-1] for row in check_scores(reward, rows, trajectories)]

        return Assessor.by(judged)
