"""Pure functions of the search: value functions and strategies.

`value` makes one number of the scores of a candidate and of what was looked ahead at. A `strategy` says from
the tree of valued steps where to go on and what to answer from: `Greedy` commits the best sibling,
`strategies` go down level by level, `mcts` spends where it seems to pay, `named` finds them by their names.
`subgoals` are CR-Planner's: which may come next, and what each critic is shown.
"""

from agentprm.search.mcts import ABMCTS, MCTS
from agentprm.search.named import STRATEGIES, strategy_called
from agentprm.search.strategies import DVTS, Beam, BestOfN, FirstPath
from agentprm.search.strategy import Ask, Expansion, Greedy, Strategy, Tree, Vote, Voting, explore
from agentprm.search.subgoals import SENTENCES, SUBGOALS, allowed_subgoals, critic_context, pending_query
from agentprm.search.value import PAV, TD, Plain, Snell, ValueFunction, check_space

__all__ = [
    "ABMCTS",
    "DVTS",
    "MCTS",
    "PAV",
    "SENTENCES",
    "STRATEGIES",
    "SUBGOALS",
    "TD",
    "Ask",
    "Beam",
    "BestOfN",
    "Expansion",
    "FirstPath",
    "Greedy",
    "Plain",
    "Snell",
    "Strategy",
    "Tree",
    "ValueFunction",
    "Vote",
    "Voting",
    "allowed_subgoals",
    "check_space",
    "critic_context",
    "explore",
    "pending_query",
    "strategy_called",
]
