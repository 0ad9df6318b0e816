from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from toy import groups_log
from twotower.errors import ConfigError
from twotower.features import Category, Unified
from twotower.model import Tower, TwoTower, load_model, save_model
from twotower.training import AdamW, Trainer
from twotower.training.groups import look_ups


def columns(**values: list[object]) -> dict[str, pa.ChunkedArray]:
    return {name: pa.chunked_array([own]) for name, own in values.items()}


def test_equal_values_of_two_columns_are_apart_and_rows_are_the_same_everywhere() -> None:
    feature = Unified(["city", "country"], buckets=1000, dim=2, look_ups_each=2)
    both = columns(city=["Luxembourg", "Lyon", None], country=["Luxembourg", "France", None])
    rows = feature.encode_columns(both)
    assert rows.shape == (3, 4)
    assert len(set(rows.flatten().tolist())) == 12
    swapped = Unified(["country", "city"], buckets=1000, dim=2, look_ups_each=2).encode_columns(both)
    assert torch.equal(swapped, rows[:, [2, 3, 0, 1]])
    alone = feature.encode_columns(columns(city=["Lyon"], country=["France"]))
    assert torch.equal(alone[0], rows[1])
    numbers = [feature.encode_columns(columns(city=[value], country=["x"])).tolist() for value in (42, "42")]
    assert numbers[0] == numbers[1]


def test_embeddings_are_the_tables_rows_side_by_side() -> None:
    feature = Unified(["city", "country"], buckets=10, dim=3)
    encoded = torch.tensor([[4, 9], [0, 0]], dtype=torch.int32)
    expected = torch.stack([torch.cat([feature.table[4], feature.table[9]]), feature.table[0].repeat(2)])
    assert torch.equal(feature(encoded), expected)
    assert [(table.shape, rows) for table, rows in feature.look_ups] == [((10, 3), 2)]


@pytest.mark.parametrize(("names", "others"), [(["a"], {}), (["a", "a"], {}), (["a", "b"], {"look_ups_each": 0})])
def test_what_cannot_be_is_refused(names: list[str], others: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"unified: .*; expected"):
        Unified(names, **others)


def test_a_model_learns_with_it_is_saved_and_counts_its_look_ups(tmp_path_factory: pytest.TempPathFactory) -> None:
    log = groups_log(600)
    model = TwoTower(
        Tower([Unified(["user", "at"], buckets=500, dim=4)], [8]),
        Tower([Unified(["item", "title"], buckets=500, dim=4), Category("item", 4)], [8]),
    )
    losses = [epoch.loss for epoch in Trainer(epochs=3, batch_size=64, optimizer=AdamW(0.02)).fit(model, log).epochs]
    assert losses[2] < losses[0]
    query, candidate, _ = look_ups(model, events=64, candidates=30).values()
    assert (query, candidate) == (128, 60)
    folder = tmp_path_factory.mktemp("unified") / "model"
    save_model(model, folder)
    assert torch.equal(load_model(folder).embed_candidates(log.candidates), model.embed_candidates(log.candidates))
