"""Log-ratios of two models: exact boundaries, the published ones, growth, and the cheap variant."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.budget import metered  # noqa: E402
from agentprm.errors import ConfigurationError, ContextLengthError  # noqa: E402
from agentprm.lm import TransformersLM  # noqa: E402
from agentprm.rewards import Dialogue, LogRatio, as_trajectory  # noqa: E402

QUESTION = "Natalia sold 48 clips in April and half as many in May. How many in all?"
STEPS = ["In May she sold 24 clips.", "Together that is 72.", "The answer is 72."]
OTHER = [STEPS[0], "The answer is 24 + 24."]


@pytest.fixture(scope="module")
def pair(tiny, tokenizer):
    return [tiny.model("LlamaForCausalLM", len(tokenizer), seed=seed, scale=4.0) for seed in (0, 1)]


def dialogue(tokenizer, answer=None, question=QUESTION):
    messages = [{"role": "user", "content": question}]
    messages += [] if answer is None else [{"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def logprobs(model, ids):
    """Log-probability of every token but the first, in one plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double().log_softmax(-1)
    return [float(logits[i, ids[i + 1]]) for i in range(len(ids) - 1)]


def numbered(steps):
    return [f"Step {k}: {step}" for k, step in enumerate(steps, 1)]


def exact(tokenizer, models, steps, beta):
    """Total log-ratio of each prefix's answer, tokenized by itself; then differences."""
    totals = []
    for k in range(len(steps) + 1):
        text = dialogue(tokenizer) + "".join(step + "\n\n" for step in numbered(steps[:k]))
        ids = ids_of(tokenizer, text)
        ours, theirs = (logprobs(model, ids) for model in models)
        totals.append(sum(ours) - sum(theirs))
    return [beta * (b - a) for a, b in itertools.pairwise(totals)]


def official(tokenizer, models, steps, beta):
    """As published: boundaries from re-rendered conversations, which end in the end-of-turn token."""
    whole = ids_of(tokenizer, dialogue(tokenizer, "\n\n".join(numbered(steps))))
    ratio = [a - b for a, b in zip(*(logprobs(model, whole) for model in models), strict=True)]
    bounds = []
    for k in range(len(steps) + 1):
        text = dialogue(tokenizer, "\n\n".join(numbered(steps)[:k])).strip()
        if 0 < k < len(steps):
            text += "\n\n"
        bounds.append(len(ids_of(tokenizer, text)) - 2)
    masked = [0.0 if i < bounds[0] else beta * value for i, value in enumerate(ratio)]
    cumulative = [sum(masked[: bound + 1]) for bound in bounds[1:]]
    return [b - a for a, b in zip([0.0, *cumulative], cumulative, strict=False)]


def score(reward, *trajectories):
    return reward.score(QUESTION, [as_trajectory(steps) for steps in trajectories])


def test_exact_boundaries_equal_plain_forward_passes(pair, tokenizer):
    reward = LogRatio(*pair, tokenizer=tokenizer, beta=0.05)
    assert reward.space == "logit"
    for steps, row in zip([STEPS, OTHER], score(reward, STEPS, OTHER), strict=True):
        assert row == pytest.approx(exact(tokenizer, pair, steps, 0.05), abs=1e-4)


def test_official_boundaries_are_reproduced(pair, tokenizer):
    reward = LogRatio(*pair, tokenizer=tokenizer, boundary="official", beta=0.05)
    got = score(reward, STEPS, [], OTHER)
    for steps, row in zip([STEPS, [], OTHER], got, strict=True):
        assert row == pytest.approx(official(tokenizer, pair, steps, 0.05) if steps else [], abs=1e-4)
    # They are not the exact ones: inner boundaries lie behind the step's end.
    assert got[0] != pytest.approx(exact(tokenizer, pair, STEPS, 0.05), abs=1e-3)


def test_sums_and_squashing(pair, tokenizer):
    single = score(LogRatio(*pair, tokenizer=tokenizer), STEPS)[0]
    sums = score(LogRatio(*pair, tokenizer=tokenizer, accumulate=True), STEPS)[0]
    assert sums == pytest.approx([sum(single[: k + 1]) for k in range(3)])
    squashed = LogRatio(*pair, tokenizer=tokenizer, sigmoid=True)
    assert squashed.space == "probability"
    assert score(squashed, STEPS)[0] == pytest.approx([1 / (1 + math.exp(-s)) for s in single])
    # The factor rescales and changes no order.
    tenth = score(LogRatio(*pair, tokenizer=tokenizer, beta=0.005), STEPS)[0]
    assert [10 * s for s in tenth] == pytest.approx(single, abs=1e-6)


