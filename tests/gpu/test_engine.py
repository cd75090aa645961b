"""The engine on a GPU: scores of plain forward passes, samples of the CPU, in fp32 and in bf16."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.lm import Prompt, SamplingParams, TransformersLM  # noqa: E402
from tests.tiny_models import ADAPTERS, likelihood, save_adapter  # noqa: E402
from tests.unit.lm.conftest import ARCHITECTURES, build_model, build_tokenizer  # noqa: E402

pytestmark = pytest.mark.gpu

RULES = "The capital of France is Paris and the river is the Seine. Be brief."
QUESTIONS = ["Who wrote the play?", "Which river is it?", "Which river is it, and where does it end?"]
CONTINUATIONS = [" a poet", " the river Seine", " the river is the Seine and no other", " x"]
GREEDY = SamplingParams(max_tokens=12, temperature=0)
LIVELY = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, seed=3)


def ask(text):
    return Prompt((("system", RULES), ("user", text)))


PROMPTS = [ask(text) for text in QUESTIONS]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def plain(request, tokenizer):
    """A model on the CPU, on transformers' own attention."""
    return build_model(request.param, len(tokenizer))


def on(device, model, tokenizer, **options):
    return TransformersLM(copy.deepcopy(model).to(device), tokenizer, **options)


def oracle(model, tokenizer):
    return [[likelihood(model, tokenizer, prompt, text) for text in CONTINUATIONS] for prompt in PROMPTS]


def close(rows, wanted, gap):
    for row, want in zip(rows, wanted, strict=True):
        assert row == pytest.approx(want, abs=gap)


def test_scores_are_those_of_plain_forward_passes(device, plain, tokenizer):
    lm = on(device, plain, tokenizer)
    assert lm.model.device.type == torch.device(device).type
    first = lm.loglikelihood(PROMPTS, [CONTINUATIONS] * 3)
    close(first, oracle(copy.deepcopy(plain).to(device), tokenizer), 1e-3)
    close(first, oracle(plain, tokenizer), 2e-3)
    # Again from the memory, one by one, and in rows of their own.
    for prompt, row in zip(PROMPTS, first, strict=True):
        close(lm.loglikelihood([prompt], [CONTINUATIONS]), [row], 1e-3)
    small = on(device, plain, tokenizer, max_batch_tokens=1, cache_bytes=0)
    close(small.loglikelihood(PROMPTS, [CONTINUATIONS] * 3), first, 1e-3)


@pytest.mark.parametrize("params", [GREEDY, LIVELY], ids=["greedy", "drawn"])
def test_samples_with_shared_prefixes_are_the_cpus(device, plain, tokenizer, params):
    there, here = on(device, plain, tokenizer), on("cpu", plain, tokenizer)
    got, want = (lm.sample(PROMPTS, 4, params) for lm in (there, here))
    assert [[c.text for c in some] for some in got] == [[c.text for c in some] for some in want]
    for some, others in zip(got, want, strict=True):
        assert [c.logprob for c in some] == pytest.approx([c.logprob for c in others], abs=5e-3)
    # Each distinct token once, there as here.
    assert there.tokens_computed == here.tokens_computed < there.tokens_asked
    assert there.cache_bytes == here.cache_bytes > 0


def test_a_prompt_that_grows_pays_for_its_new_tokens(device, plain, tokenizer):
    lm = on(device, plain, tokenizer)
    lm.loglikelihood([PROMPTS[1]], [CONTINUATIONS])
    before = lm.tokens_computed
    grown = Prompt(PROMPTS[1].messages, " the river Seine")
    got = lm.sample([grown], 1, GREEDY)[0][0]
    assert lm.tokens_computed - before < 6 + got.tokens
    assert got.text == on("cpu", plain, tokenizer).sample([grown], 1, GREEDY)[0][0].text


def test_callers_of_several_threads_share_batches(device, tokenizer):
    model = build_model("llama", len(tokenizer))
    lm = on(device, model, tokenizer)
    gate = threading.Barrier(6)

    def call(number):
        gate.wait(60)
        prompt = ask(f"{QUESTIONS[number % 3]} Answer {number}.")
        said = [c.text for c in lm.sample([prompt], 2, LIVELY)[0]]
        return said, lm.loglikelihood([prompt], [CONTINUATIONS])[0]

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(call, range(6)))
    here = on("cpu", model, tokenizer)
    for number, (said, scores) in enumerate(results):
        prompt = ask(f"{QUESTIONS[number % 3]} Answer {number}.")
        assert said == [c.text for c in here.sample([prompt], 2, LIVELY)[0]]
        close([scores], here.loglikelihood([prompt], [CONTINUATIONS]), 2e-3)


def test_adapters_in_one_batch(device, tokenizer, tmp_path):
    pytest.importorskip("peft")
    base = build_model("llama", len(tokenizer))
    oracles = {None: copy.deepcopy(base).to(device)}
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        oracles[name] = save_adapter(tmp_path / name, base, seed, **config).to(device)
    lm = on(device, base, tokenizer, adapters={name: tmp_path / name for name in ADAPTERS})
    rows, adapters = [], lm._engine.adapters
    usual = adapters.on

    def watched(names, sizes):
        rows.append(len(set(names)))
        return usual(names, sizes)

    adapters.on = watched
    gate = threading.Barrier(4)

    def score(name):
        view = lm.with_adapter(name)
        gate.wait(60)
        return [view.loglikelihood(PROMPTS, [CONTINUATIONS] * 3) for _ in range(4)]

    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(oracles, pool.map(score, oracles), strict=True))
    assert max(rows) > 1
    for name, model in oracles.items():
        for scores in found[name]:
            close(scores, oracle(model, tokenizer), 2e-3)


@pytest.fixture(scope="module")
def packaged():
    """The packaged model on the CPU, plain, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    from agentprm.engine.tokenizing import load_tokenizer
    from agentprm.packaged import language_model_folder

    folder = language_model_folder()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), load_tokenizer(folder)


@pytest.mark.models
def test_the_packaged_model_in_fp32(device, packaged):
    model, tokenizer = packaged
    lm = on(device, model, tokenizer)
    close(lm.loglikelihood(PROMPTS, [CONTINUATIONS] * 3), oracle(model, tokenizer), 1e-2)
    here = on("cpu", model, tokenizer)
    got, want = (some.sample(PROMPTS, 2, GREEDY) for some in (lm, here))
    assert [[c.text for c in some] for some in got] == [[c.text for c in some] for some in want]


@pytest.mark.models
def test_the_packaged_model_in_bf16(device, packaged):
    """Half precision rounds; sharing a prefix rounds no more than a plain pass does."""
    model, tokenizer = packaged
    half = copy.deepcopy(model).to(device, torch.bfloat16)
    exact, rounded = (np.array(oracle(some, tokenizer)) for some in (model, copy.deepcopy(half)))
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in CONTINUATIONS]
    lm = TransformersLM(half, tokenizer)
    for _ in range(2):  # the second time from memory
        ours = np.array(lm.loglikelihood(PROMPTS, [CONTINUATIONS] * 3))
        assert (abs(ours - rounded) / tokens).max() < 0.5
        assert (abs(ours - exact) / tokens).mean() < 2 * (abs(rounded - exact) / tokens).mean() + 0.02
    said = lm.sample(PROMPTS, 3, SamplingParams(max_tokens=24, temperature=0.8, seed=1))
    assert all(c.text.strip() and c.logprob < 0 for some in said for c in some)
    assert lm.model.dtype == torch.bfloat16
