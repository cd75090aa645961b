"""The model itself as a retriever: passages that it writes from memory (SSRL's self-search)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from agentprm.documents import text_hash
from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams, as_language_model
from agentprm.prompts import ChatTemplate, reply_params
from agentprm.replies import finished_text, parse_finding
from agentprm.retrievers.store_base import check_k
from agentprm.text import one_line

__all__ = ["SelfSearch"]

IMAGINE = ChatTemplate(
    fields=("query",),
    system=(
        "You are a search engine that knows its documents by heart. Write the passage of an encyclopedia "
        "that "
        "answers the query, in one to three sentences with full names. If you know nothing of it, reply with "
        "the word Nothing."
    ),
    user="Query: {query}",
    prefix="Passage:",
)


class SelfSearch(BaseRetriever):
    """A retriever that asks a language model to write the passages, wherever LangChain takes a retriever.

    Each passage is a sample of its own; equal ones count once, and the one that more samples agree on comes
    first. What it writes may be wrong: its `metadata` says `{"source": "self-search", "generated": True}`, so
    that citations show it.

    Args:
        model: A language model, or any LangChain chat model.
        k: Samples, and most passages.
        temperature: Of the samples.
        seed: Seed of the samples.
        max_tokens: Most tokens of a passage.
        template: The prompt, with the field `query`.

    Example:
        >>> from agentprm.testing import ScriptedChatModel
        >>> retriever = SelfSearch(ScriptedChatModel(script={"": "Brunel was born in Portsmouth."}))
        >>> [document.page_content for document in retriever.invoke("Where was Brunel born?")]
        ['Brunel was born in Portsmouth.']
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: Any
    k: int = 3
    temperature: float = 0.7
    seed: int | None = 0
    max_tokens: int = 96
    template: Any = IMAGINE

    def __init__(self, model: LanguageModel | BaseChatModel | str, **settings: Any) -> None:
        super().__init__(**{**settings, "model": as_language_model(model)})
        check_k(self.k)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        rows = self.model.sample([self._prompt(query)], self._most(k), self._params())
        return _documents(query, rows[0])

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        rows = await self.model.asample([self._prompt(query)], self._most(k), self._params())
        return _documents(query, rows[0])

    def _most(self, k: int | None) -> int:
        return self.k if k is None else check_k(k)

    def _prompt(self, query: str) -> Prompt:
        prompt: Prompt = self.template.render(prefill=self.model.capabilities.prefill, query=one_line(query))
        return prompt

    def _params(self) -> SamplingParams:
        return reply_params(
            self.model, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed
        )


def _documents(query: str, row: Sequence[Completion]) -> list[Document]:
    counts: dict[str, int] = {}
    for completion in row:
        text = one_line(parse_finding(finished_text(completion))).removeprefix("Passage:").strip()
        if text and text.casefold().strip(" .") != "nothing":
            counts[text] = counts.get(text, 0) + 1
    return [
        Document(
            id=f"self-search:{text_hash(text)}",
            page_content=text,
            metadata={"title": one_line(query), "source": "self-search", "generated": True, "samples": count},
        )
        for text, count in sorted(counts.items(), key=lambda pair: -pair[1])
    ]
