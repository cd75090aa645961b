"""`VllmLM` on a module that behaves like vLLM; the real engine is tested in `tests/vllm`."""

import asyncio
import json
import subprocess
import sys

import pytest

from agentprm.budget import metered
from agentprm.engine.tokenizing import PromptText
from agentprm.errors import ConfigurationError, ContextLengthError, MissingDependencyError, ModelServerError
from agentprm.lm import Prompt, SamplingParams, VllmLM, as_language_model
from tests.unit.lm import toy_engine
from tests.unit.lm.toy_engine import ToyEngine, plain_score, vllm_module

ASK = Prompt((("system", "Be brief."), ("user", "Who wrote the play?")))
LONG = Prompt((("user", "The capital of France is Paris and the river is the Seine. " * 3),), "The")
GREEDY = SamplingParams(max_tokens=8, temperature=0)


@pytest.fixture
def toy(models, tokenizer):
    return ToyEngine(models["llama"], tokenizer)


@pytest.fixture
def vllm(monkeypatch, toy):
    with vllm_module(monkeypatch, toy) as module:
        yield module


@pytest.fixture(params=["made here", "LLM"])
def lm(request, vllm):
    if request.param == "made here":
        return VllmLM("some/model")
    return as_language_model(vllm.LLM())


def rendered(tokenizer, prompt):
    return PromptText(tokenizer).render(prompt)


async def test_it_computes_what_the_model_computes(lm, toy, tokenizer):
    assert isinstance(lm, VllmLM)
    assert lm.scores_from_cache
    assert lm.max_context == 512
    prompts = [ASK, LONG, LONG]
    continuations = [["a poet", " from the north."], ["7", "8"], [" written" * 4, "n't"]]
    expected = [
        [plain_score(toy.model, tokenizer, rendered(tokenizer, p), c) for c in some]
        for p, some in zip(prompts, continuations, strict=True)
    ]
    # The second time the continuation of three blocks is in the cache itself.
    for _ in range(2):
        for found in (
            lm.loglikelihood(prompts, continuations),
            await lm.aloglikelihood(prompts, continuations),
        ):
            for row, plain in zip(found, expected, strict=True):
                assert row == pytest.approx(plain, abs=1e-4)
    for found in (lm.sample([ASK, LONG], 2, GREEDY), await lm.asample([ASK, LONG], 2, GREEDY)):
        for prompt, row in zip([ASK, LONG], found, strict=True):
            ids = tokenizer(rendered(tokenizer, prompt), add_special_tokens=False)["input_ids"]
            tokens, scores, text, reason = toy.complete(ids, 8, temperature=0)
            assert [(c.text, c.tokens, c.finish_reason) for c in row] == [(text, len(tokens), reason)] * 2
            assert row[0].logprob == pytest.approx(sum(scores), abs=1e-4)


async def test_samples(lm):
    params = SamplingParams(max_tokens=6, seed=3)
    first = lm.sample([ASK, LONG, ASK], 3, params)
    assert first == await lm.asample([ASK, LONG, ASK], 3, params)
    assert first[0] == first[2]
    assert first[1] == lm.sample([LONG], 3, params)[0]
    assert len({c.text for c in first[0]}) > 1
    free = lm.sample([ASK, ASK], 2, SamplingParams(max_tokens=12))
    assert len({c.text for row in free for c in row}) > 1
    assert lm.sample([], 2) == []


def test_costs(lm):
    lm.loglikelihood([LONG], [["7", "8"]])
    with metered() as meter:
        lm.loglikelihood([LONG], [["7", "8"]])
    assert meter.usage["computed_tokens"] <= toy_engine.BLOCK + 1
    with metered() as meter:
        # Two continuations of a prompt that is in the cache: their tokens and the rest of a block.
        lm.loglikelihood([LONG], [[" is", " was not"]])
    assert 2 < meter.usage["computed_tokens"] <= 2 * (toy_engine.BLOCK + 4)
    with metered() as meter:
        (row,) = lm.sample([LONG], 4, SamplingParams(max_tokens=5))
    new = sum(c.tokens for c in row)
    assert (meter.usage["model_calls"], meter.usage["completion_tokens"]) == (1, new)
    assert meter.usage["computed_tokens"] <= 4 * toy_engine.BLOCK + new
    assert lm.tokens_computed < lm.tokens_asked
    assert lm.count_tokens(["a poet"])[0] > 1


