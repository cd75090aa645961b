"""The ways of a question, a query and a score are those that the docs list, and get no longer."""

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from agentprm.graphs import create_reasoning_graph  # noqa: E402
from agentprm.lm import TransformersLM  # noqa: E402
from agentprm.retrievers import FaissStore, default_retriever  # noqa: E402
from agentprm.rewards import load_reward  # noqa: E402
from tests.unit.lm.conftest import build_model, build_tokenizer  # noqa: E402
from tests.unit.rewards import conftest as reward_models  # noqa: E402
from tests.walks import check, hold, walk  # noqa: E402

QUESTION = "Where was the engineer of the Clifton Bridge born?"
PASSAGES = {
    "Clifton Bridge": "The Clifton Bridge was designed by Brunel.",
    "Brunel": "Brunel was born in Portsmouth.",
    "Paris": "Paris lies on the Seine.",
}
STEP = {"query": "Who designed it?", "passages": [PASSAGES["Clifton Bridge"]], "thought": "Brunel"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def new_store():
    documents = [Document(id=t, page_content=p, metadata={"title": t}) for t, p in PASSAGES.items()]
    return FaissStore.from_documents(documents, DeterministicFakeEmbedding(size=16))


def saying(text):
    """A local model that says `text` after every colon: its layers add nothing, its head knows bigrams."""
    tokenizer = build_tokenizer()
    model = build_model("llama", len(tokenizer))
    model.config.max_position_embeddings = 4096
    ids = tokenizer(f":{text}", add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == len(ids)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weights.zero_()
        seen = model.get_input_embeddings().weight
        seen = seen / seen.square().mean(1, keepdim=True).sqrt()
        head = torch.zeros_like(model.lm_head.weight)
        for before, after in zip(ids, [*ids[1:], tokenizer.eos_token_id], strict=True):
            head[after] += seen[before]
        model.lm_head.weight = torch.nn.Parameter(head)
    return TransformersLM(model, tokenizer)


def way_of_a_question(source):
    graph = create_reasoning_graph(saying(" Brunel"), source, max_steps=2, threshold=None).compile()
    answers = []
    found = walk(lambda: answers.append(graph.invoke({"question": QUESTION})))
    assert answers[0]["answer"] == "Brunel"
    assert {step["status"] for step in answers[0]["prm_steps"]} == {"committed"}
    return found


def test_the_way_of_a_question():
    check("question → answer", way_of_a_question(new_store()))


def test_the_way_of_a_question_by_vectors_alone():
    hold("question → answer", way_of_a_question(new_store().as_retriever()), column=1)


@pytest.mark.models
def test_the_way_of_a_plan():
    from agentprm.packaged import default_reader

    graph = create_reasoning_graph(saying(" Brunel"), new_store(), reader=default_reader()).compile()
    answers = []
    found = walk(lambda: answers.append(graph.invoke({"question": QUESTION})))
    assert answers[0]["answer"] == "Portsmouth"
    hold("question → answer, a plan that a reader follows", found)


def test_the_way_of_a_query():
    retriever = default_retriever(new_store())
    found = walk(lambda: retriever.invoke(QUESTION))
    check("query → passages", found)


def test_the_way_of_a_score(tmp_path):
    tokenizer = reward_models.build_tokenizer()
    reward_models.build("LlamaForCausalLM", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def score():
        reward = load_reward(str(tmp_path), "math-shepherd")
        return reward.score(QUESTION, [[{**STEP, "final_answer": None}]])

    score()  # what is imported on the way is no station
    check("name → scores", walk(score))
