"""The package's surface."""

import subprocess
import sys

import pytest

import agentprm.lm


def test_exports():
    assert sorted(agentprm.lm.__all__) == agentprm.lm.__all__
    for name in agentprm.lm.__all__:
        assert getattr(agentprm.lm, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        agentprm.lm.Nothing  # noqa: B018


def test_importing_it_imports_no_torch():
    code = "import sys, agentprm.lm; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_the_extra_is_named():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import agentprm.lm\n"
        "try: agentprm.lm.TransformersLM\n"
        "except ImportError as error: assert 'agentprm[transformers]' in str(error), error\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prompts_are_valid_unicode():
    prompt = agentprm.lm.Prompt((("user", "\udc00?"),), prefix="\ud83d\ude00 \ud83d")
    assert (prompt.messages, prompt.prefix) == ((("user", "\ufffd?"),), "😀 \ufffd")
