"""Graded verdicts: probabilities from the likeliest tokens that chat models and servers report."""

import json
import math
from itertools import count

import pytest

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_reasoning_graph
from agentprm.lm import ChatLM, Completion, Prompt, SamplingParams, ServerLM, TokenLogprob
from agentprm.lm.reports import summed, token_logprobs
from agentprm.rewards import Calibrated, Judge, VerdictReward, as_trajectory, default_reward
from agentprm.rewards.verdict import listed_probability
from agentprm.rewards.verdict_templates import StepChecks
from agentprm.testing import (
    LlamaCppServer,
    OllamaServer,
    OpenAIReasoningServer,
    OpenAIServer,
    ScriptedLanguageModel,
    fake_store,
)

FAIR, GOOD = as_trajectory(["It may be 7."]), as_trajectory(["It is 7."])


def likely(conversation, token):
    """Both steps are called right, one of them with less confidence."""
    if token.strip() not in ("Yes", "No"):
        return {token: 1.0}
    yes = 0.6 if "It may be" in conversation else 0.9
    return {token: yes - 0.1, "yes": 0.1, " no": 0.9 - yes, " Perhaps": 0.1}


def chat_openai(server, **options):
    openai = pytest.importorskip("langchain_openai")
    return openai.ChatOpenAI(
        model=server.model, api_key="sk-key", base_url=server.url, max_retries=0, **options
    )


def chat_ollama(server):
    return pytest.importorskip("langchain_ollama").ChatOllama(model="llama3.2", base_url=server.root)


# ------------------------------------------------------------------------ over HTTP

KINDS = {
    "openai": (OpenAIServer, chat_openai),
    "openai, bound": (OpenAIServer, lambda server: chat_openai(server).bind(user="u").with_retry()),
    "served": (OpenAIServer, lambda server: ServerLM(server.url)),
    "ollama": (OllamaServer, chat_ollama),
    "thinking": (lambda s, likely: OllamaServer(s, thought="Verdict: No. No?", likely=likely), chat_ollama),
}


@pytest.mark.enable_socket
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", ["Fine.\n\nVerdict: Yes", "Fine: **Verdict:** Yes.", "It holds.\nYes"])
async def test_verdicts_are_graded(kind, said):
    start, connect = KINDS[kind]
    with start({"": said}, likely=likely) as server:
        reward = default_reward(connect(server))
        assert isinstance(reward, VerdictReward)
        (fair,), (good,) = reward.score("q", [FAIR, GOOD])
        assert (fair, good) == (pytest.approx(0.6 / 0.9), pytest.approx(1.0))
        assert await reward.ascore("q2", [FAIR]) == [[pytest.approx(fair)]]
        assert (reward.graded, reward.counted) == (3, 0)
        assert "graded=3, counted=0" in repr(reward)
        if kind.startswith("openai"):
            body = server.bodies()[-1]
            assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
        # Several samples are averaged, and labels counted where that is asked for.
        assert VerdictReward(connect(server), k=3).score("q", [FAIR]) == [[pytest.approx(fair)]]
        words = VerdictReward(connect(server), soft=False)
        assert words.score("q", [FAIR]) == [[1.0]]
        assert not server.bodies()[-1].get("logprobs")
        assert (words.graded, words.counted) == (0, 1)


@pytest.mark.enable_socket
def test_the_graph_picks_the_likelier_step():
    numbers = count()

    def script(text):
        if "Verdict:" in text:
            return "It holds.\n\nVerdict: Yes"
        if "Ask first for" in text:
            query = ("Who owns the bridge?", "Who designed the bridge?")[next(numbers) % 2]
            return json.dumps({"search": query, "final_answer": None})
        return "It may be Brunel." if "Question: Who owns" in text else "It is Brunel."

    with OpenAIServer(script, likely=likely) as server:
        model = ChatLM(chat_openai(server), max_concurrency=1)
        graph = create_reasoning_graph(
            model, fake_store(["Brunel designed the bridge."]), candidates=2, max_steps=2, threshold=None
        ).compile()
        steps = graph.invoke({"question": "Where was he born?"})["prm_steps"]
        scores = {step["query"]: step["score"] for step in steps if step["depth"] == 1}
        assert scores["Who designed the bridge?"] > scores["Who owns the bridge?"]
        chosen = [s["query"] for s in steps if s["status"] == "committed" and s["depth"] == 1]
        assert chosen == ["Who designed the bridge?"]


