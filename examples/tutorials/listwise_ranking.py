"""The order of lists instead of each rating, as *Listwise ranking* of TensorFlow Recommenders.

    python examples/tutorials/listwise_ranking.py

Both sides are measured on the same lists: five movies of each user's test ratings. NDCG has gains of 2^rating − 1, and
a list in which all is rated alike counts as 1, as in the original. Epochs and decay were chosen on
a fifth of train.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
from beside import compare, options, say, split, timed

import twotower as tt
from twotower.evaluation.intervals import mean_interval
from twotower.evaluation.lists import ndcg

THEIRS = {"squared error": 0.9005, "pairwise": 0.8977, "ListMLE": 0.8987}

TASKS: dict[str, tt.Rating | tt.Ranking] = {
    "squared error": tt.Rating(target="rating", name="order"),
    "pairwise": tt.Ranking(target="rating", sampled=5, loss="pairwise_logistic", name="order"),
    "ListMLE": tt.Ranking(target="rating", sampled=5, loss="list_mle", name="order"),
}

TRAINER = tt.Trainer(
    epochs=10, batch_size=512, optimizer=tt.AdamW(0.005, weight_decay=0.1), schedule=tt.Cosine(warmup=0.02)
)

IntArray = npt.NDArray[np.int64]


def sampled_lists(part: tt.data.Dataset, each: int, size: int = 5, seed: int = 42) -> IntArray:
    """Rows of `part` in lists of `size` events of one user, `each` lists a user, without replacement, `[lists, size]`.

    The draws are those of `tfrs.examples.movielens.sample_listwise`; users with fewer events have no list.
    """
    draw = np.random.RandomState(seed)
    _, first = np.unique(part.query_index, return_index=True)
    users = part.query_index[np.sort(first)]  # in the order in which they come up
    of_user = [np.flatnonzero(part.query_index == user) for user in users]
    lists = [
        own[draw.choice(len(own), size=size, replace=False)] for own in of_user if len(own) >= size for _ in range(each)
    ]
    return np.array(lists)


def model() -> tt.TwoTower:
    """Who, and which movie of which genres."""
    query, candidate = [tt.Category("user_id", 32)], [tt.Category("movie_id", 32), tt.Categories("genres", 32)]
    return tt.TwoTower(tt.Tower(query, [32], input_dropout=0.2), tt.Tower(candidate, [32], input_dropout=0.2))


def measured(trained: tt.TwoTower, test: tt.data.Dataset) -> npt.NDArray[np.float64]:
    """NDCG of one list of each user, `[lists]`."""
    lists = sampled_lists(test, each=1)
    scores, ratings = tt.predict(trained, test, "order"), test.interactions["rating"].to_numpy().astype(float)
    return ndcg(scores[lists], ratings[lists], np.ones(lists.shape, dtype=bool), 5)


def main() -> None:
    """Trains with each loss."""
    given = options(__doc__, epochs=4)
    train, test = split(given.events)
    for name, task in TASKS.items():
        found = []
        for seed in given.seeds:
            trained = model()
            with timed(f"training by {name}"):
                settings = msgspec.structs.replace(TRAINER, seed=seed, tasks=(task,))
                settings.fit(trained, train, stop_after=given.epochs)
            found.append(measured(trained, test))
        over_lists = mean_interval(np.mean(found, axis=0).tolist())
        compare(f"NDCG, {name}", THEIRS[name], over_lists.mean)
        say(f"NDCG, {name}: {over_lists} over {len(found[0])} lists")


if __name__ == "__main__":
    main()
