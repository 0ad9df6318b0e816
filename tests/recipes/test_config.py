from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toy import groups_log, log_of
from twotower.data import Dataset, LastOut, RandomSplit, TimeSplit, from_tables
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError
from twotower.features import Activity, Bucketized, Category, Elapsed, Feature, History, Normalized, Text
from twotower.model import FullSoftmax, InBatchSoftmax
from twotower.recipes.config import Config, DataConfig, ModelConfig, SplitConfig, config_of, read_config
from twotower.recipes.inputs import InputPlan, Inputs, Reach, candidate_columns, features_of, query_columns
from twotower.recipes.loggers import loggers_for
from twotower.recipes.recipe import Recipe, recipe
from twotower.training import Adagrad, AdamW, TensorBoard, Trainer

INPUTS: tuple[Inputs, ...] = ("tutorial", "log", "all")

TOML = """
recipe = "tuned"
[data]
interactions = "log.parquet"
query_id = "u"
candidate_id = "i"
time = "t"
[split]
rule = "last-out"
[model]
layers = [16]
query = [{kind = "category", column = "u", dim = 4}]
[training]
epochs = 2
[training.optimizer]
kind = "adagrad"
learning_rate = 0.5
"""


def query_inputs(data: Log, inputs: Inputs = "all", reach: Reach = "before") -> list[Feature]:
    return features_of(query_columns(data, InputPlan(inputs, reach, 8, 0.0)))


def candidate_inputs(data: Log, inputs: Inputs = "all") -> list[Feature]:
    return features_of(candidate_columns(data, InputPlan(inputs, "before", 8, 0.0)))


