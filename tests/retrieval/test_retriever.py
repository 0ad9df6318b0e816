from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from toy import groups_log, toy_model
from twotower.data import Dataset
from twotower.errors import ConfigError, DataError, DataWarning, SavedFolderError
from twotower.retrieval import Answer, Notes, Recommendation, Retriever
from twotower.training import AdamW, Trainer


@pytest.fixture(scope="module")
def log() -> Dataset:
    return groups_log()


@pytest.fixture(scope="module")
def retriever(log: Dataset) -> Retriever:
    model = toy_model()
    Trainer(epochs=8, batch_size=128, optimizer=AdamW(0.02)).fit(model, log)
    return Retriever.build(model, log.candidates, seen=log, notes=Notes(extra={"why": "test"}))


def test_it_recommends_what_the_model_scores_highest(retriever: Retriever, log: Dataset) -> None:
    latest = int(np.argmax(log.times))  # an event at the time that a request without one is given
    query = int(log.query_index[latest])
    scores = retriever.model.embed_queries(log)[latest] @ retriever.model.embed_candidates(log.candidates).T
    found = retriever.recommend({"user": query}, k=5, exclude_seen=False)
    assert [one.id for one in found] == scores.argsort(descending=True)[:5].tolist()
    assert [one.score for one in found] == pytest.approx(scores.sort(descending=True).values[:5].tolist(), rel=1e-5)
    assert found[0].candidate == {"item": found[0].id, "title": f"item number {found[0].id}"}
    assert sum(one.id % 5 == query % 5 for one in found) >= 4  # of the query's own group


def test_seen_is_left_out_and_k_others_are_found(retriever: Retriever, log: Dataset) -> None:
    seen = set(log.candidate_index[log.query_index == 3].tolist())
    found = [one.id for one in retriever.recommend({"user": 3}, k=100)]
    assert sorted(found) == sorted(set(range(30)) - seen)
    assert len(retriever.recommend({"user": 3}, k=4, exclude_seen=True)) == 4


def test_ids_are_found_as_text_too_and_unknown_queries_get_an_answer(retriever: Retriever) -> None:
    assert retriever.recommend({"user": "3"}) == retriever.recommend({"user": 3})
    assert retriever.recommend({"user": "3"}, exclude_seen=True) == retriever.recommend({"user": 3}, exclude_seen=True)
    unknown = [retriever.recommend(query) for query in ({"user": 999}, {"user": "999"})]
    assert unknown[0] == unknown[1]
    assert len(retriever.recommend({})) == 10


def test_many_at_once_equal_one_at_a_time(retriever: Retriever) -> None:
    queries = [{"user": 1}, {"user": 77}, {"user": 2, "at": 5}]
    together = retriever.recommend_many(queries, k=3, exclude_seen=True)
    for query, found in zip(queries, together, strict=True):
        alone = retriever.recommend(query, k=3, exclude_seen=True)
        assert [one.id for one in alone] == [one.id for one in found]


def test_a_loaded_retriever_gives_the_same_answers(retriever: Retriever, tmp_path: Path) -> None:
    retriever.save(tmp_path / "shop")
    loaded = Retriever.load(tmp_path / "shop")
    for query in ({"user": 3}, {"user": 999}, {"user": 3, "at": 100}):
        assert loaded.recommend(query, exclude_seen=True) == retriever.recommend(query, exclude_seen=True)
    assert loaded.details == retriever.details
    assert {path.name for path in tmp_path.iterdir()} == {"shop", ".shop.lock"}


def test_a_damaged_folder_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    retriever.save(tmp_path / "shop")
    path = tmp_path / "shop" / "model" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SavedFolderError, match="weights"):
        Retriever.load(tmp_path / "shop")


def test_candidates_that_training_did_not_see_can_be_recommended(retriever: Retriever, log: Dataset) -> None:
    new = pa.table({"item": [500, 1, 3], "title": ["item number 500", "item number 1", "item number 3"]})
    left_out = int((~np.isin(log.candidate_index, [1, 3])).sum())
    with pytest.warns(DataWarning, match=rf"{left_out:,} of {len(log):,} events .*: their 'item' is .*, such as \d"):
        wider = Retriever.build(retriever.model, new, seen=log)
    assert {one.id for one in wider.recommend({"user": 1}, exclude_seen=False)} == {500, 1, 3}
    seen = set(log.candidate_index[log.query_index == 1].tolist())
    left = {one.id for one in wider.recommend({"user": 1})}
    assert left == {500, 1, 3} - seen


def test_wrong_requests_are_refused(retriever: Retriever) -> None:
    with pytest.raises(ConfigError, match="k=0"):
        retriever.recommend({"user": 1}, k=0)
    with pytest.raises(ConfigError, match=r"'usr'; expected columns among at, exclude, history, user"):
        retriever.recommend({"usr": 1})
    with pytest.raises(DataError, match="'at'"):
        retriever.recommend({"user": 1, "at": "yesterday"})


def test_an_answer_prints_one_recommendation_a_line() -> None:
    found = [
        Recommendation(7, 1.5, {"sku": 7, "label": "tea"}),
        Recommendation(3, 0.25, {"sku": 3, "label": None}, 4.0),
    ]
    assert str(Answer(found, "query", "abc", ("A note.",))).splitlines() == [
        "1. 7: 1.500, label='tea'",
        "2. 3: 0.250 / 4.000, label=None",
        "(basis: query; version abc)",
        "A note.",
    ]
