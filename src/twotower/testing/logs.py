"""The log on which the suites train and measure."""

from __future__ import annotations

from twotower.data.dataset import Dataset
from twotower.data.simulation import simulated


def small_log() -> Dataset:
    """1,500 simulated events of 40 users and 30 movies, with times and columns on both sides.

    Example:
        >>> small_log().candidates.column_names
        ['movie_id', 'movie_title', 'genres', 'year']
    """
    return simulated(queries=40, candidates=30, interactions=1500, seed=0)
