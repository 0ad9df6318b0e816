"""A log of ratings whose best predictions are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from toy import groups_log
from twotower.data import Dataset

NOISE = 0.3


def with_column(log: Dataset, name: str, values: npt.ArrayLike) -> Dataset:
    return dataclasses.replace(log, interactions=log.interactions.append_column(name, pa.array(values)))


def rated(events: int = 2000, missing: float = 0.0, seed: int = 0) -> Dataset:
    """Stars about 3 that are a query's bias, a candidate's, whether both are of one parity, and noise."""
    log, draw = groups_log(events, seed=seed), np.random.default_rng(7)
    queries, candidates = draw.normal(0, 0.5, 40), draw.normal(0, 0.5, 30)
    agree = np.where((log.query_index + log.candidate_index) % 2 == 0, 0.7, -0.7)
    stars = 3 + queries[log.query_index] + candidates[log.candidate_index] + agree
    noise = np.random.default_rng(seed + 100)
    stars = stars + noise.normal(0, NOISE, events)
    stars[noise.random(events) < missing] = np.nan
    return with_column(log, "stars", pa.array(stars, from_pandas=True))


def clicked(events: int = 2000, seed: int = 0) -> Dataset:
    """Clicks, four in five where query and candidate are of one parity, else one in five."""
    log = groups_log(events, seed=seed)
    p = np.where((log.query_index + log.candidate_index) % 2 == 0, 0.8, 0.2)
    return with_column(log, "click", np.random.default_rng(seed).random(events) < p)
