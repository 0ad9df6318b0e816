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
from twotower.data.given import overlap
from twotower.data.log import Log
from twotower.data.splits import ChosenRule, RandomSplit, SplitRule, choose_rule
from twotower.data.streamed_splits import joint_fingerprint, split_log
from twotower.errors import ConfigError
from twotower.evaluation.baselines.names import check_baselines
from twotower.model.rerank import Rerank
from twotower.recipes.data_config import DataConfig, SimulatedConfig
from twotower.recipes.feature_paths import features_in_folder
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
        rerank: How many retrieved candidates a bundle re-ranks, and by which task (`by`, where there are several):
            `rerank = {n = 200}`. It needs `retrieval` and a task with a head among `tasks`.
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
    rerank: Rerank | None = None
    tune: dict[str, Any] = {}
    variants: dict[str, dict[str, Any]] = {}
    baselines: tuple[str, ...] | Literal["all", "none"] = "all"
    loggers: tuple[LoggerSettings, ...] = ()
    imports: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.space()
        tasks = [TASKS.make(task) for task in self.tasks]
        if self.rerank is not None:
            if all(task.head is not None for task in tasks):
                raise ConfigError("rerank: there is no [[tasks]] of retrieval; expected it and a rating or ranking")
            self.rerank.resolved(task.title for task in tasks if task.head is not None)
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
    raw |= {name: features_in_folder(raw[name], path.parent) for name in ("model", "variants", "tune") if name in raw}
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
