"""Pure functions of the search: value functions and selection."""

from agentprm.search.selection import Selection, select_greedy
from agentprm.search.value import PAV, TD, Plain, Snell, ValueFunction

__all__ = ["PAV", "TD", "Plain", "Selection", "Snell", "ValueFunction", "select_greedy"]
