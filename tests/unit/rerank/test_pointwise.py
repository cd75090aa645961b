"""Query likelihood and label logits against plain forward passes; failures keep their place."""

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from agentprm.budget import metered
from agentprm.rerank.pointwise import LogitReranker, QueryLikelihoodReranker, order_by_scores
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel
from tests.unit.rerank.graded import best_first, documents, grade_in, places

TEXTS = [
    "The Seine flows through Paris.",
    "A poet from the north wrote the play.",
    "Über die Straße in 東京.",
    "user assistant system",
    "Paris is the capital of France and the river is the Seine.",
]
RERANKERS = [QueryLikelihoodReranker, LogitReranker]


def likelihood(prompt, continuation):
    if continuation.strip() == "No":
        return -10.0
    return grade_in(prompt) - 20.0


@given(st.lists(st.none() | st.integers(-3, 3), max_size=12))
@settings(deadline=None, max_examples=300)
def test_what_has_a_score_is_sorted_and_the_rest_keeps_its_place(scores):
    ranked = order_by_scores(scores)
    assert sorted(ranked.order) == list(range(len(scores)))
    for new, place in enumerate(ranked.order):
        if scores[place] is None:
            assert new == place
    with_score = [place for place in ranked.order if scores[place] is not None]
    known = [place for place, score in enumerate(scores) if score is not None]
    assert with_score == [known[i] for i in best_first([scores[place] for place in known])]
    # The scores that are reported never contradict the order.
    reported = [ranked.scores[place] for place in ranked.order]
    assert reported == sorted(reported, reverse=True)


def test_a_part_of_the_order_is_sorted_alone():
    assert order_by_scores([1, 2, 3, 4], [3, 0, 1]).order == [3, 1, 0]
    assert order_by_scores([1.0, 1.0, 2.0], [1, 0, 2]).order == [2, 1, 0]
    assert order_by_scores([None, None]).scores == [0.0, 0.0]


@pytest.mark.parametrize("kind", RERANKERS)
def test_passages_are_ranked_by_their_score(kind):
    grades = [1, 3, 0, 2, 3, 5]
    reranker = kind(model=ScriptedLanguageModel({}, likelihood=likelihood))
    given = documents(grades, same_id=True)
    ranked = reranker.compress_documents(given, "q")
    assert places(ranked) == best_first(grades)
    assert asyncio.run(reranker.acompress_documents(given, "q")) == ranked
    assert all("rerank" not in document.metadata for document in given)
    record = ranked[0].metadata["rerank"]
    assert (record["calls"], record["failures"], record["rank"], record["prior_rank"]) == (6, 0, 0, 5)
    assert [type(d.metadata["rerank"]["score"]) for d in ranked] == [float] * 6


@pytest.mark.parametrize("kind", RERANKERS)
def test_a_passage_on_which_the_judge_fails_keeps_its_place(kind):
    def broken(prompt, continuation):
        if "text 1 " in prompt:
            raise RuntimeError("too long")
        if "text 4 " in prompt:
            return math.nan
        return likelihood(prompt, continuation)

    reranker = kind(model=ScriptedLanguageModel({}, likelihood=broken))
    ranked = reranker.compress_documents(documents([0, 9, 1, 2, 9, 3]), "q")
    assert places(ranked) == [5, 1, 3, 2, 4, 0]
    record = ranked[0].metadata["rerank"]
    assert (record["calls"], record["failures"]) == (6, 2)
    assert all(math.isfinite(d.metadata["rerank"]["score"]) for d in ranked)


@pytest.mark.parametrize("kind", RERANKERS)
def test_a_budget_judges_the_top_of_the_list(kind):
    reranker = kind(model=ScriptedLanguageModel({}, likelihood=likelihood), max_judgements=3)
    ranking = reranker.rank(documents([0, 1, 2, 9, 9]), "q")
    assert ranking.order == (2, 1, 0, 3, 4)
    assert (ranking.judging.judgements, ranking.judging.stopped) == (3, "max_judgements")


@pytest.mark.parametrize("kind", RERANKERS)
def test_a_model_without_likelihoods_is_refused_at_construction(kind):
    with pytest.raises(ValueError, match="loglikelihood"):
        kind(model=ScriptedChatModel(script={}))


