"""Several embeddings of a query: the best one scores, in training, ranks, search, explanations and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toy import groups_log
from toy_ratings import rated
from twotower import (
    AdamW,
    Category,
    Exact,
    FullSoftmax,
    Hnsw,
    InBatchSoftmax,
    Rating,
    Retrieval,
    Tower,
    Trainer,
    TwoTower,
)
from twotower.data import Dataset
from twotower.errors import ConfigError
from twotower.evaluation.ranking import ModelScorer, rank_events
from twotower.evaluation.validation import Validation
from twotower.model.exposed import exposed_logits
from twotower.model.functional import full_softmax
from twotower.model.heads import DotHead, Shape, Side
from twotower.model.rerank import Rerank
from twotower.model.saving import load_model, save_model
from twotower.recipes.config import Config, DataConfig
from twotower.recipes.model_config import ModelConfig
from twotower.retrieval import Retriever
from twotower.retrieval.exact import ExactIndex
from twotower.retrieval.onnx import write_towers
from twotower.retrieval.ranking import Ranker
from twotower.retrieval.stores.local import LocalStore
from twotower.testing import check_model, small_log

INTERESTS, WIDTH = 3, 8
LOG = groups_log()


def model(**settings: Any) -> TwoTower:
    query = Tower([Category("user", 16)], [INTERESTS * WIDTH])
    return TwoTower(query, Tower([Category("item", WIDTH)]), interests=INTERESTS, **settings)


@pytest.fixture(scope="module")
def trained() -> TwoTower:
    one = model()
    Trainer(epochs=3, batch_size=64, loss=FullSoftmax(), optimizer=AdamW(0.02)).fit(one, LOG)
    return one


@pytest.fixture(scope="module")
def scores(trained: TwoTower) -> np.ndarray:
    """The score of every event with every candidate, by NumPy."""
    queries = trained.embed_queries(LOG).numpy().reshape(len(LOG), INTERESTS, WIDTH)
    found: np.ndarray = (queries @ trained.embed_candidates(LOG.candidates).numpy().T).max(axis=1)
    return found


def test_it_passes_the_suite_of_models() -> None:
    query = Tower([Category("user_id", 8)], [10])
    check_model(TwoTower(query, Tower([Category("movie_id", 5)]), interests=2, normalize=True), small_log())


def test_ranks_count_the_best_of_the_products(trained: TwoTower, scores: np.ndarray) -> None:
    ranks, _ = rank_events(ModelScorer(trained).score_block(LOG), LOG)
    own = scores[np.arange(len(LOG)), LOG.candidate_index][:, None]
    expected = 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2
    assert (np.abs(ranks - expected) < 0.5).mean() > 0.99  # but for rounding
    validation = Validation(trained, LOG, LOG, ks=[1])
    assert validation.measure(trained).all["mrr"] == pytest.approx((1 / ranks).mean())


def test_each_interest_is_divided_by_its_own_length() -> None:
    one = model(normalize=True, temperature=0.5).learn(LOG)
    lengths = one.embed_queries(LOG).view(-1, INTERESTS, WIDTH).norm(dim=2)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 2.0))


def test_it_learns_what_one_embedding_of_a_query_cannot() -> None:
    # The candidates lie on a circle, and each query chooses opposite ones: a plane has no direction between them.
    angles = torch.arange(8) * torch.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], dim=1) * 8
    target = torch.tensor([0, 4])

    def loss_of(interests: int) -> float:
        torch.manual_seed(0)
        query = torch.randn(1, interests, 2, requires_grad=True)
        optimizer = torch.optim.Adam([query], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss = full_softmax(query.expand(2, -1, -1), circle, target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return loss.item()

    assert loss_of(2) == pytest.approx(np.log(2), abs=0.05)
    assert loss_of(1) > 1.2


def test_exposed_negatives_are_scored_by_their_best_interest() -> None:
    query, candidates = torch.randn(4, 3, 5), torch.randn(6, 5)
    exposed = torch.tensor([[0, 5], [2, -1], [3, 3], [-1, -1]])
    found = exposed_logits(query, candidates, exposed, 0.7)
    expected = (query @ candidates.T).amax(dim=1).gather(1, exposed.clamp_min(0)) + 0.7
    torch.testing.assert_close(found, expected.masked_fill(exposed < 0, -torch.inf))


@pytest.mark.parametrize("index", [Exact(), Hnsw()])
def test_a_search_finds_each_candidate_once_by_its_best_interest(
    index: Any, trained: TwoTower, scores: np.ndarray, tmp_path: Path
) -> None:
    built = Retriever.build(trained, LOG.candidates, seen=LOG, index=index)
    built.save(tmp_path / "bundle")
    retriever = Retriever.load(tmp_path / "bundle")
    for user in (0, 7):
        of_user = scores[int(np.flatnonzero(LOG.query_index == user)[0])]
        seen = np.unique(LOG.candidate_index[LOG.query_index == user])
        allowed = np.setdiff1d(np.arange(0, 30, 2), [*seen, 4])
        answer = retriever.recommend(user, k=7, exclude=[4], allow=range(0, 30, 2))
        expected = allowed[np.argsort(-of_user[allowed])][:7]
        assert [one.id for one in answer] == expected.tolist()
        assert [one.score for one in answer] == pytest.approx(of_user[expected], rel=1e-4)
    many = retriever.recommend_many([0, 7, 0], k=5)
    assert [one.id for one in many[0]] == [one.id for one in many[2]] == [one.id for one in retriever.recommend(0, k=5)]


def test_a_store_finds_the_same(trained: TwoTower) -> None:
    retriever = Retriever.build(trained, LOG.candidates, seen=LOG)
    bundle = retriever.bundle
    store = LocalStore(ExactIndex(bundle.index.embeddings), LOG.candidates, "item", bundle.details.towers)
    ranker = Ranker(bundle, retriever.requests, retriever._eligible, trained.query_vectors, store)
    found = ranker.rank([3, 5], 6, True, [1], None, None, 0.0)
    for one, answer in zip(found, retriever.recommend_many([3, 5], k=6, exclude=[1]), strict=True):
        assert one.found is not None
        assert one.found["item"].to_pylist() == [each.id for each in answer]
        assert one.scores.tolist() == pytest.approx([each.score for each in answer])


def test_an_explanation_adds_up_to_the_best_score(trained: TwoTower, scores: np.ndarray) -> None:
    retriever = Retriever.build(trained, LOG.candidates, seen=LOG)
    explained = retriever.explain(7, 4)
    event = int(np.flatnonzero(LOG.query_index == 7)[0])
    assert explained.score == pytest.approx(scores[event, 4], rel=1e-4)
    parts = [one.value for one in [*explained.query, *explained.candidate]]
    assert explained.bias + sum(parts) == pytest.approx(explained.score, rel=1e-5)


def test_embeddings_for_other_programs_give_the_score(trained: TwoTower, scores: np.ndarray) -> None:
    retriever = Retriever.build(trained, LOG.candidates, seen=LOG)
    query = np.stack(retriever.query_embeddings([7])["embedding"].to_numpy()).reshape(INTERESTS, WIDTH)
    candidates = np.stack(retriever.candidate_embeddings()["embedding"].to_numpy())
    event = int(np.flatnonzero(LOG.query_index == 7)[0])
    np.testing.assert_allclose((query @ candidates.T).max(axis=0), scores[event], rtol=1e-4, atol=1e-5)


def test_saved_loaded_and_in_onnx(trained: TwoTower, tmp_path: Path) -> None:
    save_model(trained, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert (loaded.interests, loaded.width) == (INTERESTS, WIDTH)
    torch.testing.assert_close(loaded.embed_queries(LOG), trained.embed_queries(LOG))
    query = trained.encode_queries(LOG).gather(torch.arange(2))
    candidate = trained.encode_candidates(LOG.candidates).gather(torch.arange(2))
    write_towers(trained, query, candidate, tmp_path)  # compares outputs with PyTorch's


def test_a_head_reads_the_interest_that_is_best_for_each_candidate() -> None:
    head = DotHead(biases=False).build(Shape((1,), (1,), 2))
    queries = Side(torch.zeros(2, 1), torch.tensor([[1.0, 0.0, 0.0, 3.0], [1.0, 0.0, 0.0, 3.0]]))
    candidates = Side(torch.zeros(2, 1), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(head(queries, candidates), torch.tensor([1.0, 3.0]))


def test_with_a_rating_and_re_ranking() -> None:
    log = rated()
    query = Tower([Category("user", 8)], [2 * WIDTH])
    one = TwoTower(query, Tower([Category("item", WIDTH)]), interests=2)
    tasks = (Retrieval(loss=InBatchSoftmax(uniform=4)), Rating(target="stars", head=DotHead()))
    history = Trainer(epochs=2, tasks=tasks).fit(one, log)
    assert history.epochs[-1].loss < history.epochs[0].loss
    retriever = Retriever.build(one, log.candidates, seen=log, rerank=Rerank(n=10))
    answer = retriever.recommend(0, k=3)
    ratings = [found.rerank_score for found in answer]
    assert ratings == sorted(ratings, reverse=True)  # type: ignore[type-var]


@pytest.mark.parametrize("shared", [False, True])
def test_a_config_says_how_many(shared: bool) -> None:
    config = Config(
        data=DataConfig(name="simulated"), model=ModelConfig(interests=4, layers=(16, 8), share_items=shared)
    )
    recipe = config.resolved_recipe(LOG)
    one = config.model.build(LOG, recipe)
    assert (one.interests, one.query.width, one.width) == (4, 32, 8)
    assert config.model.completed(recipe).interests == 4


@pytest.mark.parametrize("interests", [0, 65])
def test_a_config_with_a_senseless_number_is_refused(interests: int) -> None:
    config = Config(data=DataConfig(name="simulated"), model=ModelConfig(interests=interests))
    with pytest.raises(ConfigError, match=rf"interests = {interests}; expected from 1 to 64"):
        config.model.build(LOG, config.resolved_recipe(LOG))


@pytest.mark.parametrize("interests", [0, 65, True, 1.5])
def test_a_senseless_number_is_refused(interests: Any) -> None:
    with pytest.raises(ConfigError, match="interests"):
        TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)]), interests=interests)


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"query tower has width 5 .* tower 4; expected 2 times as wide"):
        TwoTower(Tower([Category("user", 5)]), Tower([Category("item", 4)]), interests=2)


def test_no_events_give_no_rows_of_the_same_width(trained: TwoTower) -> None:
    empty: Dataset = LOG.take(np.empty(0, dtype=np.int64))
    assert trained.embed_queries(empty).shape == (0, INTERESTS * WIDTH)
    no_rows = trained.encode_queries(LOG).gather(torch.arange(0))
    assert trained.query_vectors(no_rows).shape == (0, INTERESTS * WIDTH)
