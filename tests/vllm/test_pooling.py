"""A tiny process reward model on vLLM's pooling, against plain transformers."""

import pytest

from agentprm.budget import metered
from agentprm.errors import ConfigurationError
from agentprm.rewards.base import RewardStep
from agentprm.rewards.served import ServedTokenHead
from agentprm.rewards.served_reward import HttpClassifier
from agentprm.rewards.templates import ChatSteps
from tests.tiny_models import enlivened
from tests.vllm.conftest import ENGINE, serving

pytestmark = pytest.mark.enable_socket

QUESTION = "Which river flows through the capital of France?"
TEMPLATE = ChatSteps(separator="<extra_0>")
THOUGHTS = [
    f"Step number {k} says that the river is the Seine and that {k} is less than {k + 1}." for k in range(6)
]


def steps(thoughts):
    return [RewardStep(query="", passages=[], thought=t, final_answer=None) for t in thoughts]


@pytest.fixture(scope="module")
def prm(tmp_path_factory):
    """Folder, model and tokenizer of a random Qwen2 with a head of two classes over every token."""
    import torch
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    from tests.unit.lm.conftest import build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<extra_0>"]})
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=512,
        hidden_size=128,  # heads of a size that vLLM's kernels take
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        num_labels=2,
        pad_token_id=0,
    )
    model = enlivened(Qwen2ForTokenClassification(config), 6)
    with torch.no_grad():
        model.score.bias.copy_(torch.tensor([0.5, -0.25]))
    path = tmp_path_factory.mktemp("prm")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path, model, tokenizer


@pytest.fixture(scope="module")
def expected(prm):
    import torch

    _, model, tokenizer = prm
    scores = []
    for k in range(len(THOUGHTS)):
        ids = TEMPLATE.ids(tokenizer, QUESTION, THOUGHTS[: k + 1])
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1]
        scores.append(float(logits.double().softmax(dim=-1)[1]))
    assert max(scores) - min(scores) > 0.02
    return scores


def check(reward, tokenizer, expected, *, grows):
    path = steps(THOUGHTS)
    assert reward.score(QUESTION, [path[:2]])[0] == pytest.approx(expected[:2], abs=1e-3)
    for k in range(3, len(path) + 1):
        with metered() as meter:
            found = reward.score(QUESTION, [path[:k]])[0]
        assert found == pytest.approx(expected[:k], abs=1e-3)
        assert meter.usage["reward_calls"] == 1
        length = len(TEMPLATE.ids(tokenizer, QUESTION, THOUGHTS[:k]))
        new = length - len(TEMPLATE.ids(tokenizer, QUESTION, THOUGHTS[: k - 1]))
        if grows:
            # The new step and what the last whole block before it leaves over.
            assert meter.usage["computed_tokens"] <= new + ENGINE["block_size"]
        else:
            assert meter.usage["computed_tokens"] <= length


async def test_in_this_process(prm, expected):
    folder, _, tokenizer = prm
    reward = ServedTokenHead(str(folder), template=TEMPLATE, **ENGINE)
    try:
        assert reward.reads_cache
        check(reward, tokenizer, expected, grows=True)
        other = [*steps(THOUGHTS[:2]), *steps(["Something else."])]
        assert (await reward.ascore(QUESTION, [other, steps(THOUGHTS)]))[1] == pytest.approx(
            expected, abs=1e-3
        )
    finally:
        reward.close()


def test_an_engine_that_was_passed(prm, expected):
    import vllm

    folder, _, tokenizer = prm
    engine = vllm.LLM(str(folder), runner="pooling", pooler_config={"tok_pooling_type": "ALL"}, **ENGINE)
    check(ServedTokenHead(engine, template=TEMPLATE), tokenizer, expected, grows=True)


def test_a_server(prm, expected):
    folder, _, tokenizer = prm
    arguments = ["--runner", "pooling", "--pooler-config", '{"tok_pooling_type": "ALL"}']
    with serving(folder, "--served-model-name", "prm", *arguments) as root:
        reward = ServedTokenHead(root + "/v1", tokenizer, template=TEMPLATE)
        check(reward, tokenizer, expected, grows=False)
        with pytest.raises(ConfigurationError, match="no class 2"):
            ServedTokenHead(root + "/v1", tokenizer, template=TEMPLATE, positive=(2,))


def test_a_sequence_classifier_behind_http(prm, tmp_path):
    import torch
    from transformers import Qwen2ForSequenceClassification

    _, model, tokenizer = prm
    judge = Qwen2ForSequenceClassification(model.config).eval()
    judge.model.load_state_dict(model.model.state_dict())
    judge.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with serving(tmp_path, "--served-model-name", "judge", "--runner", "pooling") as root:
        reward = HttpClassifier(root + "/classify", "judge")
        found = reward.score(QUESTION, [steps(THOUGHTS[:3])])[0]
    for k, score in enumerate(found):
        ids = tokenizer("\n\n".join([QUESTION, *THOUGHTS[: k + 1]]))["input_ids"]
        with torch.no_grad():
            logits = judge(torch.tensor([ids])).logits[0]
        assert score == pytest.approx(float(logits.softmax(dim=-1)[1]), abs=1e-3)
