"""Readout: a verdict that a language model writes, with its probability and the critique that led to it."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentprm.budget import record
from agentprm.engine.tokenizing import common_length
from agentprm.errors import ConfigurationError, check_choice, check_least
from agentprm.forking import ForkSafeLock
from agentprm.lm import Completion, LanguageModel, Prompt, SamplingParams, as_language_model, require
from agentprm.replies import without_thought
from agentprm.rewards.base import (
    PrefixMemory,
    Recall,
    RemarkingReward,
    Trajectory,
    check_trajectories,
    sigmoid,
)
from agentprm.rewards.step_text import StepText, StepWriter
from agentprm.rewards.verdict_templates import Continuation, Found, Judge, VerdictTemplate, Writing
from agentprm.routines import Routine, adrive, drive, wait, wait_in_thread
from agentprm.text import one_line

__all__ = ["Verdict", "VerdictReward", "listed_probability"]


_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What a model made of one step.

    Attributes:
        score: Mean of the votes; `None` if no sample held a verdict.
        votes: The usable samples' scores.
        unparsed: Samples without a verdict.
        critiques: What was written, one text per sample, usable or not.
    """

    score: float | None
    votes: tuple[float, ...]
    unparsed: int
    critiques: tuple[str, ...]


_LISTED = 20  # likeliest tokens to ask a model for, the most that OpenAI's interface gives
_PARAMS = SamplingParams(max_tokens=1024, temperature=0.6, top_p=0.95, seed=0)


