"""What nodes tell while they work: events of a stream; runs and calls of models in callbacks and traces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context, copy_context
from typing import Any, TypeVar

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
)
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    ensure_config,
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    patch_config,
    set_config_context,
)
from langgraph.config import get_stream_writer
from langgraph.constants import TAG_NOSTREAM
from pydantic import PrivateAttr

from agentprm.budget import Usage, metered, share_usage
from agentprm.events import SearchEvent
from agentprm.lm import ChatLM, Completion, LanguageModel, Prompt, SamplingParams
from agentprm.lm.base import listening
from agentprm.prompts import reply_params
from agentprm.replies import answer_span, finished_text, json_object, parse_finding
from agentprm.routines import Routine, wait
from agentprm.state import Step

__all__ = [
    "AnsweringModel",
    "ReportedRun",
    "arun_of",
    "emit",
    "emit_proposed",
    "emit_retrieved",
    "replied",
    "reported",
    "run_of",
    "sampled",
    "stopped_by",
]

T = TypeVar("T")

_ROLES: dict[str, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_MARKS = "\"'*`"
_BLANKS = re.compile(r"\S[^\S\n]{2,}\S|[^\S\n ]\S")
_HELD = 20  # characters that may still turn out to be a label such as "**Final answer:**"


def emit(event: SearchEvent) -> None:
    """Sends a custom stream event; outside a graph it does nothing."""
    try:
        writer = get_stream_writer()
    except (RuntimeError, KeyError):
        return
    writer(event)


def stopped_by(update: dict[str, Any], reason: str) -> dict[str, Any]:
    """The update of a node that ends the search, which it tells."""
    emit({"type": "agentprm.search_stopped", "reason": reason})
    return {**update, "prm_stop_reason": reason}


def emit_retrieved(step_id: str | None, query: str, documents: Sequence[Document]) -> None:
    """Sends an event for a search; `step_id` is `None` outside a tree."""
    ids = [str(document.id) for document in documents]
    emit({"type": "agentprm.documents_retrieved", "step_id": step_id, "query": query, "doc_ids": ids})


def emit_proposed(steps: Sequence[Step]) -> None:
    """Sends an event for each step that was proposed."""
    for step in steps:
        emit(
            {
                "type": "agentprm.step_proposed",
                "step_id": step["id"],
                "parent_id": step["parent_id"],
                "query": step["query"],
                "final_answer": step["final_answer"],
                "status": step["status"],
            }
        )


class ReportedRun:
    """A run in callbacks and traces.

    Attributes:
        context: In which its work is done, so that what is called there shows below it.
        output: What it gave; set by whoever does the work.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.output: Any = None


@contextmanager
def run_of(name: str, input: Any, config: RunnableConfig | None = None) -> Iterator[ReportedRun]:
    """Reports the block as a run of its own.

    It is what `Runnable` does for its subclasses, which looks at the work's signature each time besides.
    """
    config = ensure_config(config)
    name, run_id = config.get("run_name") or name, config.pop("run_id", None)
    reported = get_callback_manager_for_config(config).on_chain_start(None, input, name=name, run_id=run_id)
    try:
        with set_config_context(patch_config(config, callbacks=reported.get_child())) as context:
            run = ReportedRun(context)
            yield run
    except BaseException as error:
        reported.on_chain_error(error)
        raise
    reported.on_chain_end(run.output)


@asynccontextmanager
async def arun_of(name: str, input: Any, config: RunnableConfig | None = None) -> AsyncIterator[ReportedRun]:
    """Async twin of `run_of`."""
    config = ensure_config(config)
    name, run_id = config.get("run_name") or name, config.pop("run_id", None)
    manager = get_async_callback_manager_for_config(config)
    reported = await manager.on_chain_start(None, input, name=name, run_id=run_id)
    try:
        with set_config_context(patch_config(config, callbacks=reported.get_child())) as context:
            run = ReportedRun(context)
            yield run
    except BaseException as error:
        await reported.on_chain_error(error)
        raise
    await reported.on_chain_end(run.output)


