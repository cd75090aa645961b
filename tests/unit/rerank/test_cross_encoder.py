"""Cross-encoders: a tiny random one against plain forward passes, and LangChain's interface."""

import asyncio
import math

import numpy as np
import pytest
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from agentprm.rerank.pointwise import CrossEncoderReranker
from tests.unit.rerank.graded import best_first, documents, grade_in, places

TEXTS = ["the river in the north", "paris", "a poet of france wrote the play", "river", "the north"]
QUERY = "which river"


class Graded(BaseCrossEncoder):
    """LangChain's interface over the grade in the text; numpy numbers, as real ones give."""

    def __init__(self):
        self.batches = []

    def score(self, text_pairs):
        self.batches.append(text_pairs)
        return [np.float32(grade_in(text)) for _, text in text_pairs]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random BERT with one label, made on the spot, in a folder."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    return build(torch, tmp_path_factory.mktemp("cross-encoder"), labels=1)


def build(torch, path, labels):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = sorted({word for text in [*TEXTS, QUERY] for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(path / "vocab.txt"), model_max_length=32)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        num_labels=labels,
    )
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_sentence_transformers_model_equals_plain_forward_passes(folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    reranker = CrossEncoderReranker(model=folder, batch_size=2)
    ranking = reranker.rank([Document(text) for text in TEXTS], QUERY)
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        logits = [model.eval()(**tokenizer(QUERY, text, return_tensors="pt")).logits.item() for text in TEXTS]
    # sentence-transformers puts a sigmoid on a single label.
    assert ranking.scores == pytest.approx([1 / (1 + math.exp(-x)) for x in logits], abs=1e-5)
    assert len({round(score, 4) for score in ranking.scores}) == len(TEXTS)
    assert list(ranking.order) == best_first(logits)
    assert ranking.method == "cross-encoder"


def test_a_loaded_model_and_the_async_twin(folder):
    from sentence_transformers import CrossEncoder

    by_name = CrossEncoderReranker(model=str(folder))
    loaded = CrossEncoderReranker(model=CrossEncoder(str(folder)))
    given = [Document(text) for text in TEXTS]
    assert by_name.rank(given, QUERY).scores == loaded.rank(given, QUERY).scores
    assert asyncio.run(loaded.acompress_documents(given, QUERY)) == loaded.compress_documents(given, QUERY)


def test_a_classifier_with_several_labels_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="3 numbers"):
        CrossEncoderReranker(model=build(torch, tmp_path, labels=3))


def test_a_folder_without_a_model_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match="cannot be loaded"):
        CrossEncoderReranker(model=tmp_path)
    with pytest.raises(ValueError, match="no cross-encoder"):
        CrossEncoderReranker(model=3)
    with pytest.raises(ValueError, match="batch_size"):
        CrossEncoderReranker(model=Graded(), batch_size=0)


def test_langchain_cross_encoders():
    grades = [1, 5, 3, 5, 0]
    model = Graded()
    ranked = CrossEncoderReranker(model=model, batch_size=2, top_n=3).compress_documents(
        documents(grades), "the query"
    )
    assert places(ranked) == best_first(grades)[:3]
    assert [len(batch) for batch in model.batches] == [2, 2, 1]
    assert model.batches[0][0] == ("the query", "text 0 of grade 1")
    assert [type(d.metadata["rerank"]["score"]) for d in ranked] == [float] * 3


def test_a_pair_that_fails_costs_only_itself():
    class Broken(Graded):
        def score(self, text_pairs):
            if any("text 1 " in text for _, text in text_pairs):
                raise RuntimeError("bad pair")
            return [math.nan if "text 3 " in text else grade_in(text) for _, text in text_pairs]

    ranking = CrossEncoderReranker(model=Broken()).rank(documents([1, 9, 3, 9, 5]), "q")
    assert ranking.order == (4, 1, 2, 3, 0)
    assert (ranking.judging.calls, ranking.judging.failures) == (5, 2)


def test_numbers_of_the_wrong_shape_are_a_configuration_error():
    class Pairs(Graded):
        def score(self, text_pairs):
            return np.zeros((len(text_pairs), 2))

    class Short(Graded):
        def score(self, text_pairs):
            return [0.0]

    for model in (Pairs(), Short()):
        with pytest.raises(ValueError, match="one"):
            CrossEncoderReranker(model=model).rank(documents([1, 2]), "q")
