"""Chunks: where they end, how long they are, and that nothing is lost."""

from __future__ import annotations

import types
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentprm.retrievers import load_folder
from agentprm.retrievers.embeddings import token_measure
from agentprm.retrievers.splitting import Measure, split_text
from agentprm.testing import FakeEmbeddings

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


def test_chunks_end_at_the_best_place():
    paragraphs = "\n\n".join(f"Paragraph {i} is here. It has two sentences." for i in range(6))
    assert all(c.startswith("Para") and c.endswith("sentences.") for c in split_text(paragraphs, 100, 0))
    lines = "\n".join(f"line {i} of text" for i in range(20))
    assert all(c.startswith("line") and c.endswith("text") for c in split_text(lines, 50, 0))
    sentences = "This is one. " * 20
    assert set(split_text(sentences, 60, 0)) == {"This is one. This is one. This is one. This is one."}
    chinese = "今天天气很好我们出门。" * 10
    assert all(c.endswith("。") for c in split_text(chinese, 40, 0))
    assert all(c.split() == ["word"] * 4 for c in split_text("word " * 16, 20, 0))
    assert split_text("x" * 25, 10, 0) == ["x" * 10, "x" * 10, "x" * 5]


def test_headings_of_markdown_begin_chunks_but_comments_in_code_do_not():
    text = "intro " * 8 + "\n```\n# comment\ncode\n```\n" + "# Heading\n" + "text " * 8
    first, second = split_text(text, len(text) - 5, 0, markdown=True)
    assert "# comment" in first
    assert second.startswith("# Heading")


def test_chunks_overlap_by_whole_words():
    chunks = split_text(" ".join(f"w{i}" for i in range(100)), 50, 15)
    for left, right in pairwise(chunks):
        shared = set(left.split()) & set(right.split())
        assert 1 <= len(shared) <= 4


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="ab .\n。#漢`\u0301 ", max_size=300),
    st.integers(1, 20),
    st.integers(0, 19),
    st.booleans(),
    st.booleans(),
)
def test_nothing_is_lost_and_nothing_too_long(text, size, overlap, markdown, measured):
    measure = Measure(4, lambda text: range(0, len(text), 2)) if measured else None
    chunks = split_text(text, size, min(overlap, size - 1), markdown=markdown, measure=measure)
    assert all(0 < len(chunk) <= (min(size, 9) if measured else size) for chunk in chunks)
    assert all(chunk == chunk.strip() and chunk in text for chunk in chunks)
    assert not Counter("".join(text.split())) - Counter("".join("".join(chunks).split()))


class WithTokens(FakeEmbeddings):
    """Embeddings as LangChain's HuggingFaceEmbeddings: the model is an attribute. A token is a word."""

    def __init__(self, longest):
        super().__init__()
        model = tokenizers.models.WordLevel({"?": 0}, unk_token="?")
        backend = tokenizers.Tokenizer(model)
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.enable_truncation(3)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
        self._client = types.SimpleNamespace(max_seq_length=longest, tokenizer=tokenizer)


def test_chunks_keep_to_what_the_embedding_model_reads(tmp_path):
    (tmp_path / "a.txt").write_text("abcdefg " * 100)
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 1, "text": "%s"}\n{"id": 2, "text": "short"}' % ("long " * 40)
    )
    assert token_measure(FakeEmbeddings()) is None
    documents, skipped = load_folder(tmp_path, embeddings=WithTokens(22))  # two of them in reserve
    chunks = [d.page_content for d in documents if d.metadata["source"] == "a.txt"]
    assert all(len(chunk.split()) <= 20 for chunk in chunks)
    assert sum(chunk.count("abcdefg") for chunk in chunks) >= 100
    assert [s.source for s in skipped] == ["rows.jsonl"]
    assert skipped[0].reason.startswith("1 of 2 passages are longer than the 20 tokens")


@pytest.mark.models
def test_the_packaged_model_reads_every_chunk_whole(tmp_path):
    from agentprm.packaged import default_embeddings

    embeddings = default_embeddings()
    words = "Schlüsselworte 東京タワー antidisestablishmentarianism x=1;y[2]={3:4} हिन्दी. "
    (tmp_path / "a.txt").write_text(words * 100)
    documents, skipped = load_folder(tmp_path, embeddings=embeddings)
    assert skipped == []
    tokenizer = transformers.AutoTokenizer.from_pretrained(embeddings.model_name)
    counts = [len(tokenizer(d.page_content, truncation=False)["input_ids"]) for d in documents]
    assert 128 < max(counts) <= 256


@pytest.mark.models
def test_half_a_surrogate_can_be_embedded():
    from agentprm.packaged import default_embeddings

    embeddings = default_embeddings()
    assert embeddings.embed_query("what\ud83d is it") == embeddings.embed_query("what\ufffd is it")


@pytest.mark.models
def test_a_text_that_is_not_read_to_its_end_is_told_once(caplog):
    from agentprm.packaged import default_embeddings

    embeddings = default_embeddings()
    embeddings.embed_documents(["short"])
    assert caplog.messages == []
    embeddings.embed_documents(["short", "many words " * 200])
    embeddings.embed_documents(["many words " * 200])
    (message,) = caplog.messages
    assert "1 of 2 texts" in message
