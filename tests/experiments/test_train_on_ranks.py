"""Ranks whose disks hold different things: the first decides what is done already, and differences are refused."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rank_processes import on_ranks, without_errors
from twotower import Retriever
from twotower.data import stream_parquet
from twotower.errors import ConfigError, TwoTowerError
from twotower.experiments import run as run_module
from twotower.experiments import train as train_module
from twotower.experiments.start import Before
from twotower.experiments.train import help_train, train
from twotower.ranks import ranks_of_process
from twotower.recipes.config import Config
from twotower.retrieval.continued import moments_of
from twotower.training.moments import Moments
from warm_fixtures import NEW, OLD, config_of, run_here

SIZE = 2


def trained(config: Config, folder: Path, before: str | None = None, what: str = "everything") -> str | None:
    """Trains on all ranks, each with a disk of its own; gives the version of the first one's bundle."""
    ranks = ranks_of_process()
    own = folder / f"disk-{ranks.rank}"
    start = None if before is None else Before(own / before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "run_jobs", run_here)
        if what == "the model alone":
            patch.setattr(train_module, "bundle_of", refused)
        if what == "the bundle alone":
            patch.setattr(run_module, "train_by_recipe", refused)
        if not ranks.is_first:
            help_train(config, own / "bundle", start)
            return None
        return train(config, own / "bundle", before=start).retriever.version


def refused(*_: object) -> None:
    raise TwoTowerError("not this time")


def trained_on_its_own_log(folder: Path) -> str | None:
    """The log is on each rank's own disk, too."""
    config = config_of(folder / f"disk-{ranks_of_process().rank}" / "log.parquet", IN_BATCH)
    return trained(msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, stream=True)), folder)


IN_BATCH: dict[str, Any] = {"loss": {"kind": "in_batch_softmax"}}


@pytest.fixture(scope="module")
def logs(warm_logs: dict[str, Path]) -> dict[str, Path]:
    return warm_logs


def test_a_model_that_only_the_first_rank_has_finished_is_not_trained_again(
    logs: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(logs[OLD])
    error, helped = on_ranks(SIZE, meeting(tmp_path), (trained, config, tmp_path, None, "the model alone"))[0]
    assert str(error) == "not this time"
    assert helped is None
    assert not (tmp_path / "disk-1").exists()
    found = on_ranks(SIZE, meeting(tmp_path), (trained, config, tmp_path, None, "the bundle alone"))[0]
    assert without_errors(found) == [Retriever.load(tmp_path / "disk-0" / "bundle").version, None]


def test_a_log_that_is_sorted_on_the_first_rank_alone_gives_the_same_model(
    logs: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("duckdb")
    for which, is_sorted in (("neither", False), ("first", True)):
        for rank in range(SIZE):
            path = tmp_path / which / f"disk-{rank}" / "log.parquet"
            path.parent.mkdir(parents=True)
            shutil.copy(logs[OLD], path)
            if is_sorted and rank == 0:
                stream_parquet(path, query_id="user_id", candidate_id="movie_id", time="timestamp").sorted_events()
                assert (path.parent / "_twotower").is_dir()
        without_errors(on_ranks(SIZE, meeting(tmp_path), (trained_on_its_own_log, tmp_path / which))[0])
    bundles = [Retriever.load(tmp_path / which / "disk-0" / "bundle") for which in ("neither", "first")]
    assert bundles[0].details.towers == bundles[1].details.towers


@pytest.mark.parametrize("lacks", ["the moments", "the version"])
def test_ranks_that_go_on_from_different_things_are_refused(lacks: str, logs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "run_jobs", run_here)
        train(config_of(logs[OLD]), tmp_path / "disk-0" / "before")
        shutil.copytree(tmp_path / "disk-0", tmp_path / "disk-1")
        if lacks == "the moments":
            moments_of(tmp_path / "disk-1" / "before").unlink()
        else:
            train(config_of(logs[OLD], {"epochs": 1}), tmp_path / "disk-1" / "before")
    errors = on_ranks(SIZE, meeting(tmp_path), (trained, config_of(logs[NEW]), tmp_path, "before"))[0]
    said = "whether the optimizer's state is beside it False and True" if lacks == "the moments" else "the version of"
    for error in errors:
        assert isinstance(error, ConfigError)
        assert f"rank 1 and rank 0 differ in {said}" in str(error)


def meeting(folder: Path) -> Path:
    """A new folder where processes find each other."""
    return Path(tempfile.mkdtemp(dir=folder))


def test_sharded_tables_are_continued_with_their_moments(logs: dict[str, Path], tmp_path: Path) -> None:
    sharded = {"sharding": "always", "loss": {"kind": "in_batch_softmax"}}
    without_errors(on_ranks(SIZE, meeting(tmp_path), (trained, config_of(logs[OLD], sharded), tmp_path))[0])
    (tmp_path / "disk-0" / "bundle").rename(tmp_path / "disk-0" / "before")
    moments_of(tmp_path / "disk-0" / "bundle").rename(moments_of(tmp_path / "disk-0" / "before"))
    shutil.copytree(tmp_path / "disk-0", tmp_path / "disk-1")
    again = trained, config_of(logs[NEW], sharded), tmp_path, "before"
    version, _ = without_errors(on_ranks(SIZE, meeting(tmp_path), again)[0])
    bundle = Retriever.load(tmp_path / "disk-0" / "bundle")
    assert bundle.version == version
    kept, before = (Moments.load(moments_of(tmp_path / "disk-0" / name)) for name in ("bundle", "before"))
    assert kept.towers == bundle.details.towers
    for name, weights in bundle.model.named_parameters():
        assert kept.tensors[name]["exp_avg_sq"].shape == weights.shape
    known = "candidate.features.0.table"
    assert len(kept.tensors[known]["exp_avg"]) > len(before.tensors[known]["exp_avg"])
    assert kept.tensors[known]["step"] > before.tensors[known]["step"]
