"""Generated verdicts: prompts, parsing, probabilities, k samples, histories, and what is no verdict."""

import json
import math
import random
import string

import pytest

from agentprm.budget import metered
from agentprm.engine.tokenizing import as_data
from agentprm.errors import CapabilityError, ConfigurationError
from agentprm.lm import Capabilities, SamplingParams
from agentprm.rewards import (
    GenPRM,
    Grounded,
    Judge,
    Principled,
    Rubric,
    SolutionCheck,
    StepChecks,
    VerdictReward,
    as_trajectory,
    load_reward,
)
from agentprm.testing import ScriptedChatModel, ScriptedLanguageModel

STEPS = ["1 + 1 = 2.", "2 * 3 = 6.", "The answer is 7."]
WORDS_ONLY = Capabilities(n=True, prefill=True)


def model(script, probability=None, capabilities=None):
    """Log-likelihoods say that the good word has `probability(prompt)`."""

    def likelihood(prompt, word):
        p = probability(prompt)
        good = word.strip().lower() in ("yes", "correct", "right")
        return math.log(p if good else 1 - p)

    return ScriptedLanguageModel(
        script, likelihood=likelihood if probability else None, capabilities=capabilities
    )


def score(reward, *trajectories):
    return reward.score("1 + 1 times 3?", [as_trajectory(steps) for steps in trajectories])


def test_labels_are_counted_and_k_samples_averaged():
    texts = ["Fine. Verdict: Yes", "Hm. Verdict: **No**", "Well. Verdict: yes", "Verdict: maybe"]
    lm = model(lambda prompt: texts, capabilities=WORDS_ONLY)
    reward = VerdictReward(lm, k=4)
    (verdict,) = reward.judge("Q", [as_trajectory(STEPS[:1])])[0]
    assert verdict.score == pytest.approx(2 / 3)
    assert verdict.votes == (1.0, 0.0, 1.0)
    assert verdict.unparsed == reward.unparsed == 1
    assert verdict.critiques == tuple(texts)
    # One prompt with four samples is one call.
    assert len(lm.prompts) == 1


def test_probabilities_are_read_where_the_verdict_stands():
    lm = model({"": "It is 2. Verdict: No"}, lambda prompt: 0.7 if prompt.endswith("Verdict:") else 0.5)
    assert score(VerdictReward(lm), STEPS[:1])[0] == pytest.approx([0.7])
    prompts = [prompt for prompt, _ in lm.scored]
    assert all(prompt.endswith("It is 2. Verdict:") for prompt in prompts)
    assert [word for _, word in lm.scored] == [" Yes", " No"]
    boxed = model({"": r"Step 1 is \boxed{Incorrect}."}, lambda prompt: 0.2)
    assert score(VerdictReward(boxed, StepChecks()), STEPS[:1])[0] == pytest.approx([0.2])
    assert boxed.scored[0][0].endswith(r"Let's verify step by step:Step 1 is \boxed{")
    assert [word for _, word in boxed.scored] == ["Correct", "Incorrect"]


def test_no_verdict_is_no_score():
    reward = VerdictReward(model({"": "I cannot tell."}, lambda prompt: 0.9), k=3)
    row = score(reward, STEPS[:2])[0]
    assert all(map(math.isnan, row))
    assert (reward.unscored, reward.unparsed) == (2, 6)
    with metered() as meter:
        assert all(map(math.isnan, score(reward, STEPS[:2])[0]))
    assert meter.usage["model_calls"] == 0
    assert reward.unscored == 2


def test_one_verdict_per_step_and_only_new_steps_cost():
    lm = model(lambda prompt: "Verdict: No" if "answer is 7" in prompt else "Verdict: Yes", None, WORDS_ONLY)
    reward = VerdictReward(lm)
    with metered() as first:
        rows = score(reward, STEPS[:2], STEPS[:1], [])
    with metered() as second:
        grown = score(reward, STEPS)
    assert rows == [[1.0, 1.0], [1.0], []]
    assert grown == [[1.0, 1.0, 0.0]]
    assert (first.usage["reward_calls"], second.usage["reward_calls"]) == (2, 1)
    assert (first.usage["model_calls"], second.usage["model_calls"]) == (2, 1)
    # Only the new step's prompt was sent; it shows the steps before and asks about the last one.
    assert "Step 1: 1 + 1 = 2." in lm.prompts[-1]
    assert lm.prompts[-1].rstrip().endswith("Step to judge:\nThe answer is 7.")