def use(path: Path) -> None:
    """Everything that reads a part of a config."""
    config = read_config(path)
    data = config.data.load()
    config.split.parsed()
    config.resolved_recipe(data)
    config.model.build(data, recipe("tuned", data, RandomSplit()))


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_a_config_says_which_data_model_and_training(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": [1, 1, 2], "i": [5, 6, 5], "t": [1, 2, 3]}), tmp_path / "log.parquet")
    config = read_config(write(tmp_path, TOML))
    data = config.data.load()  # the path is relative to the config
    assert len(data) == 3
    assert config.split.parsed() == LastOut()
    trainer = config.resolved_recipe(data).trainer
    assert (trainer.epochs, trainer.optimizer) == (2, Adagrad(0.5))
    model = config.model.build(data, msgspec.structs.replace(recipe("tuned", data, RandomSplit()), unknown_rate=0.1))
    assert model.query.settings()["features"] == [{"kind": "category", "column": "u", "dim": 4, "unknown_rate": 0.02}]
    assert [f["unknown_rate"] for f in model.candidate.settings()["features"]] == [0.1]


def test_every_option_of_training_is_a_line(tmp_path: Path) -> None:
    text = """
        [data]
        name = "simulated"
        [model]
        learn_temperature = true
        temperature = 0.1
        [training]
        clip_norm = 1.0
        loss = {kind = "in_batch_softmax", uniform = 100}
        optimizer = {kind = "adamw", learning_rate = 0.02, weight_decay = 0.0}
    """
    data = groups_log()
    config = read_config(write(tmp_path, text))
    trainer = config.resolved_recipe(data).trainer
    assert trainer.clip_norm == 1.0
    assert trainer.loss == InBatchSoftmax(uniform=100)
    assert trainer.optimizer == AdamW(0.02, weight_decay=0.0)
    assert msgspec.convert(msgspec.to_builtins(trainer), Trainer) == trainer
    model = config.model.build(data, recipe("tuned", data, RandomSplit()))
    assert (model.learn_temperature, model.initial_temperature) == (True, 0.1)
    smoothed = read_config(
        write(tmp_path, '[data]\nname = "simulated"\n[training]\nloss = {kind = "full_softmax", label_smoothing = 0.1}')
    )
    assert smoothed.resolved_recipe(data).trainer.loss == FullSoftmax(label_smoothing=0.1)


def test_a_table_without_a_kind_changes_only_what_it_names() -> None:
    data = groups_log()
    recipes = recipe("tuned", data, RandomSplit()).trainer.optimizer
    assert isinstance(recipes, AdamW)
    config = Config(training={"optimizer": {"learning_rate": 0.1}})
    assert config.resolved_recipe(data).trainer.optimizer == msgspec.structs.replace(recipes, learning_rate=0.1)
    config = Config(training={"optimizer": {"kind": "adamw", "learning_rate": 0.1}})
    assert config.resolved_recipe(data).trainer.optimizer == AdamW(0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[data]", "[date]"), "it has the unknown key 'date', did you mean 'data'"),
        (("[data]", 'query_id = "u"\n[data]'), r"unknown key 'query_id'; .*; put query_id below the line \[data\]"),
        (('query_id = "u"', ""), r"\[data\] has no query_id"),
        (('recipe = "tuned"', 'recipe = "best"'), "recipe = 'best'; expected 'tutorial', 'tuned'"),
        (("layers = [16]", 'layers = "16"'), r"\[model\] layers = '16'; expected a list"),
        (
            ("epochs = 2", "epoch = 2"),
            r"\[training\] has the unknown key 'epoch', did you mean 'epochs'\? expected epochs, ",
        ),
        (("epochs = 2", 'epochs = "2"'), r"\[training\] epochs = '2'; expected a whole number"),
        (
            ("learning_rate = 0.5", "rate = 0.5"),
            r"\[training.optimizer\] has the unknown key 'rate'; expected learning_rate, ",
        ),
        (('kind = "adagrad"', 'kind = "sgd"'), r"\[training.optimizer\] kind = 'sgd'; expected 'ada"),
        (('rule = "last-out"', 'rule = "first"'), "split 'first' is unknown"),
        (('kind = "category"', 'kind = "word"'), "feature kind 'word' is unknown"),
        (("[data]", "[data"), "config .*: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    pq.write_table(pa.table({"u": [1, 1, 2], "i": [5, 6, 5], "t": [1, 2, 3]}), tmp_path / "log.parquet")
    assert change[0] in TOML
    with pytest.raises(ConfigError, match=message):
        use(write(tmp_path, TOML.replace(*change)))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (("[data]", "[date]"), "date"),
        (("layers = [16]", 'layers = [16, "x"]'), "model.layers[1]"),
        (("epochs = 2", "epoch = 2"), "training.epoch"),
        (("epochs = 2", "epochs = 0"), "training"),
        (('kind = "adagrad"', 'kind = "sgd"'), "training.optimizer.kind"),
    ],
)
def test_a_mistake_carries_its_key(tmp_path: Path, change: tuple[str, str], key: str) -> None:
    pq.write_table(pa.table({"u": [1, 1, 2], "i": [5, 6, 5], "t": [1, 2, 3]}), tmp_path / "log.parquet")
    with pytest.raises(ConfigError) as caught:
        use(write(tmp_path, TOML.replace(*change)))
    assert caught.value.field == key


def test_a_source_is_a_name_or_a_file(tmp_path: Path) -> None:
    assert config_of("movielens-100k").data.name == "movielens-100k"
    with pytest.raises(ConfigError, match=r"'movielens' is neither a data set \(simulated, movielens-100k"):
        config_of("movielens")
    with pytest.raises(ConfigError, match=r"nothing\.toml does not exist"):
        config_of(str(tmp_path / "nothing.toml"))
    (tmp_path / "log.csv").write_text("who,what\nann,1\n")
    with pytest.raises(ConfigError, match=r"log\.csv is not a config.*\[data\] interactions = "):
        config_of(str(tmp_path / "log.csv"))


def test_the_tutorials_recipe_is_the_tutorials() -> None:
    trainer = recipe("tutorial", groups_log(), RandomSplit()).trainer
    assert (trainer.epochs, trainer.batch_size, trainer.validate_every) == (300, 2048, 5)
    assert trainer.optimizer == Adagrad(0.1, initial_accumulator=0.1, epsilon=1e-7)
    assert trainer.loss == InBatchSoftmax(log_q=False, reduction="sum")
    assert recipe("tutorial", groups_log(), RandomSplit()).unknown_rate == 0.0


def test_the_tuned_recipe_takes_the_full_softmax_where_the_catalogue_allows() -> None:
    assert recipe("tuned", groups_log(), RandomSplit()).trainer.loss == FullSoftmax()
    assert recipe("tuned", log_of([(0, 0)] * 5, 1, 30_000), RandomSplit()).trainer.loss == InBatchSoftmax(uniform=512)
    assert isinstance(recipe("tuned", groups_log(), RandomSplit()).trainer.optimizer, AdamW)


def test_a_model_looks_ahead_only_where_the_split_leaves_something_there() -> None:
    data = groups_log()
    reaches = {str(rule): recipe("tuned", data, rule).reach for rule in (RandomSplit(), TimeSplit(), LastOut())}
    assert reaches == {"random:0.2": "around", "time:0.2": "before", "last-out": "before"}
    config = Config(model=ModelConfig(reach="before"))
    model = config.model.build(data, config.resolved_recipe(data))
    assert {feature.reach for feature in model.query.features if isinstance(feature, History)} == {"before"}


def test_inputs_are_what_the_columns_offer() -> None:
    log = pa.table({"u": [1, 2], "i": [1, 2], "t": [5, 6]})
    films = pa.table({"i": [1, 2], "name": ["Toy Story", "Heat of it"], "tag": ["a", "b"], "year": [1, 2]})
    data = from_tables(log, query_id="u", candidate_id="i", time="t", candidates=films)
    plain, record = [Category, Bucketized, Normalized], [Elapsed, Elapsed, Activity]
    kinds = {inputs: [type(feature) for feature in query_inputs(data, inputs)] for inputs in INPUTS}
    assert kinds == {"tutorial": plain, "log": plain + record, "all": [*plain, *record, History]}
    words = [(Category, "i"), (Text, "name")]
    read = {inputs: [(type(f), f.column) for f in candidate_inputs(data, inputs)] for inputs in INPUTS}
    assert read == {"tutorial": words, "log": words, "all": [*words, (Bucketized, "year")]}  # each tag is its own row's
    around = [type(feature) for feature in query_inputs(data, "all", "around")]
    assert around == [*plain, *[Elapsed] * 4, *[Activity] * 4, History]
    bare = from_tables(log.select(["u", "i"]), query_id="u", candidate_id="i")
    assert [type(feature) for feature in query_inputs(bare)] == [Category, History]
    assert [type(feature) for feature in query_inputs(bare, "log")] == [Category]


def test_the_default_config_is_the_embedded_data_by_the_tuned_recipe() -> None:
    assert (Config().data.name, Config().recipe) == ("simulated", "tuned")


def test_the_tuned_recipe_expects_as_many_unknown_queries_as_its_validation_part_has() -> None:
    """Ten queries a hundred events long, one after the other: what comes last is of new ones."""
    log = log_of([(query, event % 7) for query in range(10) for event in range(100)], queries=10, candidates=7)
    assert (
        recipe("tuned", log, TimeSplit(0.3)).unknown_query_rate == 0.3
    )  # the most, as all of its validation part are new
    assert recipe("tuned", log, TimeSplit(0.1)).unknown_query_rate == 0.3
    assert recipe("tuned", log, TimeSplit(0.05)).unknown_query_rate == 0.02  # the last query begins before
    assert recipe("tuned", log, LastOut()).unknown_query_rate == 0.02
    model = ModelConfig(reach="before").build(log, recipe("tuned", log, TimeSplit(0.3)))
    assert [tower.settings()["unknown_query_rate"] for tower in (model.query, model.candidate)] == [0.3, 0.0]
    assert ModelConfig(reach="around").build(log, recipe("tuned", log, TimeSplit(0.3))).query.unknown_query_rate == 0.0
    assert (
        ModelConfig(unknown_query_rate=0.1).build(log, recipe("tuned", log, LastOut())).query.unknown_query_rate == 0.1
    )


def test_the_tuned_recipe_has_smaller_batches_where_data_are_small() -> None:
    log = groups_log(300)
    sizes = [log.take(np.tile(np.arange(300), times)) for times in (1, 30, 100, 200, 3334)]
    trainers = [recipe("tuned", data, RandomSplit()).trainer for data in sizes]
    assert [trainer.batch_size for trainer in trainers] == [32, 128, 256, 512, 2048]
    assert [trainer.optimizer.learning_rate for trainer in trainers] == [0.005, 0.005, 0.005, 0.005, 0.01]


def test_a_study_on_validation_trains_as_the_recipe_does_on_that_much() -> None:
    data = groups_log(400).take(np.tile(np.arange(400), 200))
    batches = {}
    for on in ("test", "validation"):
        config = Config(split=SplitConfig(rule="random:0.25", on=on))
        parts = config.parts(data)
        batches[len(parts.train)] = config.resolved_recipe(parts.train, parts.validation).trainer.batch_size
    assert batches == {60_000: 512, 45_000: 256}


def stream(lines: str, folder: Path) -> Config:
    data = f'[data]\nstream = true\ninteractions = "log.parquet"\nquery_id = "u"\ncandidate_id = "i"\n{lines}'
    return read_config(write(folder, data))


def test_a_streamed_log_takes_parts_that_are_given(tmp_path: Path) -> None:
    for name, users in (("log", [1, 1, 2]), ("test", [1, 2, 9]), ("validation", [2, 2, 1])):
        pq.write_table(pa.table({"u": users, "i": [5, 6, 5]}), tmp_path / f"{name}.parquet")
    parts = stream('test = "test.parquet"\nvalidation = "validation.parquet"', tmp_path).parts()
    assert (len(parts.train), len(parts.test), parts.rule) == (3, 3, "given")
    assert parts.test.queries["u"].to_pylist() == [1, 2, 9]
    assert parts.validation is not None
    known = recipe("tuned", parts.train, TimeSplit(), parts.validation)
    new = recipe("tuned", parts.train, TimeSplit(), parts.test)
    assert (known.unknown_query_rate, new.unknown_query_rate) == (
        0.02,
        0.3,
    )  # one in three is of query 9, which the log lacks
    one_given = stream('test = "test.parquet"', tmp_path).parts()
    assert one_given.validation is None
    assert len(one_given.fitted_and_validation()[1]) == 1
    with pytest.raises(ConfigError, match="expected data that fits in memory"):
        stream('test = "test.parquet"', tmp_path).data.load()
    with pytest.raises(ConfigError, match="stream = true without interactions"):
        read_config(write(tmp_path, "[data]\nstream = true")).parts()


@pytest.mark.parametrize("split", ["", '[split]\nrule = "last-out"', '[split]\nrule = "random:0.3"\ntrain_share = 0.5'])
def test_a_streamed_log_is_cut_and_trained_as_one_in_memory(split: str, tmp_path: Path) -> None:
    own_log(tmp_path)
    in_memory = read_config(write(tmp_path, f"{OWN}{split}"))
    on_disk = read_config(write(tmp_path, f"{OWN}stream = true\n{split}"))
    found, expected = on_disk.parts(), in_memory.parts()
    assert found.train.in_memory is None
    assert (found.rule, found.split, found.remarks) == (expected.rule, expected.split, expected.remarks)
    assert len(found.train) == len(expected.train)
    chosen, wanted = (one.resolved_recipe(parts.train) for one, parts in ((on_disk, found), (in_memory, expected)))
    if "train_share" not in split:  # which of the events are kept depends on their order
        assert found.fingerprint == expected.fingerprint
        assert chosen == wanted
    fitted, validation = found.fitted_and_validation()
    assert len(fitted) + len(validation) == len(found.train)
    built, other = on_disk.model.build(found.train, chosen), in_memory.model.build(expected.train, wanted)
    assert built.settings() == other.settings()


OWN = """
[data]
interactions = "log.parquet"
query_id = "u"
candidate_id = "i"
time = "t"
"""


def own_log(folder: Path, **parts: pa.Table) -> Path:
    """A folder with a config and a log of ten queries, each with events all over the time."""
    log = pa.table({"u": [n % 10 for n in range(100)], "i": [n * n % 7 for n in range(100)], "t": range(100)})
    pq.write_table(log, folder / "log.parquet")
    for name, table in parts.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return write(folder, OWN + "".join(f'{name} = "{name}.parquet"\n' for name in parts))


def test_paths_are_absolute_once_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_log(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = read_config(Path("../config.toml")).data
    monkeypatch.chdir("/")
    assert data.interactions == str(tmp_path / "log.parquet")
    assert len(data.load()) == 100


def test_an_own_log_with_times_is_cut_by_time_and_built_in_data_at_random(tmp_path: Path) -> None:
    own = read_config(own_log(tmp_path))
    parts = own.parts()
    assert (parts.rule, parts.split) == ("time:0.2", SplitConfig("time:0.2"))
    assert any("the last 20% of the events are test" in remark for remark in parts.remarks)
    pinned = msgspec.structs.replace(own, split=parts.split)
    assert pinned.parts().fingerprint == parts.fingerprint
    assert pinned.parts().remarks == ()  # what the user asks for needs no reason
    assert pinned.resolved_recipe(parts.train).reach == "before"
    built_in = Config(data=DataConfig(name="simulated:20,30,400"))
    assert built_in.parts().rule == "random:0.2, seed 42"
    assert built_in.resolved_recipe(built_in.parts().train).reach == "around"
    by_validation = Config(data=built_in.data, split=SplitConfig(on="validation"))
    cut = by_validation.parts()
    chosen = msgspec.structs.replace(by_validation, split=cut.split).resolved_recipe(cut.train, cut.validation)
    assert chosen.reach == "around"  # the model that is chosen is the one that test will measure


def test_parts_that_are_given_are_not_cut(tmp_path: Path) -> None:
    test = pa.table({"u": [3, 77], "i": [1, 2], "t": [99, 200]})
    validation = pa.table({"u": [3, 4, 5], "i": [1, 2, 4], "t": [150, 151, 152]})
    config = read_config(own_log(tmp_path, test=test, validation=validation))
    parts = config.parts()
    fitted, held_out = parts.fitted_and_validation()
    assert held_out is not None
    assert [len(part) for part in (parts.train, parts.test, fitted, held_out)] == [100, 2, 100, 3]
    assert parts.rule == "given"
    assert parts.remarks == ()
    assert config.resolved_recipe(parts.train, parts.validation).reach == "before"
    with pytest.raises(ConfigError, match="nothing is left to split"):
        msgspec.structs.replace(config, split=SplitConfig("last-out")).parts()


def test_events_that_are_in_train_and_test_are_said(tmp_path: Path) -> None:
    shared = pa.table({"u": [3, 4], "i": [9 % 7, 2], "t": [3, 500]})
    parts = read_config(own_log(tmp_path, test=shared)).parts()
    assert any("1 of the 2 events of test are in train too" in remark for remark in parts.remarks)
    assert any("are validation" in remark for remark in parts.remarks)
    held_out = parts.fitted_and_validation()[1]
    assert held_out is not None
    assert len(held_out) == 20


def recipe_of(path: Path) -> Recipe:
    config = read_config(path)
    return config.resolved_recipe(config.parts().train)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no \[data\]; expected interactions = PATH"),
        ("[data]", r"\[data\] names no data; expected interactions = PATH"),
        ('[data]\nname = "movielens-100k"\nquery_id = "u"', r"\[data\] has query_id and no interactions"),
        ('[data]\nname = "simulated"\nvalidation = "x"', r"\[data\] has validation without test"),
        ('[data]\nname = "movielens-100k"\n[data.simulated]\nseed = 1', r"with \[data.simulated\]; expected name"),
        ("[data.simulated]\nusers = 1", r"\[data.simulated\] has the unknown key 'users'; expected queries"),
        ("[data.simulated]\nqueries = 0", "simulated: queries=0; expected at least 1"),
        (OWN + "[data.simulated]", r"interactions and \[data.simulated\]; expected one"),
        (OWN + '[split]\nrule = "random"\nseed = -1', "split seed -1; expected a whole number of at least 0"),
        (OWN + "[training]\nseed = 100000000000000000000", "seed=1.*below 2"),
        (OWN + "[training]\nseed = -1", "seed=-1; expected a whole number of at least 0"),
        ('imports = "mine"\n' + OWN, "imports = 'mine'; expected a list"),
        ('imports = ["not_there"]\n' + OWN, "module 'not_there' cannot be imported: ModuleNotFoundError"),
        ('imports = ["./not_there.py"]\n' + OWN, r"not_there\.py does not exist"),
        ('imports = ["no name"]\n' + OWN, "expected a name such as my_features"),
        ('imports = ["breaks"]\n' + OWN, "breaks.* cannot be imported: ZeroDivisionError"),
        (OWN + '[[loggers]]\nkind = "paper"', "logger kind 'paper' is unknown; expected one of mlflow, tensorboard"),
        (OWN + '[[loggers]]\nkind = "tensorboard"\nfolder = 3', r"TensorBoard: folder=3; expected"),
        (OWN + '[[loggers]]\nkind = "mlflow"\nurl = "x"', "logger 'mlflow' .* arguments: experiment, uri, name"),
        ('imports = ["json"]\n' + OWN, "another module has the same name"),
    ],
)
def test_configs_that_cannot_be_used_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    own_log(tmp_path)
    (tmp_path / "breaks.py").write_text("1 / 0")
    (tmp_path / "json.py").write_text("")
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=message):
        recipe_of(path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    own_log(tmp_path)
    assert read_config(write(tmp_path, "\ufeff" + OWN)).data.query_id == "u"


def test_a_config_reads_patterns_and_names_a_delimiter(tmp_path: Path) -> None:
    (tmp_path / "log-1.csv").write_text("who:what\nann:1,5\n")
    (tmp_path / "log-2.csv").write_text("who:what\nbob:2,5\n")
    text = '[data]\ninteractions = "log-*.csv"\ndelimiter = ":"\nquery_id = "who"\ncandidate_id = "what"\n'
    data = read_config(write(tmp_path, text)).data.load()
    assert data.queries["who"].to_pylist() == ["ann", "bob"]
    assert data.candidates["what"].to_pylist() == ["1,5", "2,5"]


def test_paths_of_a_config_may_begin_at_home_and_are_no_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    own = '[data]\ninteractions = "{}"\nquery_id = "u"\ncandidate_id = "i"\n'
    path = write(tmp_path, own.format("~/log.csv"))
    assert read_config(path).data.interactions == str(tmp_path / "home" / "log.csv")
    with pytest.raises(DataError, match=r"https://example\.com/log\.csv is an address"):
        read_config(write(tmp_path, own.format("https://example.com/log.csv"))).data.load()


def test_a_config_says_how_numbers_and_times_are_written(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("who;what;when;n\nann;1;01.05.2024;0,5\nbob;2;31.05.2024;2\n")
    (tmp_path / "test.csv").write_text("who;what;when;n\nann;2;01.06.2024;1,5\n")
    text = """[data]
interactions = "log.csv"
test = "test.csv"
query_id = "who"
candidate_id = "what"
time = "when"
weight = "n"
decimal = ","
time_format = "%d.%m.%Y"
"""
    config = read_config(write(tmp_path, text)).data
    train, parts = config.given(config.load())
    assert isinstance(train, Dataset)
    assert train.times.tolist() == [1_714_521_600, 1_717_113_600]
    assert train.weights.tolist() == [0.5, 2.0]
    assert parts["test"].times.tolist() == [1_717_200_000]
    assert parts["test"].weights.tolist() == [1.5]


def test_a_loggers_folder_is_in_the_configs_and_its_name_begins_with_the_one_given(tmp_path: Path) -> None:
    own_log(tmp_path)
    text = OWN + '[[loggers]]\nkind = "tensorboard"\nfolder = "logs"\n[[loggers]]\nkind = "tensorboard"\nfolder = "/x"'
    config = read_config(write(tmp_path, text + '\nname = "mine"'))
    first, second = loggers_for(config.loggers, "seed 1")
    assert isinstance(first, TensorBoard)
    assert isinstance(second, TensorBoard)
    assert (first.folder, first.name) == (str(tmp_path / "logs"), "seed 1")
    assert (second.folder, second.name) == ("/x", "mine, seed 1")


def test_a_query_column_called_history_is_left_out_with_the_reason() -> None:
    queries = pa.table({"u": [1, 2], "history": ["a", "b"]})
    log = pa.table({"u": [1, 2], "i": [5, 6], "t": [1, 2]})
    data = from_tables(log, queries=queries, query_id="u", candidate_id="i", time="t")
    uses = {use.column: use for use in query_columns(data, InputPlan("all", "before", 4, 0.0))}
    assert uses["history"].why_not == "requests pass a history as 'history': rename the column to read it"
    assert not uses["history"].features
