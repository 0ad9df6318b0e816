"""Ranks that share out the rows of tables: what a `Trainer` does, checkpoints, and the ordinary model in the end."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import distributed as dist

from rank_processes import Job, on_ranks, without_errors
from toy import groups_log
from twotower.data import Dataset, split_random
from twotower.errors import ConfigError, TwoTowerError
from twotower.evaluation import ModelScorer, Validation, measure
from twotower.features import Category, Hashed, History, Unified
from twotower.features.tables import embedding_table, sharded_tables
from twotower.model import Tower, TwoTower
from twotower.model.saving import load_model, model_version, save_model
from twotower.model.sharding import gather_tables, shards_of
from twotower.model.tower_module import features_of
from twotower.ranks import ALONE, Ranks, joined, ranks_of_process
from twotower.shards import Shard
from twotower.tensors import read_tensors, write_tensors
from twotower.training import AdamW, Callback, EarlyStopping, Trainer, TrainingState
from twotower.training import checkpoint as checkpoint_module
from twotower.training.moments import Moments
from twotower.training.settings import Sharding

TRAIN, TEST = split_random(groups_log(600))
GROWN = groups_log(640, queries=50, candidates=35)
OPTIMIZER = AdamW(0.02, tables="lazy")


def small_model() -> TwoTower:
    """No bias of candidates, whose gradient is 0: AdamW would make steps of its rounding."""
    history = History("item", by="user", time="at", length=4, dim=8, encoder="mean")
    return TwoTower(Tower([Category("user", 8), history], [8], dropout=0.2), Tower([Category("item", 8)]))


def trainer(sharding: Sharding = "always") -> Trainer:
    return Trainer(
        epochs=4,
        batch_size=64,
        optimizer=OPTIMIZER,
        clip_norm=1.0,
        early_stopping=EarlyStopping(patience=3),
        monitor="all.mrr",
        sharding=sharding,
    )


def numbers_of(model: TwoTower) -> dict[str, Any]:
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def trained(folder: Path, epochs: int | None, sharding: Sharding = "always") -> tuple[dict[str, Any], list[float]]:
    """Trains so many epochs, keeping a checkpoint after each; the weights, whole, and what validation measured."""
    checkpoint_module.EVERY_SECONDS = 0.0
    model = small_model()
    history = trainer(sharding).fit(model, TRAIN, TEST, checkpoint=folder, stop_after=epochs)
    assert bool(shards_of(model)) == (dist.is_initialized() and sharding == "always")
    gather_tables(model)
    return numbers_of(model), [scores.value("all.mrr") for _, scores in history.validated]


def by_halves(folder: Path) -> tuple[dict[str, Any], list[float]]:
    """Trains a part of the epochs, and then resumes."""
    trained(folder / "run", 2)
    if dist.get_rank() == 0:
        shutil.copytree(folder / "run", folder / "half")
    return trained(folder / "run", None)


def killed(folder: Path) -> None:
    """Trains until the second rank is killed in the middle of the third epoch."""
    checkpoint_module.EVERY_SECONDS = 0.0
    process = ranks_of_process().gather_messages(os.getpid())[1]

    class Kill(Callback):
        def on_step(self, state: TrainingState) -> None:
            if len(state.history.epochs) == 2 and state.step == 3:
                os.kill(process, signal.SIGKILL)

    trainer().fit(small_model(), TRAIN, TEST, checkpoint=folder, callbacks=[Kill()])


def saved(folder: Path) -> dict[str, Any]:
    """What a sharded model is as such, measured and saved, and made whole."""
    model = small_model()
    history = Trainer(epochs=1, batch_size=64, optimizer=OPTIMIZER, sharding="always").fit(model, TRAIN)
    held, count = sum(weights.numel() for weights in model.parameters()), model.parameter_count
    with joined(ranks_of_process()):
        scores = measure(ModelScorer(model), TEST, TRAIN).scores.all
        validated = Validation(model, TEST, TRAIN).measure(model).all
    manifest = save_model(model, folder)
    alone = ""
    try:
        model.embed_candidates(TRAIN.candidates) if dist.get_rank() == 0 else None
    except TwoTowerError as error:
        alone = str(error)
    version = model_version(model)
    gather_tables(model)
    return {
        "losses": [epoch.loss for epoch in history.epochs],
        "held": held,
        "count": count,
        "scores": scores,
        "validated": validated,
        "version": (version, manifest.details["version"], model_version(model)),
        "alone": alone,
        "weights": numbers_of(model),
    }


def halves_of_moments(folder: Path) -> dict[str, Any]:
    """Two trainings with moments: passed on as they are, through a file, and gathered; and what grows in between."""
    found: dict[str, Any] = {}
    for how in ("kept", "saved", "gathered"):
        model, moments = small_model(), Moments()
        for epochs in (1, 2):
            again = Trainer(epochs=epochs, batch_size=64, optimizer=OPTIMIZER, sharding="always", seed=epochs)
            again.fit(model, TRAIN, moments=moments)
            if how == "kept" or epochs == 2:
                continue
            if how == "saved":
                moments.save(folder / "moments", towers=model_version(model))
                moments = Moments.load(folder / "moments")
            refused = ""
            try:
                model.grow(GROWN)
            except ConfigError as error:
                refused = str(error)
            gather_tables(model)
            moments.grow(model.grow(GROWN if how == "gathered" else TRAIN))
            found["refused"] = refused
        held = {name: [*one.shape] for name, one in moments.tensors["query.features.0.table"].items()}
        try:
            moments.save(folder)
        except ConfigError as error:
            found["a folder"] = str(error)
        gather_tables(model)
        found[how], found[f"{how}, held"] = numbers_of(model), held
    return found


def made() -> tuple[list[int], dict[str, Any]]:
    """The rows that each rank holds of tables that features make, and all of them together."""
    query = Tower([Hashed("user", 99, 4), Unified(["user", "at"], 50, 4), History("item", "user", "at", dim=4)])
    model = TwoTower(query, Tower([Hashed("item", 9, query.width)]))
    with sharded_tables(ranks_of_process(), 200):
        model.learn(TRAIN, seed=5)
    held = [len(feature.table) for feature in features_of(query)]  # type: ignore[arg-type]
    gather_tables(model)
    return held, numbers_of(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of one process."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
        trained(folder / "alone", 1)
    (folder / "halves").mkdir()
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> dict[str, list[Any]]:
    """What each job gave on both ranks."""
    jobs: dict[str, Job] = {
        "replicated": (trained, folder / "replicated", None, "never"),
        "whole": (trained, folder / "whole", None),
        "halves": (by_halves, folder / "halves"),
        "resumed": (trained, folder / "alone", None),
        "saved": (saved, folder / "model"),
        "made": (made,),
        "moments": (halves_of_moments, folder),
    }
    found = on_ranks(2, folder, *jobs.values())
    return {name: without_errors(each) for name, each in zip(jobs, found, strict=True)}


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, rtol=1e-3, atol=1e-5, err_msg=name)


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found.keys() == expected.keys() and all((found[name] == expected[name]).all() for name in found)


def test_sharded_tables_end_where_replicated_ones_do(ranks: dict[str, list[Any]]) -> None:
    (expected, scores), _ = ranks["replicated"]
    for weights, own in ranks["whole"]:
        close(weights, expected)
        assert own == pytest.approx(scores, rel=1e-3)
    assert same(ranks["whole"][0][0], ranks["whole"][1][0])


def test_a_checkpoint_resumes_to_the_same_bits(ranks: dict[str, list[Any]]) -> None:
    assert same(ranks["halves"][0][0], ranks["whole"][0][0])


def test_a_checkpoint_resumes_with_any_number_of_ranks(
    ranks: dict[str, list[Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)
    expected = ranks["whole"][0][0]
    close(ranks["resumed"][0][0], expected)
    close(trained(folder / "halves" / "half", None)[0], expected)


def test_a_rank_killed_in_the_middle_costs_no_bit(ranks: dict[str, list[Any]], tmp_path: Path) -> None:
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
    (left,) = on_ranks(2, tmp_path / "first", (killed, tmp_path / "run"))
    assert isinstance(left[1], ProcessLookupError)
    (found,) = on_ranks(2, tmp_path / "second", (trained, tmp_path / "run", None))
    assert all(same(weights, ranks["whole"][0][0]) for weights, _ in without_errors(found))


def test_what_is_saved_is_the_ordinary_model(ranks: dict[str, list[Any]], folder: Path) -> None:
    first, second = ranks["saved"]
    model = load_model(folder / "model")
    assert same(numbers_of(model), first["weights"])
    assert same(second["weights"], first["weights"])
    assert {*first["version"], *second["version"]} == {model_version(model)}
    assert first["count"] == second["count"] == model.parameter_count
    assert max(first["held"], second["held"]) < model.parameter_count


def test_a_sharded_model_is_measured_by_all_ranks(ranks: dict[str, list[Any]], folder: Path) -> None:
    expected = measure(ModelScorer(load_model(folder / "model")), TEST, TRAIN).scores.all
    for one in ranks["saved"]:
        assert one["scores"] == pytest.approx(expected)
        assert one["validated"] == pytest.approx({name: expected[name] for name in one["validated"]})


def test_moments_of_sharded_tables_are_those_of_one_process(ranks: dict[str, list[Any]], folder: Path) -> None:
    expected, grown = (halves_alone(log) for log in (TRAIN, GROWN))
    for one in ranks["moments"]:
        assert same(one["kept"], one["saved"])
        close(one["kept"], expected)
        close(one["gathered"], grown)
        rows = len(expected["query.features.0.table"])
        assert len(grown["query.features.0.table"]) > rows
        assert one["kept, held"]["exp_avg"] in ([rows // 2, 8], [-(-rows // 2), 8])
        assert "gather_tables" in one["refused"]
        assert "is a folder; expected the file to write" in one["a folder"]
    kept = Moments.load(folder / "moments")
    assert kept.towers is not None
    assert {*kept.tensors} == {name for name, _ in small_model().learn(TRAIN).named_parameters()}
    assert kept.tensors["query.features.0.table"]["exp_avg"].shape == expected["query.features.0.table"].shape


def halves_alone(log: Dataset) -> dict[str, Any]:
    """Two trainings of one process, between which the model grows by a log."""
    model, moments = small_model(), Moments()
    for epochs in (1, 2):
        Trainer(epochs=epochs, batch_size=64, optimizer=OPTIMIZER, seed=epochs).fit(model, TRAIN, moments=moments)
        if epochs == 1:
            moments.grow(model.grow(log))
    return numbers_of(model)


def test_a_rank_that_looks_rows_up_alone_is_told_so(ranks: dict[str, list[Any]]) -> None:
    assert "gather_tables" in ranks["saved"][0]["alone"]


def test_tables_are_made_with_the_numbers_of_one_process(ranks: dict[str, list[Any]]) -> None:
    query = Tower([Hashed("user", 99, 4), Unified(["user", "at"], 50, 4), History("item", "user", "at", dim=4)])
    model = TwoTower(query, Tower([Hashed("item", 9, query.width)])).learn(TRAIN, seed=5)
    for held, weights in ranks["made"]:
        assert held[0] == 50
        assert held[1] == 25
        assert held[2] == 32  # 128 numbers are too few to be shared out
        assert same(weights, numbers_of(model))


def test_a_large_table_is_drawn_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twotower.shards.BLOCK_NUMBERS", 24)
    torch.manual_seed(3)
    whole = embedding_table(100, 4, zeros=5)
    for rank in range(3):
        torch.manual_seed(3)
        with sharded_tables(Ranks(rank, 3), 1):
            assert torch.equal(embedding_table(100, 4, zeros=5), whole[rank::3])


def test_files_of_tensors_are_those_of_safetensors(tmp_path: Path) -> None:
    tensors = {"b": torch.rand(5, 3), "a": torch.arange(4.0), "c": torch.tensor(7.0), "d": torch.rand(2, 2).double()}
    save_file(tensors, tmp_path / "theirs")
    write_tensors(tmp_path / "ours", tensors, ALONE, lambda name, _: Shard(5, ALONE) if name == "b" else None)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    found = read_tensors(tmp_path / "ours", ALONE, lambda *_: None, torch.device("cpu"))
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
