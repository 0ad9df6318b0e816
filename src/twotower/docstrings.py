"""Reads docstrings: what a class is, and what each of its attributes or arguments means."""

from __future__ import annotations

import inspect
import re


def introduction(kind: type) -> str:
    """A class's docstring up to its attributes or arguments, as one line.

    Example:
        >>> class Point:
        ...     '''A place.
        ...
        ...     Attributes:
        ...         x: Its distance
        ...             from the left.
        ...     '''
        >>> introduction(Point), documented(Point)
        ('A place.', {'x': 'Its distance from the left.'})
    """
    text = inspect.cleandoc(kind.__doc__ or "")
    return " ".join(re.split(r"^\w+:\n", text, maxsplit=1, flags=re.MULTILINE)[0].split())


def documented(kind: type) -> dict[str, str]:
    """Parses a Google-style docstring: the description of each attribute or argument, by name."""
    text = inspect.cleandoc(kind.__doc__ or "")
    found = re.search(r"^(?:Attributes|Args):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        return {}
    entries = re.findall(r"^    (\w+)(?: \([^)]*\))?: (.*?)(?=^    \w+(?: \([^)]*\))?: |\Z)", found[1], re.M | re.S)
    return {name: " ".join(says.split()) for name, says in entries}
