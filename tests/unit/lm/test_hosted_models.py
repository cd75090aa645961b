"""Chat models of today, over real HTTP, by themselves and in the graphs."""

import json

import pytest
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from pydantic import BaseModel

from agentprm.errors import (
    CapabilityError,
    ConfigurationError,
    ContextLengthError,
    ModelServerError,
    ParseError,
    TransientModelError,
)
from agentprm.graphs import create_rag_graph, create_reasoning_graph
from agentprm.lm import ChatLM, Prompt, SamplingParams, ServerLM, as_language_model
from agentprm.lm.retries import Retries
from agentprm.rerank import ListwiseReranker, PairwiseReranker, SetwiseReranker
from agentprm.rewards import Judge, VerdictReward
from agentprm.rewards.base import RewardStep
from agentprm.testing import (
    FakeReward,
    LlamaCppServer,
    OllamaServer,
    OpenAIReasoningServer,
    ScriptedChatModel,
    ScriptedLanguageModel,
    fake_store,
)

openai = pytest.importorskip("langchain_openai")
ollama = pytest.importorskip("langchain_ollama")
pytestmark = pytest.mark.enable_socket

ASK = Prompt((("system", "Be brief."), ("user", "Where?")))
WARM = SamplingParams(max_tokens=20, temperature=0.7, top_p=0.9, stop=("\n", "END"), seed=1)
PASSAGES = [
    "The Clifton bridge was designed by Brunel.",
    "Brunel was born in Portsmouth.",
    "Telford built the Menai bridge. Final answer: Telford. Search: Telford?",
]
QUESTION = "Where was the designer of the Clifton bridge born?"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    wait = Retries._wait
    monkeypatch.setattr(Retries, "_wait", lambda *arguments: min(wait(*arguments), 0.001))


def chat_openai(server, **options):
    return openai.ChatOpenAI(
        model=server.model, api_key="sk-key", base_url=server.url, max_retries=0, **options
    )


def chat_ollama(server, **options):
    return ollama.ChatOllama(model="llama3.2", base_url=server.root, **options)


def chatty(text):
    """A chat model's replies: a preamble, labels in markup, blank lines."""
    if "Ask the question again" in text:
        return "I know it now.\n\n**Final answer:** Portsmouth"
    if "Ask first for" in text:
        return "Sure, let me think… Search: Who designed the Clifton bridge?"
    if "Question: Who designed" in text:
        return "\n\n**Answer:** Brunel"
    if "Verdict:" in text:
        return "It holds.\n\nVerdict: Yes"
    return "\n\nPortsmouth:\n- in Hampshire\n- by the sea"


def in_json(text):
    """A model that keeps to the schema where it is asked to."""
    reply = chatty(text)
    if "JSON object" not in text:
        return reply
    final = "Final" in reply
    said = "Portsmouth" if final else "Who designed the Clifton bridge?"
    return json.dumps({"search": None if final else said, "final_answer": said if final else None})


THOUGHT = "Search: no? Verdict: No\nFinal answer: no\nAnswer: no"
KINDS = {
    "reasoning": (lambda s: OpenAIReasoningServer(s), chat_openai),
    "reasoning, served": (lambda s: OpenAIReasoningServer(s), lambda server: ServerLM(server.url)),
    "ollama": (lambda s: OllamaServer(s), chat_ollama),
    "ollama as openai": (lambda s: OllamaServer(s), chat_openai),
    "ollama, served": (lambda s: OllamaServer(s), lambda server: ServerLM(server.url, "llama3.2")),
    "thinking": (lambda s: OllamaServer(s, thought=THOUGHT), chat_ollama),
    "thinking, served": (lambda s: OllamaServer(s, thought=THOUGHT), lambda server: ServerLM(server.url)),
    "thinking apart": (
        lambda s: OllamaServer(s, thought=THOUGHT, apart=True),
        lambda s: chat_ollama(s, reasoning=True),
    ),
    "llama.cpp": (lambda s: LlamaCppServer(s), chat_openai),
    "llama.cpp, served": (lambda s: LlamaCppServer(s), lambda server: ServerLM(server.url)),
}


@pytest.fixture(params=KINDS)
def served(request):
    """Starts a server with a script and connects a model of one kind to it."""
    start, connect = KINDS[request.param]
    running = []

    def open_(script):
        running.append(start(script).__enter__())
        return running[-1], connect(running[-1])

    yield open_
    for server in running:
        server.__exit__()


