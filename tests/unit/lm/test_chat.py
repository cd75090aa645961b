"""LangChain chat models as language models: what reaches the model, and what comes back."""

import asyncio
import json
import threading
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import ConfigurableField, RunnableLambda

from agentprm.budget import metered
from agentprm.errors import CapabilityError, ConfigurationError, TransientModelError
from agentprm.lm import ChatLM, LanguageModel, Prompt, SamplingParams, as_language_model, require
from agentprm.lm.chat import estimated_tokens
from agentprm.lm.retries import Retries
from tests.unit.lm.toy_engine import Loopback

ASK = Prompt((("system", "be brief"), ("user", "hi")))


class Recorder(BaseChatModel):
    """Answers with what it was asked, as JSON."""

    log: list[Any] = []

    @property
    def _llm_type(self):
        return "recorder"

    def settings(self):
        return {}

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        seen = {
            "messages": [(m.type, m.content) for m in messages],
            "stop": [text[::-1] for text in stop or ()],  # reversed, or it would stop here
            "kwargs": kwargs,
            "tags": run_manager.tags,
            **self.settings(),
        }
        self.log.append(seen)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=json.dumps(seen)))])


class Tunable(Recorder):
    temperature: float | None = None
    max_output_tokens: int | None = None
    top_p: float | None = None
    seed: int | None = None

    def settings(self):
        return {"settings": (self.temperature, self.max_output_tokens, self.top_p, self.seed)}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    """Waits of a hundredth of the usual."""
    wait = Retries._wait
    monkeypatch.setattr(Retries, "_wait", lambda *arguments: wait(*arguments) / 100)


def answers(result):
    return [[json.loads(c.text) for c in some] for some in result]


async def both(lm, *arguments):
    return lm.sample(*arguments), await lm.asample(*arguments)


async def test_unknown_arguments_reach_no_model():
    lm = ChatLM(Recorder())
    params = SamplingParams(temperature=0.3, max_tokens=9, top_p=0.5, seed=1, stop=("@#",))
    for result in await both(lm, [ASK], 2, params):
        assert [len(some) for some in result] == [2]
        for seen in answers(result)[0]:
            assert seen["messages"] == [["system", "be brief"], ["human", "hi"]]
            assert seen["stop"] == ["#@"]
            assert seen["kwargs"] == {}
            assert "nostream" in seen["tags"]


async def test_declared_settings_reach_the_model():
    model = Tunable(temperature=0.1)
    lm = ChatLM(model)
    params = SamplingParams(temperature=0.3, max_tokens=9, top_p=0.5, seed=7)
    for result in await both(lm, [ASK, ASK], 3, params):
        for some in answers(result):
            assert [seen["settings"] for seen in some] == [[0.3, 9, 0.5, 7 + i] for i in range(3)]
    free = answers(lm.sample([ASK], 3, SamplingParams()))[0]
    assert len({seen["settings"][3] for seen in free}) == 3
    assert answers(lm.sample([ASK], 1, SamplingParams()))[0][0]["settings"] == [0.7, 128, None, None]
    assert (model.temperature, model.seed) == (0.1, None)


def test_openai_alias():
    openai = pytest.importorskip("langchain_openai")
    lm = ChatLM(openai.ChatOpenAI(model="m", api_key="k", base_url="http://localhost:1"))
    params = SamplingParams(max_tokens=5, temperature=0.2, seed=3, top_p=0.9)
    requests = lm._requests([ASK], 2, params, {})
    assert len(requests) == 2
    sent = [r.model._request(r.messages, {}, r.model._settings(set(), False)) for r in requests]
    payloads = [request.model._get_request_payload(request.messages, stop=["x"]) for request in sent]
    assert [p["seed"] for p in payloads] == [3, 4]
    assert {p["max_completion_tokens"] for p in payloads} == {5}
    assert {(p["temperature"], p["top_p"]) for p in payloads} == {(0.2, 0.9)}


async def test_order_and_concurrency():
    running, most, lock = 0, 0, threading.Lock()

    class Slow(Recorder):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            nonlocal running, most
            import time

            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content=messages[-1].content))])

    prompts = [Prompt((("user", str(i)),)) for i in range(6)]
    for result in await both(ChatLM(Slow(), max_concurrency=3), prompts, 2, SamplingParams()):
        assert [[c.text for c in some] for some in result] == [[str(i)] * 2 for i in range(6)]
    assert 1 < most <= 3


