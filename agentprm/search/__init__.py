"""Pure functions of the search: value functions and selection.

`value` makes one number of the scores of a candidate and of what was looked ahead at; `selection` compares
these numbers.
"""

from agentprm.search.selection import Choice, select_greedy
from agentprm.search.value import PAV, TD, Plain, Snell, ValueFunction, check_space

__all__ = ["PAV", "TD", "Choice", "Plain", "Snell", "ValueFunction", "check_space", "select_greedy"]
