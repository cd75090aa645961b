"""What a language model learns as a reader: records of reading as prompts and replies."""

from __future__ import annotations

import random
from collections.abc import Iterable

from agentprm.documents import passages_text
from agentprm.prompts import PROMPTS
from agentprm.text import one_line
from agentprm.training.data import Passage, ReadingRecord
from agentprm.training.language_model import TextExample

__all__ = ["NO_ANSWER", "reading_examples"]

#: The reply where no passage answers.
NO_ANSWER = "unknown"


def reading_examples(
    records: Iterable[ReadingRecord],
    *,
    passages: int = 3,
    unanswerable: float = 0.1,
    max_chars: int = 600,
    seed: int = 0,
) -> list[TextExample]:
    """Prompts of `Answer` and `CompleteSteps` with the replies that they should get.

    An example shows the gold passages among distractors, in an order drawn at random. Some examples lose
    their gold passages and are answered by `NO_ANSWER`, as are records without an answer.

    Args:
        records: Records of reading.
        passages: Most passages of an example; it has all its gold ones even if these are more.
        unanswerable: Share of the records with distractors that lose their gold passages.
        max_chars: Characters of a passage.
        seed: Of what is drawn.
    """
    examples = []
    for number, record in enumerate(records):
        rng = random.Random(f"{seed}/{number}/{record.question}")
        gold = [passage for passage in record.passages if passage.gold]
        others = [passage for passage in record.passages if not passage.gold]
        rng.shuffle(others)
        answers = record.answers
        if answers and others and rng.random() < unanswerable:
            gold, answers = [], []
        shown: list[Passage] = [*gold, *others[: max(passages - len(gold), 0)]]
        if not shown:
            continue
        rng.shuffle(shown)
        text = passages_text([passage.document() for passage in shown], max_chars)
        reply = one_line(answers[0]) if answers else NO_ANSWER
        template = rng.choice((PROMPTS.answer, PROMPTS.complete))
        prompt = template.render(
            prefill=True,
            passages=text,
            question=record.question,
            query=record.question,
            known="(nothing yet)",
        )
        examples.append(TextExample(prompt, f" {reply}"))
    return examples
