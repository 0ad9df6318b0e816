from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from toy import log_of
from twotower.errors import ConfigError
from twotower.features import Category, Normalized
from twotower.model import Tower, TwoTower
from twotower.training import Adagrad, AdamW, Constant, Cosine


def trained(optimizer: Adagrad | AdamW, gradients: list[float], start: float = 1.0) -> float:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, start)
    stepper = optimizer.build(layer)
    for gradient in gradients:
        layer.weight.grad = torch.tensor([[gradient]])
        stepper.step()
    return layer.weight.item()


def test_adagrad_is_tensorflows() -> None:
    weight, accumulator = 1.0, 0.1
    for gradient in (0.5, -2.0, 1e-4):
        accumulator += gradient**2
        weight -= 0.1 * gradient / (math.sqrt(accumulator) + 1e-7)
    assert trained(Adagrad(), [0.5, -2.0, 1e-4]) == pytest.approx(weight, rel=1e-6)


def test_epsilon_of_adagrad_is_outside_the_root() -> None:
    # With a large epsilon the two readings differ: 1 / (√1 + 3) against 1 / √(1 + 3).
    moved = 1.0 - trained(Adagrad(1.0, initial_accumulator=0.0, epsilon=3.0), [1.0])
    assert moved == pytest.approx(1 / 4)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    assert trained(AdamW(0.1, weight_decay=0.5), [0.0]) == pytest.approx(1.0 * (1 - 0.1 * 0.5))
    assert trained(AdamW(0.1, weight_decay=0.0), [3.0]) == pytest.approx(0.9, rel=1e-5)


@pytest.mark.parametrize("optimizer", [Adagrad, AdamW])
def test_everything_decays_but_the_temperature(optimizer: type[Adagrad | AdamW]) -> None:
    data = log_of([(0, 0), (1, 1)], queries=2, candidates=2)
    user, item = Tower([Category("user", 4), Normalized("at")], [3]), Tower([Category("item", 4)], [3])
    model = TwoTower(user, item, learn_temperature=True).learn(data)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        name_of[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer(0.1, weight_decay=0.2).build(model).param_groups
        for parameter in group["params"]
    }
    assert found == dict.fromkeys(name_of.values(), (0.1, 0.2)) | {"log_temperature": (0.1, 0.0)}


def test_constant_warms_up_linearly() -> None:
    schedule = Constant(warmup=0.5)
    assert [schedule.factor(progress) for progress in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert Constant().factor(0.0) == 1.0


def test_cosine_goes_from_one_to_its_floor() -> None:
    assert Cosine().factor(0.0) == 1.0
    assert Cosine().factor(0.5) == pytest.approx(0.5)
    assert Cosine(floor=0.1).factor(1.0) == pytest.approx(0.1)
    assert Cosine(warmup=0.2).factor(0.1) == pytest.approx(0.5)
    falling = [Cosine(warmup=0.2).factor(progress) for progress in np.linspace(0.2, 1, 20)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adagrad(learning_rate=0),
        lambda: AdamW(learning_rate=float("inf")),
        lambda: AdamW(weight_decay=-1),
        lambda: Adagrad(weight_decay=float("nan")),
        lambda: AdamW(betas=(0.9, 1.0)),
        lambda: Constant(warmup=1.0),
        lambda: Cosine(floor=2),
    ],
)
def test_senseless_settings_are_refused(make: object) -> None:
    with pytest.raises(ConfigError, match="expected"):
        make()  # type: ignore[operator]


def test_settings_survive_json() -> None:
    for optimizer in (Adagrad(0.3), AdamW(0.01, weight_decay=0.1)):
        raw = msgspec.json.encode(optimizer)
        assert msgspec.json.decode(raw, type=Adagrad | AdamW) == optimizer
