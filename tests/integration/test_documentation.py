"""The Python of README.md and of every page of docs/ runs as it stands, and its commands parse.

What a page takes for given, `pages.PAGES` puts behind its names: scripted models, tiny random checkpoints
under the names of published ones, servers on loopback behind the addresses that the pages give. What the
blocks leave behind is checked where the page's function yields.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")
pytest.importorskip("langchain_openai")
pytest.importorskip("langchain_ollama")
pytest.importorskip("torch")

from agentprm.cli import _parser
from agentprm.cli.experiments import read_experiment
from agentprm.cli.options import with_config
from agentprm.errors import MissingDependencyError
from tests.integration.pages import PAGES
from tests.integration.stand_ins import here

assert here  # the fixture

pytestmark = pytest.mark.enable_socket  # for loopback; the fixture `here` refuses everything else

ROOT = Path(__file__).parents[2]
SOURCES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Blocks that are compiled, and whose imports are looked up, but that are not run: (page, number): why.
NOT_RUN = {
    ("evaluation.md", 2): "Inspect AI runs a loop of its own; unit/integrations/test_inspect.py runs a task",
}


def blocks(page: Path, *languages: str) -> list[str]:
    """The page's blocks in one of these languages."""
    fences = re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for language, text in fences if language in languages]


def compiled(page: Path, number: int, block: str) -> Any:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    return compile(block, f"{page.name}, block {number}", "exec", flags, dont_inherit=True)


WITH_PYTHON = [source for source in SOURCES if blocks(source, "python")]


def test_every_page_with_python_is_here():
    assert {source.name for source in WITH_PYTHON} == set(PAGES)
    numbers = {(source.name, n) for source in WITH_PYTHON for n, _ in enumerate(blocks(source, "python"), 1)}
    assert set(NOT_RUN) <= numbers


def test_every_page_stands_in_the_navigation_once():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    listed = [name for name in re.findall(r": (\S+\.md)$", navigation, re.MULTILINE) if "/" not in name]
    assert len(listed) == len(set(listed))
    made = {"examples.md", "results.md", "changes.md"}
    assert set(listed) == {path.name for path in (ROOT / "docs").glob("*.md")} | made


@pytest.mark.parametrize("source", WITH_PYTHON, ids=lambda source: source.name)
async def test_python_of(source, here, capsys):
    if source.name not in PAGES:
        pytest.fail(f"Say in PAGES what the Python of {source.name} takes for given.")
    world = PAGES[source.name](here, capsys)
    names = next(world)
    for number, block in enumerate(blocks(source, "python"), 1):
        code = compiled(source, number, block)
        if (source.name, number) in NOT_RUN:
            continue
        waiting = eval(code, names)
        if inspect.isawaitable(waiting):
            await waiting
    with pytest.raises(StopIteration):
        next(world)


@pytest.mark.parametrize("source", WITH_PYTHON, ids=lambda source: source.name)
def test_names_of_agentprm_that_are_imported_exist_in(source):
    for number, block in enumerate(blocks(source, "python"), 1):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentprm"):
                try:
                    known = dir(module := importlib.import_module(node.module))
                    known += [alias.name for alias in node.names if hasattr(module, alias.name)]
                except MissingDependencyError:  # an extra that is not here: what the source binds
                    text = Path(importlib.util.find_spec(node.module).origin).read_text("utf-8")
                    known = [item.name for item in ast.parse(text).body if hasattr(item, "name")]
                missing = {alias.name for alias in node.names} - set(known)
                assert not missing, f"{source.name}, block {number}"


def commands(source: Path) -> list[str]:
    """The commands of agentprm in the page's blocks; what is set off by blanks behind one is a remark."""
    found = []
    for block in blocks(source, "", "console"):
        whole = re.sub(r"[ ]*\\\n\s*", " ", block)
        lines = (line.removeprefix("$ ") for line in whole.splitlines())
        found += [re.split(r"\s{2,}", line)[0] for line in lines if line.startswith("agentprm ")]
    return found


WITH_COMMANDS = [source for source in SOURCES if commands(source)]


@pytest.mark.parametrize("source", WITH_COMMANDS, ids=lambda source: source.name)
def test_commands_parse_of(source):
    parser, _ = _parser()
    refused = []
    for command in commands(source):
        try:
            parser.parse_args(shlex.split(command, comments=True)[1:])
        except SystemExit:
            refused.append(command)
    assert not refused


def test_options_in_running_text_exist():
    _, parsers = _parser()
    for source in SOURCES:
        for name, rest in re.findall(r"`agentprm ([a-z][a-z-]*)([^`]*)`", source.read_text("utf-8")):
            assert name in parsers, source.name
            wanted = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest))
            assert wanted <= _options(parsers[name]), f"{source.name}: {name}{rest}"


def toml(page: str) -> list[str]:
    return blocks(ROOT / "docs" / page, "toml")


def test_the_configuration_of_the_page_of_the_command_line(tmp_path):
    parser, parsers = _parser()
    (config,) = toml("cli.md")
    (tmp_path / "options.toml").write_text(config, encoding="utf-8")
    given = ["ask", "Why?", "--config", str(tmp_path / "options.toml"), "--max-steps", "4"]
    args = parser.parse_args(with_config(given, parsers))
    assert (args.index, args.model, args.max_steps, args.trace) == (
        "my-index",
        "ollama:llama3.2",
        4,
        "last-run.json",
    )


def test_the_set_ups_of_the_page_of_evaluation(tmp_path):
    compare, rewards = toml("evaluation.md")
    (tmp_path / "compare.toml").write_text(compare, encoding="utf-8")
    (tmp_path / "rewards.toml").write_text(rewards, encoding="utf-8")
    args = _parser()[0].parse_args(["eval", "compare.toml"])
    found = read_experiment(tmp_path / "compare.toml", args)
    assert found.judge == "ollama:llama3.2"
    assert len(found.rows) == 4  # one, and one for each of three seeds
    first, second = read_experiment(tmp_path / "rewards.toml", args).rewards
    assert (first.name, first.args.reward) == ("gsm8k", ["grounding", "self-judgement"])
    assert (second.args.aggregation, second.args.limit) == ("product", 200)


def test_options_that_the_page_of_the_command_line_names_exist():
    _, parsers = _parser()
    text = (ROOT / "docs" / "cli.md").read_text("utf-8")
    sections = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    seen = {name: body for name, body in zip(sections[::2], sections[1::2], strict=True) if name in parsers}
    assert set(seen) == set(parsers)
    for name, body in seen.items():
        known = _options(parsers[name])
        wanted = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", body))
        assert wanted <= known | {"--help"}, name


def _options(parser: Any) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            found |= set().union(*map(_options, action.choices.values()))
    return found
