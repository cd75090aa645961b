"""Relevance by a rubric: five bands, a written reason, the mean of several samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple, Self

from langchain_core.documents import Document
from pydantic import PrivateAttr, model_validator

from agentprm.errors import ConfigurationError
from agentprm.lm import LanguageModel, Prompt, SamplingParams, as_language_model
from agentprm.prompts import PROMPTS, Prompts
from agentprm.replies import without_thought
from agentprm.rerank.base import Ranked, Reranker
from agentprm.rerank.judging import DEFINITION, Judging, Missing, passage_text, sampling
from agentprm.rerank.pointwise import order_by_scores, without_gaps
from agentprm.routines import Routine
from agentprm.text import one_line

__all__ = ["RubricReranker", "Stage", "parse_grade"]

_TAG = re.compile(r"<score>\s*(\d{1,3}(?:\.\d+)?)\s*(?:/\s*100\s*)?</score>", re.IGNORECASE)


class Stage(NamedTuple):
    """One stage of the schedule.

    Attributes:
        documents: How many passages from the top of the list so far are graded.
        samples: Samples of each.
    """

    documents: int
    samples: int


#: One sample over 100 passages, then sixteen over the best 30 (Retro*, section on inference).
SCHEDULE = (Stage(100, 1), Stage(30, 16))


def parse_grade(text: str) -> float | None:
    """The grade in the last `<score>` tag of a model's output; `None` if there is none from 0 to 100.

    The last one, since a model may quote the instruction or a passage before it concludes.
    Thinking is not read.
    """
    found = _TAG.findall(without_thought(text))
    if not found:
        return None
    grade = float(found[-1])
    return grade if grade <= 100 else None


class RubricReranker(Reranker):
    """Grades passages from 0 to 100 by a rubric and ranks them by the mean of several samples.

    Retro* (arXiv 2509.24869) at inference: the model is told what relevance means in the task,
    analyses query and passage, and ends with an integer. A first stage grades many passages once, a
    second the best of them many times. A sample without a grade is left out of the mean and counted
    in `failures`; the reference code counts it as 0, which makes a passage worse the less the model
    keeps to the form. A passage without any grade keeps its place. Each stage draws samples of its
    own: the sample that lifted a passage into the next stage is not counted again there.

    The score is the mean grade of the last stage that graded the passage, so a passage that was
    graded once may show a higher score than one above it that was graded again.

    Args:
        model: A language model, or any LangChain chat model.
        schedule: The stages, each over at most as many passages as the one before it.
        definition: What makes a passage relevant in this task, a sentence or more for the prompt.
        query_type: What a query is in this task, for instance `question` or `claim`.
        document_type: What a passage is, for instance `passage` or `theorem`.
        temperature: .6 in the paper. Greedy samples would all be the same.
        max_tokens: Most tokens of one sample; a sample that is cut off before its grade is unparsed.
        seed: Of the samples; `None` draws fresh ones.
        prompts: Templates; `grade` is used.
        max_chars: Where a passage is cut.
    """

    model: Any
    schedule: tuple[Stage, ...] = SCHEDULE
    definition: str = DEFINITION
    query_type: str = "query"
    document_type: str = "passage"
    temperature: float = 0.6
    max_tokens: int = 512
    seed: int | None = 0
    prompts: Prompts = PROMPTS
    max_chars: int = 4000
    _grader: LanguageModel = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.schedule or any(stage.documents < 1 or stage.samples < 1 for stage in self.schedule):
            raise ConfigurationError("schedule needs stages of at least one document and one sample each.")
        sizes = [stage.documents for stage in self.schedule]
        if sizes != sorted(sizes, reverse=True):
            raise ConfigurationError(
                f"Each stage grades a part of what the stage before it graded, so {sizes} must not grow."
            )
        if self.temperature == 0 and any(stage.samples > 1 for stage in self.schedule):
            raise ConfigurationError(
                "With temperature 0 all samples of a passage are the same; use one sample a stage, or .6."
            )
        self._params(0)
        self._grader = as_language_model(self.model)
        return self

    @property
    def method(self) -> str:
        """See `Reranker.method`."""
        return "rubric " + "+".join(f"{stage.documents}@{stage.samples}" for stage in self.schedule)

    @property
    def calls_per_judgement(self) -> int:
        """Most judge calls that one judgement takes."""
        return max(stage.samples for stage in self.schedule)

    def routine(self, query: str, documents: Sequence[Document], judging: Judging) -> Routine[Ranked]:
        """See `Reranker.routine`."""
        order = list(range(len(documents)))
        scores: list[float | None] = [None] * len(documents)
        for number, stage in enumerate(self.schedule):
            chosen = order[: stage.documents]
            judge = sampling(
                self._grader,
                lambda document: [self._prompt(query, document)],
                lambda _, rows: [parse_grade(completion.text) for completion in rows[0]],
                self._params(number),
                stage.samples,
                stage.samples,
            )
            grades = yield from judging.ask(judge, [documents[place] for place in chosen])
            for place, graded in zip(chosen, grades, strict=True):
                if isinstance(graded, Missing):
                    continue
                known = [grade for grade in graded if grade is not None]
                judging.book(stage.samples, len(graded) - len(known))
                if known:
                    scores[place] = fmean(known)
            order[: len(chosen)] = order_by_scores(scores, chosen).order
        return Ranked(order, without_gaps(scores, order))

    def _params(self, stage: int) -> SamplingParams:
        seed = None if self.seed is None else self.seed + stage
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature, seed=seed)

    def _prompt(self, query: str, document: Document) -> Prompt:
        return self.prompts.grade.render(
            prefill=self._grader.capabilities.prefill,
            definition=one_line(self.definition),
            query_type=one_line(self.query_type),
            document_type=one_line(self.document_type),
            query=one_line(query),
            passage=passage_text(document, self.max_chars),
        )
