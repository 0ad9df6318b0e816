"""Configs: TOML files that define the data, the model and the training; unknown keys are errors."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

from twotower.data import builtin
from twotower.data.dataset import Dataset
from twotower.data.files import in_home, is_url
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
from twotower.recipes.parts import GIVEN_RULE, Parts, SplitConfig, limits_remark
from twotower.recipes.recipe import Recipe, RecipeName, recipe
from twotower.recipes.space import Space, parse_space
from twotower.recognition import not_this, what_is
from twotower.tasks import TASKS
from twotower.training.settings import MONITOR
from twotower.training.trainer import Trainer, trainer_from_settings

__all__ = ["Config", "DataConfig", "ModelConfig", "SimulatedConfig", "SplitConfig", "config_of", "read_config"]


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of `twotower train`, `study` and `tune`.

    Attributes:
        data: The data.
        split: How to split the data.
        recipe: `tuned` or `tutorial`: the defaults for everything that the config leaves open.
        model: The model.
        training: Settings of `Trainer` that replace the recipe's; a table without a `kind` replaces only the keys it
            names.
        tasks: What to train for, each a table with its `kind`: `retrieval`, `rating`, `ranking`, or your own; default:
            retrieval.
        rerank: How many retrieved candidates a bundle re-ranks, and by which task (`by`, if there are several):
            `rerank = {n = 200}`. It needs `retrieval` and a task with a head among `tasks`.
        tune: Keys of `model` and `training` that `twotower tune` may change, each with its range.
        variants: Named changes to this config that `twotower study` compares.
        baselines: Which baselines to measure along with the models: `all`, `none`, or a list of names.
        loggers: Where to log each training: tables with the `kind` of a logger and its arguments.
        imports: Modules with your own parts, imported when the file is read: files or packages in its folder or on
            `sys.path`.
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
                raise ConfigError("rerank: [[tasks]] has no retrieval; expected retrieval and a rating or ranking task")
            self.rerank.resolved(task.title for task in tasks if task.head is not None)
        check_baselines(self.baselines)

    def space(self) -> Space:
        """The search space in `tune`, parsed and checked.

        Raises:
            ConfigError: It has an unknown key or a value that is not a range.
        """
        return parse_space(self.tune, {"model": ModelConfig.__struct_fields__, "training": Trainer.__struct_fields__})

    def parts(self, data: Dataset | None = None) -> Parts:
        """Reads the data and splits it by the rule in `split` or, without one, by a rule that suits the data.

        That is a random split for built-in data, as in published results, and otherwise the result of `choose_rule`.
        If a test part is given, only a validation part is cut from train, unless that is given too.

        Args:
            data: The result of `data.load`, if already loaded.

        Raises:
            ConfigError: As `DataConfig.load` and `open`; or there is a `split` although all parts are given.
            DataError: The tables cannot be used.
        """
        if self.split.on == "validation":
            return self._without_test(data)
        if self.split.rule is not None:
            self.split.parsed()  # fail before reading any data
        train = self.data.log() if data is None else data
        if self.data.test is not None:
            return self._given(train)
        pinned, reasons = self._pinned(train, "test")
        cut = split_log(train, pinned.parsed())
        kept = pinned.kept(cut.train)
        digits = cut.fingerprint if kept is cut.train else joint_fingerprint(kept, cut.test)
        rule = cut.rule if kept is cut.train else f"{cut.rule}, {self.split.train_share:.3g} of train"
        return Parts(kept, cut.test, None, pinned, rule, digits, (*reasons, *limits_remark(cut.test)))

    def _without_test(self, data: Dataset | None) -> Parts:
        """Train, with its validation part in place of test, for making choices."""
        on_test = msgspec.structs.replace(self.split, on="test")
        parts = msgspec.structs.replace(self, split=on_test).parts(data)
        fitted, validation = parts.fitted_and_validation()
        split = msgspec.structs.replace(parts.split, on="validation")
        remark = "Measured on a validation part cut from train; test is reserved for the final measurement."
        digits = f"{parts.fingerprint}-validation"
        return Parts(fitted, validation, validation, split, parts.rule, digits, (*parts.remarks, remark))

    def rule_for(self, data: Log) -> SplitRule:
        """The rule in `split` or, without one, a rule that suits the data.

        Raises:
            ConfigError: The rule is invalid.
        """
        return self._pinned(data, "test")[0].parsed()

    def _pinned(self, data: Log, part: str) -> tuple[SplitConfig, tuple[str, ...]]:
        """`split` with its rule written out and, if it had none, the reason for this rule."""
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
            f"Split at random ({rule}), as in TensorFlow Recommenders' tutorials: train includes choices made "
            f"after those of {part}, which a live service would not have.",
        )

    def _given(self, train: Log) -> Parts:
        """The parts that the config names; without a validation part, it is cut from train."""
        split, reasons = self.split, tuple[str, ...]()
        train, parts = self.data.given(train)
        validation = parts.get("validation")
        if validation is None:
            split, reasons = self._pinned(train, "validation")
        elif self.split != SplitConfig():
            raise ConfigError("[data] names test and validation, so nothing is left to split; expected no [split]")
        shared = {part: overlap(events, train.events_of(events)) for part, events in parts.items()}
        warnings = tuple(
            f"{count:,} of the {len(parts[part]):,} events of {part} are in train too: its metrics are too high."
            for part, count in shared.items()
            if count
        )
        train = split.kept(train)
        events = train.in_memory
        digits = (
            "-".join([*train.identity()[:1], fingerprint(parts["test"])])
            if events is None  # a streamed log's query table may lack queries of test
            else fingerprint(events, parts["test"])
        )
        remarks = (*reasons, *limits_remark(parts["test"]), *warnings)
        return Parts(train, parts["test"], validation, split, GIVEN_RULE, digits, remarks)

    def resolved_recipe(self, train: Log, validation: Dataset | None = None) -> Recipe:
        """The recipe for this data, with the settings of `training`.

        Raises:
            ConfigError: `training` has an unknown key or an invalid value.
        """
        is_cut = validation is None or self.split.rule is not None  # given parts have no rule
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

    def lengths(self, recipe: Recipe) -> tuple[int, ...]:
        """Lengths of the schedule to compare, as numbers of epochs; empty if the config leaves no choice.

        Models without the default features, which read histories, keep the trainer's: others were not tried with them.
        """
        reads_histories = (self.model.inputs or recipe.inputs) == "all"
        is_open = not {"epochs", "schedule"} & set(self.training)
        return recipe.lengths if reads_histories and is_open else ()

    def _monitor(self, base: Recipe) -> str:
        """The recipe's monitored metric, at the largest of `training`'s `ks` if its own k is not among them.

        Without retrieval, the first task decides.
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

    Paths in the file are relative to its folder; in the result they are absolute.

    Raises:
        ConfigError: The file is missing, is not TOML, has an unknown key or a value of the wrong type, or has no
            `[data]`; or a module cannot be imported.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ConfigError(f"config {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"config {path}: {error}") from error
    imports = _imported(raw.get("imports"), path.parent)  # first, as the rest may name parts that they register
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
    paths = {
        name: given if is_url(given) else _absolute(path.parent / in_home(given))
        for name, given in config.data.paths.items()
    }
    data = msgspec.structs.replace(config.data, **paths)
    loggers = tuple(in_folder(settings, path.parent) for settings in config.loggers)
    loggers_for(loggers, "training")  # fail before reading any data
    return msgspec.structs.replace(config, data=data, loggers=loggers, imports=imports)


def _imported(names: Any, folder: Path) -> tuple[str, ...]:
    """Imports the modules that a config names; an invalid list is refused later, with the rest of the config."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    imports = located(names, folder)
    import_modules(imports)
    return imports


def config_of(source: str) -> Config:
    """The config for the name of a built-in data set or the path of a TOML file.

    Raises:
        ConfigError: It is neither.
    """
    if source.endswith(".toml"):
        return read_config(Path(source))
    if Path(source).exists():
        if what_is(Path(source)) is not None:
            raise ConfigError(not_this(Path(source), "a config.toml or the name of a data set"))
        raise ConfigError(
            f"{source} is not a config. To use it as a log, write a config.toml that names its columns, and pass that: "
            f'[data] interactions = "{source}", query_id = "…", candidate_id = "…", time = "…" (optional), '
            f"each on its own line"
        )
    if not builtin.is_name(source):
        raise ConfigError(
            f"{source!r} is neither a data set ({', '.join(builtin.NAMES)}, or {builtin.SIMULATED}) "
            f"nor the path of a .toml config"
        )
    return Config(data=DataConfig(name=source))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (keep symlinks: their targets may change)
