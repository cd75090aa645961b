"""Reads "Example:" in docstrings as the section of doctests that it is."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """griffe knows the section by the name "Examples:" alone."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames it."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
