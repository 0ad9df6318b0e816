"""What features make of raw columns, as *Using side features: feature preprocessing* of TensorFlow Recommenders.

    python examples/tutorials/featurization.py

The original shows the layers one by one and trains nothing, so it has no score; here a model is trained with them.
"""

from __future__ import annotations

import pyarrow as pa
from beside import compare, options, say, split, timed, trainer

import twotower as tt

THEIRS = None


def main() -> None:
    """Shows each feature by itself, and trains two towers of all of them."""
    given = options(__doc__, epochs=20)
    train, test = split(given.events)
    times, titles = train.interactions["timestamp"], train.candidates["movie_title"]

    genre = tt.Category("gender", dim=4)  # a row for each value that train has, one for unknown and one for missing
    genre.fit(train.queries["gender"])
    say(f"M, F, unknown, missing as rows: {genre.encode(pa.chunked_array([['M', 'F', '?', None]])).tolist()}")
    bucket = tt.Bucketized("timestamp", 1000, dim=32)
    bucket.fit(times)
    say(f"a time as the row of its bucket: {bucket.encode(times[:1]).tolist()}")
    normalized = tt.Normalized("timestamp")
    normalized.fit(times)
    say(f"a time in deviations from the mean: {normalized(normalized.encode(times[:1])).tolist()}")
    words = tt.Text("movie_title", dim=32, max_tokens=10_000)
    words.fit(titles)
    say(f"a title as rows of its words: {words.encode(titles[:1]).tolist()}")

    model = tt.TwoTower(
        tt.Tower([tt.Category("user_id", 32), tt.Bucketized("timestamp", 1000, 32), tt.Normalized("timestamp")], [32]),
        tt.Tower([tt.Category("movie_title", 32), tt.Text("movie_title", 32, max_tokens=10_000)], [32]),
    )
    with timed("training"):
        trainer(given.epochs).fit(model, train)
    found = tt.evaluate(model, test, exclude=train, baselines="none")
    compare("top-100 accuracy", THEIRS, found.model.all["top_100"])


if __name__ == "__main__":
    main()
