"""Strategies and value functions by their names, for graphs, configuration files and the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from agentprm.errors import ConfigurationError, unknown_name
from agentprm.search.mcts import ABMCTS, MCTS
from agentprm.search.strategies import DVTS, Beam, BestOfN
from agentprm.search.strategy import Greedy, Strategy
from agentprm.search.value import PAV, TD, Plain, Snell, Space, ValueFunction, check_space

__all__ = ["STRATEGIES", "VALUES", "strategy_called", "value_called"]

#: The strategies in their usual settings.
STRATEGIES: Mapping[str, Callable[[], Strategy]] = MappingProxyType(
    {
        "greedy": Greedy,
        "best-of-n": BestOfN,
        "majority": lambda: BestOfN(vote="majority"),
        "weighted": lambda: BestOfN(vote="weighted"),
        "beam": Beam,
        "dvts": DVTS,
        "uct": MCTS,
        "puct": lambda: MCTS(rule="puct"),
        "ab-mcts": ABMCTS,
    }
)

#: The value functions in their usual settings, by the space of the reward.
VALUES: Mapping[str, Callable[[Space], ValueFunction]] = MappingProxyType(
    {
        "plain": lambda space: Plain(),
        "td": TD.paper,
        "td-code": TD.code,
        "snell": lambda space: Snell(),
        "pav": lambda space: PAV(),
    }
)


def strategy_called(strategy: Strategy | str) -> Strategy:
    """A strategy by its name; one that is no name is given back.

    Raises:
        ConfigurationError: If there is none of that name, or it is no strategy.

    Example:
        >>> strategy_called("beam")
        Beam(vote='best', agree=None, width=4)
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise ConfigurationError(unknown_name("agentprm", "strategy", strategy, STRATEGIES))
        return STRATEGIES[strategy]()
    if isinstance(strategy, type):
        raise ConfigurationError(f"Give a strategy, {strategy.__name__}(), and not its class.")
    if not callable(getattr(strategy, "ask", None)) or not callable(getattr(strategy, "answer", None)):
        raise ConfigurationError(
            f"A strategy is a name ({', '.join(STRATEGIES)}) or has the methods ask and answer, unlike "
            f"{strategy!r}."
        )
    return strategy


def value_called(
    value: ValueFunction | str, space: Space = "probability", beta: float | None = None
) -> ValueFunction:
    """A value function by its name, fit for scores in this space; one that is no name is only checked.

    Args:
        value: The name, or a value function.
        space: Of the reward's scores.
        beta: Least rise that keeps the look-ahead of `td` going, if the reward's calibration says so;
            `td-code` has its own, since it works on log-odds.

    Raises:
        ConfigurationError: If there is none of that name, or it does not work on such scores.
    """
    if isinstance(value, str):
        if value not in VALUES:
            raise ConfigurationError(unknown_name("agentprm", "value function", value, VALUES))
        fitted = replace(TD.paper(space), beta=beta) if value == "td" and beta is not None else None
        value = fitted or VALUES[value](space)
    check_space(value, space)
    return value
