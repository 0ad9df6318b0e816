"""A log that says what was shown and not chosen, and what tests of training on it share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from twotower.data import Dataset, Log, from_tables
from twotower.features import Category
from twotower.model import Tower, TwoTower
from twotower.training import Adagrad, Trainer

CANDIDATES = 30
ROLES: dict[str, Any] = {
    "query_id": "user",
    "candidate_id": "item",
    "time": "at",
    "weight": "weight",
    "chosen": "clicked",
    "request": "visit",
    "candidates": pa.table({"item": list(range(CANDIDATES))}),
}


def shown_rows(requests: int, seed: int = 0) -> pa.Table:
    """Requests of four candidates, of which a query chooses the lowest."""
    draw = np.random.default_rng(seed)
    shown = np.stack([draw.permutation(CANDIDATES)[:4] for _ in range(requests)])
    return pa.table(
        {
            "user": np.repeat(draw.integers(20, size=requests), 4),
            "item": shown.ravel(),
            "at": np.repeat(np.arange(requests), 4),
            "visit": np.repeat(np.arange(requests), 4),
            "clicked": (shown == shown.min(axis=1, keepdims=True)).ravel(),
            "weight": np.repeat(draw.integers(1, 4, size=requests), 4),
        }
    )


def shown_log(requests: int = 400) -> Dataset:
    return from_tables(shown_rows(requests), **ROLES)


def model() -> TwoTower:
    return TwoTower(
        Tower([Category("user", 8, unknown_rate=0.1)], [8], dropout=0.2), Tower([Category("item", 8)]), temperature=0.5
    )


def weights_of(one: TwoTower) -> dict[str, npt.NDArray[np.float32]]:
    return {name: tensor.detach().numpy().copy() for name, tensor in one.state_dict().items()}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def trained(log: Log, **options: Any) -> dict[str, npt.NDArray[np.float32]]:
    one = model()
    Trainer(epochs=3, batch_size=64, optimizer=Adagrad(0.1), **options).fit(one, log)
    return weights_of(one)
