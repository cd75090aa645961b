"""Documents whose text tells their grade, and judges that read it there."""

import re

from langchain_core.documents import Document

GRADE = re.compile(r"grade (-?\d+)")


def documents(grades, *, same_id=False):
    return [
        Document(id="same" if same_id else f"d{i}", page_content=f"text {i} of grade {grade}")
        for i, grade in enumerate(grades)
    ]


def grade_in(text):
    """The grade of the only passage in a prompt."""
    return int(GRADE.search(text).group(1))


def places(ranked):
    """Incoming places of reranked documents, best first."""
    return [document.metadata["rerank"]["prior_rank"] for document in ranked]


def best_first(grades):
    """What a perfect judge makes of it, by brute force: no later one is better, ties in order."""
    left, order = list(range(len(grades))), []
    while left:
        best = left[0]
        for place in left:
            if grades[place] > grades[best]:
                best = place
        left.remove(best)
        order.append(best)
    return order
