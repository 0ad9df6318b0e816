"""`complete`: a config with everything that its recipe decides for some data written out."""

from __future__ import annotations

from typing import Any

import msgspec

from twotower.data.dataset import Dataset
from twotower.data.log import Log
from twotower.recipes.config import Config
from twotower.recipes.overlay import without_none


def complete(config: Config, train: Log, validation: Dataset | None = None) -> Config:
    """The config with everything that its recipe decides for this data written out, without `tune` and `variants`.

    Args:
        config: The config.
        train: The training part.
        validation: The validation part if there is one; otherwise it is cut from train.

    Raises:
        ConfigError: `training` has an unknown key or an invalid value.
    """
    recipe = config.resolved_recipe(train, validation)
    training: dict[str, Any] = without_none(msgspec.to_builtins(recipe.trainer))
    return msgspec.structs.replace(
        config, model=config.model.completed(recipe), training=training, tune={}, variants={}
    )
