"""How question and steps become the tokens that a reward model was trained on.

A template gives, for a question and the steps so far, the tokens at whose last one the model is read.
That is all a readout asks of it, so the same few forms serve token heads, vocabulary logits, value
heads and prefix scalars. Every prefix is tokenized as if nothing followed it: a step's score cannot
change when the trajectory grows.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentprm.engine.tokenizing import as_data, common_length
from agentprm.errors import ConfigurationError, check_least

__all__ = [
    "ChatPrefix",
    "ChatSteps",
    "CurrentStep",
    "Dialogue",
    "PieceSteps",
    "PlainSteps",
    "StepTemplate",
    "TurnSteps",
    "without_marks",
]


def without_marks(tokenizer: Any, text: str, tags: Sequence[str] = ()) -> str:
    """`text` with its control tokens and step tags broken up by a space, so that they stay text.

    Args:
        tokenizer: Its control tokens are broken up.
        text: A question or a step.
        tags: Further strings with a meaning of their own. Those of white space are shortened to one
            line break instead.
    """
    text = as_data(text, tokenizer)
    for tag in sorted(tags, key=len, reverse=True):
        mark = tag.strip()
        if not mark:
            # Line breaks: as many as the separator has would end the step.
            text = re.sub(r"[ \t]*\n\s*", "\n", text) if tag in text else text
        elif mark.isalnum():
            # A word of its own; inside another word it is not the tag's token.
            text = re.sub(rf"(?<!\w){re.escape(mark)}(?!\w)", " ".join([mark[0], mark[1:]]).strip(), text)
        elif len(mark) > 1:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
    return text


class StepTemplate(ABC):
    """From a question and steps to tokens."""

    @abstractmethod
    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """Tokens of the question and all of `steps`; the model is read at the last one.

        Args:
            tokenizer: The model's tokenizer.
            question: The question.
            steps: The steps so far, at least one; the last is the one to score.
        """

    def check(self, tokenizer: Any) -> None:  # noqa: B027 (most need nothing)
        """Raises `ConfigurationError` if the tokenizer lacks what the template needs."""


def _encode(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special, return_attention_mask=False)["input_ids"]
    # Some tokenizers close every text with an end token; no step is read there.
    return ids[:-1] if special and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def _chat(tokenizer: Any, messages: list[dict[str, str]], *, generate: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigurationError("This reward model's template needs a tokenizer with a chat template.")
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    except Exception as error:
        raise ConfigurationError(f"The chat template rejects the reward model's prompt: {error}") from error
    return str(text)


def _filled(form: str, **values: str) -> str:
    """A form with its fields filled in in one go: a question that holds "{step}" stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), form)


def _numbered(steps: Sequence[str]) -> list[str]:
    """Steps that begin with `Step k: `, as some do by themselves."""
    return [s if re.match(r"Step \d+:", s) else f"Step {k}: {s}" for k, s in enumerate(steps, 1)]


