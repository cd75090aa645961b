"""Reward models, the span reader and embeddings give on a GPU what they give on the CPU."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from langchain_core.documents import Document  # noqa: E402

from agentprm.readers import SpanReader  # noqa: E402
from agentprm.readers.span_reader import SpanModel, SpanSettings, load_encoder  # noqa: E402
from agentprm.rewards import load_reward  # noqa: E402
from tests.unit.readers.conftest import encoder_folder  # noqa: E402, F401
from tests.unit.rewards.conftest import build, build_tokenizer, save_native  # noqa: E402

pytestmark = pytest.mark.gpu

PASSAGES = [
    Document("Anna was born in Rome. The mother of Anna was Dora.", metadata={"title": "Anna"}),
    Document("Bert ruled Oslo in 1902 and was the son of Carl.", metadata={"title": "Bert"}),
    Document("Carl was king of Lima, and the father of Bert and Emil. " * 6, metadata={"title": "Carl"}),
]
ASKED = ["Who is the mother of Anna?", "Who ruled Oslo in 1902?", "Was Bert the son of Carl?"]
STEP = {"query": "Who is the mother of Anna?", "thought": "Dora", "final_answer": None}


def steps(*answers):
    passages = [document.page_content for document in PASSAGES[:2]]
    return [{**STEP, "passages": passages, "thought": answer} for answer in answers]


TRAJECTORIES = [steps("Dora"), steps("Dora", "Rome"), steps("Carl", "Oslo", "Bert")]


def agree(there, here, gap):
    got, want = (reward.score("Who is it?", TRAJECTORIES) for reward in (there, here))
    for ours, theirs in zip(got, want, strict=True):
        assert list(ours) == pytest.approx(list(theirs), abs=gap)
    assert len({round(score, 4) for some in want for score in some}) > 2


def test_a_reward_that_reads_vocabulary_logits(device, tmp_path):
    tokenizer = build_tokenizer()
    build("LlamaForCausalLM", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    there, here = (
        load_reward(str(tmp_path), "math-shepherd", device=where, dtype="float32")
        for where in (device, "cpu")
    )
    agree(there, here, 1e-4)


def test_a_reward_with_a_head(device, tmp_path):
    tokenizer = build_tokenizer()
    model = build("Qwen2Model", len(tokenizer))
    torch.manual_seed(1)
    width = model.config.hidden_size
    heads = {
        "score.0.weight": torch.randn(width, width),
        "score.0.bias": torch.randn(width),
        "score.2.weight": torch.randn(2, width),
        "score.2.bias": torch.randn(2),
    }
    folder = save_native(tmp_path / "m", model, tokenizer, heads, architecture="Qwen2ForProcessRewardModel")
    there, here = (
        load_reward(str(folder), "qwen-prm", device=where, dtype="float32") for where in (device, "cpu")
    )
    agree(there, here, 1e-4)


def same_answers(there, here):
    asked, passages = ASKED, [PASSAGES] * len(ASKED)
    both = zip(there.candidates(asked, passages, n=4), here.candidates(asked, passages, n=4), strict=True)
    for ours, theirs in both:
        assert [(a.text, a.passage, a.start) for a in ours] == [(a.text, a.passage, a.start) for a in theirs]
        assert [a.score for a in ours] == pytest.approx([a.score for a in theirs], abs=1e-3)
        assert ours[0].no_answer == pytest.approx(theirs[0].no_answer, abs=1e-3)


def test_the_span_reader(device, encoder_folder):  # noqa: F811
    settings = SpanSettings(str(encoder_folder), max_length=48, stride=4, answer_tokens=4)
    encoder, tokenizer = load_encoder(settings.base)
    torch.manual_seed(1)
    model = SpanModel(encoder, settings.answer_tokens).eval()
    for head in (model.span, model.choice):
        torch.nn.init.normal_(head.weight, std=1.0)
    here = SpanReader.of(model, tokenizer, settings)
    there = SpanReader.of(copy.deepcopy(model).to(device), copy.deepcopy(tokenizer), settings)
    same_answers(there, here)


@pytest.mark.models
def test_the_packaged_reader(device):
    from agentprm.packaged import default_reader

    there, here = default_reader(device=device), default_reader(device="cpu")
    same_answers(there, here)
    assert there.read(ASKED[:1], [PASSAGES])[0].text == "Dora"


@pytest.mark.models
def test_the_packaged_embeddings(device):
    from agentprm.packaged import default_encoder_folder
    from agentprm.retrievers import SentenceTransformerEmbeddings

    folder = str(default_encoder_folder())
    texts = [document.page_content for document in PASSAGES]
    there, here = (
        SentenceTransformerEmbeddings(folder, device=where).embed_documents(texts)
        for where in (device, "cpu")
    )
    np.testing.assert_allclose(there, here, atol=1e-4)
