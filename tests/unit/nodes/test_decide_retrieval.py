"""Retrieve or not: the need by marker and by verdict, what is read of replies, routes, budgets, the graph."""

import asyncio
import math

import pytest

from agentprm.errors import ConfigurationError
from agentprm.graphs import create_adaptive_rag_graph
from agentprm.lm import Capabilities, Completion, LanguageModel, TokenLogprob, as_language_model
from agentprm.nodes import DecideRetrieval, RetrievalNeed
from agentprm.nodes.choices import chosen
from agentprm.nodes.decide_retrieval import NEEDED, marker_probability
from agentprm.prompts import ChatTemplate
from agentprm.routines import drive
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel, fake_store

KNOWN, UNKNOWN = "What is the capital of France?", "Where was Brunel born?"


def chat(text):
    if "Text:" in text:
        return "Portsmouth"
    return "RETRIEVE" if UNKNOWN in text else "Paris"


def local(probability, reply=" Paris"):
    """A model that continues a prefix, and finds the marker or `Yes` so likely."""
    words = {" RETRIEVE": probability, " Yes": probability, " No": 1 - probability}
    return ScriptedLanguageModel(
        lambda text: " Portsmouth" if "Text:" in text else reply,
        likelihood=lambda prompt, word: math.log(words[word]),
    )


def listed(*tokens):
    """A completion of tokens, each `(text, probability, {other: probability})`."""
    text, made = "", []
    for said, probability, others in tokens:
        top = tuple((other, math.log(p)) for other, p in others.items())
        made.append(TokenLogprob(len(text), said, math.log(probability), top))
        text += said
    return Completion(text, len(made), "stop", token_logprobs=tuple(made))


class Reporting(LanguageModel):
    """A chat model that reports log-probabilities."""

    capabilities = Capabilities()

    def __init__(self, completion):
        self.completion, self.asked = completion, []

    def sample(self, prompts, n=1, params=None):
        self.asked.append(params.top_logprobs)
        return [[self.completion] * n for _ in prompts]


@pytest.mark.parametrize("probability", [0.01, 0.49, 0.5, 0.97])
def test_the_likelihood_of_the_marker_decides(probability):
    model = local(probability)
    update = DecideRetrieval(model).invoke({"question": KNOWN})
    assert update["need"] == pytest.approx(probability)
    assert update["route"] == ("retrieve" if probability >= 0.5 else "answered")
    # The answer is written only where it will be used.
    assert len(model.prompts) == (probability < 0.5)
    assert update["answer"] == ("" if probability >= 0.5 else "Paris")
    assert [word for _, word in model.scored] == [" RETRIEVE"]


@pytest.mark.parametrize(("probability", "route"), [(0.2, "answer"), (0.8, "retrieve")])
def test_a_verdict_is_a_probability_of_two_words(probability, route):
    update = DecideRetrieval(RetrievalNeed(local(probability), by="verdict")).invoke({"question": KNOWN})
    assert update["need"] == pytest.approx(probability)
    assert (update["route"], update["answer"]) == (route, "")


def test_the_marker_in_a_reply():
    assert DecideRetrieval(ScriptedChatModel(script=chat)).invoke({"question": UNKNOWN})["need"] == 1.0
    update = DecideRetrieval(ScriptedChatModel(script=chat)).invoke({"question": KNOWN})
    assert (update["need"], update["answer"], update["prm_usage"]["model_calls"]) == (0.0, "Paris", 1)


@pytest.mark.parametrize(
    "reply", ["RETRIEVE", "**RETRIEVE**", "Retrieve.", "<think>Paris?</think>\nRETRIEVE"]
)
def test_the_marker_may_be_dressed(reply):
    need = RetrievalNeed(ScriptedChatModel(script=lambda text: reply))
    assert need(UNKNOWN) == 1.0
    assert drive(need.estimate(UNKNOWN)).answer == ""


@pytest.mark.parametrize("reply", ["", "<think>hm", "..."])
def test_a_reply_without_a_word_leads_to_retrieval(reply):
    model = ScriptedChatModel(script=lambda text: reply)
    update = DecideRetrieval(model).invoke({"question": KNOWN})
    assert (update["need"], update["route"]) == (None, "retrieve")
    assert RetrievalNeed(model)(KNOWN) == 1.0


def test_reported_probabilities_of_the_marker():
    written = listed(("RET", 0.8, {"RET": 0.8, "Paris": 0.2}), ("RIEVE", 0.9, {"RIEVE": 0.9}))
    assert marker_probability("RETRIEVE", written) == pytest.approx(0.72)
    other = listed(("Paris", 0.7, {"Paris": 0.7, "RET": 0.2, "R": 0.05, "Ret": 0.01}))
    assert marker_probability("RETRIEVE", other) == pytest.approx(0.25)
    parted = listed(("RET", 0.8, {}), ("URN", 0.6, {"URN": 0.6, "RIEVE": 0.3}))
    assert marker_probability("RETRIEVE", parted) == pytest.approx(0.8 * 0.3)
    led = listed(("\n", 1.0, {}), (" RETRIEVE", 0.6, {}), (".", 0.9, {}))
    assert marker_probability("RETRIEVE", led) == pytest.approx(0.6)
    assert marker_probability("RETRIEVE", listed(("RETRIEVER", 0.6, {}))) == 0.0
    assert marker_probability("RETRIEVE", Completion("Paris", 1, "stop")) is None


