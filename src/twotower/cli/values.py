"""Options that take several values after one name: `--split-seeds 42 43 44`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from typer.core import TyperCommand

VALUE = re.compile(r"[\d.,]+|none|[\w.]+=.*", re.DOTALL)
"""What such a value looks like: numbers, perhaps with commas between them, `none`, or KEY=VALUE."""


class ValuesCommand(TyperCommand):
    """A command whose repeatable options also take several values after one name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the arguments, each further value as if its option had been named again."""
        names = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        return super().parse_args(ctx, list(spread(args, names)))


def spread(args: Iterable[str], names: Iterable[str]) -> Iterator[str]:
    """The arguments with the name of an option before each of its values.

    Args:
        args: As they were given.
        names: Options that may have several.

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
