from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.recipes.config import Config, DataConfig, ModelConfig, SplitConfig, read_config
from twotower.recipes.toml import write_config

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.one_of(text, st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False))
tables = st.recursive(
    st.dictionaries(text, scalars, max_size=3),
    lambda inner: st.dictionaries(text, st.one_of(scalars, inner, st.lists(inner, max_size=2)), max_size=3),
    max_leaves=5,
)
configs = st.builds(
    Config,
    data=st.builds(DataConfig, name=text, query_id=st.none() | text, time=st.none() | text),
    split=st.builds(SplitConfig, rule=text, seed=st.integers(0, 2**40)),
    recipe=st.sampled_from(["tuned", "tutorial"]),
    model=st.builds(
        ModelConfig,
        query=st.lists(tables, max_size=2),
        layers=st.lists(st.integers(1, 999), max_size=3).map(tuple),
        dropout=st.floats(0, 1),
        temperature=st.none() | st.floats(allow_nan=False),
    ),
    training=tables,
)


@given(configs)
def test_a_config_is_read_as_it_was_written(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "best.toml"
        write_config(config, path, "found\nby a search")
        assert read_config(path) == config
        assert path.read_text().startswith("# found\n# by a search\n")


def test_paths_in_what_is_written_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "config.toml").write_text('[data]\ninteractions = "log.parquet"\nqueries = "/tables/who.csv"')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = read_config(Path("../shop/config.toml"))
    write_config(config, Path("../out/best.toml"), "")
    monkeypatch.chdir(tmp_path / "shop")
    found = read_config(tmp_path / "out" / "best.toml").data
    assert found.interactions is not None
    assert found.interactions == str(tmp_path / "shop" / "log.parquet")
    assert found.queries == "/tables/who.csv"


def test_what_is_to_be_tuned_can_be_written_too(tmp_path: Path) -> None:
    tune: dict[str, Any] = {"model": {"layers": {"choices": [[64], [128, 64]]}}}
    write_config(Config(tune=tune), tmp_path / "config.toml", "")
    assert read_config(tmp_path / "config.toml").space() == Config(tune=tune).space()
    write_config(msgspec.structs.replace(Config(tune=tune), tune={}), tmp_path / "config.toml", "")
    assert "[tune" not in (tmp_path / "config.toml").read_text()
