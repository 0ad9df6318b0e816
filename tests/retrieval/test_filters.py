"""What every retriever promises, whichever way it searches and embeds: answers under filters, and other catalogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toy import groups_log
from twotower.data import Dataset, from_tables
from twotower.errors import ConfigError, DataError, UnknownCandidateError
from twotower.features import Category, Normalized
from twotower.model import Tower, TwoTower
from twotower.retrieval import Answer, Exact, Hnsw, IndexSettings, Retriever
from twotower.retrieval.bundle import with_onnx

GENRES = ("war", "noir", "farce")
CANDIDATES, QUERIES = 400, 30


def films() -> Dataset:
    """Candidates with a year and genres, each chosen at least once; the ids are text."""
    draw = np.random.default_rng(0)
    who = draw.integers(QUERIES, size=3 * CANDIDATES)
    what = np.concatenate([np.arange(CANDIDATES), draw.integers(CANDIDATES, size=2 * CANDIDATES)])
    years = draw.integers(1960, 2000, size=CANDIDATES).tolist()
    catalogue = {
        "film": [f"f{number}" for number in range(CANDIDATES)],
        "year": [None if number % 9 == 0 else year for number, year in enumerate(years)],
        "genres": [[GENRES[number % 3]] + ([GENRES[0]] if number % 2 else []) for number in range(CANDIDATES)],
    }
    log = {"user": who, "film": [f"f{number}" for number in what], "at": np.arange(len(who))}
    tables: dict[str, Any] = {"candidates": pa.table(catalogue), "queries": pa.table({"user": range(QUERIES)})}
    return from_tables(pa.table(log), query_id="user", candidate_id="film", time="at", **tables)


def whole_numbers(log: Dataset) -> TwoTower:
    """A model whose embeddings are small whole numbers, so that scores are exact and often equal."""
    model = TwoTower(Tower([Category("user", 6)]), Tower([Category("film", 6)])).learn(log)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=draw))
    return model.eval()


LOG = films()
FILMS = LOG.candidates.to_pylist()
MODEL = whole_numbers(LOG)
KINDS: dict[str, IndexSettings] = {
    "exact": Exact(),
    "hnsw": Hnsw(neighbours=8),
    "onnx": Exact(),
}


@pytest.fixture(scope="module", params=KINDS)
def retriever(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    built = Retriever.build(MODEL, LOG.candidates, seen=LOG, index=KINDS[request.param], parity=None)
    if request.param != "onnx":
        return built
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    request.getfixturevalue("quick_exports")
    folder = tmp_path_factory.mktemp("onnx") / "films"
    Retriever(with_onnx(built.bundle)).save(folder)
    return Retriever.load(folder, engine="onnx")


def ids_of(answer: Answer) -> list[int | str]:
    return [one.id for one in answer]


ID_LISTS = st.lists(st.integers(0, CANDIDATES + 20).map("f{}".format), max_size=120)


@settings(max_examples=100)  # of each index
@given(
    query=st.sampled_from([*range(QUERIES), 999]),
    k=st.sampled_from([1, 7, 60, 500]),
    exclude_seen=st.booleans(),
    exclude=ID_LISTS,
    allow=st.none() | ID_LISTS | st.just([f"f{number}" for number in range(0, CANDIDATES, 2)]),
    year=st.none() | st.integers(1955, 2005),
    genre=st.none() | st.sampled_from(GENRES),
    history=st.none() | ID_LISTS,
)
def test_any_filters_equal_brute_force(
    retriever: Retriever,
    query: int,
    k: int,
    exclude_seen: bool,
    exclude: list[str],
    allow: list[str] | None,
    year: int | None,
    genre: str | None,
    history: list[str] | None,
) -> None:
    conditions = [f"year >= {year}"] * (year is not None) + [f'genres contains "{genre}"'] * (genre is not None)
    where = " and ".join(conditions) or None
    request = {"user": query} | ({} if history is None else {"history": history})
    answer = retriever.recommend(request, k, exclude_seen=exclude_seen, exclude=exclude, allow=allow, where=where)
    seen = set(LOG.candidate_index[LOG.query_index == query].tolist()) if exclude_seen else set()
    unwanted = {*exclude, *(history or ())} if exclude_seen else set(exclude)
    allowed = None if allow is None else set(allow)
    left = [
        row
        for row, film in enumerate(FILMS)
        if film["film"] not in unwanted
        and row not in seen
        and (allowed is None or film["film"] in allowed)
        and (year is None or (film["year"] is not None and film["year"] >= year))
        and (genre is None or genre in film["genres"])
    ]
    if query == 999:
        scores = LOG.candidate_counts().astype(float)
        assert answer.basis == "popularity"
    else:
        vectors = retriever.embed([{"user": query}], [query])
        scores = (retriever.index.embeddings @ vectors[0]).double().numpy()
        assert answer.basis == "query"
    expected = sorted(left, key=lambda row: (-scores[row], row))[:k]
    assert len(answer) == len(expected)
    assert {int(str(one.id)[1:]) for one in answer} <= set(left)
    assert [one.score for one in answer] == [scores[int(str(one.id)[1:])] for one in answer]
    if answer.basis == "popularity" or retriever.index.kind == "exact":
        assert ids_of(answer) == [f"f{row}" for row in expected]


def test_similar_is_by_cosine_and_never_the_candidate_itself(retriever: Retriever) -> None:
    embeddings = retriever.index.embeddings.double()
    lengths = embeddings.norm(dim=1).clamp(min=1e-30)
    cosines = (embeddings @ embeddings[5] / lengths / lengths[5]).numpy()
    cosines[5] = -np.inf
    answer = retriever.similar("f5", 10)
    assert answer.basis == "candidate"
    assert [one.score for one in answer] == pytest.approx(sorted(cosines, reverse=True)[:10], abs=1e-6)
    assert "f5" not in ids_of(retriever.similar("f5", 500))
    assert len(retriever.similar("f5", 500)) == CANDIDATES - 1
    only = retriever.similar("f5", 10, allow=["f5", "f6", "f7"], exclude=["f7"])
    assert ids_of(only) == ["f6"]
    late = retriever.similar("f5", 500, where="year >= 1990")
    assert {one.candidate["year"] >= 1990 for one in late} == {True}
    with pytest.raises(UnknownCandidateError, match="'f999' is not in the catalogue of 400 candidates"):
        retriever.similar("f999")


def test_history_is_latest_first_and_each_once(retriever: Retriever) -> None:
    mine = LOG.candidate_index[LOG.query_index == 4][::-1]  # events are in order of time
    assert retriever.history_of(4) == [f"f{row}" for row in dict.fromkeys(mine.tolist())]
    assert retriever.history_of(999) == []


def test_what_an_answer_is_based_on() -> None:
    log = groups_log(500)
    aged = pa.table({"user": range(40), "age": [20 + number for number in range(40)]})
    log = from_tables(
        log.interactions, query_id="user", candidate_id="item", time="at", queries=aged, candidates=log.candidates
    )
    model = TwoTower(Tower([Category("user", 4), Normalized("age")], [4]), Tower([Category("item", 4)], [4]))
    retriever = Retriever.build(model.learn(log), log.candidates, seen=log)
    for request, basis in (
        ({"user": 3}, "query"),
        ({"user": "3"}, "query"),
        ({"user": 999, "age": 30}, "features"),
        ({"age": 30}, "features"),
        ({"age": None, "user": 999}, "popularity"),
        ({"user": 999, "at": 5}, "popularity"),
        ({"user": 999, "history": [1, 2]}, "popularity"),  # which this tower does not read
        ({}, "popularity"),
    ):
        answer = retriever.recommend(request)
        assert (answer.basis, answer.version) == (basis, retriever.version)
        assert ids_of(retriever.recommend_many([{"user": 1}, request])[1]) == ids_of(answer)
    events = [one.score for one in retriever.recommend({}, 30)]
    assert events == sorted(log.candidate_counts().tolist(), reverse=True)


def test_ids_that_cannot_be_ids_are_refused_and_unknown_ones_do_no_harm(retriever: Retriever) -> None:
    plain = retriever.recommend({"user": 1}, 5)
    assert retriever.recommend({"user": 1}, 5, exclude=["nobody"]) == plain
    assert len(retriever.recommend({"user": 1}, 5, allow=["nobody"])) == 0
    for wrong in ([[1]], [None], [{"a": 1}], [True], ["\ud800"]):
        with pytest.raises(DataError, match="film"):
            retriever.recommend({"user": 1}, exclude=wrong)
        with pytest.raises(DataError, match="film"):
            retriever.recommend({"user": 1}, allow=wrong * 100)
    with pytest.raises(DataError, match="history"):
        retriever.recommend({"user": 1, "history": "f1"}, exclude_seen=True)
    with pytest.raises(ConfigError, match="yeer"):
        retriever.recommend({"user": 1}, where="yeer > 3")


def test_an_added_candidate_is_found_at_once_and_a_changed_one_keeps_its_row(retriever: Retriever) -> None:
    new = pa.table({"genres": [["noir"], ["noir"]], "film": ["f3", "new"], "year": [2025, 2026]})
    wider = retriever.add(new)
    assert ids_of(wider.recommend({"user": 1}, 5, where="year > 2020")) in (["f3", "new"], ["new", "f3"])
    assert wider.candidates["film"].to_pylist() == [*retriever.candidates["film"].to_pylist(), "new"]
    assert wider.candidates.slice(3, 1).to_pylist() == [{"film": "f3", "year": 2025, "genres": ["noir"]}]
    assert wider.details.revision == 1
    assert wider.version != retriever.version
    assert wider.history_of(4) == retriever.history_of(4)
    assert len(wider.recommend({"user": 4}, 1000, exclude_seen=True)) == CANDIDATES + 1 - len(wider.history_of(4))
    assert len(retriever.recommend({"user": 1}, 5, where="year > 2020")) == 0  # the old one goes on
    popular = wider.recommend({}, 1000)
    assert ids_of(popular)[-1] == "new"
    assert popular[-1].score == 0.0


def test_a_withdrawn_candidate_is_nowhere_and_can_come_back(retriever: Retriever) -> None:
    gone = [str(one) for one in retriever.history_of(4)[:2]]
    narrower = retriever.withdraw(gone)
    assert len(narrower.index) == CANDIDATES - 2
    for answer in (
        narrower.recommend({"user": 4}, 1000, exclude_seen=False),
        narrower.recommend({}, 1000),
        narrower.similar("f399" if "f399" not in gone else "f398", 1000),
    ):
        assert not set(gone) & set(ids_of(answer))
    assert narrower.history_of(4) == retriever.history_of(4)[2:]
    plain = {one.id: one.score for one in retriever.recommend({"user": 4}, 1000, exclude_seen=False)}
    assert all(plain[one.id] == one.score for one in narrower.recommend({"user": 4}, 1000, exclude_seen=False))
    back = narrower.add(retriever.candidates.filter(pa.compute.is_in(retriever.candidates["film"], pa.array(gone))))
    assert {one.id: one.score for one in back.recommend({"user": 4}, 1000, exclude_seen=False)} == plain
    with pytest.raises(UnknownCandidateError, match=gone[0]):
        narrower.withdraw([gone[0]])
    with pytest.raises(DataError, match="all 400 candidates would be withdrawn"):
        retriever.withdraw(retriever.candidates["film"].to_pylist())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"film": ["x"]}, "column 'year' is missing"),
        ({"film": ["x"], "year": [1], "genres": [[]], "stars": [3]}, "'stars' is not in the catalogue"),
        ({"film": ["x", "x"], "year": [1, 2], "genres": [[], []]}, "'x' is already in row 0"),
        ({"film": [7], "year": [1], "genres": [[]]}, "expected one type"),
        ({"film": ["x"], "year": ["then"], "genres": [[]]}, "then"),
        ({"film": [None], "year": [1], "genres": [[]]}, "film"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(
    retriever: Retriever, table: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        retriever.add(pa.table(table))
