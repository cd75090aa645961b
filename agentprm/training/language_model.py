"""Supervised fine-tuning of a causal language model with LoRA: a prompt, and the reply it should get.

Only the reply is learned. Prompts are rendered as `TransformersLM` renders them, so that the model is asked
as it was taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from torch.nn import functional as F

from agentprm.engine.tokenizing import PromptText, as_data, span_of
from agentprm.errors import InputError
from agentprm.lm.base import Prompt
from agentprm.training.bases import AdapterOptions, Teaching, Trainee, train_adapter
from agentprm.training.fitting import FitReport, Objective, padded

__all__ = [
    "CausalRow",
    "TextExample",
    "causal_batch",
    "causal_objective",
    "causal_rows",
    "decoder_and_head",
    "reply_states",
    "train_language_model",
]


@dataclass(frozen=True)
class TextExample:
    """A prompt and the reply that the model should give.

    Attributes:
        prompt: The prompt.
        reply: The reply, without an end token.
    """

    prompt: Prompt
    reply: str


@dataclass(frozen=True)
class CausalRow:
    """An example as tokens.

    Attributes:
        ids: Prompt, reply and end token.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.
    """

    ids: tuple[int, ...]
    start: int


def causal_rows(examples: Sequence[TextExample], text: PromptText) -> list[CausalRow]:
    """Examples as tokens, each reply closed by the tokenizer's end token.

    Raises:
        InputError: If a reply is empty.
    """
    end = text.tokenizer.eos_token_id
    rows = []
    trunks = [text.render(example.prompt, answering=True) for example in examples]
    replies = [as_data(example.reply, text.tokenizer, own_turn=True) for example in examples]
    if any(not reply for reply in replies):
        raise InputError("A reply to learn must not be empty.")
    joint = text.encode([trunk + reply for trunk, reply in zip(trunks, replies, strict=True)])
    for trunk, ids, reply in zip(text.encode(trunks), joint, replies, strict=True):
        span = span_of(trunk, ids, reply)
        rows.append(CausalRow((*span.ids, *([] if end is None else [end])), span.start))
    return rows


def causal_objective(model: Any, pad: int) -> Objective[CausalRow]:
    """Mean negative log-likelihood of the replies' tokens, end tokens included.

    The vocabulary's logits are computed where a token of a reply is predicted, and nowhere else.

    Args:
        model: The causal language model, with or without an adapter in it.
        pad: Token id that fills short rows; it is never attended to.
    """
    decoder, head = decoder_and_head(model)

    def loss(_: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, float]:
        logits = head(reply_states(decoder, batch))
        total = F.cross_entropy(logits.float(), batch["wanted"], reduction="sum")
        return total, len(batch["wanted"])

    return Objective(lambda row: len(row.ids), lambda rows: causal_batch(rows, pad), loss)


def causal_batch(rows: Sequence[CausalRow], pad: int) -> dict[str, Any]:
    """Rows side by side, with the places where a token of a reply is predicted.

    Returns:
        `input_ids` and `attention_mask` `[rows, tokens]`; for every token of a reply `read`, its place in the
        flattened rows, `wanted`, the token, and `owner`, the number of its row.
    """
    batch = padded([row.ids for row in rows], pad)
    longest = batch["input_ids"].shape[1]
    read: list[int] = []
    wanted: list[int] = []
    owner: list[int] = []
    for number, row in enumerate(rows):
        read += range(number * longest + row.start - 1, number * longest + len(row.ids) - 1)
        wanted += row.ids[row.start :]
        owner += [number] * (len(row.ids) - row.start)
    read_off = {"read": read, "wanted": wanted, "owner": owner}
    return batch | {name: torch.tensor(values) for name, values in read_off.items()}


def reply_states(decoder: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Hidden states of the places where a token of a reply is predicted."""
    hidden: torch.Tensor = decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return hidden.flatten(0, 1)[batch["read"]]


def decoder_and_head(model: Any) -> tuple[Any, Any]:
    """A causal language model as a function to hidden states and one from these to logits.

    Models that treat their logits in a way of their own (scaled, capped) are run whole instead, which is
    checked on a few tokens; then the first function gives logits, and the second leaves them.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone, output = causal.base_model, causal.get_output_embeddings()

    def hidden(**inputs: Any) -> torch.Tensor:
        states: torch.Tensor = backbone(**inputs, use_cache=False).last_hidden_state
        return states

    def logits(**inputs: Any) -> torch.Tensor:
        found: torch.Tensor = causal(**inputs, use_cache=False).logits
        return found

    tokens = torch.arange(8, device=causal.device)[None] % causal.config.get_text_config().vocab_size
    with torch.no_grad():
        theirs = logits(input_ids=tokens).float()
        ours = output(hidden(input_ids=tokens)).float() if output is not None else None
    if ours is not None and torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2):
        return hidden, output
    return logits, lambda found: found


def train_language_model(
    examples: Sequence[TextExample],
    out: str | Path,
    *,
    kind: str = "language model",
    **options: Unpack[AdapterOptions],
) -> FitReport | None:
    """Teaches a language model the replies of examples, and writes the adapter that does it.

    Killed, the same call goes on from its last checkpoint. The same examples, settings and seed give the
    same weights on one machine, with one thread.

    Args:
        examples: What to learn.
        out: The folder to write: the adapter as peft has it, `card.json` and `README.md`.
        kind: What it becomes, for the card.
        options: How to train; see `agentprm.training.bases.AdapterOptions`.

    Returns:
        How it went; `None` if the folder holds this very training already.

    Raises:
        InputError: If no example is left, or the folder holds something else.
    """

    def teach(trainee: Trainee) -> Teaching:
        objective = causal_objective(trainee.model, trainee.pad)
        return Teaching(
            trainee.model, lambda some: causal_rows(some, trainee.text), objective.length, objective
        )

    return train_adapter(examples, out, {"kind": kind}, teach, options)
