"""The default search space, for configs without `[tune]`: the settings that matter on most logs."""

from __future__ import annotations

from typing import Any

import msgspec

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.model.losses import LOSSES, BuiltInLoss, FullSoftmax, InBatchSoftmax
from twotower.recipes.config import Config
from twotower.recipes.overlay import Settings, value_at
from twotower.recipes.recipe import FULL_SOFTMAX_CATALOGUE
from twotower.recipes.space import Choices, Interval, Space

STACKS = ([32], [64], [64, 32], [128, 64], [256, 64], [128, 64, 32], [256, 128, 64])
"""Depth and widths of the layers are drawn together, since the value of another layer depends on the widths."""


def default_space(base: Config, train: Log) -> Space:
    """A space over layers, embeddings, activation, dropout, temperature, inputs, optimizer, batch size and loss.

    Every range includes the value of `base`; those of learning rate and temperature are centred near it.

    Args:
        base: A complete config.
        train: The training split.
    """
    settings = msgspec.to_builtins(base)
    rate = value_at(settings, "training.optimizer.learning_rate")
    temperature = value_at(settings, "model.temperature")
    space: Space = {
        "model.layers": _choices(settings, "model.layers", *STACKS),
        "model.activation": _choices(settings, "model.activation", "relu", "gelu", "silu"),
        "model.input_dropout": _choices(settings, "model.input_dropout", 0.0, 0.1, 0.2, 0.3),
        "model.dropout": _choices(settings, "model.dropout", 0.0, 0.1, 0.2, 0.3),
        "model.temperature": Interval(low=temperature / 5, high=temperature * 4, log=True),
        "training.optimizer.learning_rate": Interval(low=rate / 8, high=rate * 6, log=True),
        "training.optimizer.weight_decay": _choices(settings, "training.optimizer.weight_decay", 0.0, 0.01, 0.05, 0.2),
        "training.batch_size": _choices(settings, "training.batch_size", 256, 512, 1024, 2048),
        "training.loss": Choices(_losses(base.training["loss"], train)),
    }
    if not (base.model.query and base.model.candidate):
        if not base.model.share_items:  # with shared items, dim is the last layer
            space["model.dim"] = _choices(settings, "model.dim", 16, 32, 64)
        space["model.inputs"] = _choices(settings, "model.inputs", "all", "log")
    return space


def searched_by_recipe(config: Config, train: Log, validation: Dataset | None) -> Space:
    """What `twotower train` would search with this config: the length of the schedule, and whether the id is read."""
    recipe = config.resolved_recipe(train, validation)
    space: Space = {}
    if lengths := config.lengths(recipe):
        own = recipe.trainer.epochs
        space["training.epochs"] = Choices([*([] if own in lengths else [own]), *lengths])
    if any("read_id" in choice.model for choice in config.model.choices(recipe)):
        space["model.read_id"] = Choices([False, True])
    return space


def _choices(settings: Settings, key: str, *values: Any) -> Choices:
    own = value_at(settings, key)
    return Choices([*([] if own in values else [own]), *values])


def _losses(settings: dict[str, Any], train: Log) -> list[dict[str, Any]]:
    """The config's own loss and others that suit the catalogue's size, each without its default settings."""
    own = LOSSES.make(settings)
    small = train.candidates.num_rows <= FULL_SOFTMAX_CATALOGUE
    base = own if isinstance(own, InBatchSoftmax) else InBatchSoftmax()
    in_batch = [
        InBatchSoftmax(mask_known=known, draw_probability=base.draw_probability, uniform=base.uniform)
        for known in (False, True)
    ]
    others: list[BuiltInLoss] = [*([FullSoftmax()] if small else []), *in_batch]
    shortest = _shortest(own) if isinstance(own, BuiltInLoss) else settings
    return [shortest, *(_shortest(other) for other in others if other != own)]


def _shortest(loss: BuiltInLoss) -> dict[str, Any]:
    default = msgspec.to_builtins(type(loss)())
    settings: dict[str, Any] = msgspec.to_builtins(loss)
    return {name: value for name, value in settings.items() if name == "kind" or value != default[name]}
