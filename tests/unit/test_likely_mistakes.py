"""What people do wrong first: one sentence says what, and what to do instead."""

import sys
from pathlib import Path

import pytest
from langchain_core.documents import Document

from agentprm.errors import ConfigurationError, InputError, MissingDependencyError
from agentprm.rerank import CrossEncoderReranker, FunctionComparator, PairwiseReranker
from agentprm.rewards import Checked, Grounding, VerdictReward, as_trajectory, load_reward
from agentprm.rewards.checkers import ArithmeticChecker
from agentprm.testing import ScriptedLanguageModel


@pytest.mark.parametrize("name", ["/no/such/folder", "./no_such", "no/such/folder", Path("no/such/folder")])
def test_a_folder_that_is_not_there(name):
    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    from agentprm.engine.tokenizing import load_tokenizer
    from agentprm.lm import TransformersLM

    for load in (
        load_reward,
        TransformersLM,
        load_tokenizer,
        lambda path: PairwiseReranker(model=str(path)),
        lambda path: CrossEncoderReranker(model=str(path)),
    ):
        with pytest.raises(ConfigurationError, match=r"does not exist\. Pass a folder"):
            load(name)


def test_a_file_for_a_folder(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="is no folder"):
        load_reward(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "wrong",
    [
        "1 + 1 = 2",
        ["1 + 1 = 2"],
        as_trajectory("1 + 1 = 2"),  # one trajectory, not a list of them
        [["1 + 1 = 2"]],
    ],
)
def test_texts_for_trajectories(wrong):
    model = ScriptedLanguageModel({}, likelihood=lambda prompt, continuation: -1.0)
    for reward in (Grounding(model), VerdictReward(model), Checked(None, [ArithmeticChecker()])):
        with pytest.raises(InputError, match=r"score\(question, \[as_trajectory\(solution\)\]\)"):
            reward.score("What is 1 + 1?", wrong)


def test_a_checker_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(MissingDependencyError, match=r"sympy is not installed.*agentprm\[formal\]"):
        ArithmeticChecker()


async def test_reranking_nothing_sensible():
    reranker = PairwiseReranker(model=FunctionComparator(lambda query, a, b: 0.7))
    documents = [Document(page_content="a"), Document(page_content="b")]
    for query in ("", "  ", None):
        with pytest.raises(InputError, match="a query that is not empty"):
            reranker.compress_documents(documents, query)
        with pytest.raises(InputError, match="a query that is not empty"):
            await reranker.acompress_documents(documents, query)
    with pytest.raises(InputError, match=r"documents, not str: Document\(page_content=text\)"):
        reranker.compress_documents(["a", "b"], "q")
