"""Each tutorial runs as a command, on a share of MovieLens 100K and for an epoch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from toy_ratings import rated

FOLDER = Path(__file__).parents[1] / "examples" / "tutorials"
SMALL = {
    "efficient_serving": ["--candidates", "2000", "--queries", "5"],
    "listwise_ranking": ["--events", "4000"],  # so that test has lists
}
LONG = ("basic_ranking",)
"""Those without `--events`."""

NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("beside", *LONG))


@pytest.fixture(autouse=True)
def _folder_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.movielens
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_prints_both_scores(
    name: str, movielens_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--epochs", "1", "--events", "1500", *SMALL.get(name, [])]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    importlib.import_module(name).main()
    shown = capsys.readouterr().out
    assert "TensorFlow Recommenders" in shown
    assert "twotower" in shown


def test_lists_are_of_one_user_each_and_without_repetition() -> None:
    log = rated(300)
    lists = importlib.import_module("listwise_ranking").sampled_lists(log, each=2, seed=1)
    assert lists.shape == (2 * (np.bincount(log.query_index) >= 5).sum(), 5)
    assert (log.query_index[lists] == log.query_index[lists[:, :1]]).all()
    assert (np.diff(np.sort(lists, axis=1), axis=1) > 0).all()
