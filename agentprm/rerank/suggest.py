"""Which comparator suits a model? A probe with passages whose order is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from langchain_core.documents import Document

from agentprm.errors import ConfigurationError
from agentprm.lm import as_language_model
from agentprm.rerank.comparator import Comparator, Policy, comparisons_of
from agentprm.rerank.prompted import (
    GenerationComparator,
    PromptComparator,
    QueryLikelihoodComparator,
    ScoringComparator,
)
from agentprm.routines import Routine, adrive, drive

__all__ = ["PROBES", "Probe", "ProbeReport", "Suggestion", "asuggest_comparator", "suggest_comparator"]


class Probe(NamedTuple):
    """A query with a passage that answers it and one on the same subject that does not."""

    query: str
    better: str
    worse: str


@dataclass(frozen=True)
class ProbeReport:
    """How a way of comparing did on the probes.

    Attributes:
        name: `scoring`, `generation` or `query likelihood`.
        accuracy: Share of the probes with the right verdict, both orders together; a tie counts half.
        first_chosen: Share of the answers that chose the passage shown first; .5 is free of bias.
            `None` for query likelihood, which shows one passage at a time.
        unusable: Share of the answers that were no clear decision.
        calls: Model calls that the probe took.
    """

    name: str
    accuracy: float
    first_chosen: float | None
    unusable: float
    calls: int

    @property
    def bias(self) -> float:
        """How far the choice depends on the position: 0 not at all, 1 entirely."""
        return 0.0 if self.first_chosen is None else abs(2 * self.first_chosen - 1)


@dataclass(frozen=True)
class Suggestion:
    """The outcome of `suggest_comparator`.

    Attributes:
        comparator: The one to use.
        reports: What was tried, in order.
        explanation: Why, in plain words.
    """

    comparator: Comparator
    reports: tuple[ProbeReport, ...]
    explanation: str


# Comparing on request is trusted from here on: nearly always right on easy pairs, and by what the
# passages say rather than by where they stand.
_ACCURACY, _BIAS, _UNUSABLE = 0.8, 0.5, 0.25


def suggest_comparator(
    model: Any, *, probes: Sequence[Probe] | None = None, policy: Policy = "mean", **settings: Any
) -> Suggestion:
    """Probes a model once and says which comparator suits it.

    Models from about 1.5 B parameters on compare well when asked. Smaller ones choose a position, not a
    passage, but tell by query likelihood which passage fits; that needs log-likelihoods.

    Args:
        model: A language model, chat model, or the name or folder of a local model.
        probes: Queries with a better and a worse passage; by default `PROBES`, a dozen general ones.
            Some 20 of your own subject tell more.
        policy: See `comparison_of`.
        **settings: For the comparator that asks, see `PromptComparator`.

    Returns:
        The comparator, the measured accuracy, position bias and share of unusable answers of all that
        was tried, and an explanation.

    Raises:
        ConfigurationError: Without probes.
    """
    return drive(_routine(model, PROBES if probes is None else probes, policy, settings))


async def asuggest_comparator(
    model: Any, *, probes: Sequence[Probe] | None = None, policy: Policy = "mean", **settings: Any
) -> Suggestion:
    """Async twin of `suggest_comparator`."""
    return await adrive(_routine(model, PROBES if probes is None else probes, policy, settings))


def _routine(
    model: Any, probes: Sequence[Probe], policy: Policy, settings: dict[str, Any]
) -> Routine[Suggestion]:
    if not probes:
        raise ConfigurationError("A probe needs at least one query with a better and a worse passage.")
    reader = as_language_model(model)
    scores = reader.capabilities.loglikelihood
    # A chat model is passed on as it came, so that verdicts are shared with other comparators of it.
    asking: PromptComparator = (ScoringComparator if scores else GenerationComparator)(
        model, policy=policy, **settings
    )
    report = yield from _asked(asking, probes, "scoring" if scores else "generation")
    if report.accuracy >= _ACCURACY and report.bias <= _BIAS and report.unusable <= _UNUSABLE:
        return Suggestion(asking, (report,), f"{_told(report)} It compares well when asked.")
    weak = f"{_told(report)} It does not compare well when asked."
    if not scores:
        return Suggestion(
            asking,
            (report,),
            f"{weak} It gives no log-likelihoods, so nothing better can be made of it: use a larger model, "
            "or a local one by query likelihood.",
        )
    likelihood = QueryLikelihoodComparator(reader, max_chars=asking.max_chars)
    other = yield from _read(likelihood, probes)
    if other.accuracy >= report.accuracy:
        return Suggestion(
            likelihood,
            (report, other),
            f"{weak} By query likelihood it is right on {other.accuracy:.0%}: use that.",
        )
    return Suggestion(
        asking,
        (report, other),
        f"{weak} By query likelihood it is right on {other.accuracy:.0%} only. Use a larger model.",
    )


def _told(report: ProbeReport) -> str:
    told = f"Right on {report.accuracy:.0%} of the pairs by {report.name}, both orders together;"
    if report.first_chosen is not None:
        told += f" {report.first_chosen:.0%} of its answers chose the passage shown first."
    if report.unusable:
        told += f" {report.unusable:.0%} of them were unusable."
    return told


def _documents(probe: Probe) -> tuple[Document, Document]:
    return Document(probe.better), Document(probe.worse)


def _asked(comparator: PromptComparator, probes: Sequence[Probe], name: str) -> Routine[ProbeReport]:
    questions = []
    for probe in probes:
        better, worse = _documents(probe)
        questions += [(probe.query, better, worse), (probe.query, worse, better)]
    answers = yield from comparator.answers(questions)
    verdicts = [verdict.p for verdict in comparisons_of(answers, comparator.policy)]
    chosen = [0.5 + 0.5 * ((p > 0.5) - (p < 0.5)) for p in answers if p is not None]
    return ProbeReport(
        name=name,
        accuracy=_accuracy(verdicts),
        first_chosen=sum(chosen) / len(chosen) if chosen else 0.5,
        unusable=answers.count(None) / len(answers),
        calls=len(answers),
    )


def _read(comparator: QueryLikelihoodComparator, probes: Sequence[Probe]) -> Routine[ProbeReport]:
    verdicts = []
    for probe in probes:
        pair = [_documents(probe)]
        verdicts += yield from comparator.verdicts(probe.query, pair)
    calls = sum(verdict.calls for verdict in verdicts)
    failures = sum(verdict.failures for verdict in verdicts)
    accuracy = _accuracy([verdict.p for verdict in verdicts])
    return ProbeReport("query likelihood", accuracy, None, failures / max(1, calls), calls)


def _accuracy(verdicts: Sequence[float]) -> float:
    """Share of verdicts for the better passage, which is the first of its pair."""
    return sum(0.5 + 0.5 * ((p > 0.5) - (p < 0.5)) for p in verdicts) / len(verdicts)


#: General knowledge, written for this purpose; the worse passage speaks of the same thing.
PROBES: tuple[Probe, ...] = (
    Probe(
        "What is the boiling point of water at sea level?",
        "At the pressure of sea level water boils at 100 degrees Celsius, or 212 degrees Fahrenheit.",
        "Water covers most of the Earth's surface. It freezes at 0 degrees Celsius and expands as it does.",
    ),
    Probe(
        "How do vaccines protect against disease?",
        "A vaccine shows the immune system a harmless part of a germ, so that antibodies are ready when the "
        "real germ arrives.",
        "Vaccines are kept in refrigerators and must be thrown away if they have been warm for too long.",
    ),
    Probe(
        "Who painted the ceiling of the Sistine Chapel?",
        "Michelangelo painted the frescoes on the ceiling of the Sistine Chapel between 1508 and 1512.",
        "The Sistine Chapel stands in the Vatican. Popes are elected there, and millions visit it each year.",
    ),
    Probe(
        "Why is the sky blue?",
        "Air molecules scatter the short blue waves of sunlight far more than the long red ones, so blue "
        "light reaches us from all over the sky.",
        "Blue is a popular colour for clothes and cars. Clear skies are common in summer in many countries.",
    ),
    Probe(
        "How long does it take the Moon to orbit the Earth?",
        "The Moon goes around the Earth once in about 27 days.",
        "The Moon's gravity raises the tides of the Earth's oceans, which are highest at full and new moon.",
    ),
    Probe(
        "What causes earthquakes?",
        "Earthquakes happen when plates of the crust that are locked together suddenly slip along a fault.",
        "Earthquakes are measured with seismographs. A magnitude above seven can destroy whole towns.",
    ),
    Probe(
        "What do bees make honey from?",
        "Bees make honey from nectar that they gather from flowers and thicken in the hive.",
        "Beekeepers wear veils and gloves. A hive can hold fifty thousand bees and a single queen.",
    ),
    Probe(
        "When was the printing press invented in Europe?",
        "Around 1440 Johannes Gutenberg of Mainz invented the printing press with movable type.",
        "Printed books are made of folded sheets that are sewn or glued together and bound in a cover.",
    ),
    Probe(
        "What is the capital of Australia?",
        "Canberra, founded in 1913, is the capital of Australia and the seat of its parliament.",
        "Sydney is the largest city of Australia and known for its opera house and harbour bridge.",
    ),
    Probe(
        "How can rust on iron be prevented?",
        "Paint, oil or a coat of zinc keeps air and moisture away from iron and so prevents rust.",
        "Iron is one of the most common metals. It is mined as ore and smelted in blast furnaces.",
    ),
    Probe(
        "Which vitamin does the skin make in sunlight?",
        "When sunlight falls on the skin, the body makes vitamin D.",
        "Oranges and peppers contain much vitamin C, which sailors lacked on long voyages.",
    ),
    Probe(
        "How does a refrigerator keep food cold?",
        "A refrigerator pumps a fluid that takes up heat as it evaporates inside and gives it off outside.",
        "Most refrigerators have shelves for bottles and a drawer for vegetables. Many are white.",
    ),
)
