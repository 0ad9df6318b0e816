"""Retrieval and ratings in one training, as *Multi-task recommenders* of TensorFlow Recommenders.

    python examples/tutorials/multitask.py

Three trainings with the same settings: for ratings alone, for retrieval alone, and for both at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from beside import compare, options, say, split, timed

import twotower as tt

THEIRS = {"rating": (0.0604, 1.1172), "retrieval": (0.2381, 3.6890), "both": (0.2384, 1.2111)}
"""Top-100 accuracy and RMSE."""

RATING = tt.Rating(target="rating", head=tt.DotHead())

TASKS: dict[str, Sequence[tt.Task]] = {
    "rating": [RATING],
    "retrieval": [tt.Retrieval()],
    "both": [tt.Retrieval(), RATING],
}

TRAINER = tt.Trainer(batch_size=1024, optimizer=tt.AdamW(0.005, weight_decay=0.1), schedule=tt.Cosine())


def model() -> tt.TwoTower:
    """A tower of the user's id, and one of the title's."""
    return tt.TwoTower(tt.Tower([tt.Category("user_id", 32)], [32]), tt.Tower([tt.Category("movie_title", 32)], [32]))


def main() -> None:
    """Trains three times and compares."""
    given = options(__doc__, epochs=10)
    train, test = split(given.events)
    scores: dict[str, tuple[float | None, float | None]] = {}
    for name, tasks in TASKS.items():
        trained = model()
        with timed(f"training for {name}"):
            msgspec.structs.replace(TRAINER, epochs=given.epochs, tasks=tuple(tasks)).fit(trained, train)
        found = tt.evaluate(trained, test, exclude=train, tasks=tasks, baselines="none")
        top = found.model.all["top_100"] if found.rows else None
        rmse = found.task("rating").model.metrics["rmse"] if found.tasks else None
        scores[name] = top, rmse
        for metric, theirs, ours in zip(("top-100 accuracy", "RMSE"), THEIRS[name], scores[name], strict=True):
            if ours is not None:
                compare(f"{metric}, trained for {name}", theirs, ours)
    for metric, place, alone in (("top-100 accuracy", 0, "retrieval"), ("RMSE", 1, "rating")):
        joint, special = scores["both"][place], scores[alone][place]
        assert joint is not None
        assert special is not None
        say(f"{metric} of the joint model: {joint / special - 1:+.1%} beside the one trained for {alone} alone")


if __name__ == "__main__":
    main()
