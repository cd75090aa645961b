"""Rerankers that give every passage a score of its own."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from pydantic import PrivateAttr, model_validator
from typing_extensions import TypedDict

from agentprm.errors import ConfigurationError, MissingDependencyError, check_least
from agentprm.lm import LanguageModel, Prompt, as_language_model, require
from agentprm.model_names import model_name
from agentprm.prompts import PROMPTS, Prompts
from agentprm.rerank.base import Ranked, Reranker
from agentprm.rerank.judging import DEFINITION, Assessor, Judging, Missing, passage_text, scoring
from agentprm.rewards import ProcessRewardModel, RewardStep, check_scores
from agentprm.rewards.base import sigmoid
from agentprm.rewards.function import takes, twins
from agentprm.routines import Routine, wait
from agentprm.text import one_line

__all__ = [
    "Critic",
    "CriticReranker",
    "CriticState",
    "CrossEncoderReranker",
    "LogitReranker",
    "PointwiseReranker",
    "QueryLikelihoodReranker",
    "order_by_scores",
]


class PointwiseReranker(Reranker):
    """Base of the rerankers that score passages one by one; subclasses implement `judge`.

    A passage without a score (the judge failed on it, or budget or deadline ended before its turn)
    keeps its place in the list, see `order_by_scores`.
    """

    @property
    def calls_per_judgement(self) -> int:
        """Most judge calls that one judgement takes."""
        return 1

    @abstractmethod
    def judge(self, query: str) -> Assessor:
        """The judge of one list: from documents to one number each; `None` is an unusable answer."""

    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """See `Reranker.routine`."""
        judge = self.judge(query)
        replies = yield from judging.ask(judge, documents)
        scores = [finite(reply) for reply in replies]
        answered = [reply for reply in replies if not isinstance(reply, Missing)]
        unusable = sum(finite(reply) is None for reply in answered)
        judging.book(judge.cost * len(answered), judge.cost * unusable)
        return order_by_scores(scores)


def finite(value: Any) -> float | None:
    """The value as a plain float; `None` for what is missing, not a number, or infinite."""
    if value is None or isinstance(value, Missing):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def order_by_scores(scores: Sequence[float | None], order: Sequence[int] | None = None) -> Ranked:
    """Sorts what has a score; what has none keeps its place, as if tied with what stands above it.

    Args:
        scores: One per incoming place, higher is better; equal ones stay in their order.
        order: The order so far, places of the incoming list; the incoming order by default.

    Returns:
        The places of `order` in their new order, and a score for each place, see `without_gaps`.
    """
    before = list(range(len(scores))) if order is None else list(order)
    ranked = iter(sorted((p for p in before if scores[p] is not None), key=lambda p: -(scores[p] or 0.0)))
    after = [place if scores[place] is None else next(ranked) for place in before]
    return Ranked(after, without_gaps(scores, after))


def without_gaps(scores: Sequence[float | None], order: Sequence[int]) -> list[float]:
    """Scores for all: where there is none, that of the place above in `order`.

    On top it is the first one below, and 0 if nothing has a score.
    """
    result = [0.0 if score is None else float(score) for score in scores]
    last = next((result[place] for place in order if scores[place] is not None), 0.0)
    for place in order:
        last = result[place] = last if scores[place] is None else result[place]
    return result


class _LikelihoodReranker(PointwiseReranker):
    """Base of the rerankers that read a language model's log-likelihoods."""

    model: Any
    prompts: Prompts = PROMPTS
    max_chars: int = 1200
    _reader: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        self._reader = as_language_model(self.model)
        require(self._reader, "loglikelihood", type(self).__name__)
        return self


