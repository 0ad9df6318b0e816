"""What every index promises, whichever way it searches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.errors import ConfigError, ParityError, TwoTowerError
from twotower.retrieval import ApproximateIndex, Exact, ExactIndex, Hnsw, Index, IndexSettings
from twotower.retrieval.approximate import restored_index
from twotower.retrieval.parity import fitted, measure_parity

CANDIDATES, WIDTH = 600, 8
KINDS: dict[str, IndexSettings] = {
    "exact": Exact(),
    "hnsw": Hnsw(neighbours=8, build=40, search=32),
}


def embeddings_of(count: int, seed: int = 0) -> torch.Tensor:
    """Whole numbers, whose products are exact and often equal."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.integers(-3, 4, size=(count, WIDTH)).astype(np.float32))


EMBEDDINGS = embeddings_of(CANDIDATES)


def saved_and_loaded(index: Index, kind: IndexSettings) -> Index:
    return kind.restore(index.embeddings, {name: part.clone() for name, part in index.tensors().items()})


@pytest.fixture(scope="module", params=[(kind, again) for kind in KINDS for again in (False, True)], ids=str)
def index(request: pytest.FixtureRequest) -> Index:
    kind, again = request.param
    built = KINDS[kind].make(EMBEDDINGS)
    return saved_and_loaded(built, KINDS[kind]) if again else built


def expected(
    index: Index, queries: torch.Tensor, k: int, banned: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float32], list[list[int]]]:
    """The true scores, and the rows that a full stable sort of what is left gives."""
    scores = (queries @ index.embeddings.t()).numpy()
    rows = [
        [int(row) for row in np.argsort(-own, kind="stable") if not out[row]][:k]
        for own, out in zip(scores, banned, strict=True)
    ]
    return scores, rows


def check(index: Index, queries: torch.Tensor, k: int, banned: npt.NDArray[np.bool_], found: object) -> None:
    """Exactly k or all left, none banned, true scores, best first; of the exact index the very sort."""
    scores, rows = expected(index, queries, k, banned)
    for place, (own, values) in enumerate(zip(*found, strict=True)):  # type: ignore[misc]
        there = [row for row in own if row >= 0]
        assert own[len(there) :] == [-1] * (len(own) - len(there))
        assert values[len(there) :] == [-np.inf] * (len(own) - len(there))
        assert len(there) == len(set(there)) == len(rows[place])
        assert not banned[place][there].any()
        assert values[: len(there)] == scores[place][there].tolist()
        assert there == sorted(there, key=lambda row: (-scores[place][row], row))
        if index.kind == "exact":
            assert there == rows[place]


@settings(max_examples=300)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, CANDIDATES + 50),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]),
    st.sampled_from([None, 0.0, 0.01, 0.3, 1.0]),
)
def test_any_filters_leave_k_or_all_that_is_left(
    index: Index, seed: int, k: int, queries: int, excluded: float, allowed: float | None
) -> None:
    draw = np.random.default_rng(seed)
    wanted = torch.from_numpy(draw.integers(-3, 4, size=(queries, WIDTH)).astype(np.float32))
    banned = draw.random((queries, CANDIDATES)) < excluded
    pairs = np.nonzero(banned)
    mixed = draw.permutation(len(pairs[0]))
    may = draw.random(CANDIDATES) < (1.0 if allowed is None else allowed)
    hits = index.search(wanted, k, (pairs[0][mixed], pairs[1][mixed]), None if allowed is None else np.flatnonzero(may))
    assert hits.candidates.shape == hits.scores.shape == (queries, min(k, may.sum()))
    check(index, wanted, k, banned | ~may, (hits.candidates.tolist(), hits.scores.tolist()))


@pytest.mark.parametrize("excluded", [(0,) * 9, (0, 1, 2, 3, 30, 31, 60, 200, 530)], ids=["all", "some excluded"])
def test_many_at_once_equal_one_at_a_time(index: Index, excluded: tuple[int, ...]) -> None:
    queries = embeddings_of(9, seed=5)
    draw = np.random.default_rng(7)
    outs = [draw.permutation(CANDIDATES)[:count] for count in excluded]
    pairs = np.repeat(np.arange(9), excluded), np.concatenate(outs)
    together = index.search(queries, 7, pairs)
    for place, out in enumerate(outs):
        alone = index.search(queries[place : place + 1], 7, (np.zeros_like(out), out))
        assert torch.equal(alone.candidates[0], together.candidates[place])
        assert torch.equal(alone.scores[0], together.scores[place])


