"""What rewards that a server computes have in common, and those that need no heads.

Any text classifier behind HTTP, and the log-probabilities of served language models: of verdict words and as
log-ratios.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agentprm.budget import record
from agentprm.engine.tokenizing import Span, load_tokenizer
from agentprm.errors import ConfigurationError, InputError, ModelServerError, check_choice, check_least
from agentprm.lm.json_http import JsonHttp
from agentprm.lm.reports import token_usage
from agentprm.lm.token_lm import Cost, TokenLM
from agentprm.rewards.base import RoutineReward, Trajectory, sigmoid
from agentprm.rewards.step_text import Overflow, StepReward, StepWriter, Wanted, fits_context
from agentprm.rewards.templates import Dialogue, StepTemplate, step_shares, two_words
from agentprm.routines import Routine, all_of, wait_on_loop

__all__ = ["HttpClassifier", "ServedLogRatio", "ServedReward", "ServedTokenLogits"]


class ServedReward(StepReward, RoutineReward):
    """A reward whose new prefixes are scored by requests, all of a call at once.

    Subclasses implement `_row`, or `_rows` where requests hold steps of several trajectories. Cancelling
    `ascore` ends its requests.

    `score` raises `ContextLengthError` if a prefix does not fit the context and the policy is `"error"`,
    `InputError` if a step has no finding, `TransientModelError` if the server cannot be reached for now, and
    `ModelServerError` if it fails for good.

    Args:
        step_text: As in `StepReward`.
        cache_size: As in `StepReward`.
        on_overflow: As in `StepReward`.
        longest: Most tokens of a prefix; `None` where that is not known.
    """

    def __init__(
        self, step_text: StepWriter | None, cache_size: int, on_overflow: Overflow, longest: int | None
    ) -> None:
        super().__init__(step_text, cache_size, on_overflow)
        self.max_context = longest

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        """Scores of a trajectory's new steps; `cost` is told what they cost."""
        raise NotImplementedError

    async def _rows(self, question: str, wanted: Wanted, cost: Cost) -> list[list[float]]:
        """Scores of new steps, a row per trajectory."""

        async def row(steps: list[str], new: list[int]) -> list[float]:
            return await self._row(question, steps, new, cost)

        return await all_of(row, *zip(*wanted, strict=True)) if wanted else []

    def _scoring(self, question: str, trajectories: Sequence[Trajectory]) -> Routine[list[list[float]]]:
        (recall, wanted), cost = self._recall(question, trajectories), Cost()
        try:
            found = yield from wait_on_loop(self._rows(question, wanted, cost))
        finally:
            record(model_calls=cost.calls, prompt_tokens=cost.asked, computed_tokens=cost.computed)
        return self._settle(recall, found)

    def _fits(self, length: int, step: int) -> bool:
        return fits_context(length, self.max_context, self.on_overflow, step)


