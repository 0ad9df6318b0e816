"""Data sets by name: `simulated`, `movielens-100k` and the other editions of MovieLens."""

from __future__ import annotations

from twotower.data.dataset import Dataset
from twotower.data.movielens import EDITIONS, movielens
from twotower.data.simulation import simulated
from twotower.errors import ConfigError

NAMES = ("simulated", *(f"movielens-{edition}" for edition in EDITIONS))


def load(name: str) -> Dataset:
    """The data set with this name.

    Raises:
        ConfigError: There is none.
        DataUnavailableError: It is neither on this machine nor could be downloaded.
    """
    if name == "simulated":
        return simulated()
    edition = name.removeprefix("movielens-")
    if name in NAMES:
        return movielens(edition)
    raise ConfigError(f"data set {name!r} is unknown; expected one of {', '.join(NAMES)}")
