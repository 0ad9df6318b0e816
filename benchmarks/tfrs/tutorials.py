"""Scores of the models in TensorFlow Recommenders' tutorials, on the same split as examples/tutorials.

    python benchmarks/tfrs/tutorials.py --seeds 3

Writes MovieLens 100K, split 80/20 at random with seed 42, to a file, trains every model in the environment of
TensorFlow Recommenders (created by `make bench-tfrs`), and prints a table. `--only NAME` runs only some models and
keeps the earlier results of the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from client import PYTHON

from twotower import data
from twotower.data import Dataset
from twotower.errors import TwoTowerError
from twotower.evaluation.intervals import mean_interval

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tfrs-tutorials.json"
AGES = (18, 25, 35, 45, 50, 56)
"""Lower bounds of MovieLens age groups in TensorFlow Datasets; the youngest group is 1."""

CONTEXT = 10
"""History length of sequential_retrieval."""

MIN_HISTORY = 3
"""sequential_retrieval uses only events with at least this many movies before them."""

Arrays = dict[str, npt.NDArray[Any]]


def columns_of(part: Dataset) -> Arrays:
    """The columns that the tutorials read, one row per event, ids as text."""
    query = part.queries.take(part.query_index)
    titles = part.candidates["movie_title"].take(part.candidate_index)
    ages = query["age"].to_numpy()
    return {
        "user_id": query["user_id"].to_numpy().astype(str),
        "movie_id": part.interactions["movie_id"].to_numpy().astype(str),
        "movie_title": titles.to_numpy().astype(str),
        "timestamp": part.interactions["timestamp"].to_numpy().astype(np.float32),
        "rating": part.interactions["rating"].to_numpy().astype(np.float32),
        "zip_code": query["zip_code"].to_numpy().astype(str),
        "occupation": query["occupation"].to_numpy().astype(str),
        "gender": query["gender"].to_numpy().astype(str),
        "age_bucket": np.digitize(ages, AGES).astype(str),
    }


def sequences_of(log: Dataset) -> dict[str, Arrays]:
    """Examples of sequential_retrieval: the ten movies before each event, padded with `0`; the last events are test.

    As in the tutorial, only ratings of at least 2 are used, and events with at least three before them.
    """
    liked = log.take(log.interactions["rating"].to_numpy() >= 2)
    order = np.lexsort((liked.candidate_index, liked.interactions["timestamp"].to_numpy(), liked.query_index))
    users, movies = liked.query_index[order], liked.interactions["movie_id"].to_numpy()[order].astype(str)
    first = np.searchsorted(users, users)
    place = np.arange(len(users)) - first
    places = np.arange(len(users))[:, np.newaxis] - np.minimum(place, CONTEXT)[:, np.newaxis] + np.arange(CONTEXT)
    there = np.arange(CONTEXT) < np.minimum(place, CONTEXT)[:, np.newaxis]  # the earliest first, then padding
    context = np.where(there, movies[np.minimum(places, len(users) - 1)], "0")
    is_last = np.append(users[1:] != users[:-1], True)
    kept = place >= MIN_HISTORY
    found = {}
    for part, rows in (("train", kept & ~is_last), ("test", kept & is_last)):
        found[part] = {"context": context[rows], "movie_id": movies[rows]}
    return found


def everything() -> Arrays:
    """All arrays that the worker reads."""
    sys.path.insert(0, str(ROOT / "examples" / "tutorials"))
    from dcn import toy_data
    from listwise_ranking import sampled_lists

    log = data.movielens("100k")
    train, test = data.split_random(log, test=0.2, seed=42)
    found: Arrays = {
        "titles": np.unique(log.candidates["movie_title"].to_numpy().astype(str)),
        "users": log.queries["user_id"].to_numpy().astype(str),
    }
    for name, part, each in (("train", train, 50), ("test", test, 1)):
        columns = columns_of(part)
        found |= {f"{name}_{column}": values for column, values in columns.items()}
        lists = sampled_lists(part, each, seed=42)
        found |= {f"{name}_list_{column}": columns[column][lists] for column in ("movie_title", "rating")}
        found[f"{name}_list_user_id"] = columns["user_id"][lists[:, 0]]
    for name, sequences in sequences_of(log).items():
        found[f"{name}_context"] = sequences["context"]
        found[f"{name}_sequence"] = sequences["movie_id"]
    found["sequence_movies"] = log.candidates["movie_id"].to_numpy().astype(str)
    found["toy_numbers"], found["toy_target"] = toy_data()
    return found


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """One line per model and metric: the mean over seeds with its interval."""
    lines = []
    for name, runs in found.items():
        for metric in (one for one in runs[0] if one != "seconds"):
            lines.append(f"{name:34} {metric:8} {mean_interval([run[metric] for run in runs])}  ({len(runs)} seeds)")
    return "\n".join(lines)


def main() -> None:
    """Trains the models and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--python", type=Path, default=PYTHON, help="Python with TensorFlow Recommenders")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.python.exists():
        raise TwoTowerError(
            f"{options.python} does not exist; expected TensorFlow Recommenders' Python: make bench-tfrs"
        )
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "data.npz"
        np.savez(arrays, **everything())  # type: ignore[arg-type]
        worker = Path(__file__).with_name("tutorials_worker.py")
        command = [options.python, worker, arrays, options.out, options.seeds, *options.only]
        subprocess.run(list(map(str, command)), check=True, env={"TF_USE_LEGACY_KERAS": "1", "PATH": "/usr/bin:/bin"})
    print(table(msgspec.json.decode(options.out.read_bytes(), type=dict[str, list[dict[str, float]]])))


if __name__ == "__main__":
    main()
