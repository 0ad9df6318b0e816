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
from twotower import Hnsw, ProgressBar, Retriever, data, editing, evaluate, evaluation, features, load_model, save_model
from twotower.arguments import shortened
from twotower.errors import TwoTowerError
from twotower.model import functional

LOG = groups_log(200)
TRAIN, TEST = data.split_random(LOG)
MODEL = toy_model().learn(TRAIN)
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
    "from_tables: time": (lambda value: data.from_tables(TABLE, time=value, **IDS), NO_TEXT),
    "from_tables: name": (lambda value: data.from_tables(TABLE, name=value, **IDS), NO_TEXT),
    "from_tables: delimiter": (lambda value: data.from_tables(TABLE, delimiter=value, **IDS), NO_TEXT),
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
    "rank_metrics: ranks": (evaluation.rank_metrics, (None, "x", [1.0])),
    "query_metrics: ks": (lambda value: evaluation.query_metrics(np.ones(2), ROWS, ROWS, value), LENGTHS),
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
        ({"candidates": CANDIDATES.double()}, "candidates torch.float64; expected one type of floats"),
        ({"candidates": CANDIDATES[:0]}, "expected columns from 0 to -1"),
        ({"query": QUERY.long(), "candidates": CANDIDATES.long()}, "expected one type of floats"),
        ({"weights": 1.0}, "weights=1.0; expected a Tensor"),
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