def test_a_chat_model_is_asked_for_its_probabilities():
    model = Reporting(listed(("Paris", 0.7, {"Paris": 0.7, "RETRIEVE": 0.3})))
    update = DecideRetrieval(model, threshold=0.25).invoke({"question": KNOWN})
    assert model.asked == [20]
    assert update["need"] == pytest.approx(0.3)
    assert update["route"] == "retrieve"
    model = Reporting(listed(("Yes", 0.6, {"Yes": 0.6, "No": 0.2})))
    assert RetrievalNeed(model, by="verdict")(KNOWN) == pytest.approx(0.75)


@pytest.mark.parametrize(("value", "route"), [(True, "retrieve"), (False, "answer"), (0.7, "retrieve")])
def test_a_function_decides(value, route):
    update = DecideRetrieval(lambda question: value).invoke({"question": KNOWN})
    assert update["route"] == route
    assert update["need"] == float(value)


def test_async_is_the_same():
    for model in (local(0.2), local(0.8), ScriptedChatModel(script=chat)):
        node = DecideRetrieval(model)
        for question in (KNOWN, UNKNOWN):
            update = asyncio.run(node.ainvoke({"question": question}))
            for found in (update, before := node.invoke({"question": question})):
                found["prm_usage"] = {**found["prm_usage"], "seconds": 0}
            assert update == before


def test_without_a_call_for_the_decision_it_retrieves():
    model = ScriptedChatModel(script=chat)
    node = DecideRetrieval(model, budget={"model_calls": 1})
    assert node.invoke({"question": KNOWN})["route"] == "retrieve"
    assert model.prompts == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: DecideRetrieval(7),
        lambda: RetrievalNeed(local(0.5), by="word"),
        lambda: RetrievalNeed(local(0.5), marker="<RET>"),
        lambda: RetrievalNeed(local(0.5), marker=" "),
        lambda: DecideRetrieval(lambda q: True, threshold="high"),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigurationError):
        wrong()


def test_a_marker_of_ones_own():
    template = ChatTemplate(fields=("question",), user="{question}\nSay <RET> if you do not know.")
    model = ScriptedChatModel(script={"Brunel": "<RET>", "": "<b>Paris</b>"})
    need = RetrievalNeed(model, marker="<RET>", template=template)
    assert (need(UNKNOWN), need(KNOWN)) == (1.0, 0.0)


def test_the_graph_retrieves_only_where_it_must():
    store, model = fake_store(["Brunel was born in Portsmouth."]), ScriptedChatModel(script=chat)
    graph = create_adaptive_rag_graph(model, store).compile()
    known, unknown = (graph.invoke({"messages": [("user", question)]}) for question in (KNOWN, UNKNOWN))
    assert (known["answer"], known["route"], known["documents"]) == ("Paris", "answered", [])
    assert [m.text for m in known["messages"]] == [KNOWN, "Paris"]
    assert (known["prm_usage"]["model_calls"], known["prm_usage"]["retrievals"]) == (1, 0)
    assert (unknown["answer"], unknown["route"]) == ("Portsmouth", "retrieve")
    assert [c["doc_id"] for c in unknown["citations"]] == ["d1"]
    assert (unknown["prm_usage"]["model_calls"], unknown["prm_usage"]["retrievals"]) == (2, 1)


def test_the_graph_writes_an_answer_in_another_form_anew():
    model = ScriptedChatModel(script={"one sentence": "It is Paris.", "": "Paris"})
    graph = create_adaptive_rag_graph(model, fake_store(["x"]), form="one sentence").compile()
    result = graph.invoke({"question": KNOWN})
    assert (result["answer"], [m.text for m in result["messages"]]) == (
        "It is Paris.",
        [KNOWN, "It is Paris."],
    )


def test_the_threshold_of_a_run():
    graph = create_adaptive_rag_graph(local(0.3), fake_store(["Brunel was born in Portsmouth."])).compile()
    assert graph.invoke({"question": KNOWN})["route"] == "answered"
    assert graph.invoke({"question": KNOWN}, context={"threshold": 0.2})["route"] == "retrieve"


def test_choices_of_several_words():
    prompts = [NEEDED.render(question="x")] * 2
    model = as_language_model(ScriptedChatModel(script=lambda text: "Mode: agentic"))
    assert drive(chosen(model, prompts, ("instant", "agentic", "none"))) == [[0.0, 1.0, 0.0]] * 2
    assert drive(chosen(model, prompts, ("instant", "none"))) == [None, None]
    shares = {" a": 0.5, " b": 0.25, " c": 0.25}
    scored = ScriptedLanguageModel({}, likelihood=lambda prompt, word: math.log(shares[word]) - 3)
    assert drive(chosen(scored, prompts[:1], ("a", "b", "c")))[0] == pytest.approx([0.5, 0.25, 0.25])
