"""Pure functions of the search: value functions and selection."""

from agentprm.search.selection import Selection, select_greedy
from agentprm.search.value import PAV, TD, Plain, Snell, ValueFunction, check_space

__all__ = ["PAV", "TD", "Plain", "Selection", "Snell", "ValueFunction", "check_space", "select_greedy"]