class VerdictReward(RemarkingReward):
    """The mean of `k` generated verdicts on each step.

    GenPRM, ThinkPRM, gORM and gPRM, GroundedPRM, a language model as judge with principles or a
    rubric, or the policy as its own judge: the template says which.

    A sample's score is P(good) / (P(good) + P(bad)) where it wrote its verdict: with a model that
    continues a prefix and has log-likelihoods from the model itself, else from the likeliest tokens
    that it reports there, as `ChatOpenAI`, `ChatOllama` and the chat API of servers do. Models that
    report none (reasoning models above all) vote 1 or 0; `graded` and `counted` tell which of it
    happened, and the `repr` shows them. A sample without a verdict has no score: the mean is over the
    others, and a step for which none is left scores NaN and is counted in `unscored`. `judge` gives the
    votes and critiques. Probabilities of a language model lean to 0 and 1: see `Calibrated`.

    Args:
        model: A language model, or whatever `as_language_model` takes.
        template: The prompt and how to find the verdict; by default a plain judge.
        k: Samples per step.
        params: How to sample; by default temperature .6, top-p .95 (GenPRM's), 1,024 tokens, and seed
            0, with which the same step has the same verdict in any company. Where tokens are read,
            `top_logprobs` is 20 unless it is given here.
        soft: Read probabilities off log-likelihoods (`True`), count labels (`False`), or read what
            probabilities the model gives (`None`).
        scope: `prefix` judges each step by what stands before it, one critique per step. `solution`
            takes all verdicts from one critique of the whole trajectory, for templates that give one
            per step: much cheaper for finished solutions, but a step is then judged with the later
            ones in sight, and a grown trajectory is judged anew.
        step_text: Writes a step; by default `StepText()`.
        cache_size: Prefixes whose verdicts are kept.

    Attributes:
        unparsed: Samples without a verdict so far.
        unscored: Steps without a score so far: none of their samples held a verdict.
        graded: Votes so far that are probabilities.
        counted: Votes so far that are labels, 1 or 0, or grades.

    Raises:
        CapabilityError: If the model lacks what the template or `soft=True` needs.
    """

    space = "probability"

    def __init__(
        self,
        model: Any,
        template: VerdictTemplate | None = None,
        *,
        k: int = 1,
        params: SamplingParams = _PARAMS,
        soft: bool | None = None,
        scope: Literal["prefix", "solution"] = "prefix",
        step_text: StepWriter | None = None,
        cache_size: int = 10_000,
    ) -> None:
        check_least(1, k=k)
        self.model: LanguageModel = as_language_model(model)
        self.template = template or Judge()
        check_choice("scope", scope, "prefix", "solution")
        if scope == "solution" and not self.template.per_step:
            raise ConfigurationError(
                f"{type(self.template).__name__} gives one verdict for a prefix, not one per step; use "
                "scope='prefix', or StepChecks."
            )
        name = type(self.template).__name__
        if self.template.staged:
            require(self.model, "prefill", name)
        if soft:
            require(self.model, "prefill", f"{name} with soft=True")
            require(self.model, "loglikelihood", f"{name} with soft=True")
        can = self.model.capabilities
        self.soft = soft if soft is not None else can.prefill and can.loglikelihood
        listed = 0 if self.soft or soft is False else params.top_logprobs or _LISTED
        self.k, self.params, self.scope = k, replace(params, top_logprobs=listed), scope
        self.step_text: StepWriter = step_text or StepText()
        self.unparsed = self.unscored = self.graded = self.counted = 0
        self._known = PrefixMemory[Verdict](cache_size)
        self._lock = ForkSafeLock()

    def __repr__(self) -> str:
        return f"VerdictReward({type(self.model).__name__}, graded={self.graded}, counted={self.counted})"

    def model_calls(self, steps: int) -> int:
        """See `ProcessRewardModel.model_calls`: `k` samples a step and stage, and their soft votes."""
        sampled = self.model.sample_calls(1, self.k) * self.template.stages
        return steps * (sampled + (self.k if self.soft else 0))

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        rows = yield from self._judging(question, trajectories)
        return [[math.nan if v.score is None else v.score for v in row] for row in rows]

    def _remarking(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[str]]:
        """The first critique with a verdict, without its thinking."""
        rows = yield from self._judging(question, trajectories)
        lasts = [row[-1] for row in rows]
        return [one_line(without_thought(last.critiques[0])) if last.votes else "" for last in lasts]

    def judge(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[Verdict]]:
        """The verdicts behind the scores, with votes and critiques."""
        return drive(self._judging(question, trajectories))

    async def ajudge(self, question: str, trajectories: Sequence[Trajectory]) -> list[list[Verdict]]:
        """Async twin of `judge`."""
        return await adrive(self._judging(question, trajectories))

    def _judging(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[Verdict]]]:
        check_trajectories(trajectories)
        texts = [[self.step_text(step) for step in trajectory] for trajectory in trajectories]
        # A verdict in the light of later steps belongs to the whole trajectory.
        recall = self._known.recall(question, texts, whole=self.scope == "solution")
        work = self._solutions if self.scope == "solution" else self._prefixes
        fresh = yield from work(question, texts, recall)
        record(reward_calls=len(fresh))
        with self._lock:
            self.unscored += sum(verdict.score is None for verdict in fresh.values())
            self.unparsed += sum(verdict.unparsed for verdict in fresh.values())
        if fresh and not any(verdict.votes for verdict in fresh.values()):
            written = next((text for verdict in fresh.values() for text in verdict.critiques), "")
            _logger.warning(
                "%r: none of %d replies held a verdict, so %d steps have no score. The first one: %.200r. "
                "Use a template that suits the model, a larger model, or more max_tokens.",
                self,
                sum(verdict.unparsed for verdict in fresh.values()),
                len(fresh),
                written,
            )
        return self._known.settle(recall, [fresh[key] for key in recall.new])

    def _prefixes(
        self, question: str, texts: list[list[str]], recall: Recall[Verdict]
    ) -> Routine[dict[str, Verdict]]:
        """Judges every new prefix: in order of length where critiques of earlier steps are shown."""
        fresh: dict[str, Verdict] = {}
        depths: list[int | None] = [None]
        if self.template.history:
            depths = sorted({k for _, k in recall.new.values()})  # type: ignore[assignment]
        for depth in depths:
            level = {key: place for key, place in recall.new.items() if depth in (None, place[1])}
            earlier: list[list[tuple[str, ...]]] = [[] for _ in level]
            if self.template.history:
                seen = {**recall.known, **fresh}
                earlier = [[seen[key].critiques for key in recall.keys[i][:k]] for i, k in level.values()]
            prefixes = [texts[i][: k + 1] for i, k in level.values()]
            found = yield from self._samples(question, prefixes, earlier)
            for key, samples in zip(level, found, strict=True):
                fresh[key] = _verdict([(text, votes[-1]) for text, votes in samples])
        return fresh

    def _solutions(
        self, question: str, texts: list[list[str]], recall: Recall[Verdict]
    ) -> Routine[dict[str, Verdict]]:
        """Judges every new trajectory once, a verdict for each of its steps."""
        rows = list(dict(recall.new_steps()))
        fresh: dict[str, Verdict] = {}
        if rows:
            found = yield from self._samples(question, [texts[i] for i in rows], [[] for _ in rows])
            for i, samples in zip(rows, found, strict=True):
                for k, key in enumerate(recall.keys[i]):
                    fresh[key] = _verdict([(text, votes[k]) for text, votes in samples])
        return fresh

    def _samples(
        self, question: str, jobs: list[list[str]], earlier: list[list[tuple[str, ...]]]
    ) -> Routine[list[list[tuple[str, list[float | None]]]]]:
        """`k` texts per prefix, each with a vote per step or `None`."""
        bases: list[tuple[Prompt, int]] = []
        paths: list[Writing] = []
        prefill = self.model.capabilities.prefill
        for steps, critiques in zip(jobs, earlier, strict=True):
            for i in range(self.k):
                history = [texts[i] for texts in critiques]
                messages = self.template.messages(question, steps, history)
                bases.append((Prompt(tuple(messages), thinking=self.template.thinks), len(steps)))
                paths.append(self.template.write(self.template.opening if prefill else "", len(steps)))
        written = yield from self._written(bases, paths)
        texts = [text for text, _ in written]
        votes: list[list[float | None]] = []
        soft: list[tuple[int, int, Prompt, list[str]]] = []
        graded: set[tuple[int, int]] = set()
        needed = 1 if self.scope == "prefix" else max(count for _, count in bases)  # last verdicts of a turn
        for number, ((base, count), (text, last)) in enumerate(zip(bases, written, strict=True)):
            found = self.template.find(text, question, count)
            if self.soft and self.template.closing and found[-1] is None:
                texts[number] = text.rstrip() + self.template.closing
                good, bad = self.template.words
                found = [*found[:-1], Found(0.0, len(texts[number]), (f" {good}", f" {bad}"))]
            votes.append([None if verdict is None else verdict.value for verdict in found])
            for k, verdict in enumerate(found):
                if verdict is None or k < count - needed:
                    continue
                if (listed := listed_probability(verdict, text, last)) is not None:
                    votes[number][k] = listed
                    graded.add((number, k))
                if verdict.at is not None and self.soft:
                    prompt = replace(base, prefix=texts[number][: verdict.at])
                    soft.append((number, k, prompt, list(verdict.words)))
        if soft:
            asked = [prompt for _, _, prompt, _ in soft], [words for *_, words in soft]
            rows = yield from wait(self.model.loglikelihood, self.model.aloglikelihood, *asked)
            for (number, k, _, _), (good_words, bad_words) in zip(soft, rows, strict=True):
                votes[number][k] = sigmoid(good_words - bad_words)
                graded.add((number, k))
        given = sum(vote is not None for row in votes for vote in row[-needed:])
        with self._lock:
            self.graded += len(graded)
            self.counted += given - len(graded)
        paired = list(zip(texts, votes, strict=True))
        return [paired[i : i + self.k] for i in range(0, len(paired), self.k)]

    def _written(
        self, bases: list[tuple[Prompt, int]], paths: list[Writing]
    ) -> Routine[list[tuple[str, Completion]]]:
        """Advances all paths together: what they wait for is sampled in as few calls as possible.

        Returns:
            Each turn, and the completion that it ends with.
        """
        texts: dict[int, tuple[str, Completion]] = {}
        waiting: dict[int, Continuation] = {i: next(path) for i, path in enumerate(paths)}
        while waiting:
            # Equal wishes are one prompt with several samples: one prefill, and different samples.
            equal: dict[tuple[Prompt, tuple[str, ...], int], list[int]] = {}
            for i, stage in waiting.items():
                prompt = replace(bases[i][0], prefix=stage.text)
                most = min(stage.max_tokens or self.params.max_tokens, self.params.max_tokens)
                equal.setdefault((prompt, stage.stop, most), []).append(i)
            batches: dict[tuple[tuple[str, ...], int, int], list[tuple[Prompt, list[int]]]] = {}
            for (prompt, stop, most), some in equal.items():
                batches.setdefault((stop, most, len(some)), []).append((prompt, some))
            waiting = {}
            for (stop, most, n), batch in batches.items():
                params = replace(self.params, max_tokens=most, stop=(*self.params.stop, *stop))
                prompts = [prompt for prompt, _ in batch]
                rows = yield from wait(self.model.sample, self.model.asample, prompts, n, params)
                replies = [
                    (i, completion)
                    for (_, some), row in zip(batch, rows, strict=True)
                    for i, completion in zip(some, row, strict=True)
                ]
                # In a thread: a template may run a program between two stages.
                stages, ends = yield from wait_in_thread(_advanced, paths, replies)
                waiting.update(stages)
                texts.update({i: (ends[i], last) for i, last in replies if i in ends})
        return [texts[i] for i in range(len(paths))]