def test_principles_and_the_policys_own_words():
    lm = model({"": "Verdict: Yes"}, None, WORDS_ONLY)
    score(VerdictReward(lm, Judge(principles=["Short is good.", "Cite."])), STEPS[:1])
    assert "- Short is good.\n- Cite." in lm.prompts[-1]
    own = load_reward(lm, "self-prm", principles=["Be honest."])
    score(own, STEPS[:1])
    assert "your own solution" in lm.prompts[-1]
    assert "- Be honest." in lm.prompts[-1]
    assert own.family.name == "self-prm"


def test_thinkprm_reads_the_last_verdict_of_each_step():
    text = (
        r"Step 1: seems \boxed{incorrect}. Wait. Step 1 is \boxed{correct}. "
        r"Step 2 is \boxed{correct}. Step 3: 7 is not 6, \boxed{incorrect}"
    )
    found = StepChecks().find(text, "Q", 3)
    assert [verdict.value for verdict in found] == [1.0, 1.0, 0.0]
    # Without names, in order; a critique may end at the first wrong step.
    assert [v.value for v in StepChecks().find(r"\boxed{correct} \boxed{incorrect}", "Q", 4)] == [1, 0, 0, 0]
    # Cut off before the verdict on the last step: none for it.
    assert StepChecks().find(r"Step 1 is \boxed{correct}. Step 2 is \box", "Q", 2)[1] is None
    # A step that does not exist has no say.
    assert StepChecks().find(r"Step 9 is \boxed{correct}", "Q", 2) == [None, None]


def test_one_critique_for_a_whole_solution():
    text = r"Step 1 is \boxed{correct}. Step 2 is \boxed{correct}. Step 3 is \boxed{incorrect}."
    lm = model({"": text}, None, WORDS_ONLY)
    whole = VerdictReward(lm, StepChecks(), scope="solution")
    assert score(whole, STEPS, STEPS) == [[1.0, 1.0, 0.0]] * 2
    assert len(lm.prompts) == 1
    assert score(whole, STEPS[:2]) == [[1.0, 1.0]]
    assert len(lm.prompts) == 2
    # By default every prefix has a critique of its own, which cannot see the steps to come.
    each = VerdictReward(model({"": text}, None, WORDS_ONLY), StepChecks())
    assert score(each, STEPS) == [[1.0, 1.0, 0.0]]
    assert len(each.model.prompts) == 3
    assert "answer is 7" not in "".join(each.model.prompts[:2])
    with pytest.raises(ConfigurationError, match="scope"):
        VerdictReward(lm, Judge(), scope="solution")


def test_orm_and_prm_questions_and_forced_endings():
    lm = model({"": "All is well. Is the solution correct? Yes"}, lambda prompt: 0.8)
    assert score(VerdictReward(lm, SolutionCheck()), STEPS[:1])[0] == pytest.approx([0.8])
    assert lm.scored[0][0].endswith("Is the solution correct?")
    # A critique that never comes to the question is asked it.
    lm = model({"": "I am still thinking"}, lambda prompt: 0.6)
    forced = VerdictReward(lm, SolutionCheck())
    assert score(forced, STEPS[:1])[0] == pytest.approx([0.6])
    assert lm.scored[0][0].endswith("I am still thinking\nIs the solution correct?")
    assert forced.unparsed == 0
    # Without probabilities nothing can be asked.
    blind = VerdictReward(model({"": "I am still thinking"}, None, WORDS_ONLY), SolutionCheck())
    assert math.isnan(score(blind, STEPS[:1])[0][0])
    gorm = load_reward(
        model({"": "Verification: Is the answer correct (Yes/No)? No"}, None, WORDS_ONLY), "gorm"
    )
    assert score(gorm, STEPS[:1]) == [[0.0]]
    assert "Grade the solution" in gorm.model.prompts[0]


