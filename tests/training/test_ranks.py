"""Ranks that train together end where one process does."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from torch import Tensor

from once import made_once
from rank_processes import on_ranks, without_errors
from toy import groups_log
from twotower.data import Dataset, from_tables
from twotower.features import Category, History
from twotower.model import FullSoftmax, InBatchSoftmax, Tower, TwoTower
from twotower.model.sharding import gather_tables, shards_of
from twotower.tasks import Ranking, Rating, Retrieval
from twotower.training import Adagrad, AdamW, Callback, Trainer, TrainingState
from twotower.training.settings import Sharding

BATCH = 64


def weighted_log() -> Dataset:
    """Events with weights, some 0, and stars, some missing; the last batch has one event alone."""
    log = groups_log(events=3 * BATCH + 1)
    draw = np.random.default_rng(1)
    stars = draw.integers(1, 6, len(log)).astype(float)
    stars[draw.random(len(log)) < 0.2] = np.nan
    table = log.interactions.append_column("stars", pa.array(stars, from_pandas=True))
    table = table.append_column("weight", pa.array(draw.integers(0, 3, len(log)).astype(float)))
    return from_tables(
        table,
        query_id="user",
        candidate_id="item",
        time="at",
        weight="weight",
        queries=log.queries,
        candidates=log.candidates,
    )


LOG = weighted_log()


def model(history: bool = False, interests: int = 1) -> TwoTower:
    """Dropout, unknown ids and unknown queries: all that draws random numbers."""
    features: list[Any] = [Category("user", 8, unknown_rate=0.2)]
    if history:
        features.append(History("item", by="user", time="at", length=4, dim=8, unknown_rate=0.1, shared=True))
    query = Tower(features, [16, 8 * interests], dropout=0.3, input_dropout=0.1, unknown_query_rate=0.1)
    candidate = Tower([Category("item", 8, unknown_rate=0.1)], [8])
    return TwoTower(query, candidate, learn_temperature=True, interests=interests)


class Hinge:
    """A loss of a user's own, which knows nothing of ranks."""

    reduction = "mean"

    def embedded(self, events: int, catalogue: int) -> int:
        return min(events, catalogue)

    def bind(self, train: Any) -> Hinge:
        return self

    def __call__(self, query_embeddings: Tensor, batch: Any, embed_candidates: Any) -> Tensor:
        scores: Tensor = query_embeddings @ embed_candidates(batch.candidates).T
        loss: Tensor = (1 + scores - scores.diagonal()[:, None]).clamp_min(0).mean()
        return loss


CASES: dict[str, dict[str, Any]] = {
    "in batch": {"loss": InBatchSoftmax()},
    "in batch, masked, sum": {"loss": InBatchSoftmax(mask_same=True, mask_known=True, reduction="sum")},
    "in batch, hard": {"loss": InBatchSoftmax(hard_negatives=3), "clip_norm": 0.1},
    "sampled": {"loss": InBatchSoftmax(uniform=20, mask_same=True)},
    "full": {"loss": FullSoftmax()},
    "full, smoothed, masked": {"loss": FullSoftmax(label_smoothing=0.1, mask_known=True)},
    "full, two interests": {"loss": FullSoftmax(), "interests": 2},
    "sampled, two interests": {"loss": InBatchSoftmax(uniform=20), "interests": 2},
    "in batch, float32": {"loss": InBatchSoftmax()},
    "sampled, float32": {"loss": InBatchSoftmax(uniform=20, mask_same=True)},
    "full, float32": {"loss": FullSoftmax()},
    "own loss": {"loss": Hinge()},
    "lazy Adagrad": {"optimizer": Adagrad(0.1, tables="lazy"), "loss": InBatchSoftmax(reduction="sum")},
    "lazy AdamW": {"optimizer": AdamW(0.01, tables="lazy"), "clip_norm": 0.1},
    "rating": {"tasks": [Rating(target="stars")]},
    "lists": {"tasks": [Ranking(target="stars", sampled=3, negatives=2)]},
    "retrieval and lists": {
        "tasks": [Retrieval(loss=InBatchSoftmax(uniform=5)), Ranking(negatives=4, negatives_from="retriever")]
    },
}
SHARDED = (
    "in batch, hard",
    "sampled",
    "full",
    "own loss",
    "lazy Adagrad",
    "lazy AdamW",
    "retrieval and lists",
    "history",
)
FLOAT32 = {"rating", "lists", "retrieval and lists"}.union(case for case in CASES if "float32" in case)
"""Cases in the precision of users; the columns that tasks read have no other."""