class HttpClassifier(ServedReward):
    """Any classifier behind HTTP: the text of a prefix goes in, a number comes out.

    By default it speaks vLLM's `/classify` (`vllm serve MODEL --runner pooling --convert classify`);
    `body` and `read` fit it to others.

    Args:
        url: Address of the requests, path included.
        model: Name of the model, if the server asks for one.
        text: From the question and the step texts to the text; by default all of them, separated by
            blank lines.
        label: Class whose probability is the score.
        body: From texts to the JSON of a request.
        read: From the JSON of a reply to one number per text.
        space: Of the numbers.
        batch: Most texts of a request.
        api_key: Key of the server.
        headers: Further headers.
        max_concurrency: Most requests at a time.
        max_retries: As in `ServerLM`.
        timeout_s: As in `ServerLM`.
        step_text: As in `StepReward`.
        cache_size: As in `StepReward`.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        text: Callable[[str, Sequence[str]], str] | None = None,
        label: int = 1,
        body: Callable[[list[str]], Any] | None = None,
        read: Callable[[Any], Sequence[float]] | None = None,
        space: Literal["probability", "logit"] = "probability",
        batch: int = 16,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_concurrency: int = 8,
        max_retries: int = 4,
        timeout_s: float = 600.0,
        step_text: StepWriter | None = None,
        cache_size: int = 10_000,
    ) -> None:
        super().__init__(step_text, cache_size, "error", None)
        check_choice("space", space, "probability", "logit")
        check_least(1, batch=batch)
        self.space, self._batch = space, batch
        self._http = JsonHttp(
            url,
            api_key=api_key,
            headers=headers,
            timeout_s=timeout_s,
            max_retries=max_retries,
            max_concurrency=max_concurrency,
        )
        named = {} if model is None else {"model": model}
        self._text = text or (lambda question, steps: "\n\n".join([question, *steps]))
        self._body = body or (lambda texts: {**named, "input": texts})
        self._read = read or (
            lambda reply: [
                row["probs"][label] for row in sorted(reply["data"], key=lambda row: row.get("index", 0))
            ]
        )

    async def _rows(self, question: str, wanted: Wanted, cost: Cost) -> list[list[float]]:
        texts = [self._text(question, steps[: k + 1]) for steps, new in wanted for k in new]
        if not all(isinstance(text, str) and text for text in texts):
            raise InputError("The text of a prefix must be a string and not empty.")
        parts = [texts[at : at + self._batch] for at in range(0, len(texts), self._batch)]
        found = iter(
            [score for part in await all_of(self._post, parts, [cost] * len(parts)) for score in part]
        )
        return [[next(found) for _ in new] for _, new in wanted]

    async def _post(self, texts: list[str], cost: Cost) -> list[float]:
        url = self._http.redacted(self._http.base_url)
        reply = await self._http.post(self._http.base_url, self._body(texts))
        try:
            scores = [float(score) for score in self._read(reply)]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ModelServerError(
                self._http.redacted(
                    f"{url} sent no score for each text ({type(error).__name__}: {error}): {str(reply)[:300]}"
                )
            ) from error
        if len(scores) != len(texts):
            raise ModelServerError(f"{url} sent {len(scores)} scores for {len(texts)} texts.")
        if any(math.isnan(s) or (self.space == "probability" and not 0 <= s <= 1) for s in scores):
            raise ModelServerError(f"{url} sent scores that are no {self.space}: {scores[:10]}")
        usage = reply.get("usage") if isinstance(reply, dict) else None
        count, _, _ = token_usage(usage, sum((len(text) + 3) // 4 for text in texts), 0)
        cost.calls += len(texts)
        cost.asked += count
        cost.computed += count
        return scores


class ServedTokenLogits(ServedReward):
    """`TokenLogits` on a served language model: two words of the vocabulary after each prefix.

    Math-Shepherd and its kind at their tag, RLHFlow and FoVer before the verdict; which one it is
    follows from the template. A prefix is one request that reads the engine's cache, so that a grown
    trajectory costs its new step.

    Args:
        model: A `ServerLM` or `VllmLM` with log-likelihoods.
        tokenizer: The model's tokenizer, its name or folder.
        template: Gives the prefixes, for instance `families()["rlhflow"].template`.
        good: The good word, as the model writes it.
        bad: The bad word.
        words: Their token ids instead, good first.
        step_text: As in `StepReward`.
        on_overflow: As in `TokenLogits`.
        cache_size: As in `StepReward`.

    Raises:
        ConfigurationError: If the model does not score text, or both words have the same token.
    """

    def __init__(
        self,
        model: TokenLM,
        tokenizer: Any,
        *,
        template: StepTemplate,
        good: str = "+",
        bad: str = "-",
        words: Sequence[int] | None = None,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        cache_size: int = 10_000,
    ) -> None:
        _check_scores(model, "ServedTokenLogits")
        # One token of the context stays free: engines generate one to score.
        longest = None if model.max_context is None else model.max_context - 1
        super().__init__(step_text, cache_size, on_overflow, longest)
        self.model, self.template = model, template
        self.tokenizer = load_tokenizer(tokenizer)
        template.check(self.tokenizer)
        self.words = two_words(self.tokenizer, good, bad, words)

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        async def value(k: int) -> float:
            ids = self.template.ids(self.tokenizer, question, steps[: k + 1])
            if not self._fits(len(ids), k):
                return math.nan
            cost.calls += 1
            cost.asked += len(ids)
            good, bad = await self.model.words_after(ids, self.words, cost)
            return sigmoid(good - bad)

        return await all_of(value, new)


class ServedLogRatio(ServedReward):
    """`LogRatio` on served language models: how much likelier a step is under one than under another.

    Scores a step by its own tokens, its separator included (`LogRatio` with `boundary="exact"`), from
    the log-probabilities of prompt tokens.

    Args:
        model: The trained model, a `ServerLM` or `VllmLM`.
        reference: The model it was trained from; `None` counts it as constant.
        tokenizer: The tokenizer of both, its name or folder.
        template: The conversation.
        beta: Factor of the ratio; .05 in training.
        step_text: As in `StepReward`.
        on_overflow: As in `LogRatio`.
        cache_size: As in `StepReward`.

    Raises:
        ConfigurationError: If a model does not score text.
    """

    space = "logit"

    def __init__(
        self,
        model: TokenLM,
        reference: TokenLM | None = None,
        *,
        tokenizer: Any,
        template: Dialogue | None = None,
        beta: float = 0.05,
        step_text: StepWriter | None = None,
        on_overflow: Overflow = "error",
        cache_size: int = 10_000,
    ) -> None:
        self._sides = [model] if reference is None else [model, reference]
        for side in self._sides:
            _check_scores(side, "ServedLogRatio")
        if not beta > 0:
            raise ConfigurationError(f"beta must be positive, not {beta}.")
        known = [side.max_context for side in self._sides if side.max_context is not None]
        super().__init__(step_text, cache_size, on_overflow, min(known) - 1 if known else None)
        self.beta, self.template = beta, template or Dialogue()
        self.tokenizer = load_tokenizer(tokenizer)

    async def _row(self, question: str, steps: list[str], new: list[int], cost: Cost) -> list[float]:
        ids = self.template.boundaries(self.tokenizer, question, steps, new)
        fitting = [k for k in new if self._fits(len(ids[k]), k)]
        texts, shares = step_shares(ids, fitting)

        async def sums(side: TokenLM) -> list[float]:
            values = await all_of(self._scores, [side] * len(texts), texts, [cost] * len(texts))
            return [
                math.fsum(sign * math.fsum(values[n][low:high]) for n, low, high, sign in parts)
                for parts in shares
            ]

        ours, *theirs = await all_of(sums, self._sides)
        ratios = [a - b for a, b in zip(ours, theirs[0], strict=True)] if theirs else ours
        found = dict(zip(fitting, ratios, strict=True))
        return [self.beta * found.get(k, math.nan) for k in new]

    async def _scores(self, side: TokenLM, text: tuple[list[int], int], cost: Cost) -> list[float]:
        ids, start = text
        if start >= len(ids):
            return []
        cost.calls += 1
        cost.asked += len(ids)
        return await side.token_scores(Span(tuple(ids), start), cost)


def _check_scores(model: Any, needed_by: str) -> None:
    if not isinstance(model, TokenLM):
        raise ConfigurationError(
            f"{needed_by} needs an agentprm.lm.ServerLM or VllmLM, not a {type(model).__name__}; for a local "
            "model there is the class without 'Served'."
        )
    if not model.capabilities.loglikelihood:
        raise ConfigurationError(
            f"{needed_by} needs log-probabilities of prompts. {model.no_loglikelihood()}"
        )