def test_grounded_labels():
    template = Grounded()
    for text, value in {
        r"<judge>It may be Wrong, or Right.</judge><output>\boxed{Right}</output>": 1.0,
        "the label is [Wrong]": 0.0,
        "<Right>": 1.0,
        r"\boxed{Wrong} ... no: \boxed{Right}": 1.0,
    }.items():
        assert template.find(text, "Q", 1)[0].value == value
    assert template.find("It is Right there and not Wrong.", "Q", 1) == [None]
    own = Grounded(good="correct", bad="incorrect")
    assert own.find(r"\boxed{incorrect}", "Q", 2)[1].value == 0.0
    messages = own.messages("Q", STEPS[:2], [])
    assert [role for role, _ in messages] == ["user", "user"]
    assert messages[1][1] == "1 + 1 = 2.\n\nCurrent Step: 2 * 3 = 6."
    assert "'correct' or 'incorrect'" in messages[0][1]


class Conversation:
    """A model for GenPRM: answers by stage, remembers all of its prompts and prefixes."""

    def __init__(self, programs=1, judgement="Yes"):
        self.programs, self.judgement, self.seen = programs, judgement, []

    def __call__(self, prompt):
        self.seen.append(prompt)
        turn = prompt[prompt.rindex("<analyze>") :]
        if turn.endswith("$\\boxed"):
            return "{" + self.judgement + "}$\n"
        if "</analyze>" not in turn:
            return "we look at it.</analyze> and more"
        if turn.count("[Code Output]") < self.programs:
            return "print(1 + 1)\n```\nmore"
        return "<output>\n**Judgement**: $\\boxed{" + self.judgement + "}$\n</output> more"


def test_genprm_judges_in_order_with_its_own_critiques():
    talk = Conversation()
    reward = VerdictReward(ScriptedLanguageModel(talk, capabilities=WORDS_ONLY), GenPRM())
    assert score(reward, STEPS) == [[1.0, 1.0, 1.0]]
    last = [prompt for prompt in talk.seen if "The answer is 7." in prompt]
    assert len(last) == 2, "analysis, then the judgement"
    assert "1 + 1 times 3?\n1 + 1 = 2." in last[0]
    # The critiques of the two steps before stand between the steps.
    assert last[0].count("Let's analyze the Paragraph 1 step by step: we look at it.\n</analyze>") == 1
    assert last[0].count("Paragraph 2") == 1
    assert last[0].index("Paragraph 1") < last[0].index("2 * 3 = 6.") < last[0].index("Paragraph 2")
    assert last[0].endswith("Let's analyze the Paragraph 3 step by step: ")
    # A grown trajectory needs the new step's two stages only.
    before = len(talk.seen)
    score(reward, [*STEPS, "Done."])
    assert len(talk.seen) - before == 2


def test_genprm_runs_programs_through_what_it_is_given():
    talk = Conversation(programs=2)
    ran = []

    def execute(code):
        ran.append(code)
        return f"run {len(ran)}"

    reward = VerdictReward(ScriptedLanguageModel(talk, capabilities=WORDS_ONLY), GenPRM(execute=execute))
    (verdict,) = reward.judge("Q", [as_trajectory(STEPS[:1])])[0]
    assert verdict.score == 1.0
    assert ran == ["print(1 + 1)"] * 2
    assert "[Code Output]\n\n```\nrun 1\n```\n" in talk.seen[-1]
    # After the last allowed round it decides from its analysis.
    talk, ran[:] = Conversation(programs=99, judgement="No"), []
    reward = VerdictReward(ScriptedLanguageModel(talk, capabilities=WORDS_ONLY), GenPRM(execute=execute))
    (verdict,) = reward.judge("Q", [as_trajectory(STEPS[:1])])[0]
    assert verdict.score == 0.0
    assert len(ran) == 3
    assert "[Code Output]" not in verdict.critiques[0]
    with pytest.raises(CapabilityError, match="prefill"):
        VerdictReward(ScriptedChatModel(script={}), GenPRM())


def test_genprm_keeps_samples_apart():
    # Sample i of a step goes on from sample i of the step before.
    def talk(prompt):
        turn = prompt[prompt.rindex("<analyze>") :]
        if turn.endswith("$\\boxed"):
            return "{Yes}$"
        if "Paragraph 2" in turn:
            return "then B" if "first A" in prompt else "then D"
        return ["first A", "first C"]

    reward = VerdictReward(ScriptedLanguageModel(talk, capabilities=WORDS_ONLY), GenPRM(), k=2)
    first, second = reward.judge("Q", [as_trajectory(STEPS[:2])])[0]
    assert ["first A" in c for c in first.critiques] == [True, False]
    assert ["then B" in c for c in second.critiques] == [True, False]
    assert ["then D" in c for c in second.critiques] == [False, True]


