"""Adapters share one model's weights, and give what peft gives with each of them alone."""

import copy
import itertools
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from agentprm.errors import ConfigurationError  # noqa: E402
from agentprm.lm import Prompt, SamplingParams, TransformersLM, as_language_model  # noqa: E402
from agentprm.rewards import LogRatio  # noqa: E402
from tests.tiny_models import ADAPTERS, likelihood, save_adapter  # noqa: E402
from tests.unit.lm.conftest import build_model, build_tokenizer  # noqa: E402

SHARED = "The capital of France is Paris and the river is the Seine. Who wrote the play?"


def ask(text):
    return Prompt((("system", SHARED), ("user", text)))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def world(request, tokenizer, tmp_path_factory):
    """A base model, folders of adapters, and per adapter (and for none) peft's model."""
    base = build_model(request.param, len(tokenizer))
    folders, oracles = {}, {None: copy.deepcopy(base)}
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        folders[name] = tmp_path_factory.mktemp(name)
        oracles[name] = save_adapter(folders[name], base, seed, **config)
    return base, folders, oracles


@pytest.fixture
def lm(world, tokenizer):
    base, folders, _ = world
    return TransformersLM(copy.deepcopy(base), tokenizer, adapters=folders)


TEXTS = [" a poet", " the river Seine", " from the north", " x"]


def test_each_adapter_scores_as_peft_does(lm, world, tokenizer):
    prompts = [ask("Who wrote it?"), ask("Which river is it?")]
    values = {}
    for name, oracle in world[2].items():
        rows = lm.with_adapter(name).loglikelihood(prompts, [TEXTS] * 2)
        for prompt, row in zip(prompts, rows, strict=True):
            want = [likelihood(oracle, tokenizer, prompt, text) for text in TEXTS]
            assert row == pytest.approx(want, abs=1e-3)
        values[name] = rows[0][0]
    # They differ by far more than that, or this would show nothing.
    ordered = sorted(values.values())
    assert min(b - a for a, b in itertools.pairwise(ordered)) > 0.02


def test_each_adapter_samples_as_its_merged_model_does(lm, world, tokenizer):
    params = SamplingParams(max_tokens=8, temperature=1.0, seed=3)
    said = set()
    for name, oracle in world[2].items():
        merged = copy.deepcopy(oracle)
        merged = merged.merge_and_unload() if name else merged
        want = TransformersLM(merged, tokenizer).sample([ask("Who?")], 3, params)[0]
        got = lm.with_adapter(name).sample([ask("Who?")], 3, params)[0]
        assert [c.text for c in got] == [c.text for c in want]
        assert [c.logprob for c in got] == pytest.approx([c.logprob for c in want], abs=1e-3)
        said.add(tuple(c.text for c in got))
    assert len(said) == 4


def test_interleaved_requests_never_meet_in_the_prefix_cache(lm, world, tokenizer):
    names = [*ADAPTERS, None] * 6
    random.Random(1).shuffle(names)
    for turn, name in enumerate(names):
        prompt, text = ask(f"Question {turn % 3}?"), TEXTS[turn % 4]
        want = likelihood(world[2][name], tokenizer, prompt, text)
        assert lm.with_adapter(name).loglikelihood([prompt], [[text]])[0][0] == pytest.approx(want, abs=1e-3)
    # Each has its own prefixes, though: the last rounds found all that they needed but the ends.
    before = lm.tokens_computed
    lm.with_adapter("planner").loglikelihood([ask("Question 0?")], [[" x"]])
    assert lm.tokens_computed - before < 8


def test_adapters_in_one_batch(lm, world, tokenizer):
    """Threads ask with all adapters at once; rows of several adapters go through one pass."""
    together = []
    adapters = lm._engine.adapters
    on = adapters.on

    def watched(names, sizes):
        together.append(len(set(names)))
        return on(names, sizes)

    adapters.on = watched
    gate = threading.Barrier(4)
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=5)

    def run(name):
        view = lm.with_adapter(name)
        gate.wait(10)
        sampled = [view.sample([ask(f"{name} {i}?")], 2, params)[0] for i in range(3)]
        scored = view.loglikelihood([ask("Who?")], [TEXTS])[0]
        return sampled, scored

    with ThreadPoolExecutor(4) as pool:
        results = dict(zip([*ADAPTERS, None], pool.map(run, [*ADAPTERS, None]), strict=True))
    assert max(together) > 1
    for name, (sampled, scored) in results.items():
        assert scored == pytest.approx(
            [likelihood(world[2][name], tokenizer, ask("Who?"), text) for text in TEXTS], abs=1e-3
        )
        alone = TransformersLM(copy.deepcopy(world[0]), tokenizer, adapters=world[1]).with_adapter(name)
        for i, row in enumerate(sampled):
            want = alone.sample([ask(f"{name} {i}?")], 2, params)[0]
            assert [c.text for c in row] == [c.text for c in want]


