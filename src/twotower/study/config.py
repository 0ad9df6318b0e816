"""Configs: a TOML file that says which data, which model and which training; unknown keys are errors."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from twotower.data import builtin
from twotower.data.dataset import Dataset, from_tables
from twotower.data.opening import stream_parquet
from twotower.data.splits import SplitRule, fingerprint, parse_rule
from twotower.data.stream import ParquetLog
from twotower.errors import ConfigError
from twotower.features import Feature, feature_from_settings
from twotower.model.layers import Activation, Norm
from twotower.model.tower import Tower
from twotower.model.two_tower import TwoTower
from twotower.study.inputs import Inputs, Reach, candidate_inputs, query_inputs
from twotower.study.recipes import Recipe, RecipeName, recipe
from twotower.study.space import Space, parse_space
from twotower.training.trainer import Trainer


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which data: a built-in set by its `name`, or one's own tables.

    Attributes:
        name: A built-in data set, or what to call one's own.
        interactions: Path of a Parquet or CSV file or of a folder of Parquet files; likewise the next two.
        queries: Table of the queries.
        candidates: Table of the candidates.
        query_id: Column of the query ids.
        candidate_id: Column of the candidate ids.
        time: Column of the times.
        weight: Column of the weights.
        title: Column of the candidates that shows one to people; default: one whose name holds `title` or `name`.
        unknown_candidates: `refuse` or `drop` events whose candidate is not in the table.
        stream: Leave the interactions on disk, in Parquet, and train on them piece by piece; `twotower train` can.
        test: The events to measure on, in a table of their own; where the log is streamed, and only there.
        validation: Likewise those that say which epoch is best; may be left out.
    """

    name: str = "data"
    interactions: str | None = None
    queries: str | None = None
    candidates: str | None = None
    query_id: str | None = None
    candidate_id: str | None = None
    time: str | None = None
    weight: str | None = None
    title: str | None = None
    unknown_candidates: Literal["refuse", "drop"] = "refuse"
    stream: bool = False
    test: str | None = None
    validation: str | None = None

    def load(self) -> Dataset:
        """Reads and checks the data.

        Raises:
            ConfigError: Neither a built-in name nor tables with their id columns are given, or they are to be streamed.
            DataError: The tables cannot be used.
            DataUnavailableError: The built-in data set cannot be had.
        """
        if self.stream:
            raise ConfigError("[data] stream = true is for `twotower train`; expected data that fits in memory here")
        if self.test is not None or self.validation is not None:
            raise ConfigError("[data] has test or validation without stream = true; expected [split] to cut them off")
        if self.interactions is None:
            return builtin.load(self.name)
        return from_tables(self.interactions, **self._tables())

    def open(self) -> ParquetLog:
        """Opens and checks the log that is streamed.

        Raises:
            ConfigError: Its path, the name of an id column or the test part is missing.
            DataError: The tables cannot be used.
        """
        if self.interactions is None or self.test is None:
            missing = "interactions" if self.interactions is None else "test"
            raise ConfigError(
                f"[data] stream = true without {missing}; expected the path of the log and that of a test part, cut "
                f"off beforehand: a log that is streamed is not split"
            )
        return stream_parquet(self.interactions, **self._tables())

    def _tables(self) -> dict[str, Any]:
        """The arguments that `from_tables` and `stream_parquet` share."""
        if self.query_id is None or self.candidate_id is None:
            missing = "query_id" if self.query_id is None else "candidate_id"
            raise ConfigError(f"[data] has no {missing}; expected the name of that column of {self.interactions}")
        shared = ("query_id", "candidate_id", "time", "weight", "queries", "candidates", "unknown_candidates", "name")
        return {name: getattr(self, name) for name in shared}


class SplitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How data is cut.

    Attributes:
        rule: `random:SHARE`, `time:SHARE` or `last-out`.
        seed: Seed of a random split.
    """

    rule: str = "random:0.2"
    seed: int = 42

    def parsed(self) -> SplitRule:
        """The rule."""
        return parse_rule(self.rule, self.seed)


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model.

    Attributes:
        query: Features of the query tower; none given: what the data has, by `inputs`.
        candidate: Features of the candidate tower; likewise.
        inputs: Where no features are given: `all` that the data has; `log`, without histories and attributes;
            `tutorial`, id, time and words alone. Default: the recipe's.
        reach: Where no features are given: whether what is said of a query stops `before` the event, as it does
            when serving, or reads what lies `around` it. Default: `around` where the split leaves both sides in
            train, as a random one does.
        layers: Widths of the dense layers of both towers.
        dim: Numbers in each embedding of features that are not given.
        dropout: Share of the inputs of dense layers dropped in training; this and the next as in `Tower`.
        input_dropout: Share of what the features give dropped in training; default: the recipe's.
        activation: `relu`, `gelu`, `silu` or `tanh`; default: the recipe's.
        norm: `none`, `layer` or `batch`.
        residual: Add a hidden layer's input to what it gives.
        cross: How many cross layers.
        cross_rank: Rank of their matrices.
        cross_place: `before` the dense layers or `beside` them.
        normalize: Divide embeddings by their length.
        temperature: What scores are divided by; default: the recipe's.
        learn_temperature: Train the temperature, from that on.
        strangers: Share of training events whose query is taken for one that nobody knows; default: the recipe's
            where features stop before the event, none where they read what lies around it, as no service does.
    """

    query: list[dict[str, Any]] = []
    candidate: list[dict[str, Any]] = []
    inputs: Inputs | None = None
    reach: Reach | None = None
    layers: tuple[int, ...] = (64, 32)
    dim: int = 32
    dropout: float = 0.0
    input_dropout: float | None = None
    activation: Activation | None = None
    norm: Norm = "none"
    residual: bool = False
    cross: int = 0
    cross_rank: int | None = None
    cross_place: Literal["before", "beside"] = "before"
    normalize: bool = False
    temperature: float | None = None
    learn_temperature: bool = False
    strangers: float | None = None

    def build(self, data: Dataset | ParquetLog, recipe: Recipe) -> TwoTower:
        """The model for this data; it has learned nothing yet."""
        inputs, rate, reach = self.inputs or recipe.inputs, recipe.unknown_rate, self.reach or recipe.reach
        usual = recipe.strangers if reach == "before" else 0.0
        strangers = usual if self.strangers is None else self.strangers
        query = [feature_from_settings(feature) for feature in self.query]
        candidate = [feature_from_settings(feature) for feature in self.candidate]
        return TwoTower(
            self._tower(query or query_inputs(data, self.dim, rate, inputs, reach), recipe, strangers),
            self._tower(candidate or candidate_inputs(data, self.dim, rate, inputs), recipe, 0.0),
            normalize=self.normalize,
            temperature=recipe.temperature if self.temperature is None else self.temperature,
            learn_temperature=self.learn_temperature,
        )

    def _tower(self, features: list[Feature], recipe: Recipe, strangers: float) -> Tower:
        return Tower(
            features,
            self.layers,
            self.dropout,
            recipe.input_dropout if self.input_dropout is None else self.input_dropout,
            activation=self.activation or recipe.activation,
            norm=self.norm,
            residual=self.residual,
            cross=self.cross,
            cross_rank=self.cross_rank,
            cross_place=self.cross_place,
            strangers=strangers,
        )