async def test_stop_strings_are_enforced_here_too():
    lm = ChatLM(FakeListChatModel(responses=["Search: rivers\nthen"]))
    for result in await both(lm, [ASK], 1, SamplingParams(stop=("\nthen", "\n"))):
        assert result[0][0].text == "Search: rivers"
        assert result[0][0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "MAX_TOKENS"}, "length"),
        ({"stop_reason": "end_turn"}, "stop"),
        ({"done_reason": "length"}, "length"),
        ({}, "stop"),
    ],
)
def test_finish_reason(metadata, reason):
    model = FakeMessagesListChatModel(responses=[AIMessage(content="x", response_metadata=metadata)])
    assert ChatLM(model).sample([ASK])[0][0].finish_reason == reason


def test_content_blocks_and_empty_completions():
    blocks = [
        {"type": "reasoning", "reasoning": "hm"},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ]
    model = FakeMessagesListChatModel(responses=[AIMessage(content=blocks), AIMessage(content="")])
    first, second = ChatLM(model, max_concurrency=1).sample([ASK], 2)[0]
    assert first.text == "ab"
    assert (second.text, second.finish_reason, second.tokens) == ("", "stop", 0)


def test_half_a_character_of_a_model():
    report = {"content": [{"token": "Par\ud83d", "logprob": -1.0}]}
    message = AIMessage(content="Par\ud83d", response_metadata={"logprobs": report})
    (done,) = ChatLM(FakeMessagesListChatModel(responses=[message])).sample(
        [ASK], 1, SamplingParams(top_logprobs=1)
    )[0]
    assert (done.text, done.token_logprobs[0].token) == ("Par\ufffd", "Par\ufffd")


def test_usage_reported():
    usage = {
        "input_tokens": 100,
        "output_tokens": 7,
        "total_tokens": 107,
        "input_token_details": {"cache_read": 60},
    }
    model = FakeMessagesListChatModel(responses=[AIMessage(content="x", usage_metadata=usage)])
    with metered() as meter:
        completion = ChatLM(model).sample([ASK], 2)[0][1]
    assert completion.tokens == 7
    spent = meter.usage
    assert (spent["model_calls"], spent["prompt_tokens"], spent["completion_tokens"]) == (2, 200, 14)
    assert spent["computed_tokens"] == 2 * (100 - 60 + 7)


@pytest.mark.parametrize("prefix", ["", "Search: who"])
def test_the_estimate_is_langchains(prefix):
    turns = (
        ("system", "Be brief."),
        ("user", "Who built it, and when?"),
        ("assistant", "Ann, 1859, I think"),
    )
    for messages in (turns, turns[1:2], (("user", ""),)):
        asked = [*messages, ("assistant", prefix)] if prefix else messages
        assert estimated_tokens(Prompt(messages, prefix)) == count_tokens_approximately(list(asked))


async def test_usage_estimated():
    lm = ChatLM(FakeListChatModel(responses=["12345"]))
    with metered() as meter:
        await lm.asample([ASK])
    assert meter.usage["completion_tokens"] == 2
    assert meter.usage["prompt_tokens"] > 4
    assert lm.sample_calls(3, 2) == 6


async def test_prefix():
    prompt = Prompt((("user", "hi"),), "Search:")
    lm = ChatLM(Recorder())
    with pytest.raises(CapabilityError, match="prefill=True"):
        lm.sample([prompt])
    with pytest.raises(CapabilityError):
        await lm.asample([prompt])
    seen = answers(ChatLM(Recorder(), prefill=True).sample([prompt]))[0][0]
    assert seen["messages"][-1] == ["ai", "Search:"]
    with pytest.raises(CapabilityError):
        lm.loglikelihood([ASK], [["x"]])
    with pytest.raises(CapabilityError, match="loglikelihood"):
        require(lm, "loglikelihood", "QueryLikelihoodReranker")


