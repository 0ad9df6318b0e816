"""Data sets by name: `simulated`, `movielens-100k` and the other editions of MovieLens."""

from __future__ import annotations

from twotower.data.dataset import Dataset
from twotower.data.movielens import EDITIONS, movielens
from twotower.data.simulation import simulated
from twotower.errors import ConfigError

NAMES = ("simulated", *(f"movielens-{edition}" for edition in EDITIONS))
SIMULATED = "simulated:QUERIES,CANDIDATES,INTERACTIONS[,SEED]"
"""Name format for simulated data of other sizes."""


def is_name(name: str) -> bool:
    """Whether `load` accepts this name; the sizes of `simulated:…` are not checked."""
    return name in NAMES or name.startswith("simulated:")


def load(name: str) -> Dataset:
    """The data set with this name; `simulated:2000,1500,30000` for simulated data of these sizes.

    Raises:
        ConfigError: The name is unknown, or a size is not a whole number of at least 1.
        DataUnavailableError: The data set is not on this machine and could not be downloaded.

    Example:
        >>> len(load("simulated:20,30,400"))
        400
    """
    if name.startswith("simulated:"):
        return _simulated(name)
    if name == "simulated":
        return simulated()
    if name in NAMES:
        return movielens(name.removeprefix("movielens-"))
    raise ConfigError(f"data set {name!r} is unknown; expected one of {', '.join(NAMES)}, or {SIMULATED}")


def _simulated(name: str) -> Dataset:
    """Simulated data of the sizes given in the name."""
    try:
        queries, candidates, interactions, *seed = map(int, name.removeprefix("simulated:").split(","))
        (own_seed,) = seed or [0]
    except ValueError as error:
        raise ConfigError(f"data set {name!r}; expected {SIMULATED}, such as simulated:2000,1500,30000") from error
    return simulated(queries, candidates, interactions, seed=own_seed, name=name)
