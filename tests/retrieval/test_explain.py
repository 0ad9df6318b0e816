"""Explanations add up to the score, and say what the formula of Shapley values says."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from toy import groups_log
from twotower.data import from_tables
from twotower.errors import UnknownCandidateError
from twotower.features import Bucketized, Category, Elapsed, Feature, History, Normalized, Text
from twotower.features.base import Columns, EncodedItems
from twotower.model import Tower, TwoTower
from twotower.retrieval import Retriever, explain
from twotower.retrieval.explain import Explanation
from twotower.training import AdamW, Trainer


def model_of(layers: tuple[int, ...] = (8, 6), *, normalize: bool = False) -> TwoTower:
    history = History("item", "user", "at", length=4, dim=4)
    query = [Category("user", 4), history, Elapsed("at", by="user"), Bucketized("at", 4, 4), Normalized("at")]
    candidate = [Category("item", 4), Text("title", 4)]
    towers = Tower(query, layers, cross=1), Tower(candidate, layers)
    return TwoTower(*towers, normalize=normalize, temperature=0.2 if normalize else 1.0)


def retriever_of(model: TwoTower) -> Retriever:
    log = groups_log(400)
    Trainer(epochs=2, batch_size=64, optimizer=AdamW(0.02)).fit(model, log)
    return Retriever.build(model, log.candidates, seen=log)


@pytest.fixture(scope="module", params=[False, True])
def retriever(request: pytest.FixtureRequest) -> Retriever:
    return retriever_of(model_of(normalize=request.param))


class Basket(Feature):
    """What the query has in its basket: a feature of items that is no history."""

    kind = "basket of a test"

    def __init__(self, column: str, basket: str) -> None:
        super().__init__()
        self.column, self.basket, self.width = column, basket, 4
        self.table = torch.nn.Embedding(30, 4)

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.basket,)

    def fit_columns(self, columns: Columns) -> None:
        torch.nn.init.normal_(self.table.weight)

    def encode_columns(self, columns: Columns) -> torch.Tensor:
        return torch.tensor([(*(row or ()), -1, -1)[:2] for row in columns[self.basket].to_pylist()])

    def items_of(self, encoded: torch.Tensor) -> EncodedItems:
        slots = (encoded[0] >= 0).nonzero().squeeze(1).tolist()
        without = encoded.repeat(len(slots), 1)
        without[range(len(slots)), slots] = -1
        return EncodedItems(self.column, encoded[0, slots].tolist(), without)

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        items: torch.Tensor = self.table(encoded.clamp_min(0)) * (encoded >= 0)[:, :, None]
        return items.sum(dim=1)


def test_the_items_of_a_feature_of_ones_own_are_told_apart() -> None:
    plain = groups_log(200)
    baskets = pa.array([[n % 30, (n + 1) % 30] for n in range(plain.queries.num_rows)])
    log = replace(plain, queries=plain.queries.append_column("basket", baskets))
    model = TwoTower(Tower([Category("user", 4), Basket("item", "basket")]), Tower([Category("item", 8)])).learn(log)
    retriever = Retriever.build(model, log.candidates, seen=log)
    found = retriever.explain({"user": 3}, 5)
    (row,) = retriever.requests.encode([{"user": 3}], [3])[1].tolist()
    assert [one.id for one in found.history] == row
    assert total(found) == pytest.approx(found.score, abs=1e-5)
    assert [one.feature for one in found.query] == ["user"]
    assert "The history's share is split by leaving out one item at a time" in found.method


def total(found: Explanation) -> float:
    parts = [[one.value for one in part] for part in (found.query, found.candidate)]
    return found.bias + sum(map(sum, parts)) + sum(one.value for one in found.history)


@pytest.mark.parametrize("query", [{"user": 3}, {"user": 999}, {}, {"history": [1, 2, 999]}, {"user": 3, "at": 5}])
@pytest.mark.parametrize("most", [explain.EXACT_UP_TO, 0])
def test_contributions_add_up_to_the_score(
    query: dict[str, object], most: int, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "EXACT_UP_TO", most)
    for candidate in (0, 7):
        found = retriever.explain(query, candidate)
        vector = retriever.embed([query], [retriever.requests.row(query)])[0]
        score = float(vector @ retriever.index.embeddings[retriever.candidate_row(candidate)])
        assert found.score == pytest.approx(score, abs=1e-5)
        assert total(found) == pytest.approx(found.score, abs=1e-5)


def test_exact_contributions_are_shapley_values(retriever: Retriever) -> None:
    """Against the formula, subset by subset, for one feature of each tower."""
    model, query = retriever.model, {"user": 3}
    encoded = retriever.requests.encode([query], [3])
    candidate = model.encode_candidates(retriever.candidates.slice(5, 1)).whole()
    sides = (
        explain._Explained.of(model.query, encoded, model.scaled_query),
        explain._Explained.of(model.candidate, candidate, model.scaled_candidate),
    )
    names = [(side, place) for side in (0, 1) for place in range(len(sides[side].names))]

    def worth(playing: set[tuple[int, int]]) -> float:
        masks = [torch.tensor([[(s, p) in playing for p in range(len(side.names))]]) for s, side in enumerate(sides)]
        with torch.no_grad():
            left, right = (side.of_subsets(mask).vectors for side, mask in zip(sides, masks, strict=True))
            return float((left * right).sum())

    found = retriever.explain(query, 5)
    given = {(0, "user"): next(one.value for one in found.query if one.feature == "user")}
    given[(1, "title")] = next(one.value for one in found.candidate if one.feature == "title")
    for (side, name), value in given.items():
        player = (side, sides[side].names.index(name))
        others = [one for one in names if one != player]
        expected = 0.0
        for size in range(len(others) + 1):
            weight = 1 / (len(names) * math.comb(len(others), size))
            for subset in itertools.combinations(others, size):
                expected += weight * (worth({*subset, player}) - worth(set(subset)))
        assert value == pytest.approx(expected, abs=1e-4)


def test_items_of_the_history_are_named_in_place_of_the_feature(retriever: Retriever) -> None:
    found = retriever.explain({"history": [1, 2, 999]}, 4)
    assert [one.id for one in found.history] == [2, 1]  # the latest first; nobody knows 999
    assert "one item at a time" in found.method
    alone = retriever.explain({}, 4)
    assert not alone.history
    assert "one item" not in alone.method
    assert "item (history)" in [one.feature for one in alone.query]


def test_features_of_one_column_have_names_of_their_own() -> None:
    """As the default inputs have them, before and around."""
    sinces = [Elapsed("at", by="user", since=since) for since in ("first", "previous", "next")]
    names = explain._names([Category("user"), *sinces, Bucketized("at"), History("item", "user", "at")])
    assert names == [
        "user",
        "at (elapsed, first)",
        "at (elapsed, previous)",
        "at (elapsed, next)",
        "at (bucketized)",
        "item (history)",
    ]


@pytest.mark.parametrize(("layers", "method"), [(6, explain.EXACT), (18, explain.SAMPLED.partition("{")[0])])
def test_many_features_are_sampled(layers: int, method: str) -> None:
    """Subsets of more than sixteen would take seconds, and hundreds of megabytes."""
    names = [f"attribute {number}" for number in range(layers)]
    log = groups_log(200)
    queries = log.queries
    for name in names:
        queries = queries.append_column(name, pa.array([f"{row % 7}" for row in range(len(queries))]))
    data = from_tables(
        log.interactions, query_id="user", candidate_id="item", time="at", queries=queries, candidates=log.candidates
    )
    model = TwoTower(Tower([Category(name, 2) for name in names], [4]), Tower([Category("item", 4)])).learn(data)
    found = Retriever.build(model, data.candidates, seen=data).explain({"user": 3}, 4)
    assert found.method.startswith(method)
    assert total(found) == pytest.approx(found.score, abs=1e-5)


def test_a_linear_model_is_explained_by_its_parts() -> None:
    """With one feature a tower and no layers, the score is one product, shared evenly."""
    retriever = retriever_of(TwoTower(Tower([Category("user", 4)]), Tower([Category("item", 4)])))
    found = retriever.explain({"user": 1}, 2)
    assert (found.bias, found.method) == (0.0, explain.EXACT)
    assert [one.value for one in (*found.query, *found.candidate)] == pytest.approx([found.score / 2] * 2)


def test_a_candidate_that_is_not_there_is_refused(retriever: Retriever) -> None:
    with pytest.raises(UnknownCandidateError, match="item 4242 is not in the catalogue of 30 candidates"):
        retriever.explain({"user": 1}, 4242)
