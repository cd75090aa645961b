"""Local models whose chat template opens a thought, as R1's does: prefixes and scores are answers."""

import copy
import functools

import pytest

from agentprm.engine.requests import Request, Sample, Samples
from agentprm.engine.tokenizing import PromptText, continued, special_ids
from agentprm.lm import Prompt, SamplingParams, TransformersLM
from agentprm.lm.base import listening
from agentprm.replies import cut_reply
from agentprm.rewards import Judge, StepChecks, VerdictReward
from agentprm.rewards.base import RewardStep
from agentprm.testing import ScriptedLanguageModel
from tests.tiny_models import CHAT

R1 = CHAT.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
ASK = Prompt((("user", "Who wrote the play?"),))


@pytest.fixture
def thinking(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = R1
    assert PromptText(other).render(ASK).endswith("assistant\n<think>\n")
    return other


def test_a_prefix_begins_the_answer(thinking):
    text = PromptText(thinking)
    closed = "assistant\n<think>\n\n</think>\n\n"
    assert text.render(Prompt(ASK.messages, "Answer:")).endswith(closed + "Answer:")
    assert text.render(ASK, answering=True).endswith(closed)
    assert text.render(Prompt(ASK.messages, "Let us see:", thinking=True)).endswith("<think>\nLet us see:")
    for own in ("<think>\nhm\n</think>\nParis", "hm\n</think>\nParis", "<think>\nhm"):
        rendered = text.render(Prompt(ASK.messages, own))
        assert rendered.endswith("assistant\n<think>\n" + own.removeprefix("<think>\n"))


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")],
)
def test_the_tag_of_the_family_closes(opening, closing):
    assert continued(f"x{opening}", "Yes") == f"x{opening}\n\n{closing}\n\nYes"
    assert continued("x", "Yes") == "xYes"
    assert continued(f"x{opening}\n", "") == f"x{opening}\n"


def test_samples_and_scores(models, tokenizer, thinking):
    lm, plain = TransformersLM(models["llama"], thinking), TransformersLM(models["llama"], tokenizer)
    params = SamplingParams(max_tokens=6, temperature=0)
    heard = []
    with listening(heard.append):
        (completion,) = lm.sample([ASK], 1, params)[0]
    assert completion.text.startswith("<think>\n")
    assert all(text.startswith("<think>\n") for text in heard)
    assert not lm.sample([Prompt(ASK.messages, "The")], 1, params)[0][0].text.startswith("<think>")
    closed = Prompt(ASK.messages, "<think>\n\n</think>\n\n")
    expected = plain.loglikelihood([closed], [["Yes", "No"]])[0]
    assert lm.loglikelihood([ASK], [["Yes", "No"]])[0] == pytest.approx(expected, abs=1e-4)


def test_a_stop_string_ends_no_thought(thinking):
    def said(text, stop):
        params = SamplingParams(max_tokens=99, stop=(stop,))
        cut = functools.partial(cut_reply, stop=params.stop, led=True)
        how = Samples(Request(), (), [Sample([], "k")], params, set(), PromptText(thinking).decode, cut)
        for token in thinking(text, add_special_tokens=False)["input_ids"]:
            if how.samples[0].text is None:
                how.samples[0].push(token, 0.0, how)
        return how.samples[0].text

    assert said("<think>\nso\n</think>\n\nParis\nand", "\nand") == "<think>\nso\n</think>\n\nParis"
    assert said("<think>\nso", "\n") is None


def test_tags_of_thinking_are_text_whatever_they_are_marked_as(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<think>", "</think>", "<tool>"], special_tokens=True)
    ids = {t: other.convert_tokens_to_ids(t) for t in ("<think>", "</think>", "<tool>", "<|im_end|>")}
    special = special_ids(other)
    assert {t for t, i in ids.items() if i in special} == {"<tool>", "<|im_end|>"}
    assert "</think>" in PromptText(other).decode([], other("a</think>b")["input_ids"])


def test_only_templates_that_judge_in_a_thought_say_so():
    prompts = []

    class Seeing(ScriptedLanguageModel):
        def sample(self, asked, n=1, params=None):
            prompts.extend(asked)
            return super().sample(asked, n, params)

    step = RewardStep(query="", passages=[], thought="t", final_answer=None)
    for template, thinks in ((Judge(), False), (StepChecks(), True)):
        prompts.clear()
        model = Seeing({"": r"Step 1 \boxed{correct} Verdict: Yes"})
        VerdictReward(model, template).score("q", [[step]])
        assert {prompt.thinking for prompt in prompts} == {thinks}
