"""A fitted model grows by what another log has: known values stay to the bit, new ones start as unknown ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from twotower import Activity, Categories, Category, History, Text, Tower, Trainer, TwoTower, load_model, save_model
from twotower.data import Dataset, from_tables
from twotower.data.log import Log
from twotower.errors import ConfigError, DataError, NotFittedError
from twotower.features.category import UNKNOWN
from twotower.model.saving import model_version
from twotower.model.tower_module import features_of

DAY = 86_400.0


def log_of(events: list[tuple[str, int, float]], tags: dict[int, list[str]] | None = None) -> Dataset:
    """Events (who, what, day); the catalogue has what they name, or what `tags` has."""
    catalogue = sorted({what for _, what, _ in events}) if tags is None else list(tags)
    return from_tables(
        pa.table(
            {
                "who": [one[0] for one in events],
                "what": [one[1] for one in events],
                "at": [one[2] * DAY for one in events],
            }
        ),
        candidates=pa.table(
            {
                "what": catalogue,
                "title": [f"thing number {what}" for what in catalogue],
                "tags": [[] if tags is None else tags[what] for what in catalogue],
            }
        ),
        query_id="who",
        candidate_id="what",
        time="at",
    )


MONDAY = log_of([("ann", 1, 0.1), ("bob", 1, 0.2), ("ann", 2, 0.3), ("cid", 3, 0.4)])
TUESDAY = log_of([("ann", 4, 1.1), ("dan", 1, 1.2), ("dan", 4, 1.3), ("ann", 2, 1.4)])


def categories(log: Log) -> TwoTower:
    return TwoTower(Tower([Category("who", 4)]), Tower([Category("what", 4), Text("title", 4)], [4])).learn(log)


def histories(log: Log, shared: bool) -> TwoTower:
    """A model that reads the past; without dense layers where it shares item embeddings."""
    past = History("what", by="who", time="at", length=3, dim=4, encoder="mean", shared=shared, unknown_rate=0.0)
    candidate = Tower([Category("what", 4, unknown_rate=0.0), Categories("tags", 4)], combine="sum")
    activity = Activity("at", by="who", dim=3)
    return TwoTower(Tower([past, activity], [4]), candidate).learn(log)


def vocabulary(model: TwoTower, side: str, place: int = 0) -> list[object]:
    feature = getattr(model, side).features[place]
    found: list[object] = feature.vocabulary.to_pylist()
    return found


def table_of(model: TwoTower) -> torch.Tensor:
    """Of the users."""
    users = model.query.features[0]
    assert isinstance(users, Category)
    assert users.table is not None
    return users.table


def test_known_ids_keep_their_rows_and_new_ones_start_from_the_unknown_row() -> None:
    model = categories(MONDAY)
    users, items = (getattr(model, side).features[0].table.detach().clone() for side in ("query", "candidate"))
    growth = model.grow(TUESDAY)
    assert vocabulary(model, "query") == ["ann", "bob", "cid", "dan"]
    assert vocabulary(model, "candidate") == [1, 2, 3, 4]
    for side, before in (("query", users), ("candidate", items)):
        table = getattr(model, side).features[0].table
        assert torch.equal(table[: len(before)], before)
        assert torch.equal(table[len(before)], before[UNKNOWN])
    assert growth.new == {"who (labels)": 1, "what (labels)": 1, "title (words)": 1}
    assert growth.retired == {}
    assert str(model.grow(TUESDAY)) == "nothing is new, and nothing was retired"


def test_scores_of_what_was_known_stay_to_the_bit() -> None:
    model = categories(MONDAY)
    before = model.embed_queries(MONDAY) @ model.embed_candidates(MONDAY.candidates).T
    model.grow(TUESDAY)
    assert torch.equal(model.embed_queries(MONDAY) @ model.embed_candidates(MONDAY.candidates).T, before)


def test_new_ids_are_told_apart_after_training() -> None:
    model = categories(MONDAY)
    model.grow(TUESDAY)
    Trainer(epochs=1).fit(model, TUESDAY)
    table = table_of(model)
    assert not torch.equal(table[-1], table[UNKNOWN])


def test_ids_that_were_not_seen_for_long_are_unknown_again() -> None:
    """Nobody has kept when ids were seen that Tuesday does not name: that counts from its first event, at day 1.1."""
    model = categories(MONDAY)
    kept = table_of(model)[2].detach().clone()  # ann
    assert model.grow(TUESDAY, retire_after=0.35 * DAY).retired == {}  # since day 1.05
    growth = model.grow(log_of([("dan", 4, 2.3)]), retire_after=1.15 * DAY)
    assert growth.retired == {"who (labels)": 2, "what (labels)": 1}
    assert vocabulary(model, "query") == ["ann", "dan"]
    assert vocabulary(model, "candidate") == [1, 2, 4]
    assert torch.equal(table_of(model)[2], kept)
    growth = model.grow(log_of([("eve", 4, 2.5)]), retire_after=1.15 * DAY)
    assert growth.retired == {"what (labels)": 1}
    assert vocabulary(model, "candidate") == [2, 4]  # 1 was chosen at day 1.2


def test_when_ids_were_seen_is_saved(tmp_path: Path) -> None:
    model = categories(MONDAY)
    model.grow(TUESDAY)
    save_model(model, tmp_path / "model")
    wednesday = log_of([("dan", 4, 2.3)])
    loaded = load_model(tmp_path / "model")
    assert model_version(loaded) == model_version(model)
    for one in (model, loaded):
        one.grow(wednesday, retire_after=1.0 * DAY)
    assert vocabulary(loaded, "candidate") == [2, 4]
    assert model_version(loaded) == model_version(model)


def test_later_events_are_added_to_the_record_and_a_whole_log_replaces_it() -> None:
    whole = log_of([("ann", 1, 0.1), ("bob", 1, 0.2), ("ann", 2, 0.3), ("cid", 3, 0.4), *[("ann", 4, 1.1)]])
    asked = {"who": ["ann", "bob", "eve"], "at": [3 * DAY] * 3}
    columns = {name: pa.chunked_array([values]) for name, values in asked.items()}
    encoded = []
    for log in (log_of([("ann", 4, 1.1)]), whole):
        model = histories(MONDAY, shared=False)
        model.grow(log)
        encoded.append([feature.encode_columns(columns) for feature in features_of(model.query)])
    assert encoded[0][0][0, 0].tolist() == [5, 3, 2]  # ann: 4, 2, 1 in rows from 2 on
    for one, other in zip(*encoded, strict=True):
        assert torch.equal(one, other)


def test_retired_items_and_queries_leave_the_record() -> None:
    model = histories(MONDAY, shared=False)
    model.grow(TUESDAY, retire_after=0.35 * DAY)
    past = model.query.features[0]
    assert isinstance(past, History)
    assert past.record is not None
    assert past.record.ids.to_pylist() == ["ann", "dan"]
    assert past.record.vocabulary.to_pylist() == [1, 2, 4]
    assert past.record.times.tolist() == [day * DAY for day in (0.1, 0.3, 1.1, 1.4, 1.2, 1.3)]
    assert past.table is not None
    assert len(past.table) == 2 + 3


@pytest.mark.parametrize("retire_after", [None, 0.35 * DAY])
def test_shared_items_keep_their_attributes(retire_after: float | None) -> None:
    """An item of a history is what the candidate tower gives, also where the new catalogue lacks it."""
    tags = {1: ["red", "old"], 2: ["red"], 3: []}
    monday = log_of([("ann", 1, 0.1), ("bob", 1, 0.2), ("ann", 2, 0.3), ("cid", 3, 0.4)], tags)
    tuesday = log_of([("ann", 4, 1.1), ("dan", 2, 1.2)], {4: ["new", "red", "odd"], 2: ["red"]})
    model = histories(monday, shared=True).eval()
    model.grow(tuesday, retire_after=retire_after)
    past = model.query.features[0]
    assert isinstance(past, History)
    known = [1, 2, 3, 4] if retire_after is None else [2, 4]
    asked = {"who": ["x"] * len(known), "at": [9 * DAY] * len(known), "history": [[what] for what in known]}
    columns = {name: pa.chunked_array([values]) for name, values in asked.items()}
    catalogue = pa.table({"what": known, "tags": [{**tags, 4: ["new", "red", "odd"]}[what] for what in known]})
    torch.testing.assert_close(past(past.encode_columns(columns)), model.embed_candidates(catalogue))


def test_what_cannot_grow_is_refused() -> None:
    model = TwoTower(Tower([Category("who", 4)]), Tower([Category("what", 4)]))
    with pytest.raises(NotFittedError, match="so it cannot grow"):
        model.grow(MONDAY)
    model.learn(MONDAY)
    with pytest.raises(ConfigError, match="retire_after=-1"):
        model.grow(MONDAY, retire_after=-1)
    timeless = from_tables(pa.table({"who": ["ann"], "what": [1]}), query_id="who", candidate_id="what")
    with pytest.raises(DataError, match="no times"):
        model.grow(timeless, retire_after=3.0)
    numbers = from_tables(pa.table({"who": ["ann"], "what": ["no number"]}), query_id="who", candidate_id="what")
    with pytest.raises(DataError, match="'no number' is string; expected int64"):
        model.grow(numbers)