@pytest.mark.enable_socket
@pytest.mark.parametrize("connect", [chat_openai, lambda server: ServerLM(server.url)])
async def test_a_refusal_is_learned_once_and_labels_are_counted(connect):
    with OpenAIReasoningServer({"": "Verdict: Yes"}) as server:
        reward = default_reward(connect(server))
        assert reward.score("q", [FAIR]) == [[1.0]]
        assert (reward.graded, reward.counted) == (0, 1)
        assert any("logprobs" in body for body in server.bodies())
        server.requests.clear()
        assert await reward.ascore("q2", [FAIR]) == [[1.0]]
        (body,) = server.bodies()
        assert not {"logprobs", "top_logprobs"} & set(body)


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "You are not allowed to request logprobs from this model"),
        (400, "logprobs is not supported by this endpoint"),
        (422, '{"loc": ["body", "top_logprobs"], "msg": "Input should be less than or equal to 5"}'),
    ],
)
def test_wordings_of_refusals(status, said):
    with OpenAIServer({"": "Verdict: Yes"}, likely=likely) as server:
        server.faults.append((status, {"error": {"message": said}}))
        reward = default_reward(chat_openai(server))
        assert reward.score("q", [FAIR]) == [[1.0]]
        assert ["logprobs" in body for body in server.bodies()] == [True, False]


@pytest.mark.enable_socket
def test_a_key_that_may_not_ask_is_no_refusal_of_a_setting():
    with OpenAIServer({"": "Verdict: Yes"}) as server:
        server.faults.append((403, {"error": {"message": "temperature of this project: not allowed"}}))
        with pytest.raises(Exception, match="403"):
            default_reward(chat_openai(server)).score("q", [FAIR])
        assert len(server.bodies()) == 1


@pytest.mark.enable_socket
def test_a_server_that_ignores_the_wish_counts_labels():
    with LlamaCppServer({"": "Verdict: Yes"}) as server:
        reward = default_reward(chat_openai(server))
        assert reward.score("q", [FAIR]) == [[1.0]]
        assert (reward.graded, reward.counted) == (0, 1)


@pytest.mark.enable_socket
def test_completions_have_their_tokens_only_where_they_are_asked_for():
    ask = Prompt((("user", "Where?"),))
    with OpenAIServer({"": "In São Paulo.\nEND"}, likely=lambda c, t: {t: 0.5}) as server:
        for lm in (ChatLM(chat_openai(server)), ServerLM(server.url)):
            plain = lm.sample([ask], 1, SamplingParams())[0][0]
            assert plain.token_logprobs == ()
            full = lm.sample([ask], 1, SamplingParams(top_logprobs=3, stop=("\n",)))[0][0]
            assert full.text == "In São Paulo."
            assert "".join(token.token for token in full.token_logprobs) == full.text
            assert [token.at for token in full.token_logprobs] == [0, 2, 6, 12]
            assert full.token_logprobs[1].top == ((" São", math.log(0.5)),)
            assert full.logprob == pytest.approx(6 * math.log(0.5))  # with what the stop string cut
    with pytest.raises(ConfigurationError, match="top_logprobs"):
        SamplingParams(top_logprobs=-1)


@pytest.mark.enable_socket
def test_graded_verdicts_can_be_calibrated():
    with OpenAIServer({"": "Verdict: Yes"}, likely=likely) as server:
        raw = default_reward(chat_openai(server))
        reward = Calibrated.fit(raw, ["q"] * 4, [FAIR, GOOD] * 2, [[False], [True]] * 2, method="platt")
        (fair,), (good,) = reward.score("q", [FAIR, GOOD])
        assert fair < 0.5 < good


# ------------------------------------------------------------------------ reports


def row(token, logprob=-0.5, top=(), data=None):
    listed = [{"token": t, "logprob": p} for t, p in top]
    return {"token": token, "logprob": logprob, "bytes": data, "top_logprobs": listed}


def test_tokens_are_placed_in_the_text():
    halves = "é".encode()
    rows = [row("<think>"), row("Yes"), row("</think>\n"), row("\\xc3", data=[halves[0]])]
    rows += [row("\\xa9", data=[halves[1]]), row(" Yes"), row("<|end|>", data=None)]
    for report in (rows, {"content": rows}):
        tokens = token_logprobs(report, "é Yes")
        assert [(t.at, t.token) for t in tokens[::2]] == [(0, "\\xc3"), (1, " Yes")]
        assert summed(report) == pytest.approx(-3.5)


