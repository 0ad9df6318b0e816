"""Options that several commands share: which baselines to measure, and what each may cost."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from twotower.evaluation import BaselineBudget
from twotower.evaluation.baselines.budget import DEFAULT_SECONDS
from twotower.evaluation.baselines.names import NAMES, parse_baselines
from twotower.recipes.config import Config

BaselinesOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help=f"Baselines to measure: all, none, or a comma-separated list of {', '.join(NAMES)}. "
        "Default: the config's, or all.",
    ),
]
BaselineSecondsOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help=f"Time limit for each baseline; slower ones are left out, with a note. Default: {DEFAULT_SECONDS:g}.",
    ),
]
BaselineMemoryOption = Annotated[
    float | None,
    typer.Option(metavar="GIB", help="Memory limit for each baseline. Default: a quarter of what is free."),
]


def with_baselines(config: Config, names: str | None) -> Config:
    """The config with the baselines from the command line; None keeps its own.

    Raises:
        ConfigError: A name is unknown.
    """
    return config if names is None else msgspec.structs.replace(config, baselines=parse_baselines(names))


def budget_of(seconds: float | None, gibibytes: float | None) -> BaselineBudget:
    """The budget of each baseline.

    Raises:
        ConfigError: A limit is not above 0.
    """
    seconds = DEFAULT_SECONDS if seconds is None else seconds
    return BaselineBudget(seconds, None if gibibytes is None else int(gibibytes * 2**30))
