"""What is printed in a notebook or by `help` is short: settings and names, no prompts and no data."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import agentprm
from agentprm import Plain, SearchBudget, create_rag_graph, create_reasoning_graph
from agentprm.errors import CapabilityError, MissingDependencyError
from agentprm.lm import ChatLM
from agentprm.nodes import Answer, CondenseQuestion, JudgeAnswer, ProposeSteps, Retrieve, ScoreSteps
from agentprm.prompts import PROMPTS
from agentprm.rerank import ListwiseReranker, PairwiseReranker, RubricReranker, SetwiseReranker
from agentprm.retrievers import HybridRetriever, default_retriever
from agentprm.rewards import Grounding, SelfJudgement, VerdictReward, default_reward
from agentprm.testing import FakeReward, ScriptedChatModel, ScriptedLanguageModel, fake_store

PACKAGES = [
    info.name
    for info in pkgutil.walk_packages(agentprm.__path__, "agentprm.")
    if info.ispkg and "._" not in info.name
]
MODEL = ScriptedLanguageModel({"a prompt": "a long reply " * 100})
STORE = fake_store(["A passage that is rather long. " * 20] * 2)
REWARD = FakeReward()


@pytest.mark.parametrize("name", ["agentprm", *PACKAGES])
def test_signatures_are_short(name):
    """`help` prints a signature with the `repr` of every default."""
    try:
        module = importlib.import_module(name)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for exported in module.__all__:
        try:
            value = getattr(module, exported)
            signature = inspect.signature(value)
        except (TypeError, ValueError, MissingDependencyError, CapabilityError):
            continue  # not callable, or of an extra that is not installed
        for parameter in signature.parameters.values():
            default = parameter.default
            assert default is parameter.empty or len(repr(default)) < 400, (exported, parameter.name)
        assert len(str(signature)) < 1500, exported


@pytest.mark.parametrize(
    "value",
    [
        Answer(MODEL),
        ChatLM(ScriptedChatModel(script={})),
        CondenseQuestion(MODEL),
        Grounding(MODEL),
        HybridRetriever(STORE),
        JudgeAnswer(REWARD),
        ListwiseReranker(model=MODEL),
        MODEL,
        PROMPTS,
        PROMPTS.compare,
        PairwiseReranker(model=MODEL),
        Plain(),
        ProposeSteps(MODEL),
        REWARD,
        Retrieve(STORE),
        RubricReranker(model=MODEL),
        STORE,
        ScoreSteps(REWARD),
        SearchBudget(model_calls=3),
        SelfJudgement(MODEL),
        SetwiseReranker(model=MODEL),
        VerdictReward(MODEL),
        create_rag_graph(MODEL, STORE),
        create_reasoning_graph(MODEL, STORE).compile(),
        default_retriever(STORE),
        default_reward(MODEL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_are_printed_short(value):
    text = repr(value)
    assert len(text) < 300
    assert "\n" not in text
    assert "a long reply" not in text