async def test_choices(lm, toy, tokenizer):
    choices = [" Paris", " the Seine", " the north"]
    ids = tokenizer(rendered(tokenizer, LONG), add_special_tokens=False)["input_ids"]
    expected = choices.index(toy.complete(ids, 50, 0, choices=choices)[2])
    assert lm.choose([LONG, LONG], choices) == [expected] * 2
    assert await lm.achoose([LONG], choices) == [expected]
    with pytest.raises(ConfigurationError, match="distinct"):
        lm.choose([LONG], ["a", "a"])


@pytest.mark.parametrize("change", ["numbers differ", "nothing cached"])
def test_the_cache_is_not_read_where_it_gives_other_numbers(monkeypatch, vllm, toy, tokenizer, change):
    real = toy_engine.sampled

    def other(engine, ids, p):
        output = real(engine, ids, p)
        if change == "nothing cached":
            output.num_cached_tokens = 0
            return real(
                engine, ids, toy_engine.SamplingParams(**{**vars(p), "skip_reading_prefix_cache": True})
            )
        if output.prompt_logprobs and output.num_cached_tokens:
            for row in output.prompt_logprobs[1:]:
                for entry in row.values():
                    entry.logprob -= 1.0
        return output

    monkeypatch.setattr(toy_engine, "sampled", other)
    lm = VllmLM("some/model")
    assert not lm.scores_from_cache
    expected = plain_score(toy.model, tokenizer, rendered(tokenizer, LONG), " is it")
    for _ in range(2):
        assert lm.loglikelihood([LONG], [[" is it"]])[0][0] == pytest.approx(expected, abs=1e-4)


async def test_cancelling_ends_the_requests(vllm):
    lm = VllmLM("some/model")
    vllm.slow = 30.0
    task = asyncio.create_task(lm.asample([ASK, LONG], 2))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if len(vllm.aborted) == 4:
            break
        await asyncio.sleep(0.01)
    assert len(vllm.aborted) == 4


def test_too_long(vllm):
    lm = VllmLM("some/model")
    long = Prompt((("user", "play " * 600),))
    with pytest.raises(ContextLengthError, match="truncate_left"):
        lm.sample([ASK, long])
    cutting = VllmLM("some/model", on_overflow="truncate_left")
    assert cutting.sample([long], 1, GREEDY)[0][0].tokens
    assert len(cutting.loglikelihood([long], [["a b c", "7"]])[0]) == 2


async def test_an_engine_made_inside_a_running_loop(vllm):
    """vLLM's engine answers on the loop that it is made in; here that loop waits for the answer."""
    lm = VllmLM("some/model")
    assert lm.scores_from_cache
    assert lm.sample([ASK], 1, GREEDY) == await lm.asample([ASK], 1, GREEDY)


def test_engines_and_options(vllm):
    with VllmLM("some/model", max_model_len=99) as lm:
        assert vllm.started == [("some/model", {"max_model_len": 99})]
        assert lm.sample([ASK], 1, GREEDY)
        assert not vllm.stopped
    assert len(vllm.stopped) == 1
    lm.close()
    passed = VllmLM(vllm.LLM())
    passed.close()
    assert len(vllm.stopped) == 1
    with pytest.raises(ConfigurationError, match="max_model_len"):
        VllmLM(vllm.LLM(), max_model_len=99)
    with pytest.raises(ConfigurationError, match="nonsense"):
        VllmLM("some/model", nonsense=1)
    with pytest.raises(ConfigurationError, match="cannot serve 'broken'"):
        VllmLM("broken")
    for wrong in (3, sys.modules["vllm.v1.engine.async_llm"].AsyncLLM()):
        with pytest.raises(ConfigurationError, match=r"name, a folder or a vllm\.LLM"):
            VllmLM(wrong)
    with pytest.raises(ConfigurationError, match="on_overflow"):
        VllmLM("some/model", on_overflow="cut")