@pytest.mark.parametrize(
    "report",
    [None, {}, {"content": None}, [], ["x"], [row("No")], [row("Yes", None)], [row("Yes", "x")], 3],
)
def test_reports_that_say_nothing(report):
    assert token_logprobs(report, "Yes") == ()


def test_odd_numbers_of_a_report():
    (token,) = token_logprobs([row("Yes", -math.inf, [("No", math.nan), ("Hm", -1.0)])], "Yes")
    assert (token.logprob, token.top) == (-math.inf, (("Hm", -1.0),))
    assert token_logprobs([row("Yes", math.nan)], "Yes") == ()


# ------------------------------------------------------------------------ probabilities


def completion(*pieces):
    """A completion of `(token, {listed: probability})`."""
    tokens, at = [], 0
    for token, listed in pieces:
        top = tuple((t, math.log(p)) for t, p in listed.items())
        tokens.append(TokenLogprob(at, token, dict(top).get(token, math.log(0.01)), top))
        at += len(token)
    return Completion("".join(token for token, _ in pieces), len(pieces), "stop", None, tuple(tokens))


def read(done, template=None, opening=""):
    template = template or Judge()
    text = opening + done.text
    return listed_probability(template.find(text, "q", 1)[-1], text, done)


V = ("Verdict:", {"Verdict:": 1.0})


@pytest.mark.parametrize(
    ("token", "listed", "expected"),
    [
        (" Yes", {" Yes": 0.8, " No": 0.2}, 0.8),
        (" No", {" Yes": 0.2, " No": 0.8}, 0.2),
        (" Yes", {" Yes": 0.4, "Yes": 0.1, " YES": 0.1, " No": 0.1, " no": 0.1}, 0.75),
        (" Yes", {" Yes": 0.6, " Y": 0.1, " **No": 0.1, " Not": 0.1, " Nothing": 0.1}, 0.875),
        # Beyond the list: at most the last one listed, and at most what is left.
        (" Yes", {" Yes": 0.9, " Perhaps": 0.02}, 0.9 / 0.92),
        (" Yes", {" Yes": 0.999, " Well": 0.0009}, 0.999 / 0.9991),
        (" No", {" No": 0.9}, 0.1),
        (" Yes", {" Yes": 1.0}, 1.0),
        # A token that was sampled from below the list.
        (" No", {" Yes": 0.9, " Perhaps": 0.05}, 0.9 / 0.91),
        (" **Yes", {" **Yes": 0.5, " **No": 0.25, " Yes": 0.25}, 0.75),
    ],
)
def test_both_words_are_summed_over_the_list(token, listed, expected):
    assert read(completion(V, (token, listed), (".", {".": 1.0}))) == pytest.approx(expected)


def test_words_of_several_tokens_are_read_where_they_part():
    said = [("\\boxed{", {"\\boxed{": 1.0})]
    parts = completion(*said, ("in", {"correct": 0.3, "in": 0.6}), ("correct", {"correct": 1.0}), ("}", {}))
    assert read(parts, StepChecks()) == pytest.approx(1 / 3)
    judge = Judge(good="supported", bad="supporting")
    stem = (" support", {" support": 0.9, " No": 0.1})
    ends = ("ed", {"ed": 0.7, "ing": 0.1, "s": 0.2})
    assert read(completion(V, stem, ends), judge) == pytest.approx(7 / 8)


def test_the_last_verdict_counts_and_a_turn_may_have_an_opening():
    first = (" No", {" No": 0.9, " Yes": 0.1})
    done = completion(V, first, ("\n", {}), V, (" Yes", {" Yes": 0.7, " No": 0.3}))
    assert read(done, opening="Verdict: No. Let me see.\n") == pytest.approx(0.7)


def test_what_cannot_be_read_is_no_probability():
    assert read(Completion("Verdict: Yes", 2, "stop")) is None
    assert read(completion(V, (" good", {" good": 1.0})), Judge(good="good", bad="goods")) is None
    done = completion(V, (" Yes", {" Yes": 0.5}))
    assert read(done, opening="") == pytest.approx(0.5)
    # In the opening no token was generated.
    text = "Verdict: Yes\nx"
    assert listed_probability(Judge().find("Verdict: Yes", "q", 1)[-1], text, completion(("x", {}))) is None


def test_likelihoods_are_preferred():
    lm = ScriptedLanguageModel({"": "Verdict: Yes"}, likelihood=lambda p, w: math.log(0.5))
    reward = VerdictReward(lm)
    assert reward.score("q", [FAIR]) == [[0.5]]
    assert reward.params.top_logprobs == 0
    assert (reward.graded, reward.counted) == (1, 0)