def test_what_one_query_finds_does_not_depend_on_what_others_may_not_find() -> None:
    index = Hnsw(neighbours=4, build=10).make(torch.randn(5000, 32, generator=torch.Generator().manual_seed(0)))
    queries = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    alone = index.search(queries[:1], 100, (np.zeros(3, dtype=np.int64), np.arange(3)))
    assert alone.candidates.tolist() != ExactIndex(index.embeddings).search(queries[:1], 100).candidates.tolist()
    for others in (0, 500, 900):
        pairs = np.repeat([0, 1], [3, others]), np.concatenate([np.arange(3), np.arange(others)])
        assert torch.equal(index.search(queries, 100, pairs).candidates[0], alone.candidates[0])


def test_it_finds_most_of_what_exact_search_finds(index: Index) -> None:
    assert measure_parity(index, embeddings_of(50, seed=6), threshold=None, k=20).recall > 0.9


def test_nothing_is_found_where_nothing_is_allowed(index: Index) -> None:
    hits = index.search(embeddings_of(3, seed=1), 5, None, np.empty(0, dtype=np.int64))
    assert hits.candidates.shape == (3, 0)


@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (torch.ones(1, WIDTH), 0, ConfigError, "k=0"),
        (torch.ones(1, 3), 1, ConfigError, "queries of width 3"),
        (torch.full((1, WIDTH), torch.nan), 1, TwoTowerError, "not finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    index: Index, queries: torch.Tensor, k: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        index.search(queries, k)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_few_candidates_are_a_catalogue_too(kind: str, count: int) -> None:
    index = saved_and_loaded(KINDS[kind].make(EMBEDDINGS[:count]), KINDS[kind])
    hits = index.search(embeddings_of(2, seed=3), count + 5)
    check(
        index,
        embeddings_of(2, seed=3),
        count + 5,
        np.zeros((2, count), bool),
        (hits.candidates.tolist(), hits.scores.tolist()),
    )


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("again", [False, True], ids=["as made", "saved between"])
def test_a_moved_index_holds_the_new_catalogue_and_nothing_else(kind: str, again: bool) -> None:
    index = KINDS[kind].make(EMBEDDINGS)
    kept = np.arange(0, CANDIDATES, 2)
    origin = np.concatenate([kept, [-1] * 5])
    embeddings = torch.cat([EMBEDDINGS[torch.from_numpy(kept)], embeddings_of(5, seed=9) * 4])
    moved: Index = index.moved(embeddings, origin)
    for step in range(3):  # it can be moved again: a candidate changes
        if again:
            moved = saved_and_loaded(moved, KINDS[kind])
        assert torch.equal(moved.embeddings, embeddings)
        queries = embeddings_of(6, seed=step)
        hits = moved.search(queries, 10)
        found = hits.candidates.tolist(), hits.scores.tolist()
        check(moved, queries, 10, np.zeros((6, len(embeddings)), bool), found)
        assert measure_parity(moved, queries, threshold=None, k=10).recall > 0.8
        own = embeddings[step : step + 1] = embeddings_of(1, seed=20 + step) * 5
        origin = np.arange(len(embeddings))
        origin[step] = -1
        embeddings = embeddings.clone()
        moved = moved.moved(embeddings, origin)
        assert moved.search(own, 1).candidates.tolist() == [[step]]
    assert torch.equal(index.embeddings, EMBEDDINGS)
    assert len(index) == CANDIDATES


def _swapped(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], None]:
    def swap(parts: dict[str, torch.Tensor]) -> None:
        parts[name] = change(parts[name].clone())

    return swap


