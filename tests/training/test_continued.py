"""Training a fitted model further: what it cannot learn any more is said."""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pytest

from toy import log_of, toy_model
from twotower.data import Dataset, from_tables
from twotower.errors import NewIdsWarning
from twotower.features import Category, Hashed
from twotower.model import Tower, TwoTower
from twotower.training import Trainer

ONCE = Trainer(epochs=1)


def log_with_ids_from(first: int) -> Dataset:
    """Twenty events of ten queries and five candidates, whose ids begin at a number."""
    ids = np.arange(20)
    table = pa.table({"user": first + ids % 10, "item": first + ids % 5, "at": ids})
    return from_tables(table, query_id="user", candidate_id="item", time="at")


def small_model() -> TwoTower:
    return TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)]))


def test_a_model_trained_further_says_how_many_ids_are_new_to_it() -> None:
    model = small_model()
    ONCE.fit(model, log_with_ids_from(0))
    with pytest.warns(NewIdsWarning, match=r"3 of 10 of 'user' and 3 of 5 of 'item'.*share the embedding") as caught:
        ONCE.fit(model, log_with_ids_from(3))
    assert caught[0].filename == __file__


def test_nothing_is_said_where_nothing_is_new() -> None:
    """Ids without an event are not trained on; a hashed id always has its row."""
    log = log_of([(0, 0), (1, 1), (2, 0)], queries=4, candidates=3)
    hashed = TwoTower(Tower([Hashed("user", 20, 4)]), Tower([Hashed("item", 20, 4)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model, further in ((toy_model(), log), (small_model(), log.take(np.array([0, 1]))), (hashed, log)):
            ONCE.fit(model, log)
            ONCE.fit(model, further)
        ONCE.fit(hashed, log_with_ids_from(3))
