"""What an optimiser knows, from one training to the next: for known ids as if there had been one training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interrupting import InterruptAfter
from toy import groups_log
from twotower import Adagrad, AdamW, Category, FullSoftmax, Moments, Tower, Trainer, TwoTower
from twotower.data import Dataset
from twotower.errors import ConfigError, SavedFolderError
from twotower.training import checkpoint as checkpoint_module

OPTIMIZERS: dict[str, AdamW | Adagrad] = {
    "AdamW": AdamW(0.02, weight_decay=0.1, tables="dense"),
    "lazy AdamW": AdamW(0.02, weight_decay=0.1, tables="lazy"),
    "Adagrad": Adagrad(0.1, tables="dense"),
    "lazy Adagrad": Adagrad(0.1, tables="lazy"),
}
TABLE = "query.features.0.table"


def small_model() -> TwoTower:
    """Without random numbers in training, and without biases: AdamW makes much of gradients that are but rounding."""
    return TwoTower(Tower([Category("user", 4, unknown_rate=0.0)]), Tower([Category("item", 4, unknown_rate=0.0)]))


def trainer_of(optimizer: Any, epochs: int, **more: Any) -> Trainer:
    """One step an epoch, so that the order of the events is nothing but rounding."""
    return Trainer(epochs=epochs, batch_size=1000, loss=FullSoftmax(reduction="sum"), optimizer=optimizer, **more)


@pytest.fixture(scope="module")
def parts() -> tuple[Dataset, Dataset]:
    """Two halves of a log; the second one has users that the first one lacks."""
    log = groups_log(400)
    return log.take(log.query_index < 25), log.take(np.arange(len(log)) >= 200)


def weights_of(model: TwoTower) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_two_trainings_with_moments_are_one(optimizer: Any, parts: tuple[Dataset, Dataset]) -> None:
    whole, kept, anew = small_model(), small_model(), small_model()
    trainer_of(optimizer, 6).fit(whole, parts[0])
    moments = Moments()
    for _ in range(2):
        trainer_of(optimizer, 3).fit(kept, parts[0], moments=moments)
        trainer_of(optimizer, 3).fit(anew, parts[0])
    expected = weights_of(whole)
    for name, tensor in weights_of(kept).items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-5, rtol=0)
    assert any((tensor - expected[name]).abs().max() > 1e-3 for name, tensor in weights_of(anew).items())


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_moments_of_known_ids_are_carried_over_and_new_ids_start_without(
    optimizer: Any, parts: tuple[Dataset, Dataset]
) -> None:
    model, moments = small_model(), Moments()
    trainer_of(optimizer, 2).fit(model, parts[0], moments=moments)
    before = moments.tensors[TABLE]
    moments.grow(model.grow(parts[1]))
    after, new = moments.tensors[TABLE], len(before["sum" if "sum" in before else "exp_avg"])
    initial = 0.1 if isinstance(optimizer, Adagrad) else 0.0
    for name, tensor in before.items():
        if tensor.dim():
            assert torch.equal(after[name][:new], tensor)
            assert len(after[name]) > new
            assert bool((after[name][new:] == initial).all())
        else:
            assert torch.equal(after[name], tensor)
    trainer_of(optimizer, 1).fit(model, parts[1], moments=moments)


@pytest.mark.parametrize("name", ["lazy AdamW", "Adagrad"])
def test_a_resumed_warm_start_equals_an_uninterrupted_one(
    name: str, parts: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_module, "EVERY_SECONDS", 0.0)

    def begun() -> tuple[TwoTower, Moments]:
        model, moments = small_model(), Moments()
        trainer_of(OPTIMIZERS[name], 2).fit(model, parts[0], moments=moments)
        moments.grow(model.grow(parts[1]))
        return model, moments

    (whole, all_moments), (broken, broken_moments), (resumed, moments) = begun(), begun(), begun()
    trainer = Trainer(epochs=4, batch_size=64, optimizer=OPTIMIZERS[name])
    trainer.fit(whole, parts[1], moments=all_moments)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(
            broken, parts[1], moments=broken_moments, checkpoint=tmp_path / "run", callbacks=[InterruptAfter(2)]
        )
    trainer.fit(resumed, parts[1], moments=moments, checkpoint=tmp_path / "run")
    expected = weights_of(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(resumed).items())
    for name, known in all_moments.tensors.items():
        assert all(torch.equal(moments.tensors[name][what], tensor) for what, tensor in known.items())


def test_moments_are_saved_and_read(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    model, moments = small_model(), Moments()
    optimizer = AdamW(0.02)
    trainer_of(optimizer, 1).fit(model, parts[0], moments=moments)
    file = tmp_path / "moments.safetensors"
    moments.save(file, towers="0123")
    moments.save(file, towers="4567")  # one of its kind is replaced
    found = Moments.load(file)
    assert (found.optimizer, found.towers) == (optimizer, "4567")
    assert found.tensors.keys() == moments.tensors.keys()
    for name, known in moments.tensors.items():
        assert all(torch.equal(found.tensors[name][what], tensor) for what, tensor in known.items())


def test_other_moments_are_refused(parts: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    model, moments = small_model(), Moments()
    with pytest.raises(ConfigError, match="no moments to save"):
        moments.save(tmp_path / "moments.safetensors")
    trainer_of(AdamW(), 1).fit(model, parts[0], moments=moments)
    with pytest.raises(ConfigError, match="moments of AdamW, but the optimizer is Adagrad"):
        trainer_of(Adagrad(), 1).fit(model, parts[0], moments=moments)
    model.grow(parts[1])
    with pytest.raises(ConfigError, match=r"moments of query.features.0.table have shape \[\d+, 4\].*moments.grow"):
        trainer_of(AdamW(), 1).fit(model, parts[1], moments=moments)
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(ConfigError, match="is not moments"):
        moments.save(other)
    with pytest.raises(SavedFolderError, match="holds no moments"):
        Moments.load(other)
    assert other.read_text() == "mine"
