"""How rerankers that judge passages one by one or in sets put their questions to a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langchain_core.documents import Document

from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams
from agentprm.rerank.judging import Assessor, width_of
from agentprm.text import cut, one_line

__all__ = ["DEFINITION", "sampling", "scoring", "shown"]

#: What "relevant" means unless a reranker is told otherwise.
DEFINITION = "A passage is relevant if it helps to answer the query."

T = TypeVar("T")


def shown(document: Document, max_chars: int) -> str:
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

    def put(items: list[Any]) -> tuple[list[int], list[Prompt], list[list[str]]]:
        asked = [ask(item) for item in items]
        prompts = [prompt for some, _ in asked for prompt in some]
        return [len(some) for some, _ in asked], prompts, [texts for _, rows in asked for texts in rows]

    def results(items: list[Any], counts: list[int], rows: list[list[float]]) -> list[Any]:
        return [read(item, some) for item, some in zip(items, _split(rows, counts), strict=True)]

    def sync(items: list[Any]) -> list[Any]:
        counts, prompts, continuations = put(items)
        return results(items, counts, model.loglikelihood(prompts, continuations))

    async def on_loop(items: list[Any]) -> list[Any]:
        counts, prompts, continuations = put(items)
        return results(items, counts, await model.aloglikelihood(prompts, continuations))

    return Assessor(sync, on_loop, width_of(model), cost)


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

    def put(items: list[Any]) -> tuple[list[int], list[Prompt]]:
        asked = [ask(item) for item in items]
        return [len(some) for some in asked], [prompt for some in asked for prompt in some]

    def results(items: list[Any], counts: list[int], rows: list[list[Completion]]) -> list[Any]:
        return [read(item, some) for item, some in zip(items, _split(rows, counts), strict=True)]

    def sync(items: list[Any]) -> list[Any]:
        counts, prompts = put(items)
        return results(items, counts, model.sample(prompts, n, params))

    async def on_loop(items: list[Any]) -> list[Any]:
        counts, prompts = put(items)
        return results(items, counts, await model.asample(prompts, n, params))

    width = width_of(model)
    # The samples of one item are requests that the backend runs side by side on its own.
    return Assessor(sync, on_loop, None if width is None else max(1, width // max(1, cost)), cost)


def _split(rows: Sequence[T], counts: Sequence[int]) -> list[list[T]]:
    parts, at = [], 0
    for count in counts:
        parts.append(list(rows[at : at + count]))
        at += count
    return parts
