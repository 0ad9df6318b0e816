"""Public functions refuse arguments of a wrong type or range by the library's own errors, which name them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from toy import groups_log, toy_model
from twotower import (
    Hnsw,
    InBatchSoftmax,
    ProgressBar,
    Ranking,
    Rating,
    Retriever,
    Trainer,
    data,
    editing,
    evaluate,
    evaluation,
    features,
    load_model,
    save_model,
)
from twotower.arguments import shortened
from twotower.errors import ConfigError, DataError, TwoTowerError
from twotower.model import Cross, DotInteraction, Tower, TwoTower, functional
from twotower.retrieval import ExactIndex

LOG = groups_log(200)
TRAIN, TEST = data.split_random(LOG)
MODEL = toy_model().learn(TRAIN)
INDEX = ExactIndex(torch.ones(6, 3))
TABLE = pa.table({"u": [1, 2, 1], "i": [1, 1, 2]})
IDS: dict[str, Any] = {"query_id": "u", "candidate_id": "i"}
NAN = float("nan")
ROWS = np.zeros(2, dtype=np.int64)

WHOLE: tuple[Any, ...] = (-1, 1.5, True, "3", NAN, [1])
SHARES: tuple[Any, ...] = (0, 1, -1, NAN, True, "0.5", None, [0.5])
NUMBERS: tuple[Any, ...] = (-1, NAN, float("inf"), True, "0.5", [0.5])
LENGTHS: tuple[Any, ...] = ("all", 3, [1.5], [0], [-1], [True], ["x"], [], None, [5, 5])
NO_TEXT: tuple[Any, ...] = (3, ["u"], True)
NO_LOG: tuple[Any, ...] = (None, 3, "log", TABLE)
NO_PATH: tuple[Any, ...] = (None, 3, ["x"])
NO_NAME: tuple[Any, ...] = ("", "  ")
RANKS: tuple[Any, ...] = tuple(np.array(values) for values in ([], [0.0], [-1.0], [1.0, NAN], [np.inf], [[1.0]], ["a"]))
EVENT_WEIGHTS: tuple[Any, ...] = tuple(
    np.array(values) for values in ([1.0], [-1.0, 1.0], [NAN, 1.0], [np.inf, 1.0], [0.0, 0.0])
)
NO_ROWS: tuple[Any, ...] = tuple(np.array(values) for values in ([0], [-1, 0], [0.5, 1.0], [[0, 1]]))


def nameless(name: str, **roles: str) -> object:
    """A log with a third column of this name."""
    return data.from_tables(pa.table({"u": [1, 2], "i": [1, 2], name: [1, 2]}), **IDS | roles)


CASES: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
    "simulated: queries": (lambda value: data.simulated(value, 10, 100), (0, *WHOLE)),
    "simulated: candidates": (lambda value: data.simulated(10, value, 100), (0, *WHOLE)),
    "simulated: interactions": (lambda value: data.simulated(10, 10, value), (0, *WHOLE)),
    "simulated: seed": (lambda value: data.simulated(10, 10, 100, seed=value), WHOLE),
    "simulated: name": (lambda value: data.simulated(10, 10, 100, name=value), NO_TEXT),
    "RandomSplit: test": (data.RandomSplit, SHARES),
    "RandomSplit: seed": (lambda value: data.RandomSplit(0.2, value), WHOLE),
    "TimeSplit: test": (data.TimeSplit, SHARES),
    "split_random: test": (lambda value: data.split_random(LOG, value), SHARES),
    "split_random: data": (data.split_random, NO_LOG),
    "split_by_time: test": (lambda value: data.split_by_time(LOG, value), SHARES),
    "split_by_time: data": (data.split_by_time, NO_LOG),
    "split_last_out: data": (data.split_last_out, NO_LOG),
    "split_log: log": (lambda value: data.split_log(value, data.TimeSplit()), NO_LOG),
    "parse_rule: text": (data.parse_rule, (3, None, "time:x", "time:nan")),
    "parse_rule: seed": (lambda value: data.parse_rule("random:0.2", value), WHOLE),
    "choose_rule: data": (data.choose_rule, NO_LOG),
    "describe: data": (data.describe, NO_LOG),
    "lookalike: column": (data.lookalike, (None, ["a"])),
    "from_tables: query_id": (lambda value: data.from_tables(TABLE, **IDS | {"query_id": value}), (*NO_TEXT, None)),
    "from_tables: query_id is empty": (lambda value: data.from_tables(TABLE, **IDS | {"query_id": value}), NO_NAME),
    "from_tables: weight is empty": (lambda value: nameless(value, weight=value), NO_NAME),
    "from_tables: a column is nameless": (nameless, NO_NAME),
    "from_tables: time": (lambda value: data.from_tables(TABLE, time=value, **IDS), NO_TEXT),
    "from_tables: name": (lambda value: data.from_tables(TABLE, name=value, **IDS), NO_TEXT),
    "from_tables: delimiter": (lambda value: data.from_tables(TABLE, delimiter=value, **IDS), NO_TEXT),
    "from_tables: decimal": (lambda value: data.from_tables(TABLE, decimal=value, **IDS), NO_TEXT),
    "from_tables: time_format": (lambda value: data.from_tables(TABLE, time_format=value, **IDS), NO_TEXT),
    "read_table: delimiter": (lambda value: data.read_table(TABLE, delimiter=value), (3, ["a"], "", ";;")),
    "movielens: edition": (data.movielens, (3, None, "2m")),
    "movielens: same_title": (lambda value: data.movielens(same_title=value), (3, "drop")),
    "take: rows": (LOG.take, (None, "x", [1.5], [-1], [200], [True], [[1]])),
    "BaselineBudget: seconds": (evaluation.BaselineBudget, (0, *NUMBERS)),
    "BaselineBudget: memory": (lambda value: evaluation.BaselineBudget(memory=value), (0, *WHOLE)),
    "Hnsw: neighbours": (Hnsw, (0, *WHOLE)),
    "evaluate: model": (lambda value: evaluate(value, TEST, TRAIN), (None, 3, torch.nn.Linear(2, 2), type(MODEL))),
    "evaluate: test": (lambda value: evaluate(MODEL, value, TRAIN), NO_LOG),
    "evaluate: exclude": (lambda value: evaluate(MODEL, TEST, value), NO_LOG),
    "evaluate: ks": (lambda value: evaluate(MODEL, TEST, TRAIN, ks=value), LENGTHS),
    "evaluate: baselines": (lambda value: evaluate(MODEL, TEST, TRAIN, baselines=value), (3, "x", ["x"], [3], None)),
    "evaluate: budget": (lambda value: evaluate(MODEL, TEST, TRAIN, budget=value), (3, "x")),
    "evaluate: progress": (lambda value: evaluate(MODEL, TEST, TRAIN, progress=value), (3, "x", None)),
    "measure: ks": (lambda value: evaluation.measure(evaluation.Popularity(TRAIN), TEST, TRAIN, value), LENGTHS),
    "measure_baselines: ks": (lambda value: evaluation.measure_baselines(TEST, TRAIN, value), LENGTHS),
    "Validation: ks": (lambda value: evaluation.Validation(MODEL, TEST, TRAIN, value), LENGTHS),
    "rank_metrics: ks": (lambda value: evaluation.rank_metrics(np.ones(2), value), LENGTHS),
    "rank_metrics: ranks": (evaluation.rank_metrics, (None, "x", [1.0], *RANKS)),
    "rank_metrics: weights": (lambda value: evaluation.rank_metrics(np.ones(2), weights=value), EVENT_WEIGHTS),
    "query_metrics: ks": (lambda value: evaluation.query_metrics(np.ones(2), ROWS, ROWS, value), LENGTHS),
    "query_metrics: ranks": (lambda value: evaluation.query_metrics(value, ROWS, ROWS), RANKS),
    "query_metrics: queries": (lambda value: evaluation.query_metrics(np.ones(2), value, ROWS), NO_ROWS),
    "query_metrics: candidates": (lambda value: evaluation.query_metrics(np.ones(2), ROWS, value), NO_ROWS),
    "query_metrics: weights": (
        lambda value: evaluation.query_metrics(np.ones(2), ROWS, ROWS, weights=value),
        EVENT_WEIGHTS,
    ),
    "Popularity: train": (evaluation.Popularity, NO_LOG),
    "RecentPopularity: half_life": (lambda value: evaluation.RecentPopularity(TRAIN, value), (0, *NUMBERS)),
    "Ease: train": (evaluation.Ease, NO_LOG),
    "Ease: regularization": (lambda value: evaluation.Ease(TRAIN, value), NUMBERS),
    "ItemKnn: neighbours": (lambda value: evaluation.ItemKnn(TRAIN, value), (0, *WHOLE)),
    "ItemKnn: shrinkage": (lambda value: evaluation.ItemKnn(TRAIN, 5, value), NUMBERS),
    "Ials: factors": (lambda value: evaluation.Ials(TRAIN, value), (0, *WHOLE)),
    "Ials: iterations": (lambda value: evaluation.Ials(TRAIN, iterations=value), (0, *WHOLE)),
    "Ials: alpha": (lambda value: evaluation.Ials(TRAIN, alpha=value), NUMBERS),
    "learn: train": (toy_model().learn, NO_LOG),
    "learn: seed": (lambda value: toy_model().learn(TRAIN, value), WHOLE),
    "remember: events": (MODEL.remember, NO_LOG),
    "embed_queries: events": (MODEL.embed_queries, NO_LOG),
    "embed_candidates: candidates": (MODEL.embed_candidates, (None, 3, LOG)),
    "load_model: folder": (load_model, NO_PATH),
    "save_model: folder": (lambda value: save_model(MODEL, value), NO_PATH),
    "editing: folder": (editing, NO_PATH),
    "load: folder": (Retriever.load, NO_PATH),
    "load: engine": (lambda value: Retriever.load("bundle", engine=value), (3, "tensorflow")),
    "build: model": (lambda value: Retriever.build(value, LOG.candidates, seen=TRAIN), (None, 3)),
    "build: seen": (lambda value: Retriever.build(MODEL, LOG.candidates, seen=value), NO_LOG),
    "build: index": (lambda value: Retriever.build(MODEL, LOG.candidates, seen=TRAIN, index=value), ("hnsw", Hnsw)),
    "build: parity": (lambda value: Retriever.build(MODEL, LOG.candidates, seen=TRAIN, parity=value), (2, -1, NAN)),
    "build: notes": (lambda value: Retriever.build(MODEL, LOG.candidates, seen=TRAIN, notes=value), (3, {"a": 1})),
    "Category: column": (features.Category, NO_NAME),
    "Text: column": (features.Text, NO_NAME),
    "Unified: columns": (lambda value: features.Unified(["a", value]), NO_NAME),
    "History: by": (lambda value: features.History("item", by=value, time="at"), NO_NAME),
    "InBatchSoftmax: draw_probability": (lambda value: InBatchSoftmax(draw_probability=value), NO_NAME),
    "Rating: target": (lambda value: Rating(target=value), NO_NAME),
    "Ranking: by": (lambda value: Ranking(target="stars", by=value), NO_NAME),
    "Cross: width": (Cross, (0, *WHOLE)),
    "Cross: diagonal": (lambda value: Cross(2, diagonal=value), NUMBERS),
    "DotInteraction: embeddings": (DotInteraction(), ([], [torch.ones(2, 3), torch.ones(2, 4)])),
    "search: k": (lambda value: INDEX.search(torch.ones(1, 3), value), (0, -1, 1.5, "3", NAN)),
    "search: excluded": (
        lambda value: INDEX.search(torch.ones(1, 3), 2, (np.array(value[0]), np.array(value[1]))),
        (([1], [0]), ([-1], [0]), ([0], [6]), ([0, 0], [0, -1])),
    ),
    "search: allowed": (
        lambda value: INDEX.search(torch.ones(1, 3), 2, None, np.array(value)),
        ([6], [-1, 2], [5, 1]),
    ),
    "feature_from_settings: settings": (features.feature_from_settings, (None, 3, {}, {"kind": 3}, [])),
    "ProgressBar: label": (lambda value: ProgressBar(label=value), (3, None)),
    "ProgressBar: console": (ProgressBar, (3, "x")),
}


@pytest.mark.parametrize("name", CASES)
def test_each_argument_is_checked(name: str) -> None:
    call, values = CASES[name]
    for value in values:
        with pytest.raises(TwoTowerError) as raised:
            call(value)
        assert "expected" in str(raised.value) or "unknown" in str(raised.value), shortened(value)


def test_a_stream_is_checked(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "log.parquet")
    for value in (0, *WHOLE):
        with pytest.raises(TwoTowerError, match=r"buffer=.*; expected"):
            data.stream_parquet(tmp_path, buffer=value, **IDS)
    sources: tuple[Any, ...] = (None, 3, [3])
    for value in sources:
        with pytest.raises(TwoTowerError, match=r"stream_parquet: interactions=.*; expected"):
            data.stream_parquet(value, **IDS)


def removed(rows: list[Any], columns: list[Any]) -> functional.Removed:
    return functional.Removed(torch.tensor(rows), torch.tensor(columns))


QUERY, CANDIDATES, TARGET = torch.randn(4, 3), torch.randn(5, 3), torch.arange(4)


@pytest.mark.parametrize("softmax", [functional.full_softmax, functional.in_batch_softmax])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.tensor([0, 1, 2, 5])}, "target is from 0 to 5; expected columns from 0 to 4"),
        ({"target": torch.tensor([-1, 1, 2, 3])}, "target is from -1 to 3"),
        ({"target": TARGET.float()}, "target is torch.float32; expected whole numbers"),
        ({"target": [0, 1, 2, 3]}, "target=[0, 1, 2, 3]; expected a Tensor"),
        ({"candidates": None}, "candidates=None; expected a Tensor"),
        ({"candidates": CANDIDATES.double()}, "candidates torch.float64; expected the same float type"),
        ({"candidates": CANDIDATES[:0]}, "expected columns from 0 to -1"),
        ({"query": QUERY.long(), "candidates": CANDIDATES.long()}, "expected the same float type"),
        ({"query": QUERY[:0], "target": TARGET[:0]}, "query has no rows; expected at least one"),
        ({"weights": 1.0}, "weights=1.0; expected a Tensor"),
        ({"weights": torch.ones(3)}, "weights is [3]; expected [4]"),
        (
            {"weights": torch.tensor([1.0, -2.0, 1.0, 1.0])},
            "weights, row 1: -2; expected a finite number",
        ),
        ({"weights": torch.tensor([1.0, 1.0, NAN, 1.0])}, "weights, row 2: nan; expected a finite number"),
        ({"weights": torch.tensor([1.0, 1.0, 1.0, torch.inf])}, "weights, row 3: inf; expected a finite number"),
        ({"weights": torch.zeros(4)}, "weights are all 0; expected one above 0"),
        ({"temperature": torch.tensor(0.0)}, "temperature=0; expected a finite number above 0"),
        ({"temperature": torch.tensor([-1.0])}, "temperature=-1; expected a finite number above 0"),
        ({"temperature": torch.tensor(NAN)}, "temperature=nan; expected a finite number above 0"),
        ({"temperature": torch.ones(3)}, "temperature is [3]; expected one number, or [4, 1]"),
        ({"removed": (TARGET, TARGET)}, "expected a Removed"),
        ({"removed": removed([0], [5])}, "removed.columns is from 5 to 5; expected 0 to 4"),
        ({"removed": removed([0], [-1])}, "removed.columns is from -1 to -1"),
        ({"removed": removed([4], [0])}, "removed.rows is from 4 to 4; expected 0 to 3"),
        ({"removed": removed([0, 1], [1])}, "removed.columns is torch.int64 [1]; expected whole numbers [P]"),
        ({"removed": removed([0.0], [1])}, "removed.rows is torch.float32 [1]"),
        ({"temperature": 0}, "temperature=0.0; expected a number above 0"),
        ({"temperature": NAN}, "temperature=nan; expected a finite number"),
        ({"temperature": "1"}, "temperature='1'; expected a finite number"),
        ({"reduction": "none"}, "reduction='none'; expected one of 'mean', 'sum'"),
    ],
)
def test_the_softmax_functions_check_what_they_are_given(
    softmax: Callable[..., torch.Tensor], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TwoTowerError, match=re.escape(message)):
        softmax(**{"query": QUERY, "candidates": CANDIDATES, "target": TARGET} | change)


def test_what_one_softmax_function_has_alone_is_checked() -> None:
    values: tuple[Any, ...] = (-0.1, 1, NAN, "x")
    for value in values:
        with pytest.raises(TwoTowerError, match="label_smoothing="):
            functional.full_softmax(QUERY, CANDIDATES, TARGET, label_smoothing=value)
    with pytest.raises(TwoTowerError, match=r"log_probability=0.5; expected a Tensor"):
        functional.in_batch_softmax(QUERY, CANDIDATES, TARGET, log_probability=0.5)  # type: ignore[arg-type]
    with pytest.raises(TwoTowerError, match=r"events=\[1, 2\]; expected a Tensor"):
        functional.distinct([1, 2])  # type: ignore[arg-type]
    for ids in (torch.tensor([1.5]), torch.ones(2, 2).long(), torch.tensor([True])):
        with pytest.raises(TwoTowerError, match="expected ids, whole numbers"):
            functional.distinct(ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiplicity": torch.tensor([1, 1, 1, 1, 0])}, "multiplicity, row 4: 0; expected how often it was drawn"),
        ({"multiplicity": torch.tensor([1.0, -1, 1, 1, 1])}, "multiplicity, row 1: -1"),
        ({"multiplicity": torch.tensor([1.0, 1, NAN, 1, 1])}, "multiplicity, row 2: nan"),
        ({"log_probability": torch.tensor([-1.0, -1, -1, -1, NAN])}, "log_probability, row 4: nan; expected a finite"),
        ({"log_probability": torch.tensor([-1.0, -1, -1, -torch.inf, -1])}, "log_probability, row 3: -inf"),
        ({"hard_negatives": 0}, "hard_negatives=0; expected at least 1"),
        ({"hard_negatives": -1}, "hard_negatives=-1"),
        ({"hard_negatives": 1.5}, "hard_negatives=1.5; expected a whole number or None"),
    ],
)
def test_what_in_batch_softmax_corrects_by_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        functional.in_batch_softmax(QUERY, CANDIDATES, TARGET, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drawn": -1}, "drawn=-1; expected at least 0"),
        ({"drawn": 1.5}, "drawn=1.5; expected a whole number"),
        ({"catalogue": 0}, "catalogue=0; expected at least 1"),
        ({"log_probability": torch.tensor([-1.0, -1, NAN, -1, -1])}, "log_probability, row 2: nan"),
        (
            {"log_probability": torch.tensor([-1.0, 2, -1, -1, -1])},
            "log_probability, row 1: 2; expected the log",
        ),
    ],
)
def test_what_sampled_softmax_mixes_is_checked(change: dict[str, Any], message: str) -> None:
    right = {"multiplicity": torch.ones(5), "log_probability": -torch.ones(5), "drawn": 2, "catalogue": 9}
    with pytest.raises(ConfigError, match=re.escape(message)):
        functional.sampled_softmax(QUERY, CANDIDATES, TARGET, **right | change)  # type: ignore[arg-type]


def test_a_mean_by_some_weights_of_0_and_a_sum_by_nothing_else_are_fine() -> None:
    nothing, some = torch.zeros(4), torch.tensor([0.0, 1.0, 0.0, 0.0])
    alone = functional.full_softmax(QUERY[1:2], CANDIDATES, TARGET[1:2])
    torch.testing.assert_close(functional.full_softmax(QUERY, CANDIDATES, TARGET, weights=some), alone)
    assert functional.full_softmax(QUERY, CANDIDATES, TARGET, weights=nothing, reduction="sum") == 0


SCORES, RELEVANCE = torch.randn(2, 3), torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
PREDICTIONS, TARGETS = torch.randn(3), torch.tensor([0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("call", "change", "message"),
    [
        ("list", {"relevance": -RELEVANCE}, "relevance, list 0, member 0: -1; expected a finite number of at least 0"),
        ("list", {"relevance": RELEVANCE * NAN}, "relevance, list 0, member 0: nan"),
        ("list", {"loss": "hinge"}, "loss='hinge'; expected one of 'softmax'"),
        ("list", {"reduction": "none"}, "reduction='none'; expected one of"),
        ("list", {"weights": torch.tensor([1.0, -1.0])}, "weights, row 1: -1"),
        ("list", {"weights": torch.ones(3)}, "weights is [3]; expected [2]"),
        ("list", {"weights": torch.zeros(2)}, "weights are all 0"),
        ("list", {"mask": torch.ones(2, 3)}, "mask is torch.float32; expected True or False"),
        (
            "list",
            {"scores": SCORES[0], "relevance": RELEVANCE[0]},
            "scores is torch.float32 [3]; expected floats",
        ),
        ("point", {"loss": "hinge"}, "loss='hinge'; expected one of 'squared'"),
        ("point", {"targets": TARGETS * NAN}, "targets, row 0: nan; expected a finite number"),
        (
            "point",
            {"targets": TARGETS + 0.5, "loss": "cross_entropy"},
            "targets, row 1: 1.5; expected a number from",
        ),
        ("point", {"loss": "huber", "delta": 0.0}, "delta=0.0; expected a number above 0"),
        ("point", {"delta": NAN}, "delta=nan; expected a finite number"),
        ("point", {"weights": torch.tensor([1.0, NAN, 1.0])}, "weights, row 1: nan"),
        ("point", {"weights": torch.zeros(3)}, "weights are all 0"),
        ("point", {"reduction": "none"}, "reduction='none'; expected one of"),
        ("point", {"predictions": [0.0, 1.0, 0.0]}, "predictions=[0.0, 1.0, 0.0]; expected a Tensor"),
        ("point", {"predictions": PREDICTIONS[:0], "targets": TARGETS[:0]}, "predictions is torch.float32 [0]"),
    ],
)
def test_the_losses_of_lists_and_numbers_check_what_they_are_given(
    call: str, change: dict[str, Any], message: str
) -> None:
    right = {"scores": SCORES, "relevance": RELEVANCE}
    loss: Callable[..., object] = functional.listwise_loss
    if call == "point":
        right, loss = {"predictions": PREDICTIONS, "targets": TARGETS}, functional.pointwise_loss
    with pytest.raises(ConfigError, match=re.escape(message)):
        loss(**right | change)


def test_a_feature_is_in_a_tower_once_and_in_one_tower() -> None:
    one = features.Category("user", 8)
    for twin in (one, features.Category("user", 8)):
        with pytest.raises(ConfigError, match="features 0 and 2 of a tower are both category of 'user'"):
            Tower([one, features.Category("other", 8), twin])
    Tower([one, features.Category("user", 4), features.Hashed("user", dim=8)])  # no two of them the same
    with pytest.raises(ConfigError, match="both towers use the same category object of 'user'"):
        TwoTower(Tower([one], [4]), Tower([one], [4]))


def test_a_part_in_which_every_event_weighs_nothing_is_refused(tmp_path: Path) -> None:
    table = pa.table({"u": [1, 2, 1, 2, 1], "i": [1, 1, 2, 2, 1], "w": [0.0, 0, 0, 0, 1], "t": [1, 2, 3, 4, 5]})
    log = data.from_tables(table, weight="w", time="t", **IDS)
    message = "column 'w': split time:0.2 leaves no event in train with a weight above 0"
    with pytest.raises(DataError, match=message):
        data.split_by_time(log, 0.2)
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match="column 'w': every weight is 0"):
        data.split_log(data.stream_parquet(tmp_path, weight="w", time="t", **IDS), data.TimeSplit(0.2))
    model = TwoTower(Tower([features.Category("u", 4)]), Tower([features.Category("i", 4)]))
    with pytest.raises(DataError, match="column 'w': every weight is 0; expected at least one above"):
        Trainer(epochs=1).fit(model, log.take(np.arange(4)))


def test_a_csv_column_called_nothing_but_spaces_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("u,i,,  \n1,2,3,4\n", encoding="utf-8")
    assert data.read_table(tmp_path / "log.csv").column_names == ["u", "i"]
