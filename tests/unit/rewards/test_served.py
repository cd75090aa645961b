"""Served rewards against plain forward passes, over loopback and on a module that behaves like vLLM."""

import asyncio
import itertools
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.budget import metered  # noqa: E402
from agentprm.errors import (  # noqa: E402
    ConfigurationError,
    ContextLengthError,
    ModelServerError,
    TransientModelError,
)
from agentprm.lm import ServerLM, VllmLM  # noqa: E402
from agentprm.rewards import VerdictReward, as_trajectory, load_reward  # noqa: E402
from agentprm.rewards.served import ServedTokenHead  # noqa: E402
from agentprm.rewards.served_reward import (  # noqa: E402
    HttpClassifier,
    ServedLogRatio,
    ServedTokenLogits,
)
from agentprm.rewards.templates import ChatSteps, Dialogue, PlainSteps, TurnSteps  # noqa: E402
from tests.unit.lm.toy_engine import BLOCK, Loopback, ToyEngine, vllm_answers, vllm_module  # noqa: E402
from tests.unit.rewards.conftest import build, build_tokenizer  # noqa: E402

pytestmark = pytest.mark.enable_socket

QUESTION = "Natalia sold 48 clips in April and half as many in May. How many in all?"
THOUGHTS = [
    "In May she sold 48 / 2 = 24 clips, which is half of what she sold in April.",
    "Together that is\n48 + 24 = 72 clips.",
    "So she sold 72 clips altogether in April and May.",
    "The answer is 72.",
]
OTHER = [THOUGHTS[0], "So she sold 48 - 24 = 24 clips, the answer is 24."]
QWEN = ChatSteps(separator="<extra_0>")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def prm(tokenizer):
    return build("Qwen2ForTokenClassification", len(tokenizer), labels=2)


@pytest.fixture(scope="module")
def causal(tokenizer):
    return build("LlamaForCausalLM", len(tokenizer))


@pytest.fixture(scope="module")
def other(tokenizer):
    return build("LlamaForCausalLM", len(tokenizer), seed=1)


