"""The answer's tokens are streamed as they come, and only they; every model call shows in callbacks."""

import asyncio
import contextlib
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableLambda

from agentprm.budget import record
from agentprm.errors import InputError
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.lm import Capabilities, Completion, LanguageModel, Prompt, SamplingParams
from agentprm.lm.base import listener
from agentprm.nodes import Answer, JudgeAnswer
from agentprm.nodes.reporting import AnsweringModel
from agentprm.rewards import VerdictReward
from agentprm.testing import ScriptedChatModel
from tests.unit.world import QUESTION, chat_reply, good_reward, language_model, store

LONG = "Isambard Kingdom Brunel was born in Portsmouth, on the south coast of England."


class Told(LanguageModel):
    """A local model that tells its text word by word, if anybody listens, and waits to be heard."""

    capabilities = Capabilities()

    def __init__(self, reply=LONG, *, fails=False):
        self.reply, self.fails, self.heard = reply, fails, threading.Event()

    def sample(self, prompts, n=1, params=None):
        hear = listener(len(prompts), n)
        words = self.reply.split(" ")
        for end in range(1, len(words)):
            if hear is not None:
                hear(" ".join(words[:end]))
        if self.fails:
            raise ValueError("broken")
        record(model_calls=len(prompts) * n, prompt_tokens=7, computed_tokens=7, completion_tokens=5)
        return [[Completion(self.reply, 5, "stop")] * n for _ in prompts]


def streamed_chat(reply):
    return GenericFakeChatModel(messages=iter([AIMessage(reply)] * 9))


def stream(graph, how, **state):
    state = state or {"question": "Where was Brunel born?"}
    if how == "sync":
        return list(graph.stream(state, stream_mode="messages"))

    async def run():
        return [part async for part in graph.astream(state, stream_mode="messages")]

    return asyncio.run(run())


MODELS = {"local": lambda reply: Told(reply), "chat": streamed_chat}


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "reply",
    [
        LONG,
        f"**Answer:** {LONG}",
        f"<think>\nPlymouth, or was it another town?\n</think>\n\n{LONG}",
        f'"{LONG}"',
    ],
)
def test_the_tokens_of_the_answer_come_as_they_are_written(model, how, reply):
    graph = create_rag_graph(MODELS[model](reply), store(), k=1).compile()
    parts = stream(graph, how)
    messages = [message for message, _ in parts]
    assert all(isinstance(message, AIMessageChunk) for message in messages)
    # Whether a quotation mark at the beginning goes is known at the end only.
    assert len([m for m in messages if m.text]) > 5 or reply[0] == '"'
    assert "".join(m.text for m in messages) == LONG
    assert len({m.id for m in messages}) == 1
    assert {metadata["langgraph_node"] for _, metadata in parts} == {"answer"}
    result = graph.invoke({"question": "Where was Brunel born?"})
    assert result["answer"] == result["messages"][-1].text == LONG


@pytest.mark.parametrize("model", MODELS)
def test_events_without_the_tag_nostream_are_those_of_the_answer(model):
    graph = create_rag_graph(MODELS[model](LONG), store(), k=1).compile()

    async def run():
        stream = graph.astream_events({"question": "Where?"}, version="v2", exclude_tags=["nostream"])
        return [e["data"]["chunk"].text async for e in stream if e["event"] == "on_chat_model_stream"]

    texts = asyncio.run(run())
    assert len(texts) > 5
    assert "".join(texts) == LONG


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_search_streams_its_answer_only(how):
    for make in (lambda: ScriptedChatModel(script=chat_reply), language_model):
        graph = create_reasoning_graph(make(), store(), good_reward()).compile()
        messages = [message for message, _ in stream(graph, how, question=QUESTION)]
        assert "".join(m.text for m in messages) == "Portsmouth"
        assert {m.type for m in messages} <= {"ai", "AIMessageChunk"}


