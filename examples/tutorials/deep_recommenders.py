"""One, two and three layers, as *Building deep retrieval models* of TensorFlow Recommenders.

    python examples/tutorials/deep_recommenders.py

`twotower study movielens-100k` makes the whole study of it: several seeds, baselines, curves and a report.
"""

from __future__ import annotations

from beside import compare, options, split, timed, trainer

import twotower as tt

THEIRS = {(32,): 0.2692, (64, 32): 0.2914, (128, 64, 32): 0.2672}
"""After the tutorial's 300 epochs."""


def main() -> None:
    """Trains the three depths."""
    given = options(__doc__, epochs=20)
    train, test = split(given.events)
    for layers, theirs in THEIRS.items():
        query = [tt.Category("user_id", 32), tt.Bucketized("timestamp", 1000, 32), tt.Normalized("timestamp")]
        candidate = [tt.Category("movie_title", 32), tt.Text("movie_title", 32, max_tokens=10_000)]
        model = tt.TwoTower(tt.Tower(query, layers), tt.Tower(candidate, layers))
        with timed(f"training {list(layers)}"):
            trainer(given.epochs).fit(model, train)
        found = tt.evaluate(model, test, exclude=train, baselines="none")
        compare(f"top-100 accuracy of {list(layers)}", theirs, found.model.all["top_100"])


if __name__ == "__main__":
    main()
