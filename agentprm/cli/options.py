"""The options of the commands: how they are declared, checked, and read from a file."""

from __future__ import annotations

import argparse
import math
import textwrap
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from agentprm.errors import InputError

#: The graphs that `--graph` names, and the functions of `agentprm.graphs` that build them.
GRAPHS = {
    "reasoning": "create_reasoning_graph",
    "rearter": "create_rearter_graph",
    "r2": "create_r2_graph",
    "prs": "create_prs_graph",
    "glore": "create_glore_graph",
    "cr-planner": "create_cr_planner_graph",
    "rag": "create_rag_graph",
    "adaptive": "create_adaptive_rag_graph",
    "routed": "create_routed_graph",
    "hpt": "create_hpt_graph",
    "note": "create_note_graph",
    "evidence": "create_evidence_graph",
    "goal": "create_goal_graph",
}
RETRIEVERS = ("default", "vectors", "words", "hybrid")
FEEDBACKS = ("none", "links", "bridge", "rocchio", "average", "concatenate", "aggregate", "window")

__all__ = [
    "FEEDBACKS",
    "GRAPHS",
    "RETRIEVERS",
    "Parser",
    "add_command",
    "add_counts",
    "add_names",
    "add_search_options",
    "arguments_of",
    "count",
    "gate",
    "not_negative",
    "share",
    "whole",
    "with_config",
]


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are answered in one line."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        if message.startswith("unrecognized arguments: ") and " -" not in message:
            message += "; put what has several words in quotes"
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'.\n")


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], short: str, long: str, examples: str
) -> argparse.ArgumentParser:
    """Adds a command with its help."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=short,
        description=textwrap.fill(long, 78),
        epilog=f"examples:\n  {examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=run)
    command.add_argument("--config", metavar="FILE", help="TOML file with options, by their names here")
    return command


def with_config(argv: Sequence[str], commands: Mapping[str, argparse.ArgumentParser]) -> list[str]:
    """The arguments with those of `--config FILE` before them, so that given ones win.

    A file holds options of any command by their long names, and in a table `[ask]` those of one
    command.

    Raises:
        InputError: If the file cannot be read, or names an option that no command has.
    """
    given = list(argv)
    if not given or given[0] not in commands:
        return given
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config")
    try:
        path = finder.parse_known_args(given[1:])[0].config
    except argparse.ArgumentError:
        return given  # without a file's name: the command's own parser says so
    if path is None:
        return given
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The configuration {path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is no TOML file: {error}.") from error
    tables = {name: _options(parser) for name, parser in commands.items()}
    anywhere = {key: action for table in tables.values() for key, action in table.items()}
    arguments: list[str] = []
    for name, value in values.items():
        if isinstance(value, dict):
            if name not in commands:
                raise InputError(f"{path}: there is no command {name!r}; there are {', '.join(commands)}.")
            for key, item in value.items():
                found = _argument(path, key, item, tables[name])
                arguments += found if name == given[0] else []
        else:
            found = _argument(path, name, value, anywhere)
            arguments += found if _dashed(name) in tables[given[0]] else []
    return [given[0], *arguments, *given[1:]]


def _options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """A command's options by their long names, without those that make no sense in a file."""
    return {
        text: action
        for action in parser._actions
        for text in action.option_strings
        if text.startswith("--") and action.dest not in ("config", "help")
    }


def _argument(path: str, key: str, value: Any, known: Mapping[str, argparse.Action]) -> list[str]:
    action = known.get(_dashed(key))
    if action is None:
        names = ", ".join(sorted(name.removeprefix("--") for name in known))
        raise InputError(f"{path}: there is no option {key!r}; there are {names}.")
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InputError(f"{path}: {key} is true or false, not {value!r}.")
        negative = f"--no-{key.replace('_', '-')}"
        return [_dashed(key)] if value else [negative] if negative in action.option_strings else []
    if isinstance(value, bool | list):
        raise InputError(f"{path}: {key} takes one value, not {value!r}.")
    return [f"{_dashed(key)}={value}"]


