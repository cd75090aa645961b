"""The registry: what is in it, how a family is found, and what a user needs to add one."""

import json

import pytest

from agentprm.errors import ConfigurationError
from agentprm.rewards import Family, PlainSteps, families, load_reward, register, register_readout
from agentprm.rewards.loading import find_family

KNOWN = {
    "Qwen/Qwen2.5-Math-PRM-7B": "qwen-prm",
    "Gen-Verse/ReasonFlux-PRM-7B": "reasonflux",
    "Gen-Verse/ReasonFlux-PRM-1.5B": "reasonflux-scalar",
    "jinachris/PURE-PRM-7B": "pure",
    "peiyi9979/math-shepherd-mistral-7b-prm": "math-shepherd",
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data": "rlhflow",
    "Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B": "skywork",
    "infly/Universal-PRM-7B": "universal-prm",
    "PRIME-RL/EurusPRM-Stage2": "implicit",
    "launch/ThinkPRM-7B": "thinkprm",
}


@pytest.fixture
def registry(monkeypatch):
    """A copy of the registry that the test may change."""
    from agentprm.rewards import loading as module

    monkeypatch.setattr(module, "_FAMILIES", dict(module._FAMILIES))
    monkeypatch.setattr(module, "_READOUTS", dict(module._READOUTS))


def test_published_names_have_their_family():
    for name, family in KNOWN.items():
        assert find_family(name).name == family
        assert find_family(name.lower()).name == family
    # A part of a name says nothing.
    assert find_family("someone/Qwen2.5-Math-PRM-7B") is None
    assert find_family("Qwen2.5-Math-PRM-7B") is None


def test_every_family_names_a_readout_and_every_checkpoint_is_of_one_family():
    from agentprm.rewards.loading import readout

    pytest.importorskip("torch")
    names = [c.casefold() for family in families().values() for c in family.checkpoints]
    assert len(names) == len(set(names))
    for family in families().values():
        assert callable(readout(family.readout))
        assert family.aggregate in {"min", "product", "mean", "last"}
    readouts = {family.readout for family in families().values()}
    assert readouts == {"token-head", "token-logits", "value-head", "prefix-scalar", "log-ratio", "verdict"}


def test_ten_lines_add_a_family(registry, tiny, tokenizer, tmp_path):
    torch = pytest.importorskip("torch")
    folder = tmp_path / "mine"
    model = tiny.model("LlamaForCausalLM", len(tokenizer))
    model.config.agentprm_family = "mine"  # what a trainer would write into its config.json
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    register(
        Family(
            name="mine",
            readout="token-logits",
            template=PlainSteps(tag=" c", head="{question}\n", joiner="\n"),
            options={"good": "+", "bad": "-"},
        )
    )
    reward = load_reward(folder)

    assert reward.family.name == "mine"
    ids = reward.tokenizer("Q\na step c", add_special_tokens=False)["input_ids"]
    good, bad = (reward.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in "+-")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    step = {"query": "", "passages": [], "thought": "a step", "final_answer": None}
    got = reward.score("Q", [[step]])[0][0]
    assert got == pytest.approx(float(logits[[good, bad]].softmax(-1)[0]), abs=2e-5)


def test_a_readout_of_ones_own(registry):
    from agentprm.testing import FakeReward

    class Constant(FakeReward):
        def __init__(self, model, *, template, value):
            super().__init__(lambda question, prefix: value)
            self.made_of = (model, template)

    register_readout("constant", Constant)
    register(Family(name="flat", readout="constant", template=PlainSteps(), options={"value": 0.3}))
    reward = load_reward("whatever", "flat")
    step = {"query": "", "passages": [], "thought": "a", "final_answer": None}
    assert reward.score("Q", [[step]]) == [[0.3]]
    assert reward.made_of == ("whatever", PlainSteps())
    assert load_reward("whatever", "flat", value=0.4, joiner=";").made_of[1] == PlainSteps(joiner=";")


def test_refusals(registry, tmp_path):
    with pytest.raises(ConfigurationError, match="readout"):
        register(Family(name="x", readout="tea-leaves", template=PlainSteps()))
    with pytest.raises(ConfigurationError, match="qwen-prm"):
        register(
            Family(
                name="x",
                readout="token-head",
                template=PlainSteps(),
                checkpoints=("qwen/qwen2.5-math-prm-7b",),
            )
        )
    with pytest.raises(ConfigurationError, match="no family 'nonsense'"):
        load_reward("a/b", "nonsense")
    with pytest.raises(ConfigurationError, match="cannot be loaded with"):
        load_reward("a/b", "trl", colour="red")
    pytest.importorskip("torch")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Qwen2ForTokenClassification"]}))
    with pytest.raises(ConfigurationError, match="family="):
        load_reward(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"agentprm_family": "nonsense"}))
    with pytest.raises(ConfigurationError, match="nonsense"):
        load_reward(tmp_path)
    with pytest.raises(ConfigurationError, match="nowhere' does not exist"):
        load_reward(tmp_path / "nowhere", "trl")
