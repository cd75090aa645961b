"""Rerankers and the feedback encoder learn toy tasks, and what reads them agrees with the loss."""

import json
import math

import pytest
import torch
from langchain_core.documents import Document

from agentprm.rerank import CrossEncoderReranker
from agentprm.retrievers import SentenceTransformerEmbeddings
from agentprm.training.data import ReadingRecord
from agentprm.training.feedback_encoder import (
    FeedbackExample,
    feedback_examples,
    train_feedback_encoder,
)
from agentprm.training.fitting import TrainSettings
from agentprm.training.rerankers import (
    RelevancePair,
    relevance_examples,
    relevance_pairs,
    train_cross_encoder,
)

WORDS = "red blue green yes no who wrote the play step one two three"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """Folder of a tiny random encoder, as sentence-transformers writes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()])
    )
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder / "raw")
    tokenizer.save_pretrained(folder / "raw")
    whole = Transformer(str(folder / "raw"), max_seq_length=64)
    SentenceTransformer(modules=[whole, Pooling(32)], device="cpu").save_pretrained(str(folder / "st"))
    return folder


QUICK = TrainSettings(epochs=30, learning_rate=5e-3, batch_tokens=256, precision="fp32")
PAIRS = [
    RelevancePair("who wrote the play", f"{colour} {word}", float(word == "yes"))
    for colour in ("red", "blue", "green")
    for word in ("yes", "no")
]


def record(**more):
    row = {
        "question": "who wrote the play",
        "answers": ["red"],
        "passages": [
            {"title": "one", "text": "red yes", "gold": True},
            *({"title": f"t{i}", "text": f"blue {i}"} for i in range(6)),
        ],
    }
    return ReadingRecord.model_validate({**row, **more})


def test_a_cross_encoder_learns_to_rank(bert, tmp_path):
    out = tmp_path / "c"
    train_cross_encoder(PAIRS, out, bert / "raw", settings=QUICK, device="cpu")
    reranker = CrossEncoderReranker(model=str(out))
    documents = [Document(page_content=pair.passage) for pair in PAIRS]
    ranked = reranker.compress_documents(documents, PAIRS[0].question)
    assert {document.page_content.split()[1] for document in ranked[:3]} == {"yes"}
    assert train_cross_encoder(PAIRS, out, bert / "raw", settings=QUICK, device="cpu") is None
    card = json.loads((out / "card.json").read_text())
    assert "model.safetensors" in card["files"]


def test_gold_passages_and_others_become_pairs_and_prompts():
    pairs = relevance_pairs([record(), record(answers=[])], negatives=2)
    assert [pair.label for pair in pairs] == [1, 0, 0, 0, 0]
    assert pairs[0].passage == "one: red yes"
    examples = relevance_examples(pairs[:2])
    assert [example.reply.strip() for example in examples] == ["1", "0"]
    assert "Reply 1 or 0" in examples[0].prompt.messages[-1][1]


def test_feedback_examples_take_what_the_index_gives():
    found = [Document(page_content=text) for text in ("blue 1", "red yes", "blue 2", "blue 3")]
    [example] = feedback_examples([record(), record(passages=[])], lambda _: found, depth=2, negatives=2)
    assert example == FeedbackExample(
        "who wrote the play", ("blue 1", "red yes"), ("red yes",), ("blue 1", "blue 2")
    )


EXAMPLES = [
    FeedbackExample("who wrote", (f"{a} step",), (f"{a} one",), (f"{b} one", f"{b} two"))
    for a, b in (("red", "blue"), ("blue", "red"), ("green", "red"), ("red", "green"))
]


def test_a_feedback_encoder_finds_what_the_passages_point_to(bert, tmp_path):
    one = TrainSettings(max_steps=1, batch_tokens=4096, precision="fp32")
    report = train_feedback_encoder(EXAMPLES, tmp_path / "one", bert / "st", settings=one, device="cpu")
    base = SentenceTransformerEmbeddings(str(bert / "st"), device="cpu")

    def loss(encoder):
        total = 0.0
        for example in EXAMPLES:
            query = encoder.embed_query(" [SEP] ".join([example.query, *example.feedback]))
            vectors = base.embed_documents([*example.positives, *example.negatives])
            scores = [20 * math.fsum(a * b for a, b in zip(query, v, strict=True)) for v in vectors]
            total -= scores[0] - math.log(math.fsum(map(math.exp, scores)))
        return total / len(EXAMPLES)

    assert report.losses[0][1] == pytest.approx(loss(base), rel=1e-3)
    train_feedback_encoder(EXAMPLES, tmp_path / "f", bert / "st", settings=QUICK, device="cpu")
    assert loss(SentenceTransformerEmbeddings(str(tmp_path / "f"), device="cpu")) < 0.5 * loss(base)