def sampled(
    model: LanguageModel, prompts: Sequence[Prompt], n: int, params: SamplingParams
) -> Routine[list[list[Completion]]]:
    """What `model` samples; a model that is no chat model is reported to callbacks as if it were one."""
    if isinstance(model, ChatLM):  # reports each request itself
        return (yield from wait(model.sample, model.asample, prompts, n, params))

    def sync() -> list[list[Completion]]:
        manager = CallbackManager.configure(**_configured())
        runs = manager.on_chat_model_start(_serialized(model), [_messages(p) for p in prompts])
        try:
            with metered() as meter:
                rows = model.sample(prompts, n, params)
        except BaseException as error:
            for run in runs:
                run.on_llm_error(error)
            raise
        for run, result in zip(runs, _results(model, rows, meter.untold), strict=True):
            run.on_llm_end(result)
        return rows

    async def on_loop() -> list[list[Completion]]:
        manager = AsyncCallbackManager.configure(**_configured())
        runs = await manager.on_chat_model_start(_serialized(model), [_messages(p) for p in prompts])
        try:
            with metered() as meter:
                rows = await model.asample(prompts, n, params)
        except BaseException as error:
            await asyncio.gather(*(run.on_llm_error(error) for run in runs))
            raise
        results = _results(model, rows, meter.untold)
        await asyncio.gather(*(run.on_llm_end(r) for run, r in zip(runs, results, strict=True)))
        return rows

    return (yield from wait(sync, on_loop))


def replied(model: LanguageModel, prompt: Prompt, **asked: Any) -> Routine[str]:
    """The one reply to a prompt, as `finished_text` has it; `asked` goes to `reply_params`."""
    ((completion,),) = yield from sampled(model, [prompt], 1, reply_params(model, **asked))
    return finished_text(completion)


def reported(
    name: str, about: str, sync: Callable[[], T], on_loop: Callable[[], Awaitable[T]]
) -> Routine[tuple[T, Usage]]:
    """What a reward or a reranker gives, and what it cost, as a run of its own in callbacks and traces.

    What local models computed for it is told as the usage of a model of that name.

    Args:
        name: Of what is run.
        about: What the run is about: a question or a query.
        sync: Does the work.
        on_loop: Does it in an event loop.
    """

    def work() -> tuple[T, Usage]:
        with metered() as meter, run_of(name, about) as run:
            result = run.context.run(sync)
            if meter.untold["prompt_tokens"]:
                run.context.run(_tell, name, about, meter.untold)
            run.output = result, meter.usage
        return result, meter.usage

    async def work_on_loop() -> tuple[T, Usage]:
        async with arun_of(name, about) as run:
            run.output = result, usage = await asyncio.create_task(told(), context=run.context)
        return result, usage

    async def told() -> tuple[T, Usage]:
        with metered() as meter:
            result = await on_loop()
        if meter.untold["prompt_tokens"]:
            manager = AsyncCallbackManager.configure(**_configured())
            for run in await manager.on_chat_model_start({"name": name}, [[HumanMessage(about)]]):
                await run.on_llm_end(_cost(name, meter.untold))
        return result, meter.usage

    return (yield from wait(work, work_on_loop))


def _tell(name: str, about: str, usage: Usage) -> None:
    """Tells callbacks a cost as that of a model of this name."""
    manager = CallbackManager.configure(**_configured())
    for run in manager.on_chat_model_start({"name": name}, [[HumanMessage(about)]]):
        run.on_llm_end(_cost(name, usage))


