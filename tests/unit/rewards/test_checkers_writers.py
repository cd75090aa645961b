"""Language models as translators for the tools."""

import pytest

from agentprm.rewards.checkers import EntailmentChecker, FormulaWriter, ProgramWriter, PythonChecker
from agentprm.rewards.checkers import sandbox as module
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel


def step(thought, *passages):
    return {"query": "How many?", "passages": list(passages), "thought": thought, "final_answer": None}


PROGRAM = "Here it is.\n```python\nclaimed = {}\nassert 16 - 3 - 4 == claimed\n```\nDone."


def test_a_program_is_taken_from_the_reply():
    model = ScriptedLanguageModel({"Step: How many? Nine": PROGRAM.format(9), "": "NONE"})
    write = ProgramWriter(model)
    prefix = [step("Sixteen in all"), step("Nine\nare left", "a\npassage")]
    assert write("How many\nare left?", prefix) == "claimed = 9\nassert 16 - 3 - 4 == claimed\n"
    # What comes from elsewhere cannot open a line of the prompt.
    shown = model.prompts[0]
    assert "Question: How many are left?\n" in shown
    assert "How many? Sixteen in all\nPassages:\na passage\nStep: How many? Nine are left" in shown
    assert write("Q", [step("Let us see.")]) is None
    assert ProgramWriter(ScriptedLanguageModel({"": "```\nprint(1)\n```"}))("Q", prefix) is None
    cut = ProgramWriter(ScriptedLanguageModel({"": "```python\nassert True"}))
    assert cut("Q", prefix) == "assert True"


def test_a_program_of_a_model_decides():
    if module._missing_isolation():
        pytest.skip("no isolation on this system")
    model = ScriptedChatModel(script={"Nine": PROGRAM.format(9), "Eight": PROGRAM.format(8), "": "NONE"})
    checker = PythonChecker(write=ProgramWriter(model))
    labels = [checker.check("Q", [step(thought)]).label for thought in ("Nine", "Eight", "Hm")]
    assert labels == ["supported", "refuted", "unknown"]


def test_a_translation_into_logic_decides():
    pytest.importorskip("z3")
    model = ScriptedLanguageModel(
        {
            "Step: How many? Tweety": "`forall x. Bird(x) -> Flies(x); Bird(tweety) |- Flies(tweety)`",
            "half": "Let x be it.\n2*x = 10 |- x = 4",
            "odd": "This is |- not; a formula",
            "": "NONE",
        }
    )
    checker = EntailmentChecker(FormulaWriter(model))
    steps = ("Tweety flies.", "So half is 4.", "odd", "Hm.")
    labels = [checker.check("Q", [step(thought)]).label for thought in steps]
    assert labels == ["supported", "refuted", "unknown", "unknown"]
