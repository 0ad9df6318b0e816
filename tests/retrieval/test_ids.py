"""What cannot be an id is refused wherever an id comes in, with its column, the value and what was expected."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toy import groups_log
from twotower.data import from_tables
from twotower.errors import ConfigError, DataError, UnknownCandidateError
from twotower.features import Category, History, Normalized
from twotower.model import Tower, TwoTower
from twotower.retrieval import Retriever
from twotower.retrieval.bulk import recommend_all
from twotower.retrieval.ids import LINEAR_SCAN_LIMIT, Ids

NO_IDS: Sequence[Any] = (
    True, np.True_, 3.5, np.float32(0.5), float("inf"), Decimal("3.5"), 3j, [1], {"a": 1}, (1,), b"1",
    dt.date(2020, 1, 1), object(), "\ud800", pd.NA,
)  # fmt: skip


def retriever_of(id_of: Callable[[str, int], int | str]) -> Retriever:
    """One that reads no ids of queries, so that nothing but the check can refuse them."""
    plain = groups_log(300)
    log = from_tables(
        pa.table(
            {
                "user": [id_of("u", number) for number in plain.query_index.tolist()],
                "item": [id_of("i", number) for number in plain.candidate_index.tolist()],
                "at": plain.times,
            }
        ),
        query_id="user",
        candidate_id="item",
        time="at",
        queries=pa.table({"user": [id_of("u", number) for number in range(40)], "age": range(40)}),
    )
    query = Tower([Normalized("age"), History("item", by="user", time="at", dim=4)], [4])
    model = TwoTower(query, Tower([Category("item", 4)], [4])).learn(log)
    return Retriever.build(model, log.candidates, seen=log)


@pytest.fixture(scope="module", params=["integers", "text"])
def retriever(request: pytest.FixtureRequest) -> Retriever:
    return retriever_of((lambda _, number: number) if request.param == "integers" else "{}{}".format)


@pytest.mark.parametrize("value", NO_IDS, ids=lambda value: "an object" if type(value) is object else repr(value))
def test_what_cannot_be_an_id_is_refused_everywhere(retriever: Retriever, value: Any) -> None:
    known = retriever.ids.value(0)
    for ask, column in (
        (lambda: retriever.recommend({"user": value}), "user"),
        (lambda: retriever.recommend({"user": value, "age": 30}), "user"),
        (lambda: retriever.recommend_many([{"age": 1}, {"user": value}]), "user"),
        (lambda: retriever.explain({"user": value}, known), "user"),
        (lambda: retriever.query_embeddings([{"user": value}]), "user"),
        (lambda: retriever.history_of(value), "user"),
        (lambda: retriever.recommend({"age": 3, "history": [known, value]}, exclude_seen=False), "history"),
        (lambda: retriever.recommend({"age": 3}, exclude=[known, value]), "item"),
        (lambda: retriever.recommend({"age": 3}, exclude=[known] * LINEAR_SCAN_LIMIT + [value]), "item"),
        (lambda: retriever.recommend({"age": 3}, allow=[value]), "item"),
        (lambda: retriever.similar(value), "item"),
        (lambda: retriever.similar(known, exclude=[value]), "item"),
        (lambda: retriever.explain({"age": 3}, value), "item"),
        (lambda: retriever.withdraw([value]), "item"),
    ):
        with pytest.raises(DataError, match=rf"{column}.* (text|a whole number)") as raised:
            ask()
        assert value is pd.NA or repr(value) in str(raised.value)


@pytest.mark.parametrize("value", [None, float("nan"), pd.NaT], ids=repr)
def test_a_null_is_no_candidate(retriever: Retriever, value: Any) -> None:
    known = retriever.ids.value(0)
    for ask in (
        lambda: retriever.similar(value),
        lambda: retriever.recommend({"age": 3}, exclude=[value]),
        lambda: retriever.recommend({"age": 3}, exclude=[known] * LINEAR_SCAN_LIMIT + [value]),
        lambda: retriever.withdraw([value]),
    ):
        with pytest.raises(DataError, match=r"item .* expected an id, which is"):
            ask()


@pytest.mark.parametrize("values", ["i1", b"i1", {"i1": 1}, 5, None], ids=repr)
def test_one_id_is_no_list_of_them(retriever: Retriever, values: Any) -> None:
    with pytest.raises(DataError, match="expected a list of item ids"):
        retriever.recommend({"age": 3}, exclude=values)
    with pytest.raises(DataError, match="expected a list of item ids"):
        retriever.withdraw(values)


def test_text_and_whole_numbers_of_any_kind_are_ids() -> None:
    retriever = retriever_of(lambda _, number: number)
    expected = retriever.recommend({"user": 3}, 5, exclude=[1, 2])
    for three in ("3", 3.0, np.int8(3), np.float64(3), Decimal(3), pa.scalar(3)):
        assert retriever.recommend({"user": three}, 5, exclude=iter([np.int64(1), "2"])) == expected
    assert retriever.recommend({"user": 3}, 5, exclude=pa.chunked_array([[1, 2]])) == expected
    with pytest.raises(DataError, match=r"'u3' is str; expected an id, which is a whole number \(int64\)"):
        retriever.recommend("u3")
    with pytest.raises(DataError, match=r"expected an id, which is a whole number \(int64\)"):
        retriever.recommend(10**30)
    with pytest.raises(UnknownCandidateError, match="'i3' is not in the catalogue"):
        retriever.similar("i3")


def test_large_integers_are_told_apart() -> None:
    ids = Ids(pa.chunked_array([pa.array([2**63 + 1, 2**53 + 1, 2**53, 2**64 - 1], pa.uint64())]), "item")
    assert [ids.row(value) for value in (2**53, 2**53 + 1, 2**63 + 1, str(2**64 - 1))] == [2, 1, 0, 3]
    assert ids.rows([2**53 + 1] * (LINEAR_SCAN_LIMIT + 1)).tolist() == [1]
    with pytest.raises(DataError, match=r"-1 is int; expected an id, which is a whole number \(uint64\)"):
        ids.rows([-1])


def test_a_file_of_queries_is_refused_with_the_row(retriever: Retriever, tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [None, True]}), tmp_path / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet, row 1: user True is bool; expected an id") as raised:
        recommend_all(retriever, tmp_path / "queries.parquet", tmp_path / "out.parquet")
    assert raised.value.column == "user"


def test_a_boolean_alone_is_no_query(retriever: Retriever) -> None:
    with pytest.raises(ConfigError, match="a query is True, a bool; expected its user"):
        retriever.recommend(True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "k=0; expected at least 1"),
        ({"k": 1.5}, "k=1.5; expected a whole number"),
        ({"k": True}, "k=True; expected a whole number"),
        ({"k": "3"}, "k='3'; expected a whole number"),
        ({"where": 3}, "where=3; expected text or None"),
        ({"exclude_seen": "no"}, "exclude_seen='no'; expected True or False"),
    ],
)
def test_settings_of_another_type_are_refused(retriever: Retriever, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        retriever.recommend({"age": 3}, **settings)
    assert [raised.value.field] == list(settings)
    if "exclude_seen" not in settings:
        with pytest.raises(ConfigError, match=message):
            retriever.similar(retriever.ids.value(0), **settings)
    assert len(retriever.recommend({"age": 3}, k=np.int64(3))) == 3  # type: ignore[arg-type]
