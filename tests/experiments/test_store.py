from __future__ import annotations

from pathlib import Path

import pytest

from twotower.errors import SavedFolderError
from twotower.experiments.store import Store


def test_a_key_depends_on_what_a_spec_says_and_not_on_the_order_of_its_keys() -> None:
    assert Store.key({"a": 1, "b": [2]}) == Store.key({"b": [2], "a": 1})
    assert len({Store.key(spec) for spec in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": 1, "b": None})}) == 4


def test_a_run_is_finished_once_its_outcome_is_kept_and_its_checkpoint_goes(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "runs"), Store.key("run")
    store.begin(key, "run")
    store.checkpoint_of(key).mkdir()
    assert store.outcome(key, list[int]) is None
    store.keep(key, [1, 2])
    assert store.outcome(key, list[int]) == [1, 2]
    assert not store.checkpoint_of(key).exists()
    assert Store(tmp_path / "runs").outcome(key, list[int]) == [1, 2]


@pytest.mark.parametrize("asked", ["is_finished", "outcome"])
def test_a_checkpoint_that_outlived_its_run_goes_when_the_run_is_asked_for(tmp_path: Path, asked: str) -> None:
    store, key = Store(tmp_path), Store.key("run")
    store.keep(key, [1])
    for name in ("checkpoint", "checkpoint.new", "model.new-2"):  # killed before it was deleted; kept by a failing disk
        (store.folder_of(key) / name).mkdir()
    if asked == "is_finished":
        assert store.is_finished(key)
    else:
        assert store.outcome(key, list[int]) == [1]
    assert [path.name for path in store.folder_of(key).iterdir()] == ["outcome.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'"text"'])
def test_an_outcome_that_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    store, key = Store(tmp_path), Store.key("run")
    store.keep(key, [1])
    (store.folder_of(key) / "outcome.json").write_bytes(content)
    with pytest.raises(SavedFolderError, match="to run it again"):
        store.outcome(key, list[int])