def outputs(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def expected(prm, tokenizer, thoughts, template=QWEN):
    rows = []
    for k in range(len(thoughts)):
        logits = outputs(prm, template.ids(tokenizer, QUESTION, thoughts[: k + 1]))[-1]
        rows.append(float(logits.double().softmax(dim=-1)[1]))
    return rows


@pytest.fixture
def serve():
    running = []

    def start(answer, delay=0.0):
        server = Loopback(answer, delay).__enter__()
        running.append(server)
        return server

    yield start
    for server in running:
        server.__exit__()


def pooling(prm, tokenizer, *, cached=False, shape=lambda rows, ids: rows, length=2048):
    """What a vLLM server for pooling answers; `cached` ones leave the rows of cached tokens out."""
    engine = ToyEngine(prm, tokenizer)

    def answer(method, path, body):
        if path == "/v1/models":
            return 200, {"data": [{"id": "prm", "max_model_len": length}]}
        assert (path, body["task"], body["use_activation"]) == ("/pooling", "token_classify", False)
        ids = body["input"]
        hits = engine.cached(ids, read=cached)
        rows = outputs(prm, ids)[hits:].tolist()
        return 200, {"data": [{"index": 0, "data": shape(rows, ids)}], "usage": {"prompt_tokens": len(ids)}}

    return answer


# ---------------------------------------------------------------------------- token heads


@pytest.mark.parametrize("cached", [False, True])
async def test_token_head_on_a_server(serve, prm, tokenizer, cached):
    server = serve(pooling(prm, tokenizer, cached=cached))
    right, wrong = expected(prm, tokenizer, THOUGHTS), expected(prm, tokenizer, OTHER)
    assert max(right) - min(right) > 0.01
    reward = ServedTokenHead(server.url, tokenizer, template=QWEN)
    assert reward.space == "probability"
    trajectories = [as_trajectory(THOUGHTS), as_trajectory(OTHER), []]
    found = reward.score(QUESTION, trajectories)
    assert found[0] == pytest.approx(right, abs=1e-5)
    assert found[1] == pytest.approx(wrong, abs=1e-5)
    assert found[2] == []
    server.log.clear()
    assert reward.score(QUESTION, trajectories) == found  # remembered
    assert not server.log
    again = ServedTokenHead(server.url, tokenizer, template=QWEN)
    # Now the server has everything in its cache but the ends of the texts.
    assert (await again.ascore(QUESTION, trajectories))[0] == pytest.approx(right, abs=1e-5)


def test_a_grown_trajectory_is_one_request(serve, prm, tokenizer):
    server = serve(pooling(prm, tokenizer, cached=True))
    right = expected(prm, tokenizer, THOUGHTS)
    reward = ServedTokenHead(server.url, tokenizer, template=QWEN)
    for k in range(1, len(THOUGHTS) + 1):
        server.log.clear()
        with metered() as meter:
            assert reward.score(QUESTION, [as_trajectory(THOUGHTS[:k])])[0] == pytest.approx(
                right[:k], abs=1e-5
            )
        assert len(server.bodies("/pooling")) == 1
        assert meter.usage["reward_calls"] == 1
        length = len(QWEN.ids(tokenizer, QUESTION, THOUGHTS[:k]))
        assert meter.usage["prompt_tokens"] == length
        if k > 1:
            new = length - len(QWEN.ids(tokenizer, QUESTION, THOUGHTS[: k - 1]))
            assert meter.usage["computed_tokens"] <= new + BLOCK


def test_servers_that_cannot_be_used(serve, prm, tokenizer):
    separator = tokenizer.convert_tokens_to_ids("<extra_0>")

    def steps_only(rows, ids):
        return [row for row, token in zip(rows, ids, strict=True) if token == separator]

    def make(shape, **options):
        server = serve(pooling(prm, tokenizer, shape=shape))
        return ServedTokenHead(server.url, tokenizer, template=QWEN, **options)

    with pytest.raises(ConfigurationError, match="tok_pooling_type"):
        make(steps_only)
    with pytest.raises(ConfigurationError, match="2 classes"):
        make(lambda rows, ids: rows, positive=(2,))
    for shape in (lambda r, i: [], lambda r, i: "x", lambda r, i: [["a"]], lambda r, i: {}):
        with pytest.raises(ModelServerError, match="no table"):
            make(shape)
    # A server that applies softmax whatever it is asked for: not applied twice.
    old = make(lambda rows, ids: torch.tensor(rows).softmax(dim=-1).tolist())
    right = expected(prm, tokenizer, THOUGHTS)
    assert old.score(QUESTION, [as_trajectory(THOUGHTS)])[0] == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
def test_a_head_of_one_number(serve, prm, tokenizer, activation):
    server = serve(pooling(prm, tokenizer, shape=lambda rows, ids: [row[0] for row in rows]))
    reward = ServedTokenHead(server.url, tokenizer, template=QWEN, positive=(0,), activation=activation)
    assert reward.space == ("logit" if activation == "none" else "probability")
    found = reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0]
    for k, score in enumerate(found):
        logit = float(outputs(prm, QWEN.ids(tokenizer, QUESTION, THOUGHTS[: k + 1]))[-1, 0])
        assert score == pytest.approx(logit if activation == "none" else 1 / (1 + math.exp(-logit)), abs=1e-4)


