"""`ServerLM` and `ChatLM` on the real server, against plain transformers."""

import asyncio
import time
import urllib.request

import pytest

from agentprm.budget import metered
from agentprm.engine.tokenizing import PromptText
from agentprm.lm import ChatLM, Prompt, SamplingParams, as_language_model
from tests.unit.lm.toy_engine import ToyEngine, check_greedy, plain_score
from tests.vllm.conftest import ENGINE, serving

pytestmark = pytest.mark.enable_socket

ASK = Prompt((("user", "What is the capital of France?"),), "The capital")
FACTS = " ".join(f"{i} comes before {i + 1}." for i in range(25))
LONG = Prompt((("system", "Be brief."), ("user", f"{FACTS} What is the capital of France?")))
GREEDY = SamplingParams(max_tokens=16, temperature=0)


@pytest.fixture(scope="module")
def root(folder):
    with serving(folder, "--served-model-name", "smol", "--enable-prompt-tokens-details") as address:
        yield address


@pytest.fixture(scope="module")
def lm(root):
    return as_language_model(root + "/v1")


@pytest.fixture(scope="module")
def text(plain):
    return PromptText(plain[1])


def counter(root, name):
    with urllib.request.urlopen(root + "/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_what_it_finds(lm):
    assert (lm.model, lm.max_context) == ("smol", ENGINE["max_model_len"])
    assert all(vars(lm.capabilities).values())


async def test_log_likelihoods(lm, plain, text):
    prompts = [ASK, LONG, LONG]
    some = [
        [" of France is Paris.", " of France is Rome."],
        ["Yes", "No"],
        ["The capital is Paris.", "I see."],
    ]
    expected = [
        [plain_score(*plain, text.render(p), c) for c in row] for p, row in zip(prompts, some, strict=True)
    ]
    for found in (lm.loglikelihood(prompts, some), await lm.aloglikelihood(prompts, some)):
        for row, right in zip(found, expected, strict=True):
            assert row == pytest.approx(right, abs=1e-2)


async def test_greedy(lm, plain):
    await check_greedy(lm, *plain, [ASK, LONG])


def test_samples_and_the_prefix_cache(lm, root):
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=5, stop=(".",))
    first = lm.sample([ASK, LONG], 4, params)
    assert first == lm.sample([ASK, LONG], 4, params)
    assert len({c.text for row in first for c in row}) > 2
    before = counter(root, "vllm:prefix_cache_hits_total")
    with metered() as meter:
        lm.sample([LONG], 4, params)
    usage = meter.usage
    assert usage["computed_tokens"] < usage["prompt_tokens"] / 2
    assert counter(root, "vllm:prefix_cache_hits_total") - before > 3 * usage["prompt_tokens"] / 2
    with metered() as meter:
        lm.loglikelihood([LONG], [["Yes", "No"]])
    assert meter.usage["computed_tokens"] <= ENGINE["block_size"] + 8


def test_choices(lm, plain, text):
    cities = [" of France is Rome", " of France is Paris", " of Spain is Madrid"]
    toy = ToyEngine(*plain)
    for prompt in (ASK, LONG):
        ids = plain[1](text.render(prompt), add_special_tokens=False)["input_ids"]
        expected = cities.index(toy.complete(ids, 99, 0, choices=cities)[2])
        assert lm.choose([prompt, prompt], cities) == [expected] * 2


async def test_cancelling_frees_the_server(lm, root):
    task = asyncio.create_task(lm.asample([LONG], 8, SamplingParams(max_tokens=600, temperature=1.5)))
    await asyncio.sleep(1.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    until = time.monotonic() + 30
    while await asyncio.to_thread(counter, root, "vllm:num_requests_running"):
        assert time.monotonic() < until
        await asyncio.sleep(0.2)


async def test_the_chat_model_of_langchain(root, lm):
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="smol",
        base_url=root + "/v1",
        api_key="none",
        logprobs=True,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )
    chat = ChatLM(model, prefill=True)
    expected = lm.sample([ASK], 1, GREEDY)[0][0]
    for _ in range(2):
        with metered() as meter:
            ((sync,),) = chat.sample([ASK], 1, GREEDY)
        ((found,),) = await chat.asample([ASK], 1, GREEDY)
        assert sync == found
        assert found.text.strip() == expected.text.strip()
        assert found.logprob == pytest.approx(expected.logprob, abs=1e-2)
    assert meter.usage["completion_tokens"] == expected.tokens
    assert 0 < meter.usage["computed_tokens"] <= meter.usage["prompt_tokens"] + expected.tokens
