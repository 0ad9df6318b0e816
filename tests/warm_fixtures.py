"""Fixtures of warm starts and updates: a log in two parts, a small config, runs in the test's own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from twotower import data
from twotower.experiments import train as train_module
from twotower.experiments.desks import ListDesk
from twotower.experiments.pool import Reporter
from twotower.experiments.run import Runner
from twotower.recipes.config import Config
from twotower.recipes.data_config import DataConfig
from twotower.recipes.model_config import ModelConfig
from twotower.recipes.parts import SplitConfig

OLD, NEW, ALL = "old", "new", "all"
FIRST = 700
"""Events of the earlier part."""


class _Silent(Reporter):
    def __init__(self) -> None:
        super().__init__(None, "here")  # type: ignore[arg-type]

    def _send(self, message: object) -> None:
        pass


def run_here(make: type[Runner], desk: ListDesk, *others: Any) -> None:
    """In place of a pool, whose processes take seconds to start."""
    del others
    runner = make()
    while job := desk.next_job():
        runner(job.spec, _Silent())


@pytest.fixture(scope="module")
def no_pool() -> Iterator[None]:
    """`train` performs its runs in the test's own process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "run_jobs", run_here)
        yield


@pytest.fixture(scope="session")
def warm_logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A log, its earlier events, and its later ones, among which are new users and new movies."""
    folder = tmp_path_factory.mktemp("logs")
    log = data.simulated(60, 40, 1000, seed=1)
    table = log.interactions.take(pa.array(np.argsort(log.times, kind="stable")))
    rows = np.arange(table.num_rows)
    late = (table["movie_id"].to_numpy() < 4) & (rows < FIRST)  # four movies that come later
    parts = {OLD: rows[(rows < FIRST) & ~late], NEW: rows[rows >= FIRST], ALL: rows[~late]}
    paths = {name: folder / f"{name}.parquet" for name in parts}
    for name, kept in parts.items():
        pq.write_table(table.take(pa.array(kept)), paths[name])
    return paths


def config_of(path: Path, training: dict[str, Any] | None = None, **model: Any) -> Config:
    return Config(
        data=DataConfig(interactions=str(path), query_id="user_id", candidate_id="movie_id", time="timestamp"),
        split=SplitConfig("time:0.2"),
        model=ModelConfig(layers=(8,), dim=8, read_id=True, **model),
        training={"epochs": 2, "early_stopping": None} | (training or {}),
        baselines=("popularity",),
    )
