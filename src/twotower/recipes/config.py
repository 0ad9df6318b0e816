"""Configs: a TOML file that says which data, which model and which training; unknown keys are errors."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from twotower.data import builtin
from twotower.data.dataset import Dataset
from twotower.data.fingerprints import fingerprint
from twotower.data.given import given_parts, overlap
from twotower.data.log import Log, require_in_memory
from twotower.data.opening import stream_parquet
from twotower.data.simulation import simulated
from twotower.data.splits import ChosenRule, RandomSplit, SplitRule, choose_rule
from twotower.data.stream import ParquetLog
from twotower.data.streamed_splits import joint_fingerprint, split_log
from twotower.data.tables import from_tables
from twotower.errors import ConfigError
from twotower.evaluation.baselines.names import check_baselines
from twotower.recipes.imports import import_modules, located
from twotower.recipes.loggers import LoggerSettings, in_folder, loggers_for
from twotower.recipes.mistakes import mistake, unknown_key
from twotower.recipes.model_config import ModelConfig
from twotower.recipes.overlay import overlay
from twotower.recipes.parts import GIVEN, Parts, SplitConfig
from twotower.recipes.recipe import Recipe, RecipeName, recipe
from twotower.recipes.space import Space, parse_space
from twotower.tasks import TASKS
from twotower.training.settings import MONITOR
from twotower.training.trainer import Trainer, trainer_from_settings

__all__ = ["Config", "DataConfig", "ModelConfig", "SimulatedConfig", "SplitConfig", "config_of", "read_config"]

PATHS = ("interactions", "queries", "candidates", "test", "validation")
"""Keys of `[data]` that are paths."""


class SimulatedConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the simulated data; see `twotower.data.simulated`."""

    queries: int = 943
    candidates: int = 1682
    interactions: int = 100_000
    seed: int = 0


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which data: a built-in set by its `name`, or one's own tables.

    Attributes:
        name: A built-in data set, or what to call one's own.
        simulated: Sizes of the simulated data, where these are wanted.
        interactions: Path of a Parquet, CSV or JSON Lines file, of a folder of them, or a pattern such as
            `events/*.parquet`; likewise the next two.
        queries: Table of the queries.
        candidates: Table of the candidates.
        query_id: Column of the query ids.
        candidate_id: Column of the candidate ids.
        time: Column of the times.
        weight: Column of the weights.
        title: Column of the candidates that shows one to people; default: one whose name holds `title` or `name`.
        unknown_candidates: `refuse` or `drop` events whose candidate is not in the table.
        delimiter: What stands between the cells of CSV files; default: told from the header of each.
        stream: Leave the interactions on disk, in Parquet, and train on them piece by piece.
        test: The events to measure on, in a table of their own; left out: cut from the interactions.
        validation: Likewise those that say which epoch is best.
    """

    name: str = "data"
    simulated: SimulatedConfig | None = None
    interactions: str | None = None
    queries: str | None = None
    candidates: str | None = None
    query_id: str | None = None
    candidate_id: str | None = None
    time: str | None = None
    weight: str | None = None
    title: str | None = None
    unknown_candidates: Literal["refuse", "drop"] = "refuse"
    delimiter: str | None = None
    stream: bool = False
    test: str | None = None
    validation: str | None = None

    @property
    def paths(self) -> dict[str, str]:
        """Where the tables lie, by key."""
        return {name: path for name in PATHS if (path := getattr(self, name)) is not None}

    @property
    def is_builtin(self) -> bool:
        """Whether it is no log of one's own."""
        return self.interactions is None

    def load(self) -> Dataset:
        """Reads and checks the interactions.

        Raises:
            ConfigError: Neither a built-in name nor tables with their id columns are given, or they are to be streamed.
            DataError: The tables cannot be used.
            DataUnavailableError: The built-in data set cannot be had.
        """
        if self.stream:
            raise ConfigError("[data] stream = true; expected data that fits in memory here")
        self._check_given()
        if self.interactions is None:
            return self._load_builtin()
        if self.simulated is not None:
            raise ConfigError("[data] has interactions and [data.simulated]; expected one of them")
        return from_tables(self.interactions, **self._tables())

    def log(self) -> Log:
        """Reads and checks the interactions, or opens those that are to be streamed.

        Raises:
            ConfigError: As `load` and `open`.
            DataError: The tables cannot be used.
            DataUnavailableError: The built-in data set cannot be had.
        """
        return self.open() if self.stream else self.load()

    def given(self, train: Log) -> tuple[Log, dict[str, Dataset]]:
        """Train, and the parts that are in tables of their own, over the same queries.

        Raises:
            DataError: A table cannot be used.
        """
        named = {"test": self.test, "validation": self.validation}
        sources = {part: path for part, path in named.items() if path is not None}
        if isinstance(train, ParquetLog):
            read = {part: train.part(path, delimiter=self.delimiter) for part, path in sources.items()}
            return train, read
        own = self.queries is None
        train = require_in_memory(train, "a given part", "a log in memory or a ParquetLog")
        return given_parts(
            train,
            sources,
            own_queries=own,
            unknown_candidates=self.unknown_candidates,
            delimiter=self.delimiter,
        )

    def open(self) -> ParquetLog:
        """Opens and checks the log that is streamed.

        Raises:
            ConfigError: Its path or the name of an id column is missing.
            DataError: The tables cannot be used.
        """
        if self.interactions is None:
            raise ConfigError("[data] stream = true without interactions; expected the path of a log in Parquet")
        self._check_given()
        return stream_parquet(self.interactions, **self._tables())

    def _check_given(self) -> None:
        if self.validation is not None and self.test is None:
            raise ConfigError("[data] has validation without test; expected both, test alone, or neither")

    def _load_builtin(self) -> Dataset:
        default = DataConfig()
        names = [name for name in self.__struct_fields__ if name not in ("name", "simulated", "interactions")]
        if stray := [name for name in names if getattr(self, name) != getattr(default, name)]:
            raise ConfigError(f"[data] has {stray[0]} and no interactions; expected the path of your log")
        if self.simulated is not None:
            if self.name not in ("data", "simulated"):
                raise ConfigError(f'[data] name = "{self.name}" with [data.simulated]; expected name = "simulated"')
            return simulated(**msgspec.structs.asdict(self.simulated))
        if self.name == default.name:
            raise ConfigError(
                f"[data] names no data; expected interactions = PATH of your log, "
                f"or name = one of {', '.join(builtin.NAMES)}"
            )
        return builtin.load(self.name)

    def _tables(self) -> dict[str, Any]:
        """The arguments that `from_tables` and `stream_parquet` share."""
        if self.query_id is None or self.candidate_id is None:
            missing = "query_id" if self.query_id is None else "candidate_id"
            raise ConfigError(f"[data] has no {missing}; expected the name of that column of {self.interactions}")
        columns = ("query_id", "candidate_id", "time", "weight")
        shared = (*columns, "queries", "candidates", "unknown_candidates", "delimiter", "name")
        return {name: getattr(self, name) for name in shared}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that `twotower train`, `study` and `tune` need to know.

    Attributes:
        data: Which data.
        split: How it is cut.
        recipe: `tuned` or `tutorial`: how to train, but for what `training` says.
        model: Which model.
        training: Settings of `Trainer` that replace the recipe's; of a table without a `kind` only the keys it names.
        tasks: What to train for, each a table with its `kind`: `retrieval`, `rating`, `ranking`, or one of your own;
            none given is retrieval.
        tune: Keys of `model` and `training` that `twotower tune` may change, each with its range.
        variants: Named changes of this config, which `twotower study` compares.
        baselines: Which baselines are measured beside models: `all`, `none`, or a list of names.
        loggers: What each training is logged to: tables with the `kind` of a logger and its arguments.
        imports: Modules with parts of one's own, imported when the file is read: names of files or packages in its
            folder or on `sys.path`.
    """

    data: DataConfig = DataConfig(name="simulated")
    split: SplitConfig = SplitConfig()
    recipe: RecipeName = "tuned"
    model: ModelConfig = ModelConfig()
    training: dict[str, Any] = {}
    tasks: list[dict[str, Any]] = []
    tune: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    baselines: tuple[str, ...] | Literal["all", "none"] = "all"
    loggers: tuple[LoggerSettings, ...] = ()
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.space()
        for task in self.tasks:
            TASKS.make(task)
        check_baselines(self.baselines)

    def space(self) -> Space:
        """What `tune` says, read and checked.

        Raises:
            ConfigError: It has an unknown key or what is no range.
        """
        return parse_space(self.tune, {"model": ModelConfig.__struct_fields__, "training": Trainer.__struct_fields__})

    def parts(self, data: Dataset | None = None) -> Parts:
        """Reads the data and cuts it: by the rule of `split`, or where it has none by the one that suits the data.

        That is a random split for built-in data, as their published figures have it, and else what `choose_rule`
        says. Of a test part that is given, nothing is cut but a validation part from train, unless it is given too.

        Args:
            data: What `data.load` gives, where it is at hand.

        Raises:
            ConfigError: As `DataConfig.load` and `open`; or there is a `split` and nothing to cut.
            DataError: The tables cannot be used.
        """
        if self.split.on == "validation":
            return self._without_test(data)
        if self.split.rule is not None:
            self.split.parsed()  # refused before anything is read
        train = self.data.log() if data is None else data
        if self.data.test is not None:
            return self._given(train)
        pinned, reasons = self._pinned(train, "test")
        cut = split_log(train, pinned.parsed())
        kept = pinned.kept(cut.train)
        digits = cut.fingerprint if kept is cut.train else joint_fingerprint(kept, cut.test)
        rule = cut.rule if kept is cut.train else f"{cut.rule}, {self.split.train_share:.3g} of train"
        return Parts(kept, cut.test, None, pinned, rule, digits, reasons)

    def _without_test(self, data: Dataset | None) -> Parts:
        """Train and its validation part, in the place of test: what choices are made by."""
        on_test = msgspec.structs.replace(self.split, on="test")
        parts = msgspec.structs.replace(self, split=on_test).parts(data)
        fitted, validation = parts.fitted_and_validation()
        split = msgspec.structs.replace(parts.split, on="validation")
        said = "Measured on a validation part cut from train; test is for the last measurement."
        digits = f"{parts.fingerprint}-validation"
        return Parts(fitted, validation, validation, split, parts.rule, digits, (*parts.remarks, said))

    def rule_for(self, data: Log) -> SplitRule:
        """The rule of `split`, or where it has none the one that suits the data.

        Raises:
            ConfigError: The rule is none.
        """
        return self._pinned(data, "test")[0].parsed()

    def _pinned(self, data: Log, part: str) -> tuple[SplitConfig, tuple[str, ...]]:
        """`split` with its rule written out, and where that was left open, why it is this one."""
        if self.split.rule is not None:
            return self.split, ()
        chosen = self._chosen(data, part)
        return msgspec.structs.replace(self.split, rule=str(chosen.rule)), (chosen.reason,)

    def _chosen(self, data: Log, part: str) -> ChosenRule:
        if not self.data.is_builtin:
            return choose_rule(data, self.split.seed, part)
        rule = RandomSplit(seed=self.split.seed)
        return ChosenRule(
            rule,
            f"Split at random ({rule}), as TensorFlow Recommenders' tutorials do: train has choices made after those "
            f"of {part}, which no service has.",
        )

    def _given(self, train: Log) -> Parts:
        """The parts that the config names; validation is cut from train where it names none."""
        split, reasons = self.split, tuple[str, ...]()
        train, parts = self.data.given(train)
        validation = parts.get("validation")
        if validation is None:
            split, reasons = self._pinned(train, "validation")
        elif self.split != SplitConfig():
            raise ConfigError("[split] where [data] names test and validation; expected no [split]: nothing is to cut")
        shared = {part: overlap(events, train.events_of(events)) for part, events in parts.items()}
        warnings = tuple(
            f"{count:,} of the {len(parts[part]):,} events of {part} are in train too: its figures are too high."
            for part, count in shared.items()
            if count
        )
        train = split.kept(train)
        events = train.in_memory
        digits = (
            "-".join([*train.identity()[:1], fingerprint(parts["test"])])
            if events is None  # whose query table may lack queries of test
            else fingerprint(events, parts["test"])
        )
        return Parts(train, parts["test"], validation, split, GIVEN, digits, (*reasons, *warnings))

    def resolved_recipe(self, train: Log, validation: Dataset | None = None) -> Recipe:
        """The recipe for this much data, with what `training` replaces.

        Raises:
            ConfigError: `training` has an unknown key or a wrong value.
        """
        is_cut = validation is None or self.split.rule is not None  # where both are given, nothing says how
        rule = self.rule_for(train) if is_cut else None
        base = recipe(self.recipe, train, rule, validation)
        settings = msgspec.to_builtins(base.trainer)
        if unknown := sorted(set(self.training) - set(settings)):
            raise unknown_key(unknown[0], "training", list(settings))
        wanted = overlay(settings | {"monitor": self._monitor(base)}, self.training)
        if self.tasks:
            wanted["tasks"] = self.tasks
        try:
            trainer = trainer_from_settings(wanted)
        except msgspec.ValidationError as error:
            raise mistake(error, wanted, Trainer, table="training") from error
        return msgspec.structs.replace(base, trainer=trainer)

    def _monitor(self, base: Recipe) -> str:
        """The recipe's monitored metric, of the longest lists that `training` asks for where those are others.

        Without retrieval it is left to the first task.
        """
        if self.tasks and not any(TASKS.make(task).head is None for task in self.tasks):
            return MONITOR
        metric, _, length = base.trainer.monitor.rpartition("_")
        ks = self.training.get("ks")
        if not isinstance(ks, list) or not ks or not all(type(k) is int for k in ks) or int(length) in ks:
            return base.trainer.monitor
        return f"{metric}_{max(ks)}"


def read_config(path: Path) -> Config:
    """Reads a TOML config and imports the modules that it names.

    Paths in it are relative to its folder, and absolute in what is returned.

    Raises:
        ConfigError: The file is missing, is no TOML, or has an unknown key or a value of the wrong type; it says
            nothing of the data; or a module cannot be imported.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"config {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"config {path}: {error}") from error
    imports = _imported(raw.get("imports"), path.parent)  # first, as the rest may name what they register
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise mistake(error, raw, Config, where=f"config {path}: ") from error
    if "data" not in raw:
        raise ConfigError(
            f"config {path} has no [data]; expected interactions = PATH of your log and its columns, "
            f"or name = one of {', '.join(builtin.NAMES)}"
        )
    paths = {name: _absolute(path.parent / relative) for name, relative in config.data.paths.items()}
    data = msgspec.structs.replace(config.data, **paths)
    loggers = tuple(in_folder(settings, path.parent) for settings in config.loggers)
    loggers_for(loggers, "training")  # refused before anything is read
    return msgspec.structs.replace(config, data=data, loggers=loggers, imports=imports)


def _imported(names: Any, folder: Path) -> tuple[str, ...]:
    """Imports modules that a config names; what is no list of names is refused with the rest of the config."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    imports = located(names, folder)
    import_modules(imports)
    return imports


def config_of(source: str) -> Config:
    """The config of a built-in data set's name or of the path of a TOML file.

    Raises:
        ConfigError: It is neither.
    """
    if source.endswith(".toml"):
        return read_config(Path(source))
    if not builtin.is_name(source):
        raise ConfigError(
            f"{source!r} is neither a data set ({', '.join(builtin.NAMES)}, or {builtin.SIMULATED}) "
            f"nor the path of a .toml config"
        )
    return Config(data=DataConfig(name=source))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (a link stays one: it may lead elsewhere tomorrow)
