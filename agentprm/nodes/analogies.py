"""Steps of earlier questions that are analogous to the one that comes next (R2-LLMs, the fine level)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langgraph.store.base import BaseStore

from agentprm.nodes.experience import RecallingNode
from agentprm.nodes.node import NodeRoutine
from agentprm.nodes.reporting import emit
from agentprm.state import ReasoningState, path_to
from agentprm.text import one_line

__all__ = ["RecallSteps"]


class RecallSteps(RecallingNode):
    """Recalls analogous steps of earlier questions at each place that the search goes on from.

    A place is looked up by what its last step asked and found, and by the question, among the steps that
    were kept with the question that they belong to. `ProposeSteps` shows what was recalled at a place in the
    prompt of that place alone, after what `RecallExperience` found once for the whole search; later
    prompts do not hold it. Goes before `ProposeSteps`, each time. No model is called.

    Args:
        k: Most steps at a place, each of another episode.
        before: Steps shown before a recalled one.
        after: Steps shown after it.
        failed: Recall steps of episodes that went wrong, too.
        same_question: As for `RecallExperience`.
        candidates: As for `RecallExperience`.
        store: As for `RecallExperience`.
        namespace: As for `RecallExperience`.
        keys: Own names for `question` and `messages`.
    """

    def __init__(
        self,
        *,
        k: int = 2,
        before: int = 0,
        after: int = 1,
        failed: bool = False,
        same_question: bool = True,
        candidates: int = 1000,
        store: BaseStore | None = None,
        namespace: Sequence[str] = ("experience",),
        keys: Mapping[str, str] | None = None,
        name: str = "recall_steps",
    ) -> None:
        self.k = k
        super().__init__(
            before=before,
            after=after,
            failed=failed,
            same_question=same_question,
            candidates=candidates,
            store=store,
            namespace=namespace,
            name=name,
            reads=("prm_steps", "prm_frontier"),
            writes=("prm_examples",),
            keys=keys,
            settings=("k",),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        question = one_line(state["question"])
        places = state.get("prm_frontier") or [""]
        wanted = []
        for place in places:
            last = path_to(state.get("prm_steps", []), place or None)[-1:]
            wanted.append("\n".join([*(one_line(f"{s['query']} {s['thought']}") for s in last), question]))
        rows = yield from self.similar("steps", question, wanted, self.setting("k"))
        examples: dict[str, str] = {}
        for place, found in zip(places, rows, strict=True):
            texts, ids = yield from self.around(found)
            emit({"type": "agentprm.experience_recalled", "ids": ids, "thought": ""})
            if texts:
                examples[place] = "\n\n".join(texts)
        return {"prm_examples": examples}