async def test_async_twins(lm):
    view = lm.with_adapter("reader")
    assert await view.aloglikelihood([ask("Who?")], [TEXTS]) == [
        pytest.approx(view.loglikelihood([ask("Who?")], [TEXTS])[0], abs=1e-4)
    ]
    params = SamplingParams(max_tokens=4, seed=1)
    assert await view.asample([ask("Who?")], 2, params) == view.sample([ask("Who?")], 2, params)


def test_a_pass_on_two_threads(lm, world, tokenizer):
    """The parts of a pass that run side by side each know their own adapters."""
    prompts = [ask(f"Number {i} of {i * i} is not {i + 1}? " + SHARED * 2) for i in range(4)]
    torch.set_num_threads(2)
    try:
        rows = lm.with_adapter("planner").loglikelihood(prompts, [[" x"]] * 4)
    finally:
        torch.set_num_threads(1)
    want = [likelihood(world[2]["planner"], tokenizer, prompt, " x") for prompt in prompts]
    assert [row[0] for row in rows] == pytest.approx(want, abs=1e-3)


def test_others_who_use_the_model_notice_nothing(world, tokenizer):
    base, folders, oracles = world
    model = copy.deepcopy(base)
    lm = TransformersLM(model, tokenizer, adapters=folders)
    ids = torch.tensor([[5, 9, 11, 3]])
    with torch.no_grad():
        want = oracles[None](ids).logits
        assert torch.allclose(model(ids).logits, want, atol=1e-4)
    lm.with_adapter("planner").loglikelihood([ask("Who?")], [[" x"]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, want, atol=1e-4)
    # A second engine over the same model has adapters of its own, and takes them along when it goes.
    other = TransformersLM(model, tokenizer, adapters={"only": folders["reader"]})
    got = other.with_adapter("only").loglikelihood([ask("Who?")], [[" x"]])
    assert got[0][0] == pytest.approx(likelihood(oracles["reader"], tokenizer, ask("Who?"), " x"), abs=1e-3)


def test_views(lm):
    assert lm.adapters == ("planner", "reader", "critic")
    assert lm.adapter is None
    view = lm.with_adapter("planner")
    assert (view.adapter, lm.adapter, view.with_adapter(None).adapter) == ("planner", None, None)
    view.loglikelihood([ask("Who?")], [[" x"]])
    assert lm.tokens_asked == view.tokens_asked > 0
    assert lm.tokens_computed == view.tokens_computed > 0
    assert lm.cache_bytes == view.cache_bytes > 0
    lm.clear_cache()
    assert view.cache_bytes == 0
    with pytest.raises(ConfigurationError, match="no adapter 'judge'; it has planner, reader, critic"):
        lm.with_adapter("judge")


def test_a_model_without_adapters_has_none(tokenizer):
    lm = TransformersLM(build_model("llama", len(tokenizer)), tokenizer)
    assert lm.adapters == ()
    with pytest.raises(ConfigurationError, match="made without any"):
        lm.with_adapter("planner")


def test_the_bound_of_the_cache_is_that_of_all_adapters_together(world, tokenizer):
    base, folders, _ = world
    lm = TransformersLM(copy.deepcopy(base), tokenizer, adapters=folders, cache_bytes=60_000)
    for name in [*ADAPTERS, None]:
        lm.with_adapter(name).loglikelihood([ask("Who wrote it?")], [[" x"]])
        assert lm.cache_bytes <= 60_000


def test_the_log_ratio_of_an_adapter_to_its_base(lm, world, tokenizer):
    """One set of weights on both sides of an implicit reward."""
    steps = [
        {"query": "Who?", "passages": [], "thought": text, "final_answer": None} for text in ("a", "b c")
    ]
    ours = LogRatio(lm.with_adapter("critic"), lm).score("Who?", [steps])
    trained = TransformersLM(copy.deepcopy(world[2]["critic"]).merge_and_unload(), tokenizer)
    reference = TransformersLM(copy.deepcopy(world[0]), tokenizer)
    assert ours[0] == pytest.approx(LogRatio(trained, reference).score("Who?", [steps])[0], abs=1e-3)
    assert max(map(abs, ours[0])) > 1e-3


# ---------------------------------------------------------------------- what is refused


@pytest.fixture
def plain(tokenizer, tmp_path):
    """A base model and a good adapter's folder, to be spoiled."""
    base = build_model("llama", len(tokenizer))
    save_adapter(tmp_path / "a", base, 0, r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"])
    return base, tmp_path / "a"


def refused(plain, tokenizer, message):
    base, folder = plain
    with pytest.raises(ConfigurationError, match=message) as caught:
        TransformersLM(base, tokenizer, adapters={"planner": folder})
    assert "'planner'" in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias='all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"something_new": 3}, "something_new=3"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the base model"),
        ({"r": 8}, r"ranks \(4, 4\), by its config it has 8"),
        ({"r": None}, "r must be a positive number, not None"),
        ({"lora_alpha": "8"}, "lora_alpha must be a positive number, not '8'"),
        ({"target_modules": ["q_proj", "o_proj", "k_proj"]}, "changes .*k_proj', but it holds no weights"),
    ],
)
def test_configs_that_are_more_than_plain_lora(plain, tokenizer, change, message):
    path = plain[1] / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(plain, tokenizer, message)


