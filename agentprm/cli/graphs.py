"""The graphs by name, and which options each takes."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agentprm.cli.options import GRAPHS
from agentprm.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["arguments_for", "graph_called", "parameters_of", "settings_for"]

# Arguments of graphs by the options that name them; others have the option's own name.
_ARGUMENTS = {"reward": ("reward", "rewards"), "max_steps": ("max_steps", "max_rounds")}
# What a graph says itself to the search that it is made of.
_SETTLED = {"prs": ("mode", "planner")}
# Sizes that a graph without them has no use for, so that one file of options serves several graphs.
_SIZES = ("k", "passages", "candidates", "max_steps", "strategy", "seed", "value", "look_ahead")
_OPTIONS = (
    *("reader", "reranker", "k", "passages", "mode", "planner", "reward", "explainer", "threshold", "value"),
    *("candidates", "max_steps", "recall", "experience", "strategy", "seed"),
)


def graph_called(name: str) -> Callable[..., Any]:
    """The function that builds the graph of a name that `--graph` takes."""
    from agentprm import graphs

    build: Callable[..., Any] = getattr(graphs, GRAPHS[name])
    return build


def parameters_of(name: str) -> dict[str, inspect.Parameter]:
    """The arguments of a graph, those included that it passes on to the reasoning search."""
    parameters = dict(inspect.signature(graph_called(name)).parameters)
    if parameters.pop("settings", None) is not None:
        passed = inspect.signature(graph_called("reasoning")).parameters
        settled = _SETTLED.get(name, ())
        parameters = {**{key: passed[key] for key in passed if key not in settled}, **parameters}
    return parameters


def _argument(option: str, name: str) -> str | None:
    """What a graph calls an option; `None` if it does not take it."""
    parameters = parameters_of(name)
    if option == "threshold" and "reward" not in parameters:
        return None  # that of a loop is one of its judge
    return next((one for one in _ARGUMENTS.get(option, (option,)) if one in parameters), None)


def arguments_for(args: argparse.Namespace, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that options make for the graph of `args`.

    Args:
        args: The options as they were given.
        values: What the options stand for; `None` leaves the graph its default.

    Raises:
        InputError: If a part was named that the graph does not take.
    """
    arguments: dict[str, Any] = {}
    for option, value in values.items():
        argument = _argument(option, args.graph)
        if argument is not None:
            if value is not None:
                arguments[argument] = value
        elif option not in _SIZES and getattr(args, option, None) not in (None, "none"):
            takers = [name for name in GRAPHS if _argument(option, name)]
            raise InputError(
                f"The graph {args.graph} takes no --{option}; leave it out, or take --graph "
                f"{' or '.join(takers)}."
            )
    return arguments


def settings_for(args: argparse.Namespace) -> dict[str, Any]:
    """The options that matter to the graph of `args`, for a run's name in logs and traces."""
    chosen = {option: getattr(args, option, None) for option in _OPTIONS if _argument(option, args.graph)}
    if _argument("value", args.graph):
        chosen["look_ahead"] = args.look_ahead
    chosen |= {option: getattr(args, option) for option in ("retriever", "feedback")}
    return {option: value for option, value in chosen.items() if value is not None}
