"""Two towers trained by two processes, as *Retrieval with distribution strategy* of TensorFlow Recommenders.

    torchrun --nproc-per-node 2 examples/tutorials/diststrat_retrieval.py

The model and its training are those of `basic_retrieval`. Each process works on its part of every batch, and negatives
are the candidates of the whole batch, so the model is that of one process, apart from rounding; with MirroredStrategy a
replica's negatives are those of its own part. Started by `python` alone, the same file trains in one process.
"""

from __future__ import annotations

from beside import compare, options, say, split, timed, trainer

import twotower as tt
from twotower.ranks import launched

THEIRS = 0.1516


def main() -> None:
    """Trains with all processes; the first of them measures."""
    given = options(__doc__, epochs=20)
    with launched() as ranks:
        train, test = split(given.events)
        model = tt.TwoTower(tt.Tower([tt.Category("user_id", 32)]), tt.Tower([tt.Category("movie_title", 32)]))
        with timed(f"process {ranks.rank + 1} of {ranks.size}, training"):
            trainer(given.epochs).fit(model, train)
        if not ranks.is_first:
            return
        found = tt.evaluate(model, test, exclude=train, baselines=["popularity"])
        say(str(found))
        compare("top-100 accuracy", THEIRS, found.model.all["top_100"])


if __name__ == "__main__":
    main()