class AnsweringModel(BaseChatModel):
    """A language model as the chat model that writes one answer, its tokens streamed as they come.

    What is streamed is the answer alone: thinking and a label before it are held back. A model that is a
    chat model reports its own cost; the cost of any other one is in the message.

    Args:
        lm: The model.
        prompt: What it is asked.
        params: How it is sampled.
    """

    lm: Any
    prompt: Any
    params: Any
    _answer: str = PrivateAttr(default="")

    @property
    def _llm_type(self) -> str:
        return "agentprm"

    def messages(self) -> list[BaseMessage]:
        """The prompt as messages."""
        return _messages(self.prompt)

    def said(self, message: BaseMessage) -> AIMessage:
        """The answer as a message: that which was streamed, if it was."""
        return AIMessage(
            self._answer,
            id=message.id,
            response_metadata=message.response_metadata,
            usage_metadata=getattr(message, "usage_metadata", None),
        )

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._written())])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=await self._awritten())])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def work() -> None:
            try:
                with listening(heard.put):
                    heard.put(self._written())
            except BaseException as error:
                heard.put(error)

        threading.Thread(target=copy_context().run, args=(work,), daemon=True).start()
        said = ""
        while not isinstance(item := heard.get(), AIMessage):
            if isinstance(item, BaseException):
                raise item
            if new := _news(item, said):
                said += new
                yield _chunk(AIMessageChunk(content=new))
        yield _chunk(_last(item, said))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def hear(text: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
                loop.call_soon_threadsafe(heard.put_nowait, text)

        async def work() -> AIMessage:
            try:
                with listening(hear):
                    return await self._awritten()
            finally:
                hear(None)

        task = asyncio.create_task(work())
        said = ""
        try:
            while (text := await heard.get()) is not None:
                if new := _news(text, said):
                    said += new
                    yield _chunk(AIMessageChunk(content=new))
            yield _chunk(_last(await task, said))
        finally:
            task.cancel()

    def _written(self) -> AIMessage:
        with metered() as meter:
            rows = self.lm.sample([self.prompt], 1, self.params)
        return self._message(rows[0][0], meter.untold)

    async def _awritten(self) -> AIMessage:
        with metered() as meter:
            rows = await self.lm.asample([self.prompt], 1, self.params)
        return self._message(rows[0][0], meter.untold)

    def _message(self, completion: Completion, usage: Usage) -> AIMessage:
        said = finished_text(completion) or completion.text
        found = json_object(said) if self.params.schema else None
        self._answer = json.dumps(found, ensure_ascii=False) if found is not None else parse_finding(said)
        return _message(self.lm, completion, usage, self._answer)


def _news(text: str, said: str) -> str:
    """What a reply under way holds of its answer beyond `said`; only what will stay."""
    start, end = answer_span(text)
    body = text[start:end].lstrip()
    if end < len(text) or len(body) <= _HELD or body[0] in "<[{`\u25c1" or "\\boxed" in body:
        return ""
    known = parse_finding(body).rstrip(f"{_MARKS} \t\n")
    # Quotes around a single line are left out in the end, and so are runs of blanks in it.
    opening = body[: body.find(known[:_HELD])]
    if opening.endswith(tuple(_MARKS)) or _BLANKS.search(body):
        return ""
    return known[len(said) :] if known.startswith(said) else ""


def _last(message: AIMessage, said: str) -> AIMessageChunk:
    text = str(message.text)
    return AIMessageChunk(
        content=text[len(said) :] if text.startswith(said) else "",
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )


def _chunk(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)


def _configured() -> dict[str, Any]:
    config = ensure_config()
    return {
        "inheritable_callbacks": config.get("callbacks"),
        # LangGraph streams no tokens of a run with this tag: they are not the answer.
        "inheritable_tags": [*(config.get("tags") or []), TAG_NOSTREAM],
        "inheritable_metadata": config.get("metadata"),
    }


def _serialized(model: LanguageModel) -> dict[str, Any]:
    return {
        "name": _name(model),
        "type": "not_implemented",
        "lc": 1,
        "id": ["agentprm", type(model).__name__],
    }


def _name(model: LanguageModel) -> str:
    return str(getattr(model, "name", None) or type(model).__name__)


def _messages(prompt: Prompt) -> list[BaseMessage]:
    messages = [_ROLES[role](text) for role, text in prompt.messages]
    return [*messages, AIMessage(prompt.prefix)] if prompt.prefix else messages


def _message(model: LanguageModel, completion: Completion, usage: Usage | None, text: str) -> AIMessage:
    return AIMessage(
        text,
        response_metadata={"model_name": _name(model), "finish_reason": completion.finish_reason},
        usage_metadata=_metadata(usage),
    )


def _metadata(usage: Usage | None) -> UsageMetadata | None:
    """A cost as LangChain writes it; `None` if there is none to tell."""
    if usage is None or not usage["model_calls"]:
        return None
    asked, written = usage["prompt_tokens"], usage["completion_tokens"]
    return UsageMetadata(input_tokens=asked, output_tokens=written, total_tokens=asked + written)


def _cost(name: str, usage: Usage) -> LLMResult:
    """The end of a run of which only the cost is told."""
    message = AIMessage("", response_metadata={"model_name": name}, usage_metadata=_metadata(usage))
    return LLMResult(generations=[[ChatGeneration(message=message)]])


def _results(model: LanguageModel, rows: Sequence[Sequence[Completion]], usage: Usage) -> list[LLMResult]:
    results = []
    for row, share in zip(rows, share_usage(usage, len(rows)), strict=True):
        # The samples of a prompt share its cost; it is told once, with the first.
        messages = [_message(model, c, None if i else share, c.text) for i, c in enumerate(row)]
        results.append(LLMResult(generations=[[ChatGeneration(message=m) for m in messages]]))
    return results