def _advanced(
    paths: list[Writing], replies: list[tuple[int, Completion]]
) -> tuple[dict[int, Continuation], dict[int, str]]:
    """What paths want after these replies, and the texts of those that have come to their end."""
    stages: dict[int, Continuation] = {}
    ends: dict[int, str] = {}
    for i, completion in replies:
        try:
            stages[i] = paths[i].send(completion)
        except StopIteration as end:
            ends[i] = end.value
    return stages, ends


def _verdict(samples: Sequence[tuple[str, float | None]]) -> Verdict:
    votes = tuple(vote for _, vote in samples if vote is not None)
    score = math.fsum(votes) / len(votes) if votes else None
    return Verdict(score, votes, len(samples) - len(votes), tuple(text for text, _ in samples))


_MARKS = " \t\r\n*_`\"'"  # that a token may hold before a word


def listed_probability(found: Found, text: str, completion: Completion) -> float | None:
    """P(good) / (P(good) + P(bad)) at a verdict, over all listed tokens that begin either word.

    Read at the token where the two words part: " Yes" or " No", but "in" of "incorrect". A word of which
    no token is listed counts as likely as it may be at most: as the last one listed, or all that the
    list leaves.

    Args:
        found: The verdict.
        text: The assistant's turn that it was found in.
        completion: The completion that the turn ends with.

    Returns:
        The probability, or `None` if the completion does not say.
    """
    start = text.rfind(completion.text)
    if found.at is None or not completion.token_logprobs or start < 0:
        return None
    words = [word.strip().lower() for word in found.words]
    begin = found.at - start + len(found.words[0]) - len(found.words[0].lstrip())
    common = common_length(*words)
    if begin < 0 or common == min(map(len, words)):  # one word begins the other
        return None
    tokens = completion.token_logprobs
    token = tokens[bisect_right(tokens, begin + common, key=lambda t: t.at) - 1]
    lead = completion.text[token.at : begin].lower()  # of the token, before the word
    rests = [word[max(0, token.at - begin) :] for word in words]
    listed = {**dict(token.top), token.token: token.logprob}
    likely = {said: math.exp(min(logprob, 0.0)) for said, logprob in listed.items()}
    masses = [0.0, 0.0]
    for said, probability in likely.items():
        bare = said.lower().removeprefix(lead).lstrip(_MARKS)
        begins = [_begins(bare, rest) for rest in rests]
        if begins.count(True) == 1:
            masses[begins.index(True)] += probability
    if not any(masses):
        return None
    least = min(math.exp(min(logprob, 0.0)) for _, logprob in token.top or [("", token.logprob)])
    unseen = min(least, max(0.0, 1 - math.fsum(likely.values())))
    good, bad = (mass or unseen for mass in masses)
    return good / (good + bad)


def _begins(said: str, word: str) -> bool:
    """Whether a token is the beginning of a word, or the word and what may follow it."""
    if said.startswith(word):
        return not said[len(word) :][:1].isalnum()
    return bool(said) and word.startswith(said)
