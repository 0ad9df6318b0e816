"""A model that retrieves and re-ranks: stars by parity and groups of what is chosen, so that the two orders differ."""

from __future__ import annotations

import dataclasses
from functools import cache

import pyarrow as pa

from toy_ratings import rated
from twotower import AdamW, Category, CrossHead, Normalized, Rating, Retrieval, Text, Tower, Trainer, TwoTower
from twotower.data import Dataset
from twotower.model.heads import Head


@cache
def two_stage_log() -> Dataset:
    log = rated(1500)
    cities = pa.array(["Ulm" if row % 2 else "Bonn" for row in range(log.queries.num_rows)])
    return dataclasses.replace(log, queries=log.queries.append_column("city", cities))


def two_stage_model(head: Head | None = None, epochs: int = 3) -> TwoTower:
    model = TwoTower(
        Tower([Category("user", 8), Category("city", 4), Normalized("at")], [8]),
        Tower([Category("item", 8), Text("title", 4)], [8]),
    )
    head = CrossHead(count=1, layers=(8,)) if head is None else head
    tasks = (Retrieval(), Rating(target="stars", head=head))
    Trainer(epochs=epochs, batch_size=128, optimizer=AdamW(0.02), tasks=tasks).fit(model, two_stage_log())
    return model


def new_candidates(ids: list[int]) -> pa.Table:
    return pa.table({"item": ids, "title": [f"item number {one % 30}" for one in ids]})
