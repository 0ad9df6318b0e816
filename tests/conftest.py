from __future__ import annotations

import gc
import os
from itertools import chain, islice, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from commands import fork_workers
from toy import groups_log
from twotower.evaluation import BASELINES, METRICS
from twotower.evaluation.rating_baselines import RATING_BASELINES
from twotower.features.base import FEATURES
from twotower.model import HEADS, LOSSES
from twotower.model.tower_module import TOWERS
from twotower.model.two_tower import MODELS
from twotower.retrieval import INDEXES
from twotower.retrieval.stores import STORES
from twotower.tasks import TASKS
from twotower.training import LOGGERS

pytest_plugins = ["encoder_fixtures", "serving_fixtures", "store_fixtures", "warm_fixtures"]

settings.register_profile("twotower", deadline=None, derandomize=True)
settings.load_profile("twotower")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other, and compare bits
fork_workers()
gc.disable()  # collecting tests leaves little garbage; looking for it would take half of the time


LONG = {
    *("test_docs", "test_notebooks", "test_tutorials"),
    "test_faults_at_some_calls_of_a_command_lose_nothing",
    "test_two_threads_give_the_same_gradient_on_every_run",
    "test_an_update_of_a_bundle_with_onnx_towers_writes_them",
}
"""Modules and tests that take long, besides those that are marked `slow`."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts long tests first in the share of each worker, as one that starts last keeps the others waiting.

    At first, pytest-xdist gives each worker as many consecutive tests.
    """
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    long = [
        item
        for item in items
        if item.get_closest_marker("slow") or {item.path.stem, item.name.partition("[")[0]} & LONG
    ]
    chosen = set(long)
    short = iter([item for item in items if item not in chosen])
    edges = [round(len(items) * worker / workers) for worker in range(workers + 1)]
    shares = [long[worker::workers] for worker in range(workers)]
    for share, (first, last) in zip(shares, pairwise(edges), strict=True):
        share += islice(short, max(0, last - first - len(share)))
    items[:] = [*chain(*shares), *short]


def pytest_collection_finish() -> None:
    """Garbage is collected again, but not among modules and tests; forked processes share their memory."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nothing stays alive until the process ends, which some libraries report as a leak."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _forgets_own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    of_models = FEATURES, TOWERS, MODELS, LOSSES, HEADS, TASKS, INDEXES, STORES
    for kinds in (*of_models, METRICS, BASELINES, RATING_BASELINES, LOGGERS):
        monkeypatch.setattr(kinds, "_classes", dict(kinds._classes))


@pytest.fixture
def movielens_home() -> Path:
    """The folder that holds the real MovieLens 100K."""
    home = os.environ.get("TWOTOWER_DATA_HOME")
    if not home or not (Path(home) / "ml-100k").is_dir():
        pytest.skip("needs the real MovieLens 100K: set TWOTOWER_DATA_HOME to a folder that holds ml-100k")
    return Path(home)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TWOTOWER_DATA_HOME in which nothing lies yet."""
    home = tmp_path / "home"
    monkeypatch.setenv("TWOTOWER_DATA_HOME", str(home))
    return home


TUNED_TOML = """
[data]
interactions = "log.parquet"
query_id = "user"
candidate_id = "item"
time = "at"
[split]
rule = "random:0.2"
[model]
inputs = "tutorial"
layers = [8]
dim = 8
[training]
monitor = "all.top_5"
epochs = 5
[tune]
model.layers = { choices = [[8], [16, 8]] }
model.dim = { low = 4, high = 16, step = 4 }
training.optimizer.learning_rate = { low = 0.0001, high = 0.05, log = true }
"""


@pytest.fixture(scope="session")
def toy_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config with a small space, beside its log; every event has a time of its own."""
    folder = tmp_path_factory.mktemp("toy")
    log = groups_log(events=1500, queries=30, candidates=40)
    pq.write_table(
        pa.table({"user": log.query_index, "item": log.candidate_index, "at": log.times}), folder / "log.parquet"
    )
    (folder / "config.toml").write_text(TUNED_TOML)
    return folder / "config.toml"