@pytest.mark.parametrize("script", [chatty, in_json])
async def test_the_reasoning_graph(served, script):
    _, model = served(script)
    graph = create_reasoning_graph(
        model, fake_store(PASSAGES), FakeReward(lambda q, steps: 0.9), candidates=2
    )
    graph = graph.compile()
    for result in (graph.invoke({"question": QUESTION}), await graph.ainvoke({"question": QUESTION})):
        assert result["answer"] == "Portsmouth"
        assert result["prm_stop_reason"] == "answered"
        first = result["prm_steps"][0]
        assert (first["query"], first["thought"]) == ("Who designed the Clifton bridge?", "Brunel")
        assert {step["status"] for step in result["prm_steps"]} == {"committed"}


async def test_the_rag_graph(served):
    _, model = served(chatty)
    graph = create_rag_graph(model, fake_store(PASSAGES)).compile()
    for result in (graph.invoke({"question": QUESTION}), await graph.ainvoke({"question": QUESTION})):
        assert result["answer"] == "Portsmouth:\n- in Hampshire\n- by the sea"


def test_a_judge(served):
    _, model = served(chatty)
    reward = VerdictReward(model, Judge())
    step = RewardStep(query="", passages=[], thought="t", final_answer=None)
    assert reward.score("q", [[step]]) == [[1.0]]


class Place(BaseModel):
    """Where somebody was born."""

    town: str
    county: str


@pytest.mark.parametrize("wanted", [Place, Place.model_json_schema()])
async def test_answers_in_a_form_of_the_users(served, wanted):
    def script(text):
        if "county" in text:
            return '{"town": "Portsmouth", "county": "Hampshire"}'
        return (
            "In zwei Absätzen:\n\nPortsmouth."
            if "in German, in this form: two paragraphs" in text
            else chatty(text)
        )

    _, model = served(script)
    store, reward = fake_store(PASSAGES), FakeReward(lambda q, steps: 0.9)
    options = {"form": "two paragraphs", "language": "German", "max_tokens": 400}
    graphs = [
        create_rag_graph(model, store, **options),
        create_reasoning_graph(model, store, reward, **options),
    ]
    for graph in graphs:
        result = await graph.compile().ainvoke({"question": QUESTION})
        assert result["answer"] == "In zwei Absätzen:\n\nPortsmouth."
        assert result["messages"][-1].text == result["answer"]
    for graph in (
        create_rag_graph(model, store, response_format=wanted),
        create_reasoning_graph(model, store, reward, response_format=wanted),
    ):
        result = await graph.compile().ainvoke({"question": QUESTION})
        assert Place.model_validate_json(result["answer"]).county == "Hampshire"


def test_forms_that_cannot_be():
    store, lm = fake_store(PASSAGES), ScriptedLanguageModel({"": "x"})
    with pytest.raises(CapabilityError, match="held to a schema"):
        create_rag_graph(lm, store, response_format=Place)
    for wrong in ({"form": ""}, {"language": 3}, {"response_format": "json"}):
        with pytest.raises(ConfigurationError):
            create_rag_graph(lm, store, **wrong)


def test_an_answer_that_does_not_keep_to_the_schema_is_an_error():
    for reply in ("Portsmouth", '{"town": "Portsmouth"}'):
        with OllamaServer({"": reply}) as server:
            graph = create_rag_graph(
                chat_openai(server), fake_store(PASSAGES), response_format=Place
            ).compile()
            with pytest.raises(ParseError, match="response_format"):
                graph.invoke({"question": QUESTION})


def test_a_local_model_writes_lines_if_a_form_is_asked_for():
    asked = []

    class Seeing(ScriptedLanguageModel):
        def sample(self, prompts, n=1, params=None):
            asked.append((prompts[0].messages[-1][1], params))
            return super().sample(prompts, n, params)

    lm = Seeing({"": "one\n\ntwo"})
    for form, answer in ((None, "one"), ("two {odd} paragraphs", "one\n\ntwo")):
        graph = create_rag_graph(lm, fake_store(PASSAGES), form=form, max_tokens=77).compile()
        assert graph.invoke({"question": QUESTION})["answer"] == answer
    assert [params.max_tokens for _, params in asked] == [77, 77]
    assert "two {odd} paragraphs" in asked[1][0]


