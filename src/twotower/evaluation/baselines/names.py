"""The baselines there are, what reports call them, and how a user says which to measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from twotower.errors import ConfigError

NAMES = {
    "popularity": "popularity",
    "recent_popularity": "recent popularity",
    "item_knn": "item-kNN",
    "ease": "EASE",
    "ials": "iALS",
    "oracle": "oracle",
}
"""What reports call the baselines, in their order there."""

FLOORS = tuple(name for name in NAMES if name != "oracle")
"""The baselines that a model should beat: all but the oracle, which no model can."""

BaselineNames = Sequence[str] | Literal["all", "none"]
"""Which baselines: their names as in `NAMES`, or `all` of them, or `none`."""


def check_baselines(baselines: BaselineNames) -> None:
    """Refuses what names no baseline.

    Raises:
        ConfigError: A name is not known.

    Example:
        >>> check_baselines(["popularity", "eas"])
        Traceback (most recent call last):
        twotower.errors.ConfigError: baseline 'eas' is unknown; expected all, none, or some of popularity, \
recent_popularity, item_knn, ease, ials, oracle
    """
    if baselines in ("all", "none"):
        return
    if isinstance(baselines, str) or not isinstance(baselines, Sequence):
        raise ConfigError(f"baselines = {baselines!r}; expected 'all', 'none', or a list of some of {', '.join(NAMES)}")
    if unknown := [name for name in baselines if name not in NAMES]:
        raise ConfigError(f"baseline {unknown[0]!r} is unknown; expected all, none, or some of {', '.join(NAMES)}")


def parse_baselines(text: str) -> tuple[str, ...] | Literal["all", "none"]:
    """Reads what the command line writes: `all`, `none`, or names with commas between them.

    Raises:
        ConfigError: A name is not known.

    Example:
        >>> parse_baselines("ease,popularity"), parse_baselines("none")
        (('ease', 'popularity'), 'none')
    """
    if text == "all":
        return "all"
    if text == "none":
        return "none"
    names = tuple(name.strip() for name in text.split(","))
    check_baselines(names)
    return names
