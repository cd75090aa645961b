"""One comparison on every backend of agentprm.lm, on a tiny random model; and what prefixes save."""

import asyncio

import pytest
from langchain_core.documents import Document

pytest.importorskip("transformers")

from agentprm.budget import metered
from agentprm.lm import ServerLM, TransformersLM, VllmLM
from agentprm.rerank import (
    GenerationComparator,
    PairwiseReranker,
    QueryLikelihoodComparator,
    ScoringComparator,
)
from tests.unit.lm.conftest import build_model, build_tokenizer, one_thread  # noqa: F401
from tests.unit.lm.toy_engine import Loopback, ToyEngine, vllm_answers, vllm_module

QUERY = "Who wrote the play?"
DOCUMENTS = [
    Document("The play was written by a poet.", id="1"),
    Document("Paris is a city on a river.", id="2"),
    Document("The river is the Seine.", id="3"),
    Document("A poet from the north wrote it.", id="4"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def network(tokenizer):
    return build_model("llama", len(tokenizer))


@pytest.fixture
def local(network, tokenizer):
    return TransformersLM(network, tokenizer)


def ranking(comparator):
    """All-pair, sync and async, which must agree."""
    one = PairwiseReranker(model=comparator, aggregation="all_pair", cache=None)
    result = one.rank(DOCUMENTS, QUERY)
    again = asyncio.run(one.arank(DOCUMENTS, QUERY))
    assert again.scores == pytest.approx(result.scores, abs=1e-4)
    assert result.judging.failures == 0
    return result


@pytest.mark.parametrize("make", [ScoringComparator, QueryLikelihoodComparator])
def test_verdicts_are_those_of_the_model_itself(local, network, tokenizer, make):
    """Against one prompt at a time, without cache, straight through the network."""
    import torch

    def loglikelihood(prompt, text):
        messages = [{"role": role, "content": content} for role, content in prompt.messages]
        begun = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        begun += prompt.prefix
        before = tokenizer(begun, add_special_tokens=False)["input_ids"]
        whole = tokenizer(begun + text, add_special_tokens=False)["input_ids"]
        assert whole[: len(before)] == before
        with torch.no_grad():
            rows = network(torch.tensor([whole])).logits[0].float().log_softmax(dim=-1)
        return sum(float(rows[i - 1, whole[i]]) for i in range(len(before), len(whole)))

    class Plain(TransformersLM):
        def loglikelihood(self, prompts, continuations):
            return [
                [loglikelihood(prompt, text) for text in texts]
                for prompt, texts in zip(prompts, continuations, strict=True)
            ]

    comparator, plain = make(local), make(Plain(network, tokenizer))
    pairs = [(a, b) for a in DOCUMENTS for b in DOCUMENTS if a is not b]
    found, expected = (c.compare(QUERY, pairs) for c in (comparator, plain))
    assert [v.p for v in found] == pytest.approx([v.p for v in expected], abs=1e-4)
    assert max(v.p for v in found) - min(v.p for v in found) > 0.02  # not all ties


@pytest.mark.enable_socket
@pytest.mark.parametrize("make", [ScoringComparator, QueryLikelihoodComparator, GenerationComparator])
def test_a_server_gives_the_same_order(local, network, tokenizer, make):
    with Loopback(vllm_answers(ToyEngine(network, tokenizer))) as server:
        remote = ServerLM(server.url, "toy", tokenizer=tokenizer)
        if make is not GenerationComparator:
            assert ranking(make(remote)).scores == pytest.approx(ranking(make(local)).scores, abs=1e-3)
        else:  # a random model decides nothing
            one = PairwiseReranker(model=make(remote), aggregation="all_pair", cache=None)
            assert one.rank(DOCUMENTS, QUERY).order == (0, 1, 2, 3)


def test_vllm_gives_the_same_order(local, network, tokenizer, monkeypatch):
    with vllm_module(monkeypatch, ToyEngine(network, tokenizer)), VllmLM("toy") as engine:
        assert ranking(ScoringComparator(engine)).scores == pytest.approx(
            ranking(ScoringComparator(local)).scores, abs=1e-3
        )


def test_comparisons_with_the_same_first_passage_share_their_beginning(local):
    """Of all prompts of all-pair little more than the second passages is computed."""
    comparator = ScoringComparator(local)
    prompts = [
        comparator._prompt((QUERY, a, b), prefill=True) for a in DOCUMENTS for b in DOCUMENTS if a is not b
    ]
    texts = [local._text.render(prompt) for prompt in prompts]
    ids = local._text.encode(texts)
    branches = {tuple(some[: i + 1]) for some in ids for i in range(len(some))}  # nodes of the prefix tree
    with metered() as meter:
        PairwiseReranker(model=comparator, aggregation="all_pair", cache=None).rank(DOCUMENTS, QUERY)
    assert meter.usage["prompt_tokens"] >= sum(map(len, ids))
    assert meter.usage["computed_tokens"] <= 1.2 * len(branches) + len(ids)
    assert meter.usage["computed_tokens"] < 0.6 * meter.usage["prompt_tokens"]
