"""What the time of an event adds, as *Taking advantage of context features* of TensorFlow Recommenders.

python examples/tutorials/context_features.py
"""

from __future__ import annotations

from beside import compare, options, split, timed, trainer

import twotower as tt

THEIRS = {"no timestamps": 0.2136, "timestamps": 0.2479}


def main() -> None:
    """Trains once without and once with timestamps."""
    given = options(__doc__, epochs=20)
    train, test = split(given.events)
    for name, theirs in THEIRS.items():
        query: list[tt.Feature] = [tt.Category("user_id", 32)]
        if name == "timestamps":
            query += [tt.Bucketized("timestamp", 1000, 32), tt.Normalized("timestamp")]
        candidate = [tt.Category("movie_title", 32), tt.Text("movie_title", 32, max_tokens=10_000)]
        model = tt.TwoTower(tt.Tower(query, [32]), tt.Tower(candidate, [32]))
        with timed(f"training with {name}"):
            trainer(given.epochs).fit(model, train)
        found = tt.evaluate(model, test, exclude=train, baselines="none")
        compare(f"top-100 accuracy with {name}", theirs, found.model.all["top_100"])


if __name__ == "__main__":
    main()
