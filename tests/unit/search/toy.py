"""Trees that can be enumerated: every step has `branching` children, those of the last depth answer."""

import random

from agentprm.budget import empty_usage


def step(step_id, *, value, score=None, answer=None, status="open", **rest):
    """One valued step."""
    return {
        "id": step_id,
        "parent_id": step_id.rpartition(".")[0] or None,
        "depth": step_id.count(".") + 1,
        "query": f"q{step_id}",
        "retrieve": False,
        "doc_ids": [],
        "thought": answer or "t",
        "final_answer": answer,
        "score": value if score is None else score,
        "value": value,
        "status": status,
        "usage": empty_usage(),
        **rest,
    }


class Toy:
    """A whole tree, of which a search sees what it expands.

    Args:
        branching: Children of each step.
        depth: Of the answers.
        seed: Of the values.
        exact: Whether a step's value is that of the best answer below it.
    """

    def __init__(self, branching=3, depth=3, seed=0, exact=False):
        self.branching, self.depth = branching, depth
        chance = random.Random(seed)
        self.steps = {}
        self._grow("", 1, chance)
        if exact:
            for place in sorted(self.steps, key=lambda i: -i.count(".")):
                if below := self.children(place):
                    self.steps[place]["value"] = self.steps[place]["score"] = max(c["value"] for c in below)

    def _grow(self, parent, depth, chance):
        for number in range(1, self.branching + 1):
            place = f"{parent}.{number}" if parent else str(number)
            answer = chance.choice("abcd") if depth == self.depth else None
            self.steps[place] = step(place, value=chance.random(), answer=answer)
            if depth < self.depth:
                self._grow(place, depth + 1, chance)

    def children(self, parent):
        prefix = f"{parent}." if parent else ""
        ids = [f"{prefix}{n}" for n in range(1, self.branching + 1)]
        return [self.steps[i] for i in ids if i in self.steps]

    def answers(self):
        return [s for s in self.steps.values() if s["final_answer"]]

    def best(self):
        return max(self.answers(), key=lambda s: s["score"])

    def expand(self, tree, expansion):
        """The next children of a step; those that it has already are proposed once more."""
        grown = [s for s in tree._by_id.values() if s["parent_id"] == expansion.parent]
        children = self.children(expansion.parent or "")
        wanted = self.branching if expansion.children is None else expansion.children
        new = children[len(grown) : len(grown) + wanted]
        again = wanted - len(new)
        if again and (new or grown):
            last = (new or grown)[-1]
            merged = {**last, "samples": last.get("samples", 1) + again}
            return [*new[:-1], merged]
        return new
