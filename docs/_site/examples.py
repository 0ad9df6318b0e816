"""Renders the `Example:` section of docstrings as code; otherwise its brackets would become links."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section to `Examples:`, which Google style defines."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every documented object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
