"""How rerankers that judge passages one by one or in sets put their questions to a language model."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

from langchain_core.documents import Document

from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams
from agentprm.rerank.judging import Assessor, width_of
from agentprm.routines import Routine, wait
from agentprm.text import cut, one_line

__all__ = ["DEFINITION", "passage_text", "sampling", "scoring"]

#: What "relevant" means unless a reranker is told otherwise.
DEFINITION = "A passage is relevant if it helps to answer the query."

T = TypeVar("T")


def passage_text(document: Document, max_chars: int) -> str:
    """The passage as one line, its title first if it has one, cut at a word with a visible mark."""
    text = one_line(document.page_content)
    if len(text) > max_chars:
        text = cut(text, max_chars) + " […]"
    title = one_line(str(document.metadata.get("title") or ""))
    return f"{title}: {text}" if title else text


def scoring(
    model: LanguageModel,
    ask: Callable[[Any], tuple[list[Prompt], list[list[str]]]],
    read: Callable[[Any, list[list[float]]], Any],
    cost: int = 1,
) -> Assessor:
    """A judge that compares log-likelihoods.

    Args:
        model: A model with log-likelihoods.
        ask: From an item to its prompts and the continuations of each.
        read: From an item and the log-likelihoods of its prompts to its result.
        cost: Prompts of one item.
    """

    def judged(items: list[Any]) -> Routine[list[Any]]:
        asked = [ask(item) for item in items]
        prompts = [prompt for some, _ in asked for prompt in some]
        continuations = [texts for _, rows in asked for texts in rows]
        rows = yield from wait(model.loglikelihood, model.aloglikelihood, prompts, continuations)
        return _results(read, items, [some for some, _ in asked], rows)

    return Assessor.by(judged, width_of(model), cost)


def sampling(
    model: LanguageModel,
    ask: Callable[[Any], list[Prompt]],
    read: Callable[[Any, list[list[Completion]]], Any],
    params: SamplingParams,
    n: int = 1,
    cost: int = 1,
) -> Assessor:
    """A judge that reads generated text.

    Args:
        model: Any language model.
        ask: From an item to its prompts.
        read: From an item and the completions of its prompts to its result.
        params: How to sample.
        n: Samples of each prompt.
        cost: Samples of one item.
    """

    def judged(items: list[Any]) -> Routine[list[Any]]:
        asked = [ask(item) for item in items]
        prompts = [prompt for some in asked for prompt in some]
        return _results(
            read, items, asked, (yield from wait(model.sample, model.asample, prompts, n, params))
        )

    width = width_of(model)
    # The samples of one item are requests that the backend runs side by side on its own.
    return Assessor.by(judged, None if width is None else max(1, width // max(1, cost)), cost)


def _results(
    read: Callable[[Any, list[T]], Any], items: list[Any], asked: list[list[Prompt]], rows: list[T]
) -> list[Any]:
    left = iter(rows)
    return [read(item, list(islice(left, len(some)))) for item, some in zip(items, asked, strict=True)]