def test_large_logits_do_not_underflow(serve, prm, tokenizer):
    server = serve(pooling(prm, tokenizer, shape=lambda rows, ids: [[900.0, 875.0]] * len(rows)))
    reward = ServedTokenHead(server.url, tokenizer, template=QWEN)
    assert reward.score(QUESTION, [as_trajectory(THOUGHTS[:1])])[0][0] == pytest.approx(
        math.exp(-25), rel=1e-6
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_a_server_without_a_number_gives_no_score(serve, prm, tokenizer, activation):
    server = serve(pooling(prm, tokenizer, shape=lambda rows, ids: [[math.nan, 0.0]] * len(rows)))
    reward = ServedTokenHead(server.url, tokenizer, template=QWEN, positive=(0,), activation=activation)
    assert math.isnan(reward.score(QUESTION, [as_trajectory(THOUGHTS[:1])])[0][0])
    assert reward.unscored == 1


def test_too_long(serve, prm, tokenizer):
    length = len(QWEN.ids(tokenizer, QUESTION, THOUGHTS[:3]))
    server = serve(pooling(prm, tokenizer, length=length))
    with pytest.raises(ContextLengthError, match="step 4"):
        ServedTokenHead(server.url, tokenizer, template=QWEN).score(QUESTION, [as_trajectory(THOUGHTS)])
    reward = ServedTokenHead(server.url, tokenizer, template=QWEN, on_overflow="nan")
    found = reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0]
    assert found[:3] == pytest.approx(expected(prm, tokenizer, THOUGHTS[:3]), abs=1e-5)
    assert math.isnan(found[3])
    assert reward.unscored == 1


@pytest.mark.parametrize("made", ["here", "LLM"])
async def test_token_head_on_the_engine(monkeypatch, prm, tokenizer, made):
    toy = ToyEngine(prm, tokenizer, max_len=2048)
    with vllm_module(monkeypatch, toy, head=lambda ids: outputs(prm, ids)) as vllm:
        if made == "here":
            reward = ServedTokenHead("some/prm", template=QWEN, dtype="float32")
            pooler = {"tok_pooling_type": "ALL"}
            options = {"runner": "pooling", "pooler_config": pooler, "dtype": "float32"}
            assert vllm.started == [("some/prm", options)]
        else:
            reward = ServedTokenHead(vllm.LLM(), template=QWEN)
        assert reward.reads_cache
        right, wrong = expected(prm, tokenizer, THOUGHTS), expected(prm, tokenizer, OTHER)
        found = await reward.ascore(QUESTION, [as_trajectory(THOUGHTS[:2])])
        assert found[0] == pytest.approx(right[:2], abs=1e-5)
        with metered() as meter:
            found = reward.score(QUESTION, [as_trajectory(THOUGHTS), as_trajectory(OTHER)])
        assert found[0] == pytest.approx(right, abs=1e-5)
        assert found[1] == pytest.approx(wrong, abs=1e-5)
        assert meter.usage["reward_calls"] == 3
        # Step 3 lies in no cached block, so one text gives steps 3 and 4.
        assert meter.usage["computed_tokens"] < meter.usage["prompt_tokens"] / 2
        reward.close()
        assert len(vllm.stopped) == (made == "here")


def test_the_cache_is_not_read_where_it_gives_other_numbers(monkeypatch, prm, tokenizer):
    toy = ToyEngine(prm, tokenizer, max_len=2048)
    seen = set()

    def shifted(ids):
        rows = outputs(prm, ids)
        if tuple(ids) in seen:  # what was seen is read from the cache
            rows = rows.roll(1, dims=0)
        seen.add(tuple(ids))
        return rows

    with vllm_module(monkeypatch, toy, head=shifted) as vllm:
        reward = ServedTokenHead(vllm.LLM(), template=QWEN)
        assert not reward.reads_cache
        found = reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0]
        assert found == pytest.approx(expected(prm, tokenizer, THOUGHTS), abs=1e-5)


def test_bad_arguments(monkeypatch, serve, prm, tokenizer):
    server = serve(pooling(prm, tokenizer))
    with pytest.raises(ConfigurationError, match="tokenizer"):
        ServedTokenHead(server.url, template=QWEN)
    for options in ({"positive": ()}, {"activation": "tanh"}, {"on_overflow": "cut"}, {"name": "x"}):
        with pytest.raises(ConfigurationError):
            ServedTokenHead(server.url, tokenizer, template=QWEN, **options)
    with pytest.raises(ConfigurationError, match="tokens of this tokenizer"):
        ServedTokenHead(server.url, tokenizer, template=ChatSteps(separator="no such token"))
    for cls in (ServedTokenLogits, ServedLogRatio):
        with pytest.raises(ConfigurationError, match="ServerLM or VllmLM"):
            cls(object(), tokenizer=tokenizer, **({"template": QWEN} if cls is ServedTokenLogits else {}))


