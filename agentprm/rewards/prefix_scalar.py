"""Readout: one number at the end of a text, a text per step."""

from __future__ import annotations

from agentprm.rewards.value_head import ScalarReward

__all__ = ["PrefixScalar"]


class PrefixScalar(ScalarReward):
    """One number for a whole text, at its last token: a text per step.

    Universal-PRM (with and without a reference answer), ReasonFlux-PRM-1.5B, HRM (with steps merged),
    and any outcome reward model with one label. What closes a text for the readout only, an end token
    or the heading of the step to judge, hangs on the prefix as a leaf: a trajectory of T steps is one
    pass, not T.

    Args:
        model: A name or folder, or a loaded model for sequence classification with one label.
        tokenizer: By default the checkpoint's own. Required with a loaded model.
        template: Gives the prefixes.
        activation: `sigmoid` scores in [0, 1]; `none` leaves the number (`space` is `logit`).
        head_key: How the names of the head's tensors begin, where a checkpoint holds several.
        dtype: As in `TransformersLM`.
        device: As in `TransformersLM`.
        options: As in `TreeReward`.
    """
