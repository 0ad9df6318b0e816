"""`TwoTower.forward` gives scores, so that what calls a module's forward works with it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from rank_processes import on_ranks, without_errors
from toy import groups_log, toy_model
from twotower import TwoTower

LOG = groups_log(300)


def model_and_inputs() -> tuple[TwoTower, list[Tensor], list[Tensor]]:
    model = toy_model().learn(LOG).eval()
    candidates = model.encode_candidates(LOG.candidates)
    return model, model.encode_queries(LOG).gather(torch.arange(5)), candidates.gather(torch.arange(7))


def test_every_query_with_every_candidate() -> None:
    model, query, candidate = model_and_inputs()
    expected = model.embed_queries(LOG)[:5] @ model.embed_candidates(LOG.candidates)[:7].T
    torch.testing.assert_close(model(query, candidate), expected)


def test_torch_export_gives_the_same_scores() -> None:
    model, query, candidate = model_and_inputs()
    program = torch.export.export(model, (query, candidate))
    torch.testing.assert_close(program.module()(query, candidate), model(query, candidate))


def trained_in_parallel() -> bool:
    """Whether all parameters of a model that DDP has wrapped get a gradient."""
    model, query, candidate = model_and_inputs()
    scores = DistributedDataParallel(model.train())(query, candidate)
    torch.nn.functional.cross_entropy(scores, torch.arange(5)).backward()  # type: ignore[no-untyped-call]
    return all(parameter.grad is not None for parameter in model.parameters())


def test_distributed_data_parallel_trains_it(tmp_path: Path) -> None:
    # In a process of its own: DDP holds on to its group, whose end can wait for a thread that waits for Python.
    assert without_errors(on_ranks(1, tmp_path, (trained_in_parallel,))[0]) == [True]
