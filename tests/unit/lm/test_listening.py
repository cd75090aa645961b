"""A local model tells its text as it grows; being listened to changes nothing of what it writes."""

import asyncio

import pytest

pytest.importorskip("transformers")

from agentprm.lm import Prompt, SamplingParams
from agentprm.lm.base import listener, listening

PROMPT = Prompt((("user", "Where was Brunel born?"),))
PARAMS = SamplingParams(max_tokens=12, temperature=1.0, seed=3)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_text_grows_to_the_completion(llama, how):
    heard = []
    with listening(heard.append):
        if how == "sync":
            rows = llama.sample([PROMPT], 1, PARAMS)
        else:
            rows = asyncio.run(llama.asample([PROMPT], 1, PARAMS))
    assert len(heard) >= 5
    assert all(rows[0][0].text.startswith(text) for text in heard)
    assert rows[0][0].text == llama.sample([PROMPT], 1, PARAMS)[0][0].text


def test_what_follows_a_stop_string_is_not_told(llama):
    plain = llama.sample([PROMPT], 1, PARAMS)[0][0].text
    heard, mark = [], plain[len(plain) // 2]
    with listening(heard.append):
        text = llama.sample([PROMPT], 1, SamplingParams(**{**vars(PARAMS), "stop": (mark,)}))[0][0].text
    assert text == plain.split(mark)[0]
    assert not any(mark in said for said in heard)


def test_several_samples_are_not_told(llama):
    heard = []
    with listening(heard.append):
        llama.sample([PROMPT], 2, PARAMS)
        llama.sample([PROMPT, PROMPT], 1, PARAMS)
    assert heard == []
    assert listener(1, 1) is None
