"""No control token comes out of what a passage, a question or a step says, whatever the family."""

import copy
import random

import pytest

pytest.importorskip("transformers")

from tokenizers import normalizers
from transformers import AddedToken

from agentprm.engine.tokenizing import PromptText, as_data
from agentprm.lm import Prompt
from agentprm.rewards.templates import ChatPrefix, ChatSteps, CurrentStep, Dialogue
from tests.tiny_models import MARKERS, byte_tokenizer

# What their tokenizers add, hardly any of it under a name.
FAMILIES = {
    "llama 3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>", "<|eom_id|>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<unused7>", "<mask>", "[@BOS@]"],
    "deepseek": ["<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜tool▁calls▁begin｜>"],
    "phi": ["<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|placeholder1|>"],
    "mistral": ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[control_8]"],
    "llama 2": ["<<SYS>>", "<</SYS>>", "[INST]", "[/INST]", "</s>"],
    "qwen 3": ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "<|fim_prefix|>"],
    "smollm": ["<file_sep>", "<repo_name>", "<reponame>", "<gh_stars>", "<issue_start>", "<jupyter_code>"],
    "cohere": ["<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"],
    "exaone": ["[|user|]", "[|endofturn|]"],
    "seed": ["<seed:bos>", "<seed:think>"],
    "falcon": [">>TITLE<<", ">>QUESTION<<"],
}
EVERY = [MARKERS, *FAMILIES.values()]


@pytest.fixture(scope="module")
def plain():
    return byte_tokenizer(["The play was written by a poet."], 300, bos="<|endoftext|>")


@pytest.fixture(scope="module", params=[*FAMILIES])
def tokenizer(request, plain):
    own = copy.deepcopy(plain)
    special = request.param != "qwen 3"
    own.add_tokens([AddedToken(t, special=special, normalized=False) for t in FAMILIES[request.param]])
    assert not set(FAMILIES[request.param]) & set(own.all_special_tokens), "they must have no name"
    return own


def added(tokenizer, ids):
    return [i for i in ids if i in tokenizer.added_tokens_decoder]


def texts_of(tokenizer):
    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    half = len(tokens) // 2
    return ["".join(tokens), " ".join(tokens), f"{tokens[half][:3]}{tokens[0]}{tokens[half][3:]} a"]


def test_messages_and_prefixes_stay_text(tokenizer):
    text = PromptText(tokenizer)

    def encoded(content):
        prompt = Prompt((("system", content), ("user", content)), content)
        return text.encode([text.render(prompt)])[0]

    for content in texts_of(tokenizer):
        thinking = [t for t in ("<think>", "</think>", "<seed:think>") if t in content]  # the model's own
        ids = tokenizer.convert_tokens_to_ids(thinking)
        found = added(tokenizer, encoded(content))
        assert [i for i in found if i not in ids] == added(tokenizer, encoded("a"))
        assert len(found) - len(added(tokenizer, encoded("a"))) == len(thinking)


@pytest.mark.parametrize(
    "template", [ChatSteps(separator="<|im_end|>"), ChatPrefix(), CurrentStep(), Dialogue()], ids=repr
)
def test_questions_and_steps_of_reward_templates_stay_text(tokenizer, template):
    def encoded(content):
        return template.ids(tokenizer, content, [f"{content} b", content])

    for content in texts_of(tokenizer):
        assert added(tokenizer, encoded(content)) == added(tokenizer, encoded("a"))


def test_any_mixture_of_them_stays_text(tokenizer):
    dice = random.Random(0)
    tokens = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    for _ in range(300):
        parts = []
        for token in dice.choices(tokens, k=4):
            cut = dice.randrange(len(token) + 1)
            parts += [token[:cut], token[cut:], dice.choice(["", " ", token])]
        dice.shuffle(parts)
        text = as_data("".join(parts), tokenizer)
        assert not added(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"]), text


def test_overlapping_tokens_stay_text(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.add_tokens([AddedToken(t, special=True) for t in ("-a-b", "b-a-", "a-b-a", "- a")])
    for text in ("-a-b-a-b-a-", "a-b-a", "- a-b", "-- aa"):
        assert not added(
            tokenizer, tokenizer(as_data(text, tokenizer), add_special_tokens=False)["input_ids"]
        )


def test_spellings_that_the_tokenizer_normalizes_stay_text(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase()]
    )
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=True)])
    for text in ("<TOOL_CALL>", "\uff1ctool_call\uff1e <Tool_Call> x", "<tool_call>", " \uff1cTOOL_call>"):
        assert added(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = tokenizer(as_data(text, tokenizer), add_special_tokens=False)["input_ids"]
        assert not added(tokenizer, ids)


def test_what_is_no_control_token_stays_as_it_is(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.add_tokens(["  ", "\n\n", "covid", "\u00f5"])
    text = "a  b\n\nc covid19 \u00f5 1 <|2 and 3|> x <b>bold</b> List<String> [1] [a] [Note] [OK] a < b > c"
    assert as_data(text, tokenizer) == as_data(text) == text


def test_tokens_that_are_added_later_count(plain):
    tokenizer = copy.deepcopy(plain)
    assert as_data("<x_y>", tokenizer) == "<x_y>"
    tokenizer.add_tokens(["<x_y>"])
    assert as_data("<x_y>", tokenizer) == "< x_y>"
    tokenizer.chat_template = "[INST]{{ messages[0]['content'] }}[/INST]"
    assert as_data("a[/INST]b", tokenizer) == "a[ /INST]b"


@pytest.mark.parametrize("tokens", EVERY, ids=str)
def test_without_a_tokenizer_it_is_what_looks_like_one(tokens):
    for token in tokens:
        assert as_data(f"a{token}b") == f"a{token[0]} {token[1:]}b"


def test_a_models_own_turn_keeps_the_marks_of_its_thinking(plain):
    tokenizer = copy.deepcopy(plain)
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>"])
    said = "<think>hm</think> <tool_call>"
    assert as_data(said, tokenizer, own_turn=True) == "<think>hm</think> < tool_call>"
    assert as_data(said, tokenizer) == "< think>hm< /think> < tool_call>"
    assert as_data(said, own_turn=True) == "<think>hm</think> < tool_call>"


def test_completions_leave_out_tokens_that_have_no_name(tokenizer):
    text = PromptText(tokenizer)
    added = tokenizer.added_tokens_decoder.items()
    special = [i for i, token in added if token.special and "think" not in str(token)]
    ids = tokenizer(" the play", add_special_tokens=False)["input_ids"]
    assert text.decode([], [*special, *ids, *special]) == " the play"


@pytest.mark.models
def test_no_token_of_the_packaged_model_comes_out_of_content():
    from agentprm.packaged import default_language_model

    lm = default_language_model()
    content = " ".join(str(token) for token in lm.tokenizer.added_tokens_decoder.values())
    text = PromptText(lm.tokenizer)
    ids = [text.encode([text.render(Prompt((("user", c),)))])[0] for c in (content, "a")]
    assert added(lm.tokenizer, ids[0]) == added(lm.tokenizer, ids[1])
