"""Checkpoints as they are published: head layouts, wrappers, shards, old formats, and code not run."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.errors import ConfigurationError  # noqa: E402
from agentprm.rewards import PieceSteps, TokenHead, ValueHead, as_trajectory, load_reward  # noqa: E402

STEPS = ["1 + 1 = 2.", "So it is 2."]


def score(reward):
    return reward.score("1 + 1?", [as_trajectory(STEPS)])[0]


@pytest.fixture(scope="module")
def decoder(tiny, tokenizer):
    return tiny.model("Qwen2Model", len(tokenizer))


def linear(outputs, seed=3, hidden=32):
    torch.manual_seed(seed)
    return torch.nn.Linear(hidden, outputs)


def named(prefix, layer):
    return {f"{prefix}.{name}": value.detach() for name, value in layer.state_dict().items()}


@pytest.fixture(scope="module")
def plain(decoder, tokenizer, tiny, tmp_path_factory):
    """Score of a value head by its plain layout, for comparison."""
    folder = tmp_path_factory.mktemp("plain")
    tiny.save(folder, decoder, tokenizer, named("v_head.summary", linear(1)), architecture="X")
    return score(load_reward(folder, "skywork", dtype="float32", device="cpu"))


@pytest.mark.parametrize("prefix", ["v_head.summary", "v_head", "score", "classifier", "reward_head"])
def test_a_head_is_found_by_its_shape(prefix, plain, decoder, tokenizer, tiny, tmp_path):
    tiny.save(tmp_path, decoder, tokenizer, named(prefix, linear(1)), architecture="X")
    assert score(load_reward(tmp_path, "skywork", dtype="float32", device="cpu")) == pytest.approx(plain)


def test_a_causal_checkpoint_with_vocabulary_head_beside(plain, decoder, tokenizer, tiny, tmp_path):
    heads = {"lm_head.weight": torch.zeros(len(tokenizer), 32), **named("v_head.summary", linear(1))}
    tiny.save(tmp_path, decoder, tokenizer, heads, architecture="X", wrapper="pretrained_model.")
    assert score(load_reward(tmp_path, "skywork", dtype="float32", device="cpu")) == pytest.approx(plain)


@pytest.mark.parametrize("name", ["value_head.safetensors", "reward_head.pt"])
def test_a_head_in_a_file_of_its_own(name, plain, decoder, tokenizer, tiny, tmp_path):
    tiny.save(tmp_path, decoder, tokenizer, {}, architecture="X")
    state = {k: v.clone() for k, v in linear(1).state_dict().items()}
    if name.endswith(".pt"):
        torch.save(state, tmp_path / name)
    else:
        from safetensors.torch import save_file

        save_file(state, tmp_path / name)
    assert score(load_reward(tmp_path, "skywork", dtype="float32", device="cpu")) == pytest.approx(plain)


def test_old_formats_load_without_unpickling(plain, decoder, tokenizer, tiny, tmp_path):
    tiny.save(tmp_path, decoder, tokenizer, {}, architecture="X")
    (tmp_path / "model.safetensors").unlink()
    state = {f"model.{k}": v.clone() for k, v in decoder.state_dict().items()}
    torch.save({**state, **named("v_head.summary", linear(1))}, tmp_path / "pytorch_model.bin")
    reward = load_reward(tmp_path, "skywork", dtype="float32", device="cpu")
    assert score(reward) == pytest.approx(plain)


class Trap:
    """What a malicious checkpoint would hold: unpickling it calls a function."""

    def __reduce__(self):
        return (exec, ("raise AssertionError('unpickled')",))


def test_a_malicious_pickle_is_not_opened(decoder, tokenizer, tiny, tmp_path):
    tiny.save(tmp_path, decoder, tokenizer, {}, architecture="X")
    torch.save({"reward_head.weight": Trap()}, tmp_path / "reward_head.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only|Unsupported") as caught:
        load_reward(tmp_path, "skywork", dtype="float32", device="cpu")
    assert not isinstance(caught.value, AssertionError)


def test_an_index_cannot_lead_out_of_its_folder(decoder, tokenizer, tiny, tmp_path):
    inside = tmp_path / "inside"
    tiny.save(inside, decoder, tokenizer, {}, architecture="X")
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1, 32)}, tmp_path / "outside.safetensors")
    table = {f"model.{k}": "model.safetensors" for k in decoder.state_dict()}
    table["v_head.summary.weight"] = "../outside.safetensors"
    (inside / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": table})
    )
    with pytest.raises(Exception, match=r"head|outside|safetensors"):
        load_reward(inside, "skywork", dtype="float32", device="cpu")


def test_a_name_on_the_hub_is_looked_up_in_its_cache(decoder, tokenizer, tiny, tmp_path, monkeypatch, plain):
    from huggingface_hub import constants

    # What a download leaves behind; the hub itself is out of reach here.
    name, revision = "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B", "0" * 40
    folder = tmp_path / ("models--" + name.replace("/", "--"))
    tiny.save(
        folder / "snapshots" / revision,
        decoder,
        tokenizer,
        named("v_head.summary", linear(1)),
        architecture="Qwen2ForCausalLM",
        index=True,
    )
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    reward = load_reward(name, dtype="float32", device="cpu")
    assert reward.family.name == "skywork"
    assert score(reward) == pytest.approx(plain)


def save_adapter(folder, base, tensors, tokenizer, **config):
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    named_base = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "r": 2,
        "lora_alpha": 6,
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(named_base))
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("root_scaled", [False, True])
def test_adapters_are_merged(root_scaled, tiny, tokenizer, tmp_path):
    torch.manual_seed(5)
    low = {
        "model.layers.0.self_attn.q_proj": (torch.randn(2, 32), torch.randn(32, 2)),
        "model.layers.1.mlp.down_proj": (torch.randn(2, 48), torch.randn(32, 2)),
    }
    scale = 6 / 2**0.5 if root_scaled else 6 / 2
    tensors = {
        f"base_model.model.{name}.lora_{side}.weight": pair[side == "B"]
        for name, pair in low.items()
        for side in "AB"
    }

    def by_hand(model):
        with torch.no_grad():
            for name, (a, b) in low.items():
                model.get_submodule(name).weight.add_(scale * b @ a)
        return model

    words = tiny.model("Qwen2ForCausalLM", len(tokenizer))
    words.save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "words", tmp_path / "base", tensors, tokenizer, use_rslora=root_scaled)
    by_hand(words).save_pretrained(tmp_path / "merged")
    # One tokenizer for all: with a model's config beside it, transformers splits words its own way.
    options = {"dtype": "float32", "device": "cpu", "tokenizer": tokenizer}
    plain = score(load_reward(tmp_path / "base", "dprm", **options))
    got = score(load_reward(tmp_path / "words", "dprm", **options))
    assert got == pytest.approx(score(load_reward(tmp_path / "merged", "dprm", **options)), abs=1e-5)
    assert got != pytest.approx(plain, abs=1e-3)

    # With a head that was trained along, on a base model without one.
    head = torch.nn.Linear(32, 2)
    trained = {f"base_model.model.{k}": v for k, v in named("score", head).items()}
    save_adapter(tmp_path / "head", tmp_path / "base", tensors | trained, tokenizer, use_rslora=root_scaled)
    got = score(load_reward(tmp_path / "head", "trl", **options))
    words.score = head
    want = TokenHead(
        words, load_reward(tmp_path / "merged", "dprm", **options).tokenizer, template=PieceSteps()
    )
    assert got == pytest.approx(score(want), abs=1e-5)


def test_adapters_that_do_not_fit(tiny, tokenizer, tmp_path):
    tiny.model("Qwen2ForCausalLM", len(tokenizer)).save_pretrained(tmp_path / "base")
    good = {
        "base_model.model.model.norm_of_theirs.lora_A.weight": torch.zeros(2, 32),
        "base_model.model.model.norm_of_theirs.lora_B.weight": torch.zeros(32, 2),
    }
    save_adapter(tmp_path / "a", tmp_path / "base", good, tokenizer)
    with pytest.raises(ConfigurationError, match="not part of"):
        load_reward(tmp_path / "a", "dprm")
    wrong = {k.replace("norm_of_theirs", "layers.0.mlp.up_proj"): v for k, v in good.items()}
    save_adapter(tmp_path / "b", tmp_path / "base", wrong, tokenizer)
    with pytest.raises(ConfigurationError, match=r"\(32, 32\), the model's \(48, 32\)"):
        load_reward(tmp_path / "b", "dprm")
    for odd in ({"use_dora": True}, {"peft_type": "IA3"}, {"base_model_name_or_path": None}):
        save_adapter(tmp_path / "c", tmp_path / "base", good, tokenizer, **odd)
        with pytest.raises(ConfigurationError, match=r"DoRA|IA3|base model"):
            load_reward(tmp_path / "c", "dprm")


def test_what_is_missing_is_said(decoder, tokenizer, tiny, tmp_path):
    tiny.save(tmp_path / "none", decoder, tokenizer, {}, architecture="X")
    with pytest.raises(ConfigurationError, match="0 heads from 32 to 1"):
        load_reward(tmp_path / "none", "skywork")
    two = {**named("a", linear(1)), **named("b", linear(1, seed=4))}
    tiny.save(tmp_path / "two", decoder, tokenizer, two, architecture="X")
    with pytest.raises(ConfigurationError, match="2 heads"):
        load_reward(tmp_path / "two", "skywork")
    chosen = load_reward(tmp_path / "two", "skywork", head_key="b", dtype="float32", device="cpu")
    tiny.save(tmp_path / "b", decoder, tokenizer, named("b", linear(1, seed=4)), architecture="X")
    wanted = load_reward(tmp_path / "b", "skywork", dtype="float32", device="cpu")
    assert score(chosen) == score(wanted)
    # A decoder with a missing tensor would be filled with random numbers.
    tiny.save(tmp_path / "hole", decoder, tokenizer, named("v_head", linear(1)), architecture="X")
    from safetensors.torch import load_file, save_file

    state = load_file(tmp_path / "hole" / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, tmp_path / "hole" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="random"):
        load_reward(tmp_path / "hole", "skywork")
    tiny.save(tmp_path / "odd", decoder, tokenizer, {}, architecture="X", model_type="their_own")
    with pytest.raises(ConfigurationError, match="never run"):
        load_reward(tmp_path / "odd", "skywork")


def test_the_wrong_tokenizer_is_noticed(tiny, tokenizer):
    from agentprm.rewards import ChatSteps, PlainSteps, TokenLogits

    model = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=2)
    with pytest.raises(ConfigurationError, match="not one"):
        TokenHead(model, tokenizer, template=ChatSteps(separator="<extra_1>"))
    bare = tiny.tokenizer()
    bare.chat_template = None
    with pytest.raises(ConfigurationError, match="chat template"):
        TokenHead(model, bare, template=ChatSteps())
    words = tiny.model("Qwen2ForCausalLM", len(tokenizer))
    # "b" and "oxed" are one token: nothing is left of the tag to read.
    with pytest.raises(ConfigurationError, match="melts"):
        TokenLogits(words, tokenizer, template=PlainSteps(tag="oxed", head="a "))
    with pytest.raises(ConfigurationError, match="told apart"):
        TokenLogits(words, tokenizer, template=PlainSteps(tag=" ки"), good="+", bad="++")


def test_loaded_models(tiny, tokenizer):
    model = tiny.model("Qwen2ForTokenClassification", len(tokenizer), labels=3)
    with pytest.raises(ConfigurationError, match="tokenizer"):
        TokenHead(model, template=PieceSteps(), classes=3)
    with pytest.raises(ConfigurationError, match="3 numbers, not of 2"):
        TokenHead(model, tokenizer, template=PieceSteps())
    with pytest.raises(ConfigurationError, match="no classification or value head"):
        ValueHead(tiny.model("Qwen2Model", len(tokenizer)), tokenizer, template=PieceSteps())
    # ReasonEval's validity: neutral and positive together.
    both = TokenHead(model, tokenizer, template=PieceSteps(), classes=3, positive=(1, 2))
    bad = TokenHead(model, tokenizer, template=PieceSteps(), classes=3, positive=(0,))
    assert [a + b for a, b in zip(score(both), score(bad), strict=True)] == pytest.approx([1.0, 1.0])
    with pytest.raises(ConfigurationError, match="positive"):
        TokenHead(model, tokenizer, template=PieceSteps(), classes=2, positive=(2,))
