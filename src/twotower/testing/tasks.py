"""`check_head` and `check_task`: test the contracts of heads and tasks."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import torch

from twotower.data.dataset import Dataset
from twotower.data.splits import split_random
from twotower.features import Bucketized, Category, Text
from twotower.kinds import kind_of
from twotower.model.heads import HEADS, Head, head_from_settings, head_settings
from twotower.model.saving import load_model, save_model
from twotower.model.sides import candidate_side, query_side
from twotower.model.tower import Tower
from twotower.model.two_tower import TwoTower
from twotower.tasks.base import TASKS, Task
from twotower.tasks.predictor import predict
from twotower.testing.logs import small_log
from twotower.training import Trainer
from twotower.training.identity import digest


def check_head(head: Head) -> None:
    """Checks a head.

    - It is registered under its kind, and can be rebuilt from its settings in JSON.
    - It gives one finite number per pair, the same for a pair alone as among others.
    - A gradient reaches each of its parameters.
    - A model with it, saved and loaded, gives bit-identical predictions.

    Args:
        head: The registered settings.

    Raises:
        AssertionError: A check fails.

    Example:
        >>> from twotower import CrossHead
        >>> check_head(CrossHead(count=1, rank=2))
    """
    kind = kind_of(type(head))
    assert kind in HEADS, f"kind {kind!r} is not registered"
    again = head_from_settings(msgspec.json.decode(msgspec.json.encode(head_settings(head))))
    assert again == head, f"rebuilt from its settings, it is {again}"
    log = small_log()
    model = _model({"own": head}).learn(log)
    numbers = torch.arange(30)
    query = query_side(model, model.encode_queries(log).gather(numbers))
    candidate = candidate_side(model, model.encode_candidates(log.candidates).whole())
    module = model.heads["own"]
    answers = module(query, candidate)
    assert answers.shape == (30,), f"30 pairs give {list(answers.shape)}; expected [30]"
    assert bool(answers.isfinite().all()), "a prediction is not finite"
    module.eval()
    whole = module(query, candidate)
    alone = torch.cat([module(query.take(one[None]), candidate.take(one[None])) for one in numbers])
    assert torch.allclose(whole, alone, atol=1e-5), "a pair alone has another prediction than among others"
    module.train()
    module(query, candidate).sum().backward()
    missing = [name for name, one in module.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert not missing, f"no finite gradient reaches {', '.join(missing)}"
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        loaded = load_model(Path(folder) / "model")
    assert np.array_equal(predict(loaded, log, "own"), predict(model, log, "own")), "loaded, it predicts differently"


def check_task(task: Task, log: Dataset) -> None:
    """Checks a task.

    - It is registered under its kind, and can be rebuilt from its settings in JSON; a checkpoint can identify it.
    - Training has finite, falling losses, and the same seed gives the same model.
    - Validation, evaluation and every baseline give its metric.

    Args:
        task: The registered settings, for a task with a head.
        log: Events with the task's column.

    Raises:
        AssertionError: A check fails.
    """
    kind = kind_of(type(task))
    assert kind in TASKS, f"kind {kind!r} is not registered"
    assert isinstance(task, Task), f"{type(task).__name__} does not follow the protocol Task"
    assert task.head is not None, "it has no head"
    assert task.weight > 0, f"its weight is {task.weight}; expected a number above 0"
    digest(task)
    again = TASKS.make(msgspec.json.decode(msgspec.json.encode(task)))
    assert msgspec.to_builtins(again) == msgspec.to_builtins(task), f"rebuilt from its settings, it is {again}"
    train, test = split_random(log, test=0.3, seed=0)
    model, losses = _trained(task, train)
    assert all(map(math.isfinite, losses)), f"losses are {losses}"
    assert losses[-1] < losses[0], f"training does not lower its loss: {losses}"
    other, repeated = _trained(task, train)
    assert repeated == losses, "the same seed gives other losses"
    assert np.array_equal(predict(model, test, task.title), predict(other, test, task.title)), (
        "the same seed gives another model"
    )
    assert task.metric in task.measured(test, train)(model), f"validation does not measure {task.metric}"
    found = task.evaluate(model, test, train)
    for name, scores in found.rows.items():
        assert math.isfinite(scores.metrics[task.metric]), f"{task.metric} of {name} is {scores.metrics[task.metric]}"
    assert found.task == task.title, f"its evaluation is called {found.task!r}; expected {task.title!r}"


def _trained(task: Task, train: Dataset) -> tuple[TwoTower, list[float]]:
    model = _model({})
    epochs = Trainer(epochs=4, batch_size=128, tasks=(task,)).fit(model, train, progress=False).epochs
    return model, [epoch.losses[task.title] for epoch in epochs]


def _model(heads: dict[str, Head]) -> TwoTower:
    """A model whose features have different widths, so that heads that assume one width fail."""
    query = Tower([Category("user_id", 8), Bucketized("timestamp", 4, 4)], layers=[8])
    return TwoTower(query, Tower([Category("movie_id", 8), Text("movie_title", 6)], layers=[8]), heads=heads)