def test_principled_scores():
    template = Principled(principle="Prefer proofs.")
    content = json.loads(template.messages("Q", STEPS[:2], [])[1][1])
    assert content == {
        "principle": "Prefer proofs.",
        "prompt": "Q\n\nSolution so far:\n1 + 1 = 2.",
        "responses": {"model-1": "2 * 3 = 6."},
    }
    good = '<think>5?</think>```json\n{"scores": {"model-1": 4}, "best-to-worst": ["model-1"]}```'
    assert template.find(good, "Q", 1)[0].value == 0.75
    for bad in ('{"scores": {"model-1": 9}}', '{"scores": {"model-1": true}}', '{"scores": 4}', "4"):
        assert template.find(bad, "Q", 1) == [None]


def test_rubrics_are_weighted():
    template = Rubric(rubrics=["It says 2.", "It says 6.", "It says 7."], weights=[2, 1, 1])
    system, user = (text for _, text in template.messages("Q", STEPS[:2], []))
    assert "3 labels" in system
    assert "1. It says 2.\n2. It says 6.\n3. It says 7." in user
    assert "1 + 1 = 2.\n\n2 * 3 = 6." in user
    reply = '<think>support?</think> ["support", "partial_support", "not_support"]'
    assert template.find(reply, "Q", 1)[0].value == pytest.approx(2.5 / 4)
    assert template.find("support\nnot_support\nsupport", "Q", 1)[0].value == pytest.approx(3 / 4)
    assert template.find('["support"]', "Q", 1) == [None]
    assert template.find("no idea", "Q", 1) == [None]
    by_question = Rubric(rubrics={"Q": ["a"]})
    assert by_question.find("not_support", "Q", 1)[0].value == 0.0
    with pytest.raises(ConfigurationError, match="no statements"):
        by_question.messages("P", STEPS, [])
    with pytest.raises(ConfigurationError, match="weights"):
        Rubric(rubrics=["a"], weights=[1, 2])
    with pytest.raises(ConfigurationError, match="statements"):
        Rubric()


TEMPLATES = [
    Judge(),
    StepChecks(),
    SolutionCheck(),
    SolutionCheck(whole=True, closing="\nVerification: Is the answer correct (Yes/No)?"),
    Grounded(),
    Principled(),
    Rubric(rubrics=["a", "b"]),
    GenPRM(),
]


def test_noise_is_never_a_verdict():
    source = random.Random(0)
    alphabet = string.printable + "東京😀{}[]\\"
    pieces = [
        "Verdict",
        ":",
        "Yes",
        "No",
        "\\boxed{",
        "correct",
        "Step 1",
        "[",
        "]",
        "support",
        '"scores"',
        "{",
    ]
    for _ in range(2000):
        noise = "".join(source.choice([*pieces, *alphabet]) for _ in range(source.randrange(40)))
        for template in TEMPLATES:
            found = template.find(noise, "Q", 2)
            assert len(found) == 2
            for verdict in found:
                if verdict is not None:
                    assert 0 <= verdict.value <= 1
                    assert verdict.at is None or 0 <= verdict.at <= len(noise)
    for template in TEMPLATES:
        for text in ("", "Yes", "No", "correct", "It is right. Yes! No!", "是"):
            if isinstance(template, Judge) and text in ("Yes", "No"):
                continue  # it was asked for one of these, and says nothing else
            assert template.find(text, "Q", 1) == [None]


async def test_async_twin_and_batch_invariance():
    def probability(prompt):
        return 0.1 + 0.8 * (sum(map(ord, prompt)) % 97) / 97

    def made():
        return VerdictReward(model({"": "Verdict: Yes"}, probability), k=2)

    together = score(made(), STEPS, STEPS[:1], ["Other."])
    assert await made().ascore("1 + 1 times 3?", [as_trajectory(STEPS)]) == together[:1]
    assert score(made(), ["Other."]) == together[2:]
    assert together[0][0] == together[1][0]
    assert len(set(together[0])) > 1


