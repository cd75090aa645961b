"""Reading a model at any ends of any texts, against plain forward passes, over random trees of texts."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from agentprm.engine.engine import Engine  # noqa: E402
from agentprm.engine.reading import Call, Reading, read_outputs, read_tokens  # noqa: E402
from agentprm.engine.scheduler import Scheduler  # noqa: E402
from agentprm.rewards.checkpoints import HeadModel, split_model, word_model  # noqa: E402

VOCABULARY = 50
KINDS = {
    "qwen2": ("Qwen2ForTokenClassification", {"labels": 2}),
    "mistral-window": ("MistralForTokenClassification", {"labels": 2, "sliding_window": 7}),
    "gemma2-window": ("Gemma2ForTokenClassification", {"labels": 2, "sliding_window": 7, "head_dim": 8}),
}


@pytest.fixture(scope="module", params=KINDS)
def model(request, tiny):
    kind, more = KINDS[request.param]
    return tiny.model(kind, VOCABULARY, **more)


def plain(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]


# Texts that often begin alike: pieces from a small pool, one after another.
POOL = [[3], [4, 5], [6] * 9, [7, 8] * 10, [9, 10, 11] * 8, [12]]
TRUNK = st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=5).map(
    lambda chosen: [token for i in chosen for token in POOL[i]]
)


@st.composite
def readings(draw):
    trunk = draw(TRUNK)
    ends = draw(
        st.lists(
            st.tuples(
                st.integers(1, len(trunk)),
                st.lists(st.integers(20, 40), max_size=3).map(tuple),
            ),
            min_size=1,
            max_size=5,
        )
    )
    return Reading(trunk, ends)


@given(
    st.lists(st.lists(readings(), min_size=1, max_size=4), min_size=1, max_size=3),
    st.sampled_from([8, 10**4]),
)
@settings(deadline=None, max_examples=8)
def test_outputs_equal_plain_forward_passes(model, calls, max_slots):
    scheduler = Scheduler(Engine(HeadModel(*split_model(model)), 2**20), max_slots)
    for call in calls:  # one after the other on the same prefix tree
        got = read_outputs(scheduler, call, Call())
        for reading, outputs in zip(call, got, strict=True):
            assert outputs.shape == (len(reading.ends), 2)
            for (count, leaf), output in zip(reading.ends, outputs, strict=True):
                want = plain(model, [*reading.tokens[:count], *leaf])
                assert torch.allclose(output, want, atol=1e-4, rtol=1e-4)


@given(st.lists(st.tuples(TRUNK, st.integers(0, 100)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=8)
def test_token_scores_equal_plain_forward_passes(words, texts):
    scheduler = Scheduler(Engine(words, 2**20), 10**4)
    wanted = [(ids, 1 + begin % len(ids)) for ids, begin in texts]
    for (ids, begin), scores in zip(wanted, read_tokens(scheduler, wanted, Call()), strict=True):
        with torch.no_grad():
            logits = words(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        want = [float(logits[i - 1, ids[i]]) for i in range(begin, len(ids))]
        assert scores.tolist() == pytest.approx(want, abs=1e-4)


@pytest.fixture(scope="module")
def words(tiny):
    return tiny.model("LlamaForCausalLM", VOCABULARY)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("LlamaForCausalLM", {}),
        ("Gemma2ForCausalLM", {"final_logit_softcapping": 2.0, "head_dim": 8}),
        ("GraniteForCausalLM", {"logits_scaling": 3.0}),
        ("CohereForCausalLM", {"logit_scale": 0.25}),
    ],
)
def test_two_words_of_any_vocabulary_head(kind, more, tiny):
    # Soft caps and scales are part of a model's logits; one that is not foreseen is computed in full.
    model = tiny.model(kind, VOCABULARY, **more)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        want = model(input_ids=ids).logits[..., [11, 4]]
        chosen = word_model(model, [11, 4])
        assert torch.allclose(chosen(input_ids=ids).logits, want, atol=1e-4)
    assert isinstance(chosen, HeadModel)
    with torch.no_grad():
        model.get_output_embeddings().register_forward_hook(
            lambda module, inputs, output: output + 1 / (1 + output**2)
        )
        want = model(input_ids=ids).logits[..., [11, 4]]
        odd = word_model(model, [11, 4])
        assert torch.allclose(odd(input_ids=ids).logits, want, atol=1e-4)
    assert not isinstance(odd, HeadModel)