def test_logit_labels_and_scale():
    seen = []

    def record(prompt, continuation):
        seen.append(continuation)
        return {"1": -1.0, "0": -3.0}[continuation]

    model = ScriptedLanguageModel({}, likelihood=record)
    (document,) = LogitReranker(model=model, labels=("1", "0"), scale="logit").compress_documents(
        documents([0]), "q"
    )
    assert seen == ["1", "0"]
    assert document.metadata["rerank"]["score"] == 2.0
    assert document.metadata["rerank"]["method"] == "logit 1/0"
    (document,) = LogitReranker(model=model, labels=("1", "0")).compress_documents(documents([0]), "q")
    assert document.metadata["rerank"]["score"] == pytest.approx(math.exp(-1) / (math.exp(-1) + math.exp(-3)))
    for bad in (("Yes", "Yes"), ("Yes", "")):
        with pytest.raises(ValueError, match="labels"):
            LogitReranker(model=model, labels=bad)


def test_the_definition_and_a_title_are_shown():
    seen = []

    def record(prompt, continuation):
        seen.append(prompt)
        return -1.0

    model = ScriptedLanguageModel({}, likelihood=record)
    reranker = LogitReranker(model=model, definition="Relevant is what refutes the claim.", max_chars=12)
    document = Document("word " * 9, metadata={"title": "A title"})
    reranker.compress_documents([document], "the claim")
    assert "Relevant is what refutes the claim." in seen[0]
    assert "A title: word word […]" in seen[0]


@pytest.fixture(scope="module")
def tiny():
    """A random Llama and its tokenizer."""
    pytest.importorskip("torch")
    from agentprm.lm import TransformersLM
    from tests.unit.lm.conftest import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    return TransformersLM(build_model("llama", len(tokenizer)), tokenizer)


def forward_logprob(lm, prompt, continuation):
    """Sum of log-probabilities by one plain forward pass."""
    import torch

    messages = [{"role": role, "content": text} for role, text in prompt.messages]
    head = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before = lm.tokenizer(head + prompt.prefix, add_special_tokens=False)["input_ids"]
    whole = lm.tokenizer(head + prompt.prefix + continuation, add_special_tokens=False)["input_ids"]
    assert whole[: len(before)] == before
    with torch.no_grad():
        rows = lm.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(rows[at - 1, whole[at]].item() for at in range(len(before), len(whole)))


def test_query_likelihood_equals_plain_forward_passes(tiny):
    reranker = QueryLikelihoodReranker(model=tiny)
    query = "Where is the Seine?"
    with metered() as meter:
        ranking = reranker.rank([Document(text) for text in TEXTS], query)
    length = tiny.count_tokens([query])[0]
    expected = [
        forward_logprob(tiny, reranker.prompts.relate.render(prefill=True, passages=text), " " + query)
        / length
        for text in TEXTS
    ]
    assert ranking.scores == pytest.approx(expected, abs=1e-4)
    assert list(ranking.order) == best_first(expected)
    assert meter.usage["model_calls"] == 5
    # What the prompts have in common is computed once.
    assert meter.usage["computed_tokens"] < meter.usage["prompt_tokens"]


def test_logits_equal_plain_forward_passes(tiny):
    reranker = LogitReranker(model=tiny, scale="logit")
    ranking = reranker.rank([Document(text) for text in TEXTS], "Where is the Seine?")

    def prompt(text):
        return reranker.prompts.relevant.render(
            prefill=True,
            definition=reranker.definition,
            query="Where is the Seine?",
            passage=text,
            yes="Yes",
            no="No",
        )

    expected = [
        forward_logprob(tiny, prompt(text), "Yes") - forward_logprob(tiny, prompt(text), "No")
        for text in TEXTS
    ]
    assert ranking.scores == pytest.approx(expected, abs=1e-4)
    assert list(ranking.order) == best_first(expected)


def test_the_prompt_asks_for_the_labels_that_are_read():
    """ProRank answers 1 and 0; a prompt that asks for Yes or No would be another task."""
    asked = []

    def likelihood(prompt, continuation):
        asked.append((prompt, continuation))
        return -1.0

    model = ScriptedLanguageModel({}, likelihood=likelihood)
    found = [Document("Brunel designed it.")]
    LogitReranker(model=model, labels=("1", "0")).compress_documents(found, "Who?")
    assert all("Reply 1 or 0." in prompt and "Yes" not in prompt for prompt, _ in asked)
    assert {text.strip() for _, text in asked} == {"1", "0"}
    asked.clear()
    LogitReranker(model=model).compress_documents(found, "Who?")
    assert all("Reply Yes or No." in prompt for prompt, _ in asked)
