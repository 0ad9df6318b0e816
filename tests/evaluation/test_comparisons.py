from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch

from toy import log_of
from twotower.data import Dataset, Split, split_random
from twotower.errors import DataError
from twotower.evaluation import (
    Comparison,
    Ease,
    ItemKnn,
    Measurement,
    Outcomes,
    Pair,
    Popularity,
    ScoreBlock,
    Scorer,
    Scores,
    against_baselines,
    compare,
    evaluate,
    measure,
    verdict_sentences,
)
from twotower.evaluation.comparisons import Verdict
from twotower.evaluation.verdicts import differences_grid, interval_note

BASELINES = ("popularity", "item_knn", "ease", "ials")


def measurement(outcomes: Outcomes) -> Measurement:
    return Measurement(Scores({}, {}), outcomes)


def outcomes(ranks: Sequence[float], queries: Sequence[int], weights: Sequence[float] | None = None) -> Outcomes:
    both = np.array([ranks, ranks], dtype=np.float32)
    return Outcomes(
        both, np.array(queries), np.zeros(len(queries), dtype=bool), None if weights is None else np.array(weights)
    )


def comparison(
    rival: str = "ease", protocol: str = "all", verdict: Verdict = "better", difference: float = 0.03
) -> Comparison:
    half_width = None if verdict == "too few queries" else 0.01
    return Comparison("[32]", rival, protocol, "top_100", difference, half_width, 9000, 900, None, verdict)


def noise(draw: np.random.Generator, queries: np.ndarray, scorers: int, skill: float = 1.0) -> list[Outcomes]:
    """Ranks 1 to 100 of events without signal: each scorer suits some queries by chance; the first has a skill."""
    found = []
    for number in range(scorers):
        suits = draw.lognormal(0.0, 0.4, size=queries.max() + 1)[queries] * (skill if number == 0 else 1.0)
        ranks = np.ceil(100 * draw.random((2, len(queries))) ** suits)
        found.append(Outcomes(ranks.astype(np.float32), queries, queries < 0))
    return found


def verdicts_of(scorers: Sequence[Outcomes]) -> list[Verdict]:
    beside = {name: measurement(own) for name, own in zip(BASELINES, scorers[1:], strict=True)}
    return [one.verdict for one in compare(against_baselines("the model", scorers[:1], beside), "top_20")]


SIZES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "few queries": lambda _: np.full(12, 10),
    "one event each": lambda _: np.full(300, 1),
    "some queries have most events": lambda draw: np.maximum(1, draw.lognormal(1.5, 1.2, size=80)).astype(np.int64),
}


@pytest.mark.parametrize("size", SIZES)
def test_without_signal_at_most_one_report_in_twenty_has_a_wrong_word(size: str) -> None:
    draw = np.random.default_rng(3)
    reports, wrong = 1500, 0
    for _ in range(reports):
        sizes = SIZES[size](draw)
        found = verdicts_of(noise(draw, np.repeat(np.arange(len(sizes)), sizes), 5))
        wrong += "better" in found or "worse" in found
    assert wrong / reports <= 0.05 + 3 * (0.05 * 0.95 / reports) ** 0.5  # three binomial deviations


@pytest.mark.parametrize(("skill", "verdict"), [(1.6, "better"), (0.6, "worse")])
def test_a_true_difference_is_found(skill: float, verdict: Verdict) -> None:
    draw = np.random.default_rng(4)
    queries = np.repeat(np.arange(200), draw.integers(1, 20, size=200))
    found = [verdicts_of(noise(draw, queries, 5, skill)) for _ in range(50)]
    assert np.mean([one == [verdict] * 8 for one in found]) >= 0.95


class Guess:
    """Scores that know nothing; or that recall what a query has in train, which says nothing of what comes."""

    def __init__(self, seed: int, recalled: Dataset | None = None) -> None:
        self.seed, self.recalled = seed, recalled

    def score_block(self, events: Dataset) -> ScoreBlock:
        draw = torch.Generator().manual_seed(self.seed)
        table = torch.rand(events.queries.num_rows, events.candidates.num_rows, generator=draw)
        if self.recalled is not None:
            table[self.recalled.query_index, self.recalled.candidate_index] += 1.0
        return lambda numbers: table[torch.from_numpy(events.query_index[numbers])]


def noise_log(seed: int) -> Split:
    """Train and test of 40 queries that choose any of 50 candidates, with repetitions."""
    draw = np.random.default_rng(seed)
    pairs = list(zip(draw.integers(40, size=600).tolist(), draw.integers(50, size=600).tolist(), strict=True))
    return split_random(log_of(pairs, 40, 50), test=0.3, seed=seed)


