"""The plan of a study: variants of a config, each trained on every split with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import msgspec

from twotower.errors import ConfigError
from twotower.experiments.results import Variant
from twotower.recipes.config import Config
from twotower.recipes.mistakes import mistake
from twotower.recipes.overlay import Settings, overlay

LAYERS, TRAIN_SHARE = "model.layers", "split.train_share"


class Planned(msgspec.Struct, frozen=True):
    """One model to train.

    Attributes:
        variant: Number of its variant.
        config: Its config, with both seeds set.
        label: Name shown while it runs.
    """

    variant: int
    config: Config
    label: str


class StudyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a study compares.

    Attributes:
        config: The settings that all variants share.
        variants: The variants to compare.
        split_seeds: Seeds of the random split; every variant is trained on each split.
        seeds: Training seeds; every variant is trained with each.
        workers: Number of processes that share the cores.
    """

    config: Config
    variants: list[Variant]
    split_seeds: list[int]
    seeds: list[int]
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("variants", "split_seeds", "seeds"):
            values = getattr(self, name)
            if not values or any(value in values[:number] for number, value in enumerate(values)):
                raise ConfigError(f"{name} = {values}; expected at least one, all different")

    def runs(self) -> Iterator[Planned]:
        """Every variant with every split seed and seed, variant by variant.

        Raises:
            ConfigError: A variant does not fit the config; the message names it.
        """
        for number, variant in enumerate(self.variants):
            try:
                config = changed(self.config, variant.values)
            except ConfigError as error:
                raise ConfigError(f"variant {variant.name}: {error}") from error
            for split_seed, seed in product(self.split_seeds, self.seeds):
                label = variant.name
                label += f", split {split_seed}" if len(self.split_seeds) > 1 else ""
                label += f", seed {seed}" if len(self.seeds) > 1 else ""
                yield Planned(number, changed(config, {"split.seed": split_seed, "training.seed": seed}), label)


def changed(config: Config, change: Mapping[str, Any]) -> Config:
    """The config with a change applied by `overlay`; keys may be dotted.

    Raises:
        ConfigError: The config has no such key, or the value is not valid there.

    Example:
        >>> changed(Config(), {"model.dim": 16}).model.dim
        16
    """
    settings = overlay(msgspec.to_builtins(config), change)
    try:
        return msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        raise mistake(error, settings, Config) from error


def grid(vary: Mapping[str, Sequence[Any]], named: Mapping[str, Settings] | None = None) -> list[Variant]:
    """A variant for every combination of values, for each named variant if there are any.

    Args:
        vary: Values by dotted key.
        named: The changes of the named variants, by name.

    Example:
        >>> [variant.name for variant in grid({"model.layers": [[32], [64, 32]], "model.dim": [16]})]
        ['[32], dim 16', '[64, 32], dim 16']
    """
    points = [dict(zip(vary, values, strict=True)) for values in product(*vary.values())]
    bases: dict[str, Settings] = {"": {}} if not named else dict(named)
    return [
        Variant(", ".join(filter(None, [name, _label(point)])) or "the config", {**flat(base), **point})
        for name, base in bases.items()
        for point in points
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens settings to dotted keys; tables with a `kind` stay whole.

    Example:
        >>> flat({"model": {"dim": 64}, "training": {"loss": {"kind": "full_softmax"}}})
        {'model.dim': 64, 'training.loss': {'kind': 'full_softmax'}}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value and "kind" not in value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def shown(value: object) -> str:
    """A value as reports show it: `[64, 32]`, `0.00312`, `in_batch_softmax mask_known=true`."""
    if isinstance(value, dict):
        kind = [str(value["kind"])] if "kind" in value else []
        return " ".join([*kind, *(f"{name}={shown(inner)}" for name, inner in value.items() if name != "kind")])
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().replace(",", ", ")


def _label(point: Mapping[str, Any]) -> str:
    names = {LAYERS: "", TRAIN_SHARE: "train share "}
    return ", ".join(
        names.get(key, f"{key.rpartition('.')[2].replace('_', ' ')} ") + shown(value) for key, value in point.items()
    )
