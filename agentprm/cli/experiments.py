"""What `agentprm eval CONFIG` compares: a TOML or YAML file becomes data with set-ups, and with rewards.

The names in a set-up are those of the options of `agentprm ask` and, beyond them, of the arguments of the
graph that it chooses, and those of a reward the options of `agentprm eval-reward`; nothing is declared here a
second time.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from agentprm.cli.eval_reward import add_reward_options
from agentprm.cli.graphs import parameters_of
from agentprm.cli.options import GRAPHS, add_search_options, arguments_of
from agentprm.errors import ConfigurationError, InputError
from agentprm.evaluation import Prices

__all__ = ["Experiment", "RewardRun", "SetupRun", "graph_arguments", "read_experiment"]

_TOP = ("data", "index", "out", "limit", "judge", "baseline", "prices", "defaults", "setup", "reward")
_OWN = ("name", "index", "prices", "seeds")
# What a graph is given by other means, or what no file can hold.
_NOT_PLAIN = frozenset(
    {"model", "retriever", "reward", "rewards", "reranker", "prompts", "response_format", "condense"}
    | {"subgoal_reward", "outcome", "judge", "decide", "router", "modes", "experience"}
)


@dataclass(frozen=True)
class SetupRun:
    """One run of a set-up.

    Attributes:
        name: Of the set-up.
        args: Its options.
        more: Arguments of the graph that are no options, as written.
        prices: Of its model.
    """

    name: str
    args: argparse.Namespace
    more: Mapping[str, Any] = field(default_factory=dict)
    prices: Prices | None = None


@dataclass(frozen=True)
class RewardRun:
    """Rewards on one file of labelled steps or candidates.

    Attributes:
        name: Of the folder for what comes of it.
        args: The options of `agentprm eval-reward`.
    """

    name: str
    args: argparse.Namespace


@dataclass(frozen=True)
class Experiment:
    """An evaluation as it was declared.

    Attributes:
        data: Folder or file of the questions; `None` where only rewards are measured.
        rows: The runs, in order.
        rewards: The rewards, in order.
        out: Folder for what comes of it, if one is named.
        limit: Only so many questions.
        judge: Name of the model that judges answers.
        baseline: Set-up that the others are compared with.
    """

    data: Path | None
    rows: tuple[SetupRun, ...]
    rewards: tuple[RewardRun, ...] = ()
    out: Path | None = None
    limit: int | None = None
    judge: str | None = None
    baseline: str | None = None


def read_experiment(path: Path, args: argparse.Namespace) -> Experiment:
    """Reads a file of set-ups and rewards.

    Paths in it are relative to it. What `[defaults]` says holds for every set-up that says nothing else, and
    what was typed for those where neither does.

    Args:
        path: A TOML file, or a YAML file (`.yaml`, `.yml`).
        args: The options that were typed.

    Raises:
        InputError: If it cannot be read, or has a name that is none or a value of the wrong kind.
    """
    config = _load(path)
    _known(config, _TOP, f"{path}")
    tables, rewards = _tables(config, "setup", path), _tables(config, "reward", path)
    if not tables and not rewards:
        raise InputError(
            f"{path}: there is no set-up; write a table [[setup]] for each, with a name, or a table "
            "[[reward]] for reward models."
        )
    if tables and not isinstance(config.get("data"), str):
        raise InputError(f"{path}: data must name a folder in the BEIR layout or a JSON Lines file.")
    defaults = _table(config, "defaults", path)
    limit = config.get("limit")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InputError(f"{path}: limit is a whole number of at least 1, not {limit!r}.")
    for key in ("index", "out", "judge", "baseline"):
        if not isinstance(config.get(key, ""), str):
            raise InputError(f"{path}: {key} is a text, not {config[key]!r}.")
    shared: dict[str, Any] = {key: config[key] for key in ("index", "prices") if key in config}
    names: set[str] = set()
    rows: list[SetupRun] = []
    for table in tables:
        name = table.get("name")
        if not isinstance(name, str) or not name.strip() or name in names:
            raise InputError(f"{path}: each set-up needs a name of its own, not {name!r}.")
        names.add(name)
        rows += _rows(path, name, {**shared, **defaults, **table}, args)
    return Experiment(
        data=path.parent / config["data"] if tables else None,
        rows=tuple(rows),
        rewards=_rewards(path, rewards, defaults, args),
        out=path.parent / config["out"] if "out" in config else None,
        limit=limit,
        judge=config.get("judge"),
        baseline=config.get("baseline"),
    )


def graph_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a graph that a set-up may give by name."""
    return {key: value for key, value in parameters_of(name).items() if key not in _NOT_PLAIN}


