"""Readout: two words of the vocabulary, at a step tag or just before the verdict is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentprm.errors import ConfigurationError
from agentprm.rewards._incremental import TreeReward, as_tokenizer

import torch  # isort: skip

from agentprm.rewards._checkpoints import load_causal
from agentprm.rewards._heads import word_model
from agentprm.rewards.templates import StepTemplate

__all__ = ["TokenLogits"]


class TokenLogits(TreeReward):
    """P(good) / (P(good) + P(bad)) from a language model's logits where the template says.

    At the tag itself: Math-Shepherd, ER-PRM, Math-psa, dORM and dPRM. Before the assistant's word:
    RLHFlow and FoVer. Which of the two it is follows from the template alone: it gives the tokens
    after which the word is judged. Only the two words' rows of the vocabulary head are computed, and
    the softmax is over these two, not over the vocabulary.

    Args:
        model: A name or folder, or a loaded causal language model.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        template: Gives the prefixes.
        good: The good word, as the model writes it: with the space before it, if there is one.
        bad: The bad word.
        words: Their token ids instead, good first, where the published ones are to be pinned.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`.

    Raises:
        ConfigurationError: If both words have the same token.
    """

    space = "probability"

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        template: StepTemplate,
        good: str = "+",
        bad: str = "-",
        words: Sequence[int] | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        named = isinstance(model, str | Path)
        tokenizer = as_tokenizer(str(model) if named and tokenizer is None else tokenizer)
        self.words = list(words or (first_token(tokenizer, good), first_token(tokenizer, bad)))
        if len(self.words) != 2 or self.words[0] == self.words[1]:
            raise ConfigurationError(
                f"{good!r} and {bad!r} must be told apart by one token each; they have {self.words}."
            )
        causal = load_causal(model, dtype, device) if named else model
        causal.eval()
        super().__init__(word_model(causal, self.words), tokenizer, template=template, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `TreeReward._values`."""
        return outputs.softmax(dim=-1)[:, 0]


def first_token(tokenizer: Any, word: str) -> int:
    """The first token of a word that follows other text.

    A tokenizer that puts a mark of its own before a text (`▁+`) is asked for the token without it
    unless the word begins with a space.
    """
    alone = tokenizer(word, add_special_tokens=False)["input_ids"]
    # After a line break nothing is put before the word, whatever the tokenizer does to whole texts.
    before = tokenizer("\n", add_special_tokens=False)["input_ids"]
    joint = tokenizer("\n" + word, add_special_tokens=False)["input_ids"]
    if joint[: len(before)] == before and len(joint) > len(before):
        return int(joint[len(before)])
    if not alone:
        raise ConfigurationError(f"The word {word!r} has no token.")
    return int(alone[0])
