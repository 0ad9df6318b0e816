"""Starting ranks: processes of one PyTorch group, forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIMEOUT = 60.0


Job = tuple[Callable[..., Any], *tuple[Any, ...]]
"""A function of a module and its arguments."""


def on_ranks(size: int, folder: Path, *jobs: Job) -> list[list[Any]]:
    """What each job gives on each of so many ranks, which do one after the other: a list a job, one a rank.

    An error that a job raises is given in the place of what it gives.

    Args:
        size: How many ranks.
        folder: Where the processes find each other; another one each time.
        jobs: What they do.
    """
    context = multiprocessing.get_context("forkserver")
    ends, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        process = context.Process(target=_rank, args=(theirs, rank, size, str(folder), jobs))
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    found = [_received(end, len(jobs)) for end in ends]
    for process in processes:
        process.join(5)
        process.kill()
    return [list(each) for each in zip(*found, strict=True)]


def _received(end: Connection, jobs: int) -> list[Any]:
    try:
        found: list[Any] = end.recv() if end.poll(TIMEOUT) else [TimeoutError()] * jobs
    except EOFError:
        return [ProcessLookupError("the rank has died")] * jobs
    return found


def without_errors(found: list[Any]) -> list[Any]:
    """What a job gave on each rank, where it raised no error on any."""
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


def _rank(end: Connection, rank: int, size: int, folder: str, jobs: tuple[Job, ...]) -> None:
    import torch
    from torch import distributed as dist

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    where = f"file://{folder}/group"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=size, timeout=timedelta(seconds=30))
    found = []
    for work, *arguments in jobs:
        try:
            found.append(work(*arguments))
        except Exception as error:
            error.add_note(traceback.format_exc())
            found.append(error)
    end.send(found)
    if any(isinstance(one, Exception) for one in found):
        os._exit(1)  # at once, where another rank may have died
    dist.destroy_process_group()