async def test_errors():
    class RateLimitError(Exception):
        status_code = 429

    class BadRequestError(Exception):
        status_code = 400

    def failing(error):
        class Failing(Recorder):
            def _generate(self, *args, **kwargs):
                raise error

        return ChatLM(Failing())

    for error in (RateLimitError("slow down"), TimeoutError(), ConnectionResetError()):
        with pytest.raises(TransientModelError):
            failing(error).sample([ASK])
        with pytest.raises(TransientModelError):
            await failing(error).asample([ASK], 2)
    with pytest.raises(BadRequestError):
        failing(BadRequestError("no")).sample([ASK])


async def test_a_failure_does_not_hide_what_the_others_cost():
    class Flaky(Recorder):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            if messages[-1].content == "fail":
                raise ConnectionResetError
            return super()._generate(messages, stop, run_manager, **kwargs)

    prompts = [ASK, Prompt((("user", "fail"),)), ASK]
    for lm in (ChatLM(Flaky()), ChatLM(type("Seeded", (Flaky, Tunable), {})())):
        with metered() as meter:
            with pytest.raises(TransientModelError):
                lm.sample(prompts, 2)
            with pytest.raises(TransientModelError):
                await lm.asample(prompts, 2)
        assert meter.usage["model_calls"] == 8


async def test_only_what_may_pass_is_tried_again():
    class Error(Exception):
        def __init__(self, status):
            self.status_code = status

    class Flaky(Recorder):
        faults: list[Any] = []
        calls: int = 0

        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            self.calls += 1
            if self.faults:
                raise self.faults.pop(0)
            return super()._generate(messages, stop, run_manager, **kwargs)

    for fault in (Error(429), Error(503), TimeoutError(), ConnectionResetError()):
        for run in (lambda lm: lm.sample([ASK]), lambda lm: asyncio.run(lm.asample([ASK]))):
            model = Flaky(faults=[fault, fault])
            result = await asyncio.to_thread(run, ChatLM(model))
            assert (len(result[0]), model.calls) == (1, 3)
            model = Flaky(faults=[fault, fault])
            with pytest.raises(TransientModelError, match="2 times"):
                await asyncio.to_thread(run, ChatLM(model, max_retries=1))
            assert model.calls == 2
    for fault in (Error(400), Error(401), Error(404), ValueError("no")):
        model = Flaky(faults=[fault])
        with pytest.raises(type(fault)):
            ChatLM(model).sample([ASK])
        assert model.calls == 1


