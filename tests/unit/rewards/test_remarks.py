"""What a reward says of a step besides its score reaches the step, the explanation and the refinement."""

import asyncio

import pytest

from agentprm.graphs import create_reasoning_graph
from agentprm.rewards import Calibrated, Calibration, Checked, Fused, Judge, RoutedReward, VerdictReward
from agentprm.rewards.checkers import CheckResult
from agentprm.testing import FakeReward, ScriptedLanguageModel
from tests.unit.world import QUESTION, likelihood, reply, store


class Library:
    """Knows who designed the bridge."""

    name = "library"

    def check(self, question, prefix):
        thought = prefix[-1]["thought"]
        if thought == "the Seine":
            return CheckResult("refuted", "no bridge was designed by the Seine", self.name)
        return CheckResult("supported" if thought == "Brunel" else "unknown", f"read: {thought}", self.name)


class Talkative(FakeReward):
    def remarks(self, question, trajectories):
        return [f"{question} {len(t)} {t[-1]['thought']}" for t in trajectories]


def path(*thoughts):
    return [{"query": "", "passages": [], "thought": t, "final_answer": None} for t in thoughts]


def judging(text):
    return "<think>Hm.</think>The step names\na river. Verdict: No" if "the Seine" in text else "Verdict: Yes"


CALIBRATION = Calibration.fit([0.2, 0.6, 0.7, 0.9], [False, True, False, True])
SAYS = {
    "none": (lambda: FakeReward(), ["", ""]),
    "checked": (
        lambda: Checked(None, [Library()]),
        ["supported by library: read: Brunel", "refuted by library: no bridge was designed by the Seine"],
    ),
    "checked over another": (
        lambda: Checked(Talkative(), [Library()]),
        [
            "supported by library: read: Brunel; Q 1 Brunel",
            "refuted by library: no bridge was designed by the Seine; Q 2 the Seine",
        ],
    ),
    "judge": (
        lambda: VerdictReward(ScriptedLanguageModel(judging), Judge(), soft=False),
        ["Verdict: Yes", "The step names a river. Verdict: No"],
    ),
    "fused": (
        lambda: Fused([Talkative(), FakeReward(), Talkative()]),
        ["Q 1 Brunel; Q 1 Brunel", "Q 2 the Seine; Q 2 the Seine"],
    ),
    "calibrated": (lambda: Calibrated(Talkative(), CALIBRATION), ["Q 1 Brunel", "Q 2 the Seine"]),
    "routed": (
        lambda: RoutedReward(lambda q: "a", {"a": Talkative(), "b": FakeReward()}),
        ["Q 1 Brunel", "Q 2 the Seine"],
    ),
}


@pytest.mark.parametrize("name", SAYS)
def test_remarks_are_about_the_last_step_of_each_trajectory(name):
    make, wanted = SAYS[name]
    trajectories = [path("Brunel"), path("Brunel", "the Seine")]
    reward = make()
    reward.score("Q", trajectories)
    said = reward.remarks("Q", trajectories)
    assert said == wanted
    assert asyncio.run(make().aremarks("Q", trajectories)) == said


def test_a_critique_that_was_written_is_not_written_again():
    model = ScriptedLanguageModel(judging)
    reward = VerdictReward(model, Judge(), soft=False)
    reward.score("Q", [path("the Seine")])
    asked = len(model.prompts)
    assert reward.remarks("Q", [path("the Seine")])[0].startswith("The step names")
    assert len(model.prompts) == asked


def test_evidence_of_a_checker_reaches_the_explanation_and_the_refinement():
    asked = []

    def script(text):
        asked.append(text)
        if text.endswith("Fault:"):
            return " retrieval. Ask for the engineer."
        return " ???" if "Critique:" in text else reply(text)

    graph = create_reasoning_graph(
        ScriptedLanguageModel(script, likelihood=likelihood),
        store(),
        Checked(FakeReward(lambda q, p: 0.9 if p[-1]["thought"] == "the Seine" else 0.1), [Library()]),
        threshold=1.0,
        max_steps=2,
    ).compile()
    steps = graph.invoke({"question": QUESTION})["prm_steps"]
    weak = next(s for s in steps if s["thought"] == "the Seine")
    assert weak["remarks"] == "refuted by library: no bridge was designed by the Seine"
    shown = [text for text in asked if "Remarks on it: refuted by library: no bridge" in text]
    assert [text.rpartition("\n")[2] for text in shown] == ["Fault:", "Search:"]


def test_a_long_remark_is_cut():
    class Long(FakeReward):
        def remarks(self, question, trajectories):
            return ["word\n" * 1000 for _ in trajectories]

    graph = create_reasoning_graph(
        ScriptedLanguageModel(reply, likelihood=likelihood), store(), Long(), max_steps=1
    ).compile()
    steps = graph.invoke({"question": QUESTION})["prm_steps"]
    remarks = [s["remarks"] for s in steps if "remarks" in s]
    assert remarks
    assert all(len(text) <= 401 and "\n" not in text for text in remarks)
