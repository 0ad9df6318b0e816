"""What every test has: registries of its own, examples that are the same on every run, workers forked when needed."""

from __future__ import annotations

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

settings.register_profile("twotower", deadline=None, derandomize=True)
settings.load_profile("twotower")
fork_workers()

REGISTRIES = (
    *(FEATURES, TOWERS, MODELS, LOSSES, HEADS, TASKS, INDEXES, STORES),
    *(METRICS, BASELINES, RATING_BASELINES, LOGGERS),
)


@pytest.fixture(autouse=True)
def _forgets_own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    for kinds in REGISTRIES:
        monkeypatch.setattr(kinds, "_classes", dict(kinds._classes))


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
