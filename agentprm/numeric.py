"""Small functions of numbers."""

from __future__ import annotations

import math

__all__ = ["sigmoid"]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow; NaN of NaN."""
    if x < 0:
        small = math.exp(x)
        return small / (1 + small)
    return 1 / (1 + math.exp(-x))
