"""Pure functions of the search: value functions and selection."""

from agentprm.search.selection import Choice, select_greedy
from agentprm.search.value import PAV, TD, Plain, Snell, ValueFunction, check_space

__all__ = ["PAV", "TD", "Choice", "Plain", "Snell", "ValueFunction", "check_space", "select_greedy"]
