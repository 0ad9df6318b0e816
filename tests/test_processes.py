"""Worker processes and the threads that they may use."""

from __future__ import annotations

import gc
import os
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest
import torch

from twotower import processes
from twotower.processes import allowed_threads, quota, start_worker, stop_workers, threads_each


def sends_its_threads(out: Connection) -> None:
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped,unused-ignore]

    pools = {f"{pool['internal_api']} {pool['filepath']}": pool["num_threads"] for pool in threadpool_info()}
    out.send_bytes(msgspec.json.encode(pools | {"torch": torch.get_num_threads()}))
    out.send_bytes(msgspec.json.encode([gc.isenabled(), gc.get_freeze_count()]))


def test_a_new_worker_has_the_threads_that_it_was_given_and_collects_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own setting leaves BLAS and OpenMP as they are: the environment has to say it before they load."""
    monkeypatch.setattr(processes, "START_METHOD", "spawn")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = dict(os.environ)
    ours, theirs = Pipe(duplex=False)
    process = start_worker(sends_its_threads, theirs, threads=1)
    try:
        theirs.close()
        pools = msgspec.json.decode(ours.recv_bytes(), type=dict[str, int])
        collects, frozen = msgspec.json.decode(ours.recv_bytes(), type=tuple[bool, int])
    finally:
        stop_workers([process])
    assert len(pools) > 1
    assert set(pools.values()) == {1}
    assert collects
    assert frozen > 100_000  # what loading made
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("variable", "torch_threads", "cpus", "limit", "expected"),
    [
        (None, 8, 8, None, 8),
        ("3", 8, 8, None, 3),
        ("3,2", 8, 8, None, 3),
        ("nonsense", 8, 8, None, 8),
        (None, 5, 8, None, 5),
        (None, 8, 4, None, 4),
        (None, 8, 8, 2, 2),
    ],
)
def test_a_process_uses_the_least_of_what_it_may(
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    torch_threads: int,
    cpus: int,
    limit: int | None,
    expected: int,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(torch, "get_num_threads", lambda: torch_threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)), raising=False)
    monkeypatch.setattr(processes, "quota", lambda: limit)
    assert allowed_threads() == expected
    assert [threads_each(workers) for workers in (1, 2, 100)] == [expected, max(1, expected // 2), 1]


def test_the_quota_is_the_least_of_all_groups_that_a_process_lies_in(tmp_path: Path) -> None:
    groups, own = tmp_path / "groups", tmp_path / "own"
    inner = groups / "box" / "job"
    inner.mkdir(parents=True)
    assert quota(groups, own) is None
    own.write_text("1:name=systemd:/elsewhere\n0::/box/job\n")
    (inner / "cpu.max").write_text("max 100000\n")
    assert quota(groups, own) is None
    (groups / "box" / "cpu.max").write_text("250000 100000\n")
    assert quota(groups, own) == 2
    (inner / "cpu.max").write_text("50000 100000\n")
    assert quota(groups, own) == 1


def test_the_quota_of_version_1_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    for said, expected in (("-1", None), ("400000", 4)):
        (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{said}\n")
        assert quota(tmp_path, tmp_path / "none") == expected


def test_the_quota_of_version_1_is_that_of_a_process_s_own_group(tmp_path: Path) -> None:
    groups, own = tmp_path / "groups", tmp_path / "own"
    inner = groups / "cpu,cpuacct" / "box" / "job"
    inner.mkdir(parents=True)
    own.write_text("5:memory:/box\n4:cpu,cpuacct:/box/job\n0::/\n")
    assert quota(groups, own) is None
    for folder, said, expected in ((inner, "-1", None), (inner.parent, "300000", 3), (inner, "150000", 1)):
        (folder / "cpu.cfs_quota_us").write_text(f"{said}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
        assert quota(groups, own) == expected