# -------------------------------------------------------------- prompt log-probabilities


@pytest.fixture(params=["server", "engine"])
def served(request, monkeypatch, serve, tokenizer):
    """Makes a served language model of a plain one."""
    if request.param == "server":
        yield lambda model, **o: ServerLM(serve(vllm_answers(ToyEngine(model, tokenizer, 1024), **o)).url)
        return

    def make(model, **switches):
        toy = ToyEngine(model, tokenizer, 1024)
        with vllm_module(monkeypatch, toy) as vllm:
            return VllmLM(vllm.LLM())

    yield make


@pytest.mark.parametrize("template", [TurnSteps(), PlainSteps(tag=" ки")])
async def test_words_after_a_prefix(served, causal, tokenizer, template):
    reward = ServedTokenLogits(served(causal), tokenizer, template=template)
    rows = []
    for k in range(len(THOUGHTS)):
        logits = outputs(causal, template.ids(tokenizer, QUESTION, THOUGHTS[: k + 1]))[-1]
        rows.append(float(logits[reward.words].double().softmax(dim=-1)[0]))
    with metered() as meter:
        found = reward.score(QUESTION, [as_trajectory(THOUGHTS), as_trajectory(THOUGHTS[:2])])
    assert found[0] == pytest.approx(rows, abs=1e-5)
    assert found[1] == found[0][:2]
    assert (meter.usage["reward_calls"], meter.usage["model_calls"]) == (4, 4)
    fresh = ServedTokenLogits(reward.model, tokenizer, template=template, words=reward.words)
    assert (await fresh.ascore(QUESTION, [as_trajectory(THOUGHTS)]))[0] == pytest.approx(rows, abs=1e-5)
    with pytest.raises(ConfigurationError, match="one token each"):
        ServedTokenLogits(reward.model, tokenizer, template=template, good="+", bad="+")
    with pytest.raises(ContextLengthError):
        reward.score(QUESTION, [as_trajectory(["clip " * 1100])])


def test_words_on_servers_that_only_echo(serve, causal, tokenizer):
    server = serve(vllm_answers(ToyEngine(causal, tokenizer, 1024), token_ids=False))
    reward = ServedTokenLogits(ServerLM(server.url), tokenizer, template=TurnSteps())
    logits = outputs(causal, TurnSteps().ids(tokenizer, QUESTION, THOUGHTS[:1]))[-1]
    right = float(logits[reward.words].double().softmax(dim=-1)[0])
    assert reward.score(QUESTION, [as_trajectory(THOUGHTS[:1])])[0][0] == pytest.approx(right, abs=1e-5)
    mute = ServerLM(serve(vllm_answers(ToyEngine(causal, tokenizer, 1024), echoes=False)).url)
    with pytest.raises(ConfigurationError, match="Serve the model with vLLM"):
        ServedTokenLogits(mute, tokenizer, template=TurnSteps())


@pytest.mark.parametrize("joiner", ["\n\n", ""])
def test_log_ratio(served, causal, other, tokenizer, joiner):
    template = Dialogue(number=False, joiner=joiner) if joiner else Dialogue(joiner=" ")
    # Without separators of their own the steps' boundaries melt into tokens.
    thoughts = THOUGHTS if joiner else ["So 4", "8 clips", "in all", "72"]
    model, reference = served(causal), served(other)
    reward = ServedLogRatio(model, reference, tokenizer=tokenizer, template=template, beta=0.5)
    assert reward.space == "logit"
    totals = []
    for side in (causal, other):
        row = [0.0]
        head = template.head(tokenizer, QUESTION)
        for k in range(len(thoughts)):
            ids = template.ids(tokenizer, QUESTION, thoughts[: k + 1])
            scores = outputs(side, ids).log_softmax(dim=-1)
            row.append(sum(float(scores[i - 1, ids[i]]) for i in range(len(head), len(ids))))
        totals.append([b - a for a, b in itertools.pairwise(row)])
    right = [0.5 * (a - b) for a, b in zip(*totals, strict=True)]
    found = reward.score(QUESTION, [as_trajectory(thoughts)])[0]
    assert found == pytest.approx(right, abs=1e-3)
    alone = ServedLogRatio(model, tokenizer=tokenizer, template=template, beta=1.0)
    for k in range(1, len(thoughts) + 1):  # grown step by step
        found = alone.score(QUESTION, [as_trajectory(thoughts[:k])])[0]
        assert found == pytest.approx(totals[0][:k], abs=1e-3)
    with pytest.raises(ConfigurationError, match="beta"):
        ServedLogRatio(model, tokenizer=tokenizer, beta=0)


