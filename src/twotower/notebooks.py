"""`Output`: text below a notebook cell that is updated in place, without widgets."""

from __future__ import annotations

import html
from importlib import import_module
from typing import Any


class Output:
    """One output of the running cell; works only in a notebook, where IPython is installed."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str) -> None:
        """Shows the text, replacing the previous one."""
        content = _Text(text)
        if self._handle is None:
            self._handle = import_module("IPython.display").display(content, display_id=True)
        else:
            self._handle.update(content)


class _Text:
    """Preformatted lines of text for notebooks and their exports."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<pre style="white-space: pre">{html.escape(self.text)}</pre>'
