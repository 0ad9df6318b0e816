"""From a log of choices to recommendations, as the *Quickstart* of TensorFlow Recommenders.

python examples/tutorials/quickstart.py
"""

from __future__ import annotations

from beside import compare, options, say, split, timed, trainer

import twotower as tt

THEIRS = 0.1595


def main() -> None:
    """Trains two embeddings of 64, measures them, and recommends to user 42."""
    given = options(__doc__, epochs=20)
    train, test = split(given.events)
    model = tt.TwoTower(tt.Tower([tt.Category("user_id", 64)]), tt.Tower([tt.Category("movie_title", 64)]))
    with timed("training"):
        trainer(given.epochs).fit(model, train)
    found = tt.evaluate(model, test, exclude=train, baselines=["popularity"])
    compare("top-100 accuracy", THEIRS, found.model.all["top_100"])

    retriever = tt.Retriever.build(model, train.candidates, seen=train)
    for one in retriever.recommend({"user_id": 42}, k=3):
        say(f"for user 42: {one.candidate['movie_title']} ({one.score:.2f})")


if __name__ == "__main__":
    main()
