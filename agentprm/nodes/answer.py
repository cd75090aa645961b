"""Nodes that answer: from the documents, and from the steps of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from pydantic import BaseModel, ValidationError

from agentprm.budget import SearchBudget
from agentprm.documents import Citation, cite, passages_text, sentence_around, supporting, supporting_sentence
from agentprm.errors import CapabilityError, ConfigurationError, ParseError
from agentprm.lm import LanguageModel, Prompt, as_language_model
from agentprm.nodes.node import Node, NodeRoutine, SearchNode
from agentprm.nodes.reading import ModelOrReader, quote_of
from agentprm.nodes.reporting import AnsweringModel, emit, reported
from agentprm.prompts import PROMPTS, Prompts, in_form, known_text, reply_params
from agentprm.readers.base import Reader
from agentprm.replies import json_object, short_answer
from agentprm.routines import Routine, wait
from agentprm.state import (
    ReasoningState,
    Step,
    as_messages,
    documents_of,
    evidence_ids,
    last_question,
    open_question,
    path_to,
)
from agentprm.text import one_line

__all__ = [
    "Answer",
    "AnswerForm",
    "AnswerFromSteps",
    "GatheredAnswer",
    "ResponseFormat",
    "answered",
    "spoken",
]

#: A pydantic model, or the JSON schema of an object.
ResponseFormat = type[BaseModel] | Mapping[str, Any]


@dataclass(frozen=True)
class AnswerForm:
    """What a user asks of answers beyond the few words of the default.

    Args:
        form: For instance `"two paragraphs"`.
        language: For instance `"German"`.
        response_format: Schema of the answer, which then is JSON.
    """

    form: str | None = None
    language: str | None = None
    response_format: ResponseFormat | None = None

    def __post_init__(self) -> None:
        for name, text in (("form", self.form), ("language", self.language)):
            if text is not None and (not isinstance(text, str) or not text.strip()):
                raise ConfigurationError(f"{name} must be a text that is not empty, or None, not {text!r}.")
        wanted = self.response_format
        if not (wanted is None or isinstance(wanted, Mapping) or _is_pydantic(wanted)):
            raise ConfigurationError(
                f"response_format must be a pydantic model or a JSON schema, not {wanted!r}."
            )

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for, so that an answer is a few words on a line."""
        return self.form is None and self.language is None and self.response_format is None

    def shortest(self, question: str, answer: str) -> str:
        """The answer as it is given: where nothing is asked for, a yes or no without its explanation."""
        return short_answer(question, answer) if self.plain else answer

    def prompts(self, prompts: Prompts) -> Prompts:
        """The prompts with answers asked for in this form."""
        return in_form(prompts, self.form, self.language)

    def schema(self, model: LanguageModel) -> Mapping[str, Any] | None:
        """The schema, if there is one.

        Raises:
            CapabilityError: If `model` cannot be held to it.
        """
        wanted = self.response_format
        if wanted is None:
            return None
        if not model.capabilities.structured:
            raise CapabilityError(
                f"response_format needs a model that can be held to a schema; this {type(model).__name__} "
                "cannot. Use a chat model with with_structured_output, or a server's chat API."
            )
        if isinstance(wanted, Mapping):
            return {"title": "answer", **wanted}
        return wanted.model_json_schema()

    def check(self, answer: str) -> None:
        """Refuses an answer that does not keep to the schema.

        Raises:
            ParseError: If it is no JSON object, or the pydantic model does not accept it.
        """
        wanted = self.response_format
        if wanted is None:
            return
        remedy = "Raise max_tokens, or use a model that its provider holds to schemas."
        if json_object(answer) is None:
            raise ParseError(
                f"The answer is no JSON object as response_format asks: {answer[:200]!r}. {remedy}"
            )
        if not isinstance(wanted, Mapping):
            try:
                wanted.model_validate_json(answer)
            except ValidationError as error:
                raise ParseError(f"The answer does not fit response_format: {error}. {remedy}") from error