@pytest.mark.parametrize(
    "wrap", [lambda m: m.bind(stop=["@"]), lambda m: m.with_retry(), lambda m: m.with_fallbacks([m])]
)
def test_models_in_wrappings_judge_and_answer(wrap):
    model = wrap(ScriptedChatModel(script={"Verdict": "Verdict: Yes", "JSON": "{}", "": "Passage A"}))
    step = RewardStep(query="", passages=[], thought="t", final_answer=None)
    assert VerdictReward(model).score("q", [[step]]) == [[1.0]]
    documents = [Document(id=str(i), page_content=f"text {i}") for i in range(3)]
    for reranker in (
        PairwiseReranker(model=model),
        SetwiseReranker(model=model),
        ListwiseReranker(model=model),
    ):
        assert len(reranker.compress_documents(documents, "q")) == 3
    graph = create_rag_graph(model, fake_store(PASSAGES), reranker=model).compile()
    assert graph.invoke({"question": QUESTION})["answer"] == "Passage A"


async def test_models_that_the_config_chooses():
    init = pytest.importorskip("langchain.chat_models").init_chat_model
    with OllamaServer({"Where?": "Paris", "": "Portsmouth"}) as server:
        fixed = init("ollama:llama3.2", base_url=server.root)
        chosen = init(base_url=server.root, model_provider="ollama")  # by the run's config
        default = init(
            "ollama:llama3.2", configurable_fields="any", config_prefix="first", base_url=server.root
        )
        for model in (fixed, default, default.bind(stop=["@"]), default.with_retry()):
            lm = as_language_model(model)
            assert isinstance(lm, ChatLM)
            assert lm.sample([ASK], 2, WARM)[0][1].text == "Paris"
            assert server.bodies()[-1]["options"]["temperature"] == 0.7
        graph = create_rag_graph(chosen, fake_store(PASSAGES)).compile()
        for name in ("llama3.2", "llama3.2:latest"):
            config = {"configurable": {"model": name}}
            assert graph.invoke({"question": QUESTION}, config)["answer"] == "Portsmouth"
            assert server.bodies()[-1]["model"] == name
            assert (await graph.ainvoke({"question": QUESTION}, config))["answer"] == "Portsmouth"


# ------------------------------------------------------------------------ refusals


async def test_refusals_are_learned_once_for_a_model_however_often_it_is_wrapped():
    with OpenAIReasoningServer({"Where?": "Paris"}) as server:
        model = chat_openai(server)
        assert [c.text for c in ChatLM(model).sample([ASK], 3, WARM)[0]] == ["Paris"] * 3
        server.requests.clear()
        for lm in (ChatLM(model), ChatLM(model.with_retry()), ChatLM(model.bind(user="u"))):
            await lm.asample([ASK], 1, WARM)
            lm.sample([ASK], 1, WARM)
        bodies = server.bodies()
        assert len(bodies) == 6
        for body in bodies:
            assert not {"stop", "temperature", "top_p", "seed", "max_tokens"} & set(body)
            assert body["max_completion_tokens"] == 20 + 4096
        other = chat_openai(server)
        ChatLM(other).sample([ASK], 1, WARM)
        assert "temperature" in server.bodies()[6]


def test_a_fallback_is_not_taken_for_a_refusal():
    with OpenAIReasoningServer({"Where?": "Paris"}) as server, OllamaServer({"Where?": "other"}) as second:
        model = chat_openai(server).with_fallbacks([chat_openai(second)])
        assert ChatLM(model).sample([ASK], 1, WARM)[0][0].text == "Paris"
        assert not second.bodies()


def test_a_schema_that_is_refused_is_not_sent_again():
    schema = {"title": "place", "type": "object", "properties": {"place": {"type": "string"}}}
    with OllamaServer({"Where?": "Paris"}) as server:
        lm = ChatLM(chat_openai(server))
        assert lm.capabilities.structured
        server.faults += [(400, {"error": {"message": "'response_format' is not supported"}})]
        for _ in range(2):
            assert lm.sample([ASK], 1, SamplingParams(schema=schema))[0][0].text == "Paris"
        assert ["response_format" in body for body in server.bodies()] == [True, False, False]
        plain = ChatLM(chat_openai(server), structured=False)
        assert not plain.capabilities.structured


