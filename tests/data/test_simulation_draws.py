"""What the draws of the simulated data obey, seen through `Dataset.oracle` alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from twotower.data import Dataset, simulated

YEAR = 365 * 86_400.0
BINS = 20


@pytest.fixture(scope="module")
def data() -> Dataset:
    return simulated()


def chi_square_of_places(data: Dataset, events: npt.NDArray[np.int64], times: npt.NDArray[np.float64]) -> float:
    """How unevenly the choices lie along the oracle's running sum of probabilities, most likely first.

    Where choices follow the oracle given who and when, a point drawn evenly within the chosen candidate's
    stretch of the running sum is uniform in [0, 1] (the randomised probability integral transform).
    """
    assert data.oracle is not None
    draw = np.random.default_rng(0)
    counts = np.zeros(BINS)
    for part in np.array_split(np.arange(len(events)), 40):
        rows = np.arange(len(part))
        chance = np.exp(data.oracle.log_probabilities(data.query_index[events[part]], times[part]).astype(np.float64))
        order = np.argsort(-chance, axis=1, kind="stable")
        sorted_chance = np.take_along_axis(chance, order, axis=1)
        place = (order == data.candidate_index[events[part]][:, None]).argmax(axis=1)
        point = np.cumsum(sorted_chance, axis=1)[rows, place] - sorted_chance[rows, place] * draw.random(len(part))
        counts += np.bincount((point * BINS).astype(np.int64).clip(0, BINS - 1), minlength=BINS)
    expected = len(events) / BINS
    return float(((counts - expected) ** 2 / expected).sum())


def test_each_choice_follows_the_oracle_given_who_and_when(data: Dataset) -> None:
    """A chi-square of 19 degrees exceeds 50.8 once in 10,000; with the wrong year it is far beyond."""
    events = np.random.default_rng(1).choice(len(data), size=8000, replace=False)
    times = data.times[events]
    assert chi_square_of_places(data, events, times) < 50.8
    year_off = np.where(times < times.min() + YEAR, times + YEAR, times - YEAR)
    assert chi_square_of_places(data, events, year_off) > 500


def test_times_are_whole_seconds_within_the_two_years(data: Dataset) -> None:
    assert data.interactions["timestamp"].type == pa.int64()
    assert data.times.min() >= 1_262_304_000  # 2010-01-01
    assert data.times.max() < 1_262_304_000 + 2 * YEAR
    assert np.ptp(data.times) > 1.9 * YEAR