def _rows(path: Path, name: str, table: Mapping[str, Any], args: argparse.Namespace) -> list[SetupRun]:
    """The runs of one set-up: one for each seed."""
    where = f"{path}, set-up {name!r}"
    parser = _Options(where, add_search_options)
    options = parser.names()
    graph = table.get("graph", args.graph)
    if graph not in GRAPHS:
        raise InputError(f"{where}: there is no graph {graph!r}; there are {', '.join(GRAPHS)}.")
    arguments = graph_arguments(graph)
    typed, more = [], {}
    for key, value in table.items():
        dest = key.replace("-", "_")
        if dest in _OWN:
            continue
        # A table or a list is no option: it goes to the argument of that name.
        if dest in options and not isinstance(value, dict | list):
            typed += arguments_of(where, key, value, parser)
        elif dest in arguments:
            more[dest] = value
        else:
            allowed = sorted({*_OWN, *options, *arguments})
            raise InputError(
                f"{where}: there is no {key!r} for the graph {graph!r}; there are {', '.join(allowed)}."
            )
    found = argparse.Namespace(**{key: value for key, value in vars(args).items() if key != "command"})
    parser.parse_args(typed, found)
    if "index" in table:
        found.index = str(path.parent / table["index"])
    prices = table.get("prices")
    seeds = table.get("seeds", [found.seed])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{where}: seeds is a list of whole numbers, not {seeds!r}.")
    return [
        SetupRun(name, argparse.Namespace(**{**vars(found), "seed": seed}), more, _prices(prices, where))
        for seed in seeds
    ]


def _rewards(
    path: Path, tables: list[dict[str, Any]], defaults: Mapping[str, Any], args: argparse.Namespace
) -> tuple[RewardRun, ...]:
    """What the tables `[[reward]]` ask for."""
    rows: list[RewardRun] = []
    for number, table in enumerate(tables, 1):
        where = f"{path}, reward {number}"
        parser = _Options(where, add_reward_options)
        if not isinstance(table.get("data"), str):
            raise InputError(f"{where}: data must name a JSON Lines file.")
        typed: list[str] = []
        for key, value in table.items():
            if key.replace("-", "_") not in {"data", *parser.names()}:
                allowed = ", ".join(sorted({"data", *parser.names()}))
                raise InputError(f"{where}: there is no {key!r}; there are {allowed}.")
            if key == "reward" and isinstance(value, list):
                typed += [text for name in value for text in arguments_of(where, key, name, parser)]
            elif key != "data":
                typed += arguments_of(where, key, value, parser)
        found = argparse.Namespace(
            data=str(path.parent / table["data"]),
            model=defaults.get("model", args.model),
            reader="packaged",
            limit=None,
            threshold=None,
            aggregation=None,
        )
        parser.parse_args(typed, found)
        found.limit = args.limit or found.limit
        name, taken = Path(table["data"]).stem, {row.name for row in rows}
        rows.append(RewardRun(f"{name}-{number}" if name in taken else name, found))
    return tuple(rows)


class _Options(argparse.ArgumentParser):
    """Options whose defaults are what is set already, and whose mistakes name the table."""

    def __init__(self, where: str, add: Callable[[argparse.ArgumentParser], None]) -> None:
        super().__init__(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        self._where = where
        add(self)
        for action in self._actions:
            action.default = argparse.SUPPRESS

    def names(self) -> set[str]:
        return {action.dest for action in self._actions} - {"quiet"}

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self._where}: {message}.")


def _prices(value: Any, where: str) -> Prices | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.keys() != {"input", "output"}:
        raise InputError(
            f"{where}: prices are {{input = …, output = …}} for a million tokens, not {value!r}."
        )
    try:
        return Prices(**value)
    except ConfigurationError as error:
        raise InputError(f"{where}: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    try:
        if path.suffix in (".yaml", ".yml"):
            import yaml

            config = yaml.safe_load(text)
        else:
            config = tomllib.loads(text)
        json.dumps(config)
    except Exception as error:  # every parser has its own
        raise InputError(f"{path} is no {path.suffix[1:].upper() or 'TOML'} file: {error}.") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no names with values; see agentprm eval --help.")
    return config


def _table(config: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    table = config.get(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: {key} is a table, not {table!r}.")
    return table


def _tables(config: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    tables = config.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: {key} is a list of tables; write [[{key}]] before each.")
    return tables


def _known(config: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in config:
        if key not in names:
            raise InputError(f"{where}: there is no {key!r}; there are {', '.join(names)}.")
