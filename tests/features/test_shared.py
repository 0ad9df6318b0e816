"""Histories that share what a candidate tower makes of items: the id and the attributes, summed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pytest
import torch

from toy import groups_log
from twotower.data import Dataset, from_tables
from twotower.errors import ConfigError
from twotower.features import Categories, Category, History, Normalized, Text
from twotower.features.record import FIRST, PADDING, UNKNOWN
from twotower.model import Tower, TwoTower, load_model, save_model
from twotower.model.saving import model_version
from twotower.training import AdamW, Trainer

LOG = pa.table({"who": ["a", "a", "a", "b"], "what": [7, 8, 9, 7], "at": [1, 2, 3, 4]})
ITEMS = pa.table({"what": [9, 8, 7, 6], "tags": [["new"], None, ["old", "red"], ["red"]]})


def shop() -> Dataset:
    return from_tables(LOG, candidates=ITEMS, query_id="who", candidate_id="what", time="at")


def shared_model(log: Dataset, dim: int = 4) -> TwoTower:
    history = History("what", by="who", time="at", length=3, dim=dim, encoder="mean", shared=True, unknown_rate=0.0)
    candidate = Tower([Category("what", dim, unknown_rate=0.0), Categories("tags", dim)], combine="sum")
    return TwoTower(Tower([history]), candidate).learn(log)


def test_an_item_of_a_history_is_what_the_candidate_tower_gives() -> None:
    log = shop()
    model = shared_model(log).eval()
    history = model.query.features[0]
    assert isinstance(history, History)
    asked = {"who": ["c"] * 3, "at": [9] * 3, "history": [[7], [8], [9]]}
    columns = {name: pa.chunked_array([values]) for name, values in asked.items()}
    found = history(history.encode_columns(columns))
    torch.testing.assert_close(found, model.embed_candidates(log.candidates)[[2, 1, 0]])


def test_the_unknown_item_and_none_have_no_attributes() -> None:
    model = shared_model(shop())
    history = model.query.features[0]
    assert isinstance(history, History)
    assert history._items is not None
    table, places = history._items.embeddings(torch.tensor([[UNKNOWN, PADDING, FIRST]]))
    ids = history._items.ids.table
    assert ids is not None
    assert places.tolist() == [[UNKNOWN, PADDING, FIRST]]
    torch.testing.assert_close(table[:FIRST], ids[:FIRST])
    assert not torch.equal(table[FIRST], ids[FIRST])


def test_a_few_items_are_embedded_as_all_are() -> None:
    """Either way of looking up gives the same embeddings and the same gradients."""
    log = groups_log(600, candidates=30)
    history = History("item", by="user", time="at", dim=4, shared=True, unknown_rate=0.0)
    candidate = Tower([Category("item", 4), Text("title", 4)], combine="sum")
    model = TwoTower(Tower([history], [4]), candidate).learn(log)
    assert history._items is not None
    items = torch.tensor([[5, 7, PADDING], [7, UNKNOWN, 3]])
    weights = torch.rand(2, 3, 4)
    gradients = []
    for asked in (items, torch.cat([items, torch.full((20, 3), PADDING)])):
        table, places = history._items.embeddings(asked)
        embedded = table[places[:2]]
        gradients.append([embedded, *torch.autograd.grad((embedded * weights).sum(), list(_tables(model)))])
    few, all_of_them = gradients
    for one, other in zip(few, all_of_them, strict=True):
        torch.testing.assert_close(one, other)


def _tables(model: TwoTower) -> list[torch.Tensor]:
    return [feature.table for feature in model.candidate.features]  # type: ignore[misc]


@pytest.mark.parametrize("tables", ["dense", "lazy"])
def test_it_is_trained_and_saved_with_its_attributes(tables: str, tmp_path: Path) -> None:
    log = shop()
    model = shared_model(log)
    Trainer(epochs=3, batch_size=2, optimizer=AdamW(0.05, tables=tables)).fit(model, log)  # type: ignore[arg-type]
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert model_version(loaded) == model_version(model)
    assert torch.equal(loaded.embed_queries(log), model.eval().embed_queries(log))


def test_rows_of_the_batch_alone_are_updated_as_all_are() -> None:
    log, models = shop(), []
    for tables in ("dense", "lazy"):
        models.append(shared_model(log))
        optimizer = AdamW(0.05, tables=tables)
        Trainer(epochs=3, batch_size=2, optimizer=optimizer).fit(models[-1], log)
    one, other = (model.state_dict() for model in models)
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=name)


def test_features_of_different_widths_cannot_be_summed() -> None:
    with pytest.raises(ConfigError, match="what 4, tags 8; expected the same"):
        Tower([Category("what", 4), Categories("tags", 8)], combine="sum")


@pytest.mark.parametrize("encoder", ["kernels", "totals", "summaries", "mean"])
def test_a_query_starts_from_the_means_of_its_histories(
    encoder: Literal["kernels", "totals", "summaries", "mean"],
) -> None:
    """With as much of them as is asked for, beside what the random weights make of all features."""
    time = None if encoder == "totals" else "at"
    history = History("what", by="who", time=time, length=3, dim=4, encoder=encoder, shared=True)
    candidate = Tower([Category("what", 4), Categories("tags", 4)], combine="sum")
    starts = [
        TwoTower(Tower([Category("who", 5), history, Normalized("at")], [4], history_start=start), candidate)
        .learn(shop(), seed=3)
        .eval()
        for start in (0.0, 3.0)
    ]
    plain, started = (model.embed_queries(shop()) for model in starts)
    means = history(history.encode_columns({"who": LOG["who"], "at": LOG["at"]})).view(4, -1, 4)
    assert means[1:3].abs().min() > 0
    torch.testing.assert_close(started - plain, 3 * means.sum(dim=1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "candidate_layers", "shared"),
    [
        ({"layers": [8, 4]}, [], True),
        ({"layers": [5]}, [5], True),
        ({"layers": [4]}, [4], True),
        ({"layers": [4], "cross": 1, "cross_place": "beside"}, [], True),
        ({"layers": [4]}, [], False),
    ],
    ids=["several layers", "another width", "candidates with a layer", "cross layers beside", "items of its own"],
)
def test_nothing_else_starts_from_histories(
    settings: dict[str, Any], candidate_layers: list[int], shared: bool
) -> None:
    weights = []
    for start in (0.0, 3.0):
        history = History("what", by="who", time="at", length=3, dim=4, shared=shared)
        tower = Tower([history], **settings, history_start=start)
        candidate = Tower([Category("what", 4)], candidate_layers)
        weights.append(TwoTower(tower, candidate).learn(shop(), seed=3).state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