@dataclass(frozen=True)
class Parts:
    """What a config's data is cut into.

    Attributes:
        train: The events to learn from, in memory or streamed.
        test: The events to measure on.
        validation: Those that say which epoch is best, where they were given; else they are cut from train.
        rule: How it was cut.
        fingerprint: Of train and test.
    """

    train: Dataset | ParquetLog
    test: Dataset
    validation: Dataset | None
    rule: str
    fingerprint: str


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `twotower train`, `study` and `tune` need to know.

    Attributes:
        data: Which data.
        split: How it is cut.
        recipe: `tuned` or `tutorial`: how to train, but for what `training` says.
        model: Which model.
        training: Settings of `Trainer` that replace the recipe's; of a table without a `kind` only the keys it names.
        tune: Keys of `model` and `training` that `twotower tune` may change, each with its range.
    """

    data: DataConfig = DataConfig(name="simulated")
    split: SplitConfig = SplitConfig()
    recipe: RecipeName = "tuned"
    model: ModelConfig = ModelConfig()
    training: dict[str, Any] = {}
    tune: dict[str, Any] = {}

    def __post_init__(self) -> None:
        self.space()

    def space(self) -> Space:
        """What `tune` says, read and checked.

        Raises:
            ConfigError: It has an unknown key or what is no range.
        """
        return parse_space(self.tune, {"model": ModelConfig.__struct_fields__, "training": Trainer.__struct_fields__})

    def parts(self) -> Parts:
        """Reads the data and cuts it, or opens what is streamed.

        Raises:
            ConfigError: As `DataConfig.load` and `open`; or a log that is streamed is to be split.
            DataError: The tables cannot be used.
        """
        data = self.data
        if not data.stream:
            split = self.split.parsed()(data.load())
            return Parts(split.train, split.test, None, split.rule, split.fingerprint)
        if self.split != SplitConfig():
            raise ConfigError("[split] with stream = true; expected [data] to name the test part, cut off beforehand")
        train = data.open()
        assert data.test is not None
        test = train.part(data.test)
        validation = None if data.validation is None else train.part(data.validation)
        return Parts(train, test, validation, "given", f"{train.fingerprint}-{fingerprint(test)}")

    def resolved_recipe(self, train: Dataset | ParquetLog, validation: Dataset | None = None) -> Recipe:
        """The recipe for this much data, with what `training` replaces.

        Raises:
            ConfigError: `training` has an unknown key or a wrong value.
        """
        base = recipe(self.recipe, train, self.split.parsed(), validation)
        settings = msgspec.to_builtins(base.trainer)
        if unknown := sorted(set(self.training) - set(settings)):
            raise ConfigError(f"[training] has the unknown key {unknown[0]!r}; expected {', '.join(settings)}")
        try:
            trainer = msgspec.convert(settings | _completed(self.training, settings), Trainer)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[training]: {error}") from error
        return msgspec.structs.replace(base, trainer=trainer)


def _completed(changes: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Changes in which a table that names no `kind` is that of `settings` with the keys it names changed."""
    return {
        key: settings[key] | value
        if isinstance(value, dict) and isinstance(settings[key], dict) and "kind" not in value
        else value
        for key, value in changes.items()
    }


def read_config(path: Path) -> Config:
    """Reads a TOML config; paths in it are relative to its folder.

    Raises:
        ConfigError: The file is missing, is no TOML, or has an unknown key or a value of the wrong type.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        config = msgspec.convert(raw, Config)
    except FileNotFoundError as error:
        raise ConfigError(f"config {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, msgspec.ValidationError) as error:
        raise ConfigError(f"config {path}: {error}") from error
    paths = {
        name: str(path.parent / value)
        for name in ("interactions", "queries", "candidates", "test", "validation")
        if (value := getattr(config.data, name)) is not None
    }
    return msgspec.structs.replace(config, data=msgspec.structs.replace(config.data, **paths))


def config_of(source: str) -> Config:
    """The config of a built-in data set's name or of the path of a TOML file.

    Raises:
        ConfigError: It is neither.
    """
    if source.endswith(".toml"):
        return read_config(Path(source))
    if source not in builtin.NAMES:
        raise ConfigError(
            f"{source!r} is neither a data set ({', '.join(builtin.NAMES)}) nor the path of a .toml config"
        )
    return Config(data=DataConfig(name=source))