def test_the_question_is_not_streamed_back_and_condensing_is_silent():
    graph = create_rag_graph(
        ScriptedChatModel(script=lambda text: "Where was he born?"), store(), condense=True
    )
    history = [("user", "Who?"), ("ai", "Brunel"), ("user", "And where?")]
    for state in ({"question": "Who?"}, {"messages": history}):
        assert "".join(m.text for m, _ in stream(graph.compile(), "sync", **state)) == "Where was he born?"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_model_that_fails_fails_while_it_is_streamed(how):
    graph = create_rag_graph(Told(fails=True), store()).compile()
    with pytest.raises(ValueError, match="broken"):
        stream(graph, how)


def test_the_first_tokens_come_before_the_model_has_finished():
    going_on = threading.Event()

    class Waits(Told):
        def sample(self, prompts, n=1, params=None):
            hear = listener(len(prompts), n)
            hear(LONG[:50])
            assert going_on.wait(30)
            return [[Completion(self.reply, 5, "stop")]]

    parts = (
        create_rag_graph(Waits(), store()).compile().stream({"question": "Where?"}, stream_mode="messages")
    )
    first, _ = next(parts)
    assert first.text
    assert LONG.startswith(first.text)
    going_on.set()
    assert first.text + "".join(message.text for message, _ in parts) == LONG


@pytest.mark.parametrize("how", ["sync", "async"])
def test_local_models_show_in_callbacks_and_usage(how):
    usage, names = UsageMetadataCallbackHandler(), []

    class Names(BaseCallbackHandler):
        def on_chat_model_start(self, serialized, messages, **kwargs):
            names.append(kwargs["metadata"]["langgraph_node"])

    graph = create_reasoning_graph(language_model(), store(), good_reward()).compile()
    config = {"callbacks": [usage, Names()]}
    if how == "sync":
        result = graph.invoke({"question": QUESTION}, config)
    else:
        result = asyncio.run(graph.ainvoke({"question": QUESTION}, config))
    assert {"propose", "complete"} <= set(names)
    (told,) = usage.usage_metadata.values()
    assert told["input_tokens"] == result["prm_usage"]["prompt_tokens"]
    assert told["output_tokens"] == result["prm_usage"]["completion_tokens"]


@pytest.mark.parametrize("streaming", [False, True])
def test_the_cost_of_an_answer_is_told_once(streaming):
    usage = UsageMetadataCallbackHandler()
    graph = create_rag_graph(Told(), store()).compile()
    if streaming:
        list(graph.stream({"question": "Where?"}, {"callbacks": [usage]}, stream_mode="messages"))
    else:
        graph.invoke({"question": "Where?"}, {"callbacks": [usage]})
    assert usage.usage_metadata["Told"]["total_tokens"] == 12


@pytest.mark.parametrize("how", ["sync", "async"])
def test_what_rewards_and_rerankers_have_local_models_compute_is_told(how):
    usage = UsageMetadataCallbackHandler()
    model = language_model()
    graph = create_reasoning_graph(model, store(), reranker=model, k=2).compile()
    config = {"callbacks": [usage]}
    if how == "sync":
        result = graph.invoke({"question": QUESTION}, config)
    else:
        result = asyncio.run(graph.ainvoke({"question": QUESTION}, config))
    assert {"ScriptedLanguageModel", "PairwiseReranker", "Fused"} <= set(usage.usage_metadata)
    told = sum(cost["input_tokens"] for cost in usage.usage_metadata.values())
    assert told == result["prm_usage"]["prompt_tokens"]


def test_a_judge_that_is_a_chat_model_is_told_once():
    class Counts(GenericFakeChatModel):
        def _generate(self, *args, **kwargs):
            result = super()._generate(*args, **kwargs)
            message = result.generations[0].message
            message.usage_metadata = {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}
            message.response_metadata["model_name"] = "counts"
            return result

    usage = UsageMetadataCallbackHandler()
    judge = JudgeAnswer(VerdictReward(Counts(messages=iter([AIMessage("The answer is right. Yes")] * 9))))
    judge.invoke({"question": "q", "answer": "a"}, {"callbacks": [usage]})
    assert list(usage.usage_metadata) == ["counts"]


