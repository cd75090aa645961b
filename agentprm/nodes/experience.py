"""Experience across questions: episodes in LangGraph's store, recalled as examples (P-RAG, TRAD, R2-LLMs)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from langchain_core.language_models import BaseChatModel
from langgraph.store.base import BaseStore, GetOp, Item, PutOp, SearchItem, SearchOp
from typing_extensions import TypedDict

from agentprm.budget import SearchBudget
from agentprm.documents import plain, text_hash
from agentprm.errors import ConfigurationError, check_count
from agentprm.lm import LanguageModel, as_language_model
from agentprm.nodes.node import Node, NodeRoutine, runtime
from agentprm.nodes.reporting import emit, replied
from agentprm.prompts import ChatTemplate
from agentprm.questions.template import question_template
from agentprm.replies import parse_finding
from agentprm.rounds import rounds_of
from agentprm.routines import Routine, wait
from agentprm.state import ReasoningState, path_to
from agentprm.text import one_line, same_text, terms

__all__ = [
    "CommitExperience",
    "Episode",
    "EpisodeStep",
    "RecallExperience",
    "RecallingNode",
    "add_experience",
    "publish_experience",
]

THINK = ChatTemplate(
    fields=("examples", "question", "known"),
    system="Say in one sentence what has to be found out next to answer a question.",
    user="{examples}\n\nQuestion: {question}\nKnown:\n{known}",
    prefix="Thought:",
)
_NAMESPACE = ("experience",)
_READS = ("prm_steps", "prm_frontier", "prm_rounds", "prm_usage")


class EpisodeStep(TypedDict):
    """One step of an episode.

    Attributes:
        thought: What the step was after: the goal of a round, else the query.
        query: What was searched for.
        finding: What was found.
    """

    thought: str
    query: str
    finding: str


class Episode(TypedDict):
    """How one question went.

    Attributes:
        question: The question.
        steps: The steps on the way to the answer.
        answer: The answer.
        done: Whether it was right; `None` where nobody said.
    """

    question: str
    steps: list[EpisodeStep]
    answer: str
    done: bool | None


class _StoreNode(Node):
    """A node that works on a store: its own, or the one that the graph was compiled with."""

    def __init__(self, store: BaseStore | None, namespace: Sequence[str], **rest: Any) -> None:
        if store is not None and not isinstance(store, BaseStore):
            raise ConfigurationError(f"store must be a LangGraph BaseStore, not a {type(store).__name__}.")
        if (
            isinstance(namespace, str)
            or not namespace
            or not all(isinstance(n, str) and n for n in namespace)
        ):
            raise ConfigurationError(f"namespace must be a tuple of names, not {namespace!r}.")
        self.own_store, self.namespace = store, tuple(namespace)
        super().__init__(**rest)

    def store(self) -> BaseStore:
        """The store.

        Raises:
            ConfigurationError: If there is none.
        """
        own = self.own_store
        store: BaseStore | None = getattr(runtime(), "store", None) if own is None else own
        if store is None:
            raise ConfigurationError(
                f"{self.name} needs a store: compile the graph with one, compile(store=InMemoryStore()), or "
                f"give {type(self).__name__} a store of its own."
            )
        return store


class RecallingNode(_StoreNode):
    """A node that looks up what was kept; its settings are those of `RecallExperience`."""

    def __init__(
        self,
        *,
        before: int,
        after: int,
        failed: bool,
        same_question: bool,
        candidates: int,
        store: BaseStore | None,
        namespace: Sequence[str],
        **rest: Any,
    ) -> None:
        self.before, self.after = check_count("before", before, 0), check_count("after", after, 0)
        self.failed, self.same_question, self.candidates = failed, same_question, candidates
        super().__init__(store, namespace, **rest)

    def similar(
        self, kind: str, question: str, wanted: Sequence[str], k: int
    ) -> Routine[list[list[SearchItem]]]:
        """The items most similar to each text that is wanted, best first, each of another episode."""
        store = self.store()
        ops = [SearchOp((*self.namespace, kind), limit=self.candidates, query=text) for text in wanted]
        rows = yield from wait(store.batch, store.abatch, ops)
        return [
            self._best(cast("list[SearchItem]", items), question, text, k)
            for items, text in zip(rows, wanted, strict=True)
        ]

    def _best(self, items: list[SearchItem], question: str, wanted: str, k: int) -> list[SearchItem]:
        usable = [
            item
            for item in items
            if (self.failed or item.value["done"] is not False)
            and (self.same_question or not same_text(item.value["question"], question))
        ]
        if any(item.score is None for item in usable):
            usable = _by_words(usable, wanted)
        best = {item.value["id"]: item for item in reversed(usable)}
        return sorted(best.values(), key=usable.index)[:k]

    def around(self, found: Sequence[SearchItem]) -> Routine[tuple[list[str], list[str]]]:
        """The recalled steps with those around them, as text, and their ids."""
        if not found:
            return [], []
        store = self.store()
        ops = [GetOp((*self.namespace, "episodes"), item.value["id"]) for item in found]
        whole = yield from wait(store.batch, store.abatch, ops)
        texts, ids = [], []
        for item, kept in zip(found, cast("list[Item | None]", whole), strict=True):
            if kept is None:  # deleted meanwhile
                continue
            episode, place = cast("Episode", kept.value["episode"]), int(item.value["place"])
            window = range(max(0, place - self.before), min(len(episode["steps"]), place + self.after + 1))
            lines = [f"[{i - place}] {_line(episode['steps'][i])}" for i in window]
            texts.append("\n".join([_heading(episode), *lines]))
            ids.append(item.key)
        return texts, ids


class RecallExperience(RecallingNode):
    """Writes `examples`: how similar questions went, for the prompts of the nodes that plan.

    `ProposeSteps`, `PlanQueries`, `PlanGap` and `SetGoal` show them before the question, in that prompt
    alone.

    By `question` (P-RAG) whole episodes are recalled, those that failed too, marked as such. By `template`
    (R2-LLMs) so are those whose questions are alike without their names and numbers, whatever they are
    about. By `thought`
    (TRAD) the model first says what has to be found out next, and steps with similar thoughts are
    recalled, each from another episode, with the steps around it and marks of their order ([-1], [0], [1]).
    Run it before each round then, since thoughts change.

    Similar is what the store's index says, where it has one for the field `key`; else what shares most words.

    Args:
        model: Writes thoughts; needed for `by="thought"`.
        by: `question`, `template` or `thought`.
        k: Most episodes, or steps.
        before: Steps shown before a recalled one; 0 was best in the paper.
        after: Steps shown after it; 2 was best in the paper.
        failed: Recall what failed, too.
        same_question: Recall episodes of this very question. Leave them out where they would give away
            the answer, as in a benchmark.
        candidates: Most items that are compared where the store has no index.
        store: A store of its own; by default the graph's, `compile(store=…)`.
        namespace: Where in the store.
        max_tokens: Most tokens of a thought.
        template: The prompt of a thought, with the fields `examples`, `question` and `known`.
        keys: Own names for `question`, `messages` and `examples`.
        budget: Bounds of a run. One model call is kept back for the answer.
    """

    def __init__(
        self,
        model: LanguageModel | BaseChatModel | str | None = None,
        *,
        by: Literal["question", "template", "thought"] = "question",
        k: int = 3,
        before: int = 0,
        after: int = 2,
        failed: bool = True,
        same_question: bool = True,
        candidates: int = 1000,
        store: BaseStore | None = None,
        namespace: Sequence[str] = _NAMESPACE,
        max_tokens: int = 48,
        template: ChatTemplate = THINK,
        keys: Mapping[str, str] | None = None,
        budget: SearchBudget | Mapping[str, Any] | None = None,
        name: str = "recall",
    ) -> None:
        if by not in ("question", "template", "thought"):
            raise ConfigurationError(f"by must be 'question', 'template' or 'thought', not {by!r}.")
        if by == "thought" and model is None:
            raise ConfigurationError("by='thought' needs a model that writes thoughts.")
        self.model = None if model is None else as_language_model(model)
        self.by, self.k, self.max_tokens, self.template = by, k, max_tokens, template
        super().__init__(
            before=before,
            after=after,
            failed=failed,
            same_question=same_question,
            candidates=candidates,
            store=store,
            namespace=namespace,
            name=name,
            reads=_READS,
            writes=("examples",),
            keys=keys,
            budget=budget,
            settings=("k",),
        )

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        question, k = state["question"], self.setting("k")
        kind, wanted = "episodes", question
        if self.by == "template":
            kind, wanted = "templates", question_template(question)
        (found,) = yield from self.similar(kind, question, [wanted], k)
        episodes = [cast("Episode", item.value["episode"]) for item in found]
        examples, ids, thought = [_told(one) for one in episodes], [item.key for item in found], ""
        if self.by == "thought" and self.model is not None:
            thought = yield from self._thought(state, examples)
            if thought:
                (steps,) = yield from self.similar("steps", question, [thought], k)
                examples, ids = yield from self.around(steps)
        emit({"type": "agentprm.experience_recalled", "ids": ids, "thought": thought})
        return {"examples": "\n\n".join(examples)}

    def _thought(self, state: ReasoningState, examples: list[str]) -> Routine[str]:
        model = cast("LanguageModel", self.model)
        if self.short(state, model_calls=1, reserve=1):
            return ""
        known = [one_line(f"{step['query']} {step['finding']}") for step in _steps(state)]
        prompt = self.template.render(
            prefill=model.capabilities.prefill,
            examples="\n\n".join(examples) or "(no examples)",
            question=one_line(state["question"]),
            known="\n".join(known) or "(nothing yet)",
        )
        return one_line(parse_finding((yield from replied(model, prompt, max_tokens=self.max_tokens))))


class CommitExperience(_StoreNode):
    """Keeps how the question went, with its outcome, for `RecallExperience`.

    The steps are those on the way to the answer of a search, or the rounds of a loop. The same episode is
    kept once, however often the node runs.

    Args:
        outcome: Says whether the answer is right: a function from the state (`question`, `answer`,
            `prm_steps`, …) to a truth value, or `None` where it cannot say. By default `score`, as
            `JudgeAnswer` writes it, of at least .5.
        hold: Keep the episode back until `publish_experience`, so that questions of one round do not learn
            from one another.
        store: As for `RecallExperience`.
        namespace: As for `RecallExperience`.
        keys: Own names for `question`, `messages`, `answer` and `score`.

    Example:
        >>> from langgraph.store.memory import InMemoryStore
        >>> store = InMemoryStore()
        >>> state = {"question": "Who designed the bridge?", "answer": "Brunel", "score": 0.9}
        >>> CommitExperience(store=store).invoke(state)
        {}
        >>> asked = {"question": "Who designed the tunnel?"}
        >>> print(RecallExperience(store=store).invoke(asked)["examples"])
        Example (right): Who designed the bridge?
        Final answer: Brunel
    """

    def __init__(
        self,
        outcome: Callable[[Mapping[str, Any]], bool | None] | None = None,
        *,
        hold: bool = False,
        store: BaseStore | None = None,
        namespace: Sequence[str] = _NAMESPACE,
        keys: Mapping[str, str] | None = None,
        name: str = "commit",
    ) -> None:
        if outcome is not None and not callable(outcome):
            raise ConfigurationError(f"outcome must be a function of the state, not {outcome!r}.")
        self.outcome, self.hold = outcome, hold
        super().__init__(store, namespace, name=name, reads=("answer", "score", *_READS), keys=keys)

    def routine(self, state: ReasoningState) -> NodeRoutine:
        """See `Node.routine`."""
        answer = state.get("answer", "")
        if not answer.strip():
            return {}
        if self.outcome is not None:
            said = self.outcome(state)
            done = None if said is None else bool(said)
        else:
            score = cast("float | None", cast("Mapping[str, Any]", state).get("score"))
            done = None if score is None else score >= 0.5
        episode = Episode(question=state["question"], steps=_steps(state), answer=answer, done=done)
        episode = cast("Episode", plain(episode, "The episode"))
        store = self.store()
        ops = [_held(self.namespace, episode)] if self.hold else _kept(self.namespace, episode)
        for batch in _distinct(ops):
            yield from wait(store.batch, store.abatch, batch)
        return {}


def add_experience(
    store: BaseStore, episodes: Iterable[Episode], namespace: Sequence[str] = _NAMESPACE
) -> int:
    """Keeps episodes that come from elsewhere: a set of solved questions as reference.

    Args:
        store: The store.
        episodes: The episodes.
        namespace: As for `CommitExperience`.

    Returns:
        How many there were.

    Example:
        >>> from langgraph.store.memory import InMemoryStore
        >>> store = InMemoryStore()
        >>> step = EpisodeStep(thought="the director", query="Who directed Up?", finding="Pete Docter")
        >>> question = "Where was the director of Up born?"
        >>> add_experience(store, [Episode(question=question, steps=[step], answer="Bloomington", done=True)])
        1
        >>> node = RecallExperience(store=store, by="template")
        >>> print(node.invoke({"question": "Where was the director of Lost River born?"})["examples"])
        Example (right): Where was the director of Up born?
        Search: Who directed Up? Found: Pete Docter
        Final answer: Bloomington
    """
    count = 0
    for episode in episodes:
        for batch in _distinct(_kept(namespace, cast("Episode", plain(episode, "The episode")))):
            store.batch(batch)
        count += 1
    return count


def publish_experience(store: BaseStore, namespace: Sequence[str] = _NAMESPACE) -> int:
    """Lets episodes that were held back be recalled, at the end of a round of questions.

    Args:
        store: The store.
        namespace: As for `CommitExperience`.

    Returns:
        How many there were.
    """
    held = (*namespace, "held")
    count = 0
    while items := store.search(held, limit=100):
        for item in items:
            for batch in _distinct(_kept(namespace, cast("Episode", item.value["episode"]))):
                store.batch(batch)
            store.batch([PutOp(held, item.key, None)])
        count += len(items)
    return count


def _steps(state: ReasoningState) -> list[EpisodeStep]:
    """The steps of a search on the way to its answer, or the rounds of a loop that found something."""
    frontier = state.get("prm_frontier") or []
    if frontier and frontier[-1]:
        path = path_to(state.get("prm_steps", []), frontier[-1])
        return [EpisodeStep(thought=s["query"], query=s["query"], finding=s["thought"]) for s in path]
    return [
        EpisodeStep(
            thought=one["goal"] or " ".join(one["queries"]),
            query=" ".join(one["queries"]),
            finding=one_line(one["note"] or " ".join(fact["text"] for fact in one["facts"])),
        )
        for one in rounds_of(state)
        if one["queries"] and (one["note"] or one["facts"])
    ]


def _id(episode: Episode) -> str:
    return text_hash(json.dumps(episode, sort_keys=True))


def _held(namespace: Sequence[str], episode: Episode) -> PutOp:
    return PutOp((*namespace, "held"), _id(episode), {"episode": dict(episode)}, index=False)


def _kept(namespace: Sequence[str], episode: Episode) -> list[PutOp]:
    """The episode by its question, and each of its steps by its thought in the light of the question."""
    identity = _id(episode)
    common: dict[str, Any] = {"id": identity, "question": episode["question"], "done": episode["done"]}
    ops = []
    for kind, key in (
        ("episodes", episode["question"]),
        ("templates", question_template(episode["question"])),
    ):
        value = {**common, "key": key, "episode": dict(episode)}
        ops.append(PutOp((*namespace, kind), identity, value, index=["key"]))
    for place, step in enumerate(episode["steps"]):
        value = {**common, "key": f"{step['thought']}\n{episode['question']}", "place": place}
        ops.append(PutOp((*namespace, "steps"), f"{identity}.{place}", value, index=["key"]))
    return ops


def _distinct(ops: Sequence[PutOp]) -> list[list[PutOp]]:
    """The operations in batches without equal keys: LangGraph's store in memory embeds none twice in one."""
    batches: list[dict[str, PutOp]] = []
    for op in ops:
        key = str((op.value or {}).get("key", op.key))
        free = next((batch for batch in batches if key not in batch), None)
        if free is None:
            batches.append(free := {})
        free[key] = op
    return [list(batch.values()) for batch in batches]


def _by_words(items: Sequence[SearchItem], wanted: str) -> list[SearchItem]:
    """The items that share words with what is wanted, by the cosine of their sets of words."""
    words = set(terms(wanted))

    def shared(item: SearchItem) -> float:
        own = set(terms(item.value["key"]))
        return len(words & own) / ((len(words) * len(own)) ** 0.5 or 1.0)

    return sorted((item for item in items if shared(item) > 0), key=shared, reverse=True)


def _heading(episode: Episode) -> str:
    outcome = {True: " (right)", False: " (wrong, do better)", None: ""}[episode["done"]]
    return f"Example{outcome}: {one_line(episode['question'])}"


def _line(step: EpisodeStep) -> str:
    return one_line(f"Search: {step['query']} Found: {step['finding']}")


def _told(episode: Episode) -> str:
    """An episode as an example."""
    lines = [_line(step) for step in episode["steps"]]
    return "\n".join([_heading(episode), *lines, f"Final answer: {one_line(episode['answer'])}"])
