"""The next movie from the ten before it, as *Retrieval with a sequential model* of TensorFlow Recommenders.

    python examples/tutorials/sequential_retrieval.py

The original reads MovieLens 1M; both sides here read MovieLens 100K. Ratings of 2 and more count, each user's last
event is test, and neither side knows who the user is.
"""

from __future__ import annotations

from beside import compare, options, ratings, timed, trainer

import twotower as tt
from twotower.features.encoders import Encoder

THEIRS = 0.3372

OURS: tuple[Encoder, ...] = ("gru", "kernels")


def main() -> None:
    """Trains with a recurrent unit, as the original does, and with learned kernels."""
    given = options(__doc__, epochs=10)
    log = ratings(given.events)
    train, test = tt.data.split_last_out(log.take(log.interactions["rating"].to_numpy() >= 2))
    for encoder in OURS:
        before = tt.History("movie_id", by="user_id", time="timestamp", length=10, dim=32, encoder=encoder)
        model = tt.TwoTower(tt.Tower([before], [32]), tt.Tower([tt.Category("movie_id", 32)]))
        with timed(f"training with {encoder}"):
            trainer(given.epochs).fit(model, train)
        found = tt.evaluate(model, test, exclude=train, baselines="none")
        compare(f"top-100 accuracy with {encoder}", THEIRS, found.model.all["top_100"])


if __name__ == "__main__":
    main()