async def test_the_limit_holds_over_calls():
    running, most, lock = 0, 0, threading.Lock()

    class Slow(Recorder):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            nonlocal running, most
            import time

            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1
            return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    lm = ChatLM(Slow(), max_concurrency=2)
    threads = [threading.Thread(target=lm.sample, args=([ASK], 4)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert most == 2
    most = 0
    await asyncio.gather(*(lm.asample([ASK], 4) for _ in range(3)))
    assert most == 2


def completion(content, tokens=2, **more):
    """A reply of OpenAI's chat API."""
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": content},
        **more,
    }
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    usage["prompt_tokens_details"] = {"cached_tokens": 4}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


@pytest.mark.enable_socket
async def test_openai_over_http():
    openai = pytest.importorskip("langchain_openai")
    scores = {
        "content": [{"token": t, "logprob": p, "top_logprobs": []} for t, p in (("a", -0.5), ("b", -0.25))]
    }

    def answer(method, path, body):
        assert path == "/v1/chat/completions"
        return 200, completion("ab", logprobs=scores if body.get("logprobs") else None)

    with Loopback(answer) as server:
        options = {"model": "m", "api_key": "k", "base_url": server.url, "max_retries": 0}
        lm = ChatLM(openai.ChatOpenAI(**options))
        with_scores = ChatLM(openai.ChatOpenAI(**options, logprobs=True))
        for result in await both(lm, [ASK], 2, SamplingParams(seed=3, max_tokens=2)):
            assert [(c.text, c.tokens, c.finish_reason, c.logprob) for c in result[0]] == [
                ("ab", 2, "length", None)
            ] * 2
        assert sorted(body["seed"] for body in server.bodies("completions")) == [3, 3, 4, 4]
        for result in await both(with_scores, [ASK], 1, SamplingParams()):
            assert result[0][0].logprob == -0.75
        for fault in (429, 500, "reset", (503, {"Retry-After": "1"})):
            server.faults.append(("completions", fault))
            with metered() as meter:
                assert lm.sample([ASK])[0][0].text == "ab"
            assert (meter.usage["model_calls"], meter.usage["prompt_tokens"]) == (1, 9)
            assert meter.usage["computed_tokens"] == 9 - 4 + 2
            server.faults.append(("completions", fault))
            assert (await lm.asample([ASK]))[0][0].text == "ab"
        for fault in (400, 401, 404):
            server.log.clear()
            server.faults.append(("completions", fault))
            with pytest.raises(Exception, match=str(fault)):
                lm.sample([ASK])
            assert len(server.log) == 1
        server.faults.append(("completions", "hang"))
        task = asyncio.create_task(lm.asample([ASK]))
        await server.hung_up_on(task)


@pytest.mark.parametrize(
    "report", [{"content": None}, {"content": [{"token": "a"}]}, {"content": [3]}, [], "x"]
)
def test_log_probabilities_that_are_not_there(report):
    message = AIMessage("x", response_metadata={"logprobs": report})
    assert ChatLM(FakeMessagesListChatModel(responses=[message])).sample([ASK])[0][0].logprob is None


def test_bad_arguments():
    model = FakeListChatModel(responses=["x"])
    for wrong in (RunnableLambda(str), model | StrOutputParser(), "model"):
        with pytest.raises(ConfigurationError, match="BaseChatModel"):
            ChatLM(wrong)
    with pytest.raises(ConfigurationError):
        ChatLM(model, max_concurrency=0)
    with pytest.raises(ConfigurationError):
        ChatLM(model, max_retries=-1)
    with pytest.raises(ConfigurationError):
        ChatLM(model).sample([ASK], 0)
    assert ChatLM(model).sample([], 2) == []


WRAPPED = {
    "bound": lambda m: m.bind(stop=["@#"]),
    "with retries": lambda m: m.with_retry(stop_after_attempt=2),
    "with fallbacks": lambda m: m.with_fallbacks([FakeListChatModel(responses=["other"])]),
    "configurable": lambda m: m.configurable_fields(top_p=ConfigurableField(id="top_p")),
    "alternatives": lambda m: m.configurable_alternatives(ConfigurableField(id="which"), other=m),
    "all of it": lambda m: (
        m.configurable_fields(top_p=ConfigurableField(id="top_p"))
        .bind(stop=["@#"])
        .with_retry()
        .with_fallbacks([m.bind(stop=["@#"])])
        .with_config(tags=["mine"])
    ),
}


@pytest.mark.parametrize("wrap", WRAPPED)
async def test_models_in_wrappings_are_chat_models(wrap):
    lm = as_language_model(WRAPPED[wrap](Tunable()))
    assert isinstance(lm, ChatLM)
    for result in await both(lm, [ASK], 2, SamplingParams(temperature=0.3, max_tokens=9, top_p=0.5, seed=7)):
        seen = answers(result)[0]
        assert [row["settings"][:2] + row["settings"][3:] for row in seen] == [[0.3, 9, 7], [0.3, 9, 8]]
        assert ("#@" in seen[0]["stop"]) == (wrap in ("bound", "all of it"))
        assert "nostream" in seen[0]["tags"]


def test_a_fallback_answers_for_a_model_that_fails():
    class Broken(Recorder):
        def _generate(self, *args, **kwargs):
            raise LookupError("gone")

    lm = as_language_model(Broken().with_fallbacks([FakeListChatModel(responses=["other"])]))
    assert lm.sample([ASK])[0][0].text == "other"


def test_models_by_name():
    pytest.importorskip("langchain_ollama")
    lm = as_language_model("ollama:llama3.2")
    assert lm.model.model == "llama3.2"
    for name in ("nobody:model", "ollama:"):
        with pytest.raises(ConfigurationError):
            as_language_model(name)


def test_as_language_model():
    model = FakeListChatModel(responses=["x"])
    lm = as_language_model(model)
    assert isinstance(lm, ChatLM)
    assert isinstance(lm, LanguageModel)
    assert as_language_model(lm) is lm
    for wrong in (3, None, RunnableLambda(str)):
        with pytest.raises(ConfigurationError):
            as_language_model(wrong)
    with pytest.raises(ConfigurationError):
        as_language_model("/no/such/folder")