def test_folders_that_are_no_adapters(plain, tokenizer, tmp_path):
    base, folder = plain
    weights = folder / "adapter_model.safetensors"
    config = folder / "adapter_config.json"
    torch.save({}, folder / "adapter_model.bin")
    weights.rename(folder / "aside")
    refused(plain, tokenizer, "no adapter_model.safetensors.*safe_serialization=True")
    (folder / "aside").rename(weights)
    weights.write_bytes(weights.read_bytes()[:100])
    refused(plain, tokenizer, "cannot be read")
    config.write_text("{")
    refused(plain, tokenizer, "cannot be read")
    config.write_text("[]")
    refused(plain, tokenizer, "no JSON object")
    config.unlink()
    refused(plain, tokenizer, r"no adapter_config\.json")
    refused((base, tmp_path / "nowhere"), tokenizer, "does not exist")
    with pytest.raises(ConfigurationError, match="needs a name"):
        TransformersLM(base, tokenizer, adapters={"": folder})


def respell(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = change(load_file(path))
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)


def renamed(old, new):
    return lambda tensors: {key.replace(old, new): value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed("layers.0", "layers.7"), "layers.7.* is missing in LlamaForCausalLM"),
        (renamed("model.layers.0.self_attn.q_proj", "lm_head"), "only layers of the decoder"),
        (renamed("layers.0.self_attn.q_proj", "embed_tokens"), "is a Embedding, no linear layer"),
        (renamed("layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"), r"is \(32, 32\), the model's"),
        (lambda t: {k: v for k, v in t.items() if "layers.1" not in k}, "layers.1.*holds no weights for it"),
        (lambda t: {k: v for k, v in t.items() if "lora_B" not in k}, "no pair of matrices"),
        (lambda t: {**t, "base_model.model.score.weight": torch.zeros(2, 32)}, "more than low-rank"),
        (lambda t: {}, "no low-rank weights"),
    ],
)
def test_weights_that_do_not_fit(plain, tokenizer, change, message):
    respell(plain[1], change)
    refused(plain, tokenizer, message)


def test_the_folder_of_an_adapter_stands_for_its_base_model_with_it(tokenizer, tmp_path):
    base = build_model("llama", len(tokenizer))
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    oracle = save_adapter(tmp_path / "planner", base, 0, r=4, lora_alpha=8, target_modules=["q_proj"])
    path = tmp_path / "planner" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "base")}))
    lm = as_language_model(tmp_path / "planner")
    assert (lm.adapter, lm.adapters) == ("planner", ("planner",))
    for view, model in ((lm, oracle), (lm.with_adapter(None), base)):
        want = likelihood(model, lm.tokenizer, ask("Who?"), " a poet")
        assert view.loglikelihood([ask("Who?")], [[" a poet"]])[0][0] == pytest.approx(want, abs=1e-3)
    path.write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ConfigurationError, match="does not name its base model"):
        TransformersLM(tmp_path / "planner")
