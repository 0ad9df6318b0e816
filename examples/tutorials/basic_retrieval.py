"""Two towers of ids, measured, saved and loaded, as *Recommending movies: retrieval* of TensorFlow Recommenders.

python examples/tutorials/basic_retrieval.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from beside import compare, options, say, split, timed, trainer

import twotower as tt

THEIRS = 0.2343


def main() -> None:
    """Trains, measures beside the baselines, and serves from a saved folder."""
    given = options(__doc__, epochs=20)
    train, test = split(given.events)
    model = tt.TwoTower(tt.Tower([tt.Category("user_id", 32)]), tt.Tower([tt.Category("movie_title", 32)]))
    with timed("training"):
        trainer(given.epochs).fit(model, train)
    found = tt.evaluate(model, test, exclude=train, baselines=["popularity", "item_knn"])
    say(str(found))
    compare("top-100 accuracy", THEIRS, found.model.all["top_100"])

    with tempfile.TemporaryDirectory() as folder:
        tt.Retriever.build(model, train.candidates, seen=train).save(Path(folder) / "movies.tower")
        loaded = tt.Retriever.load(Path(folder) / "movies.tower")
        for one in loaded.recommend({"user_id": 42}, k=3):
            say(f"for user 42: {one.candidate['movie_title']}")
        for other in loaded.similar(loaded.candidates["movie_id"][0].as_py(), k=3):
            say(f"like {loaded.candidates['movie_title'][0]}: {other.candidate['movie_title']}")


if __name__ == "__main__":
    main()
