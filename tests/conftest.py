from __future__ import annotations

import gc
import os
import sys
from itertools import chain, islice, pairwise
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run beside each other, and compare bits
sys.dont_write_bytecode = False  # otherwise each worker of each run rewrites the assertions of all modules again
gc.disable()  # collecting tests leaves little garbage; looking for it would take half of the time

FIXTURES = [f"{name}_fixtures" for name in ("common", "encoder", "onnx", "serving", "store", "warm")]
"""Modules of fixtures, which import PyTorch."""

LONG = {
    *("test_docs", "test_notebooks", "test_tutorials"),
    "test_faults_at_some_calls_of_a_command_lose_nothing",
    "test_two_threads_give_the_same_gradient_on_every_run",
    "test_an_update_of_a_bundle_with_onnx_towers_writes_them",
}
"""Modules and tests that take long, besides those that are marked `slow`."""


def pytest_configure(config: pytest.Config) -> None:
    """Loads what tests need; the process that only hands them out to workers imports nothing."""
    in_worker, collects = hasattr(config, "workerinput"), config.getoption("collectonly")
    hands_out = config.getoption("tx", None) and not in_worker and not collects
    if not hands_out:
        for name in FIXTURES:
            config.pluginmanager.import_plugin(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts long tests first in the share of each worker, as one that starts last keeps the others waiting.

    At first, pytest-xdist gives each worker as many consecutive tests.
    """
    workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    long = [
        item
        for item in items
        if item.get_closest_marker("slow") or {item.path.stem, item.name.partition("[")[0]} & LONG
    ]
    chosen = set(long)
    short = iter([item for item in items if item not in chosen])
    edges = [round(len(items) * worker / workers) for worker in range(workers + 1)]
    shares = [long[worker::workers] for worker in range(workers)]
    for share, (first, last) in zip(shares, pairwise(edges), strict=True):
        share += islice(short, max(0, last - first - len(share)))
    items[:] = [*chain(*shares), *short]


def pytest_collection_finish() -> None:
    """Garbage is collected again, but not among modules and tests; forked processes share their memory."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nothing stays alive until the process ends, which some libraries report as a leak."""
    gc.unfreeze()


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
