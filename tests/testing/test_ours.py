"""Every implementation of the package passes the suite that users put theirs through."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch

from twotower import (
    Activity,
    Bucketized,
    Categories,
    Category,
    Cyclic,
    Elapsed,
    Exact,
    Feature,
    FullSoftmax,
    Hashed,
    History,
    Hnsw,
    InBatchSoftmax,
    Normalized,
    Ranking,
    Rating,
    Settings,
    Text,
    TextEncoder,
    Tower,
    TwoTower,
    Unified,
    Vector,
    testing,
)
from twotower.data import Dataset, Log
from twotower.evaluation import BASELINES, METRICS, ScoreBlock
from twotower.evaluation.baselines.names import OURS
from twotower.features.base import FEATURES
from twotower.kinds import Kinds
from twotower.model import LOSSES, Loss
from twotower.model.losses import BoundLoss
from twotower.retrieval import INDEXES, IndexSettings

TEXTS = pa.array(["a red hat", "hat", "two blue hats", None])
NUMBERS = pa.array([3.0, 1.0, 2.5, 7.0])
VECTORS = pa.array([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]], pa.list_(pa.float32(), 2))
FEATURES_AND_COLUMNS: list[tuple[Feature, pa.Array | dict[str, pa.Array]]] = [
    (Category("c", 4), TEXTS),
    (Hashed("c", buckets=5, dim=3), TEXTS),
    (Text("c", 4), TEXTS),
    (Unified(["c", "d"], buckets=50, dim=3, look_ups_each=2), {"c": TEXTS, "d": pa.array([7, None, 7, 8])}),
    (Categories("c", 4), pa.array([["a", "b"], ["b"], [], None])),
    (Bucketized("c", 3, 4), NUMBERS),
    (Normalized("c"), NUMBERS),
    (Cyclic("c", "day"), pa.array([1e9, 1e9 + 40_000, 1.1e9])),
    (Vector("c", 2), VECTORS),
    (Vector("c", 2, trained=True), VECTORS),
]
OF_A_RECORD: dict[str, Feature] = {
    "activity": Activity("timestamp", "user_id", "before", 8, 4),
    "elapsed": Elapsed("timestamp", "user_id", "previous", 8, 4),
    "history": History("movie_id", by="user_id", time="timestamp", dim=4),
}
LOSSES_TO_CHECK: list[Loss] = [
    InBatchSoftmax(),
    InBatchSoftmax(reduction="sum", log_q=False),
    InBatchSoftmax(uniform=7, mask_same=True),
    InBatchSoftmax(mask_known=True, hard_negatives=5),
    FullSoftmax(),
    FullSoftmax(label_smoothing=0.1, mask_known=True),
]
TOWERS: dict[str, Callable[[list[Feature]], Tower]] = {
    "no layers": lambda features: Tower(features),
    "layers": lambda features: Tower(features, [8, 4], dropout=0.1),
    "norm": lambda features: Tower(features, [8, 8, 4], norm="layer", residual=True, activation="gelu"),
    "cross": lambda features: Tower(features, [4], cross=2, cross_rank=2, cross_place="beside"),
}
INDEXES_TO_CHECK: list[tuple[IndexSettings, float]] = [(Exact(), 1.0), (Hnsw(neighbours=8, build=40), 0.95)]


@pytest.mark.parametrize(("feature", "column"), FEATURES_AND_COLUMNS, ids=[one.kind for one, _ in FEATURES_AND_COLUMNS])
def test_features(feature: Feature, column: pa.Array | dict[str, pa.Array]) -> None:
    testing.check_feature(feature, column)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_text_encoders(encoder_folder: Path, trained: bool) -> None:
    testing.check_feature(TextEncoder("c", encoder_folder, 4, trained, max_length=8), TEXTS)


@pytest.mark.parametrize("kind", OF_A_RECORD)
def test_features_of_a_record_in_a_tower(kind: str) -> None:
    testing.check_tower(Tower([OF_A_RECORD[kind]]), testing.small_log(), side="query")


@pytest.mark.parametrize("make", TOWERS.values(), ids=TOWERS)
def test_towers(make: Callable[[list[Feature]], Tower]) -> None:
    testing.check_tower(make([Category("movie_id", 4), Text("movie_title", 4)]), testing.small_log())


def test_models() -> None:
    towers = (Tower([Category(name, 8)], [4]) for name in ("user_id", "movie_id"))
    testing.check_model(TwoTower(*towers, normalize=True, temperature=0.1, learn_temperature=True), testing.small_log())


@pytest.mark.parametrize("loss", LOSSES_TO_CHECK, ids=str)
def test_losses(loss: Loss) -> None:
    testing.check_loss(loss)


@pytest.mark.parametrize("shift", [-12, 100])
def test_a_loss_that_embeds_rows_out_of_the_catalogue_fails(shift: int) -> None:
    class Shifted(Settings, frozen=True):
        reduction: str = "mean"

        def embedded(self, events: int, catalogue: int) -> int:
            return min(events, catalogue)

        def bind(self, train: Log) -> BoundLoss:
            inner = InBatchSoftmax().bind(train)
            return lambda queries, batch, embed: inner(queries, batch, lambda rows: embed(rows + shift))

    with pytest.raises(AssertionError, match=r"it embeds row -?[0-9]+ of a catalogue of"):
        testing.check_loss(Shifted())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["top", "mrr", "ndcg"])
def test_metrics(kind: str) -> None:
    testing.check_metric(METRICS[kind])


@pytest.mark.parametrize("kind", OURS)
def test_baselines(kind: str) -> None:
    if kind == "ials":
        pytest.importorskip("implicit")
    testing.check_baseline(BASELINES[kind])


@pytest.mark.parametrize(("settings", "recall"), INDEXES_TO_CHECK, ids=["exact", "hnsw"])
def test_indexes(settings: IndexSettings, recall: float) -> None:
    testing.check_index(settings, recall)


def test_no_implementation_is_left_out() -> None:
    """One that is added has to be put through its suite."""

    def ours(kinds: Kinds[Any]) -> set[str]:
        """Those that a module of the package defines; docstrings define others."""
        return {
            kind for kind in kinds if getattr(sys.modules.get(kinds[kind].__module__), kinds[kind].__name__, None)
        } - {*kinds.own}

    assert ours(FEATURES) == {feature.kind for feature, _ in FEATURES_AND_COLUMNS} | {*OF_A_RECORD, "text_encoder"}
    assert ours(LOSSES) == {"in_batch_softmax", "full_softmax"}
    assert ours(METRICS) == {"top", "mrr", "ndcg"}
    assert ours(BASELINES) == {*OURS, "oracle"}  # which knows the truth, and learns nothing
    assert ours(INDEXES) == {"exact", "hnsw"}


def test_what_is_wrong_is_found() -> None:
    """Suites refuse mistakes that are easily made: to look at other rows, to reward a worse rank, to look at test."""

    class Share(Feature):
        kind = "share"

        def __init__(self, column: str) -> None:
            super().__init__()
            self.column, self.width = column, 1

        def encode(self, column: pa.ChunkedArray) -> torch.Tensor:
            values = torch.from_numpy(np.nan_to_num(column.to_numpy().astype(np.float32)))
            return values / values.sum().clamp_min(1)

        def forward(self, encoded: torch.Tensor) -> torch.Tensor:
            return encoded[:, None]

    with pytest.raises(AssertionError, match="alone gives other numbers"):
        testing.check_feature(Share("c"), NUMBERS)

    @METRICS.register
    class MeanRank:
        kind, label, by_length = "mean_rank", "mean rank", False

        def values(self, ranks: npt.NDArray[np.float64], k: int | None) -> npt.NDArray[np.float64]:
            return ranks

    with pytest.raises(AssertionError, match="a better rank gives a lower value"):
        testing.check_metric(MeanRank)

    @BASELINES.register
    class Clairvoyant:
        kind, label = "clairvoyant", "clairvoyant"

        def __init__(self, train: Dataset) -> None:
            self.candidates = train.candidates.num_rows

        def score_block(self, events: Dataset) -> ScoreBlock:
            chosen = torch.from_numpy(events.candidate_index)
            return lambda numbers: torch.nn.functional.one_hot(chosen[numbers], self.candidates).float()

    with pytest.raises(AssertionError, match="depend on what was chosen"):
        testing.check_baseline(Clairvoyant)


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_our_ratings(loss: Any) -> None:
    log = testing.small_log()
    testing.check_task(Rating(target="stars", loss=loss), _with_stars(log))


def test_our_clicks() -> None:
    log = testing.small_log()
    stars = _with_stars(log)
    clicks = pa.array(stars.interactions["stars"].to_numpy() > 3)
    log = replace(log, interactions=log.interactions.append_column("click", clicks))
    testing.check_task(Rating(target="click", loss="cross_entropy", name="click"), log)


def _with_stars(log: Dataset) -> Dataset:
    """Even candidates please even queries."""
    stars = 3.0 + 1.5 * np.cos(np.pi * (log.query_index + log.candidate_index))
    return replace(log, interactions=log.interactions.append_column("stars", pa.array(stars)))


@pytest.mark.parametrize("settings", [{"target": "stars"}, {"negatives": 3}, {"target": "stars", "by": "timestamp"}])
def test_our_rankings(settings: Any) -> None:
    log = _with_stars(testing.small_log())
    by_day = pa.array(log.times // 1e6)  # requests of several events
    place = log.interactions.column_names.index("timestamp")
    log = replace(log, interactions=log.interactions.set_column(place, "timestamp", by_day))
    testing.check_task(Ranking(**settings), log)