def test_without_reference_and_with_the_question_as_the_only_difference(pair, tokenizer):
    alone = score(LogRatio(pair[0], tokenizer=tokenizer, beta=1.0), STEPS)[0]
    text = dialogue(tokenizer) + f"Step 1: {STEPS[0]}\n\n"
    head = len(ids_of(tokenizer, dialogue(tokenizer)))
    own = sum(logprobs(pair[0], ids_of(tokenizer, text))[head - 1 :])
    assert alone[0] == pytest.approx(own, abs=1e-4)
    lm = TransformersLM(pair[0], tokenizer)
    worth = LogRatio(lm, lm, reference_template=Dialogue(question=False), beta=1.0)
    blind = dialogue(tokenizer, question="(no question)")
    text = blind + f"Step 1: {STEPS[0]}\n\n"
    without = sum(logprobs(pair[0], ids_of(tokenizer, text))[len(ids_of(tokenizer, blind)) - 1 :])
    assert score(worth, STEPS)[0][0] == pytest.approx(own - without, abs=1e-4)


def test_a_grown_trajectory_costs_its_new_tokens(pair, tokenizer):
    # With one line break as the joiner every prefix's tokens are a beginning of the next one's.
    def made():
        return LogRatio(*pair, tokenizer=tokenizer, template=Dialogue(joiner="\n"))

    reward = made()
    first = score(reward, STEPS[:2])[0]
    new = len(ids_of(tokenizer, f"Step 3: {STEPS[2]}\n"))
    with metered() as meter:
        grown = score(reward, STEPS)[0]
    assert grown[:2] == first
    # The token before the new step predicts its first one; its last one predicts nothing yet.
    assert meter.usage["computed_tokens"] == 2 * new
    assert meter.usage["reward_calls"] == 1
    assert score(made(), STEPS)[0] == pytest.approx(grown, abs=1e-5)
    assert score(made(), OTHER, STEPS)[1] == pytest.approx(grown, abs=1e-5)


def test_prefixes_whose_tokens_do_not_nest(pair, tokenizer):
    # Without a line break between steps, the end of one may melt into the next.
    template = Dialogue(number=False, joiner=" ")
    steps = ["a an", "swer an", "swer"]
    texts = [dialogue(tokenizer) + "".join(step + " " for step in steps[:k]) for k in range(4)]
    ids = [ids_of(tokenizer, text) for text in texts]
    assert any(b[: len(a)] != a for a, b in itertools.pairwise(ids)), "the test needs a merge"
    totals = [sum(logprobs(pair[0], row)) - sum(logprobs(pair[1], row)) for row in ids]
    want = [b - a for a, b in itertools.pairwise(totals)]
    reward = LogRatio(*pair, tokenizer=tokenizer, template=template, beta=1.0)
    assert score(reward, steps)[0] == pytest.approx(want, abs=1e-4)


async def test_async_twin(pair, tokenizer):
    reward = LogRatio(*pair, tokenizer=tokenizer)
    rows = await reward.ascore(QUESTION, [as_trajectory(STEPS)])
    assert rows == score(LogRatio(*pair, tokenizer=tokenizer), STEPS)


def test_long_inputs_raise_or_are_reported(tiny, tokenizer):
    short = [tiny.model("LlamaForCausalLM", len(tokenizer), positions=90, seed=seed) for seed in (0, 1)]
    with pytest.raises(ContextLengthError, match="step 3"):
        score(LogRatio(*short, tokenizer=tokenizer), [*STEPS[:2], STEPS[2] * 3])
    told = LogRatio(*short, tokenizer=tokenizer, on_overflow="nan")
    row = score(told, [*STEPS[:2], STEPS[2] * 3])[0]
    assert row[:2] == pytest.approx(exact(tokenizer, short, STEPS[:2], 0.05), abs=1e-4)
    assert math.isnan(row[2])
    assert told.unscored == 1


def test_construction(pair, tokenizer, tiny):
    with pytest.raises(ConfigurationError, match="boundary"):
        LogRatio(*pair, tokenizer=tokenizer, boundary="late")
    with pytest.raises(ConfigurationError, match="beta"):
        LogRatio(*pair, tokenizer=tokenizer, beta=0)
    with pytest.raises(ConfigurationError, match="vocabulary"):
        LogRatio(pair[0], tiny.model("LlamaForCausalLM", 100), tokenizer=tokenizer)
