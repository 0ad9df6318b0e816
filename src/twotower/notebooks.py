"""`Output`: text below a notebook's cell that is replaced in place, without widgets."""

from __future__ import annotations

import html
from importlib import import_module
from typing import Any


class Output:
    """One output of the running cell; only in a notebook, where IPython is."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Shows the text in place of what was shown before."""
        content = _Text(text)
        if self._handle is None:
            self._handle = import_module("IPython.display").display(content, display_id=True)
        else:
            self._handle.update(content)


class _Text:
    """Lines of text, as notebooks and their exports show them."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre">{html.escape(self.text)}</pre>'
