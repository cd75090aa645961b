"""Any text classifier behind HTTP as a reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agentprm.errors import InputError, ModelServerError, check_choice, check_least
from agentprm.lm.json_http import JsonHttp
from agentprm.lm.reports import token_count
from agentprm.lm.retries import Retries
from agentprm.lm.token_lm import Cost
from agentprm.rewards.served_reward import ServedReward
from agentprm.rewards.step_text import StepWriter, Wanted
from agentprm.routines import all_of

__all__ = ["HttpClassifier"]


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
            retries=Retries(max_retries),
            max_concurrency=max_concurrency,
        )
        named = {} if model is None else {"model": model}
        self._text = text or (lambda question, steps: "\n\n".join([question, *steps]))
        self._body = body or (lambda texts: {**named, "input": texts})
        self._read = read or (lambda reply: [row["probs"][label] for row in _by_index(reply["data"])])

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
        tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        count = token_count(tokens, sum((len(text) + 3) // 4 for text in texts))
        cost.calls += len(texts)
        cost.asked += count
        cost.computed += count
        return scores


def _by_index(rows: Any) -> list[Any]:
    return sorted(rows, key=lambda row: row.get("index", 0))