# ------------------------------------------------------------------------- any classifier


def length_classifier(method, path, body):
    rows = [
        {"index": i, "label": "good", "probs": [0.9 - len(t) / 1000, 0.1 + len(t) / 1000]}
        for i, t in enumerate(body["input"])
    ]
    return 200, {"data": rows[::-1], "usage": {"prompt_tokens": 7 * len(rows)}}


async def test_a_classifier(serve):
    server = serve(length_classifier)
    reward = HttpClassifier(server.root + "/classify", "judge", batch=3)
    texts = ["\n\n".join([QUESTION, *THOUGHTS[: k + 1]]) for k in range(4)]
    with metered() as meter:
        found = reward.score(QUESTION, [as_trajectory(THOUGHTS), as_trajectory(THOUGHTS[:2])])
    assert found[0] == pytest.approx([0.1 + len(text) / 1000 for text in texts])
    assert found[1] == found[0][:2]
    assert sorted(len(body["input"]) for body in server.bodies("/classify")) == [1, 3]
    assert server.bodies("/classify")[0]["model"] == "judge"
    assert (meter.usage["prompt_tokens"], meter.usage["reward_calls"]) == (28, 4)
    last = HttpClassifier(
        server.root + "/classify", label=0, text=lambda question, steps: steps[-1], max_concurrency=1
    )
    found = await last.ascore(QUESTION, [as_trajectory(THOUGHTS)])
    assert found[0] == pytest.approx([0.9 - len(thought) / 1000 for thought in THOUGHTS])


def test_a_classifier_of_another_form(serve):
    """Text Embeddings Inference's `/predict`: nested lists in, labels and scores out."""

    def predict(method, path, body):
        return 200, [
            [{"label": "bad", "score": 0.25}, {"label": "good", "score": 0.75}] for _ in body["inputs"]
        ]

    reward = HttpClassifier(
        serve(predict).root + "/predict",
        body=lambda texts: {"inputs": [[text] for text in texts]},
        read=lambda reply: [{row["label"]: row["score"] for row in rows}["good"] for rows in reply],
    )
    assert reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0] == [0.75] * 4


@pytest.mark.parametrize(
    "reply",
    [
        {},
        [],
        {"data": []},
        {"data": [{"probs": [0.5]}]},
        {"data": [{"probs": [0.5, "x"]}]},
        {"data": [{"probs": [0.5, 1.5]}]},
        {"data": [{"probs": [0.5, math.nan]}]},
        {"data": 3},
        "garbage",
    ],
)
def test_malformed_replies_of_a_classifier(serve, reply):
    server = serve(length_classifier)
    server.faults.append(("/classify", reply))
    reward = HttpClassifier(server.root + "/classify")
    with pytest.raises(ModelServerError):
        reward.score(QUESTION, [as_trajectory(THOUGHTS[:1])])
    assert reward.score(QUESTION, [as_trajectory(THOUGHTS[:1])])[0][0] > 0.1


async def test_failures_and_cancellation(serve):
    server = serve(length_classifier)
    reward = HttpClassifier(server.root + "/classify", max_retries=0)
    server.faults.append(("/classify", 503))
    with pytest.raises(TransientModelError):
        reward.score(QUESTION, [as_trajectory(THOUGHTS[:1])])
    server.faults.append(("/classify", "hang"))
    task = asyncio.create_task(reward.ascore(QUESTION, [as_trajectory(THOUGHTS)]))
    await server.hung_up_on(task)
    for wrong in ({"batch": 0}, {"space": "x"}, {"max_concurrency": 0}):
        with pytest.raises(ConfigurationError):
            HttpClassifier(server.root + "/classify", **wrong)
    with pytest.raises(ConfigurationError):
        HttpClassifier("classify")


