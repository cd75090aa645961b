"""Early rejection by the first tokens of a finding: who survives, and from where it goes on."""

import asyncio

import pytest

from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.graphs import create_reasoning_graph
from agentprm.lm import Capabilities, Completion
from agentprm.nodes import BeginSteps, CompleteSteps, RejectEarly
from agentprm.state import new_step
from agentprm.testing import FakeReward, ScriptedLanguageModel, ScriptedReader
from tests.unit.world import QUESTION, store

FINDINGS = {
    "the Clifton Bridge?": " Brunel is the man who designed it all",
    "river": " Nobody here has any idea of that at all",
    "What colour": " Red",
    "Where was the engineer": " Portsmouth it is as far as we know",
}
QUERIES = [" Who designed the Clifton Bridge?", " Which river flows there?", " What colour is it?"]


class Words(ScriptedLanguageModel):
    """Continues what is begun, word by word, and stops where its tokens end."""

    def __init__(self, **kwargs):
        super().__init__(QUERIES, **kwargs)
        self.asked = []

    def sample(self, prompts, n=1, params=None):
        rows = super().sample(prompts, n, params)
        for place, prompt in enumerate(prompts):
            text = prompt.messages[-1][1]
            if prompt.prefix.startswith("Search:"):
                continue
            tail = text[text.rindex("Question:") :]
            whole = next(found for query, found in FINDINGS.items() if query in tail)
            begun = prompt.prefix.partition("Answer:")[2]
            assert whole.startswith(begun)
            words = whole[len(begun) :].split(" ")[1:]
            kept = words[: params.max_tokens]
            reason = "stop" if kept == words else "length"
            self.asked.append((whole.split()[0], begun, len(kept)))
            rows[place] = [Completion("".join(f" {w}" for w in kept), len(kept), reason)] * n
        return rows

    def _completion(self, text, params):
        return super()._completion(text if isinstance(text, str) else text[0], params)


def words():
    model = Words()
    model._script = lambda text: QUERIES if text.endswith("Search:") else ""
    return model


def score(question, path):
    seen.append(path[-1]["thought"])
    for mark, value in (("Brunel", 0.7), ("Portsmouth", 0.9), ("Red", 0.5)):
        if mark in path[-1]["thought"]:
            return value
    return 0.2


seen = []


def run(**kwargs):
    seen.clear()
    model = words()
    graph = create_reasoning_graph(
        model, store(), FakeReward(score), threshold=None, candidates=3, **{"max_steps": 2, **kwargs}
    )
    return graph.compile().invoke({"question": QUESTION}), model


def test_survivors_go_on_from_their_own_tokens_and_are_scored_again():
    result, model = run(begin_tokens=2, keep=2)
    first = {s["query"].split()[0]: s for s in result["prm_steps"] if s["depth"] == 1}
    good, lost, whole = first["Who"], first["Which"], first["What"]
    assert (lost["status"], lost["begun"], lost["thought"], lost["score"]) == (
        "rejected", " Nobody here", "", None
    )  # fmt: skip
    assert lost["early_score"] == 0.2
    assert (good["begun"], good["thought"]) == (" Brunel is", "Brunel is the man who designed it all")
    assert (good["early_score"], good["score"], good["status"]) == (0.7, 0.7, "committed")
    assert (whole["begun"], whole["thought"]) == (" Red", "Red")
    assert (whole["early_score"], whole["score"]) == (0.5, 0.5)
    assert seen[:3] == ["Brunel is", "Nobody here", "Red"]
    # Nothing is written twice, and of what was lost only its beginning.
    assert model.asked[:4] == [
        ("Brunel", "", 2),
        ("Nobody", "", 2),
        ("Red", "", 1),
        ("Brunel", " Brunel is", 6),
    ]
    assert result["answer"]


def test_it_saves_tokens_and_leaves_the_winner():
    partial, cut = run(begin_tokens=2, keep=1)
    plain, whole = run()
    committed = [
        [s["thought"] for s in r["prm_steps"] if s["status"] == "committed"] for r in (partial, plain)
    ]
    assert committed[0] == committed[1]
    assert sum(n for _, _, n in cut.asked) < sum(n for _, _, n in whole.asked)
    assert not any("begun" in step for step in plain["prm_steps"])


def test_a_step_without_a_rival_is_written_at_once():
    result, _ = run(begin_tokens=2, keep=2)
    alone = [s for s in result["prm_steps"] if s["depth"] == 2]
    assert len(alone) == 1
    assert "begun" not in alone[0]


def test_what_cannot_be_paid_twice_is_written_at_once():
    # 1 call to propose, 3 to write, 1 for the answer: none to begin with.
    result, model = run(begin_tokens=2, keep=1, budget={"model_calls": 7})
    assert {begun for _, begun, _ in model.asked} == {""}
    assert result["prm_usage"]["model_calls"] <= 7


def test_async_gives_the_same_tree():
    graph = create_reasoning_graph(
        words(), store(), FakeReward(score), threshold=None, max_steps=2, begin_tokens=2, keep=1
    ).compile()
    other = asyncio.run(graph.ainvoke({"question": QUESTION}))
    strip = [{k: v for k, v in s.items() if k != "usage"} for s in other["prm_steps"]]
    mine, _ = run(begin_tokens=2, keep=1)
    assert strip == [{k: v for k, v in s.items() if k != "usage"} for s in mine["prm_steps"]]


def test_what_cannot_work_is_refused_at_construction():
    blunt = ScriptedLanguageModel({}, capabilities=Capabilities(n=True))
    with pytest.raises(CapabilityError, match="prefill"):
        create_reasoning_graph(blunt, store(), FakeReward(), begin_tokens=4)
    with pytest.raises(ConfigurationError, match="begin_tokens"):
        create_reasoning_graph(words(), store(), reader=ScriptedReader({}), begin_tokens=4)
    with pytest.raises(ConfigurationError):
        BeginSteps(words(), tokens=0)


def test_the_local_model_computes_what_is_new_alone():
    pytest.importorskip("transformers")
    from agentprm.lm import TransformersLM
    from tests.unit.lm.conftest import build_model, build_tokenizer

    tokenizer = build_tokenizer()
    model = TransformersLM(build_model("llama", len(tokenizer)), tokenizer)
    steps = [new_step(str(i), None, f"Who wrote the play number {i}?") for i in (1, 2, 3)]
    state = {"question": "Who wrote the play?", "prm_steps": [{**s, "retrieve": False} for s in steps]}

    begun = BeginSteps(model, tokens=6).invoke(state)
    state["prm_steps"] = begun["prm_steps"]
    kept = RejectEarly(FakeReward(lambda q, path: 0.5), keep=2).invoke(state)["prm_steps"]
    assert [s["status"] for s in kept] == ["proposed", "proposed", "rejected"]
    rest = CompleteSteps(model, max_tokens=24).invoke({**state, "prm_steps": kept})
    usage = rest["prm_usage"]
    # All before the label of the answer lies in the prefix tree; what is begun may be cut into tokens anew.
    computed = usage["computed_tokens"] - usage["completion_tokens"]
    assert computed < usage["prompt_tokens"] / 4
    for step in rest["prm_steps"]:
        assert (step["thought"] or step["output"]).startswith(step["begun"].strip()[:4])
