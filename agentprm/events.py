"""Custom stream events: small JSON-plain dictionaries with a `type`.

Read them with `graph.stream(..., stream_mode="custom")`; from a graph that runs inside another one
pass `subgraphs=True` as well.
"""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

__all__ = [
    "AnswerJudged",
    "Answered",
    "ContextSummarised",
    "DocumentsReranked",
    "DocumentsRetrieved",
    "DraftReviewed",
    "ExperienceRecalled",
    "NeedJudged",
    "QuestionCondensed",
    "QuestionPlanned",
    "RoundDone",
    "RoundPlanned",
    "Routed",
    "SearchEvent",
    "SearchStopped",
    "StepCommitted",
    "StepCompleted",
    "StepCriticised",
    "StepProposed",
    "StepRejected",
    "StepScored",
    "StepsSelected",
    "SubgoalChosen",
]


class SubgoalChosen(TypedDict):
    """What the next step is for; `scores` are the critic's, empty if there was no choice."""

    type: Literal["agentprm.subgoal_chosen"]
    step_id: str | None
    subgoal: str
    scores: dict[str, float | None]


class StepProposed(TypedDict):
    """A candidate step was proposed; `status` is `proposed` or `unparsed`."""

    type: Literal["agentprm.step_proposed"]
    step_id: str
    parent_id: str | None
    query: str
    final_answer: str | None
    status: str


class DocumentsRetrieved(TypedDict):
    """Passages were found for a step or a round, or for the question (`step_id` is then `None`)."""

    type: Literal["agentprm.documents_retrieved"]
    step_id: str | None
    query: str
    doc_ids: list[str]


class DocumentsReranked(TypedDict):
    """The passages of a step, or of the question, are in a new order.

    `calls` and `failures` count what was asked of the judge and what of it gave no usable answer;
    `stopped` says why the work ended early, if it did.
    """

    type: Literal["agentprm.documents_reranked"]
    step_id: str | None
    query: str
    doc_ids: list[str]
    method: str
    calls: int
    failures: int
    stopped: str | None


class StepCompleted(TypedDict):
    """A step's thought is finished."""

    type: Literal["agentprm.step_completed"]
    step_id: str
    thought: str


class StepScored(TypedDict):
    """A step has a score, or after look-ahead a value."""

    type: Literal["agentprm.step_scored"]
    step_id: str
    score: float | None
    value: float | None


class StepCriticised(TypedDict):
    """A weak step was explained: where its fault lies, if the explanation says so, and what to do better."""

    type: Literal["agentprm.step_criticised"]
    step_id: str
    fault: str | None
    critique: str


class DraftReviewed(TypedDict):
    """A finished draft was judged as a whole; `kind` says which refinement it is, if it is one."""

    type: Literal["agentprm.draft_reviewed"]
    step_id: str
    kind: Literal["draft", "local", "global"]
    value: float | None


class StepCommitted(TypedDict):
    """A step was chosen."""

    type: Literal["agentprm.step_committed"]
    step_id: str
    value: float | None


class StepRejected(TypedDict):
    """A proposal was dropped before it was searched for."""

    type: Literal["agentprm.step_rejected"]
    step_id: str
    score: float | None


class StepsSelected(TypedDict):
    """The strategy decided where to go on; `""` in the frontier is the question itself."""

    type: Literal["agentprm.steps_selected"]
    frontier: list[str]
    rejected: list[str]


class SearchStopped(TypedDict):
    """The search ended; the answer follows."""

    type: Literal["agentprm.search_stopped"]
    reason: str


class AnswerJudged(TypedDict):
    """An answer was judged; without a score `reason` says why."""

    type: Literal["agentprm.answer_judged"]
    judgement_id: str
    judge: str
    score: float | None
    reason: str


class QuestionCondensed(TypedDict):
    """A follow-up was made a question of its own; if it stayed as it was, `reason` says why."""

    type: Literal["agentprm.question_condensed"]
    asked: str
    question: str
    reason: str


class ContextSummarised(TypedDict):
    """Messages became a summary; `segment` is the key of the raw ones in the store."""

    type: Literal["agentprm.context_summarised"]
    segment: str
    messages: int


class ExperienceRecalled(TypedDict):
    """Episodes, or steps of them, were recalled; `thought` is what steps were recalled by."""

    type: Literal["agentprm.experience_recalled"]
    ids: list[str]
    thought: str


class Routed(TypedDict):
    """A mode was chosen; `share` is its probability, `None` where it is the default or a function said so."""

    type: Literal["agentprm.routed"]
    route: str
    share: float | None


class RoundPlanned(TypedDict):
    """A round of a loop that gathers evidence begins."""

    type: Literal["agentprm.round_planned"]
    round_id: str
    goal: str
    queries: list[str]


class RoundDone(TypedDict):
    """A round has ended; `kept` says whether it brought something on."""

    type: Literal["agentprm.round_done"]
    round_id: str
    kept: bool
    score: float | None
    note: str
    facts: int


class QuestionPlanned(TypedDict):
    """A question was split into sub-questions; `planner` says by what: its class or function, or `syntax`."""

    type: Literal["agentprm.question_planned"]
    question: str
    plan: list[str]
    planner: str


class NeedJudged(TypedDict):
    """How likely it is that the question needs passages, and where that leads; `None` if nobody was asked."""

    type: Literal["agentprm.need_judged"]
    need: float | None
    route: str


class Answered(TypedDict):
    """The answer is written."""

    type: Literal["agentprm.answered"]
    answer: str
    cited_ids: list[str]


SearchEvent = (
    SubgoalChosen
    | StepProposed
    | DocumentsRetrieved
    | DocumentsReranked
    | StepCompleted
    | StepScored
    | StepCriticised
    | DraftReviewed
    | StepCommitted
    | StepRejected
    | StepsSelected
    | SearchStopped
    | AnswerJudged
    | QuestionCondensed
    | QuestionPlanned
    | ContextSummarised
    | ExperienceRecalled
    | NeedJudged
    | Routed
    | RoundPlanned
    | RoundDone
    | Answered
)