# --------------------------------------------------------------------- by their family


def lm_of(serve, answer, tokenizer):
    """A `ServerLM` of a server that knows no more than `answer` does."""

    def known(method, path, body):
        return answer(method, path, body) if path in ("/v1/models", "/pooling") else (404, {"error": path})

    return ServerLM(serve(known).url, tokenizer=tokenizer)


def test_a_served_token_head_by_its_family(serve, prm, tokenizer):
    reward = load_reward(lm_of(serve, pooling(prm, tokenizer), tokenizer), "qwen-prm", template=QWEN)
    assert isinstance(reward, ServedTokenHead)
    assert (reward.family.name, reward.threshold) == ("qwen-prm", 0.5)
    found = reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0]
    assert found == pytest.approx(expected(prm, tokenizer, THOUGHTS), abs=1e-5)


@pytest.mark.parametrize(("family", "space"), [("skywork", "probability"), ("reasonflux-scalar", "logit")])
def test_a_served_head_of_one_number_by_its_family(serve, prm, tokenizer, family, space):
    answer = pooling(prm, tokenizer, shape=lambda rows, ids: [row[0] for row in rows])
    reward = load_reward(lm_of(serve, answer, tokenizer), family)
    assert (type(reward), reward.space) == (ServedTokenHead, space)
    assert len(reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0]) == len(THOUGHTS)


def test_served_words_by_their_family(served, causal, tokenizer):
    model = served(causal)
    reward = load_reward(model, "rlhflow", tokenizer=tokenizer)
    plain = ServedTokenLogits(model, tokenizer, template=reward.template)
    assert isinstance(reward, ServedTokenLogits)
    trajectories = [as_trajectory(THOUGHTS)]
    assert reward.score(QUESTION, trajectories) == plain.score(QUESTION, trajectories)


def test_a_served_log_ratio_by_its_family(served, causal, other, tokenizer):
    reward = load_reward(served(causal), "implicit", reference=served(other), tokenizer=tokenizer)
    assert isinstance(reward, ServedLogRatio)
    assert len(reward.score(QUESTION, [as_trajectory(THOUGHTS)])[0]) == len(THOUGHTS)


def test_a_served_judge_by_its_family_and_by_its_address(serve, causal, tokenizer):
    address = serve(vllm_answers(ToyEngine(causal, tokenizer, 1024))).url
    for model in (ServerLM(address), address):
        reward = load_reward(model, "judge")
        assert isinstance(reward, VerdictReward)
        assert isinstance(reward.model, ServerLM)


def test_the_family_of_a_served_model_is_told_from_its_exact_name(serve, prm, tokenizer):
    def answer(method, path, body):
        if path == "/v1/models":
            return 200, {"data": [{"id": "Gen-Verse/ReasonFlux-PRM-7B", "max_model_len": 2048}]}
        return pooling(prm, tokenizer)(method, path, body)

    reward = load_reward(lm_of(serve, answer, tokenizer), template=QWEN)
    assert reward.family.name == "reasonflux"
    with pytest.raises(ConfigurationError, match="family="):
        load_reward(lm_of(serve, pooling(prm, tokenizer), tokenizer))


def test_what_a_server_cannot_give_is_said(serve, causal, tokenizer):
    mute = ServerLM(serve(vllm_answers(ToyEngine(causal, tokenizer, 1024), echoes=False)).url)
    with pytest.raises(ConfigurationError, match="Serve the model with vLLM"):
        load_reward(mute, "rlhflow", tokenizer=tokenizer)
    with pytest.raises(ConfigurationError, match=r"cannot be loaded with.*dtype"):
        load_reward(mute, "rlhflow", tokenizer=tokenizer, dtype="float32")
    with pytest.raises(ConfigurationError):  # it pools nothing
        load_reward(mute, "qwen-prm", tokenizer=tokenizer, template=QWEN)