class LogitReranker(_LikelihoodReranker):
    """Ranks passages by how much likelier the model finds "Yes" than "No".

    The yes/no reading of a language model (arXiv 2306.17563, appendix; monoT5) and, with
    `labels=("1", "0")` and a model trained for it, the fine-grained score of ProRank (arXiv
    2506.03487). Models from about 1.5 B parameters on answer usefully untrained; for smaller ones
    `QueryLikelihoodReranker` is the better choice.

    Args:
        model: A language model with log-likelihoods, or the name or folder of one.
        labels: What the model is asked to answer for a relevant and for an irrelevant passage.
        scale: `probability` gives P(yes) / (P(yes) + P(no)), `logit` its logit, which still tells
            passages apart that a model trained to answer is certain of. The order is the same up to
            rounding.
        definition: What makes a passage relevant in this task, a sentence for the prompt.
        prompts: Templates; `relevant` is used.
        max_chars: Where a passage is cut.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    labels: tuple[str, str] = ("Yes", "No")
    scale: Literal["probability", "logit"] = "probability"
    definition: str = DEFINITION

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(self.labels) or self.labels[0] == self.labels[1]:
            raise ConfigurationError(f"labels must be two different texts, not {self.labels}.")
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return f"logit {self.labels[0]}/{self.labels[1]}"

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""

        def ask(document: Document) -> tuple[list[Prompt], list[list[str]]]:
            prompt = self.prompts.relevant.render(
                prefill=self._reader.capabilities.prefill,
                definition=one_line(self.definition),
                query=one_line(query),
                passage=passage_text(document, self.max_chars),
                yes=self.labels[0],
                no=self.labels[1],
            )
            return [prompt], [[(" " if prompt.prefix else "") + label for label in self.labels]]

        def read(_: Document, rows: Sequence[Sequence[float]]) -> float:
            gap = rows[0][0] - rows[0][1]
            return gap if self.scale == "logit" else sigmoid(gap)

        return scoring(self._reader, ask, read)


class QueryLikelihoodReranker(_LikelihoodReranker):
    """Ranks passages by log P(query | passage) per token (UPR, arXiv 2204.07496, section 2.2).

    One prompt per passage, nothing is generated. It needs a model that reads, not one that judges: a
    135 M model that always says "A" when it is asked to compare ranks well this way.

    Args:
        model: A language model with log-likelihoods, or the name or folder of one.
        prompts: Templates; `relate` is used.
        max_chars: Where a passage is cut.

    Raises:
        CapabilityError: If the model gives no log-likelihoods.
    """

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return "query likelihood"

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""
        question = one_line(query)
        prefill = self._reader.capabilities.prefill
        length = max(1, self._reader.count_tokens([question])[0])

        def ask(document: Document) -> tuple[list[Prompt], list[list[str]]]:
            prompt = self.prompts.relate.render(
                prefill=prefill, passages=passage_text(document, self.max_chars)
            )
            # After a prefix that ends in a word the query begins with a blank.
            return [prompt], [[(" " if prompt.prefix else "") + question]]

        def read(_: Document, rows: Sequence[Sequence[float]]) -> float:
            return rows[0][0] / length

        return scoring(self._reader, ask, read)


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
        sync, on_loop = twins(critic, "state", "query", "documents")
        return Assessor(
            lambda documents: sync(state, query, documents),
            lambda documents: on_loop(state, query, documents),
        )

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


class CrossEncoderReranker(PointwiseReranker):
    """Ranks passages by the score of a cross-encoder.

    Args:
        model: LangChain's `BaseCrossEncoder`, a sentence-transformers `CrossEncoder`, or the name or
            folder of one (never with code of its own). One that gives several numbers for a pair, as
            classifiers do, is refused.
        batch_size: Pairs of one forward pass; bounds memory.
        max_chars: Where a passage is cut, besides the model's own limit of tokens.

    Raises:
        MissingDependencyError: For a name or folder without the extra `transformers`.
        ConfigurationError: If the model is none of these, cannot be loaded, or gives several numbers
            for a pair.
    """

    model: Any
    batch_size: int = 32
    max_chars: int = 4000
    _score: Callable[[list[tuple[str, str]]], Sequence[Any]] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_least(1, batch_size=self.batch_size)
        model = _load(str(self.model)) if isinstance(self.model, str | Path) else self.model
        if isinstance(model, BaseCrossEncoder):
            self._score = model.score
        elif callable(getattr(model, "predict", None)):
            self._score = self._predictor(model)
        else:
            raise ConfigurationError(
                f"A {type(model).__name__} is no cross-encoder. Pass LangChain's BaseCrossEncoder, a "
                "sentence-transformers CrossEncoder, or the name or folder of one."
            )
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return "cross-encoder"

    def judge(self, query: str) -> Assessor:
        """See `PointwiseReranker.judge`."""

        def score(documents: list[Document]) -> list[float]:
            pairs = [(query, passage_text(document, self.max_chars)) for document in documents]
            scores = []
            for at in range(0, len(pairs), self.batch_size):
                scores += [_one_number(value) for value in self._score(pairs[at : at + self.batch_size])]
            return scores

        return Assessor(score)

    def _predictor(self, model: Any) -> Callable[[list[tuple[str, str]]], Sequence[Any]]:
        labels = getattr(model, "num_labels", 1)
        if isinstance(labels, int) and labels != 1:
            raise ConfigurationError(
                f"This cross-encoder gives {labels} numbers for a pair; ranking needs one with num_labels=1."
            )

        def predict(pairs: list[tuple[str, str]]) -> Sequence[Any]:
            scores: Sequence[Any] = model.predict(pairs, batch_size=self.batch_size, show_progress_bar=False)
            return scores

        return predict


def _load(name: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise MissingDependencyError.for_extra("sentence-transformers", "transformers") from error
    name = model_name(name)
    try:
        return CrossEncoder(name, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"The cross-encoder {name!r} cannot be loaded ({error}). Give the name or folder of a "
            "sentence-transformers CrossEncoder or of a sequence classifier with one label."
        ) from error


def _one_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The cross-encoder gave {value!r} for a pair; ranking needs one number for each."
        ) from error
