from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("twotower", deadline=None, derandomize=True)
settings.load_profile("twotower")


@pytest.fixture
def movielens_home() -> Path:
    """The folder that holds the real MovieLens 100K."""
    home = os.environ.get("TWOTOWER_DATA_HOME")
    if not home or not (Path(home) / "ml-100k").is_dir():
        pytest.skip("needs the real MovieLens 100K: set TWOTOWER_DATA_HOME to a folder that holds ml-100k")
    return Path(home)


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A TWOTOWER_DATA_HOME in which nothing lies yet."""
    home = tmp_path / "home"
    monkeypatch.setenv("TWOTOWER_DATA_HOME", str(home))
    return home
