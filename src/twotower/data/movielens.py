"""MovieLens (GroupLens, University of Minnesota): finds or downloads an edition, checks it and reads it in full."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twotower.arguments import checks_arguments
from twotower.data.dataset import Dataset
from twotower.data.download import fetch_archive, unpack
from twotower.data.lookup import distinct_ids
from twotower.data.movielens_files import READERS, Tables
from twotower.data.tables import from_tables
from twotower.errors import ConfigError, DataError

BASE_URL = "https://files.grouplens.org/datasets/movielens"
HOME_VARIABLE = "TWOTOWER_DATA_HOME"
TERMS = (
    "MovieLens is GroupLens's (University of Minnesota): free for research under the terms in its README, not to be "
    "redistributed or used commercially without permission. Cite Harper and Konstan, The MovieLens Datasets: History "
    "and Context, ACM TiiS 5(4), 2015."
)


class Edition(msgspec.Struct, frozen=True):
    """One published edition.

    Attributes:
        archive: Name of the archive without `.zip`; also the name of the folder on this machine.
        published: Name of the folder in the archive, if it differs.
        layout: File format of the edition.
        sha256: SHA-256 of the archive, if known.
        ratings: Published number of ratings; 0 for an edition that changes.
        users: Number of users with ratings.
        movies: Number of movies in the list of movies.
    """

    archive: str
    layout: Literal["100k", "dat", "csv"]
    ratings: int
    users: int
    movies: int
    published: str = ""
    sha256: str | None = None

    @property
    def url(self) -> str:
        """Download URL at GroupLens."""
        return f"{BASE_URL}/{self.archive}.zip"


EDITIONS: dict[str, Edition] = {
    "100k": Edition(
        "ml-100k",
        "100k",
        100_000,
        943,
        1_682,
        sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
    ),
    "1m": Edition("ml-1m", "dat", 1_000_209, 6_040, 3_883),
    "10m": Edition("ml-10m", "dat", 10_000_054, 69_878, 10_681, published="ml-10M100K"),
    "20m": Edition("ml-20m", "csv", 20_000_263, 138_493, 27_278),
    "25m": Edition("ml-25m", "csv", 25_000_095, 162_541, 62_423),
    "32m": Edition("ml-32m", "csv", 32_000_204, 200_948, 87_585),
    "latest-small": Edition("ml-latest-small", "csv", 0, 0, 0),
}


class Availability(msgspec.Struct, frozen=True):
    """Whether an edition is on this machine.

    Attributes:
        edition: `100k`, `1m`, …
        folder: Where it is; None if it is not on this machine.
        url: Download URL.
    """

    edition: str
    folder: str | None
    url: str


@checks_arguments
def movielens(edition: str = "100k", *, same_title: Literal["merge", "keep"] = "merge") -> Dataset:
    """MovieLens, with all columns of all its files.

    Reads the edition from the folder in the environment variable `TWOTOWER_DATA_HOME` (default: the user's
    cache folder), where it may be unpacked or still a zip file; otherwise downloads it to that folder.
    Interactions are in the order of the ratings file. GroupLens's terms are in `Dataset.terms`.

    Args:
        edition: `100k`, `1m`, `10m`, `20m`, `25m`, `32m` or `latest-small`.
        same_title: Whether movies with the same title become one candidate, with the lowest of their ids
            (`"merge"`), or stay separate (`"keep"`). The 1,682 movies of `100k` have 1,664 titles.

    Raises:
        ConfigError: There is no such edition.
        DataUnavailableError: The edition is not on this machine and could not be downloaded.
        DataError: The files differ from what was published.
    """
    known = _edition(edition)
    folder = fetch(edition)
    tables = READERS[known.layout](folder)
    _check_counts(tables, edition, folder)
    ratings, movies = tables.ratings, tables.movies
    if same_title == "merge":
        ratings, movies = _merged(ratings, movies)
    data = from_tables(
        ratings,
        query_id="user_id",
        candidate_id="movie_id",
        time="timestamp",
        queries=tables.users if tables.users is not None else pa.table({"user_id": distinct_ids(ratings["user_id"])}),
        candidates=movies,
        name=f"movielens-{edition}",
    )
    return replace(data, terms=TERMS)


def fetch(edition: str) -> Path:
    """The folder of an edition on this machine; downloads it if it is missing.

    Raises:
        ConfigError: There is no such edition.
        DataUnavailableError: The edition could not be downloaded.
    """
    known = _edition(edition)
    if (found := _found(known)) is not None:
        return found
    folder = data_home() / known.archive
    archive = folder.with_suffix(".zip")
    if archive.is_file():
        unpack(archive, folder)
        return folder
    hint = (
        f"To work offline: put the unpacked archive into {data_home()} (or set {HOME_VARIABLE} to its parent folder), "
        f"or use simulated data: twotower.data.simulated() or `twotower study simulated`."
    )
    fetch_archive(known.url, folder, known.sha256, hint)
    return folder


def available() -> list[Availability]:
    """All editions, and whether each is on this machine."""
    rows = []
    for name, edition in EDITIONS.items():
        found = _found(edition)
        rows.append(Availability(name, None if found is None else str(found), edition.url))
    return rows


def data_home() -> Path:
    """The folder for data sets: `TWOTOWER_DATA_HOME`, or a folder in the user's cache."""
    if home := os.environ.get(HOME_VARIABLE):
        return Path(home).expanduser().absolute()
    import pooch  # see `fetch_archive`

    return Path(pooch.os_cache("twotower"))


def _edition(name: str) -> Edition:
    if name not in EDITIONS:
        raise ConfigError(f"MovieLens edition {name!r} is unknown; expected one of {', '.join(EDITIONS)}")
    return EDITIONS[name]


def _found(edition: Edition) -> Path | None:
    for name in (edition.archive, edition.published):
        if name and (folder := data_home() / name).is_dir():
            return folder
    return None


def _check_counts(tables: Tables, name: str, folder: Path) -> None:
    edition = EDITIONS[name]
    users = pc.count_distinct(tables.ratings["user_id"]).as_py()
    found = {"ratings": tables.ratings.num_rows, "users": users, "movies": tables.movies.num_rows}
    for what, count in found.items():
        expected = getattr(edition, what)
        if expected and count != expected:
            raise DataError(
                f"MovieLens {name} in {folder} has {count:,} {what}; expected {expected:,}, as published "
                f"(delete the folder to have it downloaded again)"
            )


def _merged(ratings: pa.Table, movies: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Merges movies with the same title into the one with the lowest id, in ratings and movies."""
    movies = movies.sort_by("movie_id")
    ids = movies["movie_id"].to_numpy()
    place = pc.index_in(movies["movie_title"], value_set=pc.unique(movies["movie_title"])).to_numpy()
    _, first = np.unique(place, return_index=True)
    kept = ids[first][place]
    rated = ratings["movie_id"].to_numpy()
    row = np.searchsorted(ids, rated)
    known = (row < len(ids)) & (ids[np.minimum(row, len(ids) - 1)] == rated)
    merged = np.where(known, kept[np.minimum(row, len(ids) - 1)], rated)
    ratings = ratings.set_column(ratings.column_names.index("movie_id"), "movie_id", pa.array(merged))
    return ratings, movies.take(pa.array(np.sort(first)))