def test_rewards_show_in_callbacks():
    names = []

    class Names(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, **kwargs):
            names.append(kwargs.get("name"))

    graph = create_reasoning_graph(language_model(), store(), good_reward()).compile()
    graph.invoke({"question": QUESTION}, {"callbacks": [Names()]})
    assert "FakeReward" in names


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_node_of_a_graph_shows_as_one_run_and_its_calls_below_it(how):
    runs, begun = {}, []

    class Runs(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs):
            runs[run_id] = kwargs.get("name")
            begun.append((kwargs.get("name"), runs.get(parent_run_id)))

        def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id=None, **kwargs):
            begun.append(("model", runs.get(parent_run_id)))

    graph = create_rag_graph(Told(), store()).compile()
    if how == "sync":
        graph.invoke({"question": "Where?"}, {"callbacks": [Runs()]})
    else:
        asyncio.run(graph.ainvoke({"question": "Where?"}, {"callbacks": [Runs()]}))
    assert begun.count(("answer", "LangGraph")) == 1
    assert [above for name, above in begun if name == "model"] == ["answer"]
    assert ("answer", "answer") not in begun


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("chained", [False, True])
def test_a_node_that_is_no_node_of_a_graph_shows_as_a_run(how, chained):
    names = []

    class Names(BaseCallbackHandler):
        def on_chain_start(self, serialized, inputs, **kwargs):
            names.append(kwargs.get("name"))

        def on_chain_error(self, error, **kwargs):
            names.append(type(error).__name__)

    answer = Answer(Told(), name="answer")
    runnable = RunnableLambda(lambda question: {"question": question}) | answer if chained else answer
    config = {"callbacks": [Names()]}
    for asked in ("Where?", " "):
        question = asked if chained else {"question": asked}
        with contextlib.nullcontext() if asked == "Where?" else pytest.raises(InputError):
            if how == "sync":
                runnable.invoke(question, config)
            else:
                asyncio.run(runnable.ainvoke(question, config))
    assert names.count("answer") == 2
    assert names.count("InputError") == 1 + chained


def test_nobody_listens_to_several_samples():
    seen = []

    class Asks(Told):
        def sample(self, prompts, n=1, params=None):
            seen.append(listener(len(prompts), n))
            return super().sample(prompts, n, params)

    search = {"candidates": 2, "max_steps": 2}
    graph = create_reasoning_graph(Asks("Search: Who?"), lambda query: [], good_reward(), **search)
    stream(graph.compile(), "sync")
    assert seen[0] is None


WORDS = ["Answer:", "**Answer:**", "Final", "Brunel", "was", "born", "Portsmouth.", "1806", "-", "Paris,"]
PIECES = st.sampled_from([*WORDS, *'"*`{}[]', "\n", "\n\n", " ", " "])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["", "<think>\nWell.\n</think>\n"]), st.lists(PIECES, min_size=1, max_size=14))
def test_what_is_streamed_is_the_answer_however_the_reply_is_made(thought, words):
    pieces = [thought, *words]

    class Grows(Told):
        def sample(self, prompts, n=1, params=None):
            hear = listener(len(prompts), n)
            for end in range(1, len(pieces)):
                hear("".join(pieces[:end]))
            return [[Completion("".join(pieces), 5, "stop")]]

    writer = AnsweringModel(
        lm=Grows(), prompt=Prompt((("user", "Where?"),)), params=SamplingParams(), cache=False
    )
    chunks = list(writer.stream("Where?"))
    answer = writer.said(chunks[-1]).text
    said = "".join(chunk.text for chunk in chunks)
    assert said == answer


@pytest.mark.parametrize(
    ("form", "answer"), [(None, "No"), ("one sentence", "No, he was born in Portsmouth.")]
)
def test_a_yes_or_no_is_told_whole_and_answered_short(form, answer):
    reply = "No, he was born in Portsmouth."
    graph = create_rag_graph(streamed_chat(reply), store(), reader=None, form=form).compile()
    question = {"question": "Was Brunel born in London?"}
    result = graph.invoke(question)
    assert result["answer"] == answer
    assert result["citations"], "the whole reply says which passage it rests on"
    parts = [chunk.text for chunk, _ in graph.stream(question, stream_mode="messages")]
    assert reply in ("".join(parts), parts[-1])
