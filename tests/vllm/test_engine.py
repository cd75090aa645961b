"""`VllmLM` on the real engine, against plain transformers."""

import asyncio
import threading
import time

import pytest

from agentprm.budget import metered
from agentprm.engine.tokenizing import PromptText
from agentprm.errors import ContextLengthError
from agentprm.lm import Prompt, SamplingParams, VllmLM
from agentprm.rewards.base import RewardStep
from agentprm.rewards.served_reward import ServedLogRatio, ServedTokenLogits
from agentprm.rewards.templates import Dialogue, TurnSteps
from tests.unit.lm.toy_engine import ToyEngine, check_greedy, plain_score
from tests.vllm.conftest import ENGINE

pytestmark = pytest.mark.enable_socket

ASK = Prompt((("user", "What is the capital of France?"),), "The capital")
FACTS = " ".join(f"{i} comes before {i + 1}." for i in range(25))
LONG = Prompt((("system", "Be brief."), ("user", f"{FACTS} What is the capital of France?")))
CONTINUATIONS = [" of France is Paris.", " of France is Rome, not Paris as many would say."]
GREEDY = SamplingParams(max_tokens=16, temperature=0)


@pytest.fixture(scope="module")
def lm(folder):
    with VllmLM(folder, **ENGINE) as model:
        yield model


@pytest.fixture(scope="module")
def text(plain):
    return PromptText(plain[1])


async def test_log_likelihoods(lm, plain, text):
    prompts, some = (
        [ASK, LONG, LONG],
        [CONTINUATIONS, ["Yes", "No"], ["The capital is Paris.", "I do not know."]],
    )
    expected = [
        [plain_score(*plain, text.render(p), c) for c in row] for p, row in zip(prompts, some, strict=True)
    ]
    for _ in range(2):
        for found in (lm.loglikelihood(prompts, some), await lm.aloglikelihood(prompts, some)):
            for row, right in zip(found, expected, strict=True):
                assert row == pytest.approx(right, abs=1e-2)


def test_they_equal_those_of_the_transformers_backend(lm, folder):
    from agentprm.lm import TransformersLM

    local = TransformersLM(folder, dtype="float32", device="cpu")
    for prompt in (ASK, LONG):
        ours = local.loglikelihood([prompt], [CONTINUATIONS])[0]
        assert lm.loglikelihood([prompt], [CONTINUATIONS])[0] == pytest.approx(ours, abs=1e-2)
    assert lm.sample([ASK], 1, GREEDY)[0][0].text == local.sample([ASK], 1, GREEDY)[0][0].text


async def test_greedy(lm, plain):
    await check_greedy(lm, *plain, [ASK, LONG])


def test_samples(lm):
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=5, stop=(".",))
    first = lm.sample([ASK, LONG], 4, params)
    assert first == lm.sample([ASK, LONG], 4, params)
    assert len({c.text for row in first for c in row}) > 2
    assert all("." not in c.text for row in first for c in row)


def test_the_cache_is_read(lm):
    assert lm.scores_from_cache
    fresh = Prompt((("user", f"A new text. {FACTS} Is that so?"),))
    with metered() as meter:
        lm.sample([fresh], 8, SamplingParams(max_tokens=1))
    prompt, once = meter.usage["prompt_tokens"], meter.usage["computed_tokens"]
    assert prompt > 150
    # Eight samples: the prompt once, and of each the rest after the last whole block.
    assert once <= prompt + 8 * ENGINE["block_size"]
    for some in (["Yes", "No"], ["It is so.", "It is not so at all."]):
        with metered() as meter:
            lm.loglikelihood([fresh], [some])
        assert meter.usage["computed_tokens"] <= 2 * (ENGINE["block_size"] + 10)
    assert lm.tokens_computed < lm.tokens_asked


def test_choices(lm, plain, text):
    cities = [" of France is Rome", " of France is Paris", " of Spain is Madrid"]
    toy = ToyEngine(*plain)
    for prompt in (ASK, LONG):
        ids = plain[1](text.render(prompt), add_special_tokens=False)["input_ids"]
        expected = cities.index(toy.complete(ids, 99, 0, choices=cities)[2])
        assert lm.choose([prompt, prompt], cities) == [expected] * 2


async def test_cancelling_frees_the_engine(lm):
    long = SamplingParams(max_tokens=600, temperature=1.5)
    task = asyncio.create_task(lm.asample([LONG], 8, long))
    await asyncio.sleep(1.0)
    start = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await lm.asample([ASK], 1, SamplingParams(max_tokens=2))
    assert time.perf_counter() - start < 30  # the eight samples would have taken minutes
    assert not lm._engine.engine.output_processor.has_unfinished_requests()


def test_threads_share_the_engine(lm):
    results = {}

    def ask(number):
        results[number] = lm.sample([ASK], 1, GREEDY)[0][0].text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len(set(results.values())) == 1


def test_the_reasoning_graph_gives_the_same(lm, folder):
    from agentprm.graphs import create_reasoning_graph
    from agentprm.lm import TransformersLM
    from tests.unit.world import QUESTION, store

    results = []
    for model in (TransformersLM(folder, dtype="float32", device="cpu"), lm):
        graph = create_reasoning_graph(model, store(), candidates=2, max_steps=2, temperature=0)
        results.append(graph.compile().invoke({"question": QUESTION}))
    ours, theirs = results
    assert any(step["score"] is not None for step in ours["prm_steps"])
    assert ours["answer"] == theirs["answer"]
    for a, b in zip(ours["prm_steps"], theirs["prm_steps"], strict=True):
        for key in ("id", "parent_id", "query", "doc_ids", "thought", "final_answer", "status"):
            assert a[key] == b[key]
        assert a["score"] == pytest.approx(b["score"], abs=1e-2)
    assert ours["prm_usage"]["model_calls"] == theirs["prm_usage"]["model_calls"]


def test_too_long(lm):
    with pytest.raises(ContextLengthError):
        lm.sample([Prompt((("user", "play " * 2100),))])


def steps(*thoughts):
    return [RewardStep(query="", passages=[], thought=t, final_answer=None) for t in thoughts]


def test_rewards_from_log_probabilities(lm, plain):
    model, tokenizer = plain
    toy = ToyEngine(model, tokenizer)
    path = steps("France is in Europe.", "Its capital is Paris.", "So the answer is Paris.")
    template = TurnSteps(verdict="yes")
    reward = ServedTokenLogits(lm, tokenizer, template=template, good="yes", bad="no")
    found = reward.score("What is the capital of France?", [path, path[:2]])
    assert found[1] == found[0][:2]
    texts = [step["thought"] for step in path]
    for k, score in enumerate(found[0]):
        row = toy.logprobs(template.ids(tokenizer, "What is the capital of France?", texts[: k + 1]))[-1]
        good, bad = (float(row[word]) for word in reward.words)
        assert score == pytest.approx(1 / (1 + 2.718281828 ** (bad - good)), abs=1e-2)
    ratio = ServedLogRatio(lm, tokenizer=tokenizer, beta=1.0)
    found = ratio.score("What is the capital of France?", [path])[0]
    template = Dialogue()
    ids = [template.head(tokenizer, "What is the capital of France?")]
    ids += [template.ids(tokenizer, "What is the capital of France?", texts[: k + 1]) for k in range(3)]
    totals = []
    for row in ids:  # each text by itself: its last tokens may differ where another step follows
        scores = toy.logprobs(row)
        totals.append(sum(float(scores[i - 1, row[i]]) for i in range(len(ids[0]), len(row))))
    for k in range(3):
        assert found[k] == pytest.approx(totals[k + 1] - totals[k], abs=2e-2)
