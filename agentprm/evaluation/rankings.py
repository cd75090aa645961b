"""nDCG and average precision, by the library that information retrieval trusts (`ir-measures`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentprm.errors import MissingDependencyError
from agentprm.evaluation.data import QaQuestion

__all__ = ["ranking_scores"]


def ranking_scores(
    questions: Iterable[QaQuestion], retrieved: Sequence[Sequence[str]], *, k: int = 10
) -> list[dict[str, float]]:
    """`nDCG@k` and `MAP` (the average precision of each question) of ranked passages.

    Args:
        questions: The questions; one without gold passages gets no numbers.
        retrieved: For each question the ids that were found, best first.
        k: Cut-off of nDCG.

    Raises:
        MissingDependencyError: Without the extra `eval`.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingDependencyError.for_extra("ir-measures", "eval") from error
    measures = {ir_measures.nDCG @ k: f"nDCG@{k}", ir_measures.AP: "MAP"}
    qrels, run = {}, {}
    found: list[dict[str, float]] = []
    for place, (question, ids) in enumerate(zip(questions, retrieved, strict=True)):
        found.append({})
        if question.gold:
            # Numbers in place of ids: trec_eval ends the process at half of a surrogate pair, and reads an id
            # to its first NUL only.
            names = {key: str(number) for number, key in enumerate(dict.fromkeys([*ids, *question.gold]))}
            qrels[str(place)] = {names[key]: round(question.grades.get(key, 1)) or 1 for key in question.gold}
            distinct = list(dict.fromkeys(ids))
            run[str(place)] = {names[key]: float(len(distinct) - rank) for rank, key in enumerate(distinct)}
    if qrels:
        for row in ir_measures.iter_calc(list(measures), qrels, run):
            found[int(row.query_id)][measures[row.measure]] = float(row.value)
    return found
