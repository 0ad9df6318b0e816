"""`check_tower` and `check_model`: test the contracts of towers and models."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Literal

import msgspec
import torch

from twotower.data.dataset import Dataset
from twotower.features import Category
from twotower.model.saving import load_model, model_version, save_model
from twotower.model.tower import Tower, tower_from_settings
from twotower.model.tower_module import TowerModule
from twotower.model.two_tower import TwoTower
from twotower.testing.features import check_same
from twotower.training import Trainer


def check_tower(tower: TowerModule, log: Dataset, side: Literal["query", "candidate"] = "candidate") -> None:
    """Checks an untrained tower, in a model with a plain tower on the other side. This trains it.

    It can be rebuilt from its settings in JSON, and its model passes `check_model`.

    Args:
        tower: The tower.
        log: The log that its features read.
        side: The side of the model on which to use it.

    Raises:
        AssertionError: A check fails.

    Example:
        >>> from twotower.testing import small_log
        >>> check_tower(Tower([Category("movie_id", 4)], layers=[4]), small_log())
    """
    again = tower_from_settings(msgspec.json.decode(msgspec.json.encode(tower.settings())))
    assert type(again) is type(tower), f"settings make a {type(again).__name__}; expected a {type(tower).__name__}"
    assert again.settings() == tower.settings(), f"settings {tower.settings()} became {again.settings()}"
    assert again.width == tower.width, "rebuilt from its settings, it has another width"
    other = Tower([Category(log.candidate_id if side == "query" else log.query_id, tower.width)])
    check_model(TwoTower(tower, other) if side == "query" else TwoTower(other, tower), log)


def check_model(model: TwoTower, log: Dataset) -> None:
    """Checks an untrained model. This trains it.

    - The same seed gives the same initial weights, another seed others.
    - Both sides give `width` finite floats, queries for each interest; the same for a row alone as among others.
    - `forward` gives the dot products of every query with every candidate, of several interests the highest.
    - A gradient reaches every parameter; training changes the weights and has a finite loss.
    - Saved and loaded, it has bit-identical weights, and its embeddings are the same up to rounding
      (`torch.testing.assert_close`).

    Args:
        model: The model.
        log: The log that its features read.

    Raises:
        AssertionError: A check fails.
    """
    started = [model_version(model.learn(log, seed)) for seed in (3, 3, 4)]
    assert started[0] == started[1], "the same seed gives other weights; expected reset to initialise all of them"
    assert started[0] != started[2], "another seed gives the same weights"
    _check_sides(model, log)
    _check_forward(model, log)
    history = Trainer(epochs=2, batch_size=256).fit(model, log)
    assert math.isfinite(history.epochs[-1].loss), "training has diverged"
    assert model_version(model) != started[2], "training has not changed the weights"
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model")
        loaded = load_model(Path(folder) / "model")
    assert type(loaded) is type(model), f"saved and loaded, it is a {type(loaded).__name__}"
    assert model_version(loaded) == model_version(model), "saved and loaded, it has other weights"
    sides = {
        "queries": (loaded.embed_queries(log), model.embed_queries(log)),
        "candidates": (loaded.embed_candidates(log.candidates), model.embed_candidates(log.candidates)),
    }
    for name, (given, expected) in sides.items():
        check_same(given, expected, f"loaded, it embeds {name} differently")


def _check_sides(model: TwoTower, log: Dataset) -> None:
    model.eval()
    sides = {
        "queries": (model.encode_queries(log), model.query_vectors, model.embed_queries(log)),
        "candidates": (
            model.encode_candidates(log.candidates),
            model.candidate_vectors,
            model.embed_candidates(log.candidates),
        ),
    }
    for name, (encoded, vectors, embeddings) in sides.items():
        expected = [len(encoded), model.width * (model.interests if name == "queries" else 1)]
        assert list(embeddings.shape) == expected, (
            f"embeddings of {name} are {list(embeddings.shape)}; expected {expected}"
        )
        assert embeddings.dtype.is_floating_point, f"embeddings of {name} are {embeddings.dtype}; expected floats"
        assert bool(embeddings.isfinite().all()), f"embeddings of {name} are not finite"
        for row in (0, len(encoded) - 1):
            with torch.no_grad():
                alone = vectors(encoded.gather(torch.tensor([row])))[0]
            assert torch.allclose(alone, embeddings[row], atol=1e-5), f"row {row} of {name} has another embedding alone"


def _check_forward(model: TwoTower, log: Dataset) -> None:
    rows = torch.arange(min(8, len(log)))
    chosen = torch.from_numpy(log.candidate_index)[rows]
    query = model.encode_queries(log).gather(rows)
    candidate = model.encode_candidates(log.candidates).gather(chosen)
    scores = model(query, candidate)
    assert scores.shape == (len(rows), len(rows)), f"forward gives {list(scores.shape)}; expected [n, m]"
    interests = model.query_vectors(query).view(len(rows), model.interests, model.width)
    products = (interests @ model.candidate_vectors(candidate).T).amax(dim=1)
    assert torch.allclose(scores, products, atol=1e-5), "forward does not give the dot products of the embeddings"
    model.zero_grad()
    torch.nn.functional.cross_entropy(scores, torch.arange(len(rows))).backward()  # type: ignore[no-untyped-call]
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without, f"no gradient reaches {', '.join(without)}"
    model.zero_grad()