@cache
def baselines_of(seed: int) -> dict[str, Measurement]:
    """How well what learns from a log without signal finds the test events."""
    train, test = noise_log(seed)
    learned: dict[str, Scorer] = {"popularity": Popularity(train), "item_knn": ItemKnn(train), "ease": Ease(train)}
    return {name: measure(scorer, test, train) for name, scorer in learned.items()}


@pytest.mark.parametrize("recalls", [False, True])
def test_on_logs_without_signal_few_reports_say_that_a_model_is_better_or_worse(recalls: bool) -> None:
    logs, wrong = 60, 0
    for seed in range(logs):
        train, test = noise_log(seed)
        model = measure(Guess(seed, train if recalls else None), test, train)
        pairs = against_baselines("the model", [model.outcomes], baselines_of(seed))
        said = verdict_sentences(compare(pairs, "top_10"))
        wrong += any(word in sentence for sentence in said for word in ("beats", "worse"))
    assert wrong <= 7  # at 5%, more than 7 of 60 have a probability of 1%


def test_the_words_of_an_evaluation_rest_on_paired_differences() -> None:
    for seed in range(3):
        train, test = noise_log(seed)
        notes = evaluate(Guess(seed, train), test, exclude=train).notes
        assert not any("beats" in note or "worse" in note for note in notes)
        assert notes[0].startswith("The model is not significantly different from popularity, item-kNN, EASE or iALS")


def test_events_that_repeat_train_do_not_count_under_unseen() -> None:
    train = log_of([(query, query % 5) for query in range(20)], 20, 30)
    test = log_of([(query, candidate) for query in range(20) for candidate in (query % 5, 10 + query % 7)], 20, 30)
    recalls, guesses = (measure(Guess(0, recalled), test, train) for recalled in (train, None))
    everything, unseen = compare([Pair("m", [recalls.outcomes], "popularity", [guesses.outcomes])], "top_1")
    assert (everything.verdict, everything.events) == ("better", 40)
    assert recalls.scores.unseen["top_1"] > guesses.scores.unseen["top_1"]
    assert (unseen.difference, unseen.events, unseen.queries) == (0.0, 20, 20)
    assert "the 20 test events that repeat a choice of their query in train" in interval_note([everything, unseen])[1]


def test_a_difference_by_hand() -> None:
    """Twelve queries of one event: in ten of them only the model hits, so that the jackknife's variance is s² / G."""
    queries = list(range(12))
    model, rival = outcomes([1.0] * 12, queries), outcomes([9.0] * 10 + [1.0] * 2, queries)
    [found, _] = compare([Pair("m", [model], "ease", [rival])], "top_5")
    assert found.difference == pytest.approx(10 / 12)
    deviation = np.std([1.0] * 10 + [0.0] * 2, ddof=1)
    assert found.half_width == pytest.approx(2.6850 * deviation / 12**0.5, rel=1e-4)  # t(9 degrees) at 1 − 0.05 / 4
    assert (found.verdict, found.queries) == ("better", 12)


def test_more_comparisons_make_every_interval_wider() -> None:
    draw = np.random.default_rng(0)
    own, *others = noise(draw, np.repeat(np.arange(50), 4), 5)
    alone = compare([Pair("m", [own], "popularity", others[:1])], "mrr")[0]
    together = compare([Pair("m", [own], str(number), [one]) for number, one in enumerate(others)], "mrr")[0]
    assert alone.difference == together.difference
    assert alone.half_width is not None
    assert together.half_width is not None
    assert alone.half_width < together.half_width


def test_metrics_compared_together_widen_intervals_as_pairs_do() -> None:
    draw = np.random.default_rng(0)
    own, other = noise(draw, np.repeat(np.arange(50), 4), 2)
    pair = Pair("m", [own], "popularity", [other])
    both = compare([pair], "mrr", "top_5")
    assert [(one.metric, one.protocol) for one in both] == [
        ("mrr", "all"),
        ("mrr", "unseen"),
        ("top_5", "all"),
        ("top_5", "unseen"),
    ]
    assert both[:2] == compare([pair, pair], "mrr")[:2]


def test_seeds_are_averaged_before_queries_are_compared() -> None:
    queries = np.repeat(np.arange(40), 3)
    good, bad = (Outcomes(np.full((2, 120), rank, np.float32), queries, queries < 0) for rank in (1, 50))
    mixed = compare([Pair("m", [good, bad], "popularity", [bad, bad], over_repetitions=False)], "top_5")[0]
    assert (mixed.difference, mixed.over_seeds) == (0.5, None)


