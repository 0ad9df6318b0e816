"""What the tuned recipe decides from the shape of a log."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from toy import groups_log, log_of
from twotower.data import Dataset, LastOut, RandomSplit, from_tables
from twotower.data.splits import SplitRule
from twotower.errors import ConfigError
from twotower.experiments.plans import changed
from twotower.experiments.tuning.defaults import default_space
from twotower.features import Category, History, Text
from twotower.model.tower import Tower
from twotower.model.tower_module import features_of
from twotower.recipes.complete import complete
from twotower.recipes.config import Config, DataConfig, SplitConfig
from twotower.recipes.model_config import ModelConfig
from twotower.recipes.recipe import recipe
from twotower.recipes.shape import Shape


def sparse_log(queries: int = 60) -> Dataset:
    """Five events a query."""
    draw = np.random.default_rng(0)
    return log_of([(query, int(draw.integers(30))) for _ in range(5) for query in range(queries)], queries, 30)


def untimed(log: Dataset) -> Dataset:
    return from_tables(log.interactions, query_id="user", candidate_id="item", candidates=log.candidates)


def repeated(log: Dataset, times: int) -> Dataset:
    return log.take(np.tile(np.arange(len(log)), times))


UNTIMED = ["histories", "histories and the id", "wide histories"]


@pytest.mark.parametrize(
    ("log", "rule", "shares", "cross", "layers", "tried", "lengths"),
    [
        (sparse_log(), LastOut(), True, 1, (64,), ["histories", "histories and the id"], (3, 6, 12, 24)),
        (groups_log(), LastOut(), True, 1, (64,), ["histories", "histories and the id"], (3, 6, 12, 24)),
        (repeated(groups_log(), 150), LastOut(), True, 1, (64,), ["shared items", "separate items"], (6, 12)),
        (untimed(sparse_log()), RandomSplit(), True, 0, (64,), UNTIMED, (3, 6, 12, 24)),
        (untimed(groups_log()), RandomSplit(), True, 0, (64,), UNTIMED, (3, 6, 12, 24)),
        (untimed(repeated(groups_log(), 150)), RandomSplit(), True, 0, (64,), UNTIMED, (3, 6, 12, 24)),
        (
            sparse_log(),
            RandomSplit(),
            False,
            0,
            (64, 32),
            [],
            (),
        ),  # it reads around events: nothing shared
    ],
    ids=["sparse", "dense", "large", "sparse without times", "dense without times", "large without times", "random"],
)
def test_what_reads_histories_shares_items_and_validation_decides_what_else_depends_on_the_log(
    log: Dataset,
    rule: SplitRule,
    shares: bool,
    cross: int,
    layers: tuple[int, ...],
    tried: list[str],
    lengths: tuple[int, ...],
) -> None:
    found = recipe("tuned", log, rule)
    assert Config(data=DataConfig(name="log")).lengths(found) == lengths
    assert (found.share_items, found.layers) == (shares, layers)
    assert [choice.name for choice in ModelConfig().choices(found)] == tried
    model = ModelConfig().build(log, found)
    assert isinstance(model.candidate, Tower)
    assert (model.candidate.combine == "sum") is shares
    assert isinstance(model.query, Tower)
    assert (model.query.cross, model.query.cross_rank) == (cross, 64 if cross else None)


@pytest.mark.parametrize(("log", "length"), [(sparse_log(), 20), (groups_log(), 50), (untimed(groups_log()), 50)])
def test_histories_are_longer_where_queries_have_more_events(log: Dataset, length: int) -> None:
    rule = LastOut() if log.time is not None else RandomSplit()
    found = recipe("tuned", log, rule)
    for given, expected in ((ModelConfig(), length), (ModelConfig(history_length=7), 7)):
        (history,) = [one for one in features_of(given.build(log, found).query) if isinstance(one, History)]
        assert history.length == expected


def test_layers_without_a_width_are_refused_by_name() -> None:
    found = recipe("tuned", groups_log(), LastOut())
    with pytest.raises(ConfigError, match=r"\[model\] layers = \[\]; expected at least one width"):
        ModelConfig(layers=()).build(groups_log(), found)


def test_a_choice_goes_if_the_config_sets_one_of_its_keys_and_one_alone_is_none() -> None:
    log = untimed(groups_log())
    found = recipe("tuned", log, RandomSplit())
    assert [one.name for one in ModelConfig(dim=32).choices(found)] == UNTIMED[:2]
    assert ModelConfig(read_id=True).choices(found) == []
    wide = replace(ModelConfig(), **found.choices[2].model).build(log, found)
    assert isinstance(wide.query, Tower)
    assert (wide.query.layers, wide.query.input_dropout) == ([128], 0.5)


def test_the_models_of_a_large_log_are_of_the_widths_they_say() -> None:
    log = repeated(groups_log(), 150)
    found = recipe("tuned", log, LastOut())
    shared, separate = (
        replace(ModelConfig(), **choice.model).build(log, found) for choice in ModelConfig().choices(found)
    )
    assert isinstance(shared.query, Tower)
    assert isinstance(separate.query, Tower)
    assert (shared.query.layers, shared.query.cross, shared.query.input_dropout) == ([64], 1, 0.3)
    assert (separate.query.layers, separate.query.cross, separate.query.input_dropout) == ([256, 64], 0, 0.2)
    assert isinstance(separate.candidate, Tower)
    assert separate.candidate.layers == [256, 64]
    assert ModelConfig(layers=(32,)).choices(found) == []


@pytest.mark.parametrize(
    ("given", "cross", "rank"),
    [
        (ModelConfig(cross=0), 0, None),
        (ModelConfig(cross=2), 2, None),
        (ModelConfig(cross_rank=8), 1, 8),
        (ModelConfig(share_items=False), 0, None),
    ],
)
def test_cross_layers_that_a_config_gives_are_kept(given: ModelConfig, cross: int, rank: int | None) -> None:
    log = sparse_log()
    model = given.build(log, recipe("tuned", log, LastOut()))
    assert isinstance(model.query, Tower)
    assert (model.query.cross, model.query.cross_rank) == (cross, rank)


def test_what_is_shared_has_one_width_and_no_layers() -> None:
    log = sparse_log()
    model = ModelConfig(layers=(48, 16)).build(log, recipe("tuned", log, LastOut()))
    history, *_ = [one for one in features_of(model.query) if isinstance(one, History)]
    assert (history.shared, history.dim, model.width) == (True, 16, 16)
    assert [type(one) for one in features_of(model.candidate)] == [Category, Text]
    assert not any(isinstance(one, Category) for one in features_of(model.query))


@pytest.mark.parametrize(
    ("given", "shares", "width"),
    [
        (ModelConfig(dim=16), True, 16),
        (ModelConfig(dim=16, layers=(24, 8)), False, 8),  # two widths: sharing would need one
        (ModelConfig(layers=(24, 8)), True, 8),
    ],
)
def test_widths_that_a_config_gives_are_kept(given: ModelConfig, shares: bool, width: int) -> None:
    log = sparse_log()
    found = recipe("tuned", log, LastOut())
    assert given.shares(found) is shares
    assert given.build(log, found).width == width


@pytest.mark.parametrize(
    "given",
    [ModelConfig(), ModelConfig(cross=2), ModelConfig(inputs="log"), ModelConfig(dim=16), ModelConfig(read_id=True)],
)
def test_a_completed_config_builds_the_same_model(given: ModelConfig) -> None:
    log = sparse_log()
    found = recipe("tuned", log, LastOut())
    whole = given.completed(found)
    assert whole.completed(found) == whole
    assert whole.choices(found) == []
    assert str(whole.build(log, found)) == str(given.build(log, found))


def test_a_query_of_other_layers_is_brought_to_the_width_of_items() -> None:
    log = sparse_log()
    found = recipe("tuned", log, LastOut())
    model = ModelConfig(layers=(24, 8), dim=16, share_items=True).build(log, found)
    assert isinstance(model.query, Tower)
    assert model.query.layers == [24, 8, 16]


def test_a_search_over_layers_keeps_what_is_shared_of_one_width() -> None:
    log = sparse_log()
    config = Config(data=DataConfig(name="simulated"), split=SplitConfig("last-out"))
    base = complete(config, log)
    assert (base.model.share_items, base.model.dim) == (True, None)
    space = default_space(base, log)
    assert "model.dim" not in space
    for layers in space["model.layers"].probes():
        model = changed(base, {"model.layers": layers}).model
        assert model.build(log, config.resolved_recipe(log)).width == layers[-1]


@pytest.mark.parametrize(
    "given",
    [
        ModelConfig(query=[{"kind": "category", "column": "user"}]),
        ModelConfig(inputs="log"),
        ModelConfig(share_items=False),
        ModelConfig(read_id=True),
    ],
    ids=["features", "inputs", "apart", "id"],
)
def test_what_a_config_says_is_not_left_to_the_validation_part(given: ModelConfig) -> None:
    log = sparse_log()
    found = recipe("tuned", log, LastOut())
    assert given.choices(found) == []
    names = [(type(one), one.column) for one in features_of(given.build(log, found).query)]
    assert (Category, "user") in names


def test_repeats_are_left_in_the_metric_where_queries_often_want_them_again() -> None:
    once, again = log_of([(0, 0), (0, 1), (1, 0)], 2, 2), log_of([(0, 0), (0, 0), (1, 0)], 2, 2)
    shapes = [Shape.of(log, LastOut()) for log in (once, again)]
    assert [round(shape.repeated, 2) for shape in shapes] == [0.0, 0.33]
    assert [shape.monitor for shape in shapes] == ["unseen.ndcg_10", "all.ndcg_10"]


def test_new_choices_decide_where_few_events_repeat() -> None:
    log = log_of([(0, 0), (0, 0), *((query, candidate) for query in range(1, 4) for candidate in range(3))], 4, 3)
    assert Shape.of(log, LastOut()).monitor == "new.ndcg_10"


def test_a_config_with_other_lists_is_monitored_by_its_longest() -> None:
    config = Config(data=DataConfig(name="simulated"), split=SplitConfig("last-out"), training={"ks": [3, 20]})
    assert config.resolved_recipe(sparse_log()).trainer.monitor == "new.ndcg_20"


@pytest.mark.parametrize(
    ("given", "is_open"),
    [
        ({}, True),
        ({"model": ModelConfig(share_items=False)}, True),
        ({"training": {"epochs": 6}}, False),
        ({"training": {"schedule": {"kind": "constant"}}}, False),
        ({"model": ModelConfig(inputs="log")}, False),
    ],
    ids=["nothing", "items apart", "epochs", "schedule", "no histories"],
)
def test_what_a_config_says_of_the_schedule_is_not_left_to_the_validation_part(
    given: dict[str, Any], is_open: bool
) -> None:
    config = Config(data=DataConfig(name="log"), **given)
    assert bool(config.lengths(recipe("tuned", sparse_log(), LastOut()))) is is_open
    assert config.lengths(recipe("tutorial", sparse_log(), LastOut())) == ()


def test_whether_the_id_is_read_without_a_choice_depends_on_how_much_queries_chose() -> None:
    assert recipe("tuned", groups_log(), LastOut()).read_id
    assert not recipe("tuned", sparse_log(), LastOut()).read_id


def test_what_is_read_is_shown_beside_what_validation_decides() -> None:
    found = recipe("tuned", sparse_log(), LastOut())
    lines = ModelConfig().input_lines(sparse_log(), found)
    assert lines[-1] == "validation decides between these models: histories, histories and the id"
    assert lines[:-1] == ModelConfig().columns(sparse_log(), found).lines()
    assert ModelConfig(read_id=True).input_lines(sparse_log(), found)[-1].startswith("candidate tower reads")