async def test_programs_do_not_block_the_event_loop():
    import asyncio
    import threading

    started, release = threading.Event(), threading.Event()

    def execute(code):
        started.set()
        assert release.wait(5), "the event loop is blocked"
        return "2"

    reward = VerdictReward(
        ScriptedLanguageModel(Conversation(), capabilities=WORDS_ONLY), GenPRM(execute=execute)
    )
    task = asyncio.create_task(reward.ascore("Q", [as_trajectory(STEPS[:1])]))
    await asyncio.to_thread(started.wait, 5)
    release.set()
    assert await task == [[1.0]]


def test_chat_models_count_labels():
    chat = ScriptedChatModel(script={"The answer is 7.": "Verdict: No", "": "Verdict: Yes"})
    assert score(VerdictReward(chat), STEPS) == [[1.0, 1.0, 0.0]]
    with pytest.raises(CapabilityError, match="soft=True"):
        VerdictReward(chat, soft=True)


def test_construction_and_memory():
    lm = model({"": "Verdict: Yes"}, None, WORDS_ONLY)
    for wrong in ({"k": 0}, {"cache_size": 0}, {"scope": "all"}):
        with pytest.raises(ConfigurationError):
            VerdictReward(lm, **wrong)
    small = VerdictReward(lm, cache_size=1, params=SamplingParams(max_tokens=8))
    assert score(small, STEPS) == score(small, STEPS) == [[1.0, 1.0, 1.0]]
    assert len(lm.prompts) == 3 + 2
    # GenPRM needs the critiques of earlier steps: what was forgotten is judged again.
    talk = Conversation()
    tiny = VerdictReward(ScriptedLanguageModel(talk, capabilities=WORDS_ONLY), GenPRM(), cache_size=1)
    assert score(tiny, STEPS) == score(tiny, STEPS) == [[1.0, 1.0, 1.0]]


def test_a_local_model_gives_the_probability_of_its_own_words(tiny, tokenizer):
    torch = pytest.importorskip("torch")
    from agentprm.lm import Prompt, TransformersLM

    net = tiny.model("LlamaForCausalLM", len(tokenizer))
    lm = TransformersLM(net, tokenizer)
    # A random model writes no verdict, so the question is put to it.
    reward = VerdictReward(lm, SolutionCheck(), params=SamplingParams(max_tokens=12, seed=1))
    (verdict,) = reward.judge("Q", [as_trajectory(STEPS[:1])])[0]
    messages = reward.template.messages("Q", STEPS[:1], [])
    chat = tokenizer.apply_chat_template(
        [{"role": r, "content": c} for r, c in messages], tokenize=False, add_generation_prompt=True
    )
    text = chat + as_data(verdict.critiques[0], tokenizer, own_turn=True)
    total = {}
    for word in (" Yes", " No"):
        ids = tokenizer(text + word, add_special_tokens=False)["input_ids"]
        start = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = net(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total[word] = sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))
    want = 1 / (1 + math.exp(total[" No"] - total[" Yes"]))
    assert verdict.score == pytest.approx(want, abs=1e-4)
    assert Prompt(tuple(messages)).prefix == ""


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("It follows.\nVerdict: Yes", 1.0),
        ("**Verdict:** No.", 0.0),
        ("Verdict\uff1aYes", 1.0),
        ("It follows from the passage.\n\nYes.", 1.0),
        ("**No**", 0.0),
        ("<think>Verdict: No\nNo</think>Yes", 1.0),
        ("<think>\nYes\n", None),
        ('{"reasoning": "It follows.", "verdict": "Yes"}', 1.0),
        ("The verdict is **No**, as the passage is silent.", 0.0),
        ("Yes.\n\nThe passage says so.", 1.0),
        ("\n**No**\n\nIs it right? Yes it was", 0.0),
        ("Yes, but I am not sure", None),
        ("Yesterday\nit was", None),
        ("Does it follow? No\nPerhaps it does", None),
        ("", None),
    ],
)
def test_a_judge_s_verdict_is_read_as_it_comes(reply, score):
    (found,) = Judge().find(reply, "Q?", 1)
    assert (None if found is None else found.value) == score


def test_a_judge_that_never_comes_to_a_verdict_is_told_of(caplog):
    reward = VerdictReward(ScriptedLanguageModel({"": ["I cannot say."]}, capabilities=Capabilities()))
    assert all(map(math.isnan, reward.score("Q?", [as_trajectory("One.\n\nTwo.")])[0]))
    (message,) = [record.getMessage() for record in caplog.records]
    assert "none of 2 replies held a verdict" in message
    assert "I cannot say." in message
