from __future__ import annotations

import numpy as np
import pytest

from twotower.data import Dataset, simulated, split_random
from twotower.data.simulation_tables import GENRES, WORDS_OF_GENRES
from twotower.errors import ConfigError
from twotower.evaluation import OracleScorer, Popularity, rank_events, rank_metrics


@pytest.fixture(scope="module")
def data() -> Dataset:
    return simulated()


def test_sizes_are_those_asked_for(data: Dataset) -> None:
    assert (data.queries.num_rows, data.candidates.num_rows, len(data)) == (943, 1682, 100_000)
    for sizes in ((3, 5, 10), (1, 1, 1), (2, 400, 7)):
        small = simulated(*sizes)
        assert (small.queries.num_rows, small.candidates.num_rows, len(small)) == sizes


def test_one_seed_gives_the_same_data_and_another_seed_other_data() -> None:
    one, again, other = simulated(50, 40, 2000), simulated(50, 40, 2000), simulated(50, 40, 2000, seed=1)
    assert one.interactions.equals(again.interactions)
    assert one.candidates.equals(again.candidates)
    assert one.queries.equals(again.queries)
    assert not one.interactions.equals(other.interactions)


def test_the_oracles_probabilities_sum_to_one(data: Dataset) -> None:
    assert data.oracle is not None
    logs = data.oracle.log_probabilities(data.query_index[:300], data.times[:300])
    assert logs.shape == (300, 1682)
    assert logs.dtype == np.float32
    # float32 logs of about -8 are off by up to 5e-7 each, so sums of their exponentials by about as much
    np.testing.assert_allclose(np.exp(logs.astype(np.float64)).sum(axis=1), 1.0, atol=2e-6)


def test_choices_are_drawn_from_the_oracles_probabilities(data: Dataset) -> None:
    """G-test of each candidate's count against what the oracle expects, over all events."""
    assert data.oracle is not None
    expected = np.zeros(1682)
    for part in np.array_split(np.arange(len(data)), 200):
        expected += np.exp(data.oracle.log_probabilities(data.query_index[part], data.times[part])).sum(axis=0)
    counts = data.candidate_counts()
    score = (counts - expected) / np.sqrt(expected)
    # A chi-square of 1,681 degrees has mean 1,681 and deviation 58; the counts' variance is at most Poisson's.
    assert (score**2).sum() < 1681 + 4 * 58
    assert (score**2).sum() > 1681 * 0.7  # and not smoothed either


def test_the_oracle_knows_who_and_when_not_only_what_is_popular(data: Dataset) -> None:
    assert data.oracle is not None
    train, test = split_random(data)
    floor = rank_metrics(rank_events(Popularity(train).score_block(test), test)[0])["top_100"]
    ceiling = rank_metrics(rank_events(OracleScorer(data.oracle).score_block(test), test)[0])["top_100"]
    assert floor < 0.4
    assert ceiling > floor + 0.3
    midyear = data.oracle.log_probabilities(np.array([0, 0]), np.array([1.27e9, 1.30e9]))
    assert np.abs(np.exp(midyear[0]) - np.exp(midyear[1])).sum() > 0.2  # tastes drift


def test_titles_are_unique_and_their_words_tell_the_genre() -> None:
    films = simulated(10, 100_000, 100).candidates
    titles = films["movie_title"].to_pylist()
    assert len(set(titles)) == len(titles)
    genre_of = {word: genre for genre, words in WORDS_OF_GENRES.items() for word in words.split()}
    assert len(genre_of) == 10 * len(GENRES)
    for title, genres in list(zip(titles, films["genres"].to_pylist(), strict=True))[::97]:
        assert {genre_of[word] for word in title.split() if word in genre_of} == {genres[0]}


def test_popularity_and_activity_have_long_tails(data: Dataset) -> None:
    counts = np.sort(data.candidate_counts())[::-1]
    assert counts[:168].sum() > 0.35 * len(data)
    activity = np.bincount(data.query_index)
    assert activity.min() >= 20
    assert activity.max() > 5 * np.median(activity)


def test_events_come_in_sessions(data: Dataset) -> None:
    order = np.lexsort((data.times, data.query_index))
    same = np.diff(data.query_index[order]) == 0
    gaps = np.diff(data.times[order])[same]
    assert np.mean(gaps < 3600) > 0.7
    assert np.mean(gaps > 86_400) > 0.1


def test_attributes_hang_together_with_tastes(data: Dataset) -> None:
    """Genders choose genres differently: the tables are worth reading."""
    women = np.array(data.queries["gender"].to_pylist()) == "F"
    first = np.array([GENRES.index(genres[0]) for genres in data.candidates["genres"].to_pylist()])
    chosen, by_women = first[data.candidate_index], women[data.query_index]
    shares = [np.bincount(chosen[mask], minlength=len(GENRES)) / mask.sum() for mask in (by_women, ~by_women)]
    assert np.abs(shares[0] - shares[1]).sum() > 0.1


@pytest.mark.parametrize(("parameter", "value"), [("interactions", 0), ("queries", 2.5), ("seed", -1)])
def test_senseless_parameters_are_refused(parameter: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{parameter}={value}; expected (a whole number|at least)"):
        simulated(**{parameter: value})  # type: ignore[arg-type]