def test_failures_of_the_engine(vllm, monkeypatch):
    lm = VllmLM("some/model")

    class EngineDeadError(Exception):
        __module__ = "vllm.v1.engine.exceptions"

    def fail(error):
        def sampled(engine, ids, p):
            raise error

        monkeypatch.setattr(toy_engine, "sampled", sampled)

    fail(EngineDeadError("dead"))
    with pytest.raises(ModelServerError, match="make a new one"):
        lm.sample([ASK])
    fail(ValueError("bad value"))
    with pytest.raises(ModelServerError, match="bad value"):
        lm.sample([ASK])
    fail(KeyError("a bug"))
    with pytest.raises(KeyError):
        lm.sample([ASK])


def test_an_aborted_completion_is_an_error(vllm, monkeypatch):
    real = toy_engine.sampled

    def aborted(engine, ids, p):
        output = real(engine, ids, p)
        output.outputs[0].finish_reason = "abort"
        return output

    lm = VllmLM("some/model")
    monkeypatch.setattr(toy_engine, "sampled", aborted)
    with pytest.raises(ModelServerError, match="abort"):
        lm.sample([ASK], 1, GREEDY)


def test_without_vllm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingDependencyError, match=r"agentprm\[vllm\]"):
        VllmLM("some/model")


def test_importing_it_imports_no_vllm():
    code = "import sys, agentprm.lm.vllm, agentprm.lm.server; assert not {'vllm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def save_config(folder, **more):
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 12, "lora_alpha": 8, "target_modules": ["q_proj"], **more}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").touch()
    return folder


@pytest.mark.parametrize("made_here", [True, False])
async def test_adapters(made_here, vllm, toy, models, tokenizer, tmp_path):
    folders = {name: save_config(tmp_path / name) for name in ("planner", "reader")}
    for name, architecture in (("planner", "qwen2"), ("reader", "qwen3")):
        toy.adapted[str(folders[name])] = ToyEngine(models[architecture], tokenizer)
    engine = "some/model" if made_here else vllm.LLM(enable_lora=True)
    lm = VllmLM(engine, adapters=folders)
    if made_here:
        assert vllm.started == [("some/model", {"enable_lora": True, "max_loras": 2, "max_lora_rank": 16})]
    assert (lm.adapters, lm.adapter) == (("planner", "reader"), None)
    for name, model in ((None, "llama"), ("planner", "qwen2"), ("reader", "qwen3")):
        view = lm.with_adapter(name)
        expected = plain_score(models[model], tokenizer, rendered(tokenizer, ASK), " a poet")
        assert view.loglikelihood([ASK], [[" a poet"]])[0] == [pytest.approx(expected, abs=1e-4)]
        assert await view.asample([ASK], 1, GREEDY) == view.sample([ASK], 1, GREEDY)
        assert view.choose([ASK], ["a", "b"]) == lm.with_adapter(name).choose([ASK], ["a", "b"])
    assert lm.tokens_asked == view.tokens_asked
    with pytest.raises(ConfigurationError, match="no adapter 'critic'; it has planner, reader"):
        lm.with_adapter("critic")


def test_adapters_that_vllm_cannot_use(vllm, tmp_path):
    good = save_config(tmp_path / "good")
    with pytest.raises(ConfigurationError, match="enable_lora=True, max_loras=1 and max_lora_rank=12"):
        VllmLM(vllm.LLM(), adapters={"planner": good})
    for change, message in (({"use_dora": True}, "use_dora"), ({"r": "a"}, "its ranks are")):
        with pytest.raises(ConfigurationError, match=f"'planner'.*{message}"):
            VllmLM("some/model", adapters={"planner": save_config(tmp_path / "bad", **change)})
    (good / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"'planner'.*no adapter_model"):
        VllmLM("some/model", adapters={"planner": good})