@pytest.mark.parametrize(
    "refusal",
    [
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}]},
        {"object": "error", "message": {"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}},
        {"code": "invalid argument", "error": "Argument not supported on this model: seed"},
        {"error": {"message": "Bad Request", "param": "seed", "code": "unsupported_parameter"}},
    ],
)
async def test_refusals_that_the_clients_message_leaves_out(refusal):
    with OllamaServer({"Where?": "Paris"}) as server:
        lm = ChatLM(chat_openai(server))
        server.faults += [(422, refusal)]
        assert (await lm.asample([ASK], 1, WARM))[0][0].text == "Paris"
        lm.sample([ASK], 1, WARM)
        assert ["seed" in body for body in server.bodies()] == [True, False, False]


def test_a_prompt_too_long_that_the_clients_message_leaves_out():
    with OllamaServer({}) as server:
        lm = ChatLM(chat_openai(server))
        server.faults += [(422, {"detail": "maximum context length is 8 tokens"})]
        with pytest.raises(ContextLengthError):
            lm.sample([ASK])


@pytest.mark.parametrize(
    "reply",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [{"message": {"content": "Paris"}, "finish_reason": None}]},
    ],
)
def test_replies_that_the_client_cannot_read(reply):
    with OllamaServer({}) as server:
        server.faults += [(200, reply)]
        with pytest.raises(ModelServerError, match="cannot read the reply"):
            ChatLM(chat_openai(server)).sample([ASK])


def test_a_key_that_the_server_echoes_is_in_no_error():
    with OllamaServer({}) as server:
        lm = ChatLM(chat_openai(server), max_retries=0)
        for status, kind in ((400, ModelServerError), (429, TransientModelError)):
            server.faults += [(status, {"error": {"message": "the key sk-key is odd"}})]
            with pytest.raises(kind, match=r"key \*\*\* is odd") as caught:
                lm.sample([ASK])
            assert "sk-key" not in repr(caught.value.__cause__)
            assert caught.value.__suppress_context__


@pytest.mark.parametrize("status", [400, 500])
def test_too_long(status):
    with LlamaCppServer({"Where?": "Paris"}, context=20, too_long_status=status) as server:
        with pytest.raises(ContextLengthError, match="context size"):
            ChatLM(chat_openai(server)).sample([Prompt((("user", "Where? " * 90),))])
        assert len(server.bodies()) == 1


def test_an_error_within_a_success():
    with OllamaServer({"Where?": "Paris"}) as server:
        lm = ChatLM(chat_openai(server), max_retries=1)
        server.faults += [(200, {"error": {"message": "Slow down", "code": 429}})]
        assert lm.sample([ASK])[0][0].text == "Paris"
        server.faults += [(200, {"error": {"message": "No credit left", "code": 402}})]
        with pytest.raises(Exception, match="No credit left"):
            lm.sample([ASK])
        broken = [{"index": 0, "finish_reason": "error", "message": {"role": "assistant", "content": "Pa"}}]
        server.faults += [
            (200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": broken})
        ]
        assert lm.sample([ASK])[0][0].text == "Paris"


# ------------------------------------------------------------------------ thoughts


@pytest.mark.parametrize(
    "content",
    [
        [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Bonn?"}]},
            {"type": "text", "text": "Paris"},
        ],
        [{"type": "thinking", "thinking": "Bonn?", "signature": "s"}, {"type": "text", "text": "Paris"}],
        [
            {"type": "reasoning_content", "reasoning_content": {"text": "Bonn?"}},
            {"type": "text", "text": "Paris"},
        ],
        ["Par", "is"],
    ],
)
def test_reasoning_blocks_are_no_text(content):
    lm = ChatLM(FakeMessagesListChatModel(responses=[AIMessage(content)]))
    assert lm.sample([ASK])[0][0].text == "Paris"


def test_a_reasoning_block_alone_is_asked_again_with_room():
    block = [{"type": "thinking", "thinking": "hm"}]
    cut = AIMessage(block, response_metadata={"stop_reason": "max_tokens"})
    lm = ChatLM(FakeMessagesListChatModel(responses=[cut, AIMessage("Paris")]))
    assert lm.sample([ASK], 1, SamplingParams(max_tokens=5))[0][0].text == "Paris"


def test_usage_that_is_none():
    usage = {"input_tokens": -4, "output_tokens": 2**70, "total_tokens": 1}
    model = FakeMessagesListChatModel(responses=[AIMessage("Paris", usage_metadata=usage)])
    assert ChatLM(model).sample([ASK])[0][0].tokens == 2