def test_where_both_have_seeds_these_must_agree_as_well() -> None:
    queries = np.repeat(np.arange(40), 3)
    good, fair, bad = (Outcomes(np.full((2, 120), rank, np.float32), queries, queries < 0) for rank in (1, 2, 50))
    unsteady = compare([Pair("deep", [good, bad], "shallow", [bad, bad])], "mrr")[0]
    assert unsteady.difference > 0.4
    assert unsteady.over_seeds is not None
    assert unsteady.over_seeds.low < 0
    assert unsteady.verdict == "not significantly different"
    steady = compare([Pair("deep", [good, good], "shallow", [fair, fair])], "mrr")[0]
    assert steady.verdict == "better"


@pytest.mark.parametrize("queries", [[0, 1, 2, 3] * 50, [0] * 191 + list(range(1, 10))])
def test_too_few_queries_are_said_to_be_too_few(queries: list[int]) -> None:
    found = compare([Pair("[32]", [outcomes([1.0] * 200, queries)], "ease", [outcomes([9.0] * 200, queries)])], "top_5")
    assert {one.verdict for one in found} == {"too few queries"}
    assert verdict_sentences(found) == [
        "Test cannot tell whether [32] beats EASE (top-5): its queries are too few, or too "
        f"unequal ({len(set(queries))})."
    ]
    assert interval_note(found) == []


def test_a_protocol_with_too_few_queries_is_not_judged() -> None:
    found = [comparison(protocol="all"), comparison(protocol="unseen", verdict="too few queries")]
    assert verdict_sentences(found) == [
        "[32] beats EASE under all (top-100: +0.0300 ± 0.0100 all); under unseen, too few queries are left to tell."
    ]


def test_weights_count_in_differences() -> None:
    queries = list(range(20))
    hits, misses = [1.0] * 10 + [9.0] * 10, [9.0] * 10 + [1.0] * 10
    weights = [3.0] * 10 + [1.0] * 10
    found = compare(
        [Pair("m", [outcomes(hits, queries, weights)], "ease", [outcomes(misses, queries, weights)])], "top_5"
    )
    assert found[0].difference == pytest.approx((30 - 10) / 40)


def test_scorers_of_different_events_are_refused() -> None:
    one, other = outcomes([1.0, 2.0], [0, 1]), outcomes([1.0, 2.0], [1, 0])
    with pytest.raises(DataError, match=r"\[32\] and EASE were measured on different events"):
        compare([Pair("[32]", [one], "ease", [other])], "mrr")


def test_rivals_with_the_same_verdicts_share_a_sentence() -> None:
    found = [
        comparison(rival, protocol, difference=difference)
        for rival, difference in (("popularity", 0.03), ("ease", 0.02))
        for protocol in ("all", "unseen")
    ]
    found += [
        comparison("ials", "all", "not significantly different", 0.001),
        comparison("ials", "unseen", "worse", -0.02),
    ]
    assert verdict_sentences(found) == [
        "[32] beats popularity and EASE under both protocols (top-100; closest is EASE: +0.0200 ± 0.0100 all, "
        "+0.0200 ± 0.0100 unseen).",
        "[32] is not significantly different from iALS under all and is worse than it under unseen "
        "(top-100: +0.0010 ± 0.0100 all, -0.0200 ± 0.0100 unseen).",
    ]
    assert interval_note(found) == [
        "Differences are paired by event; ± is their 95% interval over 900 queries, wide enough for all 6 comparisons "
        "at once."
    ]


def test_the_table_of_differences_has_every_pair() -> None:
    found = [comparison(rival, protocol) for rival in ("popularity", "[8]") for protocol in ("all", "unseen")]
    grid = differences_grid(found)
    assert grid.headings == ["", "compared with", "top-100, all", "verdict", "top-100, unseen", "verdict"]
    assert grid.rows == [["[32]", rival, *["+0.0300 ± 0.0100", "better"] * 2] for rival in ("popularity", "[8]")]


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_every_verdict_has_words(verdict: Verdict) -> None:
    [sentence] = verdict_sentences([comparison(protocol=protocol, verdict=verdict) for protocol in ("all", "unseen")])
    words = {
        "better": "beats EASE",
        "worse": "worse than EASE",
        "too few queries": "too few, or too unequal",
    }
    assert words.get(verdict, "not significantly different from EASE") in sentence


def test_without_baselines_nothing_is_said() -> None:
    assert verdict_sentences(compare(against_baselines("[32]", [outcomes([1.0], [0])], {}), "mrr")) == []