TRAINED: list[tuple[str, Sharding]] = [
    *((case, "never") for case in (*CASES, "history")),
    *((case, "always") for case in SHARDED),
]


class Gradients(Callback):
    """Keeps the gradient of every step, as numbers."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def on_step(self, state: TrainingState) -> None:
        named = state.model.named_parameters()
        self.found.append({name: one.grad.to_dense().numpy().copy() for name, one in named if one.grad is not None})


@cache
def trained(case: str, history: bool = False, sharding: Sharding = "never") -> dict[str, Any]:
    """The losses, gradients and weights of a training, and the accuracy; gradients of the rows that the rank holds."""
    settings: dict[str, Any] = {"epochs": 2, "batch_size": BATCH, "optimizer": Adagrad(0.1), "seed": 3} | CASES[case]
    one = model(history, settings.pop("interests", 1)).learn(LOG, seed=1)
    trainer = Trainer(sharding=sharding, **settings)
    gradients = Gradients()
    made = trainer.fit(one if case in FLOAT32 else one.double(), LOG, callbacks=[gradients])
    sharded = list(shards_of(one))
    gather_tables(one)
    return {
        "sharded": sharded,
        "losses": [epoch.loss for epoch in made.epochs],
        "accuracy": [epoch.accuracy for epoch in made.epochs],
        "gradients": gradients.found,
        "weights": {name: tensor.numpy() for name, tensor in one.state_dict().items()},
    }


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each case gave on each rank."""
    jobs = [(trained, *((case, False) if case in CASES else ("sampled", True)), sharding) for case, sharding in TRAINED]

    def train(folder: Path) -> None:
        (folder / "found.pickle").write_bytes(pickle.dumps(on_ranks(request.param, folder, *jobs)))

    found = pickle.loads((made_once(tmp_path_factory, f"{request.param}-ranks", train) / "found.pickle").read_bytes())
    return {f"{case} {sharding}": without_errors(each) for (case, sharding), each in zip(TRAINED, found, strict=True)}


@pytest.mark.parametrize(("case", "sharding"), TRAINED)
def test_ranks_give_the_loss_the_gradient_and_the_weights_of_one_process(
    case: str, sharding: str, ranks: dict[str, list[dict[str, Any]]]
) -> None:
    expected = trained("sampled", history=True) if case == "history" else trained(case)
    tolerance = 1e-5 if case in FLOAT32 else 1e-11
    first, *others = ranks[f"{case} {sharding}"]
    assert (first["sharded"] != []) == (sharding == "always")
    assert first["losses"] == pytest.approx(expected["losses"], rel=tolerance)
    for own, theirs in zip(first["gradients"], expected["gradients"], strict=True):
        assert own.keys() == theirs.keys()
        for name in own:
            whole = theirs[name][:: len(others) + 1] if name in first["sharded"] else theirs[name]
            np.testing.assert_allclose(own[name], whole, rtol=tolerance, atol=tolerance, err_msg=name)
    for name, weights in expected["weights"].items():
        # AdamW makes steps of rounding where the gradient is 0, as that of the candidate tower's last bias
        least = 1e-7 if "AdamW" in case else tolerance
        np.testing.assert_allclose(first["weights"][name], weights, rtol=tolerance, atol=least, err_msg=name)
    for one, other in zip(first["accuracy"], expected["accuracy"], strict=True):
        assert one == pytest.approx(other)
    for other in others:
        assert other["losses"] == first["losses"]
        assert all((other["weights"][name] == first["weights"][name]).all() for name in first["weights"])