def _is_pydantic(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def written_answer(
    model: LanguageModel, prompt: Prompt, max_tokens: int, form: AnswerForm
) -> Routine[AIMessage]:
    """The answer that `model` writes to `prompt`, as the message that is streamed."""
    params = reply_params(model, max_tokens=max_tokens, schema=form.schema(model), lines=not form.plain)
    writer = AnsweringModel(lm=model, prompt=prompt, params=params, cache=False)
    message = yield from wait(writer.invoke, writer.ainvoke, writer.messages())
    said = writer.said(message)
    form.check(str(said.text))
    return said


def spoken(state: ReasoningState, answer: AIMessage) -> Sequence[Any]:
    """The messages that an answer adds to the conversation: itself, and the question if it is not there."""
    messages: list[BaseMessage] = as_messages(state.get("messages"))
    said = [] if last_question(messages) and open_question(messages) else [HumanMessage(state["question"])]
    return [*said, answer]


def answered(
    state: ReasoningState, answer: str, citations: list[Citation], reason: str, message: AIMessage | None
) -> dict[str, Any]:
    """The update of a node that answers; the answer is told in the stream.

    Args:
        state: What the node has read.
        answer: The answer; empty if there is none.
        citations: What it rests on.
        reason: Why the search ended, if not by the answer.
        message: The answer as a message for the conversation; `None` where the node does not speak.
    """
    emit({"type": "agentprm.answered", "answer": answer, "cited_ids": [c["doc_id"] for c in citations]})
    update = {
        "answer": answer,
        "citations": citations,
        "prm_stop_reason": reason or ("answered" if answer else "no answer"),
    }
    return update if message is None else {**update, "messages": spoken(state, message)}


class Answer(Node):
    """Answers the question from the documents, or without any from memory, each time it runs.

    Its tokens are streamed as they come (`stream_mode="messages"`). The citations are the documents that
    support the answer, with the sentences that do. If the budget has no call left, the answer is empty, and
    so it is where a reader finds that none of the documents answers.

    Args:
        model: A language model, any LangChain chat model, or a reader (`agentprm.readers`), which quotes.
        passages: Most passages that are shown.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema: the answer is JSON, and
            comes from a chat model that can be held to a schema.
        prompts: Templates; `answer` and `recall` are used.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of a run.
    """

    def __init__(
        self,
        model: ModelOrReader,
        *,
        passages: int = 5,
        max_tokens: int = 48,
        form: str | None = None,
        language: str | None = None,
        response_format: ResponseFormat | None = None,
        prompts: Prompts = PROMPTS,
        speak: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "answer",
    ) -> None:
        self.model: LanguageModel | Reader = model if isinstance(model, Reader) else as_language_model(model)
        self.form = AnswerForm(form, language, response_format)
        if not isinstance(self.model, Reader):
            self.form.schema(self.model)
        elif not self.form.plain:
            raise CapabilityError(
                "A reader quotes its answer; form, language and response_format need a language model."
            )
        self.passages, self.max_tokens, self.speak = passages, max_tokens, speak
        self.prompts = self.form.prompts(prompts)
        super().__init__(
            name=name,
            reads=("documents",),
            writes=("answer", "citations"),
            keys=keys,
            budget=budget,
            settings=("passages", "max_tokens"),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        documents = state.get("documents", [])[: self.setting("passages")]
        message, reason = AIMessage(""), state.get("prm_stop_reason", "")
        places: dict[str, tuple[int, int]] = {}
        if short := self.short(state, model_calls=0 if isinstance(self.model, Reader) else 1):
            reason = reason or short
        elif isinstance(self.model, Reader):
            message, places = yield from _quoted(self.model, state["question"], documents)
        else:
            prefill = self.model.capabilities.prefill
            template = self.prompts.answer if documents else self.prompts.recall
            prompt = template.render(
                prefill=prefill, passages=passages_text(documents), question=one_line(state["question"])
            )
            message = yield from written_answer(self.model, prompt, self.setting("max_tokens"), self.form)
        answer = str(message.text)
        if isinstance(self.model, Reader):
            cited = [d for d in documents if str(d.id) in places]
        else:
            cited = supporting(answer, documents, state["question"])
            places = _sentences(cited, [(answer, state["question"])])
            answer = self.form.shortest(state["question"], answer)
        return answered(state, answer, cite(cited, places), reason, message if self.speak else None)


class GatheredAnswer(Node):
    """Base of the nodes that answer from what a search or a loop has gathered; goes before their own base.

    Args:
        model: A language model, or any LangChain chat model.
        max_tokens: Most tokens of the answer.
        form: How an answer should look.
        language: Language of the answer.
        response_format: Schema of the answer.
        prompts: Templates.
        speak: Also append the answer to `messages`.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of the search.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str,
        *,
        max_tokens: int = 48,
        form: str | None = None,
        language: str | None = None,
        response_format: ResponseFormat | None = None,
        prompts: Prompts = PROMPTS,
        speak: bool = False,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "answer",
    ) -> None:
        self.model = as_language_model(model)
        self.form = AnswerForm(form, language, response_format)
        self.form.schema(self.model)
        self.max_tokens, self.prompts, self.speak = max_tokens, self.form.prompts(prompts), speak
        super().__init__(
            name=name,
            writes=("answer", "citations", "documents"),
            keys=keys,
            budget=budget,
            settings=("max_tokens",),
        )

    def written(self, state: ReasoningState, prompt: Prompt) -> Routine[tuple[AIMessage, str]]:
        """What the model answers, or why the budget has no call left for it."""
        if short := self.short(state, model_calls=1):
            return AIMessage(""), short
        return (yield from written_answer(self.model, prompt, self.setting("max_tokens"), self.form)), ""

    def answered(
        self, state: ReasoningState, message: AIMessage, citations: list[Citation], reason: str
    ) -> dict[str, Any]:
        """The update with an answer, which is said in the stream and, if wanted, in the conversation."""
        return answered(state, str(message.text), citations, reason, message if self.speak else None)


class AnswerFromSteps(GatheredAnswer, SearchNode):
    """Answers from the committed steps of a search; where nothing was committed, from memory.

    A path that concluded has its answer already. Otherwise, and where an answer in another form is
    asked for, one call sums up what was found. If the
    budget has no call left, the last finding is the answer. The citations are the passages that
    support the findings on the path; `documents` are all that it read,
    those that hold what was found first.

    Args:
        model: A language model, or any LangChain chat model.
        max_tokens: Most tokens of the answer; a model that continues no prefix gets at least 256.
        form: How an answer should look, instead of a few words: "one sentence", "two paragraphs".
        language: Language of the answer, for instance "German".
        response_format: Schema of the answer, a pydantic model or a JSON schema: the answer is JSON, and
            comes from a chat model that can be held to a schema.
        prompts: Templates; `recall` and `summarise` are used.
        speak: Also append the answer to `messages`, for graphs that converse.
        keys: Own names for `question`, `messages`, `documents`, `answer` and `citations`.
        budget: Bounds of the search.
    """

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        frontier = state.get("prm_frontier", [])
        path = path_to(state.get("prm_steps", []), frontier[-1]) if frontier else []
        reason = state.get("prm_stop_reason", "")
        answer = path[-1]["final_answer"] if path else None
        message = AIMessage("")
        if answer is None or not self.form.plain:
            template = self.prompts.summarise if path else self.prompts.recall
            prompt = template.render(
                prefill=self.model.capabilities.prefill,
                question=one_line(state["question"]),
                known=known_text(path),
            )
            message, short = yield from self.written(state, prompt)
            reason = reason or short
        found = next((s["thought"] for s in reversed(path) if s["thought"]), "")
        answer = self.form.shortest(state["question"], str(message.text) or answer or found)
        message = message.model_copy(update={"content": answer})
        cited = documents_of(state, list(dict.fromkeys(i for s in path for i in s.get("cited_ids", []))))
        citations = cite(cited, _places(state, path, cited))
        documents = documents_of(state, evidence_ids(path))
        return {**self.answered(state, message, citations, reason), "documents": documents}


def _quoted(
    reader: Reader, question: str, documents: list[Document]
) -> Routine[tuple[AIMessage, dict[str, tuple[int, int]]]]:
    """What a reader answers, and where the sentence stands that says so; empty where none does."""
    if not documents:
        return AIMessage(""), {}
    (answer,), _ = yield from reported(
        type(reader).__name__,
        question,
        lambda: reader.read([one_line(question)], [documents]),
        lambda: reader.aread([one_line(question)], [documents]),
    )
    places = {}
    if answer.text and answer.passage is not None:
        source = documents[answer.passage]
        quote = quote_of(answer, documents)
        where = quote and sentence_around(source.page_content, quote["start"], quote["end"])
        places[str(source.id)] = where or (0, 0)  # yes and no stand nowhere
    return AIMessage(answer.text), places


def _sentences(
    documents: Sequence[Document], claims: Sequence[tuple[str, str]]
) -> dict[str, tuple[int, int]]:
    """Where the sentences of `documents` stand that support one of the claims, each with its question."""
    places: dict[str, tuple[int, int]] = {}
    for document in documents:
        for claim, question in claims:
            place = supporting_sentence(claim, document.page_content, question)
            if place is not None:
                places.setdefault(str(document.id), place)
    return places


def _places(state: ReasoningState, path: list[Step], cited: list[Document]) -> dict[str, tuple[int, int]]:
    """Where the sentences stand that the findings of a path were read off, or that support them."""
    texts = {str(d.id): d.page_content for d in cited}
    places: dict[str, tuple[int, int]] = {}
    for step in path:
        own = [document for document in cited if document.id in step.get("cited_ids", [])]
        quote = step.get("quote")
        if quote is not None and quote["doc_id"] in texts:
            place = sentence_around(texts[quote["doc_id"]], quote["start"], quote["end"])
            places.setdefault(quote["doc_id"], place)
        elif step["thought"]:
            for name, place in _sentences(own, [(step["thought"], step["query"])]).items():
                places.setdefault(name, place)
    return places
