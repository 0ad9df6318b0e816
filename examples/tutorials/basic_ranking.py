"""Predict ratings of MovieLens 100K, as *Basic ranking* of TensorFlow Recommenders does, and print the test RMSE.

    python examples/tutorials/basic_ranking.py

The split is the tutorials': 80,000 events train, 20,000 test, at random with seed 42. Histories,
dropout and epochs were chosen on a fifth of train. `--seeds 0 1 2` trains several times and gives the interval of the
mean.
"""

from __future__ import annotations

import argparse
import time
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

import twotower as tt
from twotower.evaluation.intervals import mean_interval

DIM = 32

THEIRS = 1.1144

RATING = tt.Rating(target="rating", head=tt.DotHead())

TRAINER = tt.Trainer(
    epochs=6,
    batch_size=512,
    optimizer=tt.AdamW(0.005, weight_decay=0.1),
    schedule=tt.Cosine(warmup=0.02),
    tasks=(RATING,),
)

STOP_AFTER = 4
"""The epoch of the schedule that was best on a fifth of train."""


def ratings() -> tt.data.Dataset:
    """MovieLens 100K, with a column that names each movie together with its rating, for histories that know both."""
    log = tt.data.movielens("100k")
    movie, rating = (log.interactions[name].cast(pa.string()) for name in ("movie_id", "rating"))
    rated = pc.binary_join_element_wise(movie, rating, " rated ")
    return tt.data.from_tables(
        log.interactions.append_column("rated_movie", rated),
        query_id="user_id",
        candidate_id="movie_id",
        time="timestamp",
        queries=log.queries,
        candidates=log.candidates,
        name=log.name,
    )


def model() -> tt.TwoTower:
    """Who rates, when, what else they rate around then, and how; which movie, and what it is."""
    query = [
        tt.Category("user_id", DIM),
        tt.Elapsed("timestamp", by="user_id"),
        tt.Activity("timestamp", by="user_id", dim=DIM),
        *(
            tt.History(column, by="user_id", time="timestamp", length=50, dim=DIM, reach="around")
            for column in ("movie_id", "rated_movie")
        ),
        tt.Category("gender", DIM),
        tt.Category("occupation", DIM),
        tt.Bucketized("age", 10, DIM),
    ]
    candidate = [
        tt.Category("movie_id", DIM),
        tt.Categories("genres", DIM),
        tt.Bucketized("year", 20, DIM),
        tt.Text("movie_title", DIM),
    ]
    return tt.TwoTower(tt.Tower(query, [DIM], input_dropout=0.5), tt.Tower(candidate, [DIM], input_dropout=0.5))


def main() -> None:
    """Trains once a seed and prints what each gave."""
    parser = argparse.ArgumentParser(description="Predict ratings of MovieLens 100K.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    seeds, console = parser.parse_args().seeds, Console()
    train, test = tt.data.split_random(ratings(), test=0.2, seed=42)
    errors = []
    for seed in seeds:
        started = time.perf_counter()
        trained = model()
        msgspec.structs.replace(TRAINER, seed=seed).fit(trained, train, stop_after=STOP_AFTER)
        seconds = time.perf_counter() - started
        beside: Literal["all", "none"] = "all" if seed == seeds[0] else "none"
        found = tt.evaluate(trained, test, exclude=train, tasks=[RATING], baselines=beside)
        errors.append(found.task("rating").model.metrics["rmse"])
        console.print(str(found), highlight=False)
        console.print(f"seed {seed}: RMSE {errors[-1]:.4f}, {seconds:.0f} s of training", highlight=False)
    console.print(f"RMSE: TensorFlow Recommenders {THEIRS:.4f}, twotower {mean_interval(errors)}", highlight=False)


if __name__ == "__main__":
    main()
