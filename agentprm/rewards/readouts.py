"""Readouts of one local model at the end of every prefix: of a head, or of two words of the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from agentprm.errors import ConfigurationError
from agentprm.rewards.local_reward import TreeReward, as_tokenizer

# Here, so that a missing extra is named before torch is looked for.
import torch  # isort: skip

from agentprm.rewards.checkpoints import load_backbone, load_causal, load_head
from agentprm.rewards.heads import HeadModel, split_model, word_model
from agentprm.rewards.templates import StepTemplate, two_words

__all__ = ["HeadReward", "PrefixScalar", "TokenHead", "TokenLogits", "ValueHead"]


class HeadReward(TreeReward):
    """Base of the rewards that are read off a head over the decoder.

    Args:
        model: A name or folder, or a loaded model with a head.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        outputs: Numbers that the head gives.
        template: Gives the prefixes.
        head_key: How the names of the head's tensors begin, where a checkpoint holds several.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`: `step_text`, `on_overflow`, `cache_bytes`, `max_batch_tokens`,
            `cache_size`.

    Raises:
        ConfigurationError: If the checkpoint has no such head.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        outputs: int,
        template: StepTemplate,
        head_key: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        **options: Any,
    ) -> None:
        if isinstance(model, str | Path):
            backbone = load_backbone(model, dtype, device)
            width = backbone.config.get_text_config().hidden_size
            read = HeadModel(backbone, load_head(model, width, outputs, head_key).to(backbone.device))
            tokenizer = str(model) if tokenizer is None else tokenizer
        else:
            backbone, layer = split_model(model)
            width = [m for m in layer.modules() if hasattr(m, "out_features")][-1].out_features
            if width != outputs:
                raise ConfigurationError(
                    f"{type(model).__name__} has a head of {width} numbers, not of {outputs}."
                )
            model.eval()
            read = HeadModel(backbone, layer)
        super().__init__(read, tokenizer, template=template, **options)


class TokenHead(HeadReward):
    """Probability that a step is right, from a head of two (or more) classes at its separator.

    Qwen2.5-Math-PRM and -PRM800K, ReasonFlux-PRM-7B, TRL's PRMTrainer, PURE. The head's outputs are
    gathered by position and normalised in fp32, so a probability that fp16 would round to zero stays
    a number and no pair can be taken for another's.

    Args:
        model: As in `HeadReward`; a loaded one has a `score` head.
        tokenizer: As in `HeadReward`.
        classes: Number of classes.
        positive: Classes that count as right; their probabilities are added (ReasonEval counts
            neutral and positive).
        options: As in `HeadReward`.

    Raises:
        ConfigurationError: If the checkpoint has no such head, or the tokenizer no such separator.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        classes: int = 2,
        positive: Sequence[int] = (1,),
        **options: Any,
    ) -> None:
        if not positive or not all(0 <= label < classes for label in positive):
            raise ConfigurationError(f"positive must name some of the classes 0 to {classes - 1}.")
        self.positive = list(positive)
        super().__init__(model, tokenizer, outputs=classes, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `TreeReward._values`."""
        return outputs.softmax(dim=-1)[:, self.positive].sum(dim=-1)


class ValueHead(HeadReward):
    """One number at each step's last separator token, from a linear layer on its hidden state.

    Skywork-o1-Open-PRM (with a sigmoid) and PQM (without). Both keep the layer under
    `v_head.summary`.

    Args:
        model: As in `HeadReward`; a loaded one has a `v_head`.
        tokenizer: As in `HeadReward`.
        activation: `sigmoid` scores in [0, 1]; `none` leaves the number (`space` is `logit`).
        options: As in `HeadReward`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        activation: Literal["sigmoid", "none"] = "sigmoid",
        **options: Any,
    ) -> None:
        if activation not in ("sigmoid", "none"):
            raise ConfigurationError(f"activation must be 'sigmoid' or 'none', not {activation!r}.")
        self.activation = activation
        self.space = "probability" if activation == "sigmoid" else "logit"
        super().__init__(model, tokenizer, outputs=1, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `TreeReward._values`."""
        return outputs[:, 0].sigmoid() if self.activation == "sigmoid" else outputs[:, 0]


class PrefixScalar(ValueHead):
    """One number for a whole text, at its last token: a text per step.

    Universal-PRM (with and without a reference answer), ReasonFlux-PRM-1.5B, HRM (with steps merged),
    and any outcome reward model with one label. What closes a text for the readout only, an end token
    or the heading of the step to judge, hangs on the prefix as a leaf: a trajectory of T steps is one
    pass, not T. Arguments as in `ValueHead`; a loaded model is one for sequence classification.
    """


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
        self.words = two_words(tokenizer, good, bad, words)
        causal = load_causal(model, dtype, device) if named else model
        causal.eval()
        super().__init__(word_model(causal, self.words), tokenizer, template=template, **options)

    def _values(self, outputs: torch.Tensor) -> torch.Tensor:
        """See `TreeReward._values`."""
        return outputs.softmax(dim=-1)[:, 0]
