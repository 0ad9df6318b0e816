"""Diverse lists: maximal marginal relevance by hand, against the plain definition, and in a retriever's answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy import groups_log
from twotower.errors import ConfigError
from twotower.features import Category
from twotower.model import Tower, TwoTower
from twotower.retrieval import Retriever
from twotower.retrieval.diversity import marginal_relevance
from twotower.retrieval.eligible import Eligible
from twotower.retrieval.ranking import Ranker
from twotower.retrieval.requests import Query
from twotower.retrieval.stores.local import LocalStore


def by_definition(scores: list[float], embeddings: list[list[float]], k: int, diversity: float) -> list[int]:
    """The formula, candidate by candidate."""
    low, high = min(scores), max(scores)
    taken: list[int] = []
    while len(taken) < min(k, len(scores)):
        worths = {}
        for i, score in enumerate(scores):
            if i in taken:
                continue
            relevance = (score - low) / (high - low) if high > low else 0.0
            cosines = [
                float(np.dot(embeddings[i], embeddings[j]))
                / (float(np.linalg.norm(embeddings[i])) * float(np.linalg.norm(embeddings[j])))
                for j in taken
            ]
            worths[i] = (1 - diversity) * relevance - diversity * max(cosines) if taken else relevance
        best = max(worths.values())
        taken.append(min(i for i, worth in worths.items() if worth > best - 1e-9))
    return taken


def test_by_hand() -> None:
    # relevance 1, 0.8, 0.5, 0; candidates 0 and 1 point the same way, 2 is at a right angle, 3 opposite
    scores = np.array([5.0, 4.0, 2.5, 0.0])
    embeddings = np.array([[1, 0], [2, 0], [0, 1], [-3, 0]], dtype=np.float32)
    assert marginal_relevance(scores, embeddings, 4, 0.1).tolist() == [0, 1, 2, 3]  # 0.72 − 0.1 > 0.45 > 0.1
    assert marginal_relevance(scores, embeddings, 4, 0.2).tolist() == [0, 1, 2, 3]  # 0.64 − 0.2 > 0.4 > 0.2
    assert marginal_relevance(scores, embeddings, 4, 0.3).tolist() == [0, 2, 1, 3]  # 0.35 > 0.3 > 0.26; 0.26 > 0
    assert marginal_relevance(scores, embeddings, 4, 0.5).tolist() == [0, 3, 2, 1]  # 0.5 > 0.25 > −0.1; 0.25 > −0.1
    assert marginal_relevance(scores, embeddings, 4, 1.0).tolist() == [0, 3, 2, 1]


@given(
    scores=st.lists(st.integers(-9, 9), min_size=1, max_size=8),
    k=st.integers(1, 9),
    diversity=st.floats(0.01, 1),
    seed=st.integers(0, 1000),
)
def test_it_is_the_definition(scores: list[int], k: int, diversity: float, seed: int) -> None:
    embeddings = np.random.default_rng(seed).normal(size=(len(scores), 3)).astype(np.float32)
    ordered = np.sort(np.array(scores, dtype=np.float64))[::-1]
    found = marginal_relevance(ordered, embeddings, k, diversity)
    assert found.tolist() == by_definition(ordered.tolist(), embeddings.tolist(), k, diversity)


def test_nothing_and_nothing_to_tell_apart() -> None:
    assert marginal_relevance(np.empty(0), np.empty((0, 2), dtype=np.float32), 3, 0.5).tolist() == []
    alike = np.zeros((3, 2), dtype=np.float32)  # of no length, so that no cosine is
    assert marginal_relevance(np.ones(3), alike, 2, 0.5).tolist() == [0, 1]


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    log = groups_log(400, candidates=200)
    model = TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)])).learn(log)
    return Retriever.build(model, log.candidates, seen=log)


def spread(retriever: Retriever, ids: list[int | str]) -> float:
    rows = [retriever.candidate_row(one) for one in ids]
    units = torch.nn.functional.normalize(retriever.index.embeddings[rows], dim=1)
    return float(1 - (units @ units.T)[np.triu_indices(len(rows), 1)].mean())


def test_lists_spread_as_diversity_grows_and_filters_hold(retriever: Retriever) -> None:
    spreads = []
    for diversity in (0.0, 0.5, 0.9):
        found = retriever.recommend(3, 10, exclude=[5], where="item != 6", diversity=diversity)
        ids = [one.id for one in found]
        assert len(set(ids)) == 10
        assert not {5, 6} & set(ids)
        spreads.append(spread(retriever, ids))
    assert spreads[0] < spreads[1] < spreads[2]
    plain = retriever.recommend(3, 100)
    assert retriever.recommend(3, 1, diversity=0.9)[0].id == plain[0].id
    scores = {one.id: one.score for one in plain}
    for one in retriever.recommend(3, 10, diversity=0.5):
        assert one.score == pytest.approx(scores[one.id], rel=1e-6)  # the model's, of the 100 best


def test_popular_candidates_are_diverse_too_and_all_are_had_where_few_are_left(retriever: Retriever) -> None:
    plain, diverse = (retriever.recommend({}, 10, diversity=diversity) for diversity in (0.0, 0.8))
    assert diverse.basis == "popularity"
    assert [one.id for one in plain] != [one.id for one in diverse]
    assert len(retriever.recommend(3, 10, allow=[1, 2, 3], exclude_seen=False, diversity=0.5)) == 3


@pytest.mark.parametrize("diversity", [-0.1, 1.1, float("nan"), "much", True])
def test_what_is_no_trade_off_is_refused(retriever: Retriever, diversity: float) -> None:
    with pytest.raises(ConfigError, match=r"diversity=.*; expected a") as caught:
        retriever.recommend(3, diversity=diversity)
    assert caught.value.field == "diversity"


def test_a_store_gives_the_same_lists_with_exclusions_of_each_query(retriever: Retriever) -> None:
    bundle = retriever.bundle
    store = LocalStore(bundle.index, bundle.candidates, "item", bundle.details.towers)
    eligible = Eligible(bundle.candidates, retriever.ids, bundle.seen)
    ranker = Ranker(bundle, retriever.requests, eligible, bundle.model.query_vectors, store)
    queries: list[Query] = [{"user": 3, "exclude": [84, 51]}, {"user": 4}, {}]
    for diversity in (0.0, 0.8):
        stored = ranker.rank(queries, 10, True, [7], None, "item != 6", diversity)
        own = retriever.rank(queries, 10, exclude=[7], where="item != 6", diversity=diversity)
        for one, other in zip(stored, own, strict=True):
            assert one.ids(bundle.candidates, "item") == other.ids(bundle.candidates, "item")
            assert one.scores == pytest.approx(other.scores)
        assert not {84, 51, 7, 6} & set(stored[0].ids(bundle.candidates, "item").to_pylist())