def _system(text: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": text}] if text else []


class _NeedsChatTemplate(StepTemplate):
    """Base of the templates that need a chat template."""

    def check(self, tokenizer: Any) -> None:
        """See `StepTemplate.check`."""
        _chat(tokenizer, [{"role": "user", "content": "a"}], generate=True)


@dataclass(frozen=True)
class ChatSteps(_NeedsChatTemplate):
    """A chat whose assistant turn holds the steps, each closed by a separator token.

    Qwen2.5-Math-PRM, ReasonFlux-PRM-7B. What the chat template writes after the last separator is
    left out: nothing read depends on it.

    Args:
        separator: One token of the tokenizer.
        system: System message; without one the chat template does what it does.
    """

    separator: str = "<extra_0>"
    system: str | None = None

    def check(self, tokenizer: Any) -> None:
        """See `StepTemplate.check`."""
        super().check(tokenizer)
        ids = _encode(tokenizer, self.separator, special=False)
        if len(ids) != 1:
            raise ConfigurationError(
                f"The separator {self.separator!r} is {len(ids)} tokens of this tokenizer, not one. Is it "
                "the tokenizer that the reward model was trained with?"
            )

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        tags = [self.separator]
        body = "".join(without_marks(tokenizer, step, tags) + self.separator for step in steps)
        messages = [
            *_system(self.system),
            {"role": "user", "content": without_marks(tokenizer, question, tags)},
            {"role": "assistant", "content": body},
        ]
        text = _chat(tokenizer, messages, generate=False)
        text = text[: text.rindex(self.separator) + len(self.separator)]
        return _encode(tokenizer, text, special=False)


@dataclass(frozen=True)
class PlainSteps(StepTemplate):
    """Plain text that ends in a tag after every step, tokenized as a whole.

    Math-Shepherd, ER-PRM, Math-psa, dORM and dPRM; ReasonFlux-PRM-1.5B has no tag.

    Args:
        tag: What stands after a step; the model is read at its last token, without a tag at the last
            token of the step.
        head: What stands before the steps; `{question}` is filled in.
        joiner: What stands between a tag and the next step.
        number: Write `Step k: ` before steps that do not begin like that.
    """

    tag: str = " ки"
    head: str = "{question} "
    joiner: str = "\n"
    number: bool = False

    def check(self, tokenizer: Any) -> None:
        """See `StepTemplate.check`."""
        if not self.tag:
            return
        alone = _encode(tokenizer, self.tag, special=False)
        joint = self.ids(tokenizer, "a", ["b"])
        if not alone or alone[-1] != joint[-1]:
            raise ConfigurationError(
                f"With this tokenizer the step tag {self.tag!r} melts into the step before it, so there is "
                "no token to read. Is it the tokenizer that the reward model was trained with?"
            )

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        tags = [self.tag] if self.tag else []
        written = [without_marks(tokenizer, step, tags) for step in steps]
        body = self.joiner.join(step + self.tag for step in (_numbered(written) if self.number else written))
        head = self.head.replace("{question}", without_marks(tokenizer, question, tags))
        return _encode(tokenizer, head + body, special=True)


@dataclass(frozen=True)
class PieceSteps(StepTemplate):
    """Question and steps tokenized on their own, the separator's tokens after every step.

    TRL's PRMTrainer, PURE, Skywork-o1. Nothing merges across a boundary.

    Args:
        separator: Stands after every step; the model is read at its last token.
        head: What is written of the question; `{question}` is filled in.
        lines: Tokenize every line of a step on its own, with a separator after each; the step is read
            at its last line.
    """

    separator: str = "\n"
    head: str = "{question}"
    lines: bool = False

    def check(self, tokenizer: Any) -> None:
        """See `StepTemplate.check`."""
        if not _encode(tokenizer, self.separator, special=False):
            raise ConfigurationError(f"The separator {self.separator!r} has no token in this tokenizer.")

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        first = tokenizer.bos_token_id
        ids = [] if first is None else [int(first)]
        ids += _encode(
            tokenizer, self.head.replace("{question}", without_marks(tokenizer, question)), special=False
        )
        end = _encode(tokenizer, self.separator, special=False)
        for step in steps:
            text = without_marks(tokenizer, step)
            parts = [part for part in text.split("\n") if part.strip()] if self.lines else [text]
            for part in parts:
                ids += _encode(tokenizer, part, special=False) + end
        return ids


@dataclass(frozen=True)
class TurnSteps(_NeedsChatTemplate):
    """A conversation in which every step is a user turn and every verdict an assistant turn.

    RLHFlow, FoVer. The model is read where it is about to write its verdict; the verdicts before are
    always the good word, whatever it thought of those steps.

    Args:
        verdict: The good word, written as the answer to every earlier step.
        first: The first user turn; `{question}` and `{step}` are filled in.
        system: System message; without one the chat template does what it does.
    """

    verdict: str = "+"
    first: str = "{question} {step}"
    system: str | None = None

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        asked, first = without_marks(tokenizer, question), without_marks(tokenizer, steps[0])
        opening = _filled(self.first, question=asked, step=first)
        messages = [*_system(self.system), {"role": "user", "content": opening}]
        for step in steps[1:]:
            messages.append({"role": "assistant", "content": self.verdict})
            messages.append({"role": "user", "content": without_marks(tokenizer, step)})
        return _encode(tokenizer, _chat(tokenizer, messages, generate=True), special=False)


_REFERENCE = "{question}\n\n###\n\nThe reference answer is: {reference}"
_NO_REFERENCE = "There is no reference answer for this question."


@dataclass(frozen=True)
class ChatPrefix(_NeedsChatTemplate):
    """A chat, the steps so far as the answer, then the end token, where the model is read.

    Universal-PRM: with a reference answer the same model verifies against it.

    Args:
        user: The user's message; `{question}` and `{reference}` are filled in.
        references: Reference answers by question; a question that is not in it has none.
        missing: What is written where there is no reference answer.
        system: System message.
        joiner: Stands after every step.
    """

    user: str = _REFERENCE
    references: Mapping[str, str] = field(default_factory=dict)
    missing: str = _NO_REFERENCE
    system: str | None = "You are a helpful assistant."
    joiner: str = "\n\n"

    def check(self, tokenizer: Any) -> None:
        """See `StepTemplate.check`."""
        super().check(tokenizer)
        if tokenizer.eos_token_id is None:
            raise ConfigurationError("This reward model is read at the end token, which the tokenizer lacks.")

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        reference = without_marks(tokenizer, self.references.get(question, self.missing))
        user = _filled(self.user, question=without_marks(tokenizer, question), reference=reference)
        messages = [*_system(self.system), {"role": "user", "content": user}]
        head = _encode(tokenizer, _chat(tokenizer, messages, generate=True), special=False)
        body = "".join(without_marks(tokenizer, step) + self.joiner for step in steps)
        return [*head, *_encode(tokenizer, body, special=False), int(tokenizer.eos_token_id)]


@dataclass(frozen=True)
class CurrentStep(StepTemplate):
    """Question, earlier steps, and the step to judge under a heading of its own.

    HRM: `merge=2` judges each step together with the one before it, as the hierarchical model was
    trained to, so that a step may mend the last one.

    Args:
        merge: Steps that are judged together.
        joiner: Stands between steps.
        first: The text for a first step; `{question}` and `{current}` are filled in.
        later: The text for later ones; `{previous}` as well.
    """

    merge: int = 1
    joiner: str = "\n\n"
    first: str = (
        "Question:\n{question}\n\nLet's break it down step by step!\n\n"
        "Now, let's focus on the current step:\n{current}\n"
    )
    later: str = (
        "Question:\n{question}\n\nLet's break it down step by step!\n\nPrevious reasoning:\n{previous}\n\n"
        "Now, let's focus on the current step:\n{current}"
    )

    def __post_init__(self) -> None:
        check_least(1, merge=self.merge)

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        written = [without_marks(tokenizer, step) for step in steps]
        cut = max(0, len(written) - self.merge)
        text = _filled(
            self.later if cut else self.first,
            question=without_marks(tokenizer, question),
            previous=self.joiner.join(written[:cut]),
            current=self.joiner.join(written[cut:]),
        )
        return _encode(tokenizer, text, special=True)


@dataclass(frozen=True)
class Dialogue(_NeedsChatTemplate):
    """Question and answer as in a conversation, for models that are compared rather than read.

    Implicit PRM, EurusPRM. Every step ends in the joiner, the last one too, so that what is scored of
    a step does not depend on whether another follows.

    Args:
        system: System message; without one the chat template does what it does.
        number: Write `Step k: ` before steps that do not begin like that.
        joiner: Stands after every step.
        question: Write the question; without it the same model is the reference for a question's
            worth to its own answer.
    """

    system: str | None = None
    number: bool = True
    joiner: str = "\n\n"
    question: bool = True

    def messages(self, tokenizer: Any, question: str) -> list[dict[str, str]]:
        """The conversation up to the answer."""
        asked = without_marks(tokenizer, question) if self.question else "(no question)"
        return [*_system(self.system), {"role": "user", "content": asked}]

    def written(self, tokenizer: Any, steps: Sequence[str]) -> list[str]:
        """The steps as the answer holds them, without joiners."""
        texts = [without_marks(tokenizer, step, [self.joiner]) for step in steps]
        return _numbered(texts) if self.number else texts

    def head(self, tokenizer: Any, question: str) -> list[int]:
        """Tokens before the answer."""
        return self.ids(tokenizer, question, ())

    def boundaries(
        self, tokenizer: Any, question: str, steps: Sequence[str], new: Sequence[int]
    ) -> dict[int, list[int]]:
        """Tokens up to each of some steps and the one before it; -1 is before the first."""
        wanted = {*new, *(k - 1 for k in new)}
        return {k: self.ids(tokenizer, question, steps[: k + 1]) for k in wanted}

    def ids(self, tokenizer: Any, question: str, steps: Sequence[str]) -> list[int]:
        """See `StepTemplate.ids`."""
        text = _chat(tokenizer, self.messages(tokenizer, question), generate=True)
        body = "".join(step + self.joiner for step in self.written(tokenizer, steps))
        return _encode(tokenizer, text + body, special=False)


Shares = Sequence[tuple[int, int, int, int]]
"""What to add up for a step: the number of a text, the first and the last of its read tokens, the sign."""


def step_shares(
    ids: Mapping[int, list[int]], steps: Sequence[int]
) -> tuple[list[tuple[list[int], int]], list[Shares]]:
    """What to read of a conversation for the share that steps have in its likelihood.

    Args:
        ids: The conversation's tokens up to each step and the one before it; -1 is before the first.
        steps: Numbers of the steps, ascending.

    Returns:
        Texts, each with the first token to read, and what to add up for each step.
    """
    if not steps:
        return [], []
    trunk, begin = ids[steps[-1]], len(ids[steps[0] - 1])
    if all(ids[j] == trunk[: len(ids[j])] for k in steps for j in (k, k - 1)):
        # The usual case: one text holds every prefix.
        return [(trunk, begin)], [[(0, len(ids[k - 1]) - begin, len(ids[k]) - begin, 1)] for k in steps]
    texts: list[tuple[list[int], int]] = []
    shares: list[Shares] = []
    for k in steps:
        # The last tokens before the step changed: what it adds, they lose.
        common = max(1, common_length(ids[k], ids[k - 1]))
        parts = []
        for tokens, sign in ((ids[k], 1), (ids[k - 1], -1)):
            if len(tokens) > common:
                parts.append((len(texts), 0, len(tokens) - common, sign))
                texts.append((tokens, common))
        shares.append(parts)
    return texts, shares


def two_words(tokenizer: Any, good: str, bad: str, words: Sequence[int] | None = None) -> list[int]:
    """The tokens of a good and a bad word, or those that are given instead.

    Raises:
        ConfigurationError: If both words have the same token.
    """
    found = list(words or (first_token(tokenizer, good), first_token(tokenizer, bad)))
    if len(found) != 2 or found[0] == found[1]:
        raise ConfigurationError(
            f"{good!r} and {bad!r} must be told apart by one token each; they have {found}."
        )
    return found


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
