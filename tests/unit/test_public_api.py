"""What the packages export: importable, documented, complete. (The linter keeps `__all__` sorted.)"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import agentprm
from agentprm.errors import MissingDependencyError

FOUND = [info for info in pkgutil.walk_packages(agentprm.__path__, "agentprm.") if "._" not in info.name]
MODULES = ["agentprm", *(info.name for info in FOUND)]
PACKAGES = ["agentprm", *(info.name for info in FOUND if info.ispkg)]


def load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except MissingDependencyError as error:  # an extra that the development set-up leaves out
        pytest.skip(str(error))


def load_or_none(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except MissingDependencyError:
        return None


def test_every_package_says_what_its_modules_are_for() -> None:
    docs = {name: str(load(name).__doc__) for name in PACKAGES}
    inside = [info.name.rpartition(".") for info in FOUND if not info.name.endswith("__main__")]
    assert [f"{package}.{name}" for package, _, name in inside if f"`{name}`" not in docs[package]] == []


def test_the_expected_packages_are_public() -> None:
    expected = [
        "engine",
        "graphs",
        "lm",
        "nodes",
        "rerank",
        "retrievers",
        "rewards",
        "search",
        "testing",
        "trace",
    ]
    assert {f"agentprm.{name}" for name in expected} <= set(PACKAGES)


def test_the_root_is_small() -> None:
    assert 5 <= len(agentprm.__all__) <= 25


@pytest.mark.parametrize("name", MODULES)
def test_every_export_exists_and_is_documented(name: str) -> None:
    module = load(name)
    assert module.__doc__, f"{name} has no docstring"
    assert len(module.__all__) == len(set(module.__all__))
    exports = {exported: getattr(module, exported) for exported in module.__all__}
    undocumented = [
        exported
        for exported, value in exports.items()
        if (inspect.isclass(value) and not vars(value).get("__doc__"))  # its own, not its base's
        or (inspect.isroutine(value) and not value.__doc__)
    ]
    assert not undocumented


@pytest.mark.parametrize("name", PACKAGES)
def test_nothing_public_is_left_out_of_a_package(name: str) -> None:
    package = load(name)
    public = {
        attribute
        for attribute, value in vars(package).items()
        if not attribute.startswith("_") and str(getattr(value, "__module__", "")).startswith(name)
    }
    assert public <= set(package.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_right(name: str) -> None:
    assert doctest.testmod(load(name), optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("name", ["graphs", "retrievers"])
def test_linked_packages_know_only_their_full_name(name: str) -> None:
    """`import graphs` would load a module a second time, with classes of its own."""
    for value in vars(load(f"agentprm.{name}")).values():
        assert not str(getattr(value, "__module__", "")).startswith(f"{name}.")


def test_a_public_name_stands_for_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for name in MODULES:
        if not name.startswith("agentprm.cli."):  # every command has its `add` and `run`
            module = load_or_none(name)
            for exported in getattr(module, "__all__", []):
                if getattr(vars(module).get(exported), "__module__", "") == name:
                    homes.setdefault(exported, []).append(name)
    assert {exported: where for exported, where in homes.items() if len(where) > 1} == {}


def imports(of: ast.AST, *, later: bool) -> Iterator[str]:
    """What is imported when a module is, or also by its functions; not what only type checkers read."""
    for node in ast.iter_child_nodes(of):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentprm"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing and (later or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imports(node, later=later)


@pytest.mark.parametrize("later", [False, True])
def test_packages_build_on_each_other_in_one_direction(later: bool) -> None:
    root = Path(agentprm.__file__).parent
    folders = [root, root / "graphs", root / "retrievers"]  # links, which `rglob` does not follow
    builds_on: dict[str, set[str]] = {}
    for file in (file for folder in folders for file in folder.rglob("*.py") if file != root / "__init__.py"):
        home = file.relative_to(root).with_suffix("").parts[0]
        # `packaged` opens models with whatever opens them, and these know it for its folders.
        found = imports(ast.parse(file.read_text("utf-8")), later=later and home != "packaged")
        builds_on.setdefault(home, set()).update({name.split(".")[1] for name in found} - {home})
    while free := {name for name, below in builds_on.items() if not below & builds_on.keys()}:
        for name in free:
            del builds_on[name]
    assert builds_on == {}, "a circle of packages, and what builds on it"


def test_no_package_hides_what_another_one_imports() -> None:
    """A module with an underscore belongs to the package that it lies in."""
    root = Path(agentprm.__file__).parent
    wrong = []
    files = [file for folder in (root, root / "graphs", root / "retrievers") for file in folder.rglob("*.py")]
    for file in files:
        home = file.relative_to(root).parts[0]
        for line in re.findall(r"^\s*from (agentprm[.\w]*) import", file.read_text(), re.MULTILINE):
            hidden = re.match(r"agentprm\.(\w+)(?:\.\w+)*?\._", line)
            if (hidden and hidden[1] != home) or line.startswith("agentprm._"):
                wrong.append(f"{file.relative_to(root)}: {line}")
    assert not wrong
