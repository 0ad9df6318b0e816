"""Averaged weights: by hand, and in a training whose every step is watched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from toy import groups_log
from twotower.data import split_random
from twotower.errors import ConfigError
from twotower.evaluation import Validation
from twotower.features import Category
from twotower.model import FullSoftmax, Tower, TwoTower
from twotower.training import AdamW, Callback, EarlyStopping, Epoch, Trainer, TrainingState
from twotower.training.averaging import Average


def test_an_average_keeps_its_share_and_forgets_the_first_steps_soon() -> None:
    layer = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(layer.weight, 8.0)
    average = Average(layer, decay=0.3)
    expected = 8.0
    for step, (weight, kept) in enumerate([(1.0, 1 / 10), (2.0, 2 / 11), (-3.0, 3 / 12), (5.0, 0.3), (0.0, 0.3)]):
        nn.init.constant_(layer.weight, weight)
        average.update(step)
        expected = kept * expected + (1 - kept) * weight
        assert average.weights["weight"].item() == pytest.approx(expected, rel=1e-14)


def test_the_model_has_its_own_weights_again_afterwards_even_when_something_fails() -> None:
    layer = nn.Linear(2, 2)
    average = Average(layer, decay=0.5)
    before = layer.weight.detach().clone()
    nn.init.zeros_(layer.weight)
    with average.in_place():
        assert torch.equal(layer.weight, before)
    assert not layer.weight.any()
    with pytest.raises(RuntimeError), average.in_place():
        layer(torch.zeros(3))  # not of its width
    assert not layer.weight.any()


def normed_model() -> TwoTower:
    """A model whose towers keep moments of batch norms beside their parameters."""
    return TwoTower(Tower([Category("user", 8)], [8, 8], norm="batch"), Tower([Category("item", 8)], [8, 8]))


class Watch(Callback):
    """The mean of every step's weights by the plain recurrence, and what epochs end with."""

    def __init__(self) -> None:
        self.mean: dict[str, torch.Tensor] = {}
        self.steps = 0
        self.ends: list[dict[str, torch.Tensor]] = []

    def on_start(self, state: TrainingState) -> None:
        self.mean = {name: tensor.detach().clone() for name, tensor in state.model.named_parameters()}

    def on_step(self, state: TrainingState) -> None:
        kept = min(0.9, (1 + self.steps) / (10 + self.steps))
        for name, tensor in state.model.named_parameters():
            self.mean[name] = kept * self.mean[name] + (1 - kept) * tensor.detach()
        self.steps += 1

    def on_epoch(self, state: TrainingState, epoch: Epoch) -> None:
        self.ends.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})


def test_what_is_validated_kept_and_given_back_is_averaged_and_training_goes_on_without() -> None:
    train, test = split_random(groups_log(600))
    options = {"epochs": 4, "batch_size": 128, "optimizer": AdamW(0.05), "loss": FullSoftmax(), "monitor": "all.mrr"}
    plain = Trainer(**options).fit(normed_model(), train, test)  # type: ignore[arg-type]
    model, watch = normed_model(), Watch()
    history = Trainer(**options, average=0.9).fit(model, train, test, callbacks=[watch])  # type: ignore[arg-type]
    assert [epoch.loss for epoch in history.epochs] == [epoch.loss for epoch in plain.epochs]
    assert [epoch.validation for epoch in history.epochs] != [epoch.validation for epoch in plain.epochs]
    assert history.epochs[-1].validation == Validation(model, test, train).measure(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), watch.mean[name], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, watch.ends[-1][name]) for name, tensor in model.state_dict().items())


def test_the_best_of_the_averaged_weights_are_given_back_with_the_moments_they_had() -> None:
    train, test = split_random(groups_log(300, seed=2))
    model, watch = normed_model(), Watch()
    trainer = Trainer(
        epochs=60,
        batch_size=64,
        optimizer=AdamW(0.05),
        average=0.9,
        early_stopping=EarlyStopping(patience=4),
        monitor="all.mrr",
    )
    history = trainer.fit(model, train, test, callbacks=[watch])
    best = watch.ends[history.best.epoch - 1]
    assert history.best.epoch < len(history.epochs) < 60
    assert any("running_mean" in name for name in best)
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_average_has_to_move_and_to_keep_something(share: float) -> None:
    with pytest.raises(ConfigError, match="average="):
        Trainer(average=share)