def arguments_of(where: str, key: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
    """The option `key` of a parser as it would be typed.

    Raises:
        InputError: If there is no such option, or it takes no such value.
    """
    return _argument(where, key, value, _options(parser))


def _dashed(key: str) -> str:
    return "--" + key.replace("_", "-")


def add_names(command: argparse.ArgumentParser, texts: Mapping[str, str]) -> None:
    """Adds options that take the name of something, each with its help."""
    for flag, text in texts.items():
        command.add_argument(flag, metavar="NAME", help=text)


def add_counts(command: argparse.ArgumentParser, texts: Mapping[str, str]) -> None:
    """Adds options that take a whole number of at least 1, each with its help."""
    for flag, text in texts.items():
        command.add_argument(flag, type=count, metavar="N", help=text)


def add_search_options(command: argparse.ArgumentParser) -> None:
    """Adds the options of a search."""
    command.add_argument(
        "--graph",
        choices=tuple(GRAPHS),
        default="reasoning",
        metavar="NAME",
        help=f"how to answer: {', '.join(GRAPHS)} (reasoning)",
    )
    model = {
        "--model": "a chat model as provider:name (openai:…, ollama:…), a server's address, or a Hugging "
        "Face name or folder (default: packaged)",
    }
    add_names(command, model)
    command.add_argument(
        "--mode",
        choices=("plan", "step"),
        help="how to reason: split the question once and follow the plan, or propose step by step "
        "(plan with a reader, else step)",
    )
    parts = {
        "--reader": "what reads answers off passages: packaged, a folder that 'agentprm train reader' wrote, "
        "or none, and the model does (packaged with the packaged model, else none)",
        "--planner": "what splits questions: syntax, model, or a model by name that 'agentprm train planner' "
        "trained (syntax)",
        "--reward": "what scores steps: reader, grounding, relevance, self-judgement, judge, a chat model "
        "that judges, or a published reward model (default: what suits the model)",
        "--reranker": "what reorders passages: pairwise, a chat model, or a cross-encoder (default: none)",
    }
    add_names(command, parts)
    command.add_argument(
        "--retriever",
        choices=RETRIEVERS,
        help="how passages are found: by vectors, by words, by both, or the best way for the index (default)",
    )
    command.add_argument(
        "--feedback",
        choices=FEEDBACKS,
        help="how the first hits lead on to others (default: links, where the passages have any)",
    )
    seldom = {
        "--embeddings": "only needed where the index does not know its own",
        "--explainer": "a model of its own that says what is wrong with weak steps",
    }
    add_names(command, seldom)
    command.add_argument(
        "--threshold",
        type=gate,
        metavar="SCORE",
        help="refine steps that score no more than this: a number, reward for the reward's own, or none "
        "(reward; a plan: none)",
    )
    sizes = {
        "--k": "passages found by a search (as many as are read)",
        "--passages": "passages of them that are read (1; rag, or a reader: 5)",
        "--candidates": "steps to choose from each time (3; a plan: 1)",
        "--max-steps": "reasoning steps, or rounds, at most (5; a plan: 8)",
    }
    add_counts(command, sizes)
    command.add_argument(
        "--recall",
        action=argparse.BooleanOptionalAction,
        help="let steps be answered from what is known, without a search (rearter: yes, else no)",
    )
    command.add_argument(
        "--look-ahead",
        type=whole,
        default=0,
        metavar="N",
        help="steps to simulate after each candidate (0); 2 as in the paper takes two to three times as long",
    )
    search = {
        "--strategy": "where the search goes on: greedy, best-of-n, majority, weighted, beam, dvts, uct, "
        "puct or ab-mcts (greedy)",
        "--value": "what candidates are compared by: plain, td, td-code, snell, pav (plain)",
    }
    add_names(command, search)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same search (0)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")


def gate(text: str) -> float | str:
    """A score, or one of the words "reward" and "none"."""
    if text in ("none", "reward"):
        return text
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise argparse.ArgumentTypeError(f"{text!r} is no score, nor 'none' or 'reward'")
    return score


def whole(text: str) -> int:
    """A whole number."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def not_negative(text: str) -> float:
    """A number of at least 0."""
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return amount


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = not_negative(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
