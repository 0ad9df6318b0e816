"""Retrieval and ratings in one training, as *Multi-task recommenders* of TensorFlow Recommenders.

    python examples/tutorials/multitask.py

Three trainings with the same settings: for ratings alone, for retrieval alone, and for both at once. `--seeds 0 1 2`
prints means of three.
"""

from __future__ import annotations

import msgspec
import numpy as np
from beside import compare, options, say, split, timed

import twotower as tt

THEIRS = {"rating": (0.0604, 1.1172), "retrieval": (0.2381, 3.6890), "both": (0.2384, 1.2111)}
"""Top-100 accuracy and RMSE."""

RATING = tt.Rating(target="rating", head=tt.DotHead())

WEIGHT = 0.1
"""Weight of ratings beside retrieval: with it, a model for both was as good as one for each on a fifth of train."""

TASKS: dict[str, tuple[tt.Retrieval | tt.Rating, ...]] = {
    "rating": (RATING,),
    "retrieval": (tt.Retrieval(),),
    "both": (tt.Retrieval(), msgspec.structs.replace(RATING, weight=WEIGHT)),
}

METRICS = ("top-100 accuracy", "RMSE")

TRAINER = tt.Trainer(batch_size=1024, optimizer=tt.AdamW(0.005, weight_decay=0.1), schedule=tt.Cosine())


def model() -> tt.TwoTower:
    """A tower of the user's id, and one of the title's."""
    return tt.TwoTower(tt.Tower([tt.Category("user_id", 32)], [32]), tt.Tower([tt.Category("movie_title", 32)], [32]))


def measured(train: tt.data.Dataset, test: tt.data.Dataset, name: str, epochs: int, seed: int) -> list[float | None]:
    """Top-100 accuracy and RMSE of a model trained for these tasks; None where it was not trained for it."""
    trained, tasks = model(), TASKS[name]
    with timed(f"training for {name}, seed {seed}"):
        msgspec.structs.replace(TRAINER, epochs=epochs, tasks=tasks, seed=seed).fit(trained, train)
    found = tt.evaluate(trained, test, exclude=train, tasks=tasks, baselines="none")
    top = found.model.all["top_100"] if found.rows else None
    return [top, found.task("rating").model.metrics["rmse"] if found.tasks else None]


def main() -> None:
    """Trains for each and for both, and compares."""
    given = options(__doc__, epochs=10)
    train, test = split(given.events)
    means: dict[str, list[float]] = {}
    for name in TASKS:
        of_seeds = [measured(train, test, name, given.epochs, seed) for seed in given.seeds]
        for metric, theirs, ours in zip(METRICS, THEIRS[name], zip(*of_seeds, strict=True), strict=True):
            known = [score for score in ours if score is not None]
            if known:
                compare(f"{metric}, trained for {name}", theirs, float(np.mean(known)))
                means.setdefault(metric, []).append(float(np.mean(known)))
    for metric, alone in zip(METRICS, ("retrieval", "rating"), strict=True):
        special, joint = means[metric]
        say(f"{metric} of the joint model: {joint / special - 1:+.1%} beside the one trained for {alone} alone")


if __name__ == "__main__":
    main()
