"""Options that accept several values after one name: `--split-seeds 42 43 44`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperCommand

VALUE = re.compile(r"[\d.,]+|none|[\w.]+=.*", re.DOTALL)
"""Pattern of such a value: numbers, perhaps comma-separated, `none`, or KEY=VALUE."""


class ValuesCommand(TyperCommand):
    """A command whose repeatable options also accept several values after one name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, treating each further value as if its option had been repeated."""
        names = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, list(spread(args, names)))


def spread(args: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """The arguments, with an option's name before each of its values.

    Args:
        args: The arguments as given.
        names: Options that may have several values.

    Example:
        >>> list(spread(["--seeds", "1", "2", "data.toml"], ["--seeds"]))
        ['--seeds', '1', '--seeds', '2', 'data.toml']
    """
    names, open_option, given = set(names), "", False
    for argument in args:
        if argument in names:
            open_option, given = argument, False
        elif open_option and not given:
            given = True
        elif open_option and VALUE.fullmatch(argument):
            yield open_option
        else:
            open_option = ""
        yield argument
