"""What a request may say and how: ids alone, nulls, moments in any unit, tables; and what the answer says of itself."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from toy import groups_log
from twotower.data import Dataset, from_tables
from twotower.errors import ConfigError, DataError
from twotower.features import Bucketized, Category, Cyclic, Elapsed, Hashed, History, Normalized
from twotower.model import Tower, TwoTower
from twotower.retrieval import Answer, Retriever
from twotower.retrieval.requests import Query

START = 1_700_000_000
NEVER_TRAINED = 39
"""A query that the query table has and no event names."""


def log_of_2023() -> Dataset:
    plain = groups_log(600)
    rows = plain.query_index != NEVER_TRAINED
    return from_tables(
        pa.table(
            {
                "user": [f"u{n}" for n in plain.query_index[rows]],
                "item": plain.candidate_index[rows],
                "at": START + 60 * np.arange(int(rows.sum())),
            }
        ),
        query_id="user",
        candidate_id="item",
        time="at",
        queries=pa.table(
            {
                "user": [f"u{n}" for n in range(40)],
                "age": [None if n == 38 else 20 + n for n in range(40)],
                "joined": [dt.date(2020, 1, 1 + n % 28) for n in range(40)],
            }
        ),
        candidates=plain.candidates,
    )


LOG = log_of_2023()


def retriever_of(*query: Any, **options: Any) -> Retriever:
    model = TwoTower(Tower(list(query), [8]), Tower([Category("item", 8)], [8])).learn(LOG)
    return Retriever.build(model, LOG.candidates, seen=LOG, **options)


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    recorded = [Elapsed("at", by="user", since="previous", dim=4), History("item", by="user", time="at", dim=4)]
    joined = [Normalized("joined"), Cyclic("at")]
    return retriever_of(
        Category("user", 8), Normalized("at"), Bucketized("at", 9, 4), Normalized("age"), *recorded, *joined
    )


def told(answer: Answer) -> list[tuple[object, float]]:
    return [(one.id, one.score) for one in answer]


@pytest.mark.parametrize("column", ["at", "age", "joined", "history"])
@pytest.mark.parametrize("nothing", [None, float("nan"), pd.NaT])
def test_a_null_is_not_named(retriever: Retriever, column: str, nothing: object) -> None:
    plain = retriever.recommend({"user": "u4"})
    assert retriever.recommend({"user": "u4", column: nothing}) == plain
    asked = pa.table({"user": ["u4"], column: pa.array([None], pa.list_(pa.int64()) if column == "history" else None)})
    assert retriever.recommend_many(asked) == [plain]
    assert retriever.explain({"user": "u4", column: nothing}, 1) == retriever.explain({"user": "u4"}, 1)
    assert told(retriever.recommend({"user": None})) == told(retriever.recommend({}))


MOMENT = dt.datetime(2023, 11, 15, 3, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "at",
    [
        MOMENT,
        MOMENT.replace(tzinfo=None),
        MOMENT.astimezone(dt.timezone(dt.timedelta(hours=-7))),
        "2023-11-15T03:30:00Z",
        "2023-11-15 04:30:00+01:00",
        "2023-11-15T03:30",
        MOMENT.timestamp(),
        MOMENT.timestamp() * 1e3,
        int(MOMENT.timestamp()) * 10**6,
        int(MOMENT.timestamp()) * 10**9,
        np.int64(MOMENT.timestamp()),
        np.datetime64("2023-11-15T03:30", "ns"),
        pd.Timestamp(MOMENT),
    ],
    ids=str,
)
def test_a_moment_may_be_said_in_several_ways(retriever: Retriever, at: object) -> None:
    expected = retriever.recommend({"user": "u4", "at": int(MOMENT.timestamp())})
    assert retriever.recommend({"user": "u4", "at": at}) == expected
    assert told(expected) != told(retriever.recommend({"user": "u4"}))


def test_a_day_is_its_midnight_and_other_columns_of_dates_take_text_too(retriever: Retriever) -> None:
    midnight = retriever.recommend({"user": "u4", "at": "2023-11-15T00:00:00Z"})
    assert retriever.recommend({"user": "u4", "at": dt.date(2023, 11, 15)}) == midnight
    assert retriever.recommend({"user": "u4", "at": "2023-11-15"}) == midnight
    joined = retriever.recommend({"user": "u4", "joined": dt.date(2020, 1, 28)})
    assert retriever.recommend({"user": "u4", "joined": "2020-01-28"}) == joined
    assert told(joined) != told(retriever.recommend({"user": "u4"}))


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (START * 10**12, r"'at' of the query: 17\d* .* expected seconds since 1970"),
        (-5, "'at' of the query: -5 .* expected seconds since 1970"),
        (float("inf"), "'at' of the query: inf"),
        pytest.param(10**400, "'at' of the query", id="huge"),
        ("yesterday", "'yesterday' is str; expected seconds since 1970 as a number, or a date or time in ISO 8601"),
        ("2023-13-45", "'2023-13-45' is not an ISO 8601 time"),
        (True, "True is bool"),
    ],
)
@pytest.mark.parametrize("user", ["u4", "nobody"])
def test_what_is_no_time_is_refused(retriever: Retriever, user: str, at: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        retriever.recommend({"user": user, "at": at})
    with pytest.raises(DataError, match=message):
        retriever.recommend_many([{"user": "u1"}, {"user": user, "at": at}])
    with pytest.raises(DataError, match=message):
        retriever.explain({"user": user, "at": at}, 3)


def test_a_moment_beyond_training_is_read_as_its_end_and_said_so() -> None:
    retriever = retriever_of(Category("user", 8), Normalized("at"), Bucketized("at", 9, 4))
    times = LOG.times
    for at, last, where in ((times.max() + 10**8, times.max(), "after"), (5, times.min(), "before")):
        far = retriever.recommend({"user": "u4", "at": at})
        at_the_end = retriever.recommend({"user": "u4", "at": last})
        assert told(far) == told(at_the_end)
        assert at_the_end.notes == ()
        (note,) = far.notes
        assert f"is {where} all training events" in note
        assert f"{dt.datetime.fromtimestamp(last, dt.UTC):%Y-%m-%d %H:%M:%S} UTC" in note
    assert retriever.recommend({"user": "u4"}).notes == ()


def test_basis_is_what_the_score_comes_from() -> None:
    id_alone = retriever_of(Category("user", 8), Normalized("at"))
    aged = retriever_of(Category("user", 8), Normalized("age"))
    recorded = retriever_of(Elapsed("at", by="user", dim=4))
    hashed = retriever_of(Hashed("user", 50, 8))
    without_id = retriever_of(Normalized("age"))
    for retriever, query, basis in (
        (id_alone, "u4", "query"),
        (id_alone, f"u{NEVER_TRAINED}", "popularity"),  # the query table has it, and training never saw it
        (id_alone, "nobody", "popularity"),
        (aged, "u4", "query"),
        (aged, f"u{NEVER_TRAINED}", "features"),
        (aged, {"user": "nobody", "age": 30}, "features"),
        (aged, "nobody", "popularity"),
        (recorded, "u4", "query"),
        (recorded, f"u{NEVER_TRAINED}", "popularity"),
        (hashed, "u4", "query"),
        (hashed, f"u{NEVER_TRAINED}", "popularity"),
        (without_id, "u4", "features"),
        (without_id, "u38", "popularity"),  # whose age is missing
    ):
        assert retriever.recommend(query).basis == basis, (query, basis)
        assert retriever.recommend_many(["u1", query])[1].basis == basis


def test_the_id_alone_is_a_query(retriever: Retriever) -> None:
    expected = retriever.recommend({"user": "u4"}, 5)
    assert retriever.recommend("u4", 5) == expected
    for answer in retriever.recommend_many(["u4", {"user": "u4"}], 5):
        assert [one.id for one in answer] == [one.id for one in expected]
    assert retriever.explain("u4", 3) == retriever.explain({"user": "u4"}, 3)
    with pytest.raises(
        ConfigError, match="names 'usr'; expected columns among age, at, exclude, history, joined, user"
    ):
        retriever.recommend({"usr": "u4"})
    for wrong in (3.5, None, ["u4"], True):
        with pytest.raises(ConfigError, match="expected its user, or its columns by name"):
            retriever.recommend(wrong)  # type: ignore[arg-type]
    for one in ("u4", {"user": "u4"}):
        with pytest.raises(ConfigError, match="expected several queries, in a list or a table"):
            retriever.recommend_many(one)
    with pytest.raises(DataError, match="'history' of the query: 'i1'; expected a list"):
        retriever.recommend({"user": "u4", "history": "i1"}, exclude_seen=False)


ASKED: dict[str, list[Any]] = {"user": ["u4", "u5", None], "age": [30, None, 41], "at": [START, None, START + 5]}


@pytest.mark.parametrize(
    "table",
    [
        pa.table(ASKED),
        pa.table(ASKED).to_batches()[0],
        pl.DataFrame(ASKED),
        pd.DataFrame(ASKED),
        pd.DataFrame(ASKED, index=[7, 8, 9]),
        pl.DataFrame(ASKED).with_columns(pl.col("user").cast(pl.String), pl.from_epoch("at")),
    ],
    ids=["arrow", "batch", "polars", "pandas", "pandas with an index", "timestamps"],
)
def test_a_table_of_queries_is_answered_row_by_row(retriever: Retriever, table: Any) -> None:
    one_by_one = [
        retriever.recommend({name: values[row] for name, values in ASKED.items() if values[row] is not None}, 5)
        for row in range(3)
    ]
    answers = retriever.recommend_many(table, 5)
    assert [[one.id for one in answer] for answer in answers] == [[one.id for one in answer] for answer in one_by_one]
    assert [answer.basis for answer in answers] == ["query", "query", "features"]
    with pytest.raises(ConfigError, match="recommend_many, which answers each row"):
        retriever.recommend(table)


@pytest.mark.parametrize(
    "ids", [["u4", "u5"], np.array(["u4", "u5"]), pd.Series(["u4", "u5"]), pl.Series(["u4", "u5"])]
)
def test_a_column_of_ids_is_answered_id_by_id(retriever: Retriever, ids: Any) -> None:
    answers = retriever.recommend_many(ids, 5)
    assert [told(one)[0][0] for one in answers] == [told(retriever.recommend(one, 5))[0][0] for one in ("u4", "u5")]


def test_what_was_seen_is_excluded_unless_asked_for(retriever: Retriever) -> None:
    seen = set(retriever.history_of("u4"))
    assert seen
    assert not seen & {one.id for one in retriever.recommend("u4", 30)}
    assert seen <= {one.id for one in retriever.recommend("u4", 30, exclude_seen=False)}


def test_embeddings_come_with_their_ids_and_give_the_scores(retriever: Retriever) -> None:
    candidates = retriever.candidate_embeddings()
    assert candidates["item"].equals(retriever.candidates["item"])
    catalogue = np.stack(candidates["embedding"].to_numpy())
    queries = retriever.query_embeddings([{"user": "u4"}, "u5", {"age": 30, "at": START}])
    assert queries.schema == pa.schema({"user": pa.string(), "embedding": pa.list_(pa.float32(), 8)})
    assert queries["user"].to_pylist() == ["u4", "u5", None]
    scores = np.stack(queries["embedding"].to_numpy()) @ catalogue.T
    expected = retriever.recommend("u5", 30, exclude_seen=False)
    assert [one.score for one in expected] == pytest.approx(sorted(scores[1], reverse=True), rel=1e-5)
    assert retriever.query_embeddings()["user"].equals(retriever.queries["user"])
    torch.testing.assert_close(
        torch.from_numpy(np.stack(retriever.query_embeddings(pa.table({"user": ["u4"]}))["embedding"].to_numpy())),
        torch.from_numpy(np.stack(queries["embedding"].to_numpy())[:1]),
    )
    assert retriever.query_embeddings([]).num_rows == 0


def test_the_column_that_shows_a_candidate_can_be_named() -> None:
    table = LOG.candidates.append_column("label", LOG.candidates["title"])
    model = TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)])).learn(LOG)

    def build(title: str | None) -> Retriever:
        return Retriever.build(model, table, seen=LOG, title=title)

    assert build(None).details.title == "title"
    labelled = build("label")
    assert labelled.details.title == "label"
    assert labelled.withdraw([3]).details.title == "label"
    with pytest.raises(ConfigError, match="title 'name' is not a candidate column; expected one of item, title, label"):
        build("name")


@pytest.mark.parametrize(
    ("wrong", "column", "said"),
    [
        ({"user": "u2", "age": float("inf")}, "age", "column 'age' of the query: inf; expected a finite number"),
        ({"user": "u2", "age": 7, "at": -5}, "at", "column 'at' of the query: -5"),
        ({"user": "u2", "planet": "Mars"}, "planet", "names 'planet'"),
        ({"user": "u2", "history": "i1"}, "history", "column 'history' of the query"),
        ({"user": "u2", "history": ["i1"]}, "history", "'i1' is str"),
        ({"user": "u2", "exclude": 3}, "exclude", "column 'exclude' of the query: 3; expected a list"),
        ({"user": "u2", "exclude": ["i1"]}, "exclude", "'i1' is str"),
    ],
)
def test_an_error_carries_which_query_and_which_column_it_is_about(
    wrong: dict[str, Any], column: str, said: str
) -> None:
    """Also where queries before it are answered by popularity, and not embedded."""
    history = History("item", by="user", time="at", dim=4)
    retriever = retriever_of(Category("user", 4), Normalized("age"), history)
    with pytest.raises((ConfigError, DataError)) as caught:
        retriever.recommend_many([{"user": "u1", "age": 30}, {}, {"user": "u3"}, wrong, {"user": "u4"}])
    error = caught.value
    assert (error.field, error.column, error.row) == ("query", column, 3)
    assert said in str(error)
    assert ", row " not in str(error)


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("exclude", ["war"]), ("allow", ["war"]), ("where", "planet = 1"), ("diversity", 1.5)],
)
def test_an_error_carries_which_filter_it_is_about(field: str, value: Any) -> None:
    retriever = retriever_of(Category("user", 4))
    with pytest.raises((ConfigError, DataError)) as caught:
        retriever.recommend("u1", **{field: value})
    assert (caught.value.field, caught.value.row) == (field, None)


def test_each_query_of_a_batch_may_exclude_for_itself(retriever: Retriever) -> None:
    everything = [set(range(30)) - {3, 4}, set(range(30)) - {7}, set(range(30))]
    queries: list[Query] = [{"user": "u1", "exclude": [3, "4", 999]}, {"exclude": [7]}, {"user": "u1", "exclude": None}]
    answers = retriever.recommend_many(queries, 100, exclude_seen=False)
    assert [{found.id for found in answer} for answer in answers] == everything
    both = retriever.recommend_many(queries, 100, exclude_seen=False, exclude=[8])
    assert [{found.id for found in answer} for answer in both] == [left - {8} for left in everything]
    table = pa.table({"user": ["u1", "u2"], "exclude": [[1], None]})
    assert [len(answer) for answer in retriever.recommend_many(table, 100, exclude_seen=False)] == [29, 30]


def test_a_column_of_the_models_named_exclude_is_that_column() -> None:
    log = from_tables(
        pa.table({"user": ["a", "b"], "item": [1, 2], "exclude": [0.5, 1.5]}), query_id="user", candidate_id="item"
    )
    query = Tower([Category("user", 4), Normalized("exclude")], [4])
    model = TwoTower(query, Tower([Category("item", 4)])).learn(log)
    retriever = Retriever.build(model, log.candidates, seen=log)
    assert len(retriever.recommend({"user": "a", "exclude": 1.0}, exclude_seen=False)) == 2


def test_a_column_called_history_is_not_the_history_of_a_request() -> None:
    rows = {"user": ["a", "b", "a", "b"], "item": [1, 2, 3, 1], "at": [1, 2, 3, 4], "history": ["x", "y", "x", "y"]}
    queries = pa.table({"user": ["a", "b"], "history": [[2], [3]]})
    for table in (None, queries):
        log = from_tables(pa.table(rows), queries=table, query_id="user", candidate_id="item", time="at")
        plain = from_tables(pa.table(rows).drop(["history"]), query_id="user", candidate_id="item", time="at")
        torch.manual_seed(0)
        history = History("item", by="user", time="at", dim=4)
        model = TwoTower(Tower([history], layers=[4]), Tower([Category("item", 4)], layers=[4])).learn(log).eval()
        torch.testing.assert_close(model.embed_queries(log), model.embed_queries(plain))
        retriever = Retriever.build(model, log.candidates, seen=log)
        assert retriever.recommend("a", k=3, exclude_seen=False).basis == "query"
        assert len(retriever.recommend({"user": "a", "history": [2]}, k=3, exclude_seen=False).recommendations) == 3


def test_a_tower_with_a_history_reads_no_column_of_that_name() -> None:
    features = [History("item", by="user", time="at", dim=4), Category("history", 4)]
    with pytest.raises(ConfigError, match="reads the column 'history', but requests pass a history under this name"):
        TwoTower(Tower(features, layers=[4]), Tower([Category("item", 4)], layers=[4]))
