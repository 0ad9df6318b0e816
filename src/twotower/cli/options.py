"""Options that several commands share: the split, how CSV files are written, and modules to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from twotower.recipes.config import Config, config_of
from twotower.recipes.imports import import_modules, located


def _imported(names: list[str] | None) -> list[str]:
    """Imports the modules given by --import before the command runs."""
    paths = located(names or (), Path())
    import_modules(paths)
    return list(paths)


ImportOption = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        metavar="MODULE",
        callback=_imported,
        help="A module with your own features or other parts to import first: a name or a .py file. Repeatable.",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="random:SHARE, last-out or time:SHARE. Default: the config's, or what suits the data, such as by time if "
        "the log has times."
    ),
]
SplitSeedOption = Annotated[int | None, typer.Option(min=0, help="Seed of a random split. Default: 42.")]

DelimiterOption = Annotated[
    str | None,
    typer.Option(
        help="Delimiter of a CSV file, such as ';'. Default: that of the training config or, without one, detected."
    ),
]
DecimalOption = Annotated[
    str | None,
    typer.Option(
        help="Decimal mark of a CSV file: '.' or ','. Default: that of the training config or, without one, a point."
    ),
]


def configured(source: str, imports: list[str] | None, split: str | None, split_seed: int | None) -> Config:
    """The config that a source names, changed by options.

    Raises:
        ConfigError: The source is neither a config nor a data set, or the split is invalid.
    """
    config = config_of(source)
    rule = config.split.rule if split is None else split
    seed = config.split.seed if split_seed is None else split_seed
    own_split = msgspec.structs.replace(config.split, rule=rule, seed=seed)
    if split is not None:
        own_split.parsed()
    return msgspec.structs.replace(config, split=own_split, imports=(*config.imports, *(imports or ())))