@pytest.mark.parametrize(
    "damage",
    [
        _swapped("neighbours", lambda part: part.fill_(CANDIDATES)),
        _swapped("neighbours", lambda part: part[:-1]),
        _swapped("levels", lambda part: part.fill_(99)),
        _swapped("levels", lambda part: part.zero_()),
        _swapped("entry", lambda part: part - 10_000),
        _swapped("width", lambda part: part * 0),
        _swapped("width", lambda part: part.repeat(2)),
        _swapped("length", lambda part: part * torch.nan),
        _swapped("rows", lambda part: part.zero_()),
        _swapped("rows", lambda part: part + 1),
        _swapped("former", lambda _: torch.ones(3, WIDTH)),
    ],
)
def test_numbers_that_faiss_would_stumble_over_are_refused(damage: Callable[[dict[str, torch.Tensor]], None]) -> None:
    settings = Hnsw(neighbours=8, build=40, search=32)
    index = settings.make(EMBEDDINGS)
    assert isinstance(index, ApproximateIndex)
    parts = index.tensors()
    damage(parts)
    with pytest.raises(ValueError, match=r"index|graph|vectors"):
        restored_index(settings, EMBEDDINGS, parts)


def test_neighbours_in_a_layer_that_they_are_not_in_are_refused() -> None:
    settings = Hnsw(neighbours=4, build=20, search=20)
    index = settings.make(EMBEDDINGS)
    assert isinstance(index, ApproximateIndex)
    parts = index.tensors()
    low = int((parts["levels"] == 1).nonzero()[0])
    high = int((parts["levels"] > 1).nonzero()[0])
    begin = int(sum(8 + 4 * (level - 1) for level in parts["levels"][:high].tolist()))
    parts["neighbours"] = parts["neighbours"].clone()
    parts["neighbours"][begin + 8] = low
    with pytest.raises(ValueError, match="neighbours in layer 1"):
        restored_index(settings, EMBEDDINGS, parts)


def test_an_index_that_finds_too_little_is_refused() -> None:
    torch.manual_seed(0)
    index = Hnsw(neighbours=2, build=2, search=1).make(torch.randn(3000, WIDTH))
    queries = torch.randn(40, WIDTH)
    with pytest.raises(ParityError, match=r"hnsw index finds 0\.\d+ of the 100 best .* at least 0\.95"):
        measure_parity(index, queries, threshold=0.95)
    assert 0 < measure_parity(index, queries, threshold=None).recall < 0.95


@pytest.fixture(scope="module")
def hard() -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates, and queries whose best are not easily found in a graph."""
    draw = torch.Generator().manual_seed(0)
    return torch.randn(5000, 32, generator=draw), torch.randn(60, 32, generator=draw)


def test_a_graph_is_searched_as_widely_as_it_takes_and_stays_so(hard: tuple[torch.Tensor, torch.Tensor]) -> None:
    embeddings, queries = hard
    settings = Hnsw(neighbours=16)
    narrow = settings.make(embeddings)
    assert measure_parity(narrow, queries, threshold=None).recall < 0.95
    found, parity = fitted(narrow, queries, 0.95)
    assert 0.97 <= parity.recall < 0.99
    assert (parity.k, parity.queries, parity.threshold) == (100, 60, 0.95)
    assert fitted(narrow, queries, 0.98)[1].recall >= 0.988
    again = saved_and_loaded(found, settings)
    more = torch.cat([embeddings, embeddings[:3]])
    for same in (again, again.moved(more, np.concatenate([np.arange(len(embeddings)), [-1] * 3]))):
        assert measure_parity(same, queries, 0.95).recall == pytest.approx(parity.recall, abs=0.002)


def test_a_width_that_was_asked_for_stays_and_none_goes_on_for_ever(hard: tuple[torch.Tensor, torch.Tensor]) -> None:
    embeddings, queries = hard
    asked = Hnsw(neighbours=16, search=100).make(embeddings)
    assert asked.wider() is None
    with pytest.raises(ParityError, match=r"hnsw index finds 0\.\d+ of the 100 best"):
        fitted(asked, queries, 0.95)
    poor, parity = fitted(Hnsw(neighbours=4, build=10).make(embeddings), queries, None)
    assert poor.wider() is None
    assert parity.recall < 0.95
    assert isinstance(poor, ApproximateIndex)
    narrowest = {**poor.tensors(), "width": torch.ones(1, dtype=torch.int32)}  # as an attacker may write it
    assert fitted(restored_index(Hnsw(neighbours=4, build=10), embeddings, narrowest), queries, None)[1] == parity


@pytest.mark.parametrize("wrong", [lambda: Hnsw(neighbours=1), lambda: Hnsw(build=0), lambda: Hnsw(search=0)])
def test_settings_out_of_range_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        wrong()
